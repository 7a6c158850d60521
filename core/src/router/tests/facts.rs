//! Effects of pings, reports and the ends of requests.
use super::*;
use crate::config::CheckRules;

/// All factors at once, against numbers worked out by hand; tanh(0.5) = 0.462117157260.
#[test]
fn the_score_is_the_rule() {
    let mut world = World::with_rules(
        &["a"],
        Rules {
            smoothing: crate::config::Smoothing { loss_pings: 2, ..Default::default() },
            ..Rules::default()
        },
    );
    world.answer(A, 100);
    let queue = |queue| LoadReport { queue: Some(queue), ..LoadReport::default() };
    let load =
        LoadReport { cpu_busy_ms: Some(50.0), memory_bytes: Some(104_857_600.0), ..queue(0.0) };
    world.report(A, Some(load));
    world.tell(Event::LoadReported { backend: A, report: queue(125.0) });
    world.await_ping(A);
    world.fail(A, ProbeFailure::TimedOut);
    let lease = world.route();
    let score = world.snapshot().backends[0].score;
    let half = 0.462_117_157_260;
    let expected = [100.0, 80.0 * 0.2, 0.0, 2.0, 12.0 * half, 30.0 * half, 12.0 * half];
    for ((factor, points), expected) in score.parts().into_iter().zip(expected) {
        assert!((points - expected).abs() < 1e-9, "{}: {points}, {expected}", factor.name());
    }
    assert_eq!(score.total, score.parts().iter().map(|(_, points)| points).sum::<f64>());
    world.end(lease, Outcome::Abandoned);
}

/// A backend that reports its pressure and no CPU time gets points for it: 30 at most, none after
/// three report intervals without a report. With a CPU time the pressure adds nothing.
#[test]
fn pressure_counts_without_a_cpu_time() {
    let mut world = World::new(&["a"]);
    world.answer(A, 100);
    let points = |world: &World| world.snapshot().backends[0].score.cpu;
    let pressed = |pressure| LoadReport { pressure: Some(pressure), ..LoadReport::default() };
    for (pressure, expected) in [(0.0, 0.0), (0.5, 15.0), (1.0, 30.0), (7.0, 30.0)] {
        world.tell(Event::LoadReported { backend: A, report: pressed(pressure) });
        assert_eq!(points(&world), expected, "pressure {pressure}");
    }
    let interval = Rules::default().probes.report_interval.as_millis() as u64;
    world.advance(2 * interval);
    world.tell(Event::LoadReported { backend: A, report: LoadReport::default() });
    assert!((points(&world) - 15.0).abs() < 0.1, "half its weight: {}", points(&world));
    world.advance(2 * interval);
    world.tell(Event::LoadReported { backend: A, report: LoadReport::default() });
    assert_eq!(points(&world), 0.0);
    let both = LoadReport { cpu_busy_ms: Some(0.0), ..pressed(1.0) };
    world.tell(Event::LoadReported { backend: A, report: both });
    assert_eq!(points(&world), 0.0);
}

/// A figure ages by the backend's own interval of reports: full weight for one, none after three. A
/// report without a valid figure does not make the others younger.
#[test]
fn figures_age_by_the_backends_own_interval() {
    let own = |ms| CheckRules { report_interval_ms: Some(ms), ..CheckRules::default() };
    let mut rules = Rules::default();
    rules.limits.checks = [("a".to_owned(), own(100)), ("b".to_owned(), own(60_000))].into();
    let mut world = World::with_rules(&["a", "b"], rules);
    world.answer(A, 5);
    world.answer(B, 5);
    let full = 30.0 * 0.761_594_155_956;
    for id in [A, B] {
        let report = LoadReport { cpu_busy_ms: Some(100.0), ..LoadReport::default() };
        world.tell(Event::LoadReported { backend: id, report });
    }
    for (after, of_a, of_b) in [(100, 1.0, 1.0), (100, 0.5, 1.0), (100, 0.0, 1.0)] {
        world.advance(after);
        for (id, share) in [(A, of_a), (B, of_b)] {
            let report = LoadReport { queue: Some(-1.0), ..LoadReport::default() };
            world.tell(Event::LoadReported { backend: id, report });
            let points = world.snapshot().backends[id.index()].score.cpu;
            assert!((points - share * full).abs() < 1e-6, "{id:?}: {points}");
        }
    }
    for backend in world.snapshot().backends {
        assert_eq!(backend.report_age, Some(Duration::from_millis(300)), "{}", backend.name);
    }
}

