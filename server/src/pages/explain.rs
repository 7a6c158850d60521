//! Decisions as the JSON of /explain.
//!
//! The list names each decision's backend and rule, the newest one first. A single decision also
//! has its candidates, as they were before it, and the changes that would have led to another
//! backend.
use std::borrow::Cow;
use std::cmp::Ordering;

use intelliproxy_core::sorting::sort_by;
use intelliproxy_core::{
    BackendId, BackendSnapshot, Health, HoldReason, Instant, NoRoute, PolicyKind, PolicyView,
    RouteReason, StandingView, SwitchReason,
};
use serde::Serialize;

use super::stats::{BackendStats, Decimal, millis};

/// A decision, and the state of the router before it.
#[derive(Clone, Debug)]
pub(crate) struct Decision {
    pub(crate) at: Instant,
    /// The number of the request, as in a recording; `None` if no backend was found.
    pub(crate) number: Option<u64>,
    /// The id of the request, as in the access log; `None` if requests get no ids.
    pub(crate) request_id: Option<Vec<u8>>,
    pub(crate) policy: PolicyKind,
    pub(crate) chosen: Option<(BackendId, String)>,
    pub(crate) failure: Option<NoRoute>,
    pub(crate) reason: Option<RouteReason>,
    /// Backends that had failed or refused the request before.
    pub(crate) tried: Vec<String>,
    /// The current backend before the decision.
    pub(crate) current: Option<String>,
    /// The reason of the switch that this decision made.
    pub(crate) switch: Option<SwitchReason>,
    /// The better backend that was not chosen, and the reason.
    pub(crate) hold: Option<(String, HoldReason)>,
    /// `routing.switch.threshold`, points.
    pub(crate) threshold: f64,
    pub(crate) candidates: Candidates,
}

/// Backends before a decision.
#[derive(Clone, Debug, Default)]
pub(crate) struct Candidates {
    /// Empty if they were not copied.
    pub(crate) rows: Vec<BackendSnapshot>,
    /// The number of configured backends.
    pub(crate) of: usize,
}

impl Candidates {
    /// Keeps `most` candidates: those of `always`, then those with the lowest scores.
    pub(crate) fn shorten(&mut self, most: usize, always: [Option<BackendId>; 2]) {
        if self.rows.len() > most {
            let is_kept = |row: &BackendSnapshot| always.contains(&Some(row.id));
            sort_by(&mut self.rows, |one, other| {
                let by_score = one.score.total.total_cmp(&other.score.total);
                is_kept(other).cmp(&is_kept(one)).then(by_score)
            });
            self.rows.truncate(most);
            self.rows.shrink_to_fit();
        }
    }
}

impl Decision {
    /// Whether this is the decision for the request with this number.
    pub(crate) fn has_number(&self, request: &str) -> bool {
        self.number.is_some_and(|number| request.parse() == Ok(number))
    }

    /// Whether this is a decision for the request with this id.
    pub(crate) fn has_id(&self, request: &str) -> bool {
        self.request_id.as_deref() == Some(request.as_bytes())
    }

    /// Returns the rule in words.
    fn why(&self) -> String {
        let Some((_, chosen)) = &self.chosen else {
            return match self.failure {
                Some(NoRoute::NoBackends) => "no backend is in service",
                Some(NoRoute::Full) => "every backend is at its limit",
                Some(NoRoute::AllTried) | None => "every backend has been tried",
            }
            .to_owned();
        };
        match self.reason {
            Some(RouteReason::Owner) => return format!("{chosen} owns the key of the request"),
            Some(RouteReason::NextOwner) => {
                return format!(
                    "{chosen} is the next for the key of the request: its owner is unusable, full or \
                     too slow"
                );
            }
            _ => {}
        }
        match self.switch {
            Some(SwitchReason::First) => return format!("first choice: {chosen} scores lowest"),
            Some(SwitchReason::Better { by }) => {
                return format!("switch to {chosen}: better by {by:.1} points");
            }
            Some(SwitchReason::Failover { cause }) => {
                return format!("failover to {chosen}: the current backend {}", cause.text());
            }
            Some(SwitchReason::FromBackup) => {
                return format!("switch to {chosen}: the current backend is a backup");
            }
            None => {}
        }
        let current = self.current.as_deref().unwrap_or("the current backend");
        match self.reason.unwrap_or(RouteReason::Policy) {
            RouteReason::Current => match &self.hold {
                Some((better, HoldReason::BelowThreshold { missing })) => format!(
                    "{chosen} stays although {better} is better: {missing:.1} points are missing to \
                     the threshold of {}",
                    self.threshold
                ),
                Some((better, HoldReason::Cooldown { left })) => format!(
                    "{chosen} stays although {better} is better: {} ms of the cooldown is left",
                    left.as_millis()
                ),
                Some((better, HoldReason::LoadAlone)) => {
                    format!("{chosen} stays although {better} is better: the gap is load alone")
                }
                None => format!("{chosen} stays: no other backend scores lower"),
            },
            RouteReason::Failover => {
                format!("{chosen} replaced a backend that still cannot be used")
            }
            RouteReason::Spill => {
                format!("{current} is full: {chosen} has the least expected delay")
            }
            RouteReason::Policy | RouteReason::Owner | RouteReason::NextOwner => {
                format!("{chosen} is the choice of {}", self.policy.name())
            }
            RouteReason::Retry => {
                format!("after {} failed or refused it: {chosen} is next", self.tried.join(", "))
            }
            RouteReason::Trial => format!("{chosen} is tried out: it is ejected or idle"),
            RouteReason::Control => {
                format!("{chosen} by least_request, for comparison with the learned policy")
            }
            RouteReason::SecondOpinion => {
                format!("{chosen} shows whether the error is the last backend's or the request's")
            }
            RouteReason::Backup => {
                format!("{chosen} is a backup, and no other backend can take the request")
            }
            RouteReason::LastResort => format!("no backend is usable: {chosen} is the least bad"),
        }
    }

