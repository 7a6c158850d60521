//! `intelliproxy replay`: recordings run through the router again.
//!
//! | asked for | answered |
//! |---|---|
//! | nothing else | whether every decision comes out bit for bit, and what the traffic was |
//! | `--at`, `--request` | one decision: candidates, points, ages, rule, what would have changed it |
//! | `--policy`, `--rules` | other decisions: agreement, shares, an estimate of what they cost |
//! | `--fit` | a scenario for the lab with backends as they were |
//!
//! | exit code | when |
//! |---|---|
//! | 0 | every decision was checked and came out the same; or the question was answered |
//! | 1 | a decision differs, could not be checked, or the file is damaged |
//! | 2 | an argument cannot be |
mod check;
mod decide;
mod estimate;
mod explain;
mod fit;
mod options;
mod recording;
mod text;
mod words;

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::process::ExitCode;

use intelliproxy_core::Rules;

use self::options::{Options, Question};
use self::recording::Recording;
use crate::config::rules_from_json;
use crate::plain::{os_error_text, plain, plain_lines};

/// Answers what is asked by the arguments behind `replay`.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let options = match Options::parse(args) {
        Ok(Some(options)) => options,
        Ok(None) => {
            print(options::HELP);
            return ExitCode::SUCCESS;
        }
        Err(wrong) => {
            complain(&wrong.to_string());
            return ExitCode::from(2);
        }
    };
    match answer(&options) {
        Ok(Answer { text, wrong }) => {
            print(&text);
            for line in &wrong {
                complain(line);
            }
            if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(wrong) => {
            complain(&wrong);
            ExitCode::FAILURE
        }
    }
}

/// What is printed, and what is wrong.
#[derive(Debug, Default)]
struct Answer {
    text: String,
    wrong: Vec<String>,
}

fn answer(options: &Options) -> Result<Answer, String> {
    let recording = Recording::load(&options.files)?;
    match &options.question {
        Question::Check => check::check(&recording),
        Question::Explain(which) => explain::explain(&recording, *which),
        Question::Decide { policy, rules } => {
            let mut wanted = match rules {
                Some(file) => read_rules(file)?,
                None => recording.header().config.rules.clone(),
            };
            if let Some(policy) = policy {
                wanted.policy = *policy;
            }
            decide::decide(&recording, wanted)
        }
        Question::Fit { file } => {
            let (json, answer) = fit::fit(&recording)?;
            fs::write(file, json).map_err(|error| format!("{file}: {}", os_error_text(&error)))?;
            Ok(answer)
        }
    }
}

/// Reads rules: from the `routing` object of a configuration file, or the whole file.
fn read_rules(file: &str) -> Result<Rules, String> {
    let text =
        fs::read_to_string(file).map_err(|error| format!("{file}: {}", os_error_text(&error)))?;
    rules_from_json(&text).map_err(|error| format!("{file}:{error}"))
}

/// Prints to stdout. That nobody reads it is no fault of the program.
fn print(text: &str) {
    let _ = writeln!(io::stdout(), "{}", plain_lines(text.trim_end()));
}

fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "intelliproxy: {}", plain(text));
}

#[cfg(test)]
mod tests;
