//! A thread behind a bounded queue, for work that may block. Callers never wait for it.
//!
//! A message that finds the queue full is returned to the caller and counted.
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

/// A running thread: its queue and its end.
#[derive(Debug)]
pub(crate) struct Worker<T> {
    pub(crate) queue: Queue<T>,
    pub(super) ended: Ended,
}

impl<T: Send + 'static> Worker<T> {
    /// Starts a thread behind a queue of `messages_max` messages. It ends when `work` returns.
    pub(crate) fn start(
        name: &str,
        messages_max: usize,
        work: impl FnOnce(Queued<T>) + Send + 'static,
    ) -> io::Result<Self> {
        let (messages, queued) = crossbeam_channel::bounded(messages_max);
        let (ending, ended) = crossbeam_channel::bounded(0);
        let dropped = Arc::<AtomicU64>::default();
        let queued = Queued { messages: queued, dropped: Arc::clone(&dropped) };
        thread::Builder::new().name(name.to_owned()).spawn(move || {
            // Dropped last, even in a panic. By then the queue accepts no more messages.
            let _ending: Sender<()> = ending;
            work(queued);
        })?;
        Ok(Self { queue: Queue { messages, dropped }, ended: Ended { ended } })
    }
}

/// The sending side of a worker's queue.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    messages: Sender<T>,
    dropped: Arc<AtomicU64>,
}

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Self { messages: self.messages.clone(), dropped: Arc::clone(&self.dropped) }
    }
}

impl<T> Queue<T> {
    /// Enqueues a message at once, or returns it and counts it as dropped.
    pub(crate) fn offer(&self, message: T) -> Result<(), T> {
        self.messages.try_send(message).map_err(|error| {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            error.into_inner()
        })
    }

    /// Enqueues a message that may be omitted: if there is no room, it is not counted as dropped.
    /// Returns whether it was enqueued.
    pub(super) fn nudge(&self, message: T) -> bool {
        self.messages.try_send(message).is_ok()
    }

    /// The number of messages that wait.
    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }

    /// Enqueues a message, or returns it if there is no room within `time`. It waits, so it is only
    /// used at the program's end.
    pub(super) fn insist(&self, message: T, time: Duration) -> Result<(), T> {
        self.messages.send_timeout(message, time).map_err(|error| error.into_inner())
    }

    /// The number of messages dropped so far.
    pub(super) fn dropped(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.dropped)
    }
}

/// The receiving side of the queue: messages in order, until every [`Queue`] is dropped.
#[derive(Debug)]
pub(crate) struct Queued<T> {
    messages: Receiver<T>,
    dropped: Arc<AtomicU64>,
}

impl<T> Queued<T> {
    /// Whether the queue is empty.
    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// The number of messages dropped so far.
    pub(super) fn dropped(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.dropped)
    }
}

impl<T> Iterator for Queued<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        self.messages.recv().ok()
    }
}

/// The end of a worker's thread.
#[derive(Clone, Debug)]
pub(crate) struct Ended {
    ended: Receiver<()>,
}

impl Ended {
    /// Waits for the thread's end. Returns whether it ended within `time`.
    pub(super) fn wait(&self, time: Duration) -> bool {
        // Messages are never sent on this channel: the thread signals its end by dropping its side.
        self.ended.recv_timeout(time) != Err(RecvTimeoutError::Timeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A full queue returns messages and counts them. The thread ends when its queue is dropped,
    /// after it has handled the queued messages.
    #[test]
    fn a_full_queue_drops_and_counts() {
        let (release, released) = crossbeam_channel::bounded::<()>(0);
        let (report, reported) = crossbeam_channel::bounded(3);
        let Worker { queue, ended } = Worker::start("test", 2, move |queued| {
            // The queue is not read until the test has filled it.
            let _ = released.recv();
            queued.for_each(|number: u32| report.send(number).expect("room"));
        })
        .expect("a thread");
        let refused: Vec<_> = (1..=4).filter_map(|number| queue.offer(number).err()).collect();
        assert_eq!(refused, [3, 4]);
        assert!(!queue.nudge(5), "it is left out, and not counted");
        assert_eq!(queue.dropped().load(Ordering::Relaxed), 2);
        assert!(!ended.wait(Duration::ZERO));
        drop(release);
        queue.insist(5, Duration::from_secs(30)).expect("the thread makes room");
        drop(queue);
        assert!(ended.wait(Duration::from_secs(30)));
        assert_eq!(reported.iter().collect::<Vec<_>>(), [1, 2, 5]);
    }

    /// A thread that has ended refuses messages, even if its queue had room.
    #[test]
    fn an_ended_thread_refuses() {
        let Worker { queue, ended } = Worker::start("test", 2, drop).expect("a thread");
        assert!(ended.wait(Duration::from_secs(30)));
        assert_eq!(queue.offer(1), Err(1));
        assert_eq!(queue.insist(2, Duration::ZERO), Err(2));
    }
}