    /// Returns, for each other candidate, the change that would have brought the request to it.
    fn changes(&self) -> Vec<String> {
        let rows = &self.candidates.rows;
        let chosen = self.chosen.as_ref();
        let Some(to) = chosen.and_then(|(id, _)| rows.iter().find(|row| row.id == *id)) else {
            return Vec::new();
        };
        let others = rows.iter().filter(|row| row.id != to.id);
        others.filter_map(|row| self.change(to, row)).collect()
    }

    fn change(&self, to: &BackendSnapshot, other: &BackendSnapshot) -> Option<String> {
        let name = &other.name;
        if let Some(bar) = self.bar(other) {
            return Some(format!("{name} {bar}"));
        }
        if matches!(self.reason, Some(RouteReason::Owner | RouteReason::NextOwner)) {
            return Some(format!("{name} would need to own the key"));
        }
        let less = |what: &str, by: f64| Some(format!("{name} would need {by:.1} {what}"));
        match (&to.policy, &other.policy) {
            (PolicyView::Score(_), PolicyView::Score(_)) => {
                let is_gated = self.reason == Some(RouteReason::Current);
                let threshold = if is_gated { self.threshold } else { 0.0 };
                let gap = other.score.total - to.score.total + threshold;
                if gap >= 0.0 {
                    less("points less", gap)
                } else {
                    let wait = self.hold.as_ref().map(|(_, why)| *why);
                    match wait {
                        Some(HoldReason::Cooldown { left }) => {
                            Some(format!("{name} {} ms later", left.as_millis()))
                        }
                        _ => None,
                    }
                }
            }
            (PolicyView::Learned(to), PolicyView::Learned(other)) => (other.cost_ms >= to.cost_ms)
                .then(|| less("ms less expected cost", other.cost_ms - to.cost_ms))?,
            (PolicyView::PeakEwma(to), PolicyView::PeakEwma(other)) => {
                (other.load >= to.load).then(|| less("less load", other.load - to.load))?
            }
            (PolicyView::LinearRl(to), PolicyView::LinearRl(other)) => {
                (other.value <= to.value).then(|| less("more value", to.value - other.value))?
            }
            (PolicyView::LeastRequest(of), PolicyView::LeastRequest(view)) => {
                let need = lighter((of.in_flight, to.weight), (view.in_flight, other.weight))?;
                Some(format!("{name} {need}"))
            }
            (PolicyView::P2c(of), PolicyView::P2c(view)) => {
                let need = lighter((of.in_flight, to.weight), (view.in_flight, other.weight))?;
                Some(format!("{name} {need}"))
            }
            _ => None,
        }
    }

    /// Returns the reason that keeps a candidate out regardless of its score.
    fn bar(&self, other: &BackendSnapshot) -> Option<String> {
        if self.tried.contains(&other.name) {
            return Some("would need to be untried".to_owned());
        }
        if !other.is_in_service() {
            return Some("would need to be in service".to_owned());
        }
        if other.health == Health::Down {
            return Some("would need to be up".to_owned());
        }
        if let StandingView::Ejected { left } = other.standing {
            return Some(format!("is ejected for {} ms more", left.as_millis()));
        }
        let left = other.held?;
        Some(format!("asked for no requests for {} ms more", left.as_millis()))
    }
}

