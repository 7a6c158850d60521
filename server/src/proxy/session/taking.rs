//! Detects a peer that accepts no bytes.
//!
//! A successful write shows little, because the system's buffer holds megabytes. A waiting write
//! continues only when much of the buffer is free, which may take minutes with a slow but steady
//! reader. Progress is therefore measured by the bytes that the peer has acknowledged. While a
//! write waits, the session requests the number of unacknowledged bytes from the driver four times
//! per timeout. A smaller number is progress.
//!
//! The layout hints are explained in `proxy/mod.rs`.
use std::time::Duration;

use intelliproxy_core::Instant;

use super::look::Look;
use super::{Session, Side};
use crate::access::Ending;
use crate::http::UpstreamError;
use crate::proxy::shared::Shared;

impl Session {
    /// Requests a measurement from the driver if one is due for a side. Returns false if the
    /// timeout has expired.
    #[cold]
    pub(super) fn look(&mut self, now: Instant, side: Side, shared: &Shared) -> bool {
        let span = self.taking_span(side, shared);
        let (look, since) = match side {
            Side::Client => (&mut self.client.look, self.client.last_write),
            Side::Upstream => (&mut self.upstream.look, self.upstream.last_write),
        };
        let last = look.as_deref().copied().filter(|look| look.since == since);
        let unacknowledged = last.and_then(|look| look.unacknowledged);
        if unacknowledged == Some(0) || last.is_some_and(|look| look.at >= since + span) {
            return false;
        }
        *look = Some(Box::new(Look { since, at: now, unacknowledged }));
        self.needs.measure(side);
        true
    }

    /// Handles a measurement: the number of bytes sent to a side and not acknowledged, if known.
    pub(crate) fn handle_measured(
        &mut self,
        now: Instant,
        side: Side,
        unacknowledged: Option<u64>,
        shared: &mut Shared,
    ) {
        let span = self.taking_span(side, shared);
        let (look, last_write) = match side {
            Side::Client => (&mut self.client.look, &mut self.client.last_write),
            Side::Upstream => (&mut self.upstream.look, &mut self.upstream.last_write),
        };
        let Some(look) = look.as_deref_mut().filter(|look| look.since == *last_write) else {
            return;
        };
        let last = *look;
        let has_taken = match (last.unacknowledged, unacknowledged) {
            (Some(before), Some(rest)) => rest < before,
            _ => false,
        };
        if has_taken {
            *last_write = now;
            *look = Look { since: now, at: now, unacknowledged };
        } else if last.at < last.since + span {
            *look = Look { unacknowledged, ..last };
        } else {
            self.end_taking(now, side, shared);
            self.settle(now, shared);
        }
    }

    /// Ends the session or the exchange because a peer accepted no bytes for the longest allowed
    /// time.
    #[cold]
    pub(super) fn end_taking(&mut self, now: Instant, side: Side, shared: &mut Shared) {
        match side {
            Side::Client if self.client.output.is_empty() => {}
            Side::Client => self.cut_client(now, shared),
            Side::Upstream if !self.upstream.output.is_empty() => {
                self.fail_upstream(now, UpstreamError::BodyTimeout, shared);
            }
            Side::Upstream if self.is_head_awaited() => {
                self.fail_upstream(now, UpstreamError::HeadTimeout, shared);
            }
            Side::Upstream => {}
        }
    }

    /// Resets the connection of a client that accepts nothing.
    pub(crate) fn cut_client(&mut self, now: Instant, shared: &mut Shared) {
        self.tell_expiry("cut: received nothing for timeouts.clientWriteMs", shared);
        self.cut_visit(Ending::ClientTimeout);
        self.end(now, true, shared);
    }

    /// Whether the backend has received all that it needs to send its head or a 100 (Continue).
    pub(super) fn is_head_awaited(&self) -> bool {
        self.upstream.is_at_head()
            && self.upstream.output.is_empty()
            && (self.client.has_whole_request() || self.awaits_continue())
    }

    /// Returns the longest time for which a side may accept no bytes.
    fn taking_span(&self, side: Side, shared: &Shared) -> Duration {
        let times = &shared.config.timeouts;
        match side {
            Side::Client => times.client_write,
            Side::Upstream if self.upstream.output.is_empty() => times.response_head,
            Side::Upstream => times.response_body,
        }
    }
}
