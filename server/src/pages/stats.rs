//! The router's snapshot as the JSON of /stats.
//!
//! An array with one object per backend, in the configured order. An unknown value is null. The
//! score and its parts are the ones that decisions use: a backend without a ping has the points of
//! an unknown latency, and null as its latency. Percentages are from 0 to 100, times and ages are
//! in ms, memory is in bytes. Fractions are rounded to three decimals.
use std::time::Duration;

use intelliproxy_core::{
    BackendSnapshot, Factor, GuardView, Health, LearnedStanding, LeastRequestView, P2cView,
    PolicyView, ScoreParts, StandingView,
};
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use super::metrics::Histogram;
use super::state::Condition;

/// The body of a response to /stats, built one backend at a time.
#[derive(Debug)]
pub struct StatsText {
    bytes: Vec<u8>,
}

impl StatsText {
    /// Returns a body without backends.
    pub fn new() -> Self {
        Self { bytes: b"[".to_vec() }
    }

    /// Adds a backend: its URL, the state of the policy's guard if there is one, the histogram of
    /// times to response heads, and their p50 and p99 over the last seconds, ms.
    pub(crate) fn push(
        &mut self,
        backend: &BackendSnapshot,
        url: Option<&str>,
        guard: Option<&GuardView>,
        head_times: Option<Histogram>,
        recent: [Option<f32>; 2],
    ) {
        if self.bytes.len() > 1 {
            self.bytes.push(b',');
        }
        let mut row = BackendStats::new(backend, Some(url), guard);
        row.head_times = Some(HeadTimes(head_times.unwrap_or_default()));
        let recent = recent.map(|ms| Some(ms.map(|ms| Decimal::new(ms.into()))));
        [row.p50_ms, row.p99_ms] = recent;
        // Plain data with string keys, which always serialises.
        let written = serde_json::to_writer(&mut self.bytes, &row);
        debug_assert!(written.is_ok(), "a row of plain data can be written");
    }

    /// Returns the complete text.
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes.push(b']');
        self.bytes
    }
}

impl Default for StatsText {
    fn default() -> Self {
        Self::new()
    }
}

/// One backend in /stats.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct BackendStats<'a> {
    name: &'a str,
    /// Left out of a candidate of /explain, as a decision keeps no URLs.
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<Option<&'a str>>,
    /// The most important state, as one word.
    state: &'static str,
    /// `unknown` until the first pings have ended.
    health: &'static str,
    /// Whether the backend is up; null while unknown.
    alive: Option<bool>,
    /// `ready`, `drain` or `maintain`.
    mode: &'static str,
    /// Relative capacity, percent.
    weight: u32,
    /// Whether the backend gets requests only while no other backend can take them.
    backup: bool,
    current: bool,
    /// The sum of `score_parts` as shown, so that they add up to the last decimal.
    score: Decimal,
    score_parts: ScorePoints,
    latency: Option<Decimal>,
    latency_ewma: Option<Decimal>,
    latency_age_ms: Option<Decimal>,
    /// Failed pings in percent of all.
    loss_percent: Option<Decimal>,
    /// The average of lost pings, 0 to 1.
    loss_ewma: Option<Decimal>,
    success_pings: u64,
    fail_pings: u64,
    total_pings: u64,
    ping_age_ms: Option<Decimal>,
    total_requests: u64,
    error_requests: u64,
    /// Responses with status 429 or 503.
    refused_requests: u64,
    /// The remaining pause that it requested with Retry-After, ms; null without a pause.
    held_for_ms: Option<Decimal>,
    /// Errors in percent of recent requests, as used by the score; null before the first request.
    error_rate: Option<Decimal>,
    active_requests: u32,
    /// Of these, the requests that it works on.
    working_requests: u32,
    /// The maximum number of requests in flight; null for no limit.
    limit: Option<u32>,
    response_ewma: Option<Decimal>,
    /// Left out of a candidate of /explain, as a decision does not depend on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    head_times: Option<HeadTimes>,
    /// Median and 99th percentile of the times to the response heads of the last seconds. Null
    /// without requests, and while nothing is sampled.
    #[serde(skip_serializing_if = "Option::is_none")]
    p50_ms: Option<Option<Decimal>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    p99_ms: Option<Option<Decimal>>,
    request_age_ms: Option<Decimal>,
    queue: Option<Decimal>,
    queue_ewma: Option<Decimal>,
    /// The reported number of running requests, from all clients.
    running: Option<Decimal>,
    /// The reported utilization of its scarcest resource, 0 to 1.
    pressure: Option<Decimal>,
    /// Requests of others, estimated from the reports.
    others: Option<Decimal>,
    /// The reported busy time, ms.
    cpu: Option<Decimal>,
    memory: Option<Decimal>,
    report_age_ms: Option<Decimal>,
    reports_read: u64,
    reports_failed: u64,
    /// `in`, or an object with `slowStart`, `ejectedForMs` or `probation` and its number.
    standing: Value,
    ejections: u64,
    /// The policy's own reason for or against it.
    policy: Value,
}

