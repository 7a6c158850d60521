//! Reports of an agent: weight and service.
use super::*;
use crate::config::{BackendLimits, CheckRules, Mode};
use crate::event::AgentState;

fn rules(has_agent: bool) -> Rules {
    let checks = CheckRules { has_agent, ..CheckRules::default() };
    let limits = BackendLimits {
        checks: ["a", "b"].map(|name| (name.to_owned(), checks)).into(),
        weights: [("a".to_owned(), 200)].into(),
        ..BackendLimits::default()
    };
    Rules { limits, policy: PolicyKind::LeastRequest, ..Rules::default() }
}

fn say(world: &mut World, agent: AgentState) -> (Mode, u32) {
    let report = LoadReport { agent: Some(agent), ..LoadReport::default() };
    world.tell(Event::LoadReported { backend: A, report });
    let backend = &world.snapshot().backends[0];
    (backend.mode, backend.weight)
}

/// A percentage applies to the configured weight. Out and down are independent; while either holds
/// the backend gets no request. Without an agent, its reports are ignored and forgotten.
#[test]
fn words_set_weight_and_service() {
    let none = AgentState::default();
    let mut world = World::with_rules(&["a", "b"], rules(true));
    assert_eq!(say(&mut world, AgentState { percent: Some(75), ..none }), (Mode::Ready, 150));
    assert_eq!(say(&mut world, AgentState { percent: Some(1), ..none }), (Mode::Ready, 2));
    assert_eq!(say(&mut world, AgentState { is_out: Some(true), ..none }), (Mode::Drain, 2));
    assert_eq!(say(&mut world, AgentState { is_down: Some(true), ..none }), (Mode::Drain, 2));
    assert_eq!(world.serve(), B);
    assert_eq!(say(&mut world, AgentState { is_out: Some(false), ..none }), (Mode::Drain, 2));
    assert_eq!(say(&mut world, AgentState { is_down: Some(false), ..none }), (Mode::Ready, 2));
    assert_eq!(say(&mut world, AgentState { percent: Some(0), ..none }), (Mode::Ready, 0));
    assert_eq!(say(&mut world, AgentState { percent: Some(999), ..none }), (Mode::Ready, 1000));
    world.reconfigure(&["a", "b"], rules(false));
    assert_eq!(say(&mut world, AgentState { is_out: Some(true), ..none }), (Mode::Ready, 200));
}

/// If reports are off, no report probe starts. A backend with its own interval is polled at that
/// interval.
#[test]
fn reports_have_their_own_rules() {
    let off = CheckRules { is_report_off: true, ..CheckRules::default() };
    let often = CheckRules { report_interval_ms: Some(100), ..CheckRules::default() };
    let checks = [("a".to_owned(), off), ("b".to_owned(), often)].into();
    let limits = BackendLimits { checks, ..BackendLimits::default() };
    let mut world = World::with_rules(&["a", "b"], Rules { limits, ..Rules::default() });
    let mut reports = [0, 0];
    for _ in 0..100 {
        for (probe, backend, kind) in std::mem::take(&mut world.asked) {
            reports[backend.index()] += u32::from(kind == ProbeKind::Report);
            let answer = ProbeAnswer { latency: Duration::from_millis(1), report: None };
            world.tell(Event::ProbeFinished { probe, result: Ok(answer) });
        }
        world.advance(50);
    }
    assert_eq!(reports[0], 0);
    assert!((45..=55).contains(&reports[1]), "{reports:?}");
}
