//! The arguments of `top` and `stats`.
use std::ffi::OsString;
use std::time::Duration;

use intelliproxy_arguments::{Argument, ArgumentError, Arguments};

use crate::cli::top::address::Source;
use crate::cli::top::url::Url;

/// The parsed arguments.
#[derive(Debug, PartialEq)]
pub(crate) enum Command {
    Help,
    Run(Options),
}

#[derive(Debug, PartialEq)]
pub(crate) struct Options {
    pub(crate) source: Source,
    /// Time between two readings.
    pub(crate) interval: Duration,
    /// Number of readings after which the program ends; `None` for no limit.
    pub(crate) samples: Option<u64>,
}

/// The text of `intelliproxy top --help`.
pub(crate) const TOP_HELP: &str = "\
intelliproxy top: a running proxy in the terminal, redrawn in place

usage: intelliproxy top [URL]
       intelliproxy top --socket PATH

URL is /stats of the proxy (default http://127.0.0.1:3003/stats; if nothing listens there, the socket
/run/intelliproxy/control.sock). From the admin listener the last decisions are shown, too.

  --socket PATH      read from admin.socket of the proxy instead
  --interval TIME    time between two readings in seconds, 0.1 to 60 (default 1)
  --samples N        end after N readings

keys: n name, s share, r requests/s, p p99, e errors, c score, f in flight, o configured order; the
same key again reverses the order. Up and Down, or k and j, select a backend: its score by factor, the
ages of its signals and its last decisions are shown below. Esc ends the selection, q the program.
A * marks the current backend.

Requests/s and share are those of the last 2 s, times those of the last 6 s, exact to 6 %, and errors
those of the last 10 s.
Colours appear only on a terminal, and not with NO_COLOR. Into a pipe or a file it writes a line per
backend and reading.

exit codes: 0 after q, a signal or N readings, 1 if the terminal cannot be used, 2 for an invalid
argument";

/// The text of `intelliproxy stats --help`.
pub(crate) const STATS_HELP: &str = "\
intelliproxy stats: one table of a running proxy

usage: intelliproxy stats [URL]
       intelliproxy stats --socket PATH

URL is /stats of the proxy (default http://127.0.0.1:3003/stats; if nothing listens there, the socket
/run/intelliproxy/control.sock). `intelliproxy ctl stats` prints the JSON.

  --socket PATH      read from admin.socket of the proxy instead

Counts, shares, times and errors are those since the proxy's start. Times are estimated from buckets:
see headTimes in server/docs/operations.md. On a terminal the table fits its width: names are cut,
and columns left out. Into a pipe or a file it has whole names and all columns.

exit codes: 0 if the table was printed, 1 if no proxy can be read, 2 for an invalid argument";

/// Parses the arguments of `top`.
pub(crate) fn top(args: impl Iterator<Item = OsString>) -> Result<Command, ArgumentError> {
    parse(args, true)
}

/// Parses the arguments of `stats`.
pub(crate) fn stats(args: impl Iterator<Item = OsString>) -> Result<Command, ArgumentError> {
    parse(args, false)
}

fn parse(args: impl Iterator<Item = OsString>, is_top: bool) -> Result<Command, ArgumentError> {
    let (mut url, mut socket) = (None, None);
    let mut interval = Duration::from_secs(1);
    let mut samples = None;
    let mut args = Arguments::new(args, []);
    while let Some(argument) = args.next()? {
        let name = match argument {
            Argument::Flag(name) => name,
            Argument::Plain(text) if url.is_none() => {
                let parsed = Url::parse(&text).map_err(|wrong| ArgumentError::new(&text, wrong))?;
                url = Some(parsed);
                continue;
            }
            Argument::Plain(text) => return Err(ArgumentError::unknown(&text)),
        };
        match name.as_str() {
            "--help" | "-h" => return args.no_value().map(|()| Command::Help),
            "--socket" => socket = Some(args.value()?),
            "--interval" if is_top => {
                let text = args.value()?;
                let seconds = text.parse().ok().filter(|s| (0.1..=60.0).contains(s));
                let wrong = || ArgumentError::value(&name, "seconds from 0.1 to 60", &text);
                interval = Duration::from_secs_f64(seconds.ok_or_else(wrong)?);
            }
            "--samples" if is_top => {
                let text = args.value()?;
                let count = text.parse().ok().filter(|count| *count > 0);
                let wrong = || ArgumentError::value(&name, "a whole number from 1", &text);
                samples = Some(count.ok_or_else(wrong)?);
            }
            _ => return Err(ArgumentError::unknown(&name)),
        }
    }
    let source = match (url, socket) {
        (None, None) => Source::Usual,
        (Some(url), None) => Source::Url(url),
        (None, Some(path)) => Source::Socket(path),
        (Some(_), Some(_)) => {
            return Err(ArgumentError::new("--socket", "not together with a URL"));
        }
    };
    Ok(Command::Run(Options { source, interval, samples }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(args: &str) -> Result<Command, String> {
        let words = args.split_whitespace().map(OsString::from);
        top(words).map_err(|error| error.to_string())
    }

    /// The source, the interval and the number of readings are parsed. Errors name the invalid
    /// argument.
    #[test]
    fn arguments_are_read() {
        let of = |source| Options { source, interval: Duration::from_secs(1), samples: None };
        assert_eq!(read(""), Ok(Command::Run(of(Source::Usual))));
        let url = Url::parse("http://h:1/stats").expect("a URL");
        assert_eq!(read("http://h:1/stats"), Ok(Command::Run(of(Source::Url(url)))));
        assert_eq!(read("--socket /s"), Ok(Command::Run(of(Source::Socket("/s".to_owned())))));
        let quick =
            Options { interval: Duration::from_millis(100), samples: Some(3), ..of(Source::Usual) };
        assert_eq!(read("--interval 0.1 --samples=3"), Ok(Command::Run(quick)));
        assert_eq!(read("--help"), Ok(Command::Help));
        for (args, wrong) in [
            ("--interval 0", "--interval: must be seconds from 0.1 to 60, not \"0\""),
            ("--interval NaN", "--interval: must be seconds from 0.1 to 60, not \"NaN\""),
            ("--samples 0", "--samples: must be a whole number from 1, not \"0\""),
            ("http://h http://h", "http://h: no such argument; see --help"),
            ("ftp://h", "ftp://h: does not begin with http://"),
            ("http://h --socket /s", "--socket: not together with a URL"),
            ("--loud", "--loud: no such argument; see --help"),
        ] {
            assert_eq!(read(args), Err(wrong.to_owned()));
        }
        let words = ["--samples", "1"].iter().map(OsString::from);
        assert!(stats(words).is_err(), "stats reads once");
    }

    /// The texts of `--help` fit a terminal of 105 columns.
    #[test]
    fn help_is_narrow() {
        for line in TOP_HELP.lines().chain(STATS_HELP.lines()) {
            assert!(line.len() <= 105, "{line}");
        }
    }
}
