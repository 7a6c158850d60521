//! `intelliproxy top` and `intelliproxy stats`: a running proxy in the terminal.
//!
//! | file | contents |
//! |---|---|
//! | `options.rs` | the arguments |
//! | `address.rs`, `url.rs`, `http.rs` | the source of the figures: a URL or the control socket |
//! | `reading.rs`, `state.rs`, `decisions.rs` | the JSON of /stats and /explain as plain data |
//! | `history.rs` | rates and quantiles between readings |
//! | `text.rs`, `line.rs` | text for a terminal: width, colours, escaping |
//! | `table.rs`, `screen.rs`, `detail.rs` | the figures as lines |
//! | `keys.rs`, `terminal.rs`, `live.rs` | keys, the terminal's mode, and the loop |
//!
//! All text from the proxy is untrusted: only visible characters of a known width reach the
//! terminal.
mod address;
mod decisions;
mod detail;
mod history;
mod http;
mod keys;
mod line;
mod live;
mod options;
mod reading;
mod screen;
mod state;
mod table;
mod terminal;
mod text;
mod url;

use std::env;
use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use self::options::{Command, Options};
pub(crate) use self::options::{STATS_HELP, TOP_HELP};

/// Shows a running proxy, redrawn in place, until `q` or a signal ends it.
///
/// `args` are the arguments after `top`.
pub(crate) fn top(args: impl Iterator<Item = OsString>) -> ExitCode {
    run(options::top(args), TOP_HELP, live::run)
}

/// Prints one table of a running proxy. `args` are the arguments after `stats`.
pub(crate) fn stats(args: impl Iterator<Item = OsString>) -> ExitCode {
    run(options::stats(args), STATS_HELP, print_table)
}

fn run(
    command: Result<Command, intelliproxy_arguments::ArgumentError>,
    help: &str,
    run: impl FnOnce(&Options) -> Result<(), String>,
) -> ExitCode {
    match command {
        Ok(Command::Help) => {
            // If stdout is closed, an error would not be read either.
            let _ = writeln!(io::stdout(), "{help}");
            ExitCode::SUCCESS
        }
        Ok(Command::Run(options)) => match run(&options) {
            Ok(()) => ExitCode::SUCCESS,
            Err(wrong) => {
                complain(&wrong);
                ExitCode::FAILURE
            }
        },
        Err(error) => {
            complain(&error.to_string());
            ExitCode::from(EXIT_USAGE)
        }
    }
}

fn print_table(options: &Options) -> Result<(), String> {
    let reading = options.source.read(false)?;
    let mut text = String::new();
    // Lines that a terminal breaks in two are no table.
    let wide = io::stdout().is_terminal().then(|| terminal::size().0);
    for line in table::once(&reading, wide) {
        line.write(&mut text, has_colours());
        text.push('\n');
    }
    // A closed stdout is not a fault of the program.
    let _ = io::stdout().write_all(text.as_bytes());
    Ok(())
}

/// Prints one line about a fault to stderr.
fn complain(wrong: &str) {
    let _ = writeln!(io::stderr(), "intelliproxy: {}", text::visible(wrong, usize::MAX));
}

/// Whether stdout is a terminal with colours, and the user has not disabled them (no-color.org).
fn has_colours() -> bool {
    let is_wanted = env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    is_wanted && can_move() && io::stdout().is_terminal()
}

/// Whether the terminal understands control sequences.
fn can_move() -> bool {
    env::var_os("TERM").is_some_and(|term| term != "dumb" && !term.is_empty())
}

/// Exit code for invalid arguments.
const EXIT_USAGE: u8 = 2;
