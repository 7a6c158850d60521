//! Signals before the reactor runs, while the program reads files and resolves names. Later ones
//! are in `reactor/signal.rs`.
//!
//! During that time SIGHUP, SIGUSR1, SIGUSR2 and signals without effect must not end the program.
//! Only SIGHUP is remembered. SIGINT and SIGTERM still end it, since a file or a resolver may hang.
//! The program's code does not run before the loader has finished, so the system's defaults apply
//! for about a millisecond.
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::SigId;
use signal_hook::consts::{SIGALRM, SIGHUP, SIGIO, SIGPROF, SIGUSR1, SIGUSR2, SIGVTALRM, SIGXFSZ};
use signal_hook::flag;
use signal_hook::low_level::unregister;

/// Catches the signals while this value exists.
#[derive(Debug)]
pub(crate) struct Early {
    hangup: Arc<AtomicBool>,
    handlers: Vec<SigId>,
}

impl Early {
    /// Begins to catch signals.
    pub(crate) fn catch() -> io::Result<Self> {
        let (hangup, other) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let mut early = Self { hangup: Arc::clone(&hangup), handlers: Vec::new() };
        for (signal, came) in [(SIGHUP, &hangup), (SIGUSR1, &other), (SIGUSR2, &other)] {
            early.handlers.push(flag::register(signal, Arc::clone(came))?);
        }
        for signal in without_effect() {
            // A system that lacks this signal cannot send it.
            early.handlers.extend(flag::register(signal, Arc::clone(&other)));
        }
        Ok(early)
    }

    /// Whether SIGHUP arrived. The configuration may have been read before it.
    pub(crate) fn has_hung_up(&self) -> bool {
        self.hangup.load(Ordering::SeqCst)
    }
}

impl Drop for Early {
    fn drop(&mut self) {
        for handler in self.handlers.drain(..) {
            unregister(handler);
        }
    }
}

/// Returns the signals that would end the program although nothing is wrong with it: timers, I/O,
/// power, real-time signals, and a file at its limit of size (that write fails, which is handled).
/// SIGQUIT and SIGABRT (core dumps), faults, job control and SIGXCPU (the limit of CPU time) keep
/// their default effects.
pub(crate) fn without_effect() -> impl Iterator<Item = i32> {
    [SIGALRM, SIGVTALRM, SIGPROF, SIGIO, SIGXFSZ].into_iter().chain(of_linux())
}

#[cfg(target_os = "linux")]
fn of_linux() -> impl Iterator<Item = i32> {
    use rustix::process::Signal;
    // The C library reserves the real-time signals below 34 or 35, so handlers for them are
    // refused.
    [Signal::STKFLT.as_raw(), Signal::POWER.as_raw()].into_iter().chain(34..=64)
}

#[cfg(not(target_os = "linux"))]
fn of_linux() -> impl Iterator<Item = i32> {
    std::iter::empty()
}
