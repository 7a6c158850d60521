//! Signals that arrive before the reactor runs, while the program reads files and resolves names.
//!
//! SIGHUP, SIGUSR1 and SIGUSR2 must not end the program then. Only SIGHUP is remembered. SIGINT and
//! SIGTERM still end it, since a file or a resolver may hang. Later signals are in
//! `reactor/signal.rs`.
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::SigId;
use signal_hook::consts::{SIGHUP, SIGUSR1, SIGUSR2};
use signal_hook::flag;
use signal_hook::low_level::unregister;

/// Catches the signals as long as this value lives.
#[derive(Debug)]
pub(crate) struct Early {
    hangup: Arc<AtomicBool>,
    handlers: Vec<SigId>,
}

impl Early {
    /// Begins to catch signals.
    pub(crate) fn catch() -> io::Result<Self> {
        let (hangup, other) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let signals = [(SIGHUP, &hangup), (SIGUSR1, &other), (SIGUSR2, &other)];
        let mut early = Self { hangup: Arc::clone(&hangup), handlers: Vec::new() };
        for (signal, came) in signals {
            early.handlers.push(flag::register(signal, Arc::clone(came))?);
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