/// Returns the change that would make `other` win against `to`, if the fewest requests in flight
/// win. These are counted with the new request and divided by the weight. Both backends are given
/// as requests in flight and weight.
fn lighter(to: (u32, u32), other: (u32, u32)) -> Option<String> {
    let product =
        |(load, _): (u32, u32), (_, weight): (u32, u32)| (u64::from(load) + 1) * u64::from(weight);
    let (bound, has) = (product(to, other), product(other, to));
    match has.cmp(&bound) {
        Ordering::Less => None,
        Ordering::Equal => Some("would need to win the draw".to_owned()),
        Ordering::Greater => {
            // The load, including the new request, at which both are equal. It is at least 1.
            let most = bound.checked_div(u64::from(to.1)).filter(|most| *most > 0)?;
            let fewer = u64::from(other.0) + 1 - most;
            Some(format!("would need {fewer} fewer requests in flight for a draw"))
        }
    }
}

/// Returns the list of decisions: `{"decisions": [...]}`.
pub(crate) fn list_text<'a>(
    now: Instant,
    decisions: impl Iterator<Item = &'a Decision>,
) -> Vec<u8> {
    #[derive(Serialize)]
    struct List<'a> {
        decisions: Vec<Row<'a>>,
    }
    text_of(&List { decisions: decisions.map(|decision| Row::new(now, decision)).collect() })
}

/// Returns one decision with its candidates. `earlier` has the numbers of earlier decisions with
/// the same id.
pub(crate) fn decision_text(now: Instant, decision: &Decision, earlier: &[u64]) -> Vec<u8> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Full<'a> {
        #[serde(flatten)]
        row: Row<'a>,
        current: Option<&'a str>,
        tried: &'a [String],
        earlier: &'a [u64],
        backends: usize,
        would_change: Vec<String>,
        candidates: Vec<BackendStats<'a>>,
    }
    let rows = decision.candidates.rows.iter();
    text_of(&Full {
        row: Row::new(now, decision),
        current: decision.current.as_deref(),
        tried: &decision.tried,
        earlier,
        backends: decision.candidates.of,
        would_change: decision.changes(),
        candidates: rows.map(|row| BackendStats::new(row, None, None)).collect(),
    })
}

/// The part of a decision that the list shows.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row<'a> {
    request: Option<u64>,
    request_id: Option<Cow<'a, str>>,
    ago_ms: Option<Decimal>,
    backend: Option<&'a str>,
    policy: &'static str,
    rule: &'static str,
    why: String,
}

impl<'a> Row<'a> {
    fn new(now: Instant, decision: &'a Decision) -> Self {
        Self {
            request: decision.number,
            request_id: decision.request_id.as_deref().map(String::from_utf8_lossy),
            ago_ms: millis(Some(now.since(decision.at))),
            backend: decision.chosen.as_ref().map(|(_, name)| name.as_str()),
            policy: decision.policy.name(),
            rule: decision.reason.map_or("none", RouteReason::name),
            why: decision.why(),
        }
    }
}

