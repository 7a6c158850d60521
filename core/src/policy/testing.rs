//! A router on a test bench, with manual requests and ends, and backends identified by index.
use std::collections::VecDeque;
use std::time::Duration;

use crate::blame::Asker;
use crate::config::{PolicyKind, RouterConfig, Rules};
use crate::event::{Action, Event, Lease, Outcome, ProbeAnswer, ProbeKind, RequestFailure};
use crate::id::{BackendId, LeaseId, ProbeId};
use crate::policy::PolicyView;
use crate::router::Router;
use crate::time::Instant;

pub(crate) struct Bench {
    pub(crate) router: Router,
    pub(crate) now: Instant,
    leases: Vec<VecDeque<Lease>>,
    /// Duration of a backend's pings, ms.
    pub(crate) ping_ms: fn(usize) -> u64,
}

impl Bench {
    pub(crate) fn new(policy: PolicyKind, count: usize) -> Self {
        Self::with(Rules { policy, ..Rules::default() }, count)
    }

    pub(crate) fn with(rules: Rules, count: usize) -> Self {
        let backends = (0..count).map(|slot| format!("b{slot}")).collect();
        let now = Instant::from_millis(1000);
        let router = Router::new(RouterConfig { backends, rules }, 1, now).expect("valid rules");
        let leases = (0..count).map(|_| VecDeque::new()).collect();
        Self { router, now, leases, ping_ms: |_| 1 }
    }

    /// A bench with a learner whose costs are inverted.
    pub(crate) fn broken(rules: Rules, count: usize) -> Self {
        let mut bench = Self::with(rules.clone(), count);
        let backends = (0..count).map(|slot| format!("b{slot}")).collect();
        let config = RouterConfig { backends, rules };
        bench.router = Router::with_broken_learner(config, 1, bench.now).expect("valid rules");
        bench
    }

    /// Sends a request that has failed at the backends `tried`. Returns its backend.
    pub(crate) fn send(&mut self, tried: &[u32]) -> usize {
        let tried: Vec<_> = tried.iter().map(|slot| BackendId::from_index(*slot)).collect();
        let lease = self.router.route(self.now, &tried).expect("a backend");
        let slot = lease.backend().index();
        self.leases[slot].push_back(lease);
        slot
    }

    /// Sends a request of this group of clients and paths. Returns its backend.
    pub(crate) fn send_for(&mut self, asker: Asker) -> usize {
        let lease = self.router.route_for(self.now, &[], asker).expect("a backend");
        let slot = lease.backend().index();
        self.leases[slot].push_back(lease);
        slot
    }

    /// Sends a request to this backend and forgets it: it stays in flight.
    pub(crate) fn hold(&mut self, slot: u32) -> (LeaseId, BackendId) {
        let others = (0..self.leases.len() as u32).filter(|other| *other != slot);
        let others: Vec<_> = others.map(BackendId::from_index).collect();
        let lease = self.router.route(self.now, &others).expect("one is left");
        (lease.id(), lease.backend())
    }

    /// Ends the oldest request of this backend well, `ms` from now.
    pub(crate) fn answer(&mut self, slot: usize, ms: f64) {
        let latency = Duration::from_secs_f64(ms / 1e3);
        self.now += latency;
        self.end(slot, Outcome::Answered { status: 200, latency });
    }

    /// Fails the oldest request of this backend at once.
    pub(crate) fn fail(&mut self, slot: usize) {
        self.end(slot, Outcome::Failed(RequestFailure::Cut));
    }

    pub(crate) fn end(&mut self, slot: usize, outcome: Outcome) {
        let lease = self.leases[slot].pop_front().expect("a request in flight");
        self.router.handle_event(self.now, Event::RequestFinished { lease, outcome });
    }

    pub(crate) fn wait(&mut self, ms: u64) {
        self.now += Duration::from_millis(ms);
    }

    /// Brings a backend down: sends it a request whose connection is refused.
    pub(crate) fn bring_down(&mut self, slot: u32) {
        let others: Vec<_> = (0..self.leases.len() as u32).filter(|other| *other != slot).collect();
        assert_eq!(self.send(&others), slot as usize);
        self.end(slot as usize, Outcome::Failed(RequestFailure::Refused));
    }

    /// Handles the deadlines and completes every ping at once. Returns the pinged backends.
    pub(crate) fn mind_pings(&mut self) -> Vec<usize> {
        self.router.handle_timeout(self.now);
        let mut pings: Vec<(ProbeId, usize)> = Vec::new();
        while let Some(action) = self.router.poll_action() {
            if let Action::StartProbe { probe, backend, kind: ProbeKind::Ping, .. } = action {
                pings.push((probe, backend.index()));
            }
        }
        for (probe, slot) in &pings {
            let latency = Duration::from_millis((self.ping_ms)(*slot));
            let result = Ok(ProbeAnswer { latency, report: None });
            self.router.handle_event(self.now, Event::ProbeFinished { probe: *probe, result });
        }
        pings.into_iter().map(|(_, slot)| slot).collect()
    }

    pub(crate) fn view(&self, slot: usize) -> PolicyView {
        self.router.snapshot(self.now).backends[slot].policy.clone()
    }
}
