//! Signals as bytes on a socket, which the poll watches.
use std::io::{self, Read};

use log::info;
use mio::net::UnixStream;
use mio::{Interest, Registry};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::low_level::{pipe, unregister};

/// Handlers of some signals. While they exist, these signals do not end the process.
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
