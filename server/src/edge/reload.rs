//! Reads the configuration again while the proxy runs (SIGHUP). `reactor/reload.rs` applies it.
//!
//! A separate thread reads the file, checks it, resolves the backends' names and opens new
//! listeners and files. All of this may block. Then it wakes the reactor. Only one such thread is
//! awaited at a time; signals that arrive meanwhile cause one more reading. A thread that hangs (on
//! a pipe, a dead mount or a resolver) is abandoned after a time, so that later signals are not
//! lost. Up to `HANGING_MAX` threads may hang at once.
use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use intelliproxy_core::Instant;

use super::candidate::{Candidate, Current};
use super::discovery::{Discovery, LOOK_TIME};
use crate::config::Config;
use crate::plain::os_error_text;

/// The result of a reading.
#[derive(Debug, PartialEq)]
pub(crate) struct Reading<T> {
    pub(crate) loaded: Result<T, String>,
    /// Whether another reading was requested during this one.
    pub(crate) is_asked_again: bool,
}

/// Reads a configuration.
type Load = dyn Fn() -> Result<Config, String> + Send + Sync;

/// Reads the configuration. Clones read the same one.
#[derive(Clone)]
pub struct Source {
    load: Arc<Load>,
}

impl Source {
    /// Creates a source that calls `load`. `load` returns the configuration, or the error in one
    /// line.
    pub fn new(load: impl Fn() -> Result<Config, String> + Send + Sync + 'static) -> Self {
        Self { load: Arc::new(load) }
    }

    /// Reads the configuration and prepares everything that it needs. May block, but not longer
    /// than `time` for its names.
    pub(crate) fn candidate(
        &self,
        current: Current,
        discovery: &Discovery,
        time: Duration,
    ) -> Result<Candidate, String> {
        let config = (self.load)()?;
        let found = discovery.look(&config, time.min(LOOK_TIME))?;
        Candidate::open(config, found, current)
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Source")
    }
}

/// Starts readings of the configuration, one at a time.
#[derive(Debug)]
pub(crate) struct Reloader<T> {
    sender: Sender<(u64, Result<T, String>)>,
    loaded: Receiver<(u64, Result<T, String>)>,
    state: State,
    /// The number of the current reading, or of the last one.
    reading: u64,
    /// Abandoned threads that have not ended.
    hanging: usize,
}

/// Whether a reading is awaited.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    Idle,
    /// A thread is reading. Its result may be older than the last request.
    Reading {
        is_asked_again: bool,
        deadline: Instant,
    },
}

impl<T: Send + 'static> Reloader<T> {
    pub(crate) fn new() -> Self {
        // Room for one result of every possible thread, so that none of them blocks.
        let (sender, loaded) = crossbeam_channel::bounded(HANGING_MAX + 1);
        Self { sender, loaded, state: State::Idle, reading: 0, hanging: 0 }
    }

    /// Starts a reading that must end within `time`, or notes that another one must follow the
    /// current one. `load` reads; it may block. `wake` is called when a result can be
    /// [taken](Self::take).
    ///
    /// # Errors
    /// The thread cannot be started, or too many earlier ones hang. In that case the configuration
    /// is not read.
    pub(crate) fn ask(
        &mut self,
        now: Instant,
        time: Duration,
        load: impl FnOnce() -> Result<T, String> + Send + 'static,
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
        let (sender, reading) = (self.sender.clone(), self.reading);
        let work = move || {
            // When the proxy has ended, the result has no reader.
            let _ = sender.send((reading, load()));
            wake();
        };
        let start = |error: io::Error| format!("cannot start a thread: {}", os_error_text(&error));
        thread::Builder::new().name("reload".to_owned()).spawn(work).map_err(start)?;
        self.state = State::Reading { is_asked_again: false, deadline: now + time };
        Ok(())
    }

    /// Returns the result of the current reading; `None` if it has not arrived. Results of
    /// abandoned readings are dropped.
    pub(crate) fn take(&mut self) -> Option<Reading<T>> {
        while let Ok((reading, loaded)) = self.loaded.try_recv() {
            match self.state {
                State::Reading { is_asked_again, .. } if reading == self.reading => {
                    self.state = State::Idle;
                    return Some(Reading { loaded, is_asked_again });
                }
                // A late result: its thread no longer hangs.
                _ => self.hanging = self.hanging.saturating_sub(1),
            }
        }
        None
    }

    /// Gives up the current reading if its time is up. If so, returns whether another one was
    /// requested.
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

    /// The time at which the current reading is abandoned.
    pub(crate) const fn poll_timeout(&self) -> Option<Instant> {
        match self.state {
            State::Reading { deadline, .. } => Some(deadline),
            State::Idle => None,
        }
    }
}

