//! One client connection, exchange after exchange.
//!
//! A session gets the events of its client's connection and of its current upstream, and the
//! results of its needs ([`Need`]). Each half (`client_half.rs`, `upstream_half.rs`) has its own
//! state. [`settle`](Session::settle) in `settle.rs` applies the joint rules J1 to J7 of
//! LIFECYCLE.md until nothing changes. Failures are in `failure.rs`, deadlines in `deadline.rs`.
//! This file has the handlers of events.
//!
//! The layout hints are explained in `proxy/mod.rs`.
mod account;
mod bound;
mod client_half;
mod deadline;
mod displaced;
mod exchange;
mod failure;
mod hop;
mod limited;
mod look;
mod needs;
mod own_page;
mod refused;
mod remedy;
mod response_head;
mod settle;
mod standing;
mod stats;
mod taking;
mod tunnel;
mod upstream_half;
mod visit;

use std::time::Duration;

use intelliproxy_core::{Asker, BackendId, Instant, Lease};

use self::account::Account;
pub(crate) use self::account::LeaseNews;
pub(crate) use self::bound::Bound;
pub(crate) use self::client_half::ClientHalf;
use self::client_half::Receive;
use self::exchange::Exchange;
use self::failure::retried;
pub use self::hop::ClientIdentity;
pub(crate) use self::hop::Hop;
use self::needs::Needs;
pub(crate) use self::needs::{Ended, Need};
pub(crate) use self::own_page::OwnPage;
pub(crate) use self::standing::Standing;
pub(crate) use self::stats::{OwnText, StreamState};
use self::upstream_half::UpstreamHalf;
use super::affinity::Sticky;
use super::id::ConnId;
use super::shared::Shared;
use crate::access::Ending;
use crate::buffer::LARGE;
use crate::http::{UpstreamError, answer};

/// Time after which waiting bytes are moved from the large buffer that they were read into.
const REST: Duration = Duration::from_secs(1);

/// One of a session's two connections.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Side {
    Client,
    Upstream,
}

/// Idle connections that a request may use.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Reuse {
    /// No idle connection: one turned out to be closed, and the request is sent again.
    Fresh,
    /// Any idle connection. If it turns out to be closed, the request is sent again.
    Any,
    /// Any idle connection, after a check whether it is closed. The proxy may not send the request
    /// again, but closing the client's kept connection lets the client repeat it.
    Look,
    /// Only the client's own, after a check.
    Bound,
    /// Like [`Look`](Self::Look), but only if the backend is known to keep connections, because a
    /// client does not repeat the first request of its connection.
    Proven,
}

/// A client connection and everything that belongs to it.
#[derive(Debug)]
pub(crate) struct Session {
    client: ClientHalf,
    upstream: UpstreamHalf,
    exchange: Option<Exchange>,
    /// The client's own connection to a backend, while no exchange uses it.
    bound: Option<Bound>,
    needs: Needs,
}

/// glibc keeps memory up to this size for the next connection. A larger session costs 150
/// instructions more to create and drop.
const SESSION_BYTES_MAX: usize = 1032;
const _: () = assert!(size_of::<Session>() <= SESSION_BYTES_MAX, "a session is cheap to make");

impl Session {
    pub(crate) fn new(client: ClientHalf, now: Instant) -> Self {
        Self {
            client,
            upstream: UpstreamHalf::new(now),
            exchange: None,
            bound: None,
            needs: Needs::default(),
        }
    }

    /// Returns room for bytes from one side; empty if the side has to wait.
    #[inline(always)]
    pub(crate) fn read_space(&mut self, side: Side, shared: &mut Shared) -> &mut [u8] {
        let (input, is_paused, is_wanted) = match side {
            Side::Client => (
                &mut self.client.input,
                &mut self.client.is_paused,
                !self.needs.has_close() && !self.client.is_eof && !self.client.has_failed,
            ),
            Side::Upstream => (
                &mut self.upstream.input,
                &mut self.upstream.is_paused,
                !self.upstream.is_eof && !self.upstream.has_failed,
            ),
        };
        if !is_wanted {
            return &mut [];
        }
        if side == Side::Upstream && self.client.output.pending().len() >= LARGE / 2 {
            // While half a buffer waits for the client, nothing more is read from the backend.
            *is_paused = true;
            return &mut [];
        }
        let space = shared.buffers.read_space(input);
        *is_paused = space.is_empty();
        space
    }

