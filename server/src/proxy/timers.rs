//! Deadlines as data: a heap of (time, connection), re-armed lazily.
//!
//! A connection's deadline changes with every event. Of its entries in the heap only the one at
//! `Entry::armed` counts; the others are stale and are dropped when they are due. When the entry is
//! due, the proxy compares it with the connection's current deadline, and adds a new entry for a
//! later deadline. A busy connection therefore costs one heap operation per shortest timeout, not
//! one per request.
//!
//! The layout hints are explained in `proxy/mod.rs`.
use std::cmp::Reverse;
use std::collections::BinaryHeap;

use intelliproxy_core::Instant;

use super::conn::ConnTable;
use super::id::ConnId;

/// Entries that are due or pending.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<(Instant, ConnId)>>,
}

impl Timers {
    /// Ensures that `conn` is checked no later than `at`. `armed` is the time of its current check.
    #[inline]
    pub(crate) fn arm(&mut self, armed: &mut Instant, conn: ConnId, at: Instant) {
        if at < *armed {
            *armed = at;
            self.push(conn, at);
        }
    }

    /// This is cold, because it runs once per shortest timeout, not once per request.
    #[cold]
    fn push(&mut self, conn: ConnId, at: Instant) {
        self.heap.push(Reverse((at, conn)));
    }

    /// Returns the next connection to check now, once for each time that it was armed. Drops stale
    /// entries meanwhile.
    pub(crate) fn due(&mut self, table: &mut ConnTable, now: Instant) -> Option<ConnId> {
        while let Some(&Reverse((at, conn))) = self.heap.peek() {
            if at > now {
                return None;
            }
            self.heap.pop();
            if let Some(entry) = table.get_mut(conn)
                && entry.armed == at
            {
                entry.armed = Instant::FAR_FUTURE;
                return Some(conn);
            }
        }
        None
    }

    /// Returns the time at which the next entry is due.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|&Reverse((at, _))| at)
    }
}

/// Returns the earliest of `times`; `None` without any. [`Instant::FAR_FUTURE`] counts as `None`.
/// The loop iterates over references, because an iterator that owns the array is not unrolled: it
/// took about 125 instructions of each turn for the deadlines of the proxy, instead of at most 43.
#[inline(always)]
pub(crate) fn earliest<const N: usize>(times: [Option<Instant>; N]) -> Option<Instant> {
    let mut first = Instant::FAR_FUTURE;
    for at in &times {
        first = first.min(at.unwrap_or(Instant::FAR_FUTURE));
    }
    (first < Instant::FAR_FUTURE).then_some(first)
}
