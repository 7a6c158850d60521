//! Health checks of single backends: without pings, down from the start, with their own times, and
//! with paths that no backend has.
use super::*;
use crate::config::{BackendLimits, CheckRules, Mode};

/// The rules of a policy, with these health checks.
fn rules(policy: PolicyKind, checks: &[(&str, CheckRules)]) -> Rules {
    let checks = checks.iter().map(|(name, check)| ((*name).to_owned(), *check)).collect();
    let limits = BackendLimits { checks, ..BackendLimits::default() };
    Rules { policy, limits, ..Rules::default() }
}

const OFF: CheckRules = CheckRules {
    is_off: true,
    starts_down: false,
    interval_ms: None,
    timeout_ms: None,
    is_report_off: false,
    report_interval_ms: None,
    report_timeout_ms: None,
    has_agent: false,
    is_elsewhere: false,
};
const AWAITED: CheckRules = CheckRules { is_off: false, starts_down: true, ..OFF };

fn health(world: &World, backend: BackendId) -> Health {
    world.snapshot().backends[backend.index()].health
}

/// Without pings a backend stays unknown and usable: neither time nor a refused connection brings
/// it down, under any policy. Its load reports continue.
#[test]
fn without_pings_nobody_is_down() {
    for policy in PolicyKind::ALL {
        let mut world = World::with_rules(&["a", "b"], rules(policy, &[("a", OFF), ("b", OFF)]));
        world.advance(60_000);
        let kinds: Vec<ProbeKind> = world.asked.iter().map(|(.., kind)| *kind).collect();
        assert!(!kinds.contains(&ProbeKind::Ping), "{policy:?}");
        assert!(kinds.contains(&ProbeKind::Report), "{policy:?}");
        let lease = world.route();
        let backend = lease.backend();
        world.end(lease, Outcome::Failed(RequestFailure::Refused));
        assert_eq!(health(&world, backend), Health::Unknown, "{policy:?}");
        assert!(world.router.has_usable());
        let is_news = |notice: &Notice| matches!(notice, Notice::HealthChanged { .. });
        assert!(!world.notices().iter().any(is_news), "{policy:?}");
    }
}

/// An ejected backend also returns without pings, under every policy but `score`, which avoids it
/// before that: its trial follows after its back-off.
#[test]
fn without_pings_an_ejection_ends() {
    for policy in PolicyKind::ALL.into_iter().filter(|policy| *policy != PolicyKind::Score) {
        let checks = [("a", OFF), ("b", OFF), ("c", OFF)];
        let mut world = World::with_rules(&["a", "b", "c"], rules(policy, &checks));
        let (mut is_out, mut is_back) = (false, false);
        for _ in 0..20_000 {
            let lease = world.route();
            let is_bad = lease.backend() == A && !is_out;
            world.finish(lease, if is_bad { 500 } else { 200 });
            world.advance(2);
            let standing = world.snapshot().backends[0].standing;
            is_out |= matches!(standing, StandingView::Ejected { .. });
            is_back |=
                is_out && matches!(standing, StandingView::In | StandingView::SlowStart { .. });
        }
        assert!(is_out && is_back, "{policy:?}: out {is_out}, back {is_back}");
    }
}

/// A reload that turns the pings of a backend off brings it up; with pings again it is checked as
/// before.
#[test]
fn pings_are_turned_off_and_on() {
    let mut world = World::with_latencies(10, 20);
    world.advance(5000);
    world.fail(A, ProbeFailure::Refused);
    assert_eq!(health(&world, A), Health::Down);
    world.reconfigure(&["a", "b"], rules(PolicyKind::Score, &[("a", OFF)]));
    assert_eq!(health(&world, A), Health::Unknown);
    world.asked.clear();
    world.advance(60_000);
    assert!(world.asked.iter().all(|asked| (asked.1, asked.2) != (A, ProbeKind::Ping)));
    world.reconfigure(&["a", "b"], Rules::default());
    world.await_ping(A);
    world.fail(A, ProbeFailure::Refused);
    assert_eq!(health(&world, A), Health::Down);
}

/// A backend that starts down gets no request before its first good ping, under any policy. It is
/// pinged again soon, and comes up with one good ping, by slow start where the policy has it.
#[test]
fn an_awaited_backend_gets_nothing() {
    for policy in PolicyKind::ALL {
        let mut world = World::with_rules(&["a", "b"], rules(policy, &[("b", AWAITED)]));
        assert_eq!(health(&world, B), Health::Down, "{policy:?}");
        world.answer(A, 10);
        for _ in 0..20 {
            assert_eq!(world.serve(), A, "{policy:?}");
            world.await_ping(B);
            world.fail(B, ProbeFailure::Status(503));
            world.advance(500);
            if world.asked.iter().any(|asked| (asked.1, asked.2) == (A, ProbeKind::Ping)) {
                world.answer(A, 10);
            }
        }
        world.await_ping(B);
        world.answer(B, 10);
        assert_eq!(health(&world, B), Health::Up, "{policy:?}");
        let leases: Vec<Lease> = (0..40).map(|_| world.route()).collect();
        assert!(leases.iter().any(|lease| lease.backend() == B) || policy == PolicyKind::Score);
        leases.into_iter().for_each(|lease| world.finish(lease, 200));
    }
}