    /// Returns whether a refused read of one side can continue now. If so, clears its flag.
    pub(crate) fn resumes(&mut self, side: Side) -> bool {
        let (input, is_paused) = match side {
            Side::Client => (&self.client.input, &mut self.client.is_paused),
            Side::Upstream => (&self.upstream.input, &mut self.upstream.is_paused),
        };
        // A read resumes at half a buffer, not at the first free byte: otherwise each accepted byte
        // would cause another small read. It does not wait for an empty buffer: an incomplete head
        // must not wait forever.
        let resumes = *is_paused
            && input.as_ref().is_none_or(|buffer| buffer.len() < LARGE / 2)
            && (side == Side::Client || self.client.output.pending().len() < LARGE / 2);
        if resumes {
            *is_paused = false;
        }
        resumes
    }

    /// Handles `count` bytes from one side.
    #[inline(always)]
    pub(crate) fn handle_read(
        &mut self,
        now: Instant,
        side: Side,
        count: usize,
        shared: &mut Shared,
    ) {
        if count == 0 {
            // No bytes arrived: the room is returned.
            shared.buffers.shrink(&mut self.client.input);
            shared.buffers.shrink(&mut self.upstream.input);
            return;
        }
        shared.work += count as u64;
        match side {
            Side::Client => {
                self.client.bytes_at = now;
                if self.exchange.is_some() {
                    self.note_wait(now);
                }
                if let Some(input) = &mut self.client.input {
                    input.filled(count);
                }
                match &self.exchange {
                    Some(_) => self.client.last_read = now,
                    None if !self.client.is_at_head() => {
                        self.client.last_read = now;
                    }
                    // A head has its own clock. Bytes before a head do not extend the idle time.
                    None if self.client.head_since.is_none() => self.client.head_since = Some(now),
                    None => {}
                }
            }
            Side::Upstream if self.bound.is_some() => return self.handle_bound_ended(now, shared),
            Side::Upstream => {
                if let Some(input) = &mut self.upstream.input {
                    input.filled(count);
                }
                self.upstream.last_read = now;
                if let Some(exchange) = &mut self.exchange {
                    exchange.has_seen_answer = true;
                }
            }
        }
        self.settle(now, shared);
    }

    /// Handles the end of one side, which sends no more.
    pub(crate) fn handle_eof(&mut self, now: Instant, side: Side, shared: &mut Shared) {
        match side {
            Side::Client => {
                self.client.is_eof = true;
                self.note_client_end(now);
                self.leave_if_gone(now, shared);
            }
            Side::Upstream if self.bound.is_some() => return self.handle_bound_ended(now, shared),
            Side::Upstream => self.upstream.is_eof = true,
        }
        self.settle(now, shared);
    }

    /// Handles the client's end, which was detected before earlier bytes have been read. Returns
    /// whether it is seen for the first time.
    pub(crate) fn handle_end_seen(&mut self, now: Instant, shared: &mut Shared) -> bool {
        let is_news = self.note_client_end(now);
        if is_news {
            self.leave_if_gone(now, shared);
        }
        is_news
    }

    #[cold]
    fn note_client_end(&mut self, now: Instant) -> bool {
        let has_response = self.exchange.as_ref().is_some_and(|e| e.has_begun_answer);
        self.client.note_end(now, has_response)
    }

    /// Handles a reset or other failure of one side.
    pub(crate) fn handle_failed(&mut self, now: Instant, side: Side, shared: &mut Shared) {
        match side {
            Side::Client if self.client.is_tunnel() => {
                self.client.has_failed = true;
            }
            Side::Client => return self.end(now, true, shared),
            Side::Upstream if self.bound.is_some() => return self.handle_bound_ended(now, shared),
            Side::Upstream => self.upstream.has_failed = true,
        }
        self.settle(now, shared);
    }

