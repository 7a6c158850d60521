//! From a request that waits to a connection that carries it, and back: routing, the pool, dialling
//! one address of a backend after the other.
use std::hint::cold_path;

use intelliproxy_core::{BackendId, Instant};

use super::conn::{Conn, ConnId, Upstream};
use super::places::Attempt;
use super::{Action, ConnectFailure, Proxy};
use crate::http::UpstreamError;

impl Proxy {
    /// Finds a backend, and a connection to it, for the request that waits.
    pub(super) fn dispatch(&mut self, now: Instant, id: ConnId) {
        let Some(session) = self.table.session_mut(id) else {
            return;
        };
        let routed = self.router.route(now, session.tried());
        self.drain_router(now);
        let Ok(lease) = routed else {
            cold_path();
            if let Some(session) = self.table.session_mut(id) {
                session.handle_unroutable(now, &mut self.shared);
            }
            return;
        };
        self.leases += 1;
        let backend = lease.backend();
        let pooled = self.pool.take(backend);
        if let Some(upstream) = pooled.and_then(|conn| self.table.upstream_mut(conn)) {
            upstream.session = Some(id);
        }
        let Some(session) = self.table.session_mut(id) else {
            return;
        };
        session.handle_routed(now, lease, self.places.authority(backend), &mut self.shared);
        match pooled {
            Some(conn) => session.handle_linked(now, conn, true),
            None => {
                cold_path();
                self.dial(now, id, backend, self.places.first_attempt(backend));
            }
        }
    }

    /// Asks for a connection to one of the backend's addresses.
    #[inline(never)]
    pub(super) fn dial(&mut self, now: Instant, id: ConnId, backend: BackendId, attempt: Attempt) {
        let Some(address) = self.places.address(backend, attempt) else {
            if let Some(session) = self.table.session_mut(id) {
                session.handle_unlinked(now, UpstreamError::Unreachable, &mut self.shared);
            }
            return;
        };
        let conn = self.table.insert(|_| {
            Conn::Upstream(Upstream { backend, session: Some(id), idle_since: now, attempt })
        });
        if let Some(session) = self.table.session_mut(id) {
            session.handle_dialling(now, conn);
        }
        self.shared.actions.push_back(Action::Connect { conn, address });
    }

    /// A connection could not be made: the next address is tried, or the session told.
    pub(super) fn redirect(
        &mut self,
        now: Instant,
        id: ConnId,
        conn: ConnId,
        error: UpstreamError,
    ) {
        let Some(&mut Upstream { backend, attempt, .. }) = self.table.upstream_mut(conn) else {
            return;
        };
        self.close(conn, false);
        let Some(session) = self.table.session_mut(id) else {
            return;
        };
        session.handle_undialled();
        if self.places.address(backend, attempt.next()).is_some() {
            self.dial(now, id, backend, attempt.next());
        } else if let Some(session) = self.table.session_mut(id) {
            session.handle_unlinked(now, error, &mut self.shared);
        }
    }

    /// A connection was made: its address is the first to be tried next time.
    pub(super) fn prefer(&mut self, conn: ConnId) {
        if let Some(&mut Upstream { backend, attempt, .. }) = self.table.upstream_mut(conn)
            && attempt.is_further()
        {
            self.places.prefer(backend, attempt);
        }
    }

    /// An upstream connection is not used any more: it is kept for the next request, or closed.
    #[inline(always)]
    pub(super) fn release(&mut self, now: Instant, conn: ConnId, is_reusable: bool) {
        let rules = self.shared.config.pool;
        let Some(entry) = self.table.get_mut(conn) else { return };
        let Conn::Upstream(upstream) = &mut entry.conn else { return };
        upstream.session = None;
        upstream.idle_since = now;
        let &mut Upstream { backend, attempt, .. } = upstream;
        let is_kept = is_reusable
            && !self.shared.is_stopping
            && self.places.is_current(backend, attempt)
            && self.pool.put(backend, conn, rules.idle_per_backend);
        if is_kept {
            self.timers.arm(&mut entry.armed, conn, now + rules.idle);
        } else {
            cold_path();
            self.close(conn, false);
        }
    }

    pub(super) fn discard_idle(&mut self, backend: BackendId, conn: ConnId) {
        self.pool.remove(backend, conn);
        self.close(conn, false);
    }
}

/// What a failure to connect means for a request.
pub(super) const fn connect_error(failure: ConnectFailure) -> UpstreamError {
    match failure {
        ConnectFailure::Refused => UpstreamError::Refused,
        ConnectFailure::Unreachable => UpstreamError::Unreachable,
    }
}
