//! `intelliproxy replay`: recordings run through the router again.
//!
//! | option | output |
//! |---|---|
//! | none of these | whether every decision is the same, bit for bit, and a summary of the traffic |
//! | `--at`, `--request` | one decision: candidates, points, ages, rule, changes that would alter it |
//! | `--policy`, `--rules` | other decisions: agreement, shares, an estimate of their cost |
//! | `--fit` | a scenario for the lab, with backends like the recorded ones |
//! | `--html` | a report of a check, or of other decisions, with curves over time |
//!
//! The crate does no I/O: the calling program passes files and dates in as a [`Host`].
mod check;
mod course;
mod decide;
mod estimate;
mod explain;
mod fit;
mod question;
mod recording;
mod report;
mod text;
mod words;

use intelliproxy_core::Rules;
use intelliproxy_look::Chart;

use self::course::Course;
pub use self::question::{Options, Question, Which};
use self::recording::Recording;

/// The files and the calendar of the calling program.
pub trait Host {
    /// Returns the content of a file.
    ///
    /// # Errors
    /// The reason for a failed read, without the file's name.
    fn read(&self, file: &str) -> Result<Vec<u8>, String>;

    /// Writes a file.
    ///
    /// # Errors
    /// The reason, without the file's name.
    fn write(&self, file: &str, text: &str) -> Result<(), String>;

    /// Reads rules: the `routing` object of a configuration file, or the whole file.
    ///
    /// # Errors
    /// The file and its fault.
    fn rules(&self, file: &str) -> Result<Rules, String>;

    /// Returns a time in seconds since 1970 as `2000-02-29 00:00:00 UTC`.
    fn date(&self, seconds: u64) -> String;

    /// Reports progress: the number of bytes that were read, and of all bytes. A recording may be
    /// read several times for one answer, and what follows counts its own steps: each begins at 0.
    fn progress(&self, _done: u64, _of: u64) {}
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
/// The reason in one line: a file cannot be read or written, or the recording lacks the decision.
pub fn answer(options: &Options, host: &dyn Host) -> Result<Answer, String> {
    let recording = Recording::load(&options.files, host)?;
    // Collected only for a report.
    let mut course = options.html.is_some().then(Course::default);
    match &options.question {
        Question::Check => {
            let answer = check::check(&recording, course.as_mut())?;
            let charts = course.as_ref().map(Course::recorded);
            write_report("a recording", options, &recording, answer, charts)
        }
        Question::Explain(which) => explain::explain(&recording, *which),
        Question::Decide { policy, rules } => {
            let mut wanted = match rules {
                Some(file) => host.rules(file)?,
                None => recording.header().config.rules.clone(),
            };
            if let Some(policy) = policy {
                wanted.policy = *policy;
            }
            let title = format!("a recording, again by {}", wanted.policy.name());
            let answer = decide::decide(&recording, wanted, course.as_mut())?;
            let charts = course.as_ref().map(Course::decided_again);
            write_report(&title, options, &recording, answer, charts)
        }
        Question::Fit { file } => {
            let (json, answer) = fit::fit(&recording)?;
            host.write(file, &json).map_err(|error| format!("{file}: {error}"))?;
            Ok(answer)
        }
    }
}

/// Writes the report of an answer if one is wanted.
fn write_report(
    title: &str,
    options: &Options,
    recording: &Recording<'_>,
    answer: Answer,
    charts: Option<Vec<Chart>>,
) -> Result<Answer, String> {
    if let (Some(file), Some(charts)) = (&options.html, &charts) {
        let html = report::report(title, recording, &answer, charts);
        recording.host().write(file, &html).map_err(|error| format!("{file}: {error}"))?;
    }
    Ok(answer)
}

#[cfg(test)]
mod tests;
