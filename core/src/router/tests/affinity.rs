//! Requests with keys: the owner serves them, the next backend replaces it if necessary, and then
//! the owner is used again.
use super::*;
use crate::affinity::AffinityKey;
use crate::config::{AffinityBy, AffinityRules, Mode};
use crate::event::RouteReason::{Backup, LastResort, NextOwner, Owner, Policy, Retry, Trial};
use crate::outlier::StandingView;

fn rules(policy: PolicyKind, slack: f64) -> Rules {
    let by = Some(AffinityBy::ClientAddress);
    let affinity = AffinityRules { by, name: None, slack: Some(slack) };
    Rules { policy, affinity, ..Rules::default() }
}

fn key(number: u32) -> AffinityKey {
    AffinityKey::of(&number.to_le_bytes())
}

impl World {
    #[track_caller]
    fn route_key(&mut self, tried: &[BackendId], key: AffinityKey) -> (Lease, RouteReason) {
        let routed = self.router.route_keyed(self.now, tried, Asker::default(), Some(key));
        let lease = routed.expect("a backend");
        let reason = self.router.reason(&lease);
        self.drain();
        (lease, reason)
    }

    /// Serves a request with this key. Returns its backend and the rule.
    #[track_caller]
    fn serve_key(&mut self, key: AffinityKey) -> (BackendId, RouteReason) {
        let (lease, reason) = self.route_key(&[], key);
        let backend = lease.backend();
        self.advance(5);
        self.finish(lease, 200);
        (backend, reason)
    }

    /// For `ms`, completes all pings as they become due.
    fn ping_all(&mut self, ms: u64) {
        for _ in 0..ms {
            self.advance(1);
            while let Some(at) = self.asked.iter().position(|asked| asked.2 == ProbeKind::Ping) {
                let backend = self.asked[at].1;
                self.answer(backend, 1);
            }
        }
    }
}

/// Under every policy, with and without a slack, each key has one backend as long as no backend is
/// busy. The keys are spread over all backends. A second proxy, with another seed and another order
/// of backends, agrees.
#[test]
fn a_key_has_one_owner_under_every_policy() {
    for policy in PolicyKind::ALL {
        for slack in [0.0, 2.0] {
            let mut rules = rules(policy, slack);
            rules.learned.exploration = 0.0;
            let mut world = World::with_rules(&["a", "b", "c"], rules.clone());
            let names = config(&["c", "a", "b"], rules).clone();
            let mut other = Router::new(names, 99, world.now).expect("valid rules");
            let mut owners = [0; 3];
            for number in 0..60 {
                let (owner, reason) = world.serve_key(key(number));
                assert_eq!(reason, Owner, "{policy:?} {slack}");
                owners[owner.index()] += 1;
                assert_eq!(world.serve_key(key(number)), (owner, Owner), "{policy:?} {slack}");
                let asker = Asker::default();
                let lease = other.route_keyed(world.now, &[], asker, Some(key(number)));
                let lease = lease.expect("a backend");
                let then = world.now + Duration::from_millis(5);
                let name = |router: &Router, id| router.name(id).map(str::to_owned);
                assert_eq!(name(&other, lease.backend()), name(&world.router, owner));
                let outcome = Outcome::Answered { status: 200, latency: Duration::ZERO };
                other.handle_event(then, Event::RequestFinished { lease, outcome });
            }
            assert!(owners.iter().all(|count| *count > 8), "{policy:?} {slack}: {owners:?}");
        }
    }
}

/// While the owner is down, drained or at its limit, one other backend serves the key, and keys of
/// other owners do not move. Afterwards the owner serves its key again.
#[test]
fn the_next_backend_steps_in_and_the_owner_returns() {
    for policy in PolicyKind::ALL {
        for slack in [0.0, 3.0] {
            let mut usual = rules(policy, slack);
            usual.learned.exploration = 0.0;
            usual.learned.control_share = 0.0;
            let mut world = World::with_rules(&["a", "b", "c"], usual.clone());
            world.ping_all(100);
            let owners: Vec<_> = (0..30).map(|number| world.serve_key(key(number)).0).collect();
            let mut drained = usual.clone();
            drained.limits.modes = [("a".to_owned(), Mode::Drain)].into();
            world.reconfigure(&["a", "b", "c"], drained);
            let mut heirs = [0; 3];
            for (number, owner) in (0..30).zip(&owners) {
                let (backend, reason) = world.serve_key(key(number));
                if *owner == A {
                    heirs[backend.index()] += 1;
                    assert_eq!(world.serve_key(key(number)).0, backend, "the same one each time");
                } else {
                    assert_eq!((backend, reason), (*owner, Owner), "{policy:?} {slack}");
                }
            }
            assert!(heirs[0] == 0 && heirs[1] > 0 && heirs[2] > 0, "{heirs:?}");
            world.reconfigure(&["a", "b", "c"], usual);
            world.ping_all(10_000);
            for (number, owner) in (0..30).zip(&owners) {
                assert_eq!(world.serve_key(key(number)).0, *owner, "{policy:?} {slack}");
            }
        }
    }
}

