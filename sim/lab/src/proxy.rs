//! A proxy of the lab: a real router whose ids are mapped to the lab's backends, or the balancer of
//! a peer.
use std::time::Duration;

use intelliproxy_core::{
    Action, AffinityKey, Asker, BackendId, ConfigError, Event, Instant, Lease, LoadReport, Outcome,
    PolicyKind, ProbeId, ProbeKind, ProbeResult, Router, RouterConfig, Rules,
};

use super::earliest::NEVER;
use super::peer::Peer;

/// A proxy.
#[derive(Debug)]
pub(super) enum Proxy {
    /// A proxy with the router of the core.
    Routed(Box<Routed>),
    /// A proxy that balances like another product.
    Peer(Box<dyn Peer>),
}

impl Proxy {
    /// Sets the configured backends.
    pub(super) fn configure(&mut self, now: u64, backends: &[(usize, &str)]) {
        match self {
            Self::Routed(proxy) => proxy.configure(now, backends),
            Self::Peer(peer) => {
                let numbers: Vec<_> = backends.iter().map(|(number, _)| *number).collect();
                peer.configure(now, &numbers);
            }
        }
    }

    /// Routes a request that failed at `tried`. Returns the lab's backend, and the lease to give
    /// back.
    pub(super) fn route(
        &mut self,
        now: u64,
        tried: &[usize],
        key: Option<u64>,
    ) -> Option<(usize, Option<Lease>)> {
        match self {
            Self::Routed(proxy) => {
                proxy.route(now, tried, key).map(|(backend, lease)| (backend, Some(lease)))
            }
            Self::Peer(peer) => peer.choose(now, tried).map(|backend| (backend, None)),
        }
    }

    /// Returns whether another backend can take a request that these backends refused. The refusal
    /// is dropped only if so.
    pub(super) fn has_other(&self, now: u64, tried: &[usize]) -> bool {
        match self {
            Self::Routed(proxy) => proxy.has_other(now, tried),
            Self::Peer(_) => true,
        }
    }

    /// Ends a request.
    pub(super) fn finish(
        &mut self,
        now: u64,
        backend: usize,
        lease: Option<Lease>,
        outcome: Outcome,
    ) {
        match (self, lease) {
            (Self::Routed(proxy), Some(lease)) => proxy.finish(now, lease, outcome),
            (Self::Peer(peer), _) => peer.ended(now, backend, &outcome),
            (Self::Routed(_), None) => {
                debug_assert!(false, "a routed request has a lease");
            }
        }
    }

    /// Records that a request waits for its client, or again for its backend.
    pub(super) fn pause(&mut self, now: u64, lease: Option<&Lease>, is_paused: bool) {
        if let (Self::Routed(proxy), Some(lease)) = (self, lease) {
            let (lease, backend) = (lease.id(), lease.backend());
            proxy.note(
                now,
                if is_paused {
                    Event::LeasePaused { lease, backend }
                } else {
                    Event::LeaseResumed { lease, backend }
                },
            );
        }
    }

    /// Records that a request no longer counts as work of its backend, before its end.
    pub(super) fn open_stream(
        &mut self,
        now: u64,
        lease: Option<&Lease>,
        status: u16,
        latency: Duration,
    ) {
        if let (Self::Routed(proxy), Some(lease)) = (self, lease) {
            let (lease, backend) = (lease.id(), lease.backend());
            proxy.note(now, Event::StreamOpened { lease, backend, status, latency });
        }
    }

    /// Records the load figures of a response.
    pub(super) fn reported(&mut self, now: u64, lease: Option<&Lease>, report: LoadReport) {
        if let (Self::Routed(proxy), Some(lease)) = (self, lease) {
            proxy.note(now, Event::LoadReported { backend: lease.backend(), report });
        }
    }

    /// Ends a probe.
    pub(super) fn finish_probe(&mut self, now: u64, probe: ProbeId, result: ProbeResult) {
        match self {
            Self::Routed(proxy) => proxy.finish_probe(now, probe, result),
            Self::Peer(peer) => peer.probe_ended(now, probe, result.is_ok()),
        }
    }

    /// Handles the deadline.
    pub(super) fn handle_timeout(&mut self, now: u64) {
        match self {
            Self::Routed(proxy) => proxy.handle_timeout(now),
            Self::Peer(peer) => peer.handle_timeout(now),
        }
    }

    /// Returns the next probe to start: its id, the lab's backend, and its kind.
    pub(super) fn poll_probe(&mut self) -> Option<(ProbeId, usize, ProbeKind)> {
        match self {
            Self::Routed(proxy) => proxy.poll_probe(),
            Self::Peer(peer) => {
                peer.poll_probe().map(|(probe, backend)| (probe, backend, ProbeKind::Ping))
            }
        }
    }

