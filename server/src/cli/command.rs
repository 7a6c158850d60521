//! The command given by the arguments. Flags override the configuration file.
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::Path;

use intelliproxy_arguments::{Argument, ArgumentError, Arguments};

use super::flags::{Change, FLAGS, Flag};
use crate::config::{Config, FileError};
use crate::edge::tls;
use crate::plain::os_error_text;

/// A command of the program.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Serve requests.
    Run {
        /// The valid configuration.
        config: Box<Config>,
        /// The file that the configuration was read from.
        file: Option<String>,
        /// The user to serve as, if root starts the program.
        user: Option<String>,
    },
    /// Report that the configuration is valid.
    Check {
        /// The valid configuration.
        config: Box<Config>,
        /// The file that the configuration was read from.
        file: Option<String>,
        /// Whether to skip resolving names.
        is_offline: bool,
    },
    /// Print the configuration that would be used.
    PrintConfig {
        /// The configuration.
        config: Box<Config>,
    },
    /// Print the help.
    Help,
    /// Print the version.
    Version,
}

impl Command {
    /// Parses the arguments, which do not include the program's name. `read_file` is called for
    /// the configuration file if there is one.
    ///
    /// `--help` and `--version` take effect at once; later arguments are not read.
    ///
    /// # Errors
    /// The first invalid argument, or the first invalid value of the file.
    pub fn parse(
        args: impl Iterator<Item = OsString>,
        read_file: impl Fn(&Path) -> io::Result<Vec<u8>>,
    ) -> Result<Self, UsageError> {
        let repeatable = FLAGS.iter().filter(|flag| flag.is_repeatable()).map(|flag| flag.name);
        let mut args = Arguments::new(args, repeatable);
        let mut settings: Vec<(&Flag, String)> = Vec::new();
        let (mut file, mut user) = (None, None);
        let mut has_check = false;
        let mut has_print = false;
        let mut is_offline = false;
        while let Some(argument) = args.next()? {
            let name = match argument {
                Argument::Flag(name) => name,
                Argument::Plain(text) => return Err(ArgumentError::unknown(&text).into()),
            };
            if let Some(flag) = FLAGS.iter().find(|flag| flag.name == name) {
                let value = match flag.value {
                    Some(_) => args.value()?,
                    None => args.no_value().map(|()| String::new())?,
                };
                settings.push((flag, value));
                continue;
            }
            match name.as_str() {
                "--config" => file = Some(args.value()?),
                "--user" => user = Some(args.value()?),
                "--check" => args.no_value().map(|()| has_check = true)?,
                "--offline" => args.no_value().map(|()| is_offline = true)?,
                "--print-config" => args.no_value().map(|()| has_print = true)?,
                "--help" | "-h" => return Ok(args.no_value().map(|()| Self::Help)?),
                "--version" | "-V" => return Ok(args.no_value().map(|()| Self::Version)?),
                _ => return Err(ArgumentError::unknown(&name).into()),
            }
        }
        let mut config = match &file {
            Some(file) => load(file, read_file)?,
            None => Config::default(),
        };
        apply(&mut config, &settings, file.as_deref())?;
        let config = Box::new(config);
        if is_offline && !has_check {
            return Err(ArgumentError::new("--offline", "only together with --check").into());
        }
        Ok(match (has_check, has_print) {
            (true, true) => {
                let wrong = "not together with --check";
                return Err(ArgumentError::new("--print-config", wrong).into());
            }
            (true, false) => Self::Check { config, file, is_offline },
            (false, true) => Self::PrintConfig { config },
            (false, false) => Self::Run { config, file, user },
        })
    }
}

/// The reason why the arguments are not a command.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum UsageError {
    /// An argument is invalid.
    Argument(ArgumentError),
    /// The configuration file cannot be read.
    Unreadable {
        /// The file.
        file: String,
        /// The system's error.
        wrong: String,
    },
    /// The configuration file is invalid.
    File {
        /// The file.
        file: String,
        /// The fault and its place in the file.
        error: FileError,
    },
}

impl From<ArgumentError> for UsageError {
    fn from(error: ArgumentError) -> Self {
        Self::Argument(error)
    }
}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Argument(error) => error.fmt(f),
            Self::Unreadable { file, wrong } => write!(f, "{}: {wrong}", file.escape_debug()),
            Self::File { file, error } => write!(f, "{}:{error}", file.escape_debug()),
        }
    }
}

impl std::error::Error for UsageError {}

/// Reads the configuration file, which must be valid without the flags.
fn load(
    file: &str,
    read_file: impl Fn(&Path) -> io::Result<Vec<u8>>,
) -> Result<Config, UsageError> {
    let unreadable = |wrong: String| UsageError::Unreadable { file: file.to_owned(), wrong };
    let bytes = read_file(Path::new(file))
        .map_err(|error| unreadable(format!("cannot be read: {}", os_error_text(&error))))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let error = FileError::not_utf8(error.as_bytes(), error.utf8_error());
        UsageError::File { file: file.to_owned(), error }
    })?;
    let check = |config: &Config| {
        config.check_source(file)?;
        tls::check(config, &read_file)?;
        tls::check_clients(config, &read_file)
    };
    Config::from_json_and(&text, check)
        .map_err(|error| UsageError::File { file: file.to_owned(), error })
}

/// Applies the flags in their order and checks the result.
fn apply(
    config: &mut Config,
    settings: &[(&Flag, String)],
    file: Option<&str>,
) -> Result<(), UsageError> {
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
        changed.map_err(|wrong| ArgumentError::new(flag.name, wrong))?;
    }
    let valid = config.validate();
    let valid = valid.and_then(|()| file.map_or(Ok(()), |file| config.check_source(file)));
    valid.map_err(|error| {
        let culprit = settings.iter().find(|(flag, _)| flag.covers(&error.path));
        let argument = culprit.map_or(error.path.as_str(), |(flag, _)| flag.name);
        let place = error.path.rsplit_once('.').filter(|_| error.path.starts_with("backends["));
        let what = place.map_or_else(String::new, |(_, what)| format!("{what} "));
        ArgumentError::new(argument, format!("{what}must be {}", error.allowed)).into()
    })
}

#[cfg(test)]
mod tests;
