//! One reading of /stats as plain data. Fields that are missing or of another type are unknown.
use intelliproxy_core::sorting::sort_by;
use serde_json::Value;

use crate::cli::top::decisions::Decision;
use crate::cli::top::http::json;
use crate::cli::top::state;
use crate::pages::state::State;

/// The figures of a proxy at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Reading {
    pub(crate) rows: Vec<Row>,
    /// The counts of the proxy itself, by the names of their fields without the prefix.
    pub(crate) counts: Vec<(String, String)>,
    /// Times to the heads of the last seconds of all backends.
    pub(crate) times: Times,
    /// The last decisions, the newest one first; `None` if they were not read.
    pub(crate) decisions: Option<Vec<Decision>>,
}

/// Quantiles of times, ms; `None` without requests, or if they are not reported.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Times {
    pub(crate) p50_ms: Option<f64>,
    pub(crate) p99_ms: Option<f64>,
}

/// One backend.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) state: State,
    pub(crate) requests: u64,
    pub(crate) errors: u64,
    pub(crate) refused: u64,
    /// Responses by the upper bound of their time to the head, ms, in order.
    pub(crate) heads: Vec<(f64, u64)>,
    /// Times to the heads of its last seconds.
    pub(crate) times: Times,
    pub(crate) in_flight: Option<f64>,
    pub(crate) score: Option<f64>,
    /// The points by factor.
    pub(crate) parts: Vec<(String, f64)>,
    /// The whole row, for figures that are shown only for the selected backend.
    pub(crate) json: Value,
}

impl Reading {
    /// Parses the body of /stats.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, String> {
        let wrong = || "the response is not that of /stats".to_owned();
        let Some(Value::Array(rows)) = json(body) else {
            return Err(wrong());
        };
        let rows: Option<Vec<Row>> = rows.into_iter().map(Row::new).collect();
        Ok(Self { rows: rows.ok_or_else(wrong)?, ..Self::default() })
    }

    /// Stores the proxy's header fields: its counts, and the times of all backends.
    pub(crate) fn take_fields(&mut self, fields: impl Iterator<Item = (String, String)>) {
        for (name, value) in fields {
            if name == "times" {
                let figure = |key: &str| {
                    let mut pairs = value.split(',').filter_map(|pair| pair.trim().split_once('='));
                    pairs.find(|(name, _)| *name == key)?.1.parse().ok()
                };
                self.times = Times { p50_ms: figure("p50Ms"), p99_ms: figure("p99Ms") };
            } else {
                self.counts.push((name, value));
            }
        }
    }

    /// Returns the policy in use, if the figures name it.
    pub(crate) fn policy(&self) -> Option<String> {
        let policy = &self.rows.first()?.json["policy"];
        let kind = policy["kind"].as_str()?;
        let guard = &policy["guard"];
        let charge = match guard["inCharge"].as_str() {
            Some(other) if other != kind => format!(", {other} decides"),
            _ => String::new(),
        };
        let gain = match (guard["costRatio"].as_f64(), &guard["interval95"]) {
            (Some(ratio), Value::Array(ends)) => match (ends.first(), ends.get(1)) {
                (Some(low), Some(high)) => format!(
                    ", cost x{ratio:.2} ({:.2} to {:.2})",
                    low.as_f64().unwrap_or(f64::NAN),
                    high.as_f64().unwrap_or(f64::NAN)
                ),
                _ => format!(", cost x{ratio:.2}"),
            },
            _ => String::new(),
        };
        Some(format!("{kind}{charge}{gain}"))
    }
}