/// The maximum number of threads that hang in a reading. Each holds a stack and possibly a file.
const HANGING_MAX: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    const TIME: Duration = Duration::from_secs(10);

    /// Any number of requests during a reading causes exactly one more reading. Nothing can be
    /// taken before a reading has ended.
    #[test]
    fn requests_during_a_reading_cause_another() {
        let (gate, opened) = crossbeam_channel::unbounded::<()>();
        let count = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&count);
        let load = Arc::new(move || -> Result<(), String> {
            opened.recv_timeout(Duration::from_secs(30)).map_err(|error| error.to_string())?;
            Err(counted.fetch_add(1, Ordering::SeqCst).to_string())
        });
        let (woken, wakes) = crossbeam_channel::unbounded();
        let wake = || {
            let woken = woken.clone();
            move || woken.send(()).expect("a test that waits")
        };
        let wait = || wakes.recv_timeout(Duration::from_secs(30)).expect("it wakes");
        let load = || {
            let load = Arc::clone(&load);
            move || load()
        };
        let mut reloader = Reloader::new();
        for _ in 0..3 {
            reloader.ask(Instant::ZERO, TIME, load(), wake()).expect("a thread");
        }
        assert!(reloader.take().is_none());
        gate.send(()).expect("a reader");
        wait();
        assert_eq!(
            reloader.take(),
            Some(Reading { loaded: Err("0".to_owned()), is_asked_again: true })
        );
        reloader.ask(Instant::ZERO, TIME, load(), wake()).expect("a thread");
        gate.send(()).expect("a reader");
        wait();
        assert_eq!(
            reloader.take(),
            Some(Reading { loaded: Err("1".to_owned()), is_asked_again: false })
        );
        assert!(reloader.take().is_none());
        assert_eq!(count.load(Ordering::SeqCst), 2);
    }

    /// A reading that hangs is abandoned at its deadline and not before. The next one is taken, the
    /// late result of the first is not, and the number of hanging threads is bounded.
    #[test]
    fn hanging_readings_are_given_up() {
        let (gate, opened) = crossbeam_channel::unbounded::<()>();
        let (begun, begins) = crossbeam_channel::unbounded();
        let count = Arc::new(AtomicU32::new(0));
        let load = Arc::new(move || -> Result<(), String> {
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
            // The last threads may end after the test, when the receiver is gone.
            move || {
                let _ = woken.send(());
            }
        };
        let wait = |channel: &Receiver<()>| {
            channel.recv_timeout(Duration::from_secs(30)).expect("it begins, then it wakes");
        };
        let load = || {
            let load = Arc::clone(&load);
            move || load()
        };
        let mut reloader = Reloader::new();
        let mut now = Instant::ZERO;
        reloader.ask(now, TIME, load(), wake()).expect("a thread");
        wait(&begins);
        reloader.ask(now, TIME, load(), wake()).expect("a thread");
        assert_eq!(reloader.poll_timeout(), Some(now + TIME));
        assert_eq!(reloader.handle_timeout(now + TIME - Duration::from_nanos(1)), None);
        now += TIME;
        assert_eq!(reloader.handle_timeout(now), Some(true), "it was asked for twice");
        assert_eq!((reloader.poll_timeout(), reloader.handle_timeout(now)), (None, None));
        reloader.ask(now, TIME, load(), wake()).expect("a thread");
        wait(&begins);
        wait(&wakes);
        assert_eq!(
            reloader.take(),
            Some(Reading { loaded: Err("1".to_owned()), is_asked_again: false })
        );
        for _ in 1..HANGING_MAX {
            reloader.ask(now, TIME, load(), wake()).expect("a thread");
            wait(&begins);
            now += TIME;
            assert_eq!(reloader.handle_timeout(now), Some(false));
        }
        let refused = reloader.ask(now, TIME, load(), wake()).expect_err("enough hang");
        assert_eq!(refused, "4 earlier readings hang, not starting another one");
        gate.send(()).expect("a reader");
        wait(&wakes);
        assert_eq!(reloader.take(), None, "its result is not awaited any more");
        reloader.ask(now, TIME, load(), wake()).expect("one less hangs");
    }
}
