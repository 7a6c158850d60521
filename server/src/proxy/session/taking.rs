//! Whether a peer takes what is sent to it.
//!
//! A write that succeeds says little: the system's buffer holds megabytes, and a write has to wait
//! until much of it is free, which a steady slow reader may need minutes for. Progress is what the
//! peer acknowledges. So a clock that runs for a peer which takes nothing asks the driver, four
//! times in its span, how much is not acknowledged; less than the time before is progress.
use std::time::Duration;

use intelliproxy_core::Instant;

use super::client_half::Receive;
use super::look::Look;
use super::{Session, Side, upstream_half};
use crate::http::UpstreamError;
use crate::proxy::shared::Shared;

impl Session {
    /// A clock for what a peer takes came due: asks the driver; false when the clock is over.
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

    /// The driver says how many bytes sent to a side are not acknowledged, if it knows.
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

    /// A peer took nothing for as long as it may.
    #[cold]
    pub(super) fn end_taking(&mut self, now: Instant, side: Side, shared: &mut Shared) {
        match side {
            Side::Client if self.client.output.is_empty() => {}
            Side::Client => {
                self.tell_expiry("cut: received nothing for timeouts.clientWriteMs", shared);
                self.end(now, true, shared);
            }
            Side::Upstream if !self.upstream.output.is_empty() => {
                self.fail_upstream(now, UpstreamError::BodyTimeout, shared);
            }
            Side::Upstream if self.is_head_awaited() => {
                self.fail_upstream(now, UpstreamError::HeadTimeout, shared);
            }
            Side::Upstream => {}
        }
    }

    /// Whether the backend has all that it needs for its response's head, or for a 100 (Continue).
    pub(super) fn is_head_awaited(&self) -> bool {
        matches!(self.upstream.receive, upstream_half::Receive::Head)
            && self.upstream.output.is_empty()
            && (matches!(self.client.receive, Receive::Ended | Receive::Tunnel)
                || self.awaits_continue())
    }

    /// Returns the longest time in which a side may take nothing.
    fn taking_span(&self, side: Side, shared: &Shared) -> Duration {
        let times = &shared.config.timeouts;
        match side {
            Side::Client => times.client_write,
            Side::Upstream if self.upstream.output.is_empty() => times.response_head,
            Side::Upstream => times.response_body,
        }
    }
}
