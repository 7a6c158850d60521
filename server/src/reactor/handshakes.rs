//! TLS handshakes in progress. A handshake costs as much as ten requests or more. So another thread
//! takes the long steps of clients' handshakes, with a key exchange, a signature or a certificate of
//! the client. Only a few are with it, so that the others can still be closed. Each turn takes only
//! some of the other steps: the last ones of clients, and those with backends.
//!
//! From its acceptance on, a client counts like any other: for `limits.clients`, for its own
//! limits, and as a client that may give way. Until its handshake is complete, no byte passes
//! between the client and its session.
//!
//! The layout hints are explained in `proxy/mod.rs`.
mod steps;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use intelliproxy_core::Instant;
use mio::Waker;

use self::steps::Steps;
use super::Reactor;
use super::socket::{Shaken, Socket, Step};
use crate::proxy::{ConnId, ConnectFailure};

/// Once handshakes have taken this long, a turn continues no further one. One step with a backend
/// takes 0.1 ms, so a turn takes at least one, and other clients wait for at most one more.
const TURN: Duration = Duration::from_micros(100);
/// The time after which a handshake may be closed for another one.
const GRACE: Duration = Duration::from_secs(1);

/// The handshakes in progress.
#[derive(Debug)]
pub(super) struct Handshakes {
    /// Connections whose handshakes can continue in the event loop.
    ready: VecDeque<ConnId>,
    /// Clients whose handshakes can begin in the thread.
    fresh: VecDeque<ConnId>,
    /// Clients whose handshakes can continue in the thread. They come first: a request may follow.
    answered: VecDeque<ConnId>,
    /// Steps of clients' handshakes.
    steps: Steps,
    /// Client handshakes with their start times, the oldest first. Some may already have ended.
    clients: VecDeque<(Instant, ConnId)>,
    /// The number of client handshakes.
    count: usize,
    /// The time at which the oldest client handshake is closed.
    expires_at: Instant,
    /// The client whose last step before its end is being taken.
    last: Option<ConnId>,
}

impl Handshakes {
    /// `waker` wakes the event loop.
    pub(super) const fn new(waker: Arc<Waker>) -> Self {
        Self {
            ready: VecDeque::new(),
            fresh: VecDeque::new(),
            answered: VecDeque::new(),
            steps: Steps::new(waker),
            clients: VecDeque::new(),
            count: 0,
            expires_at: Instant::FAR_FUTURE,
            last: None,
        }
    }

    /// Whether any handshake can continue, or is due to be closed.
    #[inline]
    pub(super) fn are_due(&self, now: Instant) -> bool {
        self.are_ready() || self.expires_at <= now
    }

    /// Whether any handshake can continue now.
    #[inline]
    pub(super) fn are_ready(&self) -> bool {
        !self.ready.is_empty() || self.steps.are_ready() || self.can_begin()
    }

    /// Whether a client's step can begin.
    #[inline]
    fn can_begin(&self) -> bool {
        let is_any = !self.fresh.is_empty() || !self.answered.is_empty();
        is_any && self.steps.have_room()
    }

