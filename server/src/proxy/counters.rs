//! Counts for the metrics, kept where things happen: a few increments for each request, no
//! allocation and no text. Nothing in the proxy depends on them.
use intelliproxy_core::{BackendId, Instant, Lease, Outcome};

use super::Proxy;
use super::id::ConnId;
use super::notice::{Notice, RemedyTaken};
use crate::pages::metrics::{
    BackendCounts, BackendFigures, CLOSED_IDLE, IncidentCounts, Overall, REFUSED, reason,
};

/// The counts of backends, and of what is rare.
#[derive(Debug, Default)]
pub(super) struct Counters {
    /// By the slot of the backend's id.
    backends: Vec<(BackendId, BackendCounts)>,
    pub(super) incidents: IncidentCounts,
}

impl Counters {
    /// The counts of a backend; `None` when another one has its slot.
    #[inline]
    fn of(&mut self, backend: BackendId) -> Option<&mut BackendCounts> {
        if self.backends.get(backend.index()).is_none_or(|(id, _)| *id != backend) {
            self.begin(backend);
        }
        let (id, counts) = self.backends.get_mut(backend.index())?;
        (*id == backend).then_some(counts)
    }

    /// Begins to count for a backend that is new in its slot.
    #[cold]
    fn begin(&mut self, backend: BackendId) {
        for slot in self.backends.len()..=backend.index() {
            let id = BackendId::new(slot as u32, 0);
            self.backends.push((id, BackendCounts::default()));
        }
        let (id, counts) = &mut self.backends[backend.index()];
        if id.generation() < backend.generation() {
            (*id, *counts) = (backend, BackendCounts::default());
        }
    }

    /// A request at a backend ended.
    #[inline]
    pub(super) fn finished(&mut self, now: Instant, lease: &Lease, outcome: &Outcome) {
        let Some(counts) = self.of(lease.backend()) else { return };
        match *outcome {
            Outcome::Answered { status, latency } => {
                counts.responses.add(status);
                counts.first_byte.add(latency);
                counts.duration.add(now.since(lease.routed_at()));
            }
            Outcome::Refused { status, .. } => counts.responses.add(status),
            Outcome::Failed(_) => counts.failed += 1,
            Outcome::Abandoned => counts.abandoned += 1,
        }
    }

    /// Counts a notice.
    #[cold]
    pub(super) fn note(&mut self, notice: &Notice) {
        let incidents = &mut self.incidents;
        match notice {
            Notice::UpstreamError { remedy: RemedyTaken::Redialled, .. } => {
                incidents.retries.add(CLOSED_IDLE);
            }
            Notice::UpstreamError { error, remedy, .. } => {
                incidents.errors.add(reason(*error));
                if *remedy == RemedyTaken::Retried {
                    incidents.retries.add(reason(*error));
                }
            }
            Notice::Refused { .. } => incidents.retries.add(REFUSED),
            Notice::ClientError { .. } => incidents.client_errors += 1,
            Notice::ClientRefused { .. } => incidents.clients_refused += 1,
            Notice::ClientsGaveWay { count, .. } => incidents.clients_gave_way += count,
            _ => {}
        }
    }
}

impl Proxy {
    /// Bytes came from a backend.
    #[inline]
    pub(super) fn count_received(&mut self, conn: ConnId, count: usize) {
        if let Some(upstream) = self.table.upstream_mut(conn)
            && let Some(counts) = self.counters.of(upstream.backend)
        {
            counts.received += count as u64;
        }
    }

    /// Bytes went to a backend.
    #[inline]
    pub(super) fn count_sent(&mut self, conn: ConnId, count: usize) {
        if let Some(upstream) = self.table.upstream_mut(conn)
            && let Some(counts) = self.counters.of(upstream.backend)
        {
            counts.sent += count as u64;
        }
    }

    /// A connection for a request was made.
    #[cold]
    pub(super) fn count_connected(&mut self, now: Instant, conn: ConnId) {
        if let Some(upstream) = self.table.upstream_mut(conn)
            && let Some(counts) = self.counters.of(upstream.backend)
        {
            // It is dialled with no idle time before.
            counts.connect.add(now.since(upstream.idle_since));
        }
    }

    /// A connection for a request could not be made.
    #[cold]
    pub(super) fn count_unconnected(&mut self, conn: ConnId) {
        if let Some(upstream) = self.table.upstream_mut(conn)
            && let Some(counts) = self.counters.of(upstream.backend)
        {
            counts.connect_failures += 1;
        }
    }

    /// Whether requests can be served: a backend is usable and the proxy is not stopping.
    pub fn is_ready(&self) -> bool {
        !self.shared.is_leaving && self.upstreams.has_usable()
    }

    /// The figures that are of no single backend, for the metrics.
    pub(crate) fn overall(&self, now: Instant) -> Overall {
        let reloads = &self.reload_counts;
        Overall {
            policy: self.shared.config.routing.policy.name(),
            router: self.upstreams.counts(),
            guard: self.upstreams.guard(now),
            exchanges: self.shared.counts,
            incidents: self.counters.incidents,
            retries: self.shared.retries.counts(),
            queue: self.queue.counts(),
            queue_length: self.queue.len(),
            queue_wait: *self.queue.wait(),
            clients: self.clients,
            clients_max: self.room.clients_max,
            connections: self.table.len(),
            buffers: self.shared.buffers.lent(),
            log: self.log_counts,
            reloads_done: reloads.done,
            reloads_refused: reloads.refused,
            recording: self.upstreams.recording(),
            is_ready: self.is_ready(),
        }
    }

    /// One backend's figures, for the metrics; `None` when another one has its slot.
    pub(crate) fn figures(&self, now: Instant, backend: BackendId) -> Option<BackendFigures> {
        let snapshot = self.upstreams.backend_snapshot(now, backend)?;
        let counts = self.counters.backends.get(backend.index());
        let counts = counts.filter(|(id, _)| *id == backend).map(|(_, counts)| *counts);
        let idle = self.upstreams.idle(backend).len();
        Some(BackendFigures { snapshot, counts: counts.unwrap_or_default(), idle })
    }

    /// The configured backends, in their order.
    pub(crate) fn configured(&self) -> &[BackendId] {
        self.upstreams.configured()
    }
}