/// Loss counts from the fifth ping. By hand: the second of five fails, so the loss is 0.2 · 0.8³.
#[test]
fn loss_counts_from_the_fifth_ping_on() {
    let mut world = World::new(&["a"]);
    world.answer(A, 100);
    world.await_ping(A);
    world.fail(A, ProbeFailure::TimedOut);
    for ended in 3..=5 {
        assert_eq!(world.snapshot().backends[0].score.loss, 0.0, "before ping {ended}");
        world.await_ping(A);
        world.answer(A, 100);
    }
    let loss: f64 = 0.2 * 0.8 * 0.8 * 0.8;
    assert!((world.snapshot().backends[0].score.loss - 80.0 * loss).abs() < 1e-12);
}

/// A report of an endless queue is averaged as one of 250. After 19 more reports 0.8^19 of that is
/// left: 3.6, which costs less than a point. An average of the reported number itself would cost 12
/// points for 3000 reports.
#[test]
fn one_absurd_report_is_forgotten_within_a_minute() {
    let mut world = World::new(&["a"]);
    let queue = |queue| LoadReport { queue: Some(queue), ..LoadReport::default() };
    world.report(A, Some(queue(1e308)));
    let backend = world.snapshot().backends.remove(0);
    assert_eq!((backend.queue, backend.queue_ewma), (Some(1e308), Some(250.0)));
    for _ in 0..19 {
        world.advance(3000);
        world.report(A, Some(queue(0.0)));
    }
    let points = world.snapshot().backends[0].score.queue;
    assert!(points < 1.0, "{points} points");
}

/// A ping's latency is averaged up to the ping's timeout, even if the driver reports more.
#[test]
fn a_latency_lasts_no_longer_than_its_ping() {
    let mut world = World::new(&["a"]);
    world.answer(A, 10_000_000);
    assert_eq!(world.snapshot().backends[0].latency_ewma_ms, Some(1000.0));
}

/// Invalid numbers are ignored, a failed report adds nothing to the earlier ones, and a refused
/// one does not change the health.
#[test]
fn reports_that_cannot_be_change_nothing() {
    let mut rules = Rules::default();
    rules.probes.ping_retry = rules.probes.ping_interval;
    let mut world = World::with_rules(&["a"], rules);
    world.answer(A, 5);
    world.report(A, Some(LoadReport { queue: Some(8.0), ..LoadReport::default() }));
    let before = world.snapshot().backends.remove(0);
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0] {
        let report = LoadReport {
            queue: Some(bad),
            cpu_busy_ms: Some(bad),
            memory_bytes: Some(bad),
            ..LoadReport::default()
        };
        world.tell(Event::LoadReported { backend: A, report });
    }
    let after = world.snapshot().backends.remove(0);
    assert_eq!((after.queue, after.cpu_busy_ms), (Some(8.0), None));
    assert_eq!((after.memory_bytes, after.score), (None, before.score));
    world.advance(3000);
    world.end_probe(A, ProbeKind::Report, Err(ProbeFailure::Refused));
    world.advance(3000);
    world.report(A, None);
    let after = world.snapshot().backends.remove(0);
    assert_eq!((after.reports_failed, after.queue), (2, Some(8.0)));
    assert_eq!(after.health, before.health);
    assert_eq!(after.score.queue, 0.5 * before.score.queue, "two report intervals old");
    assert_eq!(after.report_age, Some(Duration::from_millis(6000)));
}