    /// Handles `count` bytes that one side has accepted. Returns whether the session must be
    /// served.
    pub(crate) fn handle_written(
        &mut self,
        now: Instant,
        side: Side,
        count: usize,
        shared: &mut Shared,
    ) -> bool {
        if side == Side::Client && self.client.last_write < now {
            self.note_late_client(now);
        }
        if side == Side::Client
            && let Some(visit) = &mut self.client.visit
        {
            visit.send(count);
        }
        let (output, last_write) = match side {
            Side::Client => {
                self.upstream.is_head_waiting = false;
                (&mut self.client.output, &mut self.client.last_write)
            }
            Side::Upstream => (&mut self.upstream.output, &mut self.upstream.last_write),
        };
        output.written(count, &mut shared.buffers);
        *last_write = now;
        if !output.is_empty() {
            output.shrink(&mut shared.buffers);
            self.watch_party();
            return true;
        }
        if side == Side::Client && self.client.visit.is_some() {
            self.close_visit(now, shared);
        }
        let is_awaited = match side {
            Side::Client => {
                self.client.handle_all_written(now);
                !self.client.is_at_rest() || self.exchange.is_some()
            }
            // Only a body or a tunnel continues when there is room.
            Side::Upstream => !self.client.has_ended_request(),
        };
        if is_awaited {
            self.settle(now, shared);
            if side == Side::Upstream {
                self.watch_party();
            }
        }
        is_awaited
    }

    /// Records that the client has sent bytes during an exchange: adds the time for which its body
    /// was awaited.
    fn note_wait(&mut self, now: Instant) {
        let is_body = matches!(self.client.receive(), Receive::Body { .. });
        let wait = if is_body { self.body_wait(now) } else { Duration::ZERO };
        if let Some(exchange) = &mut self.exchange {
            exchange.client_wait += wait;
            exchange.awaits_continue = false;
        }
    }

    /// Records whether the bytes that the client now accepts had waited long enough for its backend
    /// to time out.
    #[cold]
    fn note_late_client(&mut self, now: Instant) {
        let is_late = self.is_client_late(now);
        if let Some(exchange) = &mut self.exchange {
            exchange.was_client_late |= is_late;
        }
    }

    /// Handles a side that accepts no more bytes, but may still send some.
    pub(crate) fn handle_write_failed(&mut self, now: Instant, side: Side, shared: &mut Shared) {
        let is_tunnel = self.client.is_tunnel();
        match side {
            Side::Client if is_tunnel => self.client.is_write_broken = true,
            Side::Client => return self.end(now, true, shared),
            Side::Upstream if self.bound.is_some() => return self.handle_bound_ended(now, shared),
            Side::Upstream => self.upstream.is_write_broken = true,
        }
        if is_tunnel {
            self.settle(now, shared);
        }
    }

    /// Records the upstream connection that is being dialled.
    pub(crate) fn handle_dialling(&mut self, now: Instant, conn: ConnId) {
        if let Some(visit) = &mut self.client.visit {
            visit.dial(now);
        }
        self.upstream.dial(conn, now);
    }

    /// Handles a dialled connection that failed.
    pub(crate) const fn handle_undialled(&mut self) {
        self.upstream.give_up_dialling();
    }

    /// Links the upstream connection: a pooled one, or the dialled one.
    pub(crate) fn handle_linked(&mut self, now: Instant, conn: ConnId, is_reused: bool) {
        if !is_reused && let Some(visit) = &mut self.client.visit {
            visit.link(now);
        }
        self.upstream.open(conn, is_reused, now);
        // The session is not settled: no joint rule depends on the connection, which only allows
        // bytes to be written.
    }

    /// Takes the backend chosen for the waiting request.
    #[inline(always)]
    pub(crate) fn handle_routed(
        &mut self,
        now: Instant,
        lease: Lease,
        authority: &str,
        shared: &mut Shared,
    ) {
        let Some(exchange) = &mut self.exchange else {
            debug_assert!(false, "only an exchange is routed");
            return;
        };
        exchange.lease = Some(lease);
        exchange.dispatched_at = now;
        exchange.client_wait = Duration::ZERO;
        exchange.account = Account::default();
        if let Some(rare) = &mut exchange.rare {
            rare.ticket = None;
            if let Some((backend, error)) = rare.unreported.take() {
                shared.actions.push_back(retried(self.client.hop.client(), backend, error));
            }
        }
        let Some(host) = &mut exchange.host else { return };
        let output = &mut self.upstream.output;
        let range = host.start as usize..host.end as usize;
        if !output.has(range.clone(), authority.as_bytes()) {
            shared.host_line.set(authority);
            output.replace(range, authority.as_bytes(), &mut shared.buffers);
            host.end = host.start + authority.len() as u32;
        }
    }

