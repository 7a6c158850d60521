//! The text of `--help`.
use std::fmt::Write;

use serde_json::Value;

use super::flags::{FLAGS, Flag, known_policies};
use crate::config::Config;

/// Returns the complete help: usage, every flag, and every key of the configuration file with its
/// default.
pub(super) fn text() -> String {
    let mut text = String::from(
        "intelliproxy: an adaptive HTTP/1.1 reverse proxy\n\
         \n\
         usage: intelliproxy [FLAG]...\n\
         \x20      intelliproxy replay FILE...   runs a recording again; see replay --help\n\
         \x20      intelliproxy ctl COMMAND      changes a running proxy; see ctl --help\n\
         \x20      intelliproxy top [URL]        shows a running proxy, redrawn; see top --help\n\
         \x20      intelliproxy stats [URL]      prints one table of it; see stats --help\n\
         \x20      intelliproxy generate WHAT    prints the man page, completions; generate --help\n\
         \n\
         Without flags it listens on 127.0.0.1:3001 and routes to the backends\n\
         A=http://localhost:3000 and B=http://localhost:3002. A flag and its value may also be\n\
         written --flag=value. Flags win over the configuration file.\n\
         \n\
         program:\n",
    );
    for (flag, help) in PROGRAM_FLAGS {
        push_flag(&mut text, flag, help);
    }
    text.push_str("\nrouting and forwarding:\n");
    for flag in &FLAGS {
        push_flag(&mut text, &usage(flag), &explanation(flag));
    }
    let _ = write!(
        text,
        "\nsignals: {SIGNALS}\n\nexit codes: {EXIT_CODES}\n\nconfiguration file: {FILE}\n\n"
    );
    text.push_str(&Config::default().to_json());
    text.push('\n');
    text
}

/// Returns a flag with the name of its value.
pub(super) fn usage(flag: &Flag) -> String {
    flag.value.map_or_else(|| flag.name.to_owned(), |value| format!("{} {value}", flag.name))
}

/// Returns the effect of a flag with its default.
pub(super) fn explanation(flag: &Flag) -> String {
    let tail = match default_of(flag) {
        Some(default) => format!(" (default {default})"),
        None if flag.is_repeatable() => REPEATABLE.to_owned(),
        None => String::new(),
    };
    let known =
        if flag.name == "--policy" { format!(": {}", known_policies()) } else { String::new() };
    format!("{}{known}{tail}", flag.help)
}

/// Returns the default of a flag with a single value, as written in the configuration file.
fn default_of(flag: &Flag) -> Option<String> {
    flag.value?;
    let config = Config::default().to_value();
    match config.pointer(&format!("/{}", flag.path.replace('.', "/")))? {
        Value::Array(_) | Value::Null => None,
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => number.as_f64().map(|number| number.to_string()),
        value => Some(value.to_string()),
    }
}

/// Adds one flag with its explanation, wrapped in a separate column.
fn push_flag(text: &mut String, usage: &str, help: &str) {
    let mut line = format!("  {usage:<width$}", width = HELP_COLUMN - 2);
    if line.len() > HELP_COLUMN || !line.ends_with(' ') {
        push_line(text, &line);
        line = " ".repeat(HELP_COLUMN);
    }
    let mut is_empty = true;
    for word in help.split(' ') {
        if !is_empty && line.len() + 1 + word.len() > LINE_MAX {
            push_line(text, &line);
            line = " ".repeat(HELP_COLUMN);
            is_empty = true;
        }
        if !is_empty {
            line.push(' ');
        }
        line.push_str(word);
        is_empty = false;
    }
    push_line(text, &line);
}

fn push_line(text: &mut String, line: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{line}");
}

/// The flags that do not set a value of the configuration.
pub(super) const PROGRAM_FLAGS: [(&str, &str); 7] = [
    ("--config FILE", "read the configuration from a JSON file, and again on SIGHUP"),
    ("--check", "validate flags and file, resolve names, read discovery.file, then exit"),
    ("--offline", "with --check: resolve no names, do not read discovery.file"),
    ("--print-config", "print the resulting configuration as JSON with secrets, then exit"),
    ("--user NAME[:GROUP]", "serve as this user, by name or number, if root starts the program"),
    ("-h, --help", "print this help, then exit"),
    ("-V, --version", "print the version, then exit"),
];

/// The effects of signals.
pub(super) const SIGNALS: &str = "\
SIGINT and SIGTERM stop after the requests in flight, a second one at once;
SIGHUP reloads the file, or resolves the backends' names again if there is none;
SIGUSR1 opens the files of logs again; SIGUSR2 starts the program again, which takes
over without losing a request";
/// The exit codes.
pub(super) const EXIT_CODES: &str = "\
0 after SIGINT or SIGTERM, 1 if it cannot run, 2 for an invalid argument or
configuration file";
/// The form of the configuration file, before its defaults.
pub(super) const FILE: &str = "\
JSON, comments and trailing commas allowed; every key is optional,
and these are the defaults";
/// The note on flags that fill a list.
const REPEATABLE: &str = "; repeatable, replaces the list of the file";
/// The column of the explanations.
const HELP_COLUMN: usize = 26;
/// The longest line in characters.
const LINE_MAX: usize = 90;

#[cfg(test)]
mod tests {
    use super::*;

    /// Every flag has a line, some keys and flags show their defaults, and no line is too wide for
    /// a terminal.
    #[test]
    fn everything_is_explained() {
        let text = text();
        for flag in &FLAGS {
            assert!(text.contains(&format!("\n  {} ", flag.name)), "{}", flag.name);
            let help = flag.help.split(' ').next().unwrap_or_default();
            let usage = flag
                .value
                .map_or_else(|| flag.name.to_owned(), |value| format!("{} {value}", flag.name));
            let words: Vec<&str> = text.split_whitespace().collect();
            assert!(words.join(" ").contains(&format!("{usage} {help}")), "{usage}");
        }
        for key in ["\"headBytesMax\": 32768", "\"cooldownMs\": 1500", "\"spillOver\": true"] {
            assert!(text.contains(key), "{key}");
        }
        for line in ["must be better to become current (default 30)", "(default score)"] {
            let words: Vec<&str> = text.split_whitespace().collect();
            assert!(words.join(" ").contains(line), "{line}");
        }
        for line in text.lines() {
            assert!(line.len() <= LINE_MAX, "{line}");
            assert_eq!(line, line.trim_end());
        }
    }
}
