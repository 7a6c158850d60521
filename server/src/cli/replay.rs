//! `intelliproxy replay`: reads the files, runs the replay and prints the result.
//!
//! | exit code | when |
//! |---|---|
//! | 0 | every decision was checked and is the same, or the requested output was printed |
//! | 1 | a decision differs, could not be checked, or the file is damaged |
//! | 2 | an argument is invalid |
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use intelliproxy_core::Rules;
use intelliproxy_replay::{Answer, Host, answer};

use super::{EXIT_USAGE, FILE_BYTES_MAX, complain, print};
use crate::config::rules_from_json;
use crate::edge::disk;
use crate::plain::os_error_text;
use crate::utc::Utc;

mod options;
mod progress;

use self::options::Call;
pub(super) use self::options::HELP;
use self::progress::Progress;

/// Answers the question in the arguments after `replay`.
pub(super) fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let Call { options, has_progress } = match options::parse(args) {
        Ok(Some(call)) => call,
        Ok(None) => return print(HELP),
        Err(error) => {
            complain(&error.to_string());
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let machine = Machine { progress: Progress::new(has_progress) };
    let result = answer(&options, &machine);
    machine.progress.end();
    match result {
        Ok(Answer { text, wrong }) => {
            let printed = print(text.trim_end());
            for line in &wrong {
                complain(line);
            }
            if wrong.is_empty() { printed } else { ExitCode::FAILURE }
        }
        Err(wrong) => {
            complain(&wrong);
            ExitCode::FAILURE
        }
    }
}

/// The files and dates of this machine.
struct Machine {
    progress: Progress,
}

impl Host for Machine {
    fn read(&self, file: &str) -> Result<Vec<u8>, String> {
        disk::read_named(Path::new(file), RECORDING_BYTES_MAX)
            .map_err(|error| os_error_text(&error))
    }

    fn write(&self, file: &str, text: &str) -> Result<(), String> {
        fs::write(file, text).map_err(|error| os_error_text(&error))
    }

    fn rules(&self, file: &str) -> Result<Rules, String> {
        let bytes = disk::read_named(Path::new(file), FILE_BYTES_MAX)
            .map_err(|error| format!("{file}: {}", os_error_text(&error)))?;
        let text = String::from_utf8(bytes).map_err(|_| format!("{file}: is not UTF-8"))?;
        rules_from_json(&text).map_err(|error| format!("{file}:{error}"))
    }

    fn progress(&self, read: u64, of: u64) {
        self.progress.show(read, of);
    }

    fn date(&self, seconds: u64) -> String {
        let Utc { year, month, day, hour, minute, second } = Utc::from_seconds(seconds);
        format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
    }
}

/// Maximum size of a recording in bytes. The whole recording is held in memory. A ring of files
/// (`recording.bytesMax`) keeps each file smaller.
const RECORDING_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine { progress: Progress::new(false) }
    }

    /// Devices, folders and files that are too large are not read.
    #[test]
    fn only_regular_files_of_a_bearable_size_are_read() {
        let irregular = "is not a regular file";
        for file in ["/dev/zero", "/"] {
            assert_eq!(machine().read(file), Err(irregular.to_owned()));
            let wrong = machine().rules(file).expect_err("no file");
            assert_eq!(wrong, format!("{file}: {irregular}"));
        }
        let name = format!("intelliproxy-large-{}", std::process::id());
        let file = std::env::temp_dir().join(name).to_string_lossy().into_owned();
        // A sparse file: it takes no space on disk.
        let large = fs::File::create(&file).expect("a file");
        large.set_len(RECORDING_BYTES_MAX + 1).expect("a sparse file");
        assert_eq!(machine().read(&file), Err("larger than 4294967296 bytes".to_owned()));
        fs::remove_file(&file).expect("the file is there");
    }

    /// A date is written as reports show it.
    #[test]
    fn dates_are_written_out() {
        assert_eq!(machine().date(951_782_400), "2000-02-29 00:00:00 UTC");
    }

    /// Rules are read from a file that contains them or a complete configuration; invalid ones are
    /// errors.
    #[test]
    fn rules_are_read() {
        let rows = [
            (r#"{"switch": {"threshold": 5}}"#, Ok(5.0)),
            (r#"{"listen": [], "routing": {"switch": {"threshold": 6}}}"#, Ok(6.0)),
            (r#"{"switch": {"threshold": -1}}"#, Err(":1:26: switch.threshold: must be a number")),
            (r#"{"unknown": 1}"#, Err(":1:2: unknown: unknown key")),
            ("nonsense", Err(":1:1: unexpected word")),
            ("// new\n{\"switch\": {\"cooldownMs\": \"2s\", \"threshold\": 8,}}", Ok(8.0)),
            (
                "{\"routing\": {\"switch\":\n{\"threshold\": -1}}}",
                Err(":2:15: routing.switch.threshold: must be a number from 0 to 1000000"),
            ),
        ];
        let name = format!("intelliproxy-rules-{}", std::process::id());
        let file = std::env::temp_dir().join(name).to_string_lossy().into_owned();
        for (json, expected) in rows {
            fs::write(&file, json).expect("a file");
            let read = machine().rules(&file).map(|rules| rules.switch.threshold);
            match expected {
                Ok(threshold) => assert_eq!(read, Ok(threshold)),
                Err(part) => assert!(read.is_err_and(|wrong| wrong.contains(part)), "{json}"),
            }
        }
        fs::remove_file(&file).expect("the file is there");
    }
}
