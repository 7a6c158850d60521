//! Decisions: the backends of requests, and the reasons.
use super::*;
use crate::policy::PolicyView;

/// Before any ping has succeeded the first backend by id is chosen, which does not count as a
/// switch. A better one is taken without a cooldown once its ping has succeeded.
#[test]
fn the_first_choice_is_no_switch() {
    let mut world = World::new(&["a", "b"]);
    assert_eq!(world.router.current(), None);
    assert_eq!(world.serve(), A);
    let first = Notice::Switched { from: None, to: A, reason: SwitchReason::First };
    assert_eq!(world.notices(), [first]);
    assert_eq!(world.snapshot().switches, 0);
    world.answer(B, 40);
    world.notices();
    assert_eq!(world.serve(), B);
    let reason = SwitchReason::Better { by: 9_960.0 };
    assert_eq!(world.notices(), [Notice::Switched { from: Some(A), to: B, reason }]);
    assert_eq!(world.snapshot().switches, 1);
}

/// A gap of 29 is held with 1 point missing, a gap of 30 is taken.
#[test]
fn the_threshold_is_exact() {
    for (b_ms, expected) in [(71, A), (70, B)] {
        let mut world = World::new(&["a", "b"]);
        world.answer(A, 100);
        assert_eq!(world.serve(), A);
        world.answer(B, b_ms);
        world.notices();
        assert_eq!(world.serve(), expected, "b responds in {b_ms} ms");
        let reason = HoldReason::BelowThreshold { missing: 1.0 };
        let held = Notice::Held { current: A, candidate: B, reason };
        assert_eq!(world.notices().contains(&held), expected == A);
    }
}

/// After a switch the next one waits for the whole cooldown, exact to the millisecond.
#[test]
fn the_cooldown_is_exact() {
    let mut world = World::with_rules(&["a", "b"], quick_pings());
    world.first_pings(&[(A, 100), (B, 110)]);
    assert_eq!(world.serve(), A);
    world.await_ping(B);
    world.answer(B, 10);
    let switched_at = world.now;
    assert_eq!(world.serve(), B);
    world.await_ping(A);
    world.answer(A, 10);
    world.await_ping(B);
    world.answer(B, 60);
    world.notices();
    let passed = world.now.since(switched_at).as_millis() as u64;
    world.advance(1499 - passed);
    assert_eq!(world.serve(), B);
    let reason = HoldReason::Cooldown { left: Duration::from_millis(1) };
    assert_eq!(world.notices(), [Notice::Held { current: B, candidate: A, reason }]);
    assert_eq!(world.snapshot().last_hold, Some((world.now, A, reason)));
    world.advance(1);
    assert_eq!(world.serve(), A);
    let reason = SwitchReason::Better { by: 50.0 };
    assert_eq!(world.snapshot().last_switch, Some((world.now, reason)));
}

/// The current backend wins ties, even with a threshold of 0.
#[test]
fn ties_keep_the_current_backend() {
    let mut rules = Rules::default();
    rules.switch.threshold = 0.0;
    rules.switch.cooldown = Duration::ZERO;
    let mut world = World::with_rules(&["a", "b"], rules);
    world.answer(B, 20);
    assert_eq!(world.serve(), B);
    world.answer(A, 20);
    world.notices();
    assert_eq!(world.serve(), B);
    assert_eq!(world.notices(), []);
}

/// Three failed pings in a row, 500 ms apart, bring the current backend down. The other one
/// replaces it at once, regardless of the cooldown, and the cooldown restarts.
#[test]
fn a_current_backend_that_goes_down_is_left_at_once() {
    let mut world = World::new(&["a", "b"]);
    world.answer(B, 10);
    assert_eq!(world.serve(), B);
    world.answer(A, 500);
    world.await_ping(B);
    for failures in 1..=3 {
        assert_eq!(world.router.current(), Some(B), "before failure {failures}");
        world.fail(B, ProbeFailure::Status(503));
        if failures < 3 {
            world.advance(500);
        }
    }
    let cause = Some(ProbeFailure::Status(503));
    let down = Notice::HealthChanged { backend: B, is_up: false, cause };
    let reason = SwitchReason::Failover { cause: OutCause::Down };
    let switched = Notice::Switched { from: Some(B), to: A, reason };
    assert!(world.notices().ends_with(&[down, switched]));
    assert_eq!(world.snapshot().last_switch, Some((world.now, reason)));
    assert_eq!(world.serve(), A);
    assert_eq!(world.snapshot().switches, 1);
}