    /// The time at which a turn is due even if nothing happens.
    #[inline]
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        (self.expires_at < Instant::FAR_FUTURE).then_some(self.expires_at)
    }

    /// Handles a call of the thread that takes steps.
    pub(super) const fn handle_call(&mut self) {
        self.steps.handle_call();
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
        let Some(socket) = self.socket(conn) else { return };
        // After a step, the bytes that arrive during it are read.
        if socket.is_queued || socket.is_stepping {
            return;
        }
        socket.is_queued = true;
        if socket.is_outgoing {
            // A request or a probe waits for this connection. Its deadlines must not expire before
            // arrived bytes are read.
            self.proxy.handle_unread(conn, true);
            self.handshakes.ready.push_back(conn);
        } else if socket.has_short_step() {
            self.handshakes.ready.push_back(conn);
        } else if socket.is_answered {
            self.handshakes.answered.push_back(conn);
        } else {
            self.handshakes.fresh.push_back(conn);
        }
    }

    /// Continues handshakes for as long as a turn allows, and closes those whose time is up.
    #[cold]
    pub(super) fn shake(&mut self) {
        let end = self.clock.now() + TURN;
        let mut is_over = false;
        while !is_over && let Some(step) = self.handshakes.steps.ended() {
            self.end_step(step);
            is_over = self.clock.now() >= end;
        }
        for _ in 0..self.handshakes.ready.len() {
            if is_over {
                break;
            }
            let Some(conn) = self.handshakes.ready.pop_front() else { break };
            self.shake_one(conn);
            is_over = self.clock.now() >= end;
        }
        while !is_over && self.handshakes.can_begin() {
            let answered = self.handshakes.answered.pop_front();
            let Some(conn) = answered.or_else(|| self.handshakes.fresh.pop_front()) else { break };
            self.shake_one(conn);
            is_over = self.clock.now() >= end;
        }
        self.expire();
    }

    /// Closes the clients whose handshakes have taken too long.
    fn expire(&mut self) {
        let timeout = self.proxy.config().timeouts.handshake;
        self.forget_ended();
        while let Some(&(begun, conn)) = self.handshakes.clients.front()
            && begun + timeout <= self.now
        {
            // A last message that arrived in time is handled before the timeout, except under
            // overload.
            let is_last = self.handshakes.last.replace(conn) == Some(conn);
            let have_room = self.handshakes.steps.have_room();
            let may_finish = |socket: &mut Socket| {
                let can_begin = have_room || socket.has_short_step();
                socket.is_answered && socket.is_queued && can_begin
            };
            if !is_last && self.socket(conn).is_some_and(may_finish) {
                self.shake_one(conn);
            }
            if self.socket(conn).is_some_and(|socket| is_finishing(socket)) {
                // Its result causes a turn.
                break;
            }
            self.handshakes.clients.pop_front();
            if self.socket(conn).is_some_and(|socket| socket.is_handshaking()) {
                let wrong = "incomplete after timeouts.handshakeMs".to_owned();
                self.proxy.handle_unsecured(self.now, conn, wrong);
            }
            self.flush();
            self.forget_ended();
        }
        self.note_expiry();
    }

    /// Continues the handshakes that a request may follow, and waits for the results, but not longer
    /// than `until`.
    #[cold]
    pub(super) fn shake_all(&mut self, until: Instant) {
        loop {
            for _ in 0..self.handshakes.ready.len() {
                let Some(conn) = self.handshakes.ready.pop_front() else { break };
                self.shake_one(conn);
            }
            while self.handshakes.steps.have_room()
                && let Some(conn) = self.handshakes.answered.pop_front()
            {
                self.shake_one(conn);
            }
            let Some(step) = self.handshakes.steps.wait(&self.clock, until) else { break };
            self.end_step(step);
        }
    }

    fn shake_one(&mut self, conn: ConnId) {
        let Some(Some(socket)) = self.sockets.get_mut(conn.slot()) else { return };
        if socket.conn != conn || !socket.is_handshaking() || socket.is_stepping {
            return;
        }
        socket.is_queued = false;
        let registry = self.poll.registry();
        let shaken = if socket.is_outgoing {
            self.proxy.handle_unread(conn, false);
            socket.shake(&mut self.scratch, registry)
        } else {
            let is_short = socket.has_short_step();
            match socket.begin_step(&mut self.scratch, registry) {
                Ok(mut step) if is_short => {
                    step.take();
                    return self.end_step(step);
                }
                Ok(step) => {
                    if let Some(step) = self.handshakes.steps.begin(step) {
                        self.end_step(step);
                    }
                    return;
                }
                Err(shaken) => shaken,
            }
        };
        self.take_shaken(conn, shaken);
    }

    /// Handles the end of a step of a client's handshake.
    fn end_step(&mut self, step: Step) {
        let conn = step.conn;
        // The client may have been closed meanwhile.
        let Some(Some(socket)) = self.sockets.get_mut(conn.slot()) else { return };
        if socket.conn == conn {
            let shaken = socket.end_step(step, self.poll.registry());
            self.take_shaken(conn, shaken);
        }
    }

    fn take_shaken(&mut self, conn: ConnId, shaken: Shaken) {
        let Some(socket) = self.socket(conn) else { return };
        let is_outgoing = socket.is_outgoing;
        match shaken {
            Shaken::Waits => {}
            Shaken::Continues => self.queue_handshake(conn),
            Shaken::Done if is_outgoing => {
                self.proxy.handle_connected(self.now, conn, Ok(()));
                // Bytes that arrived with the last message cause no further edge.
                if self.socket(conn).is_some_and(|socket| socket.is_readable) {
                    self.queue(conn);
                }
            }
            Shaken::Failed(fault, _) if is_outgoing => {
                let failure = Err(ConnectFailure::Handshake(fault));
                self.proxy.handle_connected(self.now, conn, failure);
            }
            Shaken::Done => self.admit(conn),
            Shaken::Failed(_, wrong) => self.proxy.handle_unsecured(self.now, conn, wrong),
        }
        self.flush();
    }

    /// Lets a client in whose handshake is complete.
    fn admit(&mut self, conn: ConnId) {
        let Some(Some(socket)) = self.sockets.get_mut(conn.slot()) else { return };
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
        let first = self.handshakes.clients.front().copied();
        // The result of a step causes a turn.
        let mut is_finishing = |conn| self.socket(conn).is_some_and(|socket| is_finishing(socket));
        let first = first.filter(|&(_, conn)| !is_finishing(conn));
        self.handshakes.expires_at = first.map_or(Instant::FAR_FUTURE, |(at, _)| at + timeout);
    }
}

/// Whether a step is being taken that can be the last.
const fn is_finishing(socket: &Socket) -> bool {
    socket.is_stepping && socket.is_answered
}
