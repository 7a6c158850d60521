//! Ejection, probation and slow start of whole routers, mostly under every policy.
//! `outlier/tests.rs` tests the same rules on a single backend.
use super::*;
use crate::event::{EjectReason, ReturnReason};
use crate::policy::PolicyView;

fn world(policy: PolicyKind, names: &[&str]) -> World {
    let mut world = World::with_rules(names, Rules { policy, ..Rules::default() });
    for _ in names {
        let (_, backend, _) = *world.asked.iter().find(|asked| asked.2 == ProbeKind::Ping).unwrap();
        world.answer(backend, 5);
    }
    world
}

impl World {
    /// Lets `ms` pass. Pings succeed at once.
    fn pass(&mut self, ms: u64) {
        for _ in 0..ms {
            self.advance(1);
            while let Some(at) = self.asked.iter().position(|asked| asked.2 == ProbeKind::Ping) {
                let backend = self.asked[at].1;
                self.answer(backend, 1);
            }
        }
    }

    /// Sends one request every `apart` ms for `ms`. The bad backend sends 500 at once, the others
    /// respond after 10 ms. Returns the number of requests to each backend.
    fn load(&mut self, ms: u64, apart: u64, bad: Option<BackendId>) -> [u32; 3] {
        let mut counts = [0; 3];
        let mut waiting: VecDeque<(u64, Lease)> = VecDeque::new();
        for at in 0..ms {
            self.pass(1);
            while waiting.front().is_some_and(|(until, _)| *until <= at) {
                let (_, lease) = waiting.pop_front().expect("there is one");
                self.finish(lease, 200);
            }
            if at % apart == 0 {
                let lease = self.route();
                counts[lease.backend().index()] += 1;
                if bad == Some(lease.backend()) {
                    self.finish(lease, 500);
                } else {
                    waiting.push_back((at + 10, lease));
                }
            }
        }
        waiting.into_iter().for_each(|(_, lease)| self.finish(lease, 200));
        counts
    }

    /// Fails all of `requests`, 5 ms apart, wherever they go.
    fn fail_all(&mut self, requests: u32) {
        for _ in 0..requests {
            self.pass(5);
            let lease = self.route();
            self.finish(lease, 500);
        }
    }

    /// At most one backend is ejected or on probation.
    #[track_caller]
    fn assert_most_are_in(&self, policy: PolicyKind) {
        let standings = [A, B, C].map(|id| self.standing(id));
        let out = standings.iter().filter(|standing| {
            matches!(standing, StandingView::Ejected { .. } | StandingView::Probation { .. })
        });
        assert!(out.count() <= 1, "{policy:?}: {standings:?}");
    }

    /// Fails requests at A until it is ejected; B is excluded.
    fn eject_a(&mut self) {
        for _ in 0..40 {
            self.pass(1);
            let lease = self.router.route(self.now, &[B]).expect("a is left");
            self.finish(lease, 500);
            if matches!(self.standing(A), StandingView::Ejected { .. }) {
                return;
            }
        }
        panic!("forty failures in a row eject");
    }
}

/// A backend fails everything quickly but passes its pings. Under every policy it costs a few
/// requests in 20 s at 500 a second. After it has recovered, 8 s of pings alone and 15 s of
/// requests bring it back.
#[test]
fn a_fast_failure_costs_little_under_every_policy() {
    for policy in PolicyKind::ALL {
        let mut world = world(policy, &["a", "b", "c"]);
        world.load(500, 2, None);
        let counts = world.load(20_000, 2, Some(A));
        assert!(counts[0] <= 20, "{policy:?}: {counts:?}");
        world.pass(8000);
        world.load(15_000, 20, None);
        assert_ne!(world.standing(A), StandingView::Ejected { left: Duration::ZERO });
        assert!(
            matches!(world.standing(A), StandingView::In | StandingView::SlowStart { .. }),
            "{policy:?}: {:?}",
            world.standing(A)
        );
    }
}

/// Even at one request a second, a recovered backend is back within 23 s: at most 8 s of back-off,
/// then 15 s. Pings count for all steps of the probation but the last.
#[test]
fn it_returns_at_low_rates() {
    for policy in PolicyKind::ALL {
        let mut world = world(policy, &["a", "b", "c"]);
        world.load(500, 2, None);
        world.load(5000, 10, Some(A));
        world.load(15_000 + 8000, 1000, None);
        assert!(
            matches!(world.standing(A), StandingView::In | StandingView::SlowStart { .. }),
            "{policy:?}: {:?}",
            world.standing(A)
        );
    }
}

