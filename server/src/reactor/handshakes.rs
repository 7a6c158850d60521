//! TLS handshakes in progress. A handshake costs as much as ten requests or more, so each turn runs
//! only some handshake steps; the others wait.
//!
//! From its acceptance on, a client counts like any other: for `limits.clients`, for its own
//! limits, and as a client that may give way. Until its handshake is complete, no byte passes
//! between the client and its session.
//!
//! The layout hints are explained in `proxy/mod.rs`.
use std::collections::VecDeque;
use std::time::Duration;

use intelliproxy_core::Instant;

use super::Reactor;
use super::socket::Shaken;
use crate::proxy::{ConnId, ConnectFailure};

/// Once handshake steps have taken this long, a turn begins no further step. One step takes 0.1 ms
/// with a P-256 key and 1 ms with an RSA key. So a turn makes at least one step, and other clients
/// wait for at most one step more.
const TURN: Duration = Duration::from_micros(100);
/// The time after which a handshake may be closed for another one.
const GRACE: Duration = Duration::from_secs(1);

/// The handshakes in progress.
#[derive(Debug)]
pub(super) struct Handshakes {
    /// Connections whose handshakes can continue.
    ready: VecDeque<ConnId>,
    /// Client handshakes with their start times, the oldest first. Some may already have ended.
    clients: VecDeque<(Instant, ConnId)>,
    /// The number of client handshakes.
    count: usize,
    /// The time at which the oldest client handshake is closed.
    expires_at: Instant,
}

impl Handshakes {
    pub(super) const fn new() -> Self {
        Self {
            ready: VecDeque::new(),
            clients: VecDeque::new(),
            count: 0,
            expires_at: Instant::FAR_FUTURE,
        }
    }

    /// Whether any handshake can continue, or is due to be closed.
    #[inline]
    pub(super) fn are_due(&self, now: Instant) -> bool {
        !self.ready.is_empty() || self.expires_at <= now
    }

    /// Whether any handshake can continue now.
    #[inline]
    pub(super) fn are_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// The time at which a turn is due even if nothing happens.
    #[inline]
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        (self.expires_at < Instant::FAR_FUTURE).then_some(self.expires_at)
    }

    /// Records that a client handshake has ended.
    pub(super) const fn leave(&mut self) {
        self.count -= 1;
    }
}

impl Reactor {
    /// Records that a client handshake begins.
    pub(super) fn begin_handshake(&mut self, conn: ConnId) {
        self.handshakes.count += 1;
        self.handshakes.clients.push_back((self.now, conn));
        self.note_expiry();
    }

    /// Whether no other client may begin a handshake.
    pub(super) fn are_handshakes_full(&self) -> bool {
        self.handshakes.count >= self.proxy.config().limits.handshakes
    }

    /// Closes the oldest handshake, so that another client may begin one. Returns the time from
    /// which this is possible, if it is too early.
    #[cold]
    pub(super) fn make_handshake_room(&mut self) -> Option<Instant> {
        self.forget_ended();
        let &(begun, conn) = self.handshakes.clients.front()?;
        if begun + GRACE > self.now {
            return Some(begun + GRACE);
        }
        let wrong = "closed for another client, see limits.handshakes".to_owned();
        self.proxy.handle_unsecured(self.now, conn, wrong);
        self.flush();
        self.forget_ended();
        self.note_expiry();
        None
    }

    /// Lets a handshake continue in this turn or a later one.
    pub(super) fn queue_handshake(&mut self, conn: ConnId) {
        if let Some(socket) = self.socket(conn)
            && !socket.is_queued
        {
            socket.is_queued = true;
            if socket.is_outgoing {
                // A request or a probe waits for this connection. Its deadlines must not expire
                // before arrived bytes are read.
                self.proxy.handle_unread(conn, true);
                self.handshakes.ready.push_front(conn);
            } else {
                self.handshakes.ready.push_back(conn);
            }
        }
    }

