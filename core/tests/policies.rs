//! Properties of every policy under any list of events, stated without a model of the decisions.
use std::time::Duration;

use intelliproxy_core::{
    Action, AffinityBy, AffinityKey, AffinityRules, Asker, BackendId, BackendSnapshot, Event,
    Health, Instant, LearnedStanding, Lease, LoadReport, Outcome, PolicyKind, PolicyView,
    ProbeAnswer, ProbeFailure, ProbeKind, RequestFailure, Router, RouterConfig, Rules,
    StandingView,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

#[derive(Clone, Debug)]
enum Step {
    Wait { ms: u64, are_pings_good: bool },
    Route { tried: u8 },
    Finish { which: usize, outcome: Outcome },
    Stream { which: usize },
    Pause { which: usize, is_over: bool },
    Report { which: u32, report: LoadReport },
    Configure { count: usize, policy: PolicyKind, slack: Option<f64> },
}

fn any_slack() -> impl Strategy<Value = Option<f64>> {
    prop_oneof![Just(None), Just(Some(0.0)), (1.0..3.0).prop_map(Some)]
}

fn any_step() -> impl Strategy<Value = Step> {
    let outcome = prop_oneof![
        8 => (0_u64..3000).prop_map(|ms| (200, ms)).prop_map(answered),
        3 => (0_u64..300).prop_map(|ms| (503, ms)).prop_map(answered),
        3 => (0_u64..300).prop_map(|ms| (500, ms)).prop_map(answered),
        1 => proptest::option::of(0_u64..9000).prop_map(|ms| {
            Outcome::Refused { status: 429, hold: ms.map(Duration::from_millis) }
        }),
        2 => select(vec![
            RequestFailure::Refused, RequestFailure::Cut, RequestFailure::TimedOut,
        ]).prop_map(Outcome::Failed),
        1 => Just(Outcome::Abandoned),
    ];
    let number = || proptest::option::of(prop_oneof![0.0..100.0, any::<f64>()]);
    let report = (number(), number(), number(), number(), number()).prop_map(
        |(queue, running, pressure, cpu_busy_ms, memory_bytes)| LoadReport {
            queue,
            running,
            pressure,
            cpu_busy_ms,
            memory_bytes,
            agent: None,
        },
    );
    prop_oneof![
        4 => (0_u64..400, any::<bool>())
            .prop_map(|(ms, are_pings_good)| Step::Wait { ms, are_pings_good }),
        1 => (0_u64..20_000).prop_map(|ms| Step::Wait { ms, are_pings_good: true }),
        20 => Just(Step::Route { tried: 0 }),
        2 => any::<u8>().prop_map(|tried| Step::Route { tried }),
        14 => (any::<usize>(), outcome).prop_map(|(which, outcome)| Step::Finish { which, outcome }),
        1 => any::<usize>().prop_map(|which| Step::Stream { which }),
        2 => (any::<usize>(), any::<bool>())
            .prop_map(|(which, is_over)| Step::Pause { which, is_over }),
        2 => (0_u32..5, report).prop_map(|(which, report)| Step::Report { which, report }),
        1 => (0_usize..6, select(PolicyKind::ALL.to_vec()), any_slack())
            .prop_map(|(count, policy, slack)| Step::Configure { count, policy, slack }),
    ]
}

fn answered((status, ms): (u16, u64)) -> Outcome {
    Outcome::Answered { status, latency: Duration::from_millis(ms) }
}

/// `slack` is `None` for a configuration without affinity.
fn config(count: usize, policy: PolicyKind, slack: Option<f64>) -> RouterConfig {
    let backends = (0..count).map(|slot| format!("b{slot}")).collect();
    let by = slack.map(|_| AffinityBy::ClientAddress);
    let affinity = AffinityRules { by, name: None, slack };
    let mut rules = Rules { policy, affinity, ..Rules::default() };
    rules.learned.control_share = 0.1;
    // Small limits, so that `b1` and `b2` are often full.
    rules.limits.own = [("b1".to_owned(), 1), ("b2".to_owned(), 3)].into();
    RouterConfig { backends, rules }
}

/// Runs the steps, checks every decision, and returns everything visible.
fn run(policy: PolicyKind, slack: Option<f64>, steps: &[Step]) -> String {
    let mut now = Instant::from_millis(5);
    let mut router = Router::new(config(4, policy, slack), 3, now).expect("valid rules");
    let mut leases: Vec<Lease> = Vec::new();
    let mut trace = String::new();
    for step in steps {
        match step {
            Step::Wait { ms, are_pings_good } => {
                now += Duration::from_millis(*ms);
                mind(&mut router, now, *are_pings_good);
            }
            Step::Route { tried } => {
                let tried: Vec<_> =
                    (0..8).filter(|bit| tried >> bit & 1 == 1).map(BackendId::from_index).collect();
                let before = router.snapshot(now);
                let out = leases.len() as u8;
                let asker = Asker { client: out % 3, target: out % 2 };
                let is_in = |b: &BackendSnapshot| {
                    matches!(b.standing, StandingView::In | StandingView::SlowStart { .. })
                };
                let is_full = |b: &BackendSnapshot| {
                    b.name == "b1" && b.in_flight >= 1 || b.name == "b2" && b.in_flight >= 3
                };
                let waits = before.backends.iter().any(|b| {
                    is_full(b) && !tried.contains(&b.id) && b.health != Health::Down && is_in(b)
                });
                let owner =
                    out.is_multiple_of(3).then(|| BackendId::from_index(u32::from(out % 5)));
                let key = AffinityKey { owner, ..AffinityKey::of(&[out % 8]) };
                let key = Some(key).filter(|_| router.rules().affinity.by.is_some());
                let Ok(lease) = router.route_keyed(now, &tried, asker, key) else {
                    let is_left = before.backends.iter().any(|b| {
                        !tried.contains(&b.id)
                            && !is_full(b)
                            && (b.health != Health::Down || !waits)
                    });
                    assert!(!is_left, "a backend that was not tried is always found");
                    continue;
                };
                trace.push_str(&format!("{:?} ", lease.backend()));
                assert!(!tried.contains(&lease.backend()), "a retry goes elsewhere");
                let chosen = before.backends.iter().find(|b| b.id == lease.backend());
                let chosen = chosen.expect("a configured backend");
                assert!(!is_full(chosen), "never more in flight than there may be");
                assert!(
                    !waits || chosen.health != Health::Down,
                    "never a down backend while another one is only full"
                );
                let quarantined = |view: &PolicyView| {
                    matches!(view, PolicyView::Learned(view)
                        if matches!(view.state, LearnedStanding::Quarantined { .. }))
                };
                for other in before
                    .backends
                    .iter()
                    .filter(|other| !tried.contains(&other.id) && !is_full(other))
                {
                    let is_up = other.health != Health::Down;
                    assert!(
                        !is_up || !is_in(other) || other.held.is_some() || chosen.held.is_none(),
                        "never a held backend while a free one is left"
                    );
                    let is_usable = is_up && other.held.is_none();
                    assert!(
                        !is_usable || chosen.health != Health::Down,
                        "never a down backend while a usable one is left"
                    );
                    assert!(
                        !is_usable || quarantined(&other.policy) || !quarantined(&chosen.policy),
                        "never a quarantined backend while another is left"
                    );
                }
                leases.push(lease);
            }
            Step::Finish { which, outcome } if !leases.is_empty() => {
                let lease = leases.swap_remove(which % leases.len());
                router.handle_event(now, Event::RequestFinished { lease, outcome: *outcome });
            }
            Step::Stream { which } if !leases.is_empty() => {
                let lease = &leases[which % leases.len()];
                let (id, backend) = (lease.id(), lease.backend());
                let latency = Duration::from_millis(1);
                let event = Event::StreamOpened { lease: id, backend, status: 200, latency };
                router.handle_event(now, event);
            }
            Step::Pause { which, is_over } if !leases.is_empty() => {
                let lease = &leases[which % leases.len()];
                let (lease, backend) = (lease.id(), lease.backend());
                let event = if *is_over {
                    Event::LeaseResumed { lease, backend }
                } else {
                    Event::LeasePaused { lease, backend }
                };
                router.handle_event(now, event);
            }
            Step::Finish { .. } | Step::Stream { .. } | Step::Pause { .. } => {}
            Step::Report { which, report } => {
                let backend = BackendId::from_index(*which);
                router.handle_event(now, Event::LoadReported { backend, report: *report });
            }
            Step::Configure { count, policy, slack } => {
                let event = Event::Reconfigured(Box::new(config(*count, *policy, *slack)));
                router.handle_event(now, event);
            }
        }
        let snapshot = router.snapshot(now);
        for backend in &snapshot.backends {
            check_finite(&backend.policy);
        }
        if let Some(state) = router.policy_state() {
            let other = Router::new(config(4, snapshot.policy, None), 3, now);
            let restored = other.expect("valid rules").restore(&state);
            assert_eq!(restored, Ok(()), "what was learned can be restored");
        }
    }
    trace + &format!("{:?} {:?}", router.snapshot(now), router.policy_state())
}

fn mind(router: &mut Router, now: Instant, are_pings_good: bool) {
    router.handle_timeout(now);
    while let Some(action) = router.poll_action() {
        let Action::StartProbe { probe, kind: ProbeKind::Ping, .. } = action else { continue };
        let answer = ProbeAnswer { latency: Duration::from_millis(2), report: None };
        let result = if are_pings_good { Ok(answer) } else { Err(ProbeFailure::TimedOut) };
        router.handle_event(now, Event::ProbeFinished { probe, result });
    }
}

fn check_finite(view: &PolicyView) {
    let text = format!("{view:?}");
    assert!(!text.contains("NaN") && !text.contains("inf,"), "{text}");
    if let PolicyView::Learned(view) = view {
        assert!(view.cost_ms >= 0.0 && view.speed > 0.0, "{view:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// Every decision of every policy follows the rules, with and without affinity. All views are
    /// finite, and the same events give the same bits.
    #[test]
    fn every_policy_keeps_the_rules(
        policy in select(PolicyKind::ALL.to_vec()),
        slack in any_slack(),
        steps in vec(any_step(), 0..200),
    ) {
        prop_assert_eq!(run(policy, slack, &steps), run(policy, slack, &steps));
    }

    /// One backend reports that it is idle, the others report anything; all respond alike. The idle
    /// one gets less than nine tenths of the requests, whether the reports come once or repeatedly.
    /// (`score` sends all requests to one backend by its rule; its reports are bounded by their
    /// points.)
    #[test]
    fn reports_cannot_take_everything(
        policy in select(PolicyKind::ALL[1..].to_vec()),
        queue in prop_oneof![0.0..1e3, any::<f64>()],
        is_stale in any::<bool>(),
    ) {
        let mut now = Instant::from_millis(5);
        let mut router = Router::new(config(4, policy, None), 3, now).expect("valid rules");
        let liar = router.backend("b0").expect("configured");
        let mut out: std::collections::VecDeque<Lease> = std::collections::VecDeque::new();
        let mut liars = 0;
        for number in 0..800 {
            now += Duration::from_millis(1);
            if number == 0 || (!is_stale && number % 50 == 0) {
                for slot in 0..4 {
                    let backend = BackendId::from_index(slot);
                    let load = if backend == liar { 0.0 } else { queue };
                    let report = LoadReport {
                        queue: Some(load), cpu_busy_ms: Some(load), memory_bytes: Some(load),
                        ..LoadReport::default()
                    };
                    router.handle_event(now, Event::LoadReported { backend, report });
                }
            }
            let lease = router.route(now, &[]).expect("a backend");
            liars += usize::from(lease.backend() == liar);
            out.push_back(lease);
            if out.len() > 60 {
                let lease = out.pop_front().expect("there are many");
                let outcome = answered((200, 60));
                router.handle_event(now, Event::RequestFinished { lease, outcome });
            }
        }
        prop_assert!(liars < 720, "{:?}: {} of 800", policy, liars);
    }
}
