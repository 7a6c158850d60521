//! The router under a list of operations: for any events its invariants hold, its numbers are
//! finite, and the same list gives the same decisions.
use std::time::Duration;

use intelliproxy_core::{
    Action, AffinityBy, AffinityKey, Asker, BackendId, CheckRules, Event, Health, Instant, Lease,
    LoadReport, NoRoute, Outcome, PolicyKind, ProbeAnswer, ProbeFailure, ProbeId, ProbeResult,
    RequestFailure, Router, RouterConfig, Rules, StandingView,
};

use intelliproxy::fuzzing::Source;

/// Reads a seed, then operations.
///
/// # Panics
/// If an invariant does not hold, or if a second run of the same list ends differently.
pub fn router(data: &[u8]) {
    let (first, second) = (run(data), run(data));
    assert_eq!(first, second, "the same facts give the same decisions");
}

/// Maximum number of operations of one list.
const STEPS_MAX: usize = 2000;

struct World {
    router: Router,
    now: Instant,
    leases: Vec<Lease>,
    probes: Vec<ProbeId>,
    trace: Vec<String>,
}

fn run(data: &[u8]) -> Vec<String> {
    let mut source = Source::new(data);
    let seed = source.byte();
    let rules = Rules { policy: policy(seed), ..Rules::default() };
    let config = RouterConfig { backends: names(source.byte() & 0x9f), rules };
    let router = Router::new(config, seed.into(), Instant::ZERO).expect("a valid configuration");
    let mut world = World {
        router,
        now: Instant::ZERO,
        leases: Vec::new(),
        probes: Vec::new(),
        trace: Vec::new(),
    };
    let mut steps = 0;
    while !source.is_empty() && steps < STEPS_MAX {
        world.step(&mut source);
        world.check();
        steps += 1;
    }
    while let Some(lease) = world.leases.pop() {
        world.send(Event::RequestFinished { lease, outcome: Outcome::Abandoned });
    }
    world.check();
    let snapshot = world.router.snapshot(world.now);
    assert!(snapshot.backends.iter().all(|b| b.in_flight == 0), "every lease was returned");
    world.trace.push(format!("{snapshot:?}"));
    world.trace
}

impl World {
    fn step(&mut self, source: &mut Source<'_>) {
        match source.byte() % 15 {
            0..=2 => self.route(0),
            3 => {
                let tried = source.byte();
                self.route(tried);
            }
            4 | 5 => {
                let (which, outcome) = (usize::from(source.byte()), outcome(source));
                if !self.leases.is_empty() {
                    let lease = self.leases.swap_remove(which % self.leases.len());
                    self.send(Event::RequestFinished { lease, outcome });
                }
            }
            6 | 7 => {
                let (which, result) = (usize::from(source.byte()), result(source));
                if !self.probes.is_empty() {
                    let probe = self.probes.swap_remove(which % self.probes.len());
                    self.send(Event::ProbeFinished { probe, result });
                }
            }
            8 => {
                // A probe that never existed, has ended, or is under way.
                let probe = ProbeId::from_u64(u64::from(source.byte()));
                let result = result(source);
                self.send(Event::ProbeFinished { probe, result });
            }
            9 => {
                let (which, report) = (usize::from(source.byte()), report(source));
                let backends = self.router.snapshot(self.now).backends;
                if !backends.is_empty() {
                    let backend = backends[which % backends.len()].id;
                    self.send(Event::LoadReported { backend, report });
                }
            }
            10 => {
                let millis = u64::from(source.byte()) * u64::from(source.byte());
                self.now += Duration::from_millis(millis);
                self.router.handle_timeout(self.now);
                let next = self.router.poll_timeout();
                assert!(next.is_none_or(|next| next > self.now), "the next deadline is later");
                self.drain();
            }
            11..=13 => {
                let (which, to) = (usize::from(source.byte()), source.byte());
                if !self.leases.is_empty() {
                    let lease = &self.leases[which % self.leases.len()];
                    let (lease, backend) = (lease.id(), lease.backend());
                    let latency = Duration::from_millis(u64::from(to));
                    self.send(match to % 3 {
                        0 => Event::LeasePaused { lease, backend },
                        1 => Event::LeaseResumed { lease, backend },
                        _ => Event::StreamOpened { lease, backend, status: 101, latency },
                    });
                }
            }
            _ => {
                let config = RouterConfig { backends: names(source.byte()), rules: rules(source) };
                self.send(Event::Reconfigured(Box::new(config)));
            }
        }
    }

