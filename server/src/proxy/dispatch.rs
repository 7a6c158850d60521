//! Finds backends and connections for requests: calls the router, takes an idle connection from the
//! pool, or dials the addresses of the backend in turn. Requests that have to wait for a backend
//! are in `queue.rs`.
//!
//! The layout hints are explained in `proxy/mod.rs`.
use std::time::Duration;

use intelliproxy_core::{BackendId, Instant, Lease, NoRoute};

use super::conn::{Conn, Upstream};
use super::id::ConnId;
use super::session::{Bound, Reuse, Session};
use super::upstreams::Attempt;
use super::{Action, ConnectFailure, Proxy};
use crate::http::UpstreamError;

impl Proxy {
    /// Finds a backend and a connection to it for the waiting request.
    pub(super) fn dispatch(&mut self, now: Instant, id: ConnId) {
        let Some(session) = self.table.session_mut(id) else {
            return;
        };
        let reuse = session.reuse();
        if reuse == Reuse::Bound {
            return self.dispatch_bound(now, id);
        }
        // A new request does not overtake waiting ones. A request that was sent to a backend before
        // has already waited.
        let must_wait = !self.queue.is_empty() && session.tried().is_empty();
        if must_wait || !self.dispatch_freely(now, id, reuse) {
            self.enqueue(now, id);
        }
    }

    /// Dispatches the first request of the queue. Returns whether it leaves the queue.
    pub(super) fn dispatch_waiting(&mut self, now: Instant, id: ConnId) -> bool {
        let reuse = self.table.session_mut(id).map(|session| session.reuse());
        // A session that has ended needs no backend, and leaves the queue.
        reuse.is_none_or(|reuse| self.dispatch_freely(now, id, reuse))
    }

    /// Finds a backend and a connection for a request. Returns false if every backend is full.
    fn dispatch_freely(&mut self, now: Instant, id: ConnId, reuse: Reuse) -> bool {
        let Some(session) = self.table.session_mut(id) else {
            return true;
        };
        let asker = session.asker(&self.shared);
        let key = session.sticky().and_then(|sticky| sticky.key(&self.upstreams));
        let routed = self.upstreams.route(now, session.tried(), asker, key);
        self.drain_router(now);
        let lease = match routed {
            Ok(lease) => lease,
            Err(reason) => {
                self.note_decision(id);
                // Not an error yet: the request waits for room.
                if reason == NoRoute::Full {
                    return false;
                }
                if let Some(session) = self.table.session_mut(id) {
                    session.handle_unroutable(now, &mut self.shared);
                }
                return true;
            }
        };
        let backend = lease.backend();
        if self.shared.affinity.is_some() {
            self.name_backend(id, &lease);
        }
        if self.shared.access.is_on() {
            self.note_route(now, id, &lease, false);
        }
        let pooled = self.take_idle(now, id, backend, reuse);
        let Some(session) = self.table.session_mut(id) else {
            return true;
        };
        session.handle_routed(now, lease, self.upstreams.authority(backend), &mut self.shared);
        match pooled {
            Some(conn) => session.handle_linked(now, conn, true),
            None => {
                self.dial(now, id, backend, self.upstreams.first_attempt(backend));
            }
        }
        true
    }

    /// Sends the waiting request over the client's own connection. All other backends are passed as
    /// tried, so the router counts it for the backend of that connection.
    #[cold]
    fn dispatch_bound(&mut self, now: Instant, id: ConnId) {
        let Some(session) = self.table.session_mut(id) else { return };
        let Some(Bound { conn, backend }) = session.take_bound() else { return };
        let attempt = self.table.upstream_mut(conn).map(|upstream| upstream.attempt);
        let routed = self.upstreams.route_to(now, backend, attempt);
        self.drain_router(now);
        if let Some(lease) = &routed {
            self.note_route(now, id, lease, true);
        }
        let Some(session) = self.table.session_mut(id) else { return };
        let Some(lease) = routed else {
            // The backend identifies the client only by this connection.
            session.handle_unbound(now, &mut self.shared);
            return self.close(conn, false);
        };
        session.handle_bound(now, lease, conn, self.upstreams.authority(backend), &mut self.shared);
        self.shared.actions.push_back(Action::Look { conn });
    }

    /// Stores a session's backend in the response's cookie.
    #[cold]
    fn name_backend(&mut self, id: ConnId, lease: &Lease) {
        let sticky = self.table.session_mut(id).and_then(Session::sticky_mut);
        if let (Some(affinity), Some(sticky)) = (&mut self.shared.affinity, sticky) {
            affinity.name_backend(sticky, lease, &self.upstreams);
        }
    }

    /// Gives the session an idle connection to the backend if its request may use one.
    fn take_idle(
        &mut self,
        now: Instant,
        id: ConnId,
        backend: BackendId,
        reuse: Reuse,
    ) -> Option<ConnId> {
        if reuse != Reuse::Any && !self.takes_delicate(now, backend, reuse) {
            return None;
        }
        let idle = self.shared.config.pool.idle;
        loop {
            let conn = self.upstreams.take_idle(backend)?;
            let upstream = self.table.upstream_mut(conn)?;
            // It may have expired before its timer was handled.
            if upstream.idle_until(idle) <= now {
                self.close(conn, false);
                continue;
            }
            upstream.session = Some(id);
            if reuse != Reuse::Any {
                self.shared.actions.push_back(Action::Look { conn });
            }
            return Some(conn);
        }
    }

