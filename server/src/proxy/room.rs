//! Bounds on connections. The number of clients leaves room for the upstreams and probes that they
//! need.
use intelliproxy_core::Instant;

use super::conn::Conn;
use super::{Full, Notice, Proxy};
use crate::config::Overflow;

/// The bounds on connections.
#[derive(Debug)]
pub(super) struct Room {
    /// Connections of all kinds that the driver's system allows.
    connections_max: usize,
    /// Clients: `limits.clients`, or fewer if their upstreams would have no room otherwise.
    pub(super) clients_max: usize,
    /// The same where it is less than `limits.clients`, as reported.
    reported: Option<usize>,
}

impl Room {
    pub(super) const fn new(clients_max: usize) -> Self {
        Self { connections_max: usize::MAX, clients_max, reported: None }
    }
}

impl Proxy {
    /// Sets the number of connections of all kinds that the driver's system has room for: clients,
    /// upstreams and probes. Must be called before any other method.
    pub fn limit_connections(&mut self, connections_max: usize) {
        self.room.connections_max = connections_max;
        self.derive_clients_max();
    }

    /// Takes the limits of a new configuration: clients beyond a lower one are reported, and the
    /// idle ones among them closed.
    pub(super) fn limit_clients(&mut self, now: Instant) {
        let before = self.room.clients_max;
        self.derive_clients_max();
        let clients = self.admitted();
        if self.room.clients_max < before.min(clients) {
            let clients_max = self.room.clients_max;
            self.notify(Notice::ClientsInExcess { clients, clients_max });
        }
        self.close_excess(now);
    }

    /// Derives how many clients are admitted.
    fn derive_clients_max(&mut self) {
        let limit = self.shared.config.limits.clients;
        let connections = self.room.connections_max;
        // One ping and one report for each backend; all at once only at the start.
        let probes = (2 * self.upstreams.configured().len()).min(connections / 4);
        // Each client may need an upstream at the same time.
        let derived = ((connections - probes) / 2).max(1);
        self.room.clients_max = limit.min(derived);
        let lower = (derived < limit).then_some(derived);
        if std::mem::replace(&mut self.room.reported, lower) != lower
            && let Some(clients_max) = lower
        {
            self.notify(Notice::ClientsLimited { limit, clients_max });
        }
    }

    /// Whether another client may be accepted now. With `overflow: reject` one more is always
    /// accepted: it gets 503.
    pub fn accepts(&self) -> bool {
        !self.shared.is_stopping
            && (self.shared.config.overflow == Overflow::Reject
                || self.admitted() < self.room.clients_max)
    }

    /// Returns the number of clients that may be connected at the same time.
    pub fn clients_max(&self) -> usize {
        self.room.clients_max
    }

    /// Returns the bound that limits the clients.
    #[cold]
    pub(super) fn full(&self) -> Full {
        let clients_max = self.room.clients_max;
        if clients_max < self.shared.config.limits.clients {
            Full::OpenFiles { clients_max }
        } else {
            Full::Clients
        }
    }

    /// Makes room for one more connection to a backend: if all descriptors are in use, closes the
    /// least recently used idle connection.
    #[inline]
    pub(super) fn make_room_for_upstream(&mut self) {
        if self.table.len() >= self.room.connections_max {
            self.close_oldest_idle();
        }
    }

    #[cold]
    fn close_oldest_idle(&mut self) {
        let table = &self.table;
        let idle = self.upstreams.oldest_idle().filter_map(|conn| match &table.get(conn)?.conn {
            Conn::Upstream(upstream) => Some((upstream.idle_since, conn, upstream.backend)),
            Conn::Client(_) | Conn::Probe(_) => None,
        });
        if let Some((_, conn, backend)) = idle.min_by_key(|&(since, conn, _)| (since, conn)) {
            self.discard_idle(backend, conn);
        }
    }
}