/// A refused connection of a request brings its backend down at once. The retry and all later
/// requests go to the other one.
#[test]
fn a_refused_request_fails_over() {
    let mut world = World::with_latencies(10, 20);
    let lease = world.route();
    assert_eq!(lease.backend(), A);
    world.end(lease, Outcome::Failed(RequestFailure::Refused));
    assert_eq!(world.snapshot().backends[0].health, Health::Down);
    assert_eq!(world.router.current(), Some(B));
    let retry = world.router.route(world.now, &[A]).expect("the other backend");
    assert_eq!(retry.backend(), B);
    world.finish(retry, 200);
    assert_eq!(world.serve(), B);
}

/// Other failures of requests count as errors and do not change the health.
#[test]
fn failed_requests_do_not_bring_a_backend_down() {
    for failure in [
        RequestFailure::Unreachable,
        RequestFailure::Cut,
        RequestFailure::TimedOut,
        RequestFailure::Malformed,
        RequestFailure::Truncated,
    ] {
        let mut world = World::with_latencies(10, 20);
        let lease = world.route();
        world.end(lease, Outcome::Failed(failure));
        let a = &world.snapshot().backends[0];
        assert_eq!((a.health, a.requests, a.errors), (Health::Up, 1, 1), "{failure:?}");
        // One error of one request and ten good ones added: 100/11 percent at 40 points each.
        assert!((a.score.errors - 4000.0 / 11.0).abs() < 1e-9);
    }
}

/// With every backend down the least bad one is tried without becoming current. The first one to
/// come up replaces the current one.
#[test]
fn fails_open_when_nobody_is_up() {
    let mut world = World::with_latencies(10, 20);
    assert_eq!(world.serve(), A);
    world.await_ping(A);
    world.fail(A, ProbeFailure::Refused);
    assert_eq!(world.router.current(), Some(B));
    world.await_ping(B);
    world.fail(B, ProbeFailure::Refused);
    assert_eq!(world.router.current(), Some(B));
    // A: 10 ms; B: 20 ms. Loss does not count yet.
    assert_eq!(world.serve(), A);
    assert_eq!(world.router.current(), Some(B), "failing open changes nothing");
    world.await_ping(A);
    world.answer(A, 10);
    assert_eq!(world.router.current(), Some(B), "one good ping is not a recovery");
    world.await_ping(A);
    world.notices();
    world.answer(A, 10);
    let up = Notice::HealthChanged { backend: A, is_up: true, cause: None };
    let reason = SwitchReason::Failover { cause: OutCause::Down };
    let switched = Notice::Switched { from: Some(B), to: A, reason };
    assert_eq!(world.notices(), [up, switched]);
}

/// Having no backend and having no untried backend give different errors. An untried backend that
/// is down is still tried.
#[test]
fn says_why_there_is_no_route() {
    let mut world = World::new(&[]);
    assert_eq!(world.router.route(world.now, &[]), Err(NoRoute::NoBackends));
    assert_eq!(world.router.poll_timeout(), None);
    let mut world = World::with_latencies(10, 20);
    assert_eq!(world.router.route(world.now, &[B, A]), Err(NoRoute::AllTried));
    world.advance(5000);
    world.fail(B, ProbeFailure::Refused);
    let lease = world.router.route(world.now, &[A]).expect("the untried backend");
    assert_eq!(lease.backend(), B);
    world.end(lease, Outcome::Abandoned);
}

/// A retry goes to the best of the other backends. The current one, the cooldown and the number of
/// switches stay.
#[test]
fn a_retry_moves_nothing() {
    let mut world = World::new(&["a", "b", "c"]);
    for (backend, ms) in [(A, 10), (B, 300), (C, 200)] {
        world.answer(backend, ms);
    }
    assert_eq!(world.serve(), A);
    let before = world.snapshot();
    let lease = world.router.route(world.now, &[A]).expect("another backend");
    assert_eq!(lease.backend(), C);
    world.finish(lease, 200);
    assert_eq!(world.router.current(), Some(A));
    assert_eq!(world.snapshot().last_switch, before.last_switch);
}

