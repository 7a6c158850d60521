//! Bounds on connections. The bound on clients leaves room for their upstreams and for probes.
//! `give_way.rs` chooses the clients that are closed for new ones.
//!
//! The layout hints are explained in `proxy/mod.rs`.
use std::net::SocketAddr;

use intelliproxy_core::Instant;

use super::conn::Conn;
use super::id::ConnId;
use super::{Excess, Full, Notice, Proxy};
use crate::config::Overflow;

/// The bounds on connections.
#[derive(Debug)]
pub(super) struct Room {
    /// Connections of all kinds that the driver's system allows.
    connections_max: usize,
    /// Maximum number of clients: `limits.clients`, or fewer if their upstreams would otherwise
    /// have no room.
    pub(super) clients_max: usize,
    /// The maximum number of clients that are refused with 503 and still connected: it leaves room
    /// for clients, upstreams and probes, but is at least [`TURNED_AWAY_MAX`].
    turned_away_max: usize,
    /// The `connections_max` for which a `clients_max` below `limits.clients` was last reported;
    /// `None` if it is not below. The number of backends also affects `clients_max`, but its
    /// changes are not reported.
    reported: Option<usize>,
}

impl Room {
    pub(super) const fn new(clients_max: usize) -> Self {
        let (connections_max, turned_away_max) = (usize::MAX, usize::MAX);
        Self { connections_max, clients_max, turned_away_max, reported: None }
    }
}

/// The number of refused clients that stay connected until they have read their response. Beyond
/// it, a client over its own limit is reset at once instead of getting 429, so that refusals take
/// few descriptors. A client without room gets 503. It is reset instead only if its descriptor is
/// needed, see [`Room`].
const TURNED_AWAY_MAX: usize = 64;

impl Proxy {
    /// Admits a client that was just accepted, or refuses it because there is no room or because it
    /// exceeds its own limit.
    pub(super) fn admit(&mut self, now: Instant, id: ConnId, peer: SocketAddr) {
        let is_over = self.shared.per_client.limits_connections() && !self.count_connection(id);
        let is_stopping = self.shared.is_stopping;
        let is_full = !is_over
            && !is_stopping
            && self.admitted() >= self.room.clients_max
            && !self.make_room(now);
        self.clients += 1;
        self.counters.incidents.accepted += 1;
        if is_over {
            self.notify(Notice::ClientLimited { peer, excess: Excess::Connections });
            self.turn_away(now, id, 429);
        } else if is_full || is_stopping {
            let full = is_full.then(|| self.full());
            self.notify(Notice::ClientRefused { peer, full });
            self.turn_away(now, id, 503);
        } else {
            self.give_way.add(now, id, self.clients, &self.table);
        }
    }

    /// Counts the connection of a new client by its address. Returns whether the client may have
    /// it.
    #[cold]
    fn count_connection(&mut self, id: ConnId) -> bool {
        let session = self.table.session_mut(id);
        session.is_none_or(|session| session.count_connection(&mut self.shared))
    }

    #[cold]
    fn turn_away(&mut self, now: Instant, id: ConnId, status: u16) {
        let most = if status == 503 { self.room.turned_away_max } else { TURNED_AWAY_MAX };
        let is_answered = self.refused < most;
        let Some(session) = self.table.session_mut(id) else { return };
        if is_answered {
            session.handle_refused(now, status, &mut self.shared);
            self.refused += 1;
        } else {
            session.handle_way_given(true);
        }
    }

    /// Sets the number of connections of all kinds that the driver's system has room for: clients,
    /// upstreams and probes. Must be called before the first client, and may be called again.
    pub fn limit_connections(&mut self, connections_max: usize) {
        self.room.connections_max = connections_max;
        self.derive_clients_max();
    }

    /// Applies the limits of a new configuration: reports clients beyond a lower limit, and closes
    /// the idle ones among them.
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

    /// Derives how many clients are admitted. Reports it if it is newly less than `limits.clients`,
    /// or if the driver's room has changed.
    fn derive_clients_max(&mut self) {
        let limit = self.shared.config.limits.clients;
        let connections = self.room.connections_max;
        // One ping and one report for each backend, as at startup.
        let probes = (2 * self.upstreams.configured().len()).min(connections / 4);
        // Each client may need an upstream at the same time.
        let derived = ((connections - probes) / 2).max(1);
        let clients_max = limit.min(derived);
        self.room.clients_max = clients_max;
        let spare = (connections - probes).saturating_sub(clients_max.saturating_mul(2));
        self.room.turned_away_max = spare.max(TURNED_AWAY_MAX);
        let reported = (derived < limit).then_some(connections);
        if std::mem::replace(&mut self.room.reported, reported) != reported && reported.is_some() {
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

    /// Returns the bound that limits the number of clients.
    #[cold]
    pub(super) fn full(&self) -> Full {
        let clients_max = self.room.clients_max;
        if clients_max < self.shared.config.limits.clients {
            Full::OpenFiles { clients_max }
        } else {
            Full::Clients
        }
    }

    /// If all descriptors are in use, closes the least recently used idle connection, to make room
    /// for a connection to a backend.
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