/// At one request every two seconds to each backend, the first failure ejects one, under every
/// policy. After the probation the failure no longer ranks the backend behind the others: it leaves
/// no points and no high cost.
#[test]
fn one_failure_of_a_seldom_asked_backend_is_enough_and_forgotten() {
    for policy in PolicyKind::ALL {
        let mut world = world(policy, &["a", "b", "c"]);
        for _ in 0..3 {
            for not in [[B, C], [A, C], [A, B]] {
                world.pass(700);
                let lease = world.router.route(world.now, &not).expect("one is left");
                world.finish(lease, 200);
            }
        }
        world.pass(700);
        let lease = world.router.route(world.now, &[B, C]).expect("one is left");
        world.finish(lease, 500);
        let standing = world.standing(A);
        assert!(matches!(standing, StandingView::Ejected { .. }), "{policy:?}: {standing:?}");
        // Trials are marked, so that the proxy can serve the client elsewhere if one fails.
        let mut trials = 0;
        for _ in 0..10 {
            world.pass(500);
            let lease = world.route();
            trials += u32::from(lease.is_trial());
            assert!(!lease.is_trial() || lease.backend() == A, "{policy:?}");
            world.finish(lease, 200);
        }
        assert!((1..=4).contains(&trials), "{policy:?}: {trials}");
        assert!(!matches!(world.standing(A), StandingView::Ejected { .. }), "{policy:?}");
        let seen = world.router.backend_snapshot(world.now, A).expect("it is there");
        if policy != PolicyKind::Learned {
            assert_eq!((seen.score.errors, seen.error_rate), (0.0, 0.0), "{policy:?}");
        }
        if let PolicyView::PeakEwma(view) = seen.policy {
            assert!(view.cost_ms.is_none_or(|ms| ms < 100.0), "{view:?}");
        }
    }
}

/// An outage, a refused connection or lost pings, leaves no error rate and no points once the
/// backend is up again.
#[test]
fn an_outage_leaves_no_points() {
    for is_by_pings in [false, true] {
        let mut world = world(PolicyKind::Score, &["a", "b"]);
        let seen =
            |world: &World| world.router.backend_snapshot(world.now, A).expect("it is there");
        if is_by_pings {
            world.pass(10_000);
            let mut loss = 0.0_f64;
            while seen(&world).health != Health::Down {
                assert!(world.now < Instant::from_millis(1_060_000), "it goes down");
                loss = loss.max(seen(&world).score.loss);
                world.advance(1);
                while let Some(at) = world.asked.iter().position(|asked| asked.2 == ProbeKind::Ping)
                {
                    match world.asked[at].1 {
                        A => world.fail(A, ProbeFailure::Cut),
                        other => world.answer(other, 1),
                    }
                }
            }
            assert!(loss > 0.0);
        } else {
            let lease = world.router.route(world.now, &[B]).expect("a is left");
            world.end(lease, Outcome::Failed(RequestFailure::Refused));
            assert!(seen(&world).error_rate > 0.0);
        }
        world.pass(20_000);
        let seen = seen(&world);
        assert_eq!((seen.health, seen.error_rate, seen.score.loss), (Health::Up, 0.0, 0.0));
    }
}

/// Each backend refuses every other request. One of them then fails all requests that it does not
/// refuse, and is ejected. The others still refuse half, so the ejection is not regretted.
#[test]
fn refusals_from_before_an_ejection_are_not_its_fault() {
    for policy in [PolicyKind::RoundRobin, PolicyKind::LeastRequest, PolicyKind::Learned] {
        let mut world = world(policy, &["a", "b", "c"]);
        let mut counts = [0; 3];
        for number in 0..2500 {
            let lease = world.route();
            let backend = lease.backend();
            let count = &mut counts[backend.index()];
            *count += 1;
            let status = match *count % 2 {
                0 => 429,
                _ if number > 600 && backend == A => 500,
                _ => 200,
            };
            world.pass(1);
            world.finish(lease, status);
        }
        let notices = world.notices();
        let is_out = |notice: &Notice| matches!(notice, Notice::Ejected { backend: A, .. });
        assert!(notices.iter().any(is_out), "{policy:?}: {notices:?}");
        let is_regret = |notice: &Notice| {
            matches!(notice, Notice::Returned { reason: ReturnReason::Regretted, .. })
        };
        assert!(!notices.iter().any(is_regret), "{policy:?}: {notices:?}");
    }
}