/// Before its first completion a backend is treated as working on a single request at a time (width
/// 1), so each of two equals gets every second request of a burst. No such request is a switch: a
/// gap of 2 points is below the threshold, and the current backend stays.
#[test]
fn a_full_backend_spills_over() {
    let mut world = World::with_latencies(10, 10);
    let leases: Vec<_> = (0..6).map(|_| world.route()).collect();
    let at_b = leases.iter().filter(|lease| lease.backend() == B).count();
    assert_eq!((leases[0].backend(), leases[1].backend(), at_b), (A, B, 3));
    let snapshot = world.snapshot();
    assert_eq!((snapshot.spills, snapshot.switches), (3, 0));
    assert_eq!(snapshot.current, Some(A));
    assert_eq!(full_at(&snapshot), [Some(1), Some(1)]);
    for lease in leases {
        world.finish(lease, 200);
    }
}

/// Single requests of 10 ms, then two in flight all the time. A backend that completes one every 5
/// ms works on two at once and is full at two or three. One that completes one every 10 ms works on
/// one at a time.
#[test]
fn the_width_is_learned_from_completions() {
    for (apart_ms, width) in [(5, 2..=3), (10, 1..=1)] {
        let mut world = World::with_latencies(10, 10);
        let route = |world: &mut World| world.router.route(world.now, &[B]).expect("a is left");
        for _ in 0..400 {
            let lease = route(&mut world);
            world.advance(10);
            world.finish(lease, 200);
        }
        let mut earlier = route(&mut world);
        for _ in 0..400 {
            let later = route(&mut world);
            world.advance(apart_ms);
            world.finish(std::mem::replace(&mut earlier, later), 200);
        }
        let full_at = full_at(&world.snapshot())[0].expect("spill-over is on");
        assert!(width.contains(&full_at), "completions {apart_ms} ms apart: full at {full_at}");
        world.finish(earlier, 200);
    }
}

/// Below the width the rule applies exactly: a slower current backend keeps single requests one
/// after another, whatever its expected delay.
#[test]
fn below_the_width_the_rule_decides() {
    let mut world = World::with_latencies(10, 10);
    for number in 0..200 {
        let lease = world.route();
        assert_eq!(lease.backend(), A, "request {number}");
        // In less than the time after which the pings, which get no response, bring it down.
        world.advance(20);
        world.finish(lease, 200);
    }
    assert_eq!(world.snapshot().spills, 0);
}

/// A backend that has completed nothing for a long time is full at once. Requests go past it before
/// its pings fail, and to it again once it completes one.
#[test]
fn a_stalled_backend_is_full() {
    let mut world = World::with_latencies(10, 10);
    for _ in 0..200 {
        let (first, second) = (world.route(), world.route());
        world.advance(10);
        world.finish(first, 200);
        world.finish(second, 200);
    }
    let silent = world.route();
    assert_eq!(silent.backend(), A);
    for _ in 0..100 {
        world.advance(10);
        let lease = world.route();
        if lease.backend() == A {
            // Requests that still go to A are abandoned, so that A completes nothing.
            world.end(lease, Outcome::Abandoned);
        } else {
            world.finish(lease, 200);
        }
    }
    assert_eq!(full_at(&world.snapshot())[0], Some(0));
    let lease = world.route();
    assert_eq!(lease.backend(), B);
    world.finish(lease, 200);
    world.finish(silent, 200);
    assert_ne!(full_at(&world.snapshot())[0], Some(0));
}

/// The rule without spill-over: the 16th request is a switch by 30 points.
#[test]
fn without_spill_over_load_switches() {
    let mut rules = Rules::default();
    rules.switch.spill_over = false;
    let mut world = World::with_rules(&["a", "b"], rules);
    world.answer(A, 10);
    world.answer(B, 10);
    let leases: Vec<_> = (0..16).map(|_| world.route()).collect();
    assert_eq!(leases[15].backend(), B);
    let reason = SwitchReason::Better { by: 30.0 };
    assert!(world.notices().contains(&Notice::Switched { from: Some(A), to: B, reason }));
    leases.into_iter().for_each(|lease| world.finish(lease, 200));
}

/// Retries, which do not change the current backend, have put 16 requests in flight there. Load
/// alone makes the gap of 32 points, so the full current backend is kept.
#[test]
fn load_alone_holds_a_full_backend() {
    let mut world = World::with_latencies(10, 10);
    assert_eq!(world.serve(), A);
    let retry = |world: &mut World| world.router.route(world.now, &[B]).expect("a is left");
    let leases: Vec<_> = (0..16).map(|_| retry(&mut world)).collect();
    let lease = world.route();
    assert_eq!(lease.backend(), B, "past the full backend");
    let snapshot = world.snapshot();
    assert_eq!((snapshot.current, snapshot.switches), (Some(A), 0));
    assert_eq!(snapshot.last_hold.map(|(_, to, why)| (to, why)), Some((B, HoldReason::LoadAlone)));
    leases.into_iter().chain([lease]).for_each(|lease| world.finish(lease, 200));
}