/// If the owner refuses a connection, it is down. The retry and the next requests go to the next
/// backend of the key.
#[test]
fn a_retry_goes_to_the_next_backend() {
    let mut world = World::with_rules(&["a", "b", "c"], rules(PolicyKind::LeastRequest, 0.0));
    let number = (0..).find(|number| world.serve_key(key(*number)).0 == B).expect("a key of b");
    let (lease, _) = world.route_key(&[], key(number));
    assert_eq!(lease.backend(), B);
    world.end(lease, Outcome::Failed(RequestFailure::Refused));
    let (lease, reason) = world.route_key(&[B], key(number));
    let next = lease.backend();
    assert_eq!(reason, Retry);
    world.finish(lease, 200);
    assert_eq!(world.serve_key(key(number)), (next, NextOwner));
    world.ping_all(20_000);
    assert_eq!(world.serve_key(key(number)), (B, Owner));
}

/// A named owner serves its session while it is usable, whatever the hash of the key. A backup
/// serves a session only until another backend can.
#[test]
fn a_named_owner_comes_first() {
    let mut usual = rules(PolicyKind::RoundRobin, 0.0);
    usual.limits.backups = ["c".to_owned()].into();
    usual.limits.own = [("a".to_owned(), 1)].into();
    let mut world = World::with_rules(&["a", "b", "c"], usual);
    for number in 0..20 {
        for owner in [A, B] {
            let key = AffinityKey::of_session(number, owner);
            assert_eq!(world.serve_key(key), (owner, Owner));
        }
        let (backend, reason) = world.serve_key(AffinityKey::of_session(number, C));
        assert!([A, B].contains(&backend), "a backup waits");
        assert_eq!(reason, NextOwner);
    }
    assert!(world.router.has_left(C) && !world.router.has_left(A));
    let held = world.route_key(&[], AffinityKey::of_session(1, A)).0;
    assert_eq!(world.serve_key(AffinityKey::of_session(2, A)), (B, NextOwner), "a is full");
    assert!(!world.router.has_left(A), "a full owner is passed by, not left");
    world.finish(held, 200);
    for owner in [A, B] {
        let (lease, _) = world.route_key(&[], AffinityKey::of_session(1, owner));
        world.end(lease, Outcome::Failed(RequestFailure::Refused));
        assert!(world.router.has_left(owner));
    }
    assert_eq!(world.serve_key(AffinityKey::of_session(1, A)), (C, Backup));
}

/// While every backend is down, a session stays at its own backend as a last resort.
#[test]
fn a_session_stays_while_all_backends_are_down() {
    for policy in PolicyKind::ALL {
        let mut world = World::with_rules(&["a", "b", "c"], rules(policy, 0.0));
        for id in [A, B, C] {
            world.fail(id, ProbeFailure::Refused);
        }
        for number in 0..10 {
            for owner in [A, B, C] {
                let served = world.serve_key(AffinityKey::of_session(number, owner));
                assert_eq!(served, (owner, LastResort), "{policy:?}");
                assert!(!world.router.has_left(owner), "{policy:?}");
            }
        }
    }
}

/// Sessions name their backend by a mark that depends on their number. The mark of an unknown
/// backend is ignored.
#[test]
fn sessions_are_marked() {
    let world = World::new(&["a", "b", "c"]);
    for number in [0, 1, u64::MAX] {
        for id in [A, B, C] {
            let mark = world.router.session_mark(number, id).expect("it is configured");
            assert_eq!(world.router.session_owner(number, mark), Some(id));
            assert_eq!(world.router.session_owner(number ^ 2, mark), None);
            assert_eq!(world.router.session_owner(number, mark ^ 1), None);
        }
    }
}