/// Under every policy an ejected backend is not usable, however busy it is, and neither is one that
/// is down.
#[test]
fn an_ejected_backend_is_not_usable_when_full() {
    for policy in PolicyKind::ALL {
        let mut rules = Rules { policy, ..Rules::default() };
        rules.limits.per_backend = 2;
        let mut world = World::with_rules(&["a", "b"], rules);
        world.pass(100);
        let is_ejected = |world: &World| matches!(world.standing(A), StandingView::Ejected { .. });
        for status in [200, 500] {
            for _ in 0..60 {
                for (not, status) in [(A, 200), (B, status)] {
                    if !is_ejected(&world) {
                        world.pass(2);
                        let lease = world.router.route(world.now, &[not]).expect("one is left");
                        world.finish(lease, status);
                    }
                }
            }
        }
        assert!(is_ejected(&world), "{policy:?}");
        assert!(world.router.has_usable(), "{policy:?}: the other one");
        let held = [(); 2].map(|()| world.router.route(world.now, &[B]).expect("a is left"));
        let lease = world.router.route(world.now, &[A]).expect("b is left");
        world.end(lease, Outcome::Failed(RequestFailure::Refused));
        assert!(is_ejected(&world) && !world.router.has_usable(), "{policy:?}");
        held.into_iter().for_each(|lease| world.finish(lease, 200));
        assert!(!world.router.has_usable(), "{policy:?}: it is ejected, full or not");
    }
}

/// If all backends fail alike, every request still finds a backend, and at most one backend is
/// ejected or on probation at the end.
#[test]
fn failures_of_all_eject_nobody() {
    for policy in PolicyKind::ALL {
        let mut world = world(policy, &["a", "b", "c"]);
        world.fail_all(2000);
        world.assert_most_are_in(policy);
    }
}

/// Backends that fail everything are ejected even if they are the majority, as long as another one
/// certainly does better: under every policy the third backend gets nearly all requests. If at most
/// half of the backends could be ejected, the failures of the majority would excuse each of them.
#[test]
fn a_failing_majority_is_ejected() {
    for policy in PolicyKind::ALL {
        let mut world = world(policy, &["a", "b", "c"]);
        world.load(2000, 5, None);
        let mut counts = [0; 3];
        for _ in 0..4000 {
            world.pass(5);
            let lease = world.route();
            let id = lease.backend();
            counts[id.index()] += 1;
            world.finish(lease, if id == C { 200 } else { 500 });
        }
        assert!(counts[0] + counts[1] <= 60, "{policy:?}: {counts:?}");
        // Once the third one fails as well, failures are usual, and the others are back.
        world.fail_all(4000);
        world.assert_most_are_in(policy);
    }
}

/// Notices report the ejection with its numbers, and the return.
#[test]
fn ejections_are_told() {
    let mut world = world(PolicyKind::RoundRobin, &["a", "b", "c"]);
    world.load(500, 2, None);
    world.notices();
    world.load(300, 2, Some(A));
    world.load(5000, 2, None);
    let notices = world.notices();
    let [Notice::Ejected { backend: A, reason }, .., Notice::Returned { backend: A, reason: why }] =
        &notices[..]
    else {
        panic!("{notices:?}");
    };
    assert!(
        matches!(reason, EjectReason::Failures { in_row: 2, others: Some(0.0), .. }),
        "{reason:?}"
    );
    assert_eq!(*why, ReturnReason::Probation);
    assert!(world.snapshot().backends[0].ejections >= 1);
}

/// A backend that goes down and comes up during its ejection is reported as up, and its old
/// failures are forgotten.
#[test]
fn an_ejected_backend_comes_up() {
    let mut world = world(PolicyKind::RoundRobin, &["a", "b", "c"]);
    world.load(500, 2, None);
    world.load(100, 2, Some(A));
    let lease = loop {
        let lease = world.route();
        if world.standing(A) != StandingView::In || lease.backend() == A {
            break lease;
        }
        world.finish(lease, 200);
    };
    world.finish(lease, 200);
    world.advance(300);
    world.end_probe(A, ProbeKind::Ping, Err(ProbeFailure::Refused));
    world.notices();
    for _ in 0..2 {
        world.await_ping(A);
        world.answer(A, 5);
    }
    let up = Notice::HealthChanged { backend: A, is_up: true, cause: None };
    assert!(world.notices().contains(&up));
    assert_eq!(world.standing(A), StandingView::SlowStart { window: 2 });
}

