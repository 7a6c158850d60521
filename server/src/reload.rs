//! Reading the configuration again while the proxy runs.
//!
//! A thread of its own reads the file, checks it and resolves the backends' names, all of which
//! may block, then wakes the reactor up. One is at work at a time; whoever asks meanwhile gets
//! another one after it, however often it was asked.
use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread;

use crossbeam_channel::{Receiver, Sender};

use crate::config::{BackendTarget, Config};
use crate::plain::os_error_text;

/// A configuration that was read and checked, with its backends' addresses.
pub(crate) type Loaded = Result<(Config, Vec<BackendTarget>), String>;

/// How the configuration is read, once more; clones read the same.
#[derive(Clone)]
pub struct Source {
    load: Arc<dyn Fn() -> Loaded + Send + Sync>,
}

impl Source {
    /// The configuration is what `load` returns: it with its backends' addresses, or one line
    /// about what is wrong.
    pub fn new(
        load: impl Fn() -> Result<(Config, Vec<BackendTarget>), String> + Send + Sync + 'static,
    ) -> Self {
        Self { load: Arc::new(load) }
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Source")
    }
}

/// Who reads it.
#[derive(Debug)]
pub(crate) struct Reloader {
    source: Source,
    sender: Sender<Loaded>,
    loaded: Receiver<Loaded>,
    state: State,
}

/// Whether it is being read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    Idle,
    /// A thread is at work; what it reads may be of before the last time that it was asked for.
    Reading {
        is_asked_again: bool,
    },
}

impl Reloader {
    pub(crate) fn new(source: Source) -> Self {
        let (sender, loaded) = crossbeam_channel::bounded(1);
        Self { source, sender, loaded, state: State::Idle }
    }

    /// Has it read now, or once more after the reading under way; `wake` is called when something
    /// is there to be [taken](Self::take).
    ///
    /// # Errors
    /// The thread cannot be started; nothing is under way then.
    pub(crate) fn ask(&mut self, wake: impl FnOnce() + Send + 'static) -> Result<(), String> {
        if let State::Reading { is_asked_again } = &mut self.state {
            *is_asked_again = true;
            return Ok(());
        }
        let (source, sender) = (self.source.clone(), self.sender.clone());
        let work = move || {
            // Nobody takes it any more when the proxy has ended.
            let _ = sender.send((source.load)());
            wake();
        };
        let start = |error: io::Error| format!("cannot start a thread: {}", os_error_text(&error));
        thread::Builder::new().name("reload".to_owned()).spawn(work).map_err(start)?;
        self.state = State::Reading { is_asked_again: false };
        Ok(())
    }

    /// What was read, and whether it was asked for again meanwhile; `None` when nothing is there.
    pub(crate) fn take(&mut self) -> Option<(Loaded, bool)> {
        let loaded = self.loaded.try_recv().ok()?;
        let is_asked_again = self.state == State::Reading { is_asked_again: true };
        self.state = State::Idle;
        Some((loaded, is_asked_again))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use super::*;

    /// However often it is asked for while it is being read, it is read once more after that; and
    /// nothing is there before it was read.
    #[test]
    fn nobody_asks_in_vain() {
        let (gate, opened) = crossbeam_channel::unbounded::<()>();
        let count = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&count);
        let source = Source::new(move || {
            opened.recv_timeout(Duration::from_secs(30)).map_err(|error| error.to_string())?;
            Err(counted.fetch_add(1, Ordering::SeqCst).to_string())
        });
        let (woken, wakes) = crossbeam_channel::unbounded();
        let wake = || {
            let woken = woken.clone();
            move || woken.send(()).expect("a test that waits")
        };
        let wait = || wakes.recv_timeout(Duration::from_secs(30)).expect("it wakes");
        let mut reloader = Reloader::new(source);
        for _ in 0..3 {
            reloader.ask(wake()).expect("a thread");
        }
        assert!(reloader.take().is_none());
        gate.send(()).expect("a reader");
        wait();
        assert_eq!(reloader.take(), Some((Err("0".to_owned()), true)));
        reloader.ask(wake()).expect("a thread");
        gate.send(()).expect("a reader");
        wait();
        assert_eq!(reloader.take(), Some((Err("1".to_owned()), false)));
        assert!(reloader.take().is_none());
        assert_eq!(count.load(Ordering::SeqCst), 2);
    }
}
