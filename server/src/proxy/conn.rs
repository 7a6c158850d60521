//! The connection table: the purpose of each connection.
//!
//! The layout hints are explained in `proxy/mod.rs`.
use std::time::Duration;

use intelliproxy_core::{BackendId, Instant};
use slab::Slab;

use super::id::ConnId;
use super::probe::ProbeExchange;
use super::session::Session;
use super::upstreams::Attempt;

/// Purpose of a connection.
#[derive(Debug)]
pub(crate) enum Conn {
    /// To a client; its session also holds the bytes of the upstream it uses.
    Client(Box<Session>),
    /// To a backend.
    Upstream(Upstream),
    /// For a single probe.
    Probe(Box<ProbeExchange>),
}

/// A connection to a backend.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Upstream {
    pub(crate) backend: BackendId,
    /// The session that uses it or is bound to it; `None` while it is idle in the pool.
    pub(crate) session: Option<ConnId>,
    /// The time at which it last became idle; the time of dialling before its first exchange.
    pub(crate) idle_since: Instant,
    /// The time until which it may stay idle according to the backend's last response (K2); the far
    /// future if the response did not limit it.
    pub(crate) kept_until: Instant,
    /// Exchanges that it has carried.
    pub(crate) exchanges: u32,
    /// The backend's address to which it is connected or being dialled.
    pub(crate) attempt: Attempt,
}

impl Upstream {
    /// Returns the time at which an idle connection is closed if it may be kept for `idle`.
    #[inline]
    pub(crate) fn idle_until(&self, idle: Duration) -> Instant {
        (self.idle_since + idle).min(self.kept_until)
    }
}

#[derive(Debug)]
pub(crate) struct Entry {
    generation: u32,
    pub(crate) conn: Conn,
    /// The time of its next check, which is its earliest entry in
    /// [`Timers`](super::timers::Timers); [`Instant::FAR_FUTURE`] without a deadline.
    pub(crate) armed: Instant,
    /// Whether it is in the list that `Proxy::poll_dirty` drains.
    pub(crate) is_dirty: bool,
    /// Whether the driver has unread bytes of it.
    pub(crate) is_unread: bool,
    /// Whether its deadline has passed and is checked after the waiting bytes have been read.
    pub(crate) is_put_off: bool,
}

/// All connections.
#[derive(Debug, Default)]
pub(crate) struct ConnTable {
    entries: Slab<Entry>,
    generation: u32,
}

impl ConnTable {
    /// Adds a connection that `make` builds from its id.
    pub(crate) fn insert(&mut self, make: impl FnOnce(ConnId) -> Conn) -> ConnId {
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        let vacant = self.entries.vacant_entry();
        // A slot number beyond 2^32 would need as many open sockets.
        let id = ConnId::new(vacant.key() as u32, generation);
        vacant.insert(Entry {
            generation,
            conn: make(id),
            armed: Instant::FAR_FUTURE,
            is_dirty: false,
            is_unread: false,
            is_put_off: false,
        });
        id
    }

    /// Removes a connection; `None` if it no longer exists.
    #[inline]
    pub(crate) fn remove(&mut self, id: ConnId) -> Option<Conn> {
        self.get_mut(id)?;
        Some(self.entries.remove(id.slot()).conn)
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, id: ConnId) -> Option<&mut Entry> {
        match self.entries.get_mut(id.slot()) {
            Some(entry) if entry.generation == id.generation() => Some(entry),
            _ => None,
        }
    }

    #[inline]
    pub(crate) fn get(&self, id: ConnId) -> Option<&Entry> {
        match self.entries.get(id.slot()) {
            Some(entry) if entry.generation == id.generation() => Some(entry),
            _ => None,
        }
    }

    #[inline]
    pub(crate) fn session_mut(&mut self, id: ConnId) -> Option<&mut Session> {
        match self.get_mut(id) {
            Some(Entry { conn: Conn::Client(session), .. }) => Some(session),
            _ => None,
        }
    }

    pub(crate) fn upstream_mut(&mut self, id: ConnId) -> Option<&mut Upstream> {
        match self.get_mut(id) {
            Some(Entry { conn: Conn::Upstream(upstream), .. }) => Some(upstream),
            _ => None,
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (ConnId, &Conn)> {
        self.entries
            .iter()
            .map(|(slot, entry)| (ConnId::new(slot as u32, entry.generation), &entry.conn))
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}
