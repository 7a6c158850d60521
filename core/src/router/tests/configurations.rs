//! Effects of a new configuration.
use super::*;

/// A removed backend gets neither requests nor probes, and its lease ends. If its name returns, it
/// has its old id and an empty history.
#[test]
fn a_removed_backend_rests_and_returns() {
    let mut world = World::with_latencies(10, 20);
    let lease = world.route();
    assert_eq!(lease.backend(), A);
    world.notices();
    world.reconfigure(&["b", "c"], Rules::default());
    let reason = SwitchReason::Failover { cause: OutCause::Removed };
    let switched = Notice::Switched { from: Some(A), to: B, reason };
    assert_eq!(world.notices(), [switched]);
    assert_eq!(world.router.backend("a"), None);
    assert_eq!(world.router.name(A), Some("a"));
    world.advance(1000);
    world.asked.clear();
    world.advance(20_000);
    assert!(world.asked.iter().all(|asked| asked.1 != A));
    assert_eq!(world.serve(), B);
    let names: Vec<_> = world.snapshot().backends.iter().map(|b| (b.name.clone(), b.id)).collect();
    assert_eq!(names, [("b".to_owned(), B), ("c".to_owned(), C)]);
    world.reconfigure(&["a", "b"], Rules::default());
    let a = world.snapshot().backends.remove(0);
    assert_eq!((a.id, a.in_flight, a.health), (A, 1, Health::Unknown));
    assert_eq!((a.latency, a.pings_answered, a.requests), (None, 0, 0));
    world.finish(lease, 200);
    assert_eq!(world.snapshot().backends[0].in_flight, 0);
    world.advance(0);
    assert!(world.asked.iter().any(|asked| asked.1 == A));
}

/// New names in every configuration take the slots of removed backends, even if leases and probes
/// of these are out. The ends of such leases and probes change nothing for the new backends.
#[test]
fn slots_are_used_again() {
    for policy in PolicyKind::ALL {
        let rules = Rules { policy, ..Rules::default() };
        let mut world = World::with_rules(&["a", "b"], rules.clone());
        let mut leases = Vec::new();
        let mut asked = Vec::new();
        for round in 0..20 {
            let names = [format!("x{round}"), format!("y{round}")];
            leases.push(world.route());
            world.reconfigure(&[&names[0], &names[1]], rules.clone());
            world.advance(1);
            asked.append(&mut world.asked);
        }
        let before = world.snapshot();
        assert!(before.backends.iter().all(|backend| backend.id.index() < 4), "{policy:?}");
        assert!(before.backends.iter().all(|backend| backend.id.generation() == 10));
        assert_eq!(world.router.name(A), None);
        let newest = asked.split_off(asked.len() - 8);
        for (probe, ..) in asked {
            world.tell(Event::ProbeFinished { probe, result: Err(ProbeFailure::Refused) });
        }
        let former = leases.drain(..19).collect::<Vec<_>>();
        for lease in former {
            world.end(lease, Outcome::Failed(RequestFailure::Refused));
        }
        world.tell(Event::LoadReported { backend: A, report: LoadReport::default() });
        let mut after = world.snapshot();
        assert_eq!(after.late_probes - before.late_probes, 4 * 19);
        after.late_probes = before.late_probes;
        assert_eq!(after, before, "{policy:?}");
        for (probe, _, kind) in newest {
            let report = (kind == ProbeKind::Report).then(LoadReport::default);
            let answer = ProbeAnswer { latency: Duration::ZERO, report };
            world.tell(Event::ProbeFinished { probe, result: Ok(answer) });
        }
        assert!(world.snapshot().backends.iter().all(|backend| backend.pings_answered == 1));
        leases.into_iter().for_each(|lease| world.finish(lease, 200));
    }
}

/// The first probes of many backends that join together start in batches of 16 backends.
#[test]
fn many_new_backends_are_probed_in_batches() {
    let names: Vec<String> = (0..40).map(|number| format!("n{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut world = World::new(&names);
    for asked in [32, 64, 80, 80] {
        assert_eq!(world.asked.len(), asked);
        world.advance(8);
    }
}

/// A backend that leaves and returns within one ping's time is not pinged twice at once.
#[test]
fn a_quick_return_does_not_double_probes() {
    let mut world = World::new(&["a", "b"]);
    world.reconfigure(&["b"], Rules::default());
    world.reconfigure(&["a", "b"], Rules::default());
    world.advance(999);
    let pings = |world: &World| {
        world.asked.iter().filter(|asked| (asked.1, asked.2) == (A, ProbeKind::Ping)).count()
    };
    assert_eq!(pings(&world), 1);
    world.answer(A, 5);
    assert_eq!(world.snapshot().backends[0].pings_answered, 1);
    assert_eq!(pings(&world), 0);
}

/// If the last backend leaves, no current one remains, and the next choice is a first choice
/// again.
#[test]
fn an_empty_configuration_has_no_current_backend() {
    let mut world = World::with_latencies(10, 20);
    world.serve();
    world.reconfigure(&[], Rules::default());
    assert_eq!(world.router.current(), None);
    assert_eq!(world.router.route(world.now, &[]), Err(NoRoute::NoBackends));
    world.reconfigure(&["b"], Rules::default());
    world.notices();
    assert_eq!(world.serve(), B);
    let first = Notice::Switched { from: None, to: B, reason: SwitchReason::First };
    assert_eq!(world.notices(), [first]);
}

/// An invalid configuration is an error at startup. Later it is ignored and counted.
#[test]
fn impossible_configurations_are_refused() {
    let bad_weight = Weights { cpu: f64::NAN, ..Weights::default() };
    let cases = [
        (config(&["a", ""], Rules::default()), "backends[1].name: must be not empty"),
        (
            config(&["a", "b", "a"], Rules::default()),
            "backends[2].name: must be unlike the names before it",
        ),
        (
            config(&["a"], Rules { weights: bad_weight, ..Rules::default() }),
            "weights.cpu: must be a number from 0 to 1000000",
        ),
    ];
    for (config, message) in cases {
        let error = Router::new(config.clone(), 1, Instant::ZERO).expect_err(message);
        assert_eq!(error.to_string(), message);
        let mut world = World::with_latencies(10, 20);
        let mut before = world.snapshot();
        world.tell(Event::Reconfigured(Box::new(config)));
        before.refused_configs = 1;
        assert_eq!(world.snapshot(), before);
    }
}

/// New weights take effect at once, and a shorter interval does not wait for the old one to end.
#[test]
fn new_rules_take_effect_at_once() {
    let mut world = World::with_latencies(10, 20);
    let mut rules = Rules::default();
    rules.weights.latency = 3.0;
    rules.probes.ping_interval = Duration::from_millis(200);
    world.reconfigure(&["a", "b"], rules);
    assert_eq!(world.snapshot().backends[1].score.total, 60.0);
    assert_eq!(world.router.poll_timeout(), Some(world.now + Duration::from_millis(200)));
}