impl<'a> BackendStats<'a> {
    pub(super) fn new(
        backend: &'a BackendSnapshot,
        url: Option<Option<&'a str>>,
        guard: Option<&GuardView>,
    ) -> Self {
        let (health, alive) = match backend.health {
            Health::Unknown => ("unknown", None),
            Health::Up => ("up", Some(true)),
            Health::Down => ("down", Some(false)),
        };
        let total_pings = backend.pings_answered.saturating_add(backend.pings_failed);
        let loss = backend.pings_failed as f64 / total_pings as f64;
        let score_parts = ScorePoints::new(&backend.score);
        Self {
            name: &backend.name,
            url,
            state: Condition::of(backend).state.name(),
            health,
            alive,
            mode: backend.mode.name(),
            weight: backend.weight,
            backup: backend.is_backup,
            current: backend.is_current,
            score: score_parts.sum(),
            score_parts,
            latency: millis(backend.latency),
            latency_ewma: backend.latency_ewma_ms.map(Decimal::new),
            latency_age_ms: millis(backend.latency_age),
            loss_percent: (total_pings > 0).then(|| Decimal::new(100.0 * loss)),
            loss_ewma: backend.loss_ewma.map(Decimal::new),
            success_pings: backend.pings_answered,
            fail_pings: backend.pings_failed,
            total_pings,
            ping_age_ms: millis(backend.ping_age),
            total_requests: backend.requests,
            error_requests: backend.errors,
            refused_requests: backend.refused,
            held_for_ms: millis(backend.held),
            error_rate: (backend.requests > 0).then(|| Decimal::new(100.0 * backend.error_rate)),
            active_requests: backend.in_flight,
            working_requests: backend.at_work,
            limit: backend.limit,
            response_ewma: backend.response_ewma_ms.map(Decimal::new),
            head_times: None,
            p50_ms: None,
            p99_ms: None,
            request_age_ms: millis(backend.request_age),
            queue: backend.queue.map(Decimal::new),
            queue_ewma: backend.queue_ewma.map(Decimal::new),
            running: backend.running.map(Decimal::new),
            pressure: backend.pressure.map(Decimal::new),
            others: backend.others.map(Decimal::new),
            cpu: backend.cpu_busy_ms.map(Decimal::new),
            memory: backend.memory_bytes.map(Decimal::new),
            report_age_ms: millis(backend.report_age),
            reports_read: backend.reports_read,
            reports_failed: backend.reports_failed,
            standing: standing_json(backend.standing),
            ejections: backend.ejections,
            policy: with_guard(named(policy_json(&backend.policy), &backend.policy), guard),
        }
    }
}

/// Returns a standing: its name, or an object of its name and numbers.
fn standing_json(standing: StandingView) -> Value {
    match standing {
        StandingView::In => json!("in"),
        StandingView::SlowStart { window } => json!({ "slowStart": window }),
        StandingView::Ejected { left } => json!({ "ejectedForMs": millis(Some(left)) }),
        StandingView::Probation { good, needed } => json!({ "probation": good, "needed": needed }),
    }
}

