//! A measurement of the bytes that a peer has not acknowledged. `taking.rs` explains why and when
//! it is made.
use std::time::Duration;

use intelliproxy_core::Instant;

/// The number of measurements within one timeout.
const LOOKS: u32 = 4;

/// The last measurement of a peer's unacknowledged bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    /// The time of the last progress when the measurement was made. After further progress the
    /// measurement is void.
    pub(super) since: Instant,
    /// The time of the request to the driver.
    pub(super) at: Instant,
    /// Bytes that were not acknowledged; `None` if the driver does not know.
    pub(super) unacknowledged: Option<u64>,
}

impl Look {
    /// Returns the time at which a timeout that began at `since` requests another measurement or
    /// expires.
    pub(super) fn due(look: Option<&Self>, since: Instant, span: Duration) -> Instant {
        let over = since + span;
        match look.filter(|look| look.since == since) {
            None => since + span / LOOKS,
            // All bytes are acknowledged.
            Some(Self { unacknowledged: Some(0), .. }) => over,
            // If a measurement never arrives, the timeout expires one check later.
            Some(look) if look.at >= over => look.at + span / LOOKS,
            Some(look) => over.min(look.at + span / LOOKS),
        }
    }
}
