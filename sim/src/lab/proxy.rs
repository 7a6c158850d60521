//! A proxy of the lab: a real router, and which of the lab's backends its ids mean.
use intelliproxy_core::{
    Action, BackendId, ConfigError, Event, Instant, Lease, NoRoute, Outcome, PolicyKind, ProbeId,
    ProbeKind, ProbeResult, Router, RouterConfig, Rules,
};

use super::earliest::NEVER;

/// A router and the names it knows the backends by.
#[derive(Debug)]
pub(super) struct Proxy {
    router: Router,
    /// The lab's backend by the router's id.
    backends: Vec<usize>,
    rules: Rules,
}

impl Proxy {
    /// A proxy at time 0 of these backends: numbers in the lab, and names. Without a policy, of
    /// a broken learner.
    pub(super) fn new(
        rules: &Rules,
        policy: Option<PolicyKind>,
        backends: &[(usize, &str)],
        seed: u64,
    ) -> Result<Self, ConfigError> {
        let rules = Rules { policy: policy.unwrap_or(PolicyKind::Learned), ..rules.clone() };
        let build = if policy.is_some() { Router::new } else { Router::with_broken_learner };
        let router = build(config(&rules, backends), seed, Instant::ZERO)?;
        let mut proxy = Self { router, backends: Vec::new(), rules };
        proxy.learn_ids(backends);
        Ok(proxy)
    }

    /// The configuration names these backends from now on.
    pub(super) fn configure(&mut self, now: u64, backends: &[(usize, &str)]) {
        let event = Event::Reconfigured(Box::new(config(&self.rules, backends)));
        self.router.handle_event(Instant::from_nanos(now), event);
        self.learn_ids(backends);
    }

    /// Where a request goes: the lab's backend, and the lease to give back.
    pub(super) fn route(&mut self, now: u64) -> Result<(usize, Lease), NoRoute> {
        let lease = self.router.route(Instant::from_nanos(now), &[])?;
        Ok((self.backends[lease.backend().index()], lease))
    }

    /// A request came to its end.
    pub(super) fn finish(&mut self, now: u64, lease: Lease, outcome: Outcome) {
        let event = Event::RequestFinished { lease, outcome };
        self.router.handle_event(Instant::from_nanos(now), event);
    }

    /// A probe came to its end.
    pub(super) fn finish_probe(&mut self, now: u64, probe: ProbeId, result: ProbeResult) {
        let event = Event::ProbeFinished { probe, result };
        self.router.handle_event(Instant::from_nanos(now), event);
    }

    /// The router's deadline has come.
    pub(super) fn handle_timeout(&mut self, now: u64) {
        self.router.handle_timeout(Instant::from_nanos(now));
    }

    /// The next probe that the router wants: its id, the lab's backend, and what to ask. What it
    /// tells observers is passed over.
    pub(super) fn poll_probe(&mut self) -> Option<(ProbeId, usize, ProbeKind)> {
        loop {
            if let Action::StartProbe { probe, backend, kind, .. } = self.router.poll_action()? {
                return Some((probe, self.backends[backend.index()], kind));
            }
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called; [`NEVER`] for not at all.
    pub(super) fn deadline(&self) -> u64 {
        self.router.poll_timeout().map_or(NEVER, Instant::as_nanos)
    }

    /// Changes of the current backend so far.
    pub(super) fn switches(&self, now: u64) -> u64 {
        self.router.snapshot(Instant::from_nanos(now)).switches
    }

    fn learn_ids(&mut self, backends: &[(usize, &str)]) {
        for (number, name) in backends {
            let Some(id) = self.router.backend(name).map(BackendId::index) else {
                debug_assert!(false, "a scenario's names are those that a router takes");
                continue;
            };
            if id >= self.backends.len() {
                self.backends.resize(id + 1, usize::MAX);
            }
            self.backends[id] = *number;
        }
    }
}

fn config(rules: &Rules, backends: &[(usize, &str)]) -> RouterConfig {
    let backends = backends.iter().map(|(_, name)| (*name).to_owned()).collect();
    RouterConfig { backends, rules: rules.clone() }
}
