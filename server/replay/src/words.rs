//! Texts for a policy's view of a backend, for the state of its guard, and for differing decisions.
use intelliproxy_core::journal::{Admission, Step};
use intelliproxy_core::{
    BackendId, GuardView, LearnedStanding, LearnedView, LeastRequestView, LinearRlView, NoRoute,
    P2cView, PeakEwmaView, PolicyView, PrequalView, ProbeKind, RoundRobinView, ScoreView,
};

use super::text::span;

/// Describes a policy's reason for or against a backend.
pub(crate) fn reason(view: &PolicyView) -> String {
    let ms =
        |ms: &Option<f64>| ms.map_or_else(|| "not known".to_owned(), |ms| format!("{ms:.3} ms"));
    match view {
        PolicyView::Score(ScoreView { points, full_at, spills }) => {
            let full =
                full_at.map_or_else(String::new, |full| format!(", full at {full} in flight"));
            format!("{points:.3} points{full}, {spills} requests spilled over to it")
        }
        PolicyView::LeastRequest(LeastRequestView { in_flight })
        | PolicyView::P2c(P2cView { in_flight }) => {
            format!("{in_flight} in flight")
        }
        PolicyView::PeakEwma(PeakEwmaView { cost_ms, load }) => {
            format!("peak latency {}, load {load:.3}", ms(cost_ms))
        }
        PolicyView::Prequal(PrequalView { probes, in_flight, latency_ms, is_hot }) => {
            let heat = if *is_hot { "hot" } else { "cold" };
            let latency = ms(latency_ms);
            format!("{heat}, {probes} probes, {in_flight:.1} in flight, latency {latency}")
        }
        PolicyView::LinearRl(LinearRlView { value, features, weights }) => {
            let terms = features.iter().zip(weights).zip(LINEAR_RL_FEATURES);
            let terms = terms.map(|((feature, weight), name)| {
                format!("{name} {:.3} ({feature:.3} at weight {weight:.3})", feature * weight)
            });
            format!("value {value:.3} = {}", terms.collect::<Vec<_>>().join(" + "))
        }
        PolicyView::Learned(view) => learned(view),
        PolicyView::RoundRobin(RoundRobinView { was_last: true }) => {
            "the last request went here".to_owned()
        }
        PolicyView::RoundRobin(RoundRobinView { was_last: false }) => {
            "waits for its turn".to_owned()
        }
        _ => "no reason: chosen at random".to_owned(),
    }
}

fn learned(view: &LearnedView) -> String {
    let state = match view.state {
        LearnedStanding::Normal => "as the model says".to_owned(),
        LearnedStanding::Stalled => "stalled, not used until a request ends".to_owned(),
        LearnedStanding::Quarantined { left } => {
            format!("quarantined for errors, {} left", span(left))
        }
        LearnedStanding::Probation { good, needed } => {
            format!("on probation, {good} of {needed} good responses")
        }
        LearnedStanding::SlowStart { window } => format!("slow start, at most {window} in flight"),
    };
    let cap = view.cap.map_or_else(String::new, |cap| format!(", refuses at {cap:.1} in flight"));
    let errors = format!(
        "{:.2} % errors, {:.2} % above the pool's",
        100.0 * view.error_share,
        100.0 * view.error_excess
    );
    format!(
        "cost {:.3} ms, latency {:.3} ms, speed {:.3} of {} completions, {} in flight, \
         {errors}{cap}; {state}",
        view.cost_ms, view.latency_ms, view.speed, view.memory, view.in_flight
    )
}

/// Describes the state of the guard over the policy `learned`.
pub(crate) fn guard(view: &GuardView) -> String {
    let who = if view.is_learner_in_charge { "learned" } else { "least_request" };
    let returns = view
        .returns_in
        .map_or_else(String::new, |left| format!(", learned returns in {}", span(left)));
    let ratio = view.ratio.map_or_else(
        || "its cost is not known".to_owned(),
        |ratio| format!("it costs {ratio:.3} times what least_request does"),
    );
    let interval = view
        .interval
        .map_or_else(String::new, |(low, high)| format!(" (95 % interval {low:.3} to {high:.3})"));
    format!(
        "{who} decides{returns}; {} demotions, {} controls, {ratio}{interval}, alarm {:.3} of 1",
        view.demotions, view.controls, view.alarm
    )
}

/// Describes how a decision or probe differs from the recorded one; `name` names a backend.
pub(crate) fn difference<'a>(step: &Step, name: impl Fn(BackendId) -> Option<&'a str>) -> String {
    let name = |id| name(id).unwrap_or("(unknown)");
    let route = |route: &Result<Admission, NoRoute>| match route {
        Ok(to) => format!("request {} to {}", to.lease.as_u64(), name(to.backend)),
        Err(NoRoute::NoBackends) => "no route: no backend is in service".to_owned(),
        Err(NoRoute::Full) => "no route: every backend was full".to_owned(),
        Err(NoRoute::AllTried) => "no route: every backend had been tried".to_owned(),
    };
    let probe = |(probe, backend, kind): (intelliproxy_core::ProbeId, BackendId, ProbeKind)| {
        let kind = match kind {
            ProbeKind::Ping => "ping",
            ProbeKind::Report => "report",
        };
        format!("{kind} {} of {}", probe.as_u64(), name(backend))
    };
    match step {
        Step::OtherRoute { recorded, replayed } => {
            format!("recorded {}, replayed {}", route(recorded), route(replayed))
        }
        Step::OtherProbe { recorded, replayed } => {
            let replayed = replayed.map_or_else(|| "none".to_owned(), probe);
            format!("recorded {}, replayed {replayed}", probe(*recorded))
        }
        Step::Same | Step::Fact | Step::Unknown => "nothing to compare".to_owned(),
    }
}

/// The features of `linear_rl`, in its order.
const LINEAR_RL_FEATURES: [&str; 8] =
    ["latency", "loss", "errors", "in flight", "queue", "CPU", "memory", "constant"];

#[cfg(test)]
mod tests {
    use intelliproxy_core::ProbeId;

    use super::*;

    /// The text of a difference has both sides, with the names of their backends.
    #[test]
    fn differences_are_described() {
        let a = BackendId::from_index(0);
        let name = |id: BackendId| (id == a).then_some("A");
        let ping = (ProbeId::from_u64(7), a, ProbeKind::Ping);
        let other = (ProbeId::from_u64(8), BackendId::from_index(1), ProbeKind::Report);
        let rows = [
            (
                Step::OtherProbe { recorded: ping, replayed: Some(other) },
                "recorded ping 7 of A, replayed report 8 of (unknown)",
            ),
            (
                Step::OtherProbe { recorded: ping, replayed: None },
                "recorded ping 7 of A, replayed none",
            ),
            (
                Step::OtherRoute {
                    recorded: Err(NoRoute::NoBackends),
                    replayed: Err(NoRoute::AllTried),
                },
                "recorded no route: no backend is in service, replayed no route: every backend had \
                 been tried",
            ),
        ];
        for (step, expected) in rows {
            assert_eq!(difference(&step, name), expected);
        }
    }
}
