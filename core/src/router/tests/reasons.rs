//! The rule that each request's lease names.
use super::*;
use crate::affinity::AffinityKey;
use crate::config::{AffinityBy, AffinityRules};
use crate::event::RouteReason::{
    Control, Current, Failover, LastResort, Policy, Retry, SecondOpinion, Spill, Trial,
};

impl World {
    /// Routes a request. Returns its lease and the rule.
    #[track_caller]
    fn explained(&mut self, tried: &[BackendId]) -> (Lease, RouteReason) {
        let lease = self.router.route(self.now, tried).expect("a backend");
        let reason = self.router.reason(&lease);
        (lease, reason)
    }

    /// Serves a request. Returns its backend and the rule.
    #[track_caller]
    fn reason(&mut self) -> (BackendId, RouteReason) {
        let (lease, reason) = self.explained(&[]);
        let backend = lease.backend();
        self.finish(lease, 200);
        (backend, reason)
    }
}

/// With `score`: the current backend, a spill past it while it is full, a retry, a failover for as
/// long as the failed backend is down, and the current one again after that.
#[test]
fn score_names_its_rules() {
    let mut rules = Rules::default();
    rules.limits.per_backend = 1;
    let mut world = World::with_rules(&["a", "b"], rules);
    world.answer(A, 10);
    world.answer(B, 15);
    assert_eq!(world.reason(), (A, Current));
    let (held, _) = world.explained(&[]);
    let (past, reason) = world.explained(&[]);
    assert_eq!((past.backend(), reason), (B, Spill));
    world.finish(past, 200);
    world.end(held, Outcome::Failed(RequestFailure::Refused));
    let (again, reason) = world.explained(&[A]);
    assert_eq!((again.backend(), reason), (B, Retry));
    world.finish(again, 200);
    assert_eq!(world.reason(), (B, Failover));
    for _ in 0..2 {
        world.await_ping(A);
        world.answer(A, 10);
    }
    assert_eq!(world.snapshot().backends[0].health, Health::Up);
    assert_eq!(world.reason(), (B, Current), "what it replaced is up again");
}

/// While every backend is down, each request goes to the least bad one as a last resort, under
/// every policy.
#[test]
fn without_a_usable_backend_it_is_a_last_resort() {
    for policy in PolicyKind::ALL {
        let rules = Rules { policy, ..Rules::default() };
        let mut world = World::with_rules(&["a"], rules);
        let first = world.reason();
        let usual = if policy == PolicyKind::Score { Current } else { Policy };
        assert_eq!(first, (A, usual), "{policy:?}");
        let lease = world.route();
        world.end(lease, Outcome::Failed(RequestFailure::Refused));
        assert_eq!(world.reason(), (A, LastResort), "{policy:?}");
    }
}

/// While every backend is down, every policy tries a backend whose pings fail before backends where
/// no process listens.
#[test]
fn the_last_resort_refuses_no_connections() {
    for policy in PolicyKind::ALL {
        let rules = Rules { policy, ..Rules::default() };
        let mut world = World::with_rules(&["a", "b", "c"], rules);
        for id in [A, C] {
            world.fail(id, ProbeFailure::Refused);
        }
        for _ in 0..3 {
            world.await_ping(B);
            world.fail(B, ProbeFailure::TimedOut);
        }
        let health = world.snapshot().backends.iter().map(|one| one.health).collect::<Vec<_>>();
        assert_eq!(health, [Health::Down; 3], "{policy:?}");
        for _ in 0..20 {
            assert_eq!(world.reason(), (B, LastResort), "{policy:?}");
        }
        let next = world.router.route(world.now, &[B]).expect("a backend");
        assert!([A, C].contains(&next.backend()), "{policy:?}");
        world.end(next, Outcome::Abandoned);
    }
}

/// A request that a policy sends to a backend and that fills it is the policy's choice.
#[test]
fn the_request_that_fills_a_backend_is_no_last_resort() {
    let mut rules = Rules { policy: PolicyKind::LeastRequest, ..Rules::default() };
    rules.limits.per_backend = 1;
    let mut world = World::with_rules(&["a"], rules);
    assert_eq!(world.reason(), (A, Policy));
}