/// A gap of 20 points by latency and 10 by load is not load alone, so it is a switch.
#[test]
fn a_mixed_gap_switches() {
    let mut world = World::with_latencies(30, 10);
    let rules = Rules::default();
    world.reconfigure(&["a"], rules.clone());
    assert_eq!(world.serve(), A);
    world.reconfigure(&["a", "b"], rules);
    world.advance(0);
    world.answer(B, 10);
    let mut leases = Vec::new();
    for in_flight in 0..5 {
        assert_eq!(world.snapshot().switches, 0, "a gap of less than 30, {in_flight} in flight");
        leases.push(world.router.route(world.now, &[B]).expect("a is left"));
    }
    leases.push(world.route());
    assert_eq!(leases[5].backend(), B, "a gap of 30, five in flight");
    assert_eq!(world.snapshot().switches, 1);
    leases.into_iter().for_each(|lease| world.finish(lease, 200));
}

/// A hold is reported once, and again when its candidate changes, at most once a second.
#[test]
fn holds_are_told_sparingly() {
    let mut world = World::new(&["a", "b", "c"]);
    world.answer(A, 100);
    world.serve();
    world.answer(B, 90);
    world.notices();
    for _ in 0..10 {
        world.serve();
    }
    assert_eq!(world.notices().len(), 1, "one hold, reported once");
    world.answer(C, 80);
    world.notices();
    world.serve();
    assert_eq!(world.notices(), [], "another candidate within the second");
    world.now += Duration::from_millis(1000);
    world.serve();
    let reason = HoldReason::BelowThreshold { missing: 10.0 };
    assert_eq!(world.notices(), [Notice::Held { current: A, candidate: C, reason }]);
    assert_eq!(world.snapshot().last_hold, Some((world.now, C, reason)));
}

/// A spill goes to usable backends only. During the cooldown a request past the full current
/// backend goes to a less loaded one, not to an idle one that is down.
#[test]
fn a_spill_never_goes_to_a_down_backend() {
    let mut world = World::with_rules(&["a", "b", "c"], quick_pings());
    world.first_pings(&[(B, 100), (A, 110), (C, 110)]);
    assert_eq!(world.serve(), B);
    world.await_ping(A);
    world.answer(A, 10);
    let mut leases = vec![world.route()];
    assert_eq!(leases[0].backend(), A);
    for _ in 1..20 {
        leases.push(world.router.route(world.now, &[B, C]).expect("a is left"));
    }
    for _ in 0..10 {
        leases.push(world.router.route(world.now, &[A, C]).expect("b is left"));
    }
    world.await_ping(C);
    world.answer(C, 1);
    world.await_ping(C);
    world.fail(C, ProbeFailure::Refused);
    world.await_ping(A);
    world.answer(A, 100);
    world.await_ping(B);
    world.answer(B, 1);
    // a: 100 + 40 points, b: 1 + 20, c: 1 and down.
    let lease = world.route();
    assert_eq!(lease.backend(), B);
    let hold = world.snapshot().last_hold.map(|(_, candidate, reason)| (candidate, reason));
    assert!(matches!(hold, Some((B, HoldReason::Cooldown { .. }))), "{hold:?}");
    leases.push(lease);
    leases.into_iter().for_each(|lease| world.finish(lease, 200));
}

/// The number of requests in flight at which each backend is full.
fn full_at(snapshot: &Snapshot) -> Vec<Option<u32>> {
    let full_at = |policy: &PolicyView| match policy {
        PolicyView::Score(view) => view.full_at,
        other => panic!("the policy is score, not {other:?}"),
    };
    snapshot.backends.iter().map(|backend| full_at(&backend.policy)).collect()
}

/// Pings every 100 ms without a practical timeout. The average is the last ping alone from the
/// sixth on.
fn quick_pings() -> Rules {
    let mut rules = Rules::default();
    rules.probes.ping_interval = Duration::from_millis(100);
    rules.probes.ping_timeout = Duration::from_secs(60);
    rules.smoothing.alpha = 1.0;
    rules
}
