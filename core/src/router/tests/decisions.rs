//! Where requests go, and why.
use super::*;

/// Nobody has answered yet: the first by id is taken, which is no switch; as soon as another one
/// is known to be better it is taken without a cooldown.
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
        assert_eq!(world.serve(), expected, "b answers in {b_ms} ms");
        let reason = HoldReason::BelowThreshold { missing: 1.0 };
        let held = Notice::Held { current: A, candidate: B, reason };
        assert_eq!(world.notices().contains(&held), expected == A);
    }
}

/// After a switch the next one waits for the whole cooldown, to the millisecond.
#[test]
fn the_cooldown_is_exact() {
    let mut world = World::with_rules(
        &["a", "b"],
        Rules {
            probes: crate::config::ProbeRules {
                ping_interval: Duration::from_millis(100),
                ..Default::default()
            },
            smoothing: crate::config::Smoothing { alpha: 1.0, ..Default::default() },
            ..Rules::default()
        },
    );
    world.answer(A, 100);
    assert_eq!(world.serve(), A);
    world.answer(B, 10);
    assert_eq!(world.serve(), B);
    world.advance(100);
    world.answer(A, 10);
    world.answer(B, 60);
    world.notices();
    world.advance(1399);
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

/// Three failed pings in a row, 500 ms after each other, bring the current backend down; the other
/// one takes over at once, whatever the cooldown says, and the cooldown begins anew.
#[test]
fn a_current_backend_that_goes_down_is_left_at_once() {
    let mut world = World::new(&["a", "b"]);
    world.answer(B, 10);
    assert_eq!(world.serve(), B);
    world.answer(A, 500);
    world.advance(5000);
    for failures in 1..=3 {
        assert_eq!(world.router.current(), Some(B), "before failure {failures}");
        world.fail(B, ProbeFailure::Status(503));
        if failures < 3 {
            world.advance(500);
        }
    }
    let cause = Some(ProbeFailure::Status(503));
    let down = Notice::HealthChanged { backend: B, is_up: false, cause };
    let switched = Notice::Switched { from: Some(B), to: A, reason: SwitchReason::Failover };
    assert!(world.notices().ends_with(&[down, switched]));
    assert_eq!(world.snapshot().last_switch, Some((world.now, SwitchReason::Failover)));
    assert_eq!(world.serve(), A);
    assert_eq!(world.snapshot().switches, 1);
}

/// A request that is refused brings its backend down at once; the retry and all after it go to the
/// other one.
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

/// Other failures of requests count as errors and leave the health alone.
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
        // 1 of 1 + 10 credited: 100/11 percent, 40 points each.
        assert!((a.score.errors - 4000.0 / 11.0).abs() < 1e-9);
    }
}

/// With every backend down the least bad one is tried, without becoming current; the first to come
/// back up takes over from the current one.
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
    assert_eq!(world.router.current(), Some(B), "failing open moves nothing");
    world.await_ping(A);
    world.answer(A, 10);
    assert_eq!(world.router.current(), Some(B), "one answer is no recovery");
    world.await_ping(A);
    world.notices();
    world.answer(A, 10);
    let up = Notice::HealthChanged { backend: A, is_up: true, cause: None };
    let switched = Notice::Switched { from: Some(B), to: A, reason: SwitchReason::Failover };
    assert_eq!(world.notices(), [up, switched]);
}

/// No backend and no untried backend are different answers; an untried one that is down is still
/// tried.
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

/// A retry goes to the best of the others; current, cooldown and switches stay.
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

/// Two equals: the current one takes 15 requests more than the other, and every second one after
/// that spills over: 16th to b (gap 30), then 28 to a, 30 to b, and so on. None is a switch.
#[test]
fn load_alone_spills_over() {
    let mut world = World::with_latencies(10, 10);
    let leases: Vec<_> = (0..20).map(|_| world.route()).collect();
    let went: Vec<_> = leases.iter().map(|lease| lease.backend()).collect();
    assert_eq!(went[..15], [A; 15]);
    assert_eq!(went[15..], [B, A, B, A, B]);
    let snapshot = world.snapshot();
    assert_eq!((snapshot.spills, snapshot.switches), (3, 0));
    assert_eq!(snapshot.current, Some(A));
    assert_eq!(snapshot.last_hold.map(|(_, to, why)| (to, why)), Some((B, HoldReason::LoadAlone)));
    for lease in leases {
        world.finish(lease, 200);
    }
}

