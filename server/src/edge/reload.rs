//! Reading the configuration again while the proxy runs.
//!
//! A thread of its own reads the file, checks it and resolves the backends' names, all of which
//! may block, then wakes the reactor up. One runs at a time; signals that arrive meanwhile
//! cause one more after it. One that hangs (a pipe, a dead mount, a
//! resolver) is given up after a time, so that later ones are not lost; a few of these may hang.
use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use intelliproxy_core::Instant;

use crate::config::{BackendTarget, Config};
use crate::plain::os_error_text;

/// A configuration that was read and checked, with its backends' addresses.
pub(crate) type Loaded = Result<(Config, Vec<BackendTarget>), String>;

/// A reading that is over.
#[derive(Debug, PartialEq)]
pub(crate) struct Reading {
    pub(crate) loaded: Loaded,
    /// Whether another reading was asked for meanwhile.
    pub(crate) is_asked_again: bool,
}

/// Reads the configuration again; clones read the same.
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

/// Has the configuration read, one reading at a time.
#[derive(Debug)]
pub(crate) struct Reloader {
    source: Source,
    sender: Sender<(u64, Loaded)>,
    loaded: Receiver<(u64, Loaded)>,
    state: State,
    /// Number of the reading under way, or of the last one.
    reading: u64,
    /// Readings that were given up and whose threads have not ended.
    hanging: usize,
}

/// Whether it is being read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    Idle,
    /// A thread is at work; what it reads may be of before the last time that it was asked for.
    Reading {
        is_asked_again: bool,
        deadline: Instant,
    },
}

impl Reloader {
    pub(crate) fn new(source: Source) -> Self {
        // Room for every thread that there can be: none waits for its result to be taken.
        let (sender, loaded) = crossbeam_channel::bounded(HANGING_MAX + 1);
        Self { source, sender, loaded, state: State::Idle, reading: 0, hanging: 0 }
    }

    /// Has it read now, within `time`, or once more after the reading under way; `wake` is called
    /// when something is there to be [taken](Self::take).
    ///
    /// # Errors
    /// The thread cannot be started, or too many earlier ones hang; nothing is under way then.
    pub(crate) fn ask(
        &mut self,
        now: Instant,
        time: Duration,
        wake: impl FnOnce() + Send + 'static,
    ) -> Result<(), String> {
        if let State::Reading { is_asked_again, .. } = &mut self.state {
            *is_asked_again = true;
            return Ok(());
        }
        if self.hanging >= HANGING_MAX {
            return Err(format!("{HANGING_MAX} earlier readings hang, not starting another one"));
        }
        self.reading += 1;
        let (source, sender, reading) = (self.source.clone(), self.sender.clone(), self.reading);
        let work = move || {
            // It has no reader any more when the proxy has ended.
            let _ = sender.send((reading, (source.load)()));
            wake();
        };
        let start = |error: io::Error| format!("cannot start a thread: {}", os_error_text(&error));
        thread::Builder::new().name("reload".to_owned()).spawn(work).map_err(start)?;
        self.state = State::Reading { is_asked_again: false, deadline: now + time };
        Ok(())
    }

    /// Returns what was read; `None` when nothing is there. The result of a reading that was given up is dropped.
    pub(crate) fn take(&mut self) -> Option<Reading> {
        while let Ok((reading, loaded)) = self.loaded.try_recv() {
            match self.state {
                State::Reading { is_asked_again, .. } if reading == self.reading => {
                    self.state = State::Idle;
                    return Some(Reading { loaded, is_asked_again });
                }
                _ => self.hanging = self.hanging.saturating_sub(1),
            }
        }
        None
    }

    /// Gives a reading up whose time is over; returns then whether it was asked for again.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> Option<bool> {
        match self.state {
            State::Reading { is_asked_again, deadline } if deadline <= now => {
                self.state = State::Idle;
                self.hanging += 1;
                Some(is_asked_again)
            }
            State::Reading { .. } | State::Idle => None,
        }
    }

    /// When the reading under way is to be given up.
    pub(crate) const fn poll_timeout(&self) -> Option<Instant> {
        match self.state {
            State::Reading { deadline, .. } => Some(deadline),
            State::Idle => None,
        }
    }
}

/// Threads that hang in a reading at a time.
const HANGING_MAX: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    const TIME: Duration = Duration::from_secs(10);

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
            reloader.ask(Instant::ZERO, TIME, wake()).expect("a thread");
        }
        assert!(reloader.take().is_none());
        gate.send(()).expect("a reader");
        wait();
        assert_eq!(
            reloader.take(),
            Some(Reading { loaded: Err("0".to_owned()), is_asked_again: true })
        );
        reloader.ask(Instant::ZERO, TIME, wake()).expect("a thread");
        gate.send(()).expect("a reader");
        wait();
        assert_eq!(
            reloader.take(),
            Some(Reading { loaded: Err("1".to_owned()), is_asked_again: false })
        );
        assert!(reloader.take().is_none());
        assert_eq!(count.load(Ordering::SeqCst), 2);
    }

    /// A reading that hangs is given up at its deadline and not before; the next one is taken, the
    /// late result of the first is not, and the number of hanging ones is bounded.
    #[test]
    fn hanging_readings_are_given_up() {
        let (gate, opened) = crossbeam_channel::unbounded::<()>();
        let (begun, begins) = crossbeam_channel::unbounded();
        let count = Arc::new(AtomicU32::new(0));
        let source = Source::new(move || {
            let number = count.fetch_add(1, Ordering::SeqCst);
            begun.send(()).expect("a test that waits");
            if number != 1 {
                opened.recv_timeout(Duration::from_secs(30)).map_err(|error| error.to_string())?;
            }
            Err(number.to_string())
        });
        let (woken, wakes) = crossbeam_channel::unbounded();
        let wake = || {
            let woken = woken.clone();
            // The last ones hang until the test has ended.
            move || {
                let _ = woken.send(());
            }
        };
        let wait = |channel: &Receiver<()>| {
            channel.recv_timeout(Duration::from_secs(30)).expect("it begins, then it wakes");
        };
        let mut reloader = Reloader::new(source);
        let mut now = Instant::ZERO;
        reloader.ask(now, TIME, wake()).expect("a thread");
        wait(&begins);
        reloader.ask(now, TIME, wake()).expect("a thread");
        assert_eq!(reloader.poll_timeout(), Some(now + TIME));
        assert_eq!(reloader.handle_timeout(now + TIME - Duration::from_nanos(1)), None);
        now += TIME;
        assert_eq!(reloader.handle_timeout(now), Some(true), "it was asked for twice");
        assert_eq!((reloader.poll_timeout(), reloader.handle_timeout(now)), (None, None));
        reloader.ask(now, TIME, wake()).expect("a thread");
        wait(&begins);
        wait(&wakes);
        assert_eq!(
            reloader.take(),
            Some(Reading { loaded: Err("1".to_owned()), is_asked_again: false })
        );
        for _ in 1..HANGING_MAX {
            reloader.ask(now, TIME, wake()).expect("a thread");
            wait(&begins);
            now += TIME;
            assert_eq!(reloader.handle_timeout(now), Some(false));
        }
        let refused = reloader.ask(now, TIME, wake()).expect_err("enough hang");
        assert_eq!(refused, "4 earlier readings hang, not starting another one");
        gate.send(()).expect("a reader");
        wait(&wakes);
        assert_eq!(reloader.take(), None, "its result is not awaited any more");
        reloader.ask(now, TIME, wake()).expect("one less hangs");
    }
}