/// A client's abort is not counted. A 499 is not an error, a 500 is. Only good responses feed the
/// response average, and none feeds the latency.
#[test]
fn outcomes_count_as_they_should() {
    let mut world = World::new(&["a"]);
    for outcome in [
        Outcome::Abandoned,
        Outcome::Answered { status: 499, latency: Duration::from_millis(10) },
        Outcome::Answered { status: 500, latency: Duration::from_millis(90) },
        Outcome::Answered { status: 200, latency: Duration::from_millis(20) },
    ] {
        let lease = world.route();
        world.end(lease, outcome);
    }
    let a = world.snapshot().backends.remove(0);
    assert_eq!((a.requests, a.errors, a.in_flight), (3, 1, 0));
    assert!((a.response_ewma_ms.unwrap() - 12.0).abs() < 1e-9);
    assert!((a.error_rate - 1.0 / 13.0).abs() < 1e-12);
    assert_eq!((a.latency, a.latency_ewma_ms), (None, None));
}

/// A backend's own figures count in full for one report interval and not at all after three, even
/// if later reports fail or lack the figure. Later figures start a new average.
#[test]
fn reports_grow_old() {
    for later in [None, Some(LoadReport::default())] {
        let mut rules = Rules::default();
        rules.probes.ping_timeout = Duration::from_secs(60);
        let mut world = World::with_rules(&["a"], rules);
        let load = LoadReport {
            queue: Some(1000.0),
            cpu_busy_ms: Some(1000.0),
            memory_bytes: Some(2e9),
            ..LoadReport::default()
        };
        world.report(A, Some(load));
        let points = |world: &World| {
            let score = world.snapshot().backends[0].score;
            score.queue + score.cpu + score.memory
        };
        assert!((points(&world) - 54.0).abs() < 0.1, "{}", points(&world));
        for share in [1.0, 0.5, 0.0, 0.0] {
            world.advance(3000);
            world.report(A, later);
            assert!((points(&world) - share * 54.0).abs() < 0.1, "{share}: {}", points(&world));
        }
        let backend = world.snapshot().backends.remove(0);
        assert_eq!((backend.queue, backend.cpu_busy_ms), (Some(1000.0), Some(1000.0)));
        world.tell(Event::LoadReported {
            backend: A,
            report: LoadReport { queue: Some(1.0), ..LoadReport::default() },
        });
        assert_eq!(world.snapshot().backends[0].queue_ewma, Some(1.0));
    }
}

/// The first five pings are 500 ms apart, and one that took much longer than the others costs its
/// backend nothing, at any place. Then the regular interval applies.
#[test]
fn an_outlier_among_the_first_pings_does_not_decide() {
    for outlier in 0..5 {
        let mut world = World::new(&["a", "b"]);
        let start = world.now;
        for number in 0..5 {
            world.await_ping(A);
            assert_eq!(world.now.since(start), Duration::from_millis(500 * number));
            world.answer(A, if number == outlier { 500 } else { 10 });
            world.answer(B, 60);
        }
        assert_eq!(world.snapshot().backends[0].latency_ewma_ms, Some(10.0));
        assert_eq!(world.serve(), A);
        world.await_ping(A);
        assert_eq!(world.now.since(start), Duration::from_millis(2000 + 2500));
    }
}

/// The first five pings follow soon; the next ones are spread over the interval and then come every
/// 5 s. Reports come every 3 s; they get no response here and time out.
#[test]
fn probes_are_spread_and_steady() {
    let mut world = World::new(&["a", "b"]);
    let start = world.now;
    let (mut pings, mut reports) = (Vec::new(), Vec::new());
    for _ in 0..=130 {
        let now = world.now.since(start).as_millis();
        for (_, backend, kind) in world.asked.clone() {
            if kind == ProbeKind::Ping {
                pings.push((now, backend));
                world.answer(backend, 10);
            }
        }
        // Reports stay in the list.
        let new = world.asked[reports.len()..].iter().map(|asked| (now, asked.1));
        reports.extend(new.collect::<Vec<_>>());
        world.advance(100);
    }
    let first = [0, 500, 1000, 1500, 2000];
    let mut expected: Vec<_> = first.into_iter().flat_map(|at| [(at, A), (at, B)]).collect();
    expected.extend([(4500, A), (7000, B), (9500, A), (12_000, B)]);
    assert_eq!(pings, expected);
    let mut expected = vec![(0, A), (0, B)];
    expected.extend((0..4).flat_map(|at| [(1500 + 3000 * at, A), (3000 + 3000 * at, B)]));
    assert_eq!(reports, expected);
    assert_eq!(world.snapshot().backends[0].reports_failed, 5);
}