/// A full current backend answers 503 at once, so that it has few in flight; what it turned away
/// keeps it busy all the same. Within the cooldown it has ten in flight and fails others one after
/// another: after the fifth 503 requests spill over. Other errors wait for the gate.
#[test]
fn what_was_turned_away_spills_over() {
    for (status, to) in [(503, A), (500, B)] {
        let mut world = World::new(&["a", "b"]);
        world.answer(A, 100);
        assert_eq!(world.serve(), A);
        world.answer(B, 10);
        let mut leases: Vec<_> = (0..10).map(|_| world.route()).collect();
        for _ in 0..5 {
            let lease = world.route();
            assert_eq!(lease.backend(), B);
            world.finish(lease, status);
        }
        leases.push(world.route());
        assert_eq!(leases[10].backend(), to, "after five of {status}");
        assert_eq!(world.snapshot().switches, 1);
        leases.into_iter().for_each(|lease| world.finish(lease, 200));
    }
}

/// Of many equals that may take a spill, each router draws its own by its seed.
#[test]
fn spills_are_drawn() {
    let names: Vec<_> = (0..30).map(|number| format!("b{number}")).collect();
    let went = |seed| {
        let config = RouterConfig { backends: names.clone(), rules: Rules::default() };
        let mut router = Router::new(config, seed, Instant::ZERO).expect("valid rules");
        let now = Instant::from_millis(1);
        let route = |_| router.route(now, &[]).expect("a backend").backend().index();
        (0..20).map(route).collect::<Vec<_>>()
    };
    assert_eq!(went(1)[..15], [0; 15]);
    assert!(went(1)[15..].iter().all(|backend| *backend > 0), "{:?}", went(1));
    assert_eq!(went(1), went(1));
    assert_ne!(went(1), went(2));
}

/// The letter of the rule: without spilling over, the 16th request is a switch by 30 points.
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

/// A gap of 20 by latency and 10 by load is no load alone: it is a switch.
#[test]
fn a_mixed_gap_switches() {
    let mut world = World::with_latencies(30, 10);
    world.advance(5000);
    let rules = Rules::default();
    world.reconfigure(&["a"], rules.clone());
    assert_eq!(world.serve(), A);
    world.reconfigure(&["a", "b"], rules);
    world.advance(0);
    world.answer(B, 10);
    let leases: Vec<_> = (0..6).map(|_| world.route()).collect();
    assert_eq!(leases[4].backend(), A, "a gap of 28");
    assert_eq!(leases[5].backend(), B, "a gap of 30, five in flight");
    assert_eq!(world.snapshot().switches, 1);
    leases.into_iter().for_each(|lease| world.finish(lease, 200));
}

/// A hold is told once, again when its candidate changes, but at most once a second.
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
    assert_eq!(world.notices().len(), 1, "one hold, told once");
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

/// A spill goes to usable backends only: within the cooldown a loaded, slow current backend keeps a
/// request that neither fits the better one, as loaded, nor may go to an idle one that is down.
#[test]
fn a_spill_never_goes_to_a_down_backend() {
    let mut rules = Rules::default();
    rules.probes.ping_interval = Duration::from_millis(100);
    rules.smoothing.alpha = 1.0;
    let mut world = World::with_rules(&["a", "b", "c"], rules);
    world.answer(B, 100);
    assert_eq!(world.serve(), B);
    world.answer(A, 10);
    let mut leases: Vec<_> = (0..20).map(|_| world.route()).collect();
    assert!(leases.iter().all(|lease| lease.backend() == A));
    for _ in 0..10 {
        leases.push(world.router.route(world.now, &[A, C]).expect("b is left"));
    }
    world.answer(C, 1);
    world.await_ping(C);
    world.fail(C, ProbeFailure::Refused);
    world.await_ping(A);
    world.answer(A, 100);
    world.await_ping(B);
    world.answer(B, 1);
    // a: 100 + 40 points, b: 1 + 20, c: 1 and down.
    let lease = world.route();
    assert_eq!(lease.backend(), A);
    let hold = world.snapshot().last_hold.map(|(_, candidate, reason)| (candidate, reason));
    assert!(matches!(hold, Some((B, HoldReason::Cooldown { .. }))), "{hold:?}");
    leases.push(lease);
    leases.into_iter().for_each(|lease| world.finish(lease, 200));
}
