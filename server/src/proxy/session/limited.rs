//! Clients that exceed their own limits, `limits.clientConnections` and
//! `limits.clientRequestsPerSecond`, get 429. `per_client.rs` and `rate.rs` do the counting.
//!
//! The layout hints are explained in `proxy/mod.rs`.
use intelliproxy_core::Instant;

use super::Session;
use super::upstream_half::connection_option;
use crate::access::Ending;
use crate::http::answer;
use crate::http::framing::Framing;
use crate::proxy::Action;
use crate::proxy::notice::{Excess, Notice};
use crate::proxy::shared::Shared;

/// The status for a client that exceeds its limit (RFC 6585 section 4).
const TOO_MANY_REQUESTS: u16 = 429;

impl Session {
    /// Counts the connection for its client. Returns false if the client has the maximum number of
    /// connections.
    pub(crate) fn count_connection(&mut self, shared: &mut Shared) -> bool {
        self.client.hop.count(shared)
    }

    /// Whether the connection is counted for its client.
    pub(crate) const fn is_counted(&self) -> bool {
        self.client.hop.is_counted()
    }

    /// Whether the request whose head has just arrived is within its client's limit.
    #[cold]
    pub(super) fn is_within_rate(&self, now: Instant, shared: &mut Shared) -> bool {
        let client = self.client.hop.limited(shared);
        client.is_none_or(|ip| shared.per_client.take_request(now, ip))
    }

    /// Responds 429 to a request beyond its client's limit. If the request has a body, the body is
    /// not read and the connection ends.
    #[cold]
    pub(super) fn answer_limited(&mut self, now: Instant, framing: Framing, shared: &mut Shared) {
        let Some(exchange) = &mut self.exchange else { return };
        if framing != Framing::None {
            exchange.is_persistent = false;
            self.client.has_said_last = false;
        }
        let connection = connection_option(exchange.version, exchange.is_persistent);
        let is_head_request = exchange.is_head_request;
        let status = TOO_MANY_REQUESTS;
        let bytes = answer::encode_busy(status, &shared.date, is_head_request, connection);
        self.tell_excess(Excess::Requests, shared);
        self.end_visit(Ending::Refused);
        self.answer(now, status, bytes, shared);
    }

    /// Responds 429 to a client that a PROXY protocol header names, and ends the connection: the
    /// client has the maximum number of connections.
    #[cold]
    pub(super) fn refuse_connection(&mut self, now: Instant, shared: &mut Shared) {
        let status = TOO_MANY_REQUESTS;
        let bytes = answer::encode_busy(status, &shared.date, false, Some("close"));
        self.tell_excess(Excess::Connections, shared);
        self.visit_without_request(now, Ending::Refused, shared);
        self.answer(now, status, bytes, shared);
        self.client.close(false);
    }

    fn tell_excess(&self, excess: Excess, shared: &mut Shared) {
        let notice = Notice::ClientLimited { peer: self.client.hop.client(), excess };
        shared.actions.push_back(Action::Notify(notice));
    }
}
