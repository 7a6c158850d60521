//! What the arguments ask the program to do. Flags win over the configuration file.
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::Path;

use log::LevelFilter;

use super::flags::{Change, FLAGS, Flag};
use crate::config::{Config, FileError};
use crate::plain::os_error_text;

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Serve.
    Run {
        /// With this configuration, which is valid.
        config: Box<Config>,
        /// Logging down to this level.
        log_level: LevelFilter,
        /// The file that it was read from.
        file: Option<String>,
    },
    /// Say that the configuration is valid, which it is.
    Check {
        /// The configuration, which is valid.
        config: Box<Config>,
        /// The file that it was read from.
        file: Option<String>,
    },
    /// Show the configuration that would be served with.
    PrintConfig {
        /// The configuration.
        config: Box<Config>,
    },
    /// Show how the program is used.
    Help,
    /// Show the program's version.
    Version,
}

impl Command {
    /// Understands the arguments, the program's name left out; `read_file` is asked for the
    /// configuration file if there is one.
    ///
    /// `--help` and `--version` answer at once, whatever comes after them.
    ///
    /// # Errors
    /// The first argument, or the first value of the file, that cannot be.
    pub fn parse(
        args: impl Iterator<Item = OsString>,
        read_file: impl Fn(&Path) -> io::Result<Vec<u8>>,
    ) -> Result<Self, UsageError> {
        let mut args = Arguments { rest: args };
        let mut settings: Vec<(&Flag, String)> = Vec::new();
        let mut seen: Vec<String> = Vec::new();
        let mut file = None;
        let mut log_level = LevelFilter::Info;
        let mut has_check = false;
        let mut has_print = false;
        while let Some(Argument { name, inline }) = args.next()? {
            let flag = FLAGS.iter().find(|flag| flag.name == name);
            if !flag.is_some_and(Flag::is_repeatable) && seen.contains(&name) {
                return Err(UsageError::argument(&name, "given twice"));
            }
            match (name.as_str(), flag) {
                (_, Some(flag)) if flag.value.is_some() => {
                    settings.push((flag, args.value(&name, inline)?));
                }
                ("--config", _) => file = Some(args.value(&name, inline)?),
                ("--log-level", _) => {
                    log_level = parse_level(&name, &args.value(&name, inline)?)?;
                }
                (_, Some(flag)) => {
                    refuse_value(&name, inline)?;
                    settings.push((flag, String::new()));
                }
                ("--check", _) => {
                    refuse_value(&name, inline)?;
                    has_check = true;
                }
                ("--print-config", _) => {
                    refuse_value(&name, inline)?;
                    has_print = true;
                }
                ("--help" | "-h", _) => return refuse_value(&name, inline).map(|()| Self::Help),
                ("--version" | "-V", _) => {
                    return refuse_value(&name, inline).map(|()| Self::Version);
                }
                _ => return Err(UsageError::argument(&name, "no such argument; see --help")),
            }
            seen.push(name);
        }
        let mut config = match &file {
            Some(file) => load(file, read_file)?,
            None => Config::default(),
        };
        apply(&mut config, &settings)?;
        let config = Box::new(config);
        Ok(match (has_check, has_print) {
            (true, true) => {
                return Err(UsageError::argument("--print-config", "not together with --check"));
            }
            (true, false) => Self::Check { config, file },
            (false, true) => Self::PrintConfig { config },
            (false, false) => Self::Run { config, log_level, file },
        })
    }
}

/// Why the arguments make no command.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum UsageError {
    /// An argument cannot be.
    Argument {
        /// The argument as given, or the flag whose value it is.
        argument: String,
        /// What is wrong with it.
        wrong: String,
    },
    /// The configuration file cannot be read.
    Unreadable {
        /// The file.
        file: String,
        /// Why.
        wrong: String,
    },
    /// The configuration file says something that cannot be.
    File {
        /// The file.
        file: String,
        /// What, and where.
        error: FileError,
    },
}

impl UsageError {
    fn argument(argument: &str, wrong: impl Into<String>) -> Self {
        Self::Argument { argument: argument.to_owned(), wrong: wrong.into() }
    }
}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Argument { argument, wrong } => {
                write!(f, "{}: {wrong}", argument.escape_debug())
            }
            Self::Unreadable { file, wrong } => write!(f, "{}: {wrong}", file.escape_debug()),
            Self::File { file, error } => write!(f, "{}:{error}", file.escape_debug()),
        }
    }
}