    /// Returns the time of the next [`handle_timeout`](Self::handle_timeout), or [`NEVER`].
    pub(super) fn deadline(&self) -> u64 {
        match self {
            Self::Routed(proxy) => proxy.deadline(),
            Self::Peer(peer) => peer.deadline(),
        }
    }

    /// Returns the number of changes of the current backend since the last call.
    pub(super) fn take_switched(&mut self) -> u64 {
        match self {
            Self::Routed(proxy) => proxy.take_switched(),
            Self::Peer(_) => 0,
        }
    }

    /// Returns the number of changes of the current backend so far.
    pub(super) fn switches(&self) -> u64 {
        match self {
            Self::Routed(proxy) => proxy.router.counts().switches,
            Self::Peer(_) => 0,
        }
    }
}

/// A router, with the mapping between its ids and the lab's backends.
#[derive(Debug)]
pub(super) struct Routed {
    router: Router,
    /// The lab's backend by router id.
    backends: Vec<usize>,
    /// The router id by lab backend.
    ids: Vec<Option<BackendId>>,
    rules: Rules,
    /// Changes of the current backend that `take_switched` has returned.
    taken: u64,
}

impl Routed {
    /// Returns a proxy at time 0 with these backends: numbers in the lab, and names. Without a
    /// policy it uses a broken learner.
    pub(super) fn new(
        rules: &Rules,
        policy: Option<PolicyKind>,
        backends: &[(usize, &str)],
        seed: u64,
    ) -> Result<Self, ConfigError> {
        let rules = Rules { policy: policy.unwrap_or(PolicyKind::Learned), ..rules.clone() };
        let build = if policy.is_some() { Router::new } else { Router::with_broken_learner };
        let router = build(config(&rules, backends), seed, Instant::ZERO)?;
        let (backends_of, ids) = (Vec::new(), Vec::new());
        let mut proxy = Self { router, backends: backends_of, ids, rules, taken: 0 };
        proxy.learn_ids(backends);
        Ok(proxy)
    }

    fn configure(&mut self, now: u64, backends: &[(usize, &str)]) {
        let event = Event::Reconfigured(Box::new(config(&self.rules, backends)));
        self.router.handle_event(Instant::from_nanos(now), event);
        self.learn_ids(backends);
    }

    /// Routes a request. Returns the lab's backend, and the lease to give back.
    fn route(&mut self, now: u64, tried: &[usize], key: Option<u64>) -> Option<(usize, Lease)> {
        let now = Instant::from_nanos(now);
        let key = key.filter(|_| self.rules.affinity.by.is_some());
        let key = key.map(|key| AffinityKey::of(&key.to_le_bytes()));
        let asker = Asker::default();
        let lease = if tried.is_empty() {
            self.router.route_keyed(now, &[], asker, key)
        } else {
            self.router.route_keyed(now, &self.ids_of(tried), asker, key)
        };
        let lease = lease.ok()?;
        Some((self.backends[lease.backend().index()], lease))
    }

    fn has_other(&self, now: u64, tried: &[usize]) -> bool {
        self.router.has_other(Instant::from_nanos(now), &self.ids_of(tried))
    }

    fn ids_of(&self, backends: &[usize]) -> Vec<BackendId> {
        backends.iter().filter_map(|number| *self.ids.get(*number)?).collect()
    }

    fn note(&mut self, now: u64, event: Event) {
        self.router.handle_event(Instant::from_nanos(now), event);
    }

    fn finish(&mut self, now: u64, lease: Lease, outcome: Outcome) {
        let event = Event::RequestFinished { lease, outcome };
        self.router.handle_event(Instant::from_nanos(now), event);
    }

    fn finish_probe(&mut self, now: u64, probe: ProbeId, result: ProbeResult) {
        let event = Event::ProbeFinished { probe, result };
        self.router.handle_event(Instant::from_nanos(now), event);
    }

    fn handle_timeout(&mut self, now: u64) {
        self.router.handle_timeout(Instant::from_nanos(now));
    }

    /// Returns the router's next probe: its id, the lab's backend, and its kind. Notices to
    /// observers are dropped.
    fn poll_probe(&mut self) -> Option<(ProbeId, usize, ProbeKind)> {
        loop {
            if let Action::StartProbe { probe, backend, kind, .. } = self.router.poll_action()? {
                return Some((probe, self.backends[backend.index()], kind));
            }
        }
    }

    fn take_switched(&mut self) -> u64 {
        let switches = self.router.counts().switches;
        switches - std::mem::replace(&mut self.taken, switches)
    }

    fn deadline(&self) -> u64 {
        self.router.poll_timeout().map_or(NEVER, Instant::as_nanos)
    }

    fn learn_ids(&mut self, backends: &[(usize, &str)]) {
        for (number, name) in backends {
            let id = self.router.backend(name);
            if *number >= self.ids.len() {
                self.ids.resize(*number + 1, None);
            }
            self.ids[*number] = id;
            let Some(id) = id.map(BackendId::index) else {
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
