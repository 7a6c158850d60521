//! `intelliproxy replay`: recordings run through the router again.
//!
//! | asked for | answered |
//! |---|---|
//! | nothing else | whether every decision comes out bit for bit, and what the traffic was |
//! | `--at`, `--request` | one decision: candidates, points, ages, rule, what would have changed it |
//! | `--policy`, `--rules` | other decisions: agreement, shares, an estimate of what they cost |
//! | `--fit` | a scenario for the lab with backends as they were |
//!
//! The crate does no I/O: the program that asks passes files and dates in as a [`Host`].
mod check;
mod decide;
mod estimate;
mod explain;
mod fit;
mod question;
mod recording;
mod text;
mod words;

use intelliproxy_core::Rules;

pub use self::question::{Options, Question, Which};
use self::recording::Recording;

/// The files and the calendar of the program that asks.
pub trait Host {
    /// Returns what a file holds, or why it cannot be read.
    ///
    /// # Errors
    /// The reason, without the file's name.
    fn read(&self, file: &str) -> Result<Vec<u8>, String>;

    /// Writes a file.
    ///
    /// # Errors
    /// The reason, without the file's name.
    fn write(&self, file: &str, text: &str) -> Result<(), String>;

    /// Reads rules: the `routing` object of a configuration file, or the whole file.
    ///
    /// # Errors
    /// The file, and what is wrong with it.
    fn rules(&self, file: &str) -> Result<Rules, String>;

    /// Returns a time in seconds since 1970 as `2000-02-29 00:00:00 UTC`.
    fn date(&self, seconds: u64) -> String;
}

/// The answer to a question.
#[derive(Debug, Default)]
pub struct Answer {
    /// The printed text.
    pub text: String,
    /// A line for everything that differs from the recording or is damaged.
    pub wrong: Vec<String>,
}

/// Answers a question.
///
/// # Errors
/// Why there is no answer, in one line: a file cannot be read or written, or there is no such
/// decision.
pub fn answer(options: &Options, host: &dyn Host) -> Result<Answer, String> {
    let recording = Recording::load(&options.files, host)?;
    match &options.question {
        Question::Check => check::check(&recording),
        Question::Explain(which) => explain::explain(&recording, *which),
        Question::Decide { policy, rules } => {
            let mut wanted = match rules {
                Some(file) => host.rules(file)?,
                None => recording.header().config.rules.clone(),
            };
            if let Some(policy) = policy {
                wanted.policy = *policy;
            }
            decide::decide(&recording, wanted)
        }
        Question::Fit { file } => {
            let (json, answer) = fit::fit(&recording)?;
            host.write(file, &json).map_err(|error| format!("{file}: {error}"))?;
            Ok(answer)
        }
    }
}

#[cfg(test)]
mod tests;