/// Returns a policy's reason, as an object with the policy's own keys.
fn policy_json(view: &PolicyView) -> Value {
    match view {
        PolicyView::Score(view) => {
            json!({ "points": Decimal::new(view.points), "fullAt": view.full_at, "spills": view.spills })
        }
        PolicyView::LeastRequest(LeastRequestView { in_flight })
        | PolicyView::P2c(P2cView { in_flight }) => {
            json!({ "inFlight": in_flight })
        }
        PolicyView::PeakEwma(view) => {
            json!({ "costMs": view.cost_ms.map(Decimal::new), "load": Decimal::new(view.load) })
        }
        PolicyView::Prequal(view) => json!({
            "probes": view.probes, "inFlight": Decimal::new(view.in_flight),
            "latencyMs": view.latency_ms.map(Decimal::new), "hot": view.is_hot,
        }),
        PolicyView::LinearRl(view) => json!({
            "value": Decimal::new(view.value), "features": view.features.map(Decimal::new),
            "weights": view.weights.map(Decimal::new),
        }),
        PolicyView::Learned(view) => {
            let state = match view.state {
                LearnedStanding::Normal => json!("normal"),
                LearnedStanding::Stalled => json!("stalled"),
                LearnedStanding::Quarantined { left } => {
                    json!({ "quarantinedForMs": millis(Some(left)) })
                }
                LearnedStanding::Probation { good, needed } => {
                    json!({ "probation": good, "needed": needed })
                }
                LearnedStanding::SlowStart { window } => json!({ "slowStart": window }),
            };
            json!({
                "state": state, "inFlight": view.in_flight, "speed": Decimal::new(view.speed),
                "memory": view.memory, "latencyMs": Decimal::new(view.latency_ms),
                "errorShare": Decimal::new(view.error_share),
                "errorExcess": Decimal::new(view.error_excess),
                "cap": view.cap.map(Decimal::new), "costMs": Decimal::new(view.cost_ms),
            })
        }
        PolicyView::RoundRobin(view) => json!({ "wasLast": view.was_last }),
        _ => json!({}),
    }
}

/// Returns a policy's reason with the policy's name.
fn named(mut reason: Value, view: &PolicyView) -> Value {
    reason["kind"] = view.kind().name().into();
    reason
}

/// Returns a policy's reason with the state of the guard over the policy, if there is one. The
/// guard's part is the same for all backends.
fn with_guard(mut reason: Value, guard: Option<&GuardView>) -> Value {
    if let Some(guard) = guard {
        let pair = |(low, high): (f64, f64)| [Decimal::new(low), Decimal::new(high)];
        reason["guard"] = json!({
            "inCharge": if guard.is_learner_in_charge { "learned" } else { "least_request" },
            "returnsInMs": millis(guard.returns_in), "demotions": guard.demotions,
            "controls": guard.controls, "costRatio": guard.ratio.map(Decimal::new),
            "interval95": guard.interval.map(pair), "alarm": Decimal::new(guard.alarm),
        });
    }
    reason
}

/// The number of responses in each bucket by its upper bound in ms; empty buckets are left out, and
/// `more` is for times above all bounds.
struct HeadTimes(Histogram);

impl Serialize for HeadTimes {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let name = |bound: Option<u64>| {
            bound.map_or_else(|| "more".to_owned(), |nanos| (nanos as f64 / 1e6).to_string())
        };
        let filled = self.0.buckets().filter(|(_, count)| *count > 0);
        to.collect_map(filled.map(|(bound, count)| (name(bound), count)))
    }
}

/// The points of each factor by its name.
struct ScorePoints(Vec<(&'static str, Decimal)>);

impl ScorePoints {
    fn new(score: &ScoreParts) -> Self {
        let points = |(factor, points): (Factor, f64)| (factor.name(), Decimal::new(points));
        Self(score.parts().into_iter().map(points).collect())
    }

    /// Returns their sum, without the binary fractions that adding decimals leaves.
    fn sum(&self) -> Decimal {
        Decimal::new(self.0.iter().map(|(_, points)| points.0).sum())
    }
}

impl Serialize for ScorePoints {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.0.iter().map(|(name, points)| (name, points)))
    }
}

/// A number rounded to three decimals; a whole number has no fraction.
#[derive(Clone, Copy)]
pub(super) struct Decimal(f64);

impl Decimal {
    fn new(number: f64) -> Self {
        let rounded = (number * 1000.0).round() / 1000.0;
        // The product overflows for very large numbers, which have no thousandths to round.
        Self(if rounded.is_finite() { rounded } else { number })
    }
}

impl Serialize for Decimal {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let is_whole = self.0.fract() == 0.0 && self.0.abs() <= WHOLE_MAX;
        // JSON cannot express a number that is not finite: serde_json writes null.
        if is_whole { to.serialize_i64(self.0 as i64) } else { to.serialize_f64(self.0) }
    }
}

/// The largest number below which f64 represents every whole number.
const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;

