//! The grammar of arguments, the same for every program of the workspace.
//!
//! A flag and its value are written `--flag value` or `--flag=value`. The value may begin with one
//! dash; one that begins with two needs the `=`. Arguments behind `--` are not flags.
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt;

use lexopt::{Arg, Parser};

/// The arguments of a program, one after another.
#[derive(Debug)]
pub struct Arguments {
    parser: Parser,
    /// The flag that was read last, for errors about its value.
    flag: String,
    repeatable: Vec<&'static str>,
    seen: BTreeSet<String>,
}

/// One argument.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Argument {
    /// A flag with its dashes. [`Arguments::value`] returns its value.
    Flag(String),
    /// Any other argument.
    Plain(String),
}

impl Arguments {
    /// Reads `args`, which do not include the program's name. The `repeatable` flags may occur
    /// more than once.
    pub fn new(
        args: impl Iterator<Item = OsString>,
        repeatable: impl IntoIterator<Item = &'static str>,
    ) -> Self {
        Self {
            parser: Parser::from_args(args),
            flag: String::new(),
            repeatable: repeatable.into_iter().collect(),
            seen: BTreeSet::new(),
        }
    }

    /// Returns the next argument, `None` at the end.
    ///
    /// # Errors
    /// A plain argument that is not UTF-8, or a value behind `=` of the last flag that was not
    /// read.
    #[expect(
        clippy::should_implement_trait,
        reason = "errors end the reading, unlike an iterator's"
    )]
    pub fn next(&mut self) -> Result<Option<Argument>, ArgumentError> {
        self.flag = match self.parser.next() {
            Ok(None) => return Ok(None),
            Ok(Some(Arg::Value(text))) => {
                let text = text.into_string();
                return text
                    .map(|text| Some(Argument::Plain(text)))
                    .map_err(|text| ArgumentError::new(&text.to_string_lossy(), "is not UTF-8"));
            }
            Ok(Some(Arg::Long(name))) => format!("--{name}"),
            Ok(Some(Arg::Short(letter))) => format!("-{letter}"),
            // The last flag has a value behind `=` that the caller did not read; lexopt has no
            // other error here.
            Err(_) => return Err(self.wrong("takes no value")),
        };
        Ok(Some(Argument::Flag(self.flag.clone())))
    }

    /// Returns the value of the flag that was read last.
    ///
    /// # Errors
    /// No value, an empty one, one that is not UTF-8, or a flag that must not be repeated.
    pub fn value(&mut self) -> Result<String, ArgumentError> {
        self.check_first_use()?;
        let value = self.inline_value().or_else(|| {
            let mut rest = self.parser.try_raw_args()?;
            rest.next_if(|next| !next.as_encoded_bytes().starts_with(b"--"))
        });
        let value = value.filter(|value| !value.is_empty());
        let value = value.ok_or_else(|| self.wrong("needs a value"))?;
        value.into_string().map_err(|_| self.wrong("value is not UTF-8"))
    }

    /// Checks that the flag that was read last has no value.
    ///
    /// # Errors
    /// A value, or a flag that must not be repeated.
    pub fn no_value(&mut self) -> Result<(), ArgumentError> {
        self.check_first_use()?;
        match self.inline_value() {
            Some(_) => Err(self.wrong("takes no value")),
            None => Ok(()),
        }
    }

    /// Returns the value behind `=` of the flag that was read last.
    pub fn inline_value(&mut self) -> Option<OsString> {
        self.parser.optional_value()
    }

    fn check_first_use(&mut self) -> Result<(), ArgumentError> {
        let is_new = self.seen.insert(self.flag.clone());
        if is_new || self.repeatable.contains(&self.flag.as_str()) {
            Ok(())
        } else {
            Err(self.wrong("given twice"))
        }
    }

    fn wrong(&self, wrong: &str) -> ArgumentError {
        ArgumentError::new(&self.flag, wrong)
    }
}

/// An invalid argument.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ArgumentError {
    /// The argument as given, or the flag or variable whose value it is.
    pub argument: String,
    /// The fault in words.
    pub wrong: String,
}

impl ArgumentError {
    /// Returns an error with the argument and its fault.
    pub fn new(argument: &str, wrong: impl Into<String>) -> Self {
        Self { argument: argument.to_owned(), wrong: wrong.into() }
    }

