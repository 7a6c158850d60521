//! `intelliproxy ctl`: sends a command to a running proxy over its control socket.
//!
//! | exit code | when |
//! |---|---|
//! | 0 | the proxy has carried the command out |
//! | 1 | the proxy has refused the command, or cannot be reached |
//! | 2 | an argument is invalid |
use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Duration;

use intelliproxy_arguments::{Argument, ArgumentError, Arguments};

use super::{EXIT_USAGE, complain, print};
use crate::control::Command;
use crate::plain::os_error_text;

/// The text of `intelliproxy ctl --help`.
pub(super) const HELP: &str = "\
intelliproxy ctl: change a running proxy

usage: intelliproxy ctl [--socket PATH] COMMAND

  drain BACKEND      no new requests; those in flight finish, probes go on
  maintain BACKEND   the same without probes, and idle connections are closed
  ready BACKEND      back in service, by slow start
  weight BACKEND N   relative capacity in percent, 0 to 1000
  policy NAME        route by another policy
  reload             read the configuration file again, as on SIGHUP
  stats              print /stats
  totals             print the header fields of /stats as JSON
  ready              print whether requests can be served, as /readyz does

  --socket PATH      admin.socket of the proxy (default /run/intelliproxy/control.sock)

exit codes: 0 if it is done or ready, 1 if it was refused or is not ready, or no proxy listens
there, 2 for an invalid argument";

/// The socket that is used without `--socket`.
const SOCKET: &str = "/run/intelliproxy/control.sock";
/// The time limit for a response. A reload can take twice `timeouts.reloadMs`, which is 30 s by
/// default.
const WAIT_MAX: Duration = Duration::from_secs(120);

/// Follows the error if no proxy listens there.
const NO_PROXY: &str =
    ": no proxy listens there (`admin.socket` of its configuration, --socket here)";

/// Carries out the command in the arguments after `ctl`.
pub(super) fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let (socket, command) = match parse(args) {
        Ok(Some(parsed)) => parsed,
        Ok(None) => return print(HELP),
        Err(error) => {
            complain(&error.to_string());
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let failed = |wrong: &str| {
        complain(wrong);
        ExitCode::FAILURE
    };
    let response = match ask(&socket, &command.line()) {
        Ok(response) => response,
        Err(error) => {
            let is_absent =
                matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused);
            let hint = if is_absent { NO_PROXY } else { "" };
            return failed(&format!("{socket}: {}{hint}", os_error_text(&error)));
        }
    };
    match response.strip_prefix("error ") {
        Some(wrong) => failed(wrong),
        None if response.is_empty() => failed(&format!("{socket}: ended without a response")),
        None if response == "ok" => ExitCode::SUCCESS,
        None => print(&response),
    }
}

/// Sends a line and returns the response without its line end; empty if the connection ends first.
fn ask(socket: &str, line: &str) -> io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(WAIT_MAX))?;
    stream.write_all(format!("{line}\n").as_bytes())?;
    let mut response = String::new();
    BufReader::new(stream).read_line(&mut response)?;
    Ok(response.trim_end().to_owned())
}

/// Parses the arguments; `None` for `--help`.
fn parse(args: impl Iterator<Item = OsString>) -> Result<Option<(String, Command)>, ArgumentError> {
    let mut socket = SOCKET.to_owned();
    let mut words = Vec::new();
    let mut args = Arguments::new(args, []);
    while let Some(argument) = args.next()? {
        match argument {
            Argument::Plain(word) => words.push(word),
            Argument::Flag(name) => match name.as_str() {
                "--socket" => socket = args.value()?,
                "--help" | "-h" => return args.no_value().map(|()| None),
                // A negative number. The command's own error names the allowed numbers.
                _ if is_number(&name) => {
                    let rest = args.inline_value().unwrap_or_default();
                    words.push(format!("{name}{}", rest.to_string_lossy()));
                }
                _ => return Err(ArgumentError::unknown(&name)),
            },
        }
    }
    let line = words.join(" ");
    match Command::parse(&line) {
        Ok(command) => Ok(Some((socket, command))),
        Err(wrong) => Err(ArgumentError::new("ctl", wrong + "; see ctl --help")),
    }
}

/// Whether an argument begins with a dash and a digit.
fn is_number(flag: &str) -> bool {
    flag.strip_prefix('-').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(args: &[&str]) -> Result<Option<(String, Command)>, String> {
        parse(args.iter().map(OsString::from)).map_err(|error| error.to_string())
    }

    /// The words are a command and its values; the socket is a flag.
    #[test]
    fn arguments_are_read() {
        let reload = |socket: &str| Ok(Some((socket.to_owned(), Command::Reload)));
        assert_eq!(parsed(&["reload"]), reload(SOCKET));
        assert_eq!(parsed(&["--socket", "/s", "reload"]), reload("/s"));
        assert_eq!(parsed(&["reload", "--socket=/s"]), reload("/s"));
        assert_eq!(parsed(&["reload", "--help"]), Ok(None));
        for (args, wrong) in [
            (&["--loud"][..], "--loud: no such argument; see --help"),
            (&["drain"], "ctl: drain: needs the name of a backend; see ctl --help"),
            (&["reload", "--socket"], "--socket: needs a value"),
            (
                &["weight", "A", "-1"],
                "ctl: weight: must be a whole number from 0 to 1000; see ctl --help",
            ),
            (
                &["weight", "A", "-12"],
                "ctl: weight: must be a whole number from 0 to 1000; see ctl --help",
            ),
            (
                &["weight", "A", "-1", "2"],
                "ctl: weight: must be a whole number from 0 to 1000; see ctl --help",
            ),
            (&["drain", "-1", "2"], "ctl: drain: takes no further words; see ctl --help"),
            (&["weight", "A", "-x"], "-x: no such argument; see --help"),
        ] {
            assert_eq!(parsed(args), Err(wrong.to_owned()));
        }
    }
}