    /// Continues handshakes for as long as a turn allows, and closes those whose time is up.
    #[cold]
    pub(super) fn shake(&mut self) {
        let end = self.clock.now() + TURN;
        for _ in 0..self.handshakes.ready.len() {
            let Some(conn) = self.handshakes.ready.pop_front() else { break };
            self.shake_one(conn);
            self.flush();
            if self.clock.now() >= end {
                break;
            }
        }
        let timeout = self.proxy.config().timeouts.handshake;
        self.forget_ended();
        while let Some(&(begun, conn)) = self.handshakes.clients.front()
            && begun + timeout <= self.now
        {
            self.handshakes.clients.pop_front();
            // Bytes that arrived in time are handled before the timeout.
            if self.socket(conn).is_some_and(|socket| socket.is_queued) {
                self.shake_one(conn);
            }
            if self.socket(conn).is_some_and(|socket| socket.is_handshaking()) {
                let wrong = "incomplete after timeouts.handshakeMs".to_owned();
                self.proxy.handle_unsecured(self.now, conn, wrong);
            }
            self.flush();
            self.forget_ended();
        }
        self.note_expiry();
    }

    /// Runs a step of each handshake that can continue.
    #[cold]
    pub(super) fn shake_all(&mut self) {
        for _ in 0..self.handshakes.ready.len() {
            let Some(conn) = self.handshakes.ready.pop_front() else { break };
            self.shake_one(conn);
            self.flush();
        }
    }

    fn shake_one(&mut self, conn: ConnId) {
        let Some(Some(socket)) = self.sockets.get_mut(conn.slot()) else { return };
        if socket.conn != conn || !socket.is_handshaking() {
            return;
        }
        socket.is_queued = false;
        let is_outgoing = socket.is_outgoing;
        if is_outgoing {
            self.proxy.handle_unread(conn, false);
        }
        match (socket.shake(&mut self.scratch, self.poll.registry()), is_outgoing) {
            (Shaken::Waits, _) => {}
            (Shaken::Continues, _) => self.queue_handshake(conn),
            (Shaken::Done, true) => {
                self.proxy.handle_connected(self.now, conn, Ok(()));
                // Bytes that arrived with the last message cause no further edge.
                if self.socket(conn).is_some_and(|socket| socket.is_readable) {
                    self.queue(conn);
                }
            }
            (Shaken::Failed(fault, _), true) => {
                let failure = Err(ConnectFailure::Handshake(fault));
                self.proxy.handle_connected(self.now, conn, failure);
            }
            (Shaken::Done, false) => {
                let secured = socket.secured.as_ref();
                if self.proxy.awaits_proxy_header(conn) {
                    let source = secured.and_then(|secured| secured.source());
                    self.proxy.handle_proxy_header(self.now, conn, source);
                }
                let identity = secured.and_then(|secured| secured.identity());
                if let Some(tls) = secured.and_then(|secured| secured.rules()) {
                    self.proxy.handle_secured(self.now, conn, tls, identity.as_ref());
                }
                self.handshakes.leave();
                if self.write(conn) {
                    self.read(conn);
                }
            }
            (Shaken::Failed(_, wrong), false) => self.proxy.handle_unsecured(self.now, conn, wrong),
        }
    }

    /// Removes clients from the front whose handshakes have ended.
    fn forget_ended(&mut self) {
        while let Some(&(_, conn)) = self.handshakes.clients.front()
            && !self.socket(conn).is_some_and(|socket| socket.is_handshaking())
        {
            self.handshakes.clients.pop_front();
        }
    }

    fn note_expiry(&mut self) {
        let timeout = self.proxy.config().timeouts.handshake;
        let first = self.handshakes.clients.front();
        self.handshakes.expires_at = first.map_or(Instant::FAR_FUTURE, |(at, _)| *at + timeout);
    }
}
