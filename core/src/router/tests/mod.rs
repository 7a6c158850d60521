//! The router as a whole, in small scenarios with numbers worked out by hand.
mod affinity;
mod agents;
mod backups;
mod checks;
mod configurations;
mod decisions;
mod ejection;
mod facts;
mod reasons;
mod refusals;
mod returning;
mod service;

use std::time::Duration;

use super::*;
use crate::config::{PolicyKind, Weights};
use crate::event::{
    LoadReport, OutCause, Outcome, ProbeAnswer, ProbeKind, ProbeResult, RequestFailure,
};
use crate::health::Health;
use crate::id::{LeaseId, ProbeId};
use crate::outlier::StandingView;

/// A router and the time. Its probes stay outstanding until a test ends them.
struct World {
    router: Router,
    now: Instant,
    asked: Vec<(ProbeId, BackendId, ProbeKind)>,
    notices: Vec<Notice>,
}

impl World {
    fn new(names: &[&str]) -> Self {
        Self::with_rules(names, Rules::default())
    }

    fn with_rules(names: &[&str], rules: Rules) -> Self {
        let now = Instant::from_millis(1_000_000);
        let router = Router::new(config(names, rules), 1, now).expect("a valid configuration");
        let mut world = Self { router, now, asked: Vec::new(), notices: Vec::new() };
        world.advance(0);
        world
    }

    /// Two backends whose first pings took these times.
    fn with_latencies(a_ms: u64, b_ms: u64) -> Self {
        let mut world = Self::new(&["a", "b"]);
        world.answer(A, a_ms);
        world.answer(B, b_ms);
        world
    }

    /// Lets time pass and handles every deadline on the way.
    fn advance(&mut self, ms: u64) {
        let end = self.now + Duration::from_millis(ms);
        while let Some(deadline) = self.router.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(deadline);
            self.router.handle_timeout(self.now);
            self.drain();
        }
        self.now = end;
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(action) = self.router.poll_action() {
            match action {
                Action::StartProbe { probe, backend, kind, .. } => {
                    self.asked.push((probe, backend, kind));
                }
                Action::Notify(notice) => self.notices.push(notice),
            }
        }
    }

    #[track_caller]
    fn end_probe(&mut self, backend: BackendId, kind: ProbeKind, result: ProbeResult) {
        let latest = self.asked.iter().rposition(|asked| (asked.1, asked.2) == (backend, kind));
        let (probe, ..) = self.asked.remove(latest.expect("a probe of this backend was started"));
        self.tell(Event::ProbeFinished { probe, result });
    }

    /// Completes the backend's latest ping with a latency of `ms`.
    #[track_caller]
    fn answer(&mut self, backend: BackendId, ms: u64) {
        let answer = ProbeAnswer { latency: Duration::from_millis(ms), report: None };
        self.end_probe(backend, ProbeKind::Ping, Ok(answer));
    }

    /// Lets time pass until the backend's next ping. Pings of others get no response.
    #[track_caller]
    fn await_ping(&mut self, backend: BackendId) {
        let is_asked = |world: &Self| {
            let wanted = (backend, ProbeKind::Ping);
            world.asked.iter().any(|asked| (asked.1, asked.2) == wanted)
        };
        let end = self.now + Duration::from_secs(60);
        while !is_asked(self) {
            assert!(self.now < end, "a ping comes within a minute");
            self.advance(100);
        }
    }

    /// Completes the first five pings of each of these backends with its latency in ms.
    fn first_pings(&mut self, latencies: &[(BackendId, u64)]) {
        for _ in 0..5 {
            for (backend, ms) in latencies {
                self.await_ping(*backend);
                self.answer(*backend, *ms);
            }
        }
    }

    /// Fails the backend's latest ping.
    #[track_caller]
    fn fail(&mut self, backend: BackendId, cause: ProbeFailure) {
        self.end_probe(backend, ProbeKind::Ping, Err(cause));
    }

    #[track_caller]
    fn report(&mut self, backend: BackendId, report: Option<LoadReport>) {
        let answer = ProbeAnswer { latency: Duration::ZERO, report };
        self.end_probe(backend, ProbeKind::Report, Ok(answer));
    }

    fn tell(&mut self, event: Event) {
        self.router.handle_event(self.now, event);
        self.drain();
    }

    #[track_caller]
    fn route(&mut self) -> Lease {
        let lease = self.router.route(self.now, &[]).expect("a backend");
        self.drain();
        lease
    }

    /// Routes one request and finishes it with status 200. Returns its backend.
    #[track_caller]
    fn serve(&mut self) -> BackendId {
        let lease = self.route();
        let backend = lease.backend();
        self.finish(lease, 200);
        backend
    }

    fn finish(&mut self, lease: Lease, status: u16) {
        self.end(lease, Outcome::Answered { status, latency: Duration::from_millis(7) });
    }

    fn end(&mut self, lease: Lease, outcome: Outcome) {
        self.tell(Event::RequestFinished { lease, outcome });
    }

    fn reconfigure(&mut self, names: &[&str], rules: Rules) {
        self.tell(Event::Reconfigured(Box::new(config(names, rules))));
    }

    fn snapshot(&self) -> Snapshot {
        self.router.snapshot(self.now)
    }

    fn standing(&self, id: BackendId) -> StandingView {
        self.router.backend_snapshot(self.now, id).expect("it is there").standing
    }

    fn notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }
}

fn config(names: &[&str], rules: Rules) -> RouterConfig {
    RouterConfig { backends: names.iter().map(|name| (*name).to_owned()).collect(), rules }
}

const A: BackendId = BackendId::from_index(0);
const B: BackendId = BackendId::from_index(1);
const C: BackendId = BackendId::from_index(2);