impl std::error::Error for UsageError {}

/// The arguments that are left.
struct Arguments<I> {
    rest: I,
}

/// One argument: `--name` or `--name=value`.
struct Argument {
    name: String,
    inline: Option<String>,
}

impl<I: Iterator<Item = OsString>> Arguments<I> {
    fn next(&mut self) -> Result<Option<Argument>, UsageError> {
        let Some(text) = self.next_text()? else {
            return Ok(None);
        };
        Ok(Some(match text.split_once('=') {
            Some((name, value)) if name.starts_with("--") => {
                Argument { name: name.to_owned(), inline: Some(value.to_owned()) }
            }
            _ => Argument { name: text, inline: None },
        }))
    }

    /// The value of a flag: behind its `=`, or the next argument unless that is a flag itself.
    fn value(&mut self, name: &str, inline: Option<String>) -> Result<String, UsageError> {
        let value = match inline {
            Some(value) => Some(value),
            None => self.next_text()?.filter(|next| !next.starts_with("--")),
        };
        value
            .filter(|value| !value.is_empty())
            .ok_or_else(|| UsageError::argument(name, "needs a value"))
    }

    fn next_text(&mut self) -> Result<Option<String>, UsageError> {
        self.rest
            .next()
            .map(|text| {
                text.into_string()
                    .map_err(|text| UsageError::argument(&text.to_string_lossy(), "is not UTF-8"))
            })
            .transpose()
    }
}

fn refuse_value(name: &str, inline: Option<String>) -> Result<(), UsageError> {
    inline.map_or(Ok(()), |_| Err(UsageError::argument(name, "takes no value")))
}

fn parse_level(name: &str, text: &str) -> Result<LevelFilter, UsageError> {
    match text {
        "error" => Ok(LevelFilter::Error),
        "warn" => Ok(LevelFilter::Warn),
        "info" => Ok(LevelFilter::Info),
        "debug" => Ok(LevelFilter::Debug),
        "trace" => Ok(LevelFilter::Trace),
        _ => {
            let wrong = format!("must be error, warn, info, debug or trace, not {text:?}");
            Err(UsageError::argument(name, wrong))
        }
    }
}

/// Reads the configuration file, which must be valid by itself.
fn load(
    file: &str,
    read_file: impl Fn(&Path) -> io::Result<Vec<u8>>,
) -> Result<Config, UsageError> {
    let unreadable = |wrong: String| UsageError::Unreadable { file: file.to_owned(), wrong };
    let bytes = read_file(Path::new(file))
        .map_err(|error| unreadable(format!("cannot be read: {}", os_error_text(&error))))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let valid = error.as_bytes().get(..error.utf8_error().valid_up_to()).unwrap_or_default();
        let line = 1 + valid.iter().filter(|byte| **byte == b'\n').count();
        let error = FileError { line, path: String::new(), wrong: "is not UTF-8".to_owned() };
        UsageError::File { file: file.to_owned(), error }
    })?;
    Config::from_json(&text).map_err(|error| UsageError::File { file: file.to_owned(), error })
}

/// Applies the flags in their order and checks the outcome.
fn apply(config: &mut Config, settings: &[(&Flag, String)]) -> Result<(), UsageError> {
    for (index, (flag, value)) in settings.iter().enumerate() {
        let changed = match flag.change {
            Change::Set(set) => set(config, value),
            Change::Append { clear, push } => {
                let is_first =
                    settings.iter().take(index).all(|(earlier, _)| earlier.name != flag.name);
                if is_first {
                    clear(config);
                }
                push(config, value)
            }
        };
        changed.map_err(|wrong| UsageError::argument(flag.name, wrong))?;
    }
    config.validate().map_err(|error| {
        let culprit = settings.iter().find(|(flag, _)| flag.covers(&error.path));
        let argument = culprit.map_or(error.path.as_str(), |(flag, _)| flag.name);
        let place = error.path.rsplit_once('.').filter(|_| error.path.starts_with("backends["));
        let what = place.map_or_else(String::new, |(_, what)| format!("{what} "));
        UsageError::argument(argument, format!("{what}must be {}", error.allowed))
    })
}

#[cfg(test)]
mod tests;