    /// Returns an error that lists the allowed values.
    pub fn value(argument: &str, allowed: &str, value: &str) -> Self {
        Self::new(argument, format!("must be {allowed}, not {value:?}"))
    }

    /// Returns an error for an argument that the program does not know.
    pub fn unknown(argument: &str) -> Self {
        Self::new(argument, "no such argument; see --help")
    }
}

impl fmt::Display for ArgumentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.argument.escape_debug(), self.wrong)
    }
}

impl std::error::Error for ArgumentError {}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads `args` by a grammar in which flags with a capital letter take no value, and `--many`
    /// may be repeated.
    fn read(args: &[&str]) -> Result<Vec<String>, String> {
        let mut arguments = Arguments::new(args.iter().map(OsString::from), ["--many"]);
        let mut read = Vec::new();
        loop {
            read.push(match arguments.next().map_err(|error| error.to_string())? {
                None => return Ok(read),
                Some(Argument::Plain(text)) => text,
                Some(Argument::Flag(flag)) if flag.contains(char::is_uppercase) => {
                    arguments.no_value().map_err(|error| error.to_string())?;
                    flag
                }
                Some(Argument::Flag(flag)) => {
                    let value = arguments.value().map_err(|error| error.to_string())?;
                    format!("{flag} {value}")
                }
            });
        }
    }

    /// Both spellings of a value, values with dashes, repeated flags and plain arguments are read.
    #[test]
    fn arguments_are_read() {
        let rows: [(&[&str], &[&str]); 10] = [
            (&[], &[]),
            (&["--a", "b", "--c=d"], &["--a b", "--c d"]),
            (&["--a=b=c"], &["--a b=c"]),
            (&["--a", "-1"], &["--a -1"]),
            (&["--a=--b"], &["--a --b"]),
            (&["--many", "1", "--many=2"], &["--many 1", "--many 2"]),
            (&["-v", "1", "-w=2"], &["-v 1", "-w 2"]),
            (&["-V", "x", "-"], &["-V", "x", "-"]),
            (&["--", "--a", "-V", "--"], &["--a", "-V", "--"]),
            (&["", "--a", "ä"], &["", "--a ä"]),
        ];
        for (args, expected) in rows {
            let expected = expected.iter().map(|&text| text.to_owned()).collect();
            assert_eq!(read(args), Ok(expected), "{args:?}");
        }
    }

    /// Every error names the flag.
    #[test]
    fn faults_name_the_flag() {
        let rows: [(&[&str], &str); 8] = [
            (&["--a"], "--a: needs a value"),
            (&["--a="], "--a: needs a value"),
            (&["--a", ""], "--a: needs a value"),
            (&["--a", "--b"], "--a: needs a value"),
            (&["--V=1"], "--V: takes no value"),
            (&["-Vx"], "-V: takes no value"),
            (&["--a", "1", "--a=2"], "--a: given twice"),
            (&["--V", "--V"], "--V: given twice"),
        ];
        for (args, expected) in rows {
            assert_eq!(read(args), Err(expected.to_owned()), "{args:?}");
        }
    }

    /// An unexpected value is an error at the next argument.
    #[test]
    fn values_must_be_asked_for() {
        let args = ["--a=1", "b"].map(OsString::from);
        let mut arguments = Arguments::new(args.into_iter(), []);
        assert_eq!(arguments.next(), Ok(Some(Argument::Flag("--a".to_owned()))));
        assert_eq!(arguments.next(), Err(ArgumentError::new("--a", "takes no value")));
        assert_eq!(arguments.next(), Ok(Some(Argument::Plain("b".to_owned()))));
    }

    /// Arguments that are not UTF-8 are errors. They are shown with U+FFFD for the invalid bytes.
    #[cfg(unix)]
    #[test]
    fn arguments_are_utf8() {
        use std::os::unix::ffi::OsStringExt;
        let args = || [b"--a=\xff".to_vec(), b"\xff".to_vec()].into_iter().map(OsString::from_vec);
        let mut arguments = Arguments::new(args(), []);
        assert_eq!(arguments.next(), Ok(Some(Argument::Flag("--a".to_owned()))));
        assert_eq!(arguments.value(), Err(ArgumentError::new("--a", "value is not UTF-8")));
        assert_eq!(arguments.next(), Err(ArgumentError::new("\u{fffd}", "is not UTF-8")));
    }
}