/// While a verdict is open pings are 500 ms apart. After the verdict the regular interval applies.
#[test]
fn an_open_verdict_hurries_the_next_ping() {
    let mut world = World::new(&["a"]);
    world.first_pings(&[(A, 1)]);
    let start = world.now;
    let answers = [false, false, false, false, true, true, true];
    let mut at = Vec::new();
    for is_good in answers {
        world.await_ping(A);
        at.push(world.now.since(start).as_millis());
        if is_good { world.answer(A, 1) } else { world.fail(A, ProbeFailure::Cut) }
    }
    assert_eq!(at, [5000, 5500, 6000, 11_000, 16_000, 16_500, 21_500]);
    assert_eq!(world.snapshot().backends[0].health, Health::Up);
}

/// A ping without a response at its deadline has timed out, whether the deadline or the late
/// result is handled first. The late result changes nothing else.
#[test]
fn late_answers_are_counted_and_ignored() {
    let answer = |probe| Event::ProbeFinished {
        probe,
        result: Ok(ProbeAnswer { latency: Duration::from_secs(1), report: None }),
    };
    let mut snapshots = Vec::new();
    for timeout_first in [true, false] {
        let mut world = World::new(&["a"]);
        let probe = world.asked[0].0;
        world.now += Duration::from_millis(1001);
        if timeout_first {
            world.router.handle_timeout(world.now);
        }
        world.tell(answer(probe));
        world.router.handle_timeout(world.now);
        world.tell(answer(probe));
        world.tell(answer(ProbeId::from_u64(77)));
        let snapshot = world.snapshot();
        assert_eq!(snapshot.late_probes, 3);
        let a = &snapshot.backends[0];
        assert_eq!((a.pings_answered, a.pings_failed, a.latency), (0, 1, None));
        snapshots.push((snapshot, world.router.poll_timeout()));
    }
    assert_eq!(snapshots[0], snapshots[1]);
}

/// Early and repeated timeouts do nothing, and getters change nothing.
#[test]
fn looking_and_early_timeouts_are_harmless() {
    let mut world = World::with_latencies(10, 20);
    world.serve();
    let (before, deadline) = (world.snapshot(), world.router.poll_timeout());
    assert_eq!(deadline, Some(world.now + Duration::from_millis(500)), "the second pings");
    for _ in 0..3 {
        world.router.handle_timeout(world.now);
        assert_eq!(world.router.poll_action(), None);
        world.router.snapshot(world.now + Duration::from_secs(3600));
    }
    assert_eq!((world.snapshot(), world.router.poll_timeout()), (before, deadline));
}

/// A single error of the current backend costs it 4000/11 points and is forgiven with time: each
/// ping evaluates the rate again.
#[test]
fn an_old_error_is_forgiven() {
    let mut world = World::new(&["a"]);
    world.first_pings(&[(A, 10)]);
    let lease = world.route();
    world.finish(lease, 502);
    let points = |world: &World| world.snapshot().backends[0].score.errors;
    assert!((points(&world) - 4000.0 / 11.0).abs() < 1e-9);
    for _ in 0..6 {
        world.advance(5000);
        world.answer(A, 10);
    }
    assert!((points(&world) - 4000.0 * 0.5 / 10.5).abs() < 1e-6, "{}", points(&world));
}