fn text_of(data: &impl Serialize) -> Vec<u8> {
    let text = serde_json::to_vec(data);
    // Plain data with string keys, which always serialises.
    debug_assert!(text.is_ok(), "plain data can be written");
    let mut text = text.unwrap_or_default();
    text.push(b'\n');
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use intelliproxy_core::{
        LearnedStanding, LearnedView, LeastRequestView, Mode, OutCause, ScoreParts, ScoreView,
    };
    use serde_json::{Value, json};

    use super::*;
    use crate::pages::testing::unknown_backend;

    fn scored(number: u32, name: &str, total: f64) -> BackendSnapshot {
        let score = ScoreParts { latency: total, total, ..ScoreParts::default() };
        let view = ScoreView { points: total, full_at: Some(4), spills: 0 };
        let policy = PolicyView::Score(view);
        BackendSnapshot { health: Health::Up, score, policy, ..unknown_backend(number, name) }
    }

    /// Returns a decision of `score` for backend A, which is current.
    fn decision(rows: Vec<BackendSnapshot>) -> Decision {
        Decision {
            at: Instant::from_millis(1000),
            number: Some(7),
            request_id: Some(b"a-7".to_vec()),
            policy: PolicyKind::Score,
            chosen: Some((BackendId::from_index(0), "A".to_owned())),
            failure: None,
            reason: Some(RouteReason::Current),
            tried: Vec::new(),
            current: Some("A".to_owned()),
            switch: None,
            hold: None,
            threshold: 30.0,
            candidates: Candidates { of: rows.len(), rows },
        }
    }

    fn json_of(text: &[u8]) -> Value {
        serde_json::from_slice(text).expect("JSON")
    }

    /// A single decision has the row of the list, the candidates as in /stats, and the change that
    /// each candidate needed.
    #[test]
    fn a_decision_in_full() {
        let rows = vec![scored(0, "A", 50.0), scored(1, "B", 32.5), scored(2, "C", 90.0)];
        let missing = HoldReason::BelowThreshold { missing: 12.5 };
        let held = Decision { hold: Some(("B".to_owned(), missing)), ..decision(rows) };
        let now = Instant::from_millis(1250);
        let row = json!({
            "request": 7, "requestId": "a-7", "agoMs": 250, "backend": "A", "policy": "score",
            "rule": "current",
            "why": "A stays although B is better: 12.5 points are missing to the threshold of 30",
        });
        let list = json_of(&list_text(now, [&held].into_iter()));
        assert_eq!(list, json!({ "decisions": [row] }));
        let full = json_of(&decision_text(now, &held, &[3, 5]));
        assert_eq!(full["earlier"], json!([3, 5]));
        assert_eq!(full["why"], row["why"]);
        assert_eq!(full["current"], "A");
        assert_eq!(full["backends"], 3);
        let changes = ["B would need 12.5 points less", "C would need 70.0 points less"];
        assert_eq!(full["wouldChange"], json!(changes));
        let first = full["candidates"][0].as_object().expect("a row");
        assert!(first.contains_key("health") && !first.contains_key("url"), "{first:?}");
        let scores: Vec<&Value> = full["candidates"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|row| &row["score"])
            .collect();
        assert_eq!(scores, [&json!(50), &json!(32.5), &json!(90)]);
        assert!(held.has_number("7") && !held.has_number("70") && !held.has_number(""));
        assert!(held.has_id("a-7") && !held.has_id("7") && !held.has_id(""));
    }

    /// Each rule has its sentence.
    #[test]
    fn rules_are_described() {
        let a = || decision(vec![scored(0, "A", 1.0)]);
        let left = Duration::from_millis(800);
        let hold = |why| Some(("B".to_owned(), why));
        let rows = [
            (a(), "A stays: no other backend scores lower"),
            (
                Decision { hold: hold(HoldReason::Cooldown { left }), ..a() },
                "A stays although B is better: 800 ms of the cooldown is left",
            ),
            (
                Decision { hold: hold(HoldReason::LoadAlone), ..a() },
                "A stays although B is better: the gap is load alone",
            ),
            (
                Decision { switch: Some(SwitchReason::Better { by: 41.25 }), ..a() },
                "switch to A: better by 41.2 points",
            ),
            (
                Decision { switch: Some(SwitchReason::First), ..a() },
                "first choice: A scores lowest",
            ),
            (
                Decision { reason: Some(RouteReason::Spill), current: Some("B".to_owned()), ..a() },
                "B is full: A has the least expected delay",
            ),
            (
                Decision { reason: Some(RouteReason::Retry), tried: vec!["B".to_owned()], ..a() },
                "after B failed or refused it: A is next",
            ),
            (
                Decision { policy: PolicyKind::P2c, reason: Some(RouteReason::Policy), ..a() },
                "A is the choice of p2c",
            ),
            (
                Decision { chosen: None, failure: Some(NoRoute::NoBackends), reason: None, ..a() },
                "no backend is in service",
            ),
            (
                Decision { chosen: None, failure: Some(NoRoute::Full), reason: None, ..a() },
                "every backend is at its limit",
            ),
            (
                Decision { chosen: None, failure: Some(NoRoute::AllTried), reason: None, ..a() },
                "every backend has been tried",
            ),
            (
                Decision {
                    switch: Some(SwitchReason::Failover { cause: OutCause::Ejected }),
                    ..a()
                },
                "failover to A: the current backend is ejected",
            ),
            (
                Decision { switch: Some(SwitchReason::FromBackup), ..a() },
                "switch to A: the current backend is a backup",
            ),
            (
                Decision { reason: Some(RouteReason::Failover), ..a() },
                "A replaced a backend that still cannot be used",
            ),
            (
                Decision { reason: Some(RouteReason::Trial), ..a() },
                "A is tried out: it is ejected or idle",
            ),
            (
                Decision { reason: Some(RouteReason::Control), ..a() },
                "A by least_request, for comparison with the learned policy",
            ),
            (
                Decision { reason: Some(RouteReason::SecondOpinion), ..a() },
                "A shows whether the error is the last backend's or the request's",
            ),
            (
                Decision {
                    reason: Some(RouteReason::Owner),
                    switch: Some(SwitchReason::First),
                    ..a()
                },
                "A owns the key of the request",
            ),
            (
                Decision { reason: Some(RouteReason::NextOwner), ..a() },
                "A is the next for the key of the request: its owner is unusable, full or too slow",
            ),
            (
                Decision { reason: Some(RouteReason::LastResort), ..a() },
                "no backend is usable: A is the least bad",
            ),
        ];
        for (decision, expected) in rows {
            assert_eq!(decision.why(), expected);
        }
    }

    /// If a candidate is excluded, its reason is shown instead of missing points. The learner's
    /// unit is milliseconds.
    #[test]
    fn bars_and_units() {
        let left = Duration::from_millis(1500);
        let down = BackendSnapshot { health: Health::Down, ..scored(1, "B", 1.0) };
        let standing = StandingView::Ejected { left };
        let ejected = BackendSnapshot { standing, ..scored(2, "C", 1.0) };
        let held = BackendSnapshot { held: Some(left), ..scored(3, "D", 1.0) };
        let tried = scored(4, "E", 1.0);
        let drained = BackendSnapshot { mode: Mode::Drain, ..scored(5, "F", 90.0) };
        let weightless = BackendSnapshot { weight: 0, ..scored(6, "G", 90.0) };
        let rows = vec![scored(0, "A", 50.0), down, ejected, held, tried, drained, weightless];
        let decision = Decision { tried: vec!["E".to_owned()], ..decision(rows) };
        let expected = [
            "B would need to be up",
            "C is ejected for 1500 ms more",
            "D asked for no requests for 1500 ms more",
            "E would need to be untried",
            "F would need to be in service",
            "G would need to be in service",
        ];
        assert_eq!(decision.changes(), expected);

        let learned = |number, name: &str, cost_ms| BackendSnapshot {
            policy: PolicyView::Learned(LearnedView {
                state: LearnedStanding::Normal,
                in_flight: 0,
                others: 0,
                speed: 1.0,
                memory: 1,
                width: 1,
                latency_ms: cost_ms,
                error_share: 0.0,
                error_excess: 0.0,
                cap: None,
                cost_ms,
            }),
            ..scored(number, name, 1.0)
        };
        let rows = vec![learned(0, "A", 12.0), learned(1, "B", 19.5)];
        let decision = Decision { candidates: Candidates { of: 2, rows }, ..decision };
        assert_eq!(decision.changes(), ["B would need 7.5 ms less expected cost"]);
    }

    /// With `least_request` and `p2c` the requests in flight count in relation to the weight; row
    /// by row.
    #[test]
    fn loads_and_weights() {
        let fewer = |count| Some(format!("would need {count} fewer requests in flight for a draw"));
        let draw = Some("would need to win the draw".to_owned());
        let rows = [
            ((0, 100), (0, 100), draw.clone()),
            ((2, 100), (5, 100), fewer(3)),
            ((5, 100), (2, 100), None),
            ((1, 100), (3, 200), draw),
            ((1, 100), (4, 200), fewer(1)),
            ((1, 200), (1, 100), fewer(1)),
            ((0, 200), (0, 100), None),
        ];
        for (to, other, expected) in rows {
            assert_eq!(lighter(to, other), expected, "{to:?} {other:?}");
        }
        let view = |number, name: &str, in_flight| BackendSnapshot {
            policy: PolicyView::LeastRequest(LeastRequestView { in_flight }),
            ..scored(number, name, 1.0)
        };
        let decision = decision(vec![view(0, "A", 2), view(1, "B", 5)]);
        assert_eq!(decision.changes(), ["B would need 3 fewer requests in flight for a draw"]);
    }

    /// Of many candidates the chosen and the current one are kept, and those with the lowest
    /// scores.
    #[test]
    fn many_candidates_are_shortened() {
        let rows = (0..40).map(|number| scored(number, "x", f64::from(100 - number))).collect();
        let mut candidates = Candidates { of: 40, rows };
        let [first, third] = [0, 2].map(BackendId::from_index);
        candidates.shorten(4, [Some(third), Some(first)]);
        let ids: Vec<usize> = candidates.rows.iter().map(|row| row.id.index()).collect();
        assert_eq!((ids, candidates.of), (vec![2, 0, 39, 38], 40));
    }
}
