//! Weights, and backends that an operator takes out of service and back.
use super::*;
use crate::config::{BackendLimits, Mode, PolicyKind};

/// A router of the policy whose backends are `b0`, `b1` and so on; all of them respond to pings.
fn router(policy: PolicyKind, count: usize) -> (Router, RouterConfig) {
    let rules = Rules { policy, ..Rules::default() };
    let backends = (0..count).map(|number| format!("b{number}")).collect();
    let config = RouterConfig { backends, rules };
    let mut router = Router::new(config.clone(), 7, Instant::ZERO).expect("good rules");
    answer_pings(&mut router, Instant::ZERO);
    (router, config)
}

/// Starts the probes that are due and completes every ping. Returns the slots that were pinged.
fn answer_pings(router: &mut Router, now: Instant) -> Vec<usize> {
    router.handle_timeout(now);
    let mut pinged = Vec::new();
    while let Some(action) = router.poll_action() {
        if let Action::StartProbe { probe, backend, kind: ProbeKind::Ping, .. } = action {
            pinged.push(backend.index());
            let answer = ProbeAnswer { latency: Duration::from_millis(1), report: None };
            router.handle_event(now, Event::ProbeFinished { probe, result: Ok(answer) });
        }
    }
    pinged
}

fn reconfigure(router: &mut Router, now: Instant, config: &RouterConfig) {
    router.handle_event(now, Event::Reconfigured(Box::new(config.clone())));
}

/// Requests in flight of each backend.
fn in_flight(router: &Router, now: Instant) -> Vec<u32> {
    router.snapshot(now).backends.iter().map(|backend| backend.in_flight).collect()
}

/// Under every policy a drained backend gets no request, not even when all others are also drained.
/// Its requests in flight end, and it is still pinged. It is used again once the configuration no
/// longer drains it.
#[test]
fn a_drained_backend_gets_no_request() {
    for policy in PolicyKind::ALL {
        let (mut router, mut config) = router(policy, 3);
        let mut now = Instant::from_millis(10);
        let leases: Vec<_> = (0..30).map(|_| router.route(now, &[]).expect("a backend")).collect();
        let drained = leases[0].backend();
        let name = router.name(drained).expect("configured").to_owned();
        config.rules.limits.modes.insert(name.clone(), Mode::Drain);
        reconfigure(&mut router, now, &config);
        for _ in 0..30 {
            let lease = router.route(now, &[]).expect("two are left");
            assert_ne!(lease.backend(), drained, "{policy:?}");
            let outcome = Outcome::Answered { status: 200, latency: Duration::from_millis(1) };
            router.handle_event(now, Event::RequestFinished { lease, outcome });
        }
        for lease in leases {
            let outcome = Outcome::Answered { status: 200, latency: Duration::from_millis(1) };
            router.handle_event(now, Event::RequestFinished { lease, outcome });
        }
        assert_eq!(in_flight(&router, now), [0, 0, 0], "{policy:?}");
        now += Duration::from_secs(6);
        assert!(answer_pings(&mut router, now).contains(&drained.index()), "{policy:?}");
        for other in ["b0", "b1", "b2"] {
            config.rules.limits.modes.insert(other.to_owned(), Mode::Drain);
        }
        reconfigure(&mut router, now, &config);
        assert_eq!(router.route(now, &[]), Err(NoRoute::NoBackends), "{policy:?}");
        assert!(!router.has_usable());
        config.rules.limits.modes.remove(&name);
        reconfigure(&mut router, now, &config);
        let lease = router.route(now, &[]).expect("it is back");
        assert_eq!(lease.backend(), drained, "{policy:?}");
    }
}

/// A maintained backend is not pinged. When it is ready again, its health is unknown and it is
/// pinged at once.
#[test]
fn a_maintained_backend_is_not_probed() {
    for policy in [PolicyKind::Score, PolicyKind::Learned] {
        let (mut router, mut config) = router(policy, 2);
        let mut now = Instant::from_millis(10);
        config.rules.limits.modes.insert("b1".to_owned(), Mode::Maintain);
        reconfigure(&mut router, now, &config);
        for _ in 0..20 {
            now += Duration::from_secs(1);
            assert!(!answer_pings(&mut router, now).contains(&1), "{policy:?}");
        }
        let snapshot = router.snapshot(now);
        assert_eq!(snapshot.backends[1].mode, Mode::Maintain);
        assert_eq!(snapshot.backends[0].mode, Mode::Ready);
        config.rules.limits.modes.clear();
        reconfigure(&mut router, now, &config);
        assert_eq!(router.snapshot(now).backends[1].health, Health::Unknown);
        assert_eq!(answer_pings(&mut router, now), [1], "{policy:?}");
        assert_eq!(router.snapshot(now).backends[1].health, Health::Up);
    }
}

