//! The `sim` program: one backend, until a signal ends it.
use std::env;
use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::iterator::Signals;
use simple_logger::SimpleLogger;

use crate::backend::Backend;
use crate::config::Config;
use crate::options::{self, Command};

/// Runs a backend with `arguments` (without the program's name) and the environment.
///
/// Returns after SIGINT or SIGTERM, once the responses in progress are sent. A second signal ends
/// the process at once.
pub fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let config = match options::parse(arguments, |name| env::var_os(name)) {
        Ok(Command::Run(config)) => config,
        Ok(Command::Help) => {
            // With stdout closed there is no reader for an error either.
            drop(io::stdout().write_all(options::help().as_bytes()));
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("sim: {error}");
            return ExitCode::from(2);
        }
    };
    // Each backend chooses its own lines, but a process has one log only.
    if let Err(error) = SimpleLogger::new().init() {
        eprintln!("sim: {error}");
        return ExitCode::FAILURE;
    }
    match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sim: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(config: Config) -> Result<(), Box<dyn std::error::Error>> {
    let is_ending = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // In this order the first signal only sets the flag, and the second finds it set.
        flag::register_conditional_shutdown(signal, 1, Arc::clone(&is_ending))?;
        flag::register(signal, Arc::clone(&is_ending))?;
    }
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let backend = Backend::start(config)?;
    signals.forever().next();
    backend.stop(DRAIN_MAX);
    Ok(())
}

/// The proxy's drain time, so that no response that it waits for is cut.
const DRAIN_MAX: Duration = Duration::from_secs(10);
