//! The access log's part in the proxy: what happened to each exchange, as plain data.
//!
//! While an exchange is in progress its session has a [`Visit`]. At its end the visit becomes a
//! [`Record`] in a block ([`Records`]), which the driver takes and writes. Without a reader a
//! visit costs one branch at each step. Records have no allocation of their own: a block holds
//! their texts one after the other, and blocks and visits are used again.
mod record;
mod visit;

use intelliproxy_core::Instant;

pub(crate) use self::record::{Ending, Record, Records, Span, Text, Texts, Why};
pub(crate) use self::visit::Visit;
use crate::config::Config;
use crate::http::head::RequestHead;
use crate::pages::AccessCounts;

/// The records that the driver has not taken yet, and the visits that are free.
#[derive(Debug, Default)]
pub(crate) struct Access {
    /// Whether exchanges are recorded.
    is_on: bool,
    /// Whether queries are left out.
    cuts_queries: bool,
    records: Records,
    #[expect(clippy::vec_box, reason = "a visit moves to its session and back without a copy")]
    spares: Vec<Box<Visit>>,
    /// Visits begun and ended so far, for the invariant that each has one record.
    begun: u64,
    ended: u64,
    /// Records that the driver did not take in time.
    lost: u64,
    /// The driver's own counts.
    driver: AccessCounts,
}

impl Access {
    pub(crate) fn new(config: &Config) -> Self {
        let mut access = Self::default();
        access.reconfigure(config);
        access
    }

    /// Applies a new configuration. Exchanges in progress are recorded if they were before.
    pub(crate) fn reconfigure(&mut self, config: &Config) {
        self.is_on = config.access_log.file.is_some();
        self.cuts_queries = !config.access_log.query;
        if !self.is_on {
            self.spares = Vec::new();
        }
    }

    /// Whether exchanges are recorded.
    #[inline(always)]
    pub(crate) const fn is_on(&self) -> bool {
        self.is_on
    }

    /// Begins the visit of an exchange.
    pub(crate) fn begin(&mut self, started: Instant) -> Box<Visit> {
        self.begun += 1;
        let mut visit = self.spares.pop().unwrap_or_default();
        visit.begin(started, self.cuts_queries);
        visit
    }

    /// Begins the visit of an exchange with a complete head.
    #[inline(never)]
    pub(crate) fn begin_request(
        &mut self,
        now: Instant,
        started: Instant,
        head: &RequestHead<'_, '_>,
    ) -> Box<Visit> {
        let mut visit = self.begin(started);
        visit.take_head(now, head);
        visit
    }

    /// Ends a visit: its record waits for the driver.
    #[inline(never)]
    pub(crate) fn end(&mut self, visit: Box<Visit>) {
        self.ended += 1;
        if self.records.bytes() < WAITING_MAX {
            self.records.push(visit.record(), visit.texts());
        } else {
            self.lost += 1;
        }
        if self.spares.len() < SPARES_MAX && visit.is_small() {
            self.spares.push(visit);
        }
    }

    /// Returns the bytes of the waiting records.
    #[inline]
    pub(crate) const fn waiting(&self) -> usize {
        self.records.bytes()
    }

    /// Takes the waiting records, and leaves an empty block for the next ones.
    pub(crate) fn take(&mut self, empty: Records) -> Records {
        debug_assert!(empty.is_empty(), "records are taken once");
        std::mem::replace(&mut self.records, empty)
    }

    /// Takes the driver's counts.
    pub(crate) const fn handle_counts(&mut self, counts: AccessCounts) {
        self.driver = counts;
    }

    /// Returns the exchanges recorded so far, and the losses.
    pub(crate) const fn counts(&self) -> AccessCounts {
        let AccessCounts { dropped, failed_writes, .. } = self.driver;
        AccessCounts { lines: self.ended, dropped: dropped + self.lost, failed_writes }
    }

    /// Returns the number of visits in progress, for the invariant.
    pub(crate) const fn open(&self) -> u64 {
        self.begun - self.ended
    }
}

/// Bytes of records that wait for the driver; later ones are lost. A turn of 1024 events makes less
/// than half of it.
const WAITING_MAX: usize = 1024 * 1024;
/// Visits that are kept for use again.
const SPARES_MAX: usize = 256;
