//! Long steps of clients' handshakes in a thread of their own. One takes 0.1 to 1 ms, as long as ten
//! requests or more, and the event loop serves its other clients meanwhile.
use std::io;
use std::sync::Arc;

use crossbeam_channel::Receiver;
use intelliproxy_core::Instant;
use log::warn;
use mio::Waker;

use crate::edge::worker::{Queue, Queued, Worker};
use crate::plain::os_error_text;
use crate::reactor::clock::Clock;
use crate::reactor::socket::Step;

/// The maximum number of steps that have begun. Others wait where they can be closed. Chosen: the
/// thread has work for 3 ms, longer than most turns, and a step ends at most 32 ms after its
/// beginning even with RSA keys.
const STEPS_MAX: usize = 32;

/// The thread, which the first handshake starts, and the steps that it has.
#[derive(Debug)]
pub(super) struct Steps {
    /// Wakes the event loop.
    waker: Arc<Waker>,
    thread: Thread,
    /// The number of steps that have begun and are not returned.
    count: usize,
    /// Whether steps may have ended that are not returned.
    is_called: bool,
}

#[derive(Debug)]
enum Thread {
    /// No handshake has begun.
    Idle,
    Runs {
        begun: Queue<Step>,
        ended: Receiver<Step>,
    },
    /// The system has refused the thread.
    Refused,
}

impl Steps {
    pub(super) const fn new(waker: Arc<Waker>) -> Self {
        Self { waker, thread: Thread::Idle, count: 0, is_called: false }
    }

    /// Begins a step. Returns it if it has ended already, because there is no thread.
    pub(super) fn begin(&mut self, mut step: Step) -> Option<Step> {
        if matches!(self.thread, Thread::Idle) {
            self.thread = start(&self.waker).unwrap_or_else(|error| {
                let wrong = os_error_text(&error);
                warn!("cannot start the thread for TLS handshakes: {wrong}: they delay requests");
                Thread::Refused
            });
        }
        if let Thread::Runs { begun, .. } = &self.thread {
            match begun.offer(step) {
                Ok(()) => {
                    self.count += 1;
                    return None;
                }
                Err(returned) => step = returned,
            }
        }
        step.take();
        Some(step)
    }

    /// Whether another step can begin.
    #[inline]
    pub(super) const fn have_room(&self) -> bool {
        self.count < STEPS_MAX
    }

    /// Handles a call of the thread.
    pub(super) const fn handle_call(&mut self) {
        self.is_called = true;
    }

    /// Whether steps may have ended that are not returned.
    #[inline]
    pub(super) const fn are_ready(&self) -> bool {
        self.is_called
    }

    /// Returns a step that has ended.
    pub(super) fn ended(&mut self) -> Option<Step> {
        let step = match &self.thread {
            Thread::Runs { ended, .. } => ended.try_recv().ok(),
            Thread::Idle | Thread::Refused => None,
        };
        self.is_called = step.is_some();
        self.count -= usize::from(step.is_some());
        step
    }

    /// Waits until a step has ended, but not longer than `until`. Returns it.
    pub(super) fn wait(&mut self, clock: &Clock, until: Instant) -> Option<Step> {
        let Thread::Runs { ended, .. } = &self.thread else { return None };
        if self.count == 0 {
            return None;
        }
        let step = ended.recv_timeout(until.since(clock.now())).ok()?;
        self.count -= 1;
        Some(step)
    }
}

/// Starts the thread. It ends together with its queue.
fn start(waker: &Arc<Waker>) -> io::Result<Thread> {
    let (done, ended) = crossbeam_channel::unbounded();
    let waker = Arc::clone(waker);
    let Worker { queue, .. } =
        Worker::start("handshakes", STEPS_MAX, move |steps: Queued<Step>| {
            for mut step in steps {
                step.take();
                if done.send(step).is_err() {
                    break;
                }
                // Steps that have ended before this one have called already, and the event loop takes
                // all that it finds.
                if done.len() == 1 {
                    // Without a working waker nothing ends any more, not even a reload.
                    let _ = waker.wake();
                }
            }
        })?;
    Ok(Thread::Runs { begun: queue, ended })
}