    /// Records that the backend of the current attempt refuses connections, and whether another
    /// backend, or a backup, may accept them.
    pub(crate) fn handle_gone(&mut self, has_next: bool) {
        if let Some(exchange) = &mut self.exchange {
            exchange.rare().is_unreached = has_next;
        }
    }

    /// Fails the current attempt: no address of the backend accepted a connection, there is no
    /// backend to try, or the queue gives the request up.
    pub(crate) fn handle_unlinked(
        &mut self,
        now: Instant,
        error: UpstreamError,
        shared: &mut Shared,
    ) {
        self.fail_upstream(now, error, shared);
        self.settle(now, shared);
    }

    /// Lets the request wait under this ticket until a backend has room. Returns the end of the
    /// wait: `deadline`, or that of the request's first wait.
    pub(crate) fn take_ticket(&mut self, now: Instant, ticket: u64, deadline: Instant) -> Instant {
        let mut ends = deadline;
        if let Some(exchange) = &mut self.exchange {
            let rare = exchange.rare();
            rare.ticket = Some(ticket);
            ends = *rare.waits_until.get_or_insert(deadline);
        }
        if let Some(visit) = &mut self.client.visit {
            visit.wait(now);
        }
        ends
    }

    /// Whether the session's request waits under this ticket.
    pub(crate) fn holds_ticket(&self, ticket: u64) -> bool {
        let rare = self.exchange.as_ref().and_then(|exchange| exchange.rare.as_ref());
        rare.is_some_and(|rare| rare.ticket == Some(ticket))
    }

    /// Fails the waiting request because there is no backend. The client gets the error of the last
    /// attempt.
    pub(crate) fn handle_unroutable(&mut self, now: Instant, shared: &mut Shared) {
        let rare = self.exchange.as_ref().and_then(|exchange| exchange.rare.as_ref());
        let last_error = rare.and_then(|rare| rare.last_error);
        self.handle_unlinked(now, last_error.unwrap_or(UpstreamError::NoBackend), shared);
    }

    /// Handles the stop of the proxy: ends an idle session at once, a busy one after its exchange.
    pub(crate) fn handle_stopping(&mut self, now: Instant, shared: &mut Shared) {
        match &mut self.exchange {
            Some(exchange) => exchange.is_persistent = false,
            None if self.client.is_at_head() && self.client.output.is_empty() => {
                self.needs.close(false);
            }
            None => {}
        }
        self.settle(now, shared);
    }

    /// Ends the session in any state, at the end of the time for stopping.
    pub(crate) fn handle_cut(&mut self, now: Instant, shared: &mut Shared) {
        self.cut_visit(Ending::Stopped);
        self.end(now, self.upstream.ends_with_connection(), shared);
    }

    /// Refuses a client for which there is no room (503), or that exceeds its own limit (429).
    pub(crate) fn handle_refused(&mut self, now: Instant, status: u16, shared: &mut Shared) {
        self.client.is_refused = true;
        self.visit_without_request(now, Ending::Refused, shared);
        let encode = if status == 429 { answer::encode_busy } else { answer::encode_error };
        let bytes = encode(status, &shared.date, false, Some("close"));
        self.answer(now, status, bytes, shared);
        self.client.close(false);
        self.settle(now, shared);
    }

    /// Whether the client was refused.
    pub(crate) const fn is_refused(&self) -> bool {
        self.client.is_refused
    }

