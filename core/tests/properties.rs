//! Properties of the policy `score` under any list of events: the router agrees with an oracle
//! model, and the most important properties are stated without the model.
mod model;
mod world;

use std::time::Duration;

use intelliproxy_core::{
    Action, Event, Instant, LoadReport, Outcome, ProbeAnswer, ProbeFailure, RequestFailure, Router,
    Rules,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree;

use model::Answer;
use world::{Aside, Step, config, run};

/// This many of proptest's usual 256 cases. `PROPTEST_CASES` scales all of them for a wider sweep.
fn cases(of_256: u32) -> ProptestConfig {
    let usual = ProptestConfig::default();
    ProptestConfig { cases: (usual.cases * of_256).div_ceil(256), ..usual }
}

fn any_number() -> impl Strategy<Value = f64> {
    prop_oneof![
        6 => 0.0..200.0,
        1 => select(vec![f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX, -1.0, -0.0, 1e-310]),
        1 => any::<f64>(),
    ]
}

fn any_report() -> impl Strategy<Value = LoadReport> {
    let number = || proptest::option::weighted(0.8, any_number());
    (number(), number(), number()).prop_map(|(queue, cpu_busy_ms, memory)| LoadReport {
        queue,
        cpu_busy_ms,
        memory_bytes: memory.map(|number| number * 1e6),
        ..LoadReport::default()
    })
}

fn any_wild_report() -> impl Strategy<Value = LoadReport> {
    let number = || proptest::option::weighted(0.9, any::<f64>());
    (number(), number(), number()).prop_map(|(queue, cpu_busy_ms, memory_bytes)| LoadReport {
        queue,
        cpu_busy_ms,
        memory_bytes,
        ..LoadReport::default()
    })
}

fn any_result() -> impl Strategy<Value = Result<Answer, ProbeFailure>> {
    let answer =
        (prop_oneof![0_u64..150, Just(u64::MAX >> 20)], proptest::option::of(any_report()));
    let answer = answer.prop_map(|(ms, report)| Ok(Answer { ms, report }));
    let failure = select(vec![
        ProbeFailure::Refused,
        ProbeFailure::Unreachable,
        ProbeFailure::TimedOut,
        ProbeFailure::Cut,
        ProbeFailure::Malformed,
        ProbeFailure::Status(500),
        ProbeFailure::Abandoned,
    ]);
    prop_oneof![5 => answer, 2 => failure.prop_map(Err)]
}

fn any_outcome() -> impl Strategy<Value = Outcome> {
    let answered =
        |status| move |ms| Outcome::Answered { status, latency: Duration::from_millis(ms) };
    let refused = |ms| Outcome::Refused { status: 429, hold: Some(Duration::from_millis(ms)) };
    let failure = select(vec![
        RequestFailure::Refused,
        RequestFailure::Unreachable,
        RequestFailure::Cut,
        RequestFailure::TimedOut,
        RequestFailure::Malformed,
        RequestFailure::Truncated,
    ]);
    prop_oneof![
        12 => (0_u64..3000).prop_map(answered(200)),
        2 => (0_u64..3000).prop_map(answered(500)),
        2 => (0_u64..3000).prop_map(answered(503)),
        1 => (1_u64..9000).prop_map(refused),
        1 => failure.prop_map(Outcome::Failed),
        1 => Just(Outcome::Abandoned),
    ]
}

/// Rules with constant half-life, alpha, health and probes during a run, because the model sums
/// over whole histories. The rules of switches and the weight of requests in flight vary from step
/// to step.
fn any_rules() -> impl Strategy<Value = Rules> {
    let switch =
        (select(vec![0.0, 1.0, 30.0, 30.0, 200.0]), select(vec![0, 200, 1500]), any::<bool>());
    let in_flight = select(vec![0.0, 2.0, 2.0, 10.0, 0.7]);
    (switch, in_flight).prop_map(|((threshold, cooldown, spill_over), in_flight)| {
        let mut rules = Rules::default();
        rules.switch.threshold = threshold;
        rules.switch.cooldown = Duration::from_millis(cooldown);
        rules.switch.spill_over = spill_over;
        rules.weights.in_flight = in_flight;
        rules.probes.ping_interval = Duration::from_millis(1200);
        rules.probes.report_interval = Duration::from_millis(900);
        // The model knows no ejection; other tests cover it.
        rules.errors.eject = false;
        rules
    })
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0_u64..700).prop_map(|ms| Step::Wait { ms }),
        1 => (0_u64..12_000).prop_map(|ms| Step::Wait { ms }),
        1 => (0_u64..3000).prop_map(|ms| Step::Sleep { ms }),
        20 => Just(Step::Route),
        2 => any::<u8>().prop_map(|tried| Step::Retry { tried }),
        8 => (any::<usize>(), any_outcome()).prop_map(|(which, outcome)| Step::Finish { which, outcome }),
        1 => (1_usize..6).prop_map(|requests| Step::Outage { requests }),
        2 => (any::<usize>(), select(vec![Aside::Paused, Aside::Resumed, Aside::Stream]))
            .prop_map(|(which, to)| Step::SetAside { which, to }),
        12 => (any::<usize>(), any_result()).prop_map(|(which, result)| Step::EndProbe { which, result }),
        1 => any_noise(),
        2 => (any::<usize>(), any_report()).prop_map(|(which, report)| Step::Load { which, report }),
        2 => (any::<u8>(), any_rules())
            .prop_map(|(names, rules)| Step::Configure { names, rules: Box::new(rules) }),
    ]
}

