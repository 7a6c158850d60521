//! Load figures in response fields: which backends send them, and the figures that sessions have
//! read but not yet passed to the router. `report/orca.rs` reads the fields.
//!
//! The layout hints are explained in `proxy/mod.rs`.
use std::collections::BTreeMap;
use std::sync::Arc;

use intelliproxy_core::{BackendId, Event, Instant};

use super::Proxy;
use super::notice::{Notice, ReportFault};
use super::report::{Reading, orca};
use crate::config::{Orca, Reporting};
use crate::http::field::is_load_field;
use crate::http::head::ResponseHead;

/// The backends whose responses have load figures, and the figures that wait for the router.
#[derive(Debug, Default)]
pub(crate) struct ResponseLoads {
    backends: BTreeMap<BackendId, Arc<Reporting>>,
    /// The figures of the head that was read last.
    found: Option<(BackendId, Reading)>,
    kept: Vec<(BackendId, Reading)>,
}

impl ResponseLoads {
    /// Sets the backends whose responses are read.
    pub(crate) fn set(&mut self, backends: BTreeMap<BackendId, Arc<Reporting>>) {
        self.backends = backends;
        self.found = None;
    }

    /// Whether any backend's responses are read.
    #[inline]
    pub(crate) fn is_on(&self) -> bool {
        !self.backends.is_empty()
    }

    /// Whether responses of this backend are forwarded without load figures, trailer fields
    /// included.
    pub(crate) fn are_taken(&self, backend: Option<BackendId>) -> bool {
        let reporting = backend.and_then(|id| self.backends.get(&id));
        reporting.is_some_and(|reporting| reporting.orca == Orca::Take)
    }

    /// Reads the figures in the head of a final response. They wait until [`keep`](Self::keep),
    /// since a head may be read again when there is room for it.
    #[cold]
    pub(crate) fn read(&mut self, backend: Option<BackendId>, head: &ResponseHead<'_, '_>) {
        let reporting = backend.and_then(|id| Some((id, self.backends.get(&id)?)));
        self.found = reporting.and_then(|(id, reporting)| {
            // Only the first field is used: a valid response has only one.
            let mut fields = head.fields.iter();
            let (name, _, value) = fields.find(|(name, ..)| is_load_field(name.as_bytes()))?;
            Some((id, orca::read(name, value, &reporting.orca_names)))
        });
    }

    /// Queues the figures that were read last for the router.
    #[inline]
    pub(crate) fn keep(&mut self) {
        if self.found.is_some() {
            self.kept.extend(self.found.take());
        }
    }
}

impl Proxy {
    /// Passes the figures that sessions have read to the router.
    #[inline]
    pub(super) fn tell_loads(&mut self, now: Instant) {
        if !self.shared.loads.kept.is_empty() {
            self.tell_read_loads(now);
        }
    }

    #[cold]
    fn tell_read_loads(&mut self, now: Instant) {
        for (backend, Reading { report, fault }) in std::mem::take(&mut self.shared.loads.kept) {
            if let Some(fault) = fault {
                self.blame_report(backend, fault);
            }
            if let Some(report) = report {
                self.upstreams.tell(now, Event::LoadReported { backend, report });
            }
        }
        self.drain_router(now);
    }

    /// Counts a fault of a report. The first of its kind causes a notice.
    pub(super) fn blame_report(&mut self, backend: BackendId, fault: ReportFault) {
        let counts = self.counters.of(backend);
        counts.bad_reports = counts.bad_reports.saturating_add(1);
        if self.upstreams.is_first_fault(backend, &fault) {
            self.notify(Notice::UnreadableReport { backend, fault });
        }
    }
}
