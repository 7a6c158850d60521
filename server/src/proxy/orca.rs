//! Load figures in response fields: which backends send them, and the figures that sessions have
//! read but not yet passed to the router. `report/orca.rs` reads the fields.
use std::collections::BTreeMap;
use std::sync::Arc;

use intelliproxy_core::{BackendId, Event, Instant};

use super::Proxy;
use super::notice::{Notice, ReportFault};
use super::report::{Reading, orca};
use crate::config::{Orca, Reporting};
use crate::http::head::ResponseHead;

/// The backends whose responses have load figures, and the figures that wait for the router.
#[derive(Debug, Default)]
pub(crate) struct ResponseLoads {
    backends: BTreeMap<BackendId, Arc<Reporting>>,
    read: Vec<(BackendId, Reading)>,
}

impl ResponseLoads {
    /// Sets the backends whose responses are read.
    pub(crate) fn set(&mut self, backends: BTreeMap<BackendId, Arc<Reporting>>) {
        self.backends = backends;
    }

    /// Whether any backend's responses are read.
    #[inline]
    pub(crate) fn is_on(&self) -> bool {
        !self.backends.is_empty()
    }

    /// Reads the figures in a final response. Returns the names of the fields to remove, which may
    /// be empty.
    #[cold]
    pub(crate) fn take(
        &mut self,
        backend: Option<BackendId>,
        head: &ResponseHead<'_, '_>,
    ) -> &'static [&'static str] {
        let Some((backend, reporting)) = backend.and_then(|id| Some((id, self.backends.get(&id)?)))
        else {
            return &[];
        };
        let mut has_field = false;
        for (name, _, value) in head.fields.iter().filter(|(name, _, _)| orca::is_field(name)) {
            // Only the first field is used: a valid response has only one.
            if !has_field {
                self.read.push((backend, orca::read(name, value, &reporting.orca_names)));
            }
            has_field = true;
        }
        if has_field && reporting.orca == Orca::Take { &orca::FIELDS } else { &[] }
    }
}

impl Proxy {
    /// Passes the figures that sessions have read to the router.
    #[inline]
    pub(super) fn tell_loads(&mut self, now: Instant) {
        if !self.shared.loads.read.is_empty() {
            self.tell_read_loads(now);
        }
    }

    #[cold]
    fn tell_read_loads(&mut self, now: Instant) {
        for (backend, Reading { report, fault }) in std::mem::take(&mut self.shared.loads.read) {
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
