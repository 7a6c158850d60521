//! Deadlines of a session. LIFECYCLE.md has a table of them; `taking.rs` has the clocks of a peer
//! that accepts no bytes.
use std::time::Duration;

use intelliproxy_core::Instant;

use super::account::Party;
use super::client_half::Receive;
use super::look::Look;
use super::upstream_half;
use super::{Session, Side};
use crate::access::Ending;
use crate::buffer::Buffer;
use crate::http::{ClientError, UpstreamError};
use crate::proxy::shared::Shared;

/// The kinds of deadlines of a session. `next_deadline` has the timeout of each.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Expiry {
    ClientIdle,
    RequestHead,
    RequestBody,
    ClientWrite,
    Connect,
    ResponseHead,
    ResponseBody,
    Silence,
    UpstreamWrite,
    Tunnel,
    Linger,
}

/// If the proxy has waited this long for the client, a backend that closes the connection may have
/// done so because of the client. Servers wait 1 s or more. An earlier close is the backend's own
/// failure.
const CLIENT_LATE_AFTER: Duration = Duration::from_millis(500);

impl Session {
    /// Returns the party that must send or accept bytes before the exchange can continue. The
    /// waiting time counts for that party. In a tunnel the result has no effect.
    pub(crate) fn awaited(&self) -> Party {
        let (client, upstream) = (&self.client, &self.upstream);
        if self.exchange.is_none() || !client.output.is_empty() {
            return Party::Client;
        }
        if self.is_body_awaited() && upstream.is_open() && upstream.output.is_empty() {
            return Party::Client;
        }
        Party::Backend
    }

    /// Whether the proxy has waited for the client long enough for a backend to give up.
    pub(super) fn is_client_late(&self, now: Instant) -> bool {
        let client = &self.client;
        let since = if client.output.is_empty() { self.awaited_since() } else { client.last_write };
        self.awaited() == Party::Client && now.since(since) >= CLIENT_LATE_AFTER
    }

    /// Returns the time since which a part of the request's body is awaited.
    pub(super) fn awaited_since(&self) -> Instant {
        self.client.last_read.max(self.upstream.last_write)
    }

    /// Returns the time for which a part of the client's body has been awaited; zero if it is not.
    pub(super) fn body_wait(&self, now: Instant) -> Duration {
        let is_awaited = self.client.output.is_empty() && self.awaited() == Party::Client;
        if is_awaited { now.since(self.awaited_since()) } else { Duration::ZERO }
    }

    /// Whether a part of the request's body is still missing and all received bytes were passed on.
    fn is_body_awaited(&self) -> bool {
        let client = &self.client;
        client.lacks_body()
            // While bytes are being read, their buffer is still empty.
            && client.input.as_ref().is_none_or(Buffer::is_empty)
            && client.is_sending()
            && !self.awaits_continue()
    }

    /// Whether the client holds its body back until the backend sends a 100 (Continue).
    pub(super) fn awaits_continue(&self) -> bool {
        self.exchange.as_ref().is_some_and(|exchange| exchange.awaits_continue)
    }

    /// Handles a passed deadline. Does nothing if none has passed.
    pub(crate) fn handle_timeout(&mut self, now: Instant, shared: &mut Shared) {
        let Some((at, expiry)) = self.next_deadline(shared) else {
            return;
        };
        if at > now {
            return;
        }
        match expiry {
            Expiry::ClientIdle | Expiry::Linger => self.needs.close(false),
            Expiry::RequestHead => self.fail_client(now, ClientError::HeadTimeout, shared),
            Expiry::RequestBody => self.fail_client(now, ClientError::BodyTimeout, shared),
            Expiry::ClientWrite => return self.time_taking(now, Side::Client, shared),
            Expiry::Connect => {
                self.needs.give_up(self.upstream.conn());
                self.upstream.give_up_dialling();
            }
            Expiry::ResponseHead | Expiry::UpstreamWrite => {
                return self.time_taking(now, Side::Upstream, shared);
            }
            Expiry::Silence => self.leave_account(),
            Expiry::ResponseBody => self.fail_upstream(now, UpstreamError::BodyTimeout, shared),
            Expiry::Tunnel => {
                self.tell_expiry("tunnel closed: silent for timeouts.tunnelIdleMs", shared);
                self.end_visit(Ending::Idle);
                self.end(now, false, shared);
            }
        }
        self.settle(now, shared);
    }