/// All of 60 requests in flight have the same key. Under policies that count requests, the owner
/// gets at most the slack times its share by weight, and the excess goes to the next backends in
/// order.
#[test]
fn load_is_bounded() {
    for (slack, weight) in [(1.0, 100), (1.25, 100), (2.0, 100), (1.25, 200)] {
        let mut rules = rules(PolicyKind::RoundRobin, slack);
        rules.limits.weights = [("a".to_owned(), weight)].into();
        let mut world = World::with_rules(&["a", "b", "c", "d"], rules);
        let of_a = key((0..).find(|n| world.serve_key(key(*n)).0 == A).expect("a key of a"));
        let mut counts = [0_u32; 4];
        let mut leases = Vec::new();
        for sent in 1..=60_u32 {
            let (lease, _) = world.route_key(&[], of_a);
            counts[lease.backend().index()] += 1;
            leases.push(lease);
            let share = f64::from(sent * weight) / f64::from(weight + 300);
            assert!(f64::from(counts[0]) <= (slack * share).ceil().max(2.0), "{slack}: {counts:?}");
        }
        let share = f64::from(60 * weight) / f64::from(weight + 300);
        assert_eq!(f64::from(counts[0]), (slack * share).ceil(), "{slack}: {counts:?}");
    }
}

/// Three tenths of a hundred requests a second have one key. Under policies with a model of delays,
/// this key leaves an owner that has become ten times slower, and returns when it is fast again.
#[test]
fn a_slow_owner_is_passed_by_until_it_is_fast_again() {
    for policy in [PolicyKind::Score, PolicyKind::Learned] {
        let mut world = World::with_rules(&["a", "b", "c"], rules(policy, 0.0));
        let of_a = (0..).find(|number| world.serve_key(key(*number)).0 == A).expect("a key of a");
        let mut world = World::with_rules(&["a", "b", "c"], rules(policy, 2.0));
        world.ping_all(100);
        let mut out: Vec<(u64, Lease)> = Vec::new();
        let (mut served, mut number) = ([[0_u32; 2]; 3], 0);
        let mut rng = Rng::new(7);
        for ms in 0..240_000_u64 {
            let phase = (ms / 40_000).min(2) as usize;
            if rng.unit() < 0.1 {
                number += 1;
                let of_key = rng.unit() < 0.3;
                let (lease, _) = world.route_key(&[], key(if of_key { of_a } else { number }));
                if of_key && [20_000..40_000, 60_000..80_000, 220_000..240_000][phase].contains(&ms)
                {
                    served[phase][usize::from(lease.backend() == A)] += 1;
                }
                let mean = if phase == 1 && lease.backend() == A { 200.0 } else { 20.0 };
                let span = -mean * libm::log(1.0 - rng.unit());
                out.push((ms + span as u64, lease));
            }
            world.ping_all(1);
            while let Some(at) = out.iter().position(|(ends, _)| *ends <= ms) {
                let (_, lease) = out.swap_remove(at);
                world.finish(lease, 200);
            }
        }
        let share = |phase: usize| {
            let [away, home] = served[phase].map(f64::from);
            home / (home + away)
        };
        assert!(share(0) > 0.9, "{policy:?}: {served:?}");
        assert!(share(1) < 0.1, "{policy:?}: {served:?}");
        assert!(share(2) > 0.9, "{policy:?}: {served:?}");
    }
}

/// A backend that fails its requests is ejected although all requests have keys, and requests with
/// keys bring it back, with and without a slack. This also holds for policies that eject by
/// themselves.
#[test]
fn an_ejected_owner_returns_by_requests_with_keys() {
    for policy in [PolicyKind::RoundRobin, PolicyKind::Learned] {
        for slack in [0.0, 2.0] {
            let mut world = World::with_rules(&["a", "b", "c"], rules(policy, slack));
            world.ping_all(100);
            let is_out = |world: &World| {
                let view = world.router.backend_snapshot(world.now, A).expect("it is there");
                !matches!(view.standing, StandingView::In | StandingView::SlowStart { .. })
            };
            let (mut has_been_out, mut trials) = (false, 0);
            for number in 0..4000_u32 {
                world.ping_all(10);
                let (lease, reason) = world.route_key(&[], key(number % 50));
                let is_bad = lease.backend() == A && !has_been_out;
                trials += u32::from(reason == Trial && lease.backend() == A && has_been_out);
                assert_ne!(reason, Policy, "{policy:?} {slack}");
                world.finish(lease, if is_bad { 500 } else { 200 });
                has_been_out |= is_out(&world);
            }
            assert!(has_been_out, "{policy:?} {slack}: it is ejected");
            assert!(!is_out(&world), "{policy:?} {slack}: it has returned");
            assert!(trials > 0, "{policy:?} {slack}: by trials");
        }
    }
}