/// A current backend at its limit stays current. Further requests go to the other backend. As soon
/// as a request at the current backend ends, the next one goes there again. No request exceeds the
/// limits.
#[test]
fn a_full_current_backend_stays_current() {
    let mut rules = Rules::default();
    rules.limits.per_backend = 2;
    let mut world = World::with_rules(&["a", "b"], rules);
    world.answer(A, 10);
    world.answer(B, 15);
    let mut leases: Vec<_> = (0..4).map(|_| world.route()).collect();
    let went: Vec<_> = leases.iter().map(Lease::backend).collect();
    assert_eq!(went.iter().filter(|id| **id == A).count(), 2);
    assert_eq!(world.router.route(world.now, &[]), Err(NoRoute::Full));
    assert_eq!(world.router.current(), Some(A));
    assert_eq!(world.snapshot().switches, 0);
    let of_a = went.iter().position(|id| *id == A).expect("one of two");
    world.finish(leases.remove(of_a), 200);
    let again = world.route();
    assert_eq!(again.backend(), A);
    leases.into_iter().chain([again]).for_each(|lease| world.finish(lease, 200));
}

/// With `errors.eject` off no backend is ejected.
#[test]
fn it_can_be_turned_off() {
    let mut rules = Rules { policy: PolicyKind::RoundRobin, ..Rules::default() };
    rules.errors.eject = false;
    let mut world = World::with_rules(&["a", "b", "c"], rules);
    let counts = world.load(3000, 2, Some(A));
    assert_eq!(counts[0], 500);
}

/// A backend that joins later gets few requests at first. One that joined with the others does not
/// start slowly.
#[test]
fn slow_start_is_for_those_that_come_later() {
    let mut world = world(PolicyKind::LeastRequest, &["a", "b"]);
    assert_eq!(world.standing(A), StandingView::In);
    let leases: Vec<_> = (0..40).map(|_| world.route()).collect();
    let rules = Rules { policy: PolicyKind::LeastRequest, ..Rules::default() };
    world.reconfigure(&["a", "b", "c"], rules);
    assert_eq!(world.standing(C), StandingView::SlowStart { window: 2 });
    let more: Vec<_> = (0..10).map(|_| world.route()).collect();
    assert_eq!(more.iter().filter(|lease| lease.backend() == C).count(), 2);
    leases.into_iter().chain(more).for_each(|lease| world.finish(lease, 200));
    assert_eq!(world.standing(C), StandingView::SlowStart { window: 4 });
}

/// A backend on probation refuses an earlier request and requests a pause of two seconds. Requests
/// go to the other backend during the pause; the first one after it is the trial.
#[test]
fn a_held_backend_is_not_tried_out() {
    for policy in PolicyKind::ALL {
        let mut world = world(policy, &["a", "b"]);
        world.load(500, 2, None);
        let late = world.router.route(world.now, &[B]).expect("a is left");
        world.eject_a();
        let is_waiting = |world: &World| match world.standing(A) {
            StandingView::Probation { .. } => true,
            StandingView::Ejected { .. } => false,
            other => panic!("{policy:?}: {other:?}"),
        };
        while !is_waiting(&world) {
            world.pass(1);
        }
        world.end(late, Outcome::Refused { status: 429, hold: Some(Duration::from_secs(2)) });
        assert_eq!(world.serve(), B, "{policy:?}");
        world.pass(2001);
        assert_eq!(world.serve(), A, "{policy:?}");
    }
}

/// One kind of request fails at the only backend that is not ejected. It is not sent to the ejected
/// one for a second opinion, nor is a refused request.
#[test]
fn an_ejected_backend_gives_no_second_opinion() {
    for policy in PolicyKind::ALL {
        let mut world = world(policy, &["a", "b"]);
        world.load(500, 2, None);
        world.eject_a();
        assert!(!world.router.has_other(world.now, &[B]), "{policy:?}");
        assert!(world.router.has_other(world.now, &[A]), "{policy:?}");
        for _ in 0..5 {
            let asker = Asker { client: 1, target: 7 };
            let lease = world.router.route_for(world.now, &[], asker).expect("a backend");
            assert_eq!(lease.backend(), B, "{policy:?}");
            world.finish(lease, 500);
        }
    }
}
