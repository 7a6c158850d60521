//! Counts for the metrics, kept where events happen: a few increments for each request, no
//! allocation and no text. No decision of the proxy depends on them.
//!
//! The layout hints are explained in `proxy/mod.rs`.
use intelliproxy_core::{BackendId, Instant, Lease, Outcome};

use super::Proxy;
use super::id::ConnId;
use super::notice::{Excess, Notice, RemedyTaken};
use crate::pages::metrics::{
    BackendCounts, BackendFigures, CLOSED_IDLE, Histogram, IncidentCounts, Overall, REFUSED, reason,
};

/// The counts of backends and of rare events.
#[derive(Debug, Default)]
pub(super) struct Counters {
    /// The counts of each backend, by the slot of its id.
    backends: Vec<(BackendId, BackendCounts)>,
    /// Late events of removed backends are counted here if another backend uses the slot. Nothing
    /// reads these counts.
    gone: BackendCounts,
    pub(super) incidents: IncidentCounts,
}

impl Counters {
    /// Returns the counts of a backend.
    #[inline(always)]
    pub(super) fn of(&mut self, backend: BackendId) -> &mut BackendCounts {
        let index = backend.index();
        if self.backends.get(index).is_none_or(|(id, _)| *id != backend) {
            return self.begin(backend);
        }
        &mut self.backends[index].1
    }

    /// Starts the counts of a backend that is new in its slot. Late events of earlier backends in
    /// the slot are counted in `gone`.
    #[cold]
    fn begin(&mut self, backend: BackendId) -> &mut BackendCounts {
        for slot in self.backends.len()..=backend.index() {
            let id = BackendId::new(slot as u32, 0);
            self.backends.push((id, BackendCounts::default()));
        }
        let (id, counts) = &mut self.backends[backend.index()];
        if id.generation() > backend.generation() {
            return &mut self.gone;
        }
        if *id != backend {
            (*id, *counts) = (backend, BackendCounts::default());
        }
        counts
    }

    /// Counts bytes received from a backend.
    #[inline]
    pub(super) fn received(&mut self, backend: BackendId, count: usize) {
        self.of(backend).received += count as u64;
    }

    /// Counts bytes sent to a backend.
    pub(super) fn sent(&mut self, backend: BackendId, count: usize) {
        self.of(backend).sent += count as u64;
    }

    /// Counts the end of a request at a backend.
    #[inline(always)]
    pub(super) fn finished(&mut self, now: Instant, lease: &Lease, outcome: &Outcome) {
        let counts = self.of(lease.backend());
        match *outcome {
            Outcome::Answered { status, latency } => {
                counts.responses.add(status);
                counts.first_byte.add(latency);
                counts.recent.add_nanos(latency.as_nanos() as u64);
                let begun = lease.routed_at().as_nanos();
                counts.duration.add_nanos(now.as_nanos().saturating_sub(begun));
            }
            Outcome::Refused { status, .. } => counts.responses.add(status),
            Outcome::Failed(_) => counts.failed += 1,
            Outcome::Abandoned => counts.abandoned += 1,
        }
    }

    /// Counts a notice, if it is of a kind that the metrics show.
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
            Notice::HandshakeFailed { .. } => incidents.handshakes_failed += 1,
            Notice::ClientRefused { .. } => incidents.clients_refused += 1,
            Notice::ClientLimited { excess: Excess::Connections, .. } => {
                incidents.limited.connections += 1;
            }
            Notice::ClientLimited { excess: Excess::Requests, .. } => {
                incidents.limited.requests += 1;
            }
            Notice::ClientsGaveWay { count, .. } => incidents.clients_gave_way += count,
            _ => {}
        }
    }
}

impl Proxy {
    /// Counts a new connection for a request.
    #[cold]
    pub(super) fn count_connected(&mut self, now: Instant, conn: ConnId) {
        if let Some(upstream) = self.table.upstream_mut(conn) {
            let counts = self.counters.of(upstream.backend);
            // Before the first exchange `idle_since` is the time of dialling.
            counts.connect.add(now.since(upstream.idle_since));
        }
    }

    /// Counts a failed connection for a request.
    #[cold]
    pub(super) fn count_unconnected(&mut self, conn: ConnId) {
        if let Some(upstream) = self.table.upstream_mut(conn) {
            let counts = self.counters.of(upstream.backend);
            counts.connect_failures += 1;
        }
    }

    /// Whether requests can be served: a backend is usable, and the proxy has not announced its
    /// stop.
    pub fn is_ready(&self) -> bool {
        self.readiness().is_ok()
    }

    /// Returns a sentence about the readiness. It is an error if requests cannot be served.
    pub(crate) fn readiness(&self) -> Result<&'static str, &'static str> {
        if self.shared.is_leaving {
            return Err("not ready: the proxy is stopping");
        }
        if self.upstreams.has_usable() {
            Ok("ready")
        } else {
            Err("not ready: no backend is usable")
        }
    }

