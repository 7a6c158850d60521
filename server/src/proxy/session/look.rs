//! A clock's measurement of the bytes that a peer has acknowledged; `taking.rs` explains why.
use std::time::Duration;

use intelliproxy_core::Instant;

/// Looks in the span of a clock.
const LOOKS: u32 = 4;

/// The last measurement of a peer's unacknowledged bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    /// The last progress, for which the clock looked; with another one the look is void.
    pub(super) since: Instant,
    /// When the driver was asked.
    pub(super) at: Instant,
    /// Bytes that were not acknowledged, when the driver knew.
    pub(super) unacknowledged: Option<u64>,
}

impl Look {
    /// When a clock that began at `since` looks next, or is over.
    pub(super) fn due(look: Option<&Self>, since: Instant, span: Duration) -> Instant {
        let over = since + span;
        match look.filter(|look| look.since == since) {
            None => since + span / LOOKS,
            // Nothing is left to be acknowledged.
            Some(Self { unacknowledged: Some(0), .. }) => over,
            // A measurement that never arrives ends the clock one check later.
            Some(look) if look.at >= over => look.at + span / LOOKS,
            Some(look) => over.min(look.at + span / LOOKS),
        }
    }
}
