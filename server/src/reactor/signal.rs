//! Turns signals into bytes on a socket, which the poll watches. `edge/early.rs` catches signals
//! before the reactor runs.
//!
//! The layout hints are explained in `proxy/mod.rs`.
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use log::info;
use mio::net::UnixStream;
use mio::{Interest, Registry};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::flag;
use signal_hook::low_level::{pipe, signal_name, unregister};

use super::token::Source;
use crate::edge::early::without_effect;

/// The signals of the program. SIGPIPE is ignored by the standard library from the start.
#[derive(Debug)]
pub(crate) struct Watched {
    /// Signals that request an end.
    pub(crate) ends: Signals,
    /// Signals that request another reading of the configuration.
    pub(crate) hangups: Signals,
    /// Signals that request that the logs' files are opened again.
    pub(crate) reopens: Signals,
    /// Signals that request a new process in place of this one.
    pub(crate) upgrades: Signals,
    /// The last signal without effect; 0 if none came since it was logged.
    other: Arc<AtomicUsize>,
}

impl Watched {
    pub(crate) fn new(registry: &Registry) -> io::Result<Self> {
        let watch = |signals: &[i32], source: Source| {
            let mut signals = Signals::new(signals)?;
            registry.register(&mut signals.stream, source.to_token(), Interest::READABLE)?;
            io::Result::Ok(signals)
        };
        let other = Arc::<AtomicUsize>::default();
        for signal in without_effect() {
            // They are caught for the rest of the process's life. A system that lacks this signal
            // cannot send it.
            let _ = flag::register_usize(signal, Arc::clone(&other), signal as usize);
        }
        Ok(Self {
            other,
            ends: watch(&[SIGINT, SIGTERM], Source::Signals)?,
            hangups: watch(&[SIGHUP], Source::Hangups)?,
            reopens: watch(&[SIGUSR1], Source::Reopens)?,
            upgrades: watch(&[SIGUSR2], Source::Upgrades)?,
        })
    }

    /// Logs a signal without effect. Called once a turn: a signal begins one.
    #[inline]
    pub(crate) fn handle_turn(&self) {
        if self.other.load(Ordering::Relaxed) != 0 {
            self.report_other();
        }
    }

    #[cold]
    fn report_other(&self) {
        let signal = self.other.swap(0, Ordering::Relaxed);
        let known = i32::try_from(signal).ok().and_then(signal_name);
        match known {
            Some(name) => info!("{name}: no effect"),
            None => info!("signal {signal}: no effect"),
        }
    }
}

/// Catches and counts some signals while this value exists.
#[derive(Debug)]
pub(crate) struct Signals {
    pub(crate) stream: UnixStream,
    handlers: Vec<signal_hook::SigId>,
}

impl Signals {
    pub(crate) fn new(signals: &[i32]) -> io::Result<Self> {
        let mut handlers = Vec::new();
        let (stream, sender) = std::os::unix::net::UnixStream::pair()?;
        stream.set_nonblocking(true)?;
        for &signal in signals {
            handlers.push(pipe::register(signal, sender.try_clone()?)?);
        }
        Ok(Self { stream: UnixStream::from_std(stream), handlers })
    }

    /// The number of signals since the last call.
    pub(crate) fn take(&mut self) -> usize {
        let mut bytes = [0; 16];
        let mut count = 0;
        while let Ok(read @ 1..) = self.stream.read(&mut bytes) {
            count += read;
        }
        count
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for handler in self.handlers.drain(..) {
            unregister(handler);
        }
    }
}
