//! The `sim` program: one backend, until a signal ends it.
use std::env;
use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::iterator::Signals;
use simple_logger::SimpleLogger;

use crate::backend::Backend;
use crate::config::Config;
use crate::options::{self, Command};
use crate::outage::Outage;

/// Runs a backend with `arguments` (without the program's name) and the environment.
///
/// Returns after SIGINT or SIGTERM, once the responses in progress are sent. A second signal ends
/// the process at once.
pub fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    main_with(arguments, mpsc::channel().1)
}

/// Like [`main`], with events from outside: `Some` starts an outage, and `None` ends it.
pub fn main_with(
    arguments: impl Iterator<Item = OsString>,
    orders: Receiver<Option<Outage>>,
) -> ExitCode {
    let config = match options::parse(arguments, |name| env::var_os(name)) {
        Ok(Command::Run(config)) => config,
        Ok(Command::Help) => {
            // A closed stdout is not an error.
            drop(io::stdout().write_all(options::help().as_bytes()));
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("sim: {error}");
            return ExitCode::from(2);
        }
    };
    // Each backend chooses what it logs, but all backends of a process share one log.
    if let Err(error) = SimpleLogger::new().init() {
        eprintln!("sim: {error}");
        return ExitCode::FAILURE;
    }
    match run(config, orders) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sim: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(config: Config, orders: Receiver<Option<Outage>>) -> Result<(), Box<dyn std::error::Error>> {
    let is_ending = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // The order matters: the first signal only sets the flag, and the second finds it set.
        flag::register_conditional_shutdown(signal, 1, Arc::clone(&is_ending))?;
        flag::register(signal, Arc::clone(&is_ending))?;
    }
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let usual = config.parameters.clone();
    let backend = Backend::start(config.clone())?;
    // An outage ends the backend and starts it again on the same port.
    let config = Config { port: backend.port(), ..config };
    let mut backend = Some(backend);
    let (sender, events) = mpsc::channel();
    let on_signal = sender.clone();
    thread::Builder::new().spawn(move || {
        signals.forever().next();
        // If there is no receiver, the run has already ended.
        let _ = on_signal.send(Event::Signal);
    })?;
    thread::Builder::new().spawn(move || {
        for order in orders {
            if sender.send(Event::Order(order)).is_err() {
                return;
            }
        }
    })?;
    for event in events {
        let Event::Order(order) = event else { break };
        let parameters =
            order.map_or_else(|| Some(usual.clone()), |outage| outage.parameters(&usual));
        match (parameters, &backend) {
            (Some(parameters), Some(backend)) => backend.set_parameters(parameters)?,
            (Some(parameters), None) => {
                backend = Some(Backend::start(Config { parameters, ..config.clone() })?);
            }
            (None, _) => drop(backend.take()),
        }
    }
    if let Some(backend) = backend {
        backend.stop(DRAIN_MAX);
    }
    Ok(())
}

/// An event during a run.
enum Event {
    Order(Option<Outage>),
    Signal,
}

/// The proxy's drain time, so that no response that it waits for is cut.
const DRAIN_MAX: Duration = Duration::from_secs(10);
