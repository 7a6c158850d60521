//! Turns signals into bytes on a socket, which the poll watches. `edge/early.rs` catches signals
//! before the reactor runs.
use std::io::{self, Read};

use mio::net::UnixStream;
use mio::{Interest, Registry};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::low_level::{pipe, unregister};

use super::token::Source;

/// The signals of the program. SIGPIPE is ignored by the standard library from the start.
#[derive(Debug)]
pub(crate) struct Watched {
    /// Those that ask for an end.
    pub(crate) ends: Signals,
    /// Those that ask for another reading of the configuration.
    pub(crate) hangups: Signals,
    /// Those that ask for the logs' files to be opened again.
    pub(crate) reopens: Signals,
    /// Those that ask for a new process in place of this one.
    pub(crate) upgrades: Signals,
}

impl Watched {
    pub(crate) fn new(registry: &Registry) -> io::Result<Self> {
        let watch = |signals: &[i32], source: Source| {
            let mut signals = Signals::new(signals)?;
            registry.register(&mut signals.stream, source.to_token(), Interest::READABLE)?;
            io::Result::Ok(signals)
        };
        Ok(Self {
            ends: watch(&[SIGINT, SIGTERM], Source::Signals)?,
            hangups: watch(&[SIGHUP], Source::Hangups)?,
            reopens: watch(&[SIGUSR1], Source::Reopens)?,
            upgrades: watch(&[SIGUSR2], Source::Upgrades)?,
        })
    }
}

/// Catches and counts some signals as long as this value lives.
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