    /// Returns the figures for the metrics of the whole proxy.
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
            access: self.shared.access.counts(),
            reloads_done: reloads.done,
            reloads_refused: reloads.refused,
            recording: self.upstreams.recording(),
            is_ready: self.is_ready(),
        }
    }

    /// Returns the metrics of one backend; `None` if another backend uses its slot.
    pub(crate) fn figures(&self, now: Instant, backend: BackendId) -> Option<BackendFigures> {
        let snapshot = self.upstreams.backend_snapshot(now, backend)?;
        let counts = self.counts_of(backend).copied().unwrap_or_default();
        let idle = self.upstreams.idle(backend).len();
        Some(BackendFigures { snapshot, counts, idle })
    }

    /// Returns the times to the heads of a backend's responses; `None` before its first request.
    pub(crate) fn head_times(&self, backend: BackendId) -> Option<Histogram> {
        self.counts_of(backend).map(|counts| counts.first_byte)
    }

    fn counts_of(&self, backend: BackendId) -> Option<&BackendCounts> {
        let counts = self.counters.backends.get(backend.index());
        counts.filter(|(id, _)| *id == backend).map(|(_, counts)| counts)
    }

    /// Returns the configured backends in their order.
    pub(crate) fn configured(&self) -> &[BackendId] {
        self.upstreams.configured()
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::config::{BackendTarget, Config};
    use crate::pages::ProcessFigures;
    use crate::pages::metrics::MetricsText;
    use crate::proxy::{Action, ConnectFailure};

    const START: Instant = Instant::from_millis(1);

    fn proxy() -> Proxy {
        let target = |(name, port): (&str, u16)| BackendTarget {
            name: name.to_owned(),
            url: format!("http://{name}"),
            authority: name.to_owned(),
            tls: None,
            addresses: vec![SocketAddr::from(([127, 0, 0, 1], port))],
        };
        let targets = [("A", 1), ("B", 2)].map(target).to_vec();
        Proxy::new(Config::default(), targets, 1, START).expect("good defaults")
    }

    fn read(proxy: &mut Proxy, now: Instant, conn: ConnId, bytes: &[u8]) {
        proxy.read_space(conn)[..bytes.len()].copy_from_slice(bytes);
        proxy.handle_read(now, conn, bytes.len());
    }

    /// Writes all waiting bytes. Returns the last requested connection.
    fn settle(proxy: &mut Proxy, now: Instant) -> Option<ConnId> {
        let mut asked = None;
        loop {
            while let Some(action) = proxy.poll_action() {
                if let Action::Connect { conn, .. } = action {
                    asked = Some(conn);
                }
            }
            let Some(conn) = proxy.poll_dirty() else { return asked };
            let count = proxy.write_ready(conn).len();
            if count > 0 {
                proxy.handle_written(now, conn, count);
            }
        }
    }

    fn text(proxy: &Proxy, now: Instant) -> String {
        let process = ProcessFigures::default();
        let mut text = MetricsText::new(&proxy.overall(now), &process);
        let figures = proxy.configured().iter().filter_map(|id| proxy.figures(now, *id));
        figures.for_each(|figures| text.push(figures));
        while !text.write_some(100) {}
        String::from_utf8(text.finish()).expect("UTF-8")
    }

    /// The first backend refuses to connect. The second takes 3 ms to connect and 20 ms more to
    /// respond. Each event is counted at its backend.
    #[test]
    fn a_retry_is_counted_at_both_backends() {
        let mut proxy = proxy();
        let client = proxy.handle_accept(START, SocketAddr::from(([127, 0, 0, 1], 9)));
        read(&mut proxy, START, client, b"GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        let first = settle(&mut proxy, START).expect("a connection to A");
        proxy.handle_connected(START, first, Err(ConnectFailure::Refused));
        let second = settle(&mut proxy, START).expect("a connection to B");
        let mut now = START + std::time::Duration::from_millis(3);
        proxy.handle_connected(now, second, Ok(()));
        settle(&mut proxy, now);
        now += std::time::Duration::from_millis(20);
        let response = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        read(&mut proxy, now, second, response);
        settle(&mut proxy, now);
        let text = text(&proxy, now);
        for line in [
            "requests_total 1",
            "responses_total{code=\"2xx\",source=\"backend\"} 1",
            "retries_total{pool=\"default\",reason=\"connect_refused\"} 1",
            "upstream_errors_total{pool=\"default\",reason=\"connect_refused\"} 1",
            "backend_requests_total{pool=\"default\",backend=\"A\",code=\"failed\"} 1",
            "backend_connect_failures_total{pool=\"default\",backend=\"A\"} 1",
            "backend_requests_total{pool=\"default\",backend=\"B\",code=\"2xx\"} 1",
            "backend_connect_duration_seconds_bucket{pool=\"default\",backend=\"B\",le=\"0.0025\"} 0",
            "backend_connect_duration_seconds_bucket{pool=\"default\",backend=\"B\",le=\"0.005\"} 1",
            "backend_request_duration_seconds_sum{pool=\"default\",backend=\"B\"} 0.023",
            "backend_first_byte_seconds_count{pool=\"default\",backend=\"A\"} 0",
            &format!(
                "backend_received_bytes_total{{pool=\"default\",backend=\"B\"}} {}",
                response.len()
            ),
        ] {
            assert!(text.contains(&format!("\nintelliproxy_{line}\n")), "{line}\n{text}");
        }
    }

    /// A backend in the slot of another starts with zeros. Late events of the other backend are not
    /// counted for it.
    #[test]
    fn a_new_backend_begins_with_zeros() {
        let mut counters = Counters::default();
        let [old, new] = [0, 1].map(|generation| BackendId::new(2, generation));
        counters.of(old).failed += 3;
        assert_eq!(counters.of(old).failed, 3);
        assert_eq!(counters.of(new).failed, 0);
        counters.of(old).failed += 1;
        assert_eq!(counters.of(new).failed, 0);
    }
}
