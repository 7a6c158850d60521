//! Starts and ends the probes that the router requests, each on its own connection. `probe.rs` has
//! the exchange of one probe.
//!
//! The layout hints are explained in `proxy/mod.rs`.
use intelliproxy_core::{BackendId, Event, Instant, ProbeFailure, ProbeId, ProbeKind, ProbeResult};

use super::conn::Conn;
use super::dispatch::connect_error;
use super::id::ConnId;
use super::probe::{ProbeExchange, Work};
use super::{Action, ConnectFailure, Proxy};
use crate::http::UpstreamError;

impl Proxy {
    pub(super) fn start_probe(
        &mut self,
        now: Instant,
        probe: ProbeId,
        backend: BackendId,
        kind: ProbeKind,
        deadline: Instant,
    ) {
        let attempt = self.upstreams.first_attempt(backend);
        let (Some(target), Some(address)) =
            (self.upstreams.target(backend), self.upstreams.address(backend, attempt))
        else {
            return;
        };
        let work = match kind {
            ProbeKind::Ping => Work::Ping(self.upstreams.check(backend)),
            ProbeKind::Report => Work::Report(self.upstreams.reporting(backend)),
        };
        let mut exchange =
            ProbeExchange::new(probe, backend, work, now, deadline, &target.authority);
        exchange.attempt = attempt;
        let address = exchange.address(address);
        self.make_room_for_upstream();
        let conn = self.table.insert(|_| Conn::Probe(Box::new(exchange)));
        self.arm(conn, deadline);
        self.shared.actions.push_back(Action::Connect { conn, address });
    }

    /// Handles a failed connection of a probe: tries the next address, or fails the probe.
    pub(super) fn redirect_probe(&mut self, now: Instant, conn: ConnId, failure: ConnectFailure) {
        if let ConnectFailure::Handshake(fault) = failure
            && let Some(backend) = self.probe_mut(conn).map(|probe| probe.backend)
        {
            self.note_tls_fault(backend, fault);
        }
        let error = connect_error(failure);
        let Some(probe) = self.probe_mut(conn) else {
            return;
        };
        probe.attempt = probe.attempt.after(error);
        let (backend, attempt, deadline) = (probe.backend, probe.attempt, probe.deadline);
        let Some(address) = self.upstreams.address(backend, attempt) else {
            let failure = match attempt.error(error) {
                UpstreamError::Refused => ProbeFailure::Refused,
                UpstreamError::Exhausted => ProbeFailure::Abandoned,
                _ => ProbeFailure::Unreachable,
            };
            return self.finish_probe(now, conn, Err(failure));
        };
        // A connection id names one socket: the next socket gets a new id.
        let Some(Conn::Probe(exchange)) = self.table.remove(conn) else {
            return;
        };
        let address = exchange.address(address);
        self.shared.actions.push_back(Action::Close { conn, with_reset: false });
        let conn = self.table.insert(|_| Conn::Probe(exchange));
        self.arm(conn, deadline);
        self.shared.actions.push_back(Action::Connect { conn, address });
    }

    /// Handles the timeout of a probe. If no address accepted the connection, the next probe starts
    /// with the address after the current one. An address that drops all packets therefore does not
    /// hide the others.
    pub(super) fn time_out_probe(&mut self, now: Instant, conn: ConnId) {
        if let Some(probe) = self.probe_mut(conn)
            && !probe.is_open()
        {
            let (backend, attempt) = (probe.backend, probe.attempt.next());
            self.upstreams.prefer(backend, attempt);
        }
        self.finish_probe(now, conn, Err(ProbeFailure::TimedOut));
    }

    /// Handles a pause of the driver, such as a stopped process: pending probes show nothing about
    /// their backends. Must be called before the events that arrived during the pause are handled.
    pub fn handle_pause(&mut self, now: Instant) {
        let probes = self.table.iter().filter(|(_, conn)| matches!(conn, Conn::Probe(_)));
        let probes: Vec<ConnId> = probes.map(|(id, _)| id).collect();
        for conn in probes {
            self.finish_probe(now, conn, Err(ProbeFailure::Abandoned));
        }
    }

    /// Whether a connection carries a probe.
    pub fn is_probe(&self, conn: ConnId) -> bool {
        matches!(self.table.get(conn).map(|entry| &entry.conn), Some(Conn::Probe(_)))
    }

    pub(super) fn finish_probe(&mut self, now: Instant, conn: ConnId, result: ProbeResult) {
        let Some(exchange) = self.probe_mut(conn) else {
            return;
        };
        let (probe, backend) = (exchange.probe, exchange.backend);
        let is_secured = exchange.may_have_tls();
        if let Some(fault) = exchange.take_fault(&result) {
            self.blame_report(backend, fault);
        }
        if result.is_ok() && is_secured {
            // The next fault is reported again.
            self.upstreams.is_news_tls(backend, None);
        }
        self.close(conn, false);
        self.upstreams.tell(now, Event::ProbeFinished { probe, result });
        self.drain_router(now);
        if !self.queue.is_empty() {
            self.serve_queue(now);
        }
    }

    /// Returns room for a probe's response.
    #[cold]
    pub(super) fn probe_space(&mut self, conn: ConnId) -> &mut [u8] {
        self.probe_mut(conn).map_or(&mut [], ProbeExchange::read_space)
    }

    /// Handles `count` bytes of a probe's response.
    #[cold]
    pub(super) fn read_probe(&mut self, now: Instant, conn: ConnId, count: usize) {
        let result = self.probe_mut(conn).and_then(|probe| probe.handle_read(now, count));
        if let Some(result) = result {
            self.finish_probe(now, conn, result);
        }
    }

    pub(super) fn probe_mut(&mut self, conn: ConnId) -> Option<&mut ProbeExchange> {
        match self.table.get_mut(conn).map(|entry| &mut entry.conn) {
            Some(Conn::Probe(probe)) => Some(probe),
            _ => None,
        }
    }
}
