//! Signals as bytes on a socket that the poll watches.
use std::io::{self, Read};

use mio::net::UnixStream;
use signal_hook::low_level::{pipe, unregister};

/// Some signals that are not to end the process, while this value lives.
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

    /// Signals that came since the last call.
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
