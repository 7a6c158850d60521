//! The faults that a scenario can give its backends: plain data. `backend.rs` carries them out.
use serde::{Deserialize, Serialize};

use super::check;

/// A fault and the time in which it is active.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Fault {
    /// Start, s.
    #[serde(default, deserialize_with = "check::amount")]
    pub from_s: f64,
    /// Duration, s; null: to the end.
    #[serde(default, deserialize_with = "check::some_amount")]
    pub for_s: Option<f64>,
    /// Kind of the fault.
    pub what: FaultKind,
}

/// A fault of a backend.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub enum FaultKind {
    /// Factor of its speed.
    Speed(#[serde(deserialize_with = "check::amount")] f64),
    /// Redraws its speed at intervals.
    #[serde(rename_all = "camelCase")]
    Redraw {
        /// Range from which the factor of its own speed is drawn uniformly.
        #[serde(deserialize_with = "check::range")]
        between: [f64; 2],
        /// Time between two draws, s. The backends of a group take turns within it.
        #[serde(deserialize_with = "check::run_seconds")]
        every_s: f64,
    },
    /// Responds 500 to every request, quickly. Probes are not affected.
    #[serde(rename_all = "camelCase")]
    Sinkhole {
        /// Time to the response, ms.
        #[serde(deserialize_with = "check::amount")]
        after_ms: f64,
    },
    /// Sends nothing: no responses to probes or requests, not even to earlier ones.
    BlackHole,
    /// Refuses every connection, those of probes included.
    Refusing,
    /// Its process ends: the connections of its current requests are cut, and every new one is
    /// refused.
    Crash,
    /// This share of requests gets 500 after the work.
    Errors(#[serde(deserialize_with = "check::share")] f64),
    /// This share of requests is cut after the work, before any byte of the response.
    Cut(#[serde(deserialize_with = "check::share")] f64),
    /// Requests of one class get 500 after the work.
    Fails {
        /// The name of the class.
        class: String,
        /// Share of the requests of the class.
        #[serde(deserialize_with = "check::share")]
        share: f64,
    },
    /// Requests get a status without work: a refusal, or a broken release.
    Answers(Door),
    /// A share of responses is delayed, without using a worker.
    Slow {
        /// Share of requests.
        #[serde(deserialize_with = "check::share")]
        share: f64,
        /// Delay, ms.
        #[serde(deserialize_with = "check::amount")]
        ms: f64,
    },
}

/// Responses without work.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Door {
    /// The status.
    #[serde(deserialize_with = "check::status")]
    pub status: u16,
    /// Share of the requests.
    #[serde(deserialize_with = "check::share")]
    pub share: f64,
    /// Time to the response, ms.
    #[serde(deserialize_with = "check::amount")]
    pub after_ms: f64,
    /// A rate limit: affects only requests above this rate, with a burst of up to one second's
    /// requests; null: affects all.
    #[serde(deserialize_with = "check::some_positive")]
    pub above_per_second: Option<f64>,
    /// The Retry-After of the response, s; null: none.
    #[serde(deserialize_with = "check::some_amount")]
    pub retry_after_s: Option<f64>,
}

impl Default for Door {
    fn default() -> Self {
        Self { status: 429, share: 1.0, after_ms: 0.5, above_per_second: None, retry_after_s: None }
    }
}
