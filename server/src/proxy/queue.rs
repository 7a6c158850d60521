//! Requests that wait because every backend has the maximum number of requests in flight
//! (`limits.perBackend`).
//!
//! The queue is first in, first out. A new request is added at the back; one that waited before its
//! last attempt returns to its place. When a request at a backend ends or a backend comes up, the
//! front one continues. At most `limits.queueLength` requests wait, and none after `limits.queueMs`
//! from its first wait. A request beyond any of these limits gets 503 with Retry-After. An entry
//! whose request has ended is skipped: its ticket differs from that of its session.
//!
//! The layout hints are explained in `proxy/mod.rs`.
use std::collections::VecDeque;
use std::time::Duration;

use intelliproxy_core::Instant;

use super::Proxy;
use super::id::ConnId;
use crate::http::UpstreamError;
use crate::pages::QueueCounts;
use crate::pages::metrics::Histogram;

/// The requests that wait.
#[derive(Debug, Default)]
pub(super) struct Queue {
    entries: VecDeque<Entry>,
    tickets: u64,
    is_serving: bool,
    purged_at: Instant,
    counts: QueueCounts,
    /// Waiting times of requests.
    wait: Histogram,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    conn: ConnId,
    ticket: u64,
    since: Instant,
    deadline: Instant,
}

impl Queue {
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns the time at which [`Proxy::expire_queue`] is due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.entries.front().map(|entry| entry.deadline)
    }

    pub(super) const fn counts(&self) -> QueueCounts {
        self.counts
    }

    /// Returns the number of waiting requests; their clients may have abandoned some.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) const fn wait(&self) -> &Histogram {
        &self.wait
    }
}

impl Proxy {
    /// Adds a request that must wait because every backend is full or other requests are waiting.
    /// It gets 503 if the queue is full.
    #[cold]
    pub(super) fn enqueue(&mut self, now: Instant, id: ConnId) {
        let limits = self.shared.config.limits;
        let is_long = self.queue.entries.len() >= limits.queue_length;
        if is_long && now.since(self.queue.purged_at) >= PURGES_APART {
            self.queue.purged_at = now;
            let table = &mut self.table;
            self.queue.entries.retain(|entry| {
                let session = table.session_mut(entry.conn);
                session.is_some_and(|session| session.holds_ticket(entry.ticket))
            });
        }
        let is_full = self.queue.entries.len() >= limits.queue_length;
        let Some(session) = self.table.session_mut(id) else { return };
        if is_full {
            self.queue.counts.refused += 1;
            return session.handle_unlinked(now, UpstreamError::QueueFull, &mut self.shared);
        }
        self.queue.counts.waited += 1;
        self.queue.tickets += 1;
        let ticket = self.queue.tickets;
        // A request that waited before keeps its deadline, and with it its place.
        let deadline = session.take_ticket(now, ticket, now + limits.queue);
        if deadline <= now {
            self.queue.counts.timed_out += 1;
            return session.handle_unlinked(now, UpstreamError::QueueTimeout, &mut self.shared);
        }
        let entries = &mut self.queue.entries;
        let place = entries.partition_point(|entry| entry.deadline <= deadline);
        entries.insert(place, Entry { conn: id, ticket, since: now, deadline });
    }

    /// Dispatches waiting requests in order, as long as a backend has room.
    #[cold]
    pub(super) fn serve_queue(&mut self, now: Instant) {
        if self.queue.is_serving {
            return;
        }
        self.queue.is_serving = true;
        while let Some(&Entry { conn, ticket, since, .. }) = self.queue.entries.front() {
            let session = self.table.session_mut(conn);
            if session.is_some_and(|session| session.holds_ticket(ticket)) {
                if !self.dispatch_waiting(now, conn) {
                    break;
                }
                self.queue.entries.pop_front();
                self.queue.wait.add(now.since(since));
                self.serve(now, conn);
            } else {
                self.queue.entries.pop_front();
            }
        }
        self.queue.is_serving = false;
    }

    /// Ends waits that are too long, and continues other requests as long as a backend has room.
    pub(super) fn expire_queue(&mut self, now: Instant) {
        while let Some(&Entry { conn, ticket, since, deadline }) = self.queue.entries.front() {
            if deadline > now {
                return self.serve_queue(now);
            }
            self.queue.entries.pop_front();
            let Some(session) = self.table.session_mut(conn) else { continue };
            if session.holds_ticket(ticket) {
                self.queue.counts.timed_out += 1;
                self.queue.wait.add(now.since(since));
                session.handle_unlinked(now, UpstreamError::QueueTimeout, &mut self.shared);
                self.serve(now, conn);
            }
        }
    }
}

/// The shortest time between two searches of a full queue for abandoned requests.
const PURGES_APART: Duration = Duration::from_millis(10);