/// After maintenance, a backend with `initial: down` is down until its first good ping. Then its
/// slow start begins.
#[test]
fn a_maintained_backend_that_starts_down_starts_slowly() {
    for policy in [PolicyKind::LeastRequest, PolicyKind::Learned] {
        let names = ["a", "b"];
        let ready = rules(policy, &[("b", AWAITED)]);
        let mut world = World::with_rules(&names, ready.clone());
        [A, B].into_iter().for_each(|backend| world.answer(backend, 10));
        open(&mut world, B);
        let mut maintained = ready.clone();
        maintained.limits.modes.insert("b".to_owned(), Mode::Maintain);
        world.reconfigure(&names, maintained);
        world.asked.clear();
        world.reconfigure(&names, ready);
        assert_eq!(health(&world, B), Health::Down, "{policy:?}");
        world.await_ping(B);
        world.answer(B, 10);
        assert_eq!(world.standing(B), StandingView::SlowStart { window: 2 }, "{policy:?}");
    }
}

/// When a reload turns off the pings of a down backend, it comes up and starts slowly. After pings
/// are turned on again, the first good ping does not cause another slow start.
#[test]
fn a_backend_comes_up_once_when_pings_are_turned_off() {
    for policy in [PolicyKind::LeastRequest, PolicyKind::Learned] {
        let names = ["a", "b"];
        let mut world = World::with_rules(&names, rules(policy, &[]));
        [A, B].into_iter().for_each(|backend| world.answer(backend, 10));
        open(&mut world, B);
        world.await_ping(B);
        world.fail(B, ProbeFailure::Refused);
        world.reconfigure(&names, rules(policy, &[("b", OFF)]));
        assert_eq!(world.standing(B), StandingView::SlowStart { window: 2 }, "{policy:?}");
        open(&mut world, B);
        world.reconfigure(&names, rules(policy, &[]));
        world.await_ping(B);
        world.answer(B, 10);
        assert_eq!(world.standing(B), StandingView::In, "{policy:?}");
    }
}

/// A backend that was down before maintenance starts slowly when maintenance ends. Its first good
/// ping does not cause another slow start.
#[test]
fn a_maintained_backend_comes_up_once() {
    let names = ["a", "b"];
    let ready = rules(PolicyKind::LeastRequest, &[]);
    let mut world = World::with_rules(&names, ready.clone());
    world.answer(A, 10);
    world.fail(B, ProbeFailure::Refused);
    let mut maintained = ready.clone();
    maintained.limits.modes.insert("b".to_owned(), Mode::Maintain);
    world.reconfigure(&names, maintained);
    world.asked.clear();
    world.reconfigure(&names, ready);
    assert_eq!(world.standing(B), StandingView::SlowStart { window: 2 });
    open(&mut world, B);
    world.await_ping(B);
    world.answer(B, 10);
    assert_eq!(world.standing(B), StandingView::In);
}

/// Serves requests at this backend until its slow start is over.
#[track_caller]
fn open(world: &mut World, backend: BackendId) {
    let others: Vec<_> = [A, B].into_iter().filter(|other| *other != backend).collect();
    for _ in 0..70 {
        let lease = world.router.route(world.now, &others).expect("one is left");
        world.finish(lease, 200);
    }
    assert_eq!(world.standing(backend), StandingView::In);
}

/// If all start down, requests go to the least bad one, as always, and none counts as usable.
#[test]
fn all_may_be_awaited() {
    let checks = [("a", AWAITED), ("b", AWAITED)];
    let mut world = World::with_rules(&["a", "b"], rules(PolicyKind::LeastRequest, &checks));
    assert!(!world.router.has_usable());
    world.serve();
    world.answer(A, 10);
    assert!(world.router.has_usable());
    assert_eq!(world.serve(), A);
}