/// While a good backend is only full, no request goes to one that is down: it waits for room, under
/// every policy and with a key of a backend that is down. A request that was tried at the full one
/// may go to the other.
#[test]
fn a_full_backend_is_awaited_while_the_others_are_down() {
    for policy in PolicyKind::ALL {
        for slack in [None, Some(2.0)] {
            let affinity = AffinityRules { by: Some(AffinityBy::ClientAddress), name: None, slack };
            let mut rules = Rules { policy, affinity, ..Rules::default() };
            rules.limits.own = [("a".to_owned(), 1)].into();
            let mut world = World::with_rules(&["a", "b"], rules);
            world.answer(A, 5);
            world.fail(B, ProbeFailure::Refused);
            let lease = world.route();
            assert_eq!(lease.backend(), A, "{policy:?}");
            assert_eq!(world.router.route(world.now, &[]).err(), Some(NoRoute::Full), "{policy:?}");
            for key in 0..8 {
                let key = Some(AffinityKey { owner: Some(B), ..AffinityKey::of(&[key]) });
                let routed = world.router.route_keyed(world.now, &[], Asker::default(), key);
                assert_eq!(routed.err(), Some(NoRoute::Full), "{policy:?}");
            }
            let retry = world.router.route(world.now, &[A]).expect("the other one");
            assert_eq!(retry.backend(), B, "{policy:?}");
            world.end(retry, Outcome::Abandoned);
            world.end(lease, Outcome::Abandoned);
            assert_eq!(world.serve(), A, "{policy:?}");
        }
    }
}

/// An ejected backend is tried out, whether the router or the policy ejects it.
#[test]
fn trials_are_named() {
    for policy in [PolicyKind::RoundRobin, PolicyKind::Score, PolicyKind::Learned] {
        let rules = Rules { policy, ..Rules::default() };
        let mut world = World::with_rules(&["a", "b"], rules);
        world.answer(A, 5);
        world.answer(B, 5);
        let mut left = 20_000;
        let trial = loop {
            left -= 1;
            assert!(left > 0, "{policy:?}: it is tried out");
            world.advance(1);
            while let Some(at) = world.asked.iter().position(|asked| asked.2 == ProbeKind::Ping) {
                let backend = world.asked[at].1;
                world.answer(backend, 1);
            }
            let (lease, reason) = world.explained(&[]);
            let backend = lease.backend();
            let standing =
                world.router.backend_snapshot(world.now, A).expect("it is there").standing;
            let is_out =
                matches!(standing, StandingView::Ejected { .. } | StandingView::Probation { .. });
            world.finish(lease, if backend == A { 500 } else { 200 });
            if is_out && backend == A {
                break reason;
            }
            // Under `score` only the current backend gets first attempts, so A gets further
            // requests as retries, and fails them.
            if !is_out {
                let lease = world.router.route(world.now, &[B]).expect("a is left");
                world.finish(lease, 500);
            }
        };
        assert_eq!(trial, Trial, "{policy:?}");
    }
}

/// With a control share of a tenth, a tenth of the learner's requests are the control's: 200 of
/// 2000, give or take four standard deviations of 13.
#[test]
fn controls_are_named() {
    let mut rules = Rules { policy: PolicyKind::Learned, ..Rules::default() };
    rules.learned.control_share = 0.1;
    rules.learned.exploration = 0.0;
    let mut world = World::with_rules(&["a", "b"], rules);
    let mut controls = 0;
    for _ in 0..2000 {
        let (_, reason) = world.reason();
        assert!([Control, Policy].contains(&reason), "{reason:?}");
        controls += u32::from(reason == Control);
    }
    assert!((148..=252).contains(&controls), "{controls}");
}

/// Requests for one target fail at the current backend, all others succeed. A later request for
/// that target goes to the other backend for a second opinion.
#[test]
fn second_opinions_are_named() {
    let mut world = World::with_latencies(10, 20);
    let mut ask = |client, target, status| {
        let asker = Asker { client, target };
        let lease = world.router.route_for(world.now, &[], asker).expect("a backend");
        let found = (lease.backend(), world.router.reason(&lease));
        world.finish(lease, status);
        found
    };
    for client in 0..40 {
        assert_eq!(ask(client, 1, 200), (A, Current));
    }
    let asked: Vec<_> = (0..4).map(|client| ask(client, 7, 500)).collect();
    let opinion = asked.iter().position(|(_, reason)| *reason == SecondOpinion);
    assert!(opinion.is_some_and(|at| at > 0 && asked[at].0 == B), "{asked:?}");
    assert_eq!(asked[0], (A, Current));
}