impl Row {
    fn new(json: Value) -> Option<Self> {
        let count = |key: &str| json[key].as_u64().unwrap_or(0);
        let bound = |key: &str| {
            let bound = if key == "more" { Ok(f64::INFINITY) } else { key.parse::<f64>() };
            bound.ok().filter(|bound| *bound > 0.0)
        };
        let heads = json["headTimes"].as_object().into_iter().flatten();
        let mut heads: Vec<(f64, u64)> =
            heads.filter_map(|(key, value)| Some((bound(key)?, value.as_u64()?))).collect();
        sort_by(&mut heads, |one, other| one.0.total_cmp(&other.0));
        let times = Times { p50_ms: json["p50Ms"].as_f64(), p99_ms: json["p99Ms"].as_f64() };
        let parts = json["scoreParts"].as_object().into_iter().flatten();
        let parts = parts.filter_map(|(name, value)| Some((name.clone(), value.as_f64()?)));
        Some(Self {
            name: json["name"].as_str()?.to_owned(),
            state: state::of(&json),
            requests: count("totalRequests"),
            errors: count("errorRequests"),
            refused: count("refusedRequests"),
            heads,
            times,
            in_flight: json["activeRequests"].as_f64(),
            score: json["score"].as_f64(),
            parts: parts.collect(),
            json,
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;

    /// A reading of backends: name, requests, responses within 5 ms.
    pub(crate) fn reading(rows: &[(&str, u64, u64)]) -> Reading {
        let rows = rows.iter().map(|(name, requests, heads)| {
            json!({
                "name": name, "url": "http://u", "state": "up", "health": "up", "mode": "ready", "weight": 100,
                "standing": "in", "current": false, "score": 1.5, "activeRequests": 2,
                "scoreParts": {"latency": 1, "loss": 0.5},
                "totalRequests": requests, "errorRequests": requests / 10, "refusedRequests": 0,
                "headTimes": {"5": heads}, "policy": {"kind": "score", "fullAt": 4},
            })
        });
        Reading::parse(Value::Array(rows.collect()).to_string().as_bytes()).expect("a reading")
    }

    /// Missing fields are unknown, and a body other than that of /stats is an error.
    #[test]
    fn readings_are_parsed() {
        let body = json!([{"name": "A", "headTimes": {"2.5": 1, "10": 2, "more": 1, "x": 9}}]);
        let reading = Reading::parse(body.to_string().as_bytes()).expect("it has a name");
        let row = &reading.rows[0];
        assert_eq!(row.heads, [(2.5, 1), (10.0, 2), (f64::INFINITY, 1)]);
        assert_eq!((row.requests, row.score, row.state), (0, None, State::Unknown));
        assert_eq!(reading.policy(), None);
        for body in ["", "{}", "[1]", "[{}]", "[[", "[{\"name\": 1}]"] {
            assert_eq!(
                Reading::parse(body.as_bytes()),
                Err("the response is not that of /stats".to_owned()),
                "{body}"
            );
        }
        assert_eq!(Reading::parse(b"[]"), Ok(Reading::default()));
    }

    /// The proxy reports the times of the last seconds. Without requests they are unknown.
    #[test]
    fn recent_times_are_read() {
        let times = |p50_ms, p99_ms| Times { p50_ms, p99_ms };
        for (row, expected) in [
            (json!({"name": "A", "p50Ms": 1.5, "p99Ms": 20}), times(Some(1.5), Some(20.0))),
            (json!({"name": "A", "p50Ms": null, "p99Ms": null}), times(None, None)),
            (json!({"name": "A"}), Times::default()),
        ] {
            let body = json!([row]).to_string();
            let reading = Reading::parse(body.as_bytes()).expect("a reading");
            assert_eq!(reading.rows[0].times, expected, "{body}");
        }
        let mut reading = Reading::default();
        let fields = [("retries", "done=1"), ("times", "p50Ms=1.500, p99Ms=x")];
        reading.take_fields(fields.into_iter().map(|(a, b)| (a.to_owned(), b.to_owned())));
        assert_eq!(reading.times, times(Some(1.5), None));
        assert_eq!(reading.counts, [("retries".to_owned(), "done=1".to_owned())]);
    }

    /// The policy in charge and the measured gain of the learner are shown.
    #[test]
    fn the_policy_is_named() {
        let policy = |policy: Value| {
            let body = json!([{"name": "A", "policy": policy}]).to_string();
            Reading::parse(body.as_bytes()).expect("a reading").policy()
        };
        assert_eq!(policy(json!({"kind": "score"})), Some("score".to_owned()));
        let guard = json!({"inCharge": "learned", "costRatio": 0.934, "interval95": [0.9, 0.97]});
        assert_eq!(
            policy(json!({"kind": "learned", "guard": guard})),
            Some("learned, cost x0.93 (0.90 to 0.97)".to_owned())
        );
        let guard = json!({"inCharge": "least_request", "costRatio": null});
        assert_eq!(
            policy(json!({"kind": "learned", "guard": guard})),
            Some("learned, least_request decides".to_owned())
        );
    }
}