/// A backend's own interval and timeout apply to its pings alone.
#[test]
fn a_backend_has_its_own_times() {
    let own = CheckRules { interval_ms: Some(700), timeout_ms: Some(100), ..CheckRules::default() };
    let mut world = World::with_rules(&["a", "b"], rules(PolicyKind::Score, &[("b", own)]));
    world.first_pings(&[(A, 5), (B, 5)]);
    world.asked.clear();
    let count = |world: &World, backend| {
        let asked = world.asked.iter();
        asked.filter(|asked| (asked.1, asked.2) == (backend, ProbeKind::Ping)).count()
    };
    let before = world.snapshot().backends[1].pings_failed;
    for _ in 0..70 {
        world.advance(100);
        for backend in [A, B] {
            if world.asked.iter().any(|asked| (asked.1, asked.2) == (backend, ProbeKind::Ping)) {
                assert_eq!(count(&world, backend), 1);
                world.answer(backend, 5);
            }
        }
    }
    let pings = |slot: usize| world.snapshot().backends[slot].pings_answered;
    assert!((15..=16).contains(&pings(1)), "5, then one each 700 ms: {}", pings(1));
    assert!((6..=7).contains(&pings(0)), "5, then one each 5 s: {}", pings(0));
    world.await_ping(B);
    world.advance(101);
    assert_eq!(world.snapshot().backends[1].pings_failed, before + 1, "it had 100 ms");
}

/// While no backend has the path of the pings, 404 and 405 do not bring backends down, one notice
/// reports this, and requests are spread. From the first good ping of any backend on they count.
#[test]
fn a_path_that_nobody_has_is_told_once() {
    for (policy, status) in [(PolicyKind::LeastRequest, 404), (PolicyKind::Learned, 405)] {
        let mut world = World::with_rules(&["a", "b"], rules(policy, &[]));
        let mut told = 0;
        for _ in 0..10 {
            for backend in [A, B] {
                world.await_ping(backend);
                world.fail(backend, ProbeFailure::Status(status));
                let notices = world.notices();
                let is_told = |n: &&Notice| **n == Notice::PingsUnserved { status };
                told += notices.iter().filter(is_told).count();
                let is_changed = |n: &Notice| matches!(n, Notice::HealthChanged { .. });
                assert!(!notices.iter().any(is_changed), "{notices:?}");
            }
            assert_eq!([health(&world, A), health(&world, B)], [Health::Unknown; 2]);
        }
        assert_eq!(told, 1);
        let leases: Vec<Lease> = (0..20).map(|_| world.route()).collect();
        assert_eq!(leases.iter().filter(|lease| lease.backend() == A).count(), 10);
        leases.into_iter().for_each(|lease| world.finish(lease, 200));
        let snapshot = world.snapshot();
        assert_eq!(snapshot.backends[0].latency, None, "a 404 does not measure it");
        assert_eq!(snapshot.backends[0].loss_ewma, None, "and is no loss");
        world.await_ping(A);
        world.answer(A, 10);
        for _ in 0..3 {
            world.await_ping(B);
            world.fail(B, ProbeFailure::Status(status));
        }
        assert_eq!([health(&world, A), health(&world, B)], [Health::Up, Health::Down]);
    }
}

/// The notice waits until every backend has been pinged. It is sent even if other backends are
/// unreachable. A backend that was down because no process listened is back with 404s.
#[test]
fn a_missing_path_is_told_when_all_were_pinged() {
    let mut world = World::new(&["a", "b"]);
    world.fail(A, ProbeFailure::Status(404));
    let is_told = |n: &Notice| matches!(n, Notice::PingsUnserved { .. });
    assert!(!world.notices().iter().any(is_told), "b may have it");
    world.fail(B, ProbeFailure::Refused);
    assert_eq!(health(&world, B), Health::Down);
    world.await_ping(A);
    world.fail(A, ProbeFailure::Status(404));
    assert!(world.notices().iter().any(is_told));
    for expected in [Health::Down, Health::Unknown] {
        world.await_ping(B);
        world.fail(B, ProbeFailure::Status(404));
        assert_eq!(health(&world, B), expected);
    }
}

/// An ejected backend without the path of its pings comes back: its 404s show that it responds.
#[test]
fn a_missing_path_does_not_hold_an_ejection() {
    let mut world = World::with_rules(&["a", "b"], rules(PolicyKind::LeastRequest, &[]));
    let (mut is_out, mut is_back) = (false, false);
    for _ in 0..10_000 {
        let lease = world.route();
        let is_bad = lease.backend() == A && !is_out;
        world.finish(lease, if is_bad { 500 } else { 200 });
        world.advance(2);
        for backend in [A, B] {
            if world.asked.iter().any(|asked| (asked.1, asked.2) == (backend, ProbeKind::Ping)) {
                world.fail(backend, ProbeFailure::Status(404));
            }
        }
        let standing = world.snapshot().backends[0].standing;
        is_out |= matches!(standing, StandingView::Ejected { .. });
        is_back |= is_out && matches!(standing, StandingView::In | StandingView::SlowStart { .. });
    }
    assert!(is_out && is_back, "out {is_out}, back {is_back}");
}