    fn route(&mut self, tried: u8) {
        let backends = self.router.snapshot(self.now).backends;
        let is_tried = |index: usize| tried >> index.min(7) & 1 == 1;
        let ids: Vec<_> = backends.iter().map(|b| b.id).filter(|id| is_tried(id.index())).collect();
        let asker = Asker { client: tried & 3, target: tried >> 2 };
        let owner = (tried & 8 != 0).then(|| BackendId::from_index(u32::from(tried & 7)));
        let key = AffinityKey { owner, ..AffinityKey::of(&[tried >> 3]) };
        let key = Some(key).filter(|_| self.router.rules().affinity.by.is_some());
        let routed = self.router.route_keyed(self.now, &ids, asker, key);
        self.trace.push(format!("{routed:?}"));
        match routed {
            Ok(lease) => {
                assert!(!ids.contains(&lease.backend()), "a tried backend is not tried again");
                let chosen = backends.iter().find(|b| b.id == lease.backend());
                let chosen = chosen.expect("only a configured backend is chosen");
                let is_free = |b: &&intelliproxy_core::BackendSnapshot| {
                    b.health != Health::Down && !ids.contains(&b.id)
                };
                // An ejected backend may be chosen only after the held ones.
                let is_in = |b: &&intelliproxy_core::BackendSnapshot| {
                    matches!(b.standing, StandingView::In | StandingView::SlowStart { .. })
                };
                assert!(
                    chosen.held.is_none()
                        || !backends
                            .iter()
                            .any(|b| { is_free(&b) && is_in(&b) && b.held.is_none() }),
                    "a held backend is chosen only if no other is left"
                );
                let is_usual = |b: &intelliproxy_core::BackendSnapshot| {
                    let is_pausing = b.held.is_some() && chosen.held.is_none();
                    is_free(&b) && is_in(&b) && !b.is_backup && !is_pausing
                };
                assert!(
                    !chosen.is_backup || !backends.iter().any(is_usual),
                    "a backup is chosen only if no other is left"
                );
                assert!(
                    chosen.health != Health::Down || !backends.iter().any(|b| is_free(&b)),
                    "a backend that is down is chosen only if no other is left"
                );
                self.leases.push(lease);
            }
            Err(NoRoute::NoBackends) => assert!(backends.is_empty(), "no backend is configured"),
            Err(NoRoute::Full) => panic!("no limits are configured"),
            Err(NoRoute::AllTried) => {
                assert_eq!(ids.len(), backends.len(), "every backend was tried")
            }
        }
        self.drain();
    }

    fn send(&mut self, event: Event) {
        self.router.handle_event(self.now, event);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(action) = self.router.poll_action() {
            self.trace.push(format!("{action:?}"));
            if let Action::StartProbe { probe, deadline, .. } = action {
                assert!(deadline > self.now, "the deadline of a probe is later");
                self.probes.push(probe);
            }
        }
    }

    fn check(&self) {
        self.router.check_invariants();
        let snapshot = self.router.snapshot(self.now);
        let in_flight: u64 = snapshot.backends.iter().map(|b| u64::from(b.in_flight)).sum();
        assert!(in_flight <= self.leases.len() as u64, "at most one request in flight per lease");
        for backend in &snapshot.backends {
            let parts = backend.score.parts();
            assert!(parts.iter().all(|(_, points)| *points >= 0.0), "points are never negative");
            assert!(backend.score.total.is_finite(), "a score is finite");
            assert!((0.0..=1.0).contains(&backend.error_rate), "a rate is between 0 and 1");
        }
        assert_eq!(snapshot, self.router.snapshot(self.now), "a snapshot changes nothing");
    }
}

/// Returns up to five backends, selected by a mask. The highest bit changes their order.
fn names(mask: u8) -> Vec<String> {
    let chosen = (0..5).filter(|index| mask >> index & 1 == 1);
    let mut names: Vec<String> = chosen.map(|index| format!("b{index}")).collect();
    if mask & 0x80 != 0 {
        names.reverse();
    }
    if mask & 0x60 == 0x60 {
        // Invalid: a repeated name.
        names.extend(names.first().cloned());
    }
    names
}