    /// Handles the timeout of a write or of a response head. First measures the unacknowledged
    /// bytes, and ends the exchange if the time is up.
    fn time_taking(&mut self, now: Instant, side: Side, shared: &mut Shared) {
        if !self.look(now, side, shared) {
            self.end_taking(now, side, shared);
            self.settle(now, shared);
        }
    }

    /// Returns the time of the next check if nothing happens.
    pub(crate) fn poll_timeout(&self, shared: &Shared) -> Option<Instant> {
        self.next_deadline(shared).map(|(at, _)| at)
    }

    /// Returns the earliest deadline of the current state.
    fn next_deadline(&self, shared: &Shared) -> Option<(Instant, Expiry)> {
        let times = &shared.config.timeouts;
        let (client, upstream) = (&self.client, &self.upstream);
        if self.needs.has_close() {
            return None;
        }
        let is_body_awaited = self.is_body_awaited();
        let mut first = None;
        let mut add = |since: Instant, span: Duration, expiry: Expiry| {
            let at = since + span;
            if first.is_none_or(|(earliest, _)| at < earliest) {
                first = Some((at, expiry));
            }
        };
        if !client.output.is_empty() {
            let at = Look::due(client.look.as_deref(), client.last_write, times.client_write);
            add(at, Duration::ZERO, Expiry::ClientWrite);
        }
        match client.receive() {
            Receive::Head if client.output.is_empty() => match client.head_since {
                Some(since) => add(since, times.request_head, Expiry::RequestHead),
                None => add(client.last_read, times.client_idle, Expiry::ClientIdle),
            },
            Receive::Body { .. } if is_body_awaited => {
                // While the response streams, progress in either direction counts.
                let streams = client.last_write.max(upstream.last_read);
                let is_streaming = !upstream.is_at_head();
                let last = if is_streaming { streams } else { client.last_read };
                add(client.last_read.max(last), times.request_body, Expiry::RequestBody);
            }
            Receive::Discarding { until } => {
                add(client.last_read, times.linger, Expiry::Linger);
                add(*until, Duration::ZERO, Expiry::Linger);
            }
            // While bytes wait for a side, only the clock of that side runs.
            Receive::Tunnel if client.output.is_empty() && upstream.output.is_empty() => {
                let read = client.last_read.max(upstream.last_read);
                let written = client.last_write.max(upstream.last_write);
                add(read.max(written), times.tunnel_idle, Expiry::Tunnel);
            }
            _ => {}
        }
        if let Some(since) = upstream.dialled_at() {
            add(since, times.connect, Expiry::Connect);
        }
        if upstream.is_open() && !upstream.output.is_empty() {
            let at = Look::due(upstream.look.as_deref(), upstream.last_write, times.response_body);
            add(at, Duration::ZERO, Expiry::UpstreamWrite);
        }
        match upstream.receive() {
            upstream_half::Receive::Head if self.is_head_awaited() => {
                let at =
                    Look::due(upstream.look.as_deref(), upstream.last_write, times.response_head);
                add(at, Duration::ZERO, Expiry::ResponseHead);
            }
            // While bytes wait for a side, its own clock runs. While a part of the request is
            // missing, the client's clock runs.
            upstream_half::Receive::Body { .. }
                if client.output.is_empty() && upstream.output.is_empty() && !is_body_awaited =>
            {
                let since = upstream.last_read.max(client.last_write).max(upstream.last_write);
                add(since, times.response_body, Expiry::ResponseBody);
                if self.may_leave() {
                    add(since, shared.config.routing.streams.idle, Expiry::Silence);
                }
            }
            _ => {}
        }
        first
    }
}