    /// Whether a request that may not be sent again may use an idle connection, which may turn out
    /// to be closed (K4). The first request of a client may do so only if the backend is known to
    /// keep connections: no check can detect a backend that closes after each response.
    #[cold]
    fn takes_delicate(&mut self, now: Instant, backend: BackendId, reuse: Reuse) -> bool {
        if reuse == Reuse::Fresh {
            return false;
        }
        // The first connection has been idle longest; requests use the last one first.
        let (first, last) = match self.upstreams.idle(backend) {
            [] => return false,
            [only] => (*only, *only),
            [first, .., last] => (*first, *last),
        };
        let is_proven =
            self.table.upstream_mut(last).is_some_and(|upstream| upstream.exchanges > 1);
        let oldest = self.table.upstream_mut(first).map_or(now, |upstream| upstream.idle_since);
        reuse == Reuse::Look || is_proven || now.since(oldest) >= KEPT_AFTER
    }

    /// Handles a refusal before any of it was forwarded: sends the request to another backend that
    /// is up and is not held by a refusal. If no such backend exists, the refusal becomes the
    /// response.
    #[cold]
    pub(super) fn ask_elsewhere(&mut self, now: Instant, id: ConnId) {
        let Some(session) = self.table.session_mut(id) else {
            return;
        };
        let has_other = self.upstreams.has_other(now, &session.refused_by());
        session.handle_refused_by(now, has_other, &mut self.shared);
    }

    /// Requests a connection to one of the backend's addresses.
    pub(super) fn dial(&mut self, now: Instant, id: ConnId, backend: BackendId, attempt: Attempt) {
        let Some(address) = self.upstreams.address(backend, attempt) else {
            if let Some(session) = self.table.session_mut(id) {
                session.handle_unlinked(now, UpstreamError::Unreachable, &mut self.shared);
            }
            return;
        };
        self.make_room_for_upstream();
        let upstream = Upstream {
            backend,
            session: Some(id),
            idle_since: now,
            kept_until: Instant::FAR_FUTURE,
            exchanges: 0,
            attempt,
        };
        let conn = self.table.insert(|_| Conn::Upstream(upstream));
        if let Some(session) = self.table.session_mut(id) {
            session.handle_dialling(now, conn);
        }
        self.shared.actions.push_back(Action::Connect { conn, address });
    }

    /// Handles a failed connection: tries the next address, or passes the failure to the session.
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
        // The lease stays: the router learns of a failure only if every address fails.
        let next = attempt.after(error);
        if self.upstreams.address(backend, next).is_some() {
            self.dial(now, id, backend, next);
        } else if let Some(session) = self.table.session_mut(id) {
            let error = next.error(error);
            if error == UpstreamError::Refused {
                let has_next = self.upstreams.has_next(now, &session.refused_by());
                session.handle_gone(has_next);
            }
            session.handle_unlinked(now, error, &mut self.shared);
        }
    }

    /// Handles a new connection: if another address failed before, this one is tried first the next
    /// time.
    pub(super) fn prefer(&mut self, conn: ConnId) {
        if let Some(&mut Upstream { backend, attempt, .. }) = self.table.upstream_mut(conn)
            && attempt.is_further()
        {
            self.upstreams.prefer(backend, attempt);
        }
    }

    /// Releases an upstream connection: keeps it for the next request, or closes it.
    #[inline(always)]
    pub(super) fn release(&mut self, now: Instant, conn: ConnId, kept: Option<Duration>) {
        let rules = self.shared.config.pool;
        let Some(entry) = self.table.get_mut(conn) else { return };
        let Conn::Upstream(upstream) = &mut entry.conn else { return };
        upstream.session = None;
        upstream.exchanges = upstream.exchanges.saturating_add(1);
        upstream.idle_since = now;
        upstream.kept_until = now + kept.unwrap_or_default();
        let ends = upstream.idle_until(rules.idle);
        let (backend, attempt) = (upstream.backend, &upstream.attempt);
        let is_kept = kept.is_some()
            && !self.shared.is_stopping
            && self.upstreams.keep_idle(backend, attempt, conn, rules.idle_per_backend);
        if is_kept {
            self.timers.arm(&mut entry.armed, conn, ends);
        } else {
            self.close(conn, false);
        }
    }

    pub(super) fn discard_idle(&mut self, backend: BackendId, conn: ConnId) {
        self.upstreams.forget_idle(backend, conn);
        self.close(conn, false);
    }
}

/// Idle time after which an open connection shows that its backend does not close after each
/// response. The end of a connection takes much less time to arrive.
const KEPT_AFTER: Duration = Duration::from_millis(100);

/// Translates a failure to connect into the request's error.
pub(super) const fn connect_error(failure: ConnectFailure) -> UpstreamError {
    match failure {
        ConnectFailure::Refused => UpstreamError::Refused,
        ConnectFailure::Exhausted => UpstreamError::Exhausted,
        ConnectFailure::Handshake(fault) => UpstreamError::Handshake(fault),
        ConnectFailure::Unreachable => UpstreamError::Unreachable,
    }
}