/// A backend that is back in service gets slow start where the router ejects. Although it has no
/// request in flight, it does not get all of the next requests.
#[test]
fn a_backend_comes_back_slowly() {
    let (mut router, mut config) = router(PolicyKind::LeastRequest, 2);
    let now = Instant::from_millis(10);
    config.rules.limits.modes.insert("b1".to_owned(), Mode::Drain);
    reconfigure(&mut router, now, &config);
    let mut leases: Vec<_> = (0..100).map(|_| router.route(now, &[]).expect("one")).collect();
    config.rules.limits.modes.clear();
    reconfigure(&mut router, now, &config);
    leases.extend((0..50).map(|_| router.route(now, &[]).expect("one of two")));
    let [_, back] = in_flight(&router, now)[..] else { panic!("two backends") };
    assert!((1..50).contains(&back), "{back} of 50 requests went there");
}

/// Requests in flight are proportional to the weights under `least_request` and `p2c`. Weight 0
/// gets none.
#[test]
fn weights_share_the_requests() {
    for policy in [PolicyKind::LeastRequest, PolicyKind::P2c] {
        let (mut router, mut config) = router(policy, 3);
        let now = Instant::from_millis(10);
        config.rules.limits.weights =
            [("b0".to_owned(), 200), ("b1".to_owned(), 100), ("b2".to_owned(), 0)].into();
        reconfigure(&mut router, now, &config);
        let leases: Vec<_> = (0..300).map(|_| router.route(now, &[]).expect("one")).collect();
        let counts = in_flight(&router, now);
        assert_eq!(counts, [200, 100, 0], "{policy:?}");
        assert_eq!(router.snapshot(now).backends[0].weight, 200);
        drop(leases);
    }
}

/// `learned` starts with the weights: of 300 requests before any completion the backend with four
/// times the weight gets over 50 more than the other. With equal weights both get about as many.
#[test]
fn the_learner_starts_with_the_weights() {
    let counts = |weight: u32| {
        let (mut router, mut config) = router(PolicyKind::Learned, 2);
        let now = Instant::from_millis(10);
        config.rules.limits.weights = [("b0".to_owned(), weight)].into();
        reconfigure(&mut router, now, &config);
        let leases: Vec<_> = (0..300).map(|_| router.route(now, &[]).expect("one")).collect();
        drop(leases);
        let counts = in_flight(&router, now);
        (counts[0], counts[1])
    };
    let (heavy, light) = counts(400);
    assert!(heavy > light + 50, "{heavy} and {light}");
    let (one, other) = counts(BackendLimits::WEIGHT_USUAL);
    assert!(one.abs_diff(other) < 50, "{one} and {other}");
}

/// A configuration sets another weight and the policy `learned`. The learner starts with that
/// weight, not with the previous one.
#[test]
fn a_new_learner_starts_with_the_new_weights() {
    let (mut router, mut config) = router(PolicyKind::Score, 2);
    let now = Instant::from_millis(10);
    config.rules.limits.weights = [("b0".to_owned(), 25)].into();
    reconfigure(&mut router, now, &config);
    config.rules.limits.weights = [("b0".to_owned(), 400)].into();
    config.rules.policy = PolicyKind::Learned;
    reconfigure(&mut router, now, &config);
    let leases: Vec<_> = (0..300).map(|_| router.route(now, &[]).expect("one")).collect();
    drop(leases);
    let counts = in_flight(&router, now);
    assert!(counts[0] > counts[1] + 50, "{counts:?}");
}

/// A weight above the maximum is refused, and the error names the backend.
#[test]
fn weights_have_a_range() {
    let (_, mut config) = router(PolicyKind::Score, 1);
    for (weight, is_good) in [(0, true), (1000, true), (1001, false)] {
        config.rules.limits.weights.insert("b0".to_owned(), weight);
        assert_eq!(config.validate().is_ok(), is_good, "{weight}");
    }
    let error = config.validate().expect_err("too high").to_string();
    assert_eq!(error, "backends.b0.weight: must be a whole number from 0 to 1000");
}