fn rules(source: &mut Source<'_>) -> Rules {
    let mut rules = Rules::default();
    rules.switch.threshold = f64::from(source.byte());
    rules.switch.cooldown = Duration::from_millis(u64::from(source.byte()) * 20);
    let flags = source.byte();
    rules.switch.spill_over = flags & 1 == 0;
    rules.weights.in_flight = f64::from(source.byte()) / 8.0;
    rules.probes.ping_interval = Duration::from_millis(1 + u64::from(source.byte()) * 40);
    rules.health.fall = 1 + u32::from(flags >> 1 & 3);
    rules.health.rise = 1 + u32::from(flags >> 3 & 3);
    rules.policy = policy(source.byte());
    rules.affinity.by = match flags >> 5 & 3 {
        0 => None,
        1 => Some(AffinityBy::Cookie),
        _ => Some(AffinityBy::ClientAddress),
    };
    if flags & 0x80 != 0 {
        rules.weights.latency = number(source);
    }
    if flags & 0x40 != 0 {
        let (backups, checked) = (source.byte(), source.byte());
        let chosen = |mask: u8| (0..5).filter(move |index| mask >> index & 1 == 1);
        rules.limits.backups = chosen(backups).map(|index| format!("b{index}")).collect();
        let checks = chosen(checked).map(|index| (format!("b{index}"), check(source)));
        rules.limits.checks = checks.collect();
    }
    rules
}

fn check(source: &mut Source<'_>) -> CheckRules {
    let flags = source.byte();
    let mut time = |bit: u8| (flags >> bit & 1 == 1).then(|| 1 + 40 * u32::from(source.byte()));
    let (interval_ms, timeout_ms) = (time(2), time(3));
    CheckRules {
        is_off: flags & 1 == 1,
        starts_down: flags & 2 != 0,
        interval_ms,
        timeout_ms,
        is_elsewhere: flags & 0x10 != 0,
        ..CheckRules::default()
    }
}

fn policy(which: u8) -> PolicyKind {
    PolicyKind::ALL[usize::from(which) % PolicyKind::ALL.len()]
}

/// Returns a number, sometimes NaN or infinite.
fn number(source: &mut Source<'_>) -> f64 {
    match source.byte() {
        0 => f64::from_bits(source.number()),
        1 => f64::NAN,
        2 => f64::INFINITY,
        3 => f64::MAX,
        4 => -1.0,
        other => f64::from(other) * 4.0,
    }
}

fn report(source: &mut Source<'_>) -> LoadReport {
    let said = source.byte();
    let mut figure = |bit: u8| (said >> bit & 1 == 1).then(|| number(source));
    LoadReport {
        queue: figure(0),
        cpu_busy_ms: figure(1),
        memory_bytes: figure(2),
        running: figure(3),
        pressure: figure(4),
        agent: None,
    }
}

fn millis(source: &mut Source<'_>) -> Duration {
    match source.byte() {
        255 => Duration::from_nanos(source.number()),
        other => Duration::from_millis(u64::from(other) * 4),
    }
}

fn result(source: &mut Source<'_>) -> ProbeResult {
    match source.byte() {
        0 => Err(ProbeFailure::Refused),
        1 => Err(ProbeFailure::Unreachable),
        2 => Err(ProbeFailure::TimedOut),
        3 => Err(ProbeFailure::Cut),
        4 => Err(ProbeFailure::Malformed),
        5 => Err(ProbeFailure::Status(500)),
        6 => Err(ProbeFailure::Abandoned),
        7 => Err(ProbeFailure::TooLarge),
        8 => Err(ProbeFailure::Status(404)),
        other => {
            let latency = millis(source);
            let report = (other & 1 == 1).then(|| report(source));
            Ok(ProbeAnswer { latency, report })
        }
    }
}

fn outcome(source: &mut Source<'_>) -> Outcome {
    match source.byte() {
        0 => Outcome::Abandoned,
        1 => Outcome::Failed(RequestFailure::Refused),
        2 => Outcome::Failed(RequestFailure::Unreachable),
        3 => Outcome::Failed(RequestFailure::Cut),
        4 => Outcome::Failed(RequestFailure::TimedOut),
        5 => Outcome::Failed(RequestFailure::Malformed),
        6 => Outcome::Failed(RequestFailure::Truncated),
        7..=12 => {
            let hold = (source.byte() & 1 == 1).then(|| millis(source));
            Outcome::Refused { status: 429, hold }
        }
        13..=20 => Outcome::Answered { status: 503, latency: millis(source) },
        21..=60 => Outcome::Answered { status: 500, latency: millis(source) },
        _ => Outcome::Answered { status: 200, latency: millis(source) },
    }
}
