//! The proxy's part of the access log: records the backend of a request, and passes finished
//! records to the driver. `session/visit.rs` records the rest of an exchange. `edge/access/`
//! formats the records.
//!
//! The layout hints are explained in `proxy/mod.rs`.
use intelliproxy_core::{Instant, Lease};

use super::Proxy;
use super::id::ConnId;
use crate::access::{Records, Text, Why};
use crate::pages::AccessCounts;

impl Proxy {
    /// Records the backend of a request, and the rule that chose it.
    pub(super) fn note_route(&mut self, now: Instant, id: ConnId, lease: &Lease, is_bound: bool) {
        let Some(session) = self.table.session_mut(id) else { return };
        if let Some(visit) = session.visit_mut() {
            let reason = Why::Route(self.upstreams.reason(lease));
            let why = if is_bound { Why::Bound } else { reason };
            let backend = self.upstreams.target(lease.backend());
            visit.route(now, why, backend.map_or("", |target| &target.name));
        }
        // The client's own connection was not chosen by the router.
        if !is_bound {
            self.note_decision(id);
        }
    }

    /// Stores the id of a request in the router's decision for it, if /explain shows decisions.
    pub(super) fn note_decision(&mut self, id: ConnId) {
        if let Some(decisions) = self.upstreams.decisions_mut()
            && let Some(session) = self.table.session_mut(id)
            && let Some(visit) = session.visit_mut()
        {
            decisions.name_last(visit.text(Text::RequestId));
        }
    }

    /// Returns the bytes of the access log's records that wait for the driver.
    #[inline]
    pub(crate) const fn access_waiting(&self) -> usize {
        self.shared.access.waiting()
    }

    /// Takes the waiting records of the access log, and leaves `empty` in their place.
    pub(crate) fn take_access(&mut self, empty: Records) -> Records {
        self.shared.access.take(empty)
    }

    /// Drops the waiting records of the access log. For drivers that do not write them.
    pub fn discard_access_records(&mut self) {
        let mut records = self.shared.access.take(Records::default());
        records.clear();
        self.shared.access.take(records);
    }

    /// Stores the driver's counts of the access log, for /stats and the metrics.
    pub(crate) const fn handle_access_counts(&mut self, counts: AccessCounts) {
        self.shared.access.handle_counts(counts);
    }
}