pub(super) fn millis(span: Option<Duration>) -> Option<Decimal> {
    span.map(|span| Decimal::new(span.as_secs_f64() * 1000.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pages::testing::unknown_backend;

    fn stats(backends: &[BackendSnapshot], urls: &[&str]) -> Value {
        let mut text = StatsText::new();
        for backend in backends {
            text.push(
                backend,
                urls.get(backend.id.index()).copied(),
                None,
                None,
                [None, Some(2.5)],
            );
        }
        serde_json::from_slice(&text.finish()).expect("JSON")
    }

    /// A backend that was never probed has null for every unknown number.
    #[test]
    fn unknown_numbers_are_null() {
        let parts = json!({
            "latency": 10000, "loss": 0, "errors": 0, "inFlight": 0, "queue": 0, "cpu": 0,
            "memory": 0,
        });
        let mut expected = json!([{
            "name": "A", "url": "http://A", "health": "unknown", "alive": null, "current": false,
            "score": 10000, "scoreParts": parts,
            "latency": null, "latencyEwma": null, "latencyAgeMs": null,
            "lossPercent": null, "lossEwma": null,
            "successPings": 0, "failPings": 0, "totalPings": 0, "pingAgeMs": null,
            "totalRequests": 0, "errorRequests": 0, "refusedRequests": 0, "heldForMs": null,
            "errorRate": null, "activeRequests": 0, "workingRequests": 0,
            "responseEwma": null, "requestAgeMs": null,
            "queue": null, "queueEwma": null, "cpu": null, "memory": null, "reportAgeMs": null,
            "reportsRead": 0, "reportsFailed": 0, "standing": "in", "ejections": 0, "policy": { "kind": "score", "points": 10000, "fullAt": 4, "spills": 7 },
            "headTimes": {}, "p50Ms": null, "p99Ms": 2.5, "state": "unknown", "limit": null,
        }]);
        (expected[0]["mode"], expected[0]["weight"]) = ("ready".into(), 100.into());
        expected[0]["backup"] = false.into();
        for figure in ["running", "pressure", "others"] {
            expected[0][figure] = Value::Null;
        }
        assert_eq!(stats(&[unknown_backend(0, "A")], &["http://A"]), expected);
    }

    /// Every known number has its name, is in its unit and rounded.
    #[test]
    fn known_numbers_are_shown() {
        let backend = BackendSnapshot {
            health: Health::Up,
            is_current: true,
            latency: Some(Duration::from_nanos(12_345_678)),
            latency_ewma_ms: Some(10.00049),
            latency_age: Some(Duration::from_millis(1500)),
            loss_ewma: Some(0.2),
            ping_age: Some(Duration::from_micros(1)),
            pings_answered: 2,
            pings_failed: 1,
            reports_read: 7,
            reports_failed: 8,
            requests: 100,
            errors: 5,
            refused: 6,
            held: Some(Duration::from_millis(20)),
            at_work: 2,
            error_rate: 0.0123456,
            in_flight: 3,
            response_ewma_ms: Some(1e300),
            request_age: Some(Duration::ZERO),
            queue: Some(4.0),
            queue_ewma: Some(3.9996),
            running: Some(5.0),
            pressure: Some(0.25),
            others: Some(2.5),
            cpu_busy_ms: Some(0.1),
            memory_bytes: Some(209_715_200.0),
            report_age: Some(Duration::from_secs(3)),
            ..unknown_backend(0, "A")
        };
        let stats = stats(&[backend], &["http://A"]);
        let rows = [
            ("health", json!("up")),
            ("alive", json!(true)),
            ("current", json!(true)),
            ("latency", json!(12.346)),
            ("latencyEwma", json!(10)),
            ("latencyAgeMs", json!(1500)),
            ("lossPercent", json!(33.333)),
            ("lossEwma", json!(0.2)),
            ("pingAgeMs", json!(0.001)),
            ("successPings", json!(2)),
            ("failPings", json!(1)),
            ("totalPings", json!(3)),
            ("reportsRead", json!(7)),
            ("reportsFailed", json!(8)),
            ("totalRequests", json!(100)),
            ("errorRequests", json!(5)),
            ("refusedRequests", json!(6)),
            ("heldForMs", json!(20)),
            ("workingRequests", json!(2)),
            ("errorRate", json!(1.235)),
            ("activeRequests", json!(3)),
            ("responseEwma", json!(1e300)),
            ("requestAgeMs", json!(0)),
            ("queue", json!(4)),
            ("queueEwma", json!(4)),
            ("running", json!(5)),
            ("pressure", json!(0.25)),
            ("others", json!(2.5)),
            ("cpu", json!(0.1)),
            ("memory", json!(209_715_200)),
            ("reportAgeMs", json!(3000)),
        ];
        for (key, expected) in rows {
            assert_eq!(stats[0][key], expected, "{key}");
        }
    }

    /// The displayed parts add up to the displayed score, even where rounding changed each of them.
    #[test]
    fn parts_sum_to_the_score() {
        let mut backend = unknown_backend(0, "A");
        backend.health = Health::Down;
        backend.score = ScoreParts {
            latency: 12.3454,
            loss: 78.4004,
            errors: 0.1004,
            in_flight: 6.0,
            queue: 0.0014,
            cpu: 29.9994,
            memory: 0.3334,
            total: 127.1804,
        };
        let stats = stats(&[backend], &[]);
        let parts = stats[0]["scoreParts"].as_object().expect("an object");
        let sum: f64 = parts.values().filter_map(Value::as_f64).sum();
        let score = stats[0]["score"].as_f64().expect("a number");
        assert!((sum - score).abs() < 1e-9, "{sum} {score}");
        assert!((score - 127.1804).abs() < 0.004, "{score}");
        assert_eq!(stats[0]["alive"], json!(false));
    }

    /// URLs are found by id in any order of backends. A backend may lack a URL.
    #[test]
    fn urls_are_found_by_id() {
        let backends = [("B", 1), ("A", 0), ("C", 2)].map(|(name, id)| unknown_backend(id, name));
        let stats = stats(&backends, &["http://A", "http://B"]);
        let urls: Vec<&Value> = (0..3).map(|index| &stats[index]["url"]).collect();
        assert_eq!(urls, [&json!("http://B"), &json!("http://A"), &Value::Null]);
    }

    /// A response is counted at the lowest bound that its time does not exceed.
    #[test]
    fn head_times_have_their_bounds() {
        let mut times = Histogram::default();
        for micros in [900, 2_500, 2_501, 4_000, 61_000_000] {
            times.add(Duration::from_micros(micros));
        }
        let mut text = StatsText::new();
        text.push(&unknown_backend(0, "A"), None, None, Some(times), [None; 2]);
        let stats: Value = serde_json::from_slice(&text.finish()).expect("JSON");
        let expected = json!({ "1": 1, "2.5": 1, "5": 2, "more": 1 });
        assert_eq!(stats[0]["headTimes"], expected);
    }

    /// Each policy has its name among its reason.
    #[test]
    fn policies_have_their_names() {
        let least = PolicyView::LeastRequest(LeastRequestView { in_flight: 1 });
        let p2c = PolicyView::P2c(P2cView { in_flight: 1 });
        for (view, name) in [(least, "least_request"), (p2c, "p2c"), (PolicyView::Random, "random")]
        {
            assert_eq!(named(policy_json(&view), &view)["kind"], name);
        }
    }

    /// Under a guard every backend's reason shows the policy in charge and the measured gain.
    #[test]
    fn the_guard_is_shown() {
        let mut guard = GuardView {
            is_learner_in_charge: true,
            returns_in: None,
            demotions: 0,
            controls: 12,
            ratio: Some(0.80004),
            interval: Some((0.75, 0.85)),
            alarm: 0.0,
        };
        let reason = with_guard(json!({ "inFlight": 1 }), Some(&guard));
        let expected = json!({
            "inCharge": "learned", "returnsInMs": null, "demotions": 0, "controls": 12,
            "costRatio": 0.8, "interval95": [0.75, 0.85], "alarm": 0,
        });
        assert_eq!(reason, json!({ "inFlight": 1, "guard": expected }));
        guard.is_learner_in_charge = false;
        guard.returns_in = Some(Duration::from_secs(10));
        (guard.ratio, guard.interval) = (None, None);
        let reason = with_guard(json!({}), Some(&guard));
        assert_eq!(reason["guard"]["inCharge"], json!("least_request"));
        assert_eq!(reason["guard"]["returnsInMs"], json!(10_000));
        assert_eq!(reason["guard"]["interval95"], Value::Null);
        assert_eq!(with_guard(json!({}), None), json!({}));
    }

    /// Without backends the array is empty.
    #[test]
    fn nothing_is_an_empty_array() {
        assert_eq!(stats(&[], &[]), json!([]));
    }

    /// Numbers that JSON cannot express are null, and minus zero is zero.
    #[test]
    fn odd_numbers_are_valid_json() {
        let rows = [
            (f64::NAN, "null"),
            (f64::INFINITY, "null"),
            (-0.0, "0"),
            (-0.0001, "0"),
            (0.0005, "0.001"),
            (1e15, "1000000000000000"),
            (1e16, "1e+16"),
            (f64::MAX, "1.7976931348623157e+308"),
        ];
        for (number, expected) in rows {
            let text = serde_json::to_string(&Decimal::new(number)).expect("JSON");
            assert_eq!(text, expected);
        }
    }
}