    /// Moves bytes that have waited for a second into memory of exactly their length. Returns the
    /// time of the next check if bytes have waited for the client for less than that.
    #[cold]
    pub(crate) fn rest(&mut self, now: Instant, shared: &mut Shared) -> Option<Instant> {
        let buffers = &mut shared.buffers;
        let (client, upstream) = (&mut self.client, &mut self.upstream);
        let rests = |last: Instant| now.since(last) >= REST;
        if rests(client.last_read) {
            buffers.rest(&mut client.input);
        }
        if rests(client.last_write) {
            client.output.rest(buffers);
        }
        if rests(upstream.last_read) {
            buffers.rest(&mut upstream.input);
        }
        if rests(upstream.last_write) {
            upstream.output.rest(buffers);
        }
        (!client.output.is_empty() && !rests(client.last_write)).then(|| now + REST)
    }

    /// Returns every buffer at the session's end, and stops counting the connection for its client.
    pub(crate) fn give_back(&mut self, shared: &mut Shared) {
        self.client.hop.uncount(shared);
        self.upstream.unlink(shared);
        self.upstream.output.clear(&mut shared.buffers);
        self.client.output.clear(&mut shared.buffers);
        if let Some(buffer) = self.client.input.take() {
            shared.buffers.give(buffer);
        }
    }

    /// Whether the session has a need other than to close.
    pub(crate) const fn has_needs(&self) -> bool {
        self.needs.has_any()
    }

    /// Returns the next need of the session.
    pub(crate) fn poll_need(&mut self) -> Option<Need> {
        self.needs.poll()
    }

    /// Returns the attempt that ended, after [`Need::Finish`].
    #[inline]
    pub(crate) fn take_ended(&mut self) -> Option<Ended> {
        self.needs.take_ended()
    }

    /// Returns the bytes that wait for one side and that it can accept.
    #[inline]
    pub(crate) fn write_ready(&self, side: Side) -> &[u8] {
        match side {
            Side::Client if !self.client.is_write_broken => self.client.output.pending(),
            Side::Upstream if self.upstream.is_open() && !self.upstream.is_write_broken => {
                self.upstream.output.pending()
            }
            _ => &[],
        }
    }

    /// Whether the end of the connection follows the bytes that wait for the client.
    pub(crate) const fn is_closing(&self) -> bool {
        self.client.is_closing()
    }

    /// Whether bytes wait for one side that it can accept.
    pub(crate) fn has_output(&self, side: Side) -> bool {
        match side {
            Side::Client => !self.client.output.is_empty() && !self.client.is_write_broken,
            Side::Upstream => {
                self.upstream.is_open()
                    && !self.upstream.is_write_broken
                    && !self.upstream.output.is_empty()
            }
        }
    }

    /// Returns the upstream connection that the session uses or dials.
    pub(crate) const fn upstream_conn(&self) -> Option<ConnId> {
        self.upstream.conn()
    }

    /// Whether the session holds a lease: in its exchange, or on the way back (I3).
    pub(crate) fn has_lease(&self) -> bool {
        let in_exchange = self.exchange.as_ref().is_some_and(|exchange| exchange.lease.is_some());
        in_exchange || self.needs.has_finish()
    }

    /// Returns the idle connections that the waiting request may use.
    #[inline]
    pub(crate) fn reuse(&self) -> Reuse {
        if self.bound.is_some() {
            return Reuse::Bound;
        }
        match &self.exchange {
            Some(exchange) if exchange.has_redialled => return Reuse::Fresh,
            Some(exchange) if !exchange.is_idempotent => {}
            _ => return Reuse::Any,
        }
        if self.client.has_been_served { Reuse::Look } else { Reuse::Proven }
    }

    /// Returns the client group and path group of the waiting request.
    pub(crate) fn asker(&self, shared: &Shared) -> Asker {
        let target = self.exchange.as_ref().map_or(0, |exchange| exchange.target);
        Asker { client: self.client.hop.group(shared), target }
    }

    /// Returns the key of the waiting request, if it has one.
    #[inline]
    pub(crate) fn sticky(&self) -> Option<&Sticky> {
        self.exchange.as_ref()?.sticky.as_deref()
    }

    /// Returns the key of the waiting request, if it has one.
    pub(crate) fn sticky_mut(&mut self) -> Option<&mut Sticky> {
        self.exchange.as_mut()?.sticky.as_deref_mut()
    }

    /// Returns the backends that failed or refused the waiting request.
    pub(crate) fn tried(&self) -> &[BackendId] {
        self.exchange.as_ref().map_or(&[], Exchange::tried)
    }
}