fn any_noise() -> impl Strategy<Value = Step> {
    (any::<u64>(), any_result()).prop_map(|(which, result)| Step::Noise { which, result })
}

proptest! {
    #![proptest_config(cases(256))]

    /// The router decides, counts and averages like the oracle at every step of any list.
    #[test]
    fn agrees_with_the_oracle(rules in any_rules(), steps in vec(any_step(), 0..150)) {
        run(&rules, &steps);
    }
}

proptest! {
    #![proptest_config(cases(100))]

    /// The same list of events gives the same decisions, actions and final snapshot, bit for bit.
    #[test]
    fn the_same_events_give_the_same_decisions(
        rules in any_rules(),
        steps in vec(any_step(), 0..100),
    ) {
        let (first, second) = (run(&rules, &steps), run(&rules, &steps));
        prop_assert_eq!(format!("{:?}", first), format!("{:?}", second));
    }

    /// Late, duplicate and unknown probe results in any number and order change only their own
    /// counter.
    #[test]
    fn noise_is_harmless(
        rules in any_rules(),
        steps in vec((any_step(), vec(any_noise(), 0..3)), 0..80),
    ) {
        let calm = |step: &Step| !matches!(step, Step::Noise { .. });
        let quiet: Vec<_> = steps.iter().map(|(step, _)| step.clone()).filter(calm).collect();
        let noisy: Vec<_> = steps
            .iter()
            .filter(|(step, _)| calm(step))
            .flat_map(|(step, noise)| std::iter::once(step.clone()).chain(noise.clone()))
            .collect();
        let (quiet, mut quiet_end) = run(&rules, &quiet);
        let (noisy, noisy_end) = run(&rules, &noisy);
        prop_assert_eq!(quiet, noisy);
        prop_assert!(quiet_end.late_probes <= noisy_end.late_probes);
        quiet_end.late_probes = noisy_end.late_probes;
        prop_assert_eq!(format!("{:?}", quiet_end), format!("{:?}", noisy_end));
    }
}

proptest! {
    /// For any latencies, reports and weights, scores are finite and sum up.
    #[test]
    fn scores_are_finite_for_any_input(
        weights in vec(prop_oneof![Just(0.0), Just(-0.0), Just(1e6), 0.0..1e6], 7),
        pings in vec((any::<u64>(), any::<bool>()), 0..8),
        reports in vec(any_wild_report(), 0..8),
    ) {
        let mut rules = Rules::default();
        let w = &mut rules.weights;
        let slots = [&mut w.latency, &mut w.loss, &mut w.errors, &mut w.in_flight, &mut w.queue,
            &mut w.cpu, &mut w.memory];
        slots.into_iter().zip(weights).for_each(|(slot, weight)| *slot = weight);
        let mut now = Instant::ZERO;
        let mut router = Router::new(config(&["a"], rules), 1, now).expect("weights in range");
        let a = router.backend("a").expect("it is configured");
        for (seconds, is_good) in pings {
            now = now.max(router.poll_timeout().expect("a backend is always to be probed"));
            router.handle_timeout(now);
            while let Some(action) = router.poll_action() {
                let Action::StartProbe { probe, .. } = action else { continue };
                let answer = ProbeAnswer { latency: Duration::from_secs(seconds), report: None };
                let result = if is_good { Ok(answer) } else { Err(ProbeFailure::Cut) };
                router.handle_event(now, Event::ProbeFinished { probe, result });
            }
        }
        for report in reports {
            router.handle_event(now, Event::LoadReported { backend: a, report });
        }
        let lease = router.route(now, &[]).expect("a backend");
        let outcome = Outcome::Failed(RequestFailure::Cut);
        router.handle_event(Instant::FAR_FUTURE, Event::RequestFinished { lease, outcome });
        router.handle_timeout(Instant::FAR_FUTURE);
        let score = router.snapshot(now).backends[0].score;
        prop_assert!(score.parts().iter().all(|(_, points)| points.is_finite() && *points >= 0.0));
        let mut sum = 0.0;
        score.parts().iter().for_each(|(_, points)| sum += points);
        prop_assert_eq!(score.total, sum);
    }
}

/// The generated runs reach every kind of decision at least ten times, and `LoadAlone` three times.
#[test]
fn every_kind_of_decision_is_reached() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let strategy = (any_rules(), vec(any_step(), 100));
    let mut text = String::new();
    let mut spills = 0;
    for _ in 0..90 {
        let tree = strategy.new_tree(&mut runner).expect("rules and steps");
        let (rules, steps) = tree.current();
        let (trace, end) = run(&rules, &steps);
        text.push_str(&trace.concat());
        spills += end.spills;
    }
    for kind in [
        "Keep(",
        "reason: LoadAlone",
        "reason: Cooldown",
        "reason: BelowThreshold",
        "Better",
        "First",
        "Failover",
        "Aside(",
        "AllTried",
        "NoBackends",
        "backend: BackendId { slot: 0, generation: 1 }",
        "is_up: true",
        "is_up: false",
    ] {
        let count = text.matches(kind).count();
        let least = if kind == "reason: LoadAlone" { 3 } else { 10 };
        assert!(count >= least, "{kind} was reached {count} times only");
    }
    assert!(spills >= 10, "{spills} spills only");
}
