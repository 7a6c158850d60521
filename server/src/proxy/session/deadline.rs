//! How long a session waits, and for what.
use std::time::Duration;

use intelliproxy_core::Instant;

use super::Session;
use super::client_half::{Receive, Send};
use super::upstream_half::{self, Link};
use crate::http::{ClientError, UpstreamError};
use crate::proxy::shared::Shared;

/// Which deadline of a session comes first.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Expiry {
    ClientIdle,
    RequestHead,
    RequestBody,
    ClientWrite,
    Connect,
    ResponseHead,
    ResponseBody,
    UpstreamWrite,
    Tunnel,
    Linger,
}

impl Session {
    /// A deadline passed; does nothing when none has.
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
            Expiry::ClientWrite => self.end(now, true, shared),
            Expiry::Connect => {
                self.needs.give_up(self.upstream.conn());
                self.upstream.link = Link::None;
            }
            Expiry::ResponseHead => self.fail_upstream(now, UpstreamError::HeadTimeout, shared),
            Expiry::ResponseBody | Expiry::UpstreamWrite => {
                self.fail_upstream(now, UpstreamError::BodyTimeout, shared);
            }
            Expiry::Tunnel => self.end(now, false, shared),
        }
        self.settle(now, shared);
    }

    /// When the session has to be looked at if nothing happens.
    pub(crate) fn poll_timeout(&self, shared: &Shared) -> Option<Instant> {
        self.next_deadline(shared).map(|(at, _)| at)
    }

    /// The earliest of the deadlines that the state at hand has.
    fn next_deadline(&self, shared: &Shared) -> Option<(Instant, Expiry)> {
        let times = &shared.config.timeouts;
        let (client, upstream) = (&self.client, &self.upstream);
        if self.needs.has_close() {
            return None;
        }
        let mut first = None;
        let mut add = |since: Instant, span: Duration, expiry: Expiry| {
            let at = since + span;
            if first.is_none_or(|(earliest, _)| at < earliest) {
                first = Some((at, expiry));
            }
        };
        if !client.output.is_empty() {
            add(client.last_write, times.client_write, Expiry::ClientWrite);
        }
        match &client.receive {
            Receive::Head if client.output.is_empty() => match client.head_since {
                Some(since) => add(since, times.request_head, Expiry::RequestHead),
                None => add(client.last_read, times.client_idle, Expiry::ClientIdle),
            },
            Receive::Body { .. } if client.input.is_none() && client.send == Send::Open => {
                add(client.last_read, times.request_body, Expiry::RequestBody);
            }
            Receive::Discarding { until } => add(*until, Duration::ZERO, Expiry::Linger),
            Receive::Tunnel => {
                let last = client.last_read.max(upstream.last_read);
                add(last, times.tunnel_idle, Expiry::Tunnel);
            }
            _ => {}
        }
        if let Link::Connecting { since, .. } = upstream.link {
            add(since, times.connect, Expiry::Connect);
        }
        if upstream.is_open() && !upstream.output.is_empty() {
            add(upstream.last_write, times.response_body, Expiry::UpstreamWrite);
        }
        match &upstream.receive {
            upstream_half::Receive::Head
                if upstream.output.is_empty() && client.has_whole_request() =>
            {
                add(upstream.last_write, times.response_head, Expiry::ResponseHead);
            }
            upstream_half::Receive::Body { .. } if client.output.is_empty() => {
                let since = upstream.last_read.max(client.last_write);
                add(since, times.response_body, Expiry::ResponseBody);
            }
            _ => {}
        }
        first
    }
}
