//! The state that a policy keeps across restarts: plain data with a version.
//!
//! The driver writes it to a file and reads it again. It is not trusted: the router refuses another
//! version, and each policy refuses the state of another one and numbers that it cannot have
//! learned.
use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The state of a policy, returned by [`Router::policy_state`](crate::Router::policy_state).
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PolicyState {
    /// The format: [`PolicyState::VERSION`].
    pub version: u32,
    /// The learned state.
    #[serde(rename = "learned")]
    pub of: StateOf,
}

/// State of each policy that learns.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StateOf {
    /// The model of `learned`.
    Learned(LearnedPolicyState),
    /// The weights of `linear_rl`.
    LinearRl([f64; 8]),
}

/// State of `learned`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct LearnedPolicyState {
    /// Latency of an idle backend of speed 1 before anything was known, ms.
    pub scale_ms: f64,
    /// Dispersion of completions.
    pub phi: f64,
    /// Good completions that the curve was learned from.
    pub completions: u64,
    /// Decayed completions by in flight, 1 to 96, of the pool.
    pub curve_completions: Vec<f64>,
    /// Speed-weighted time at as many in flight, ms.
    pub curve_time_ms: Vec<f64>,
    /// The backends by name.
    pub backends: BTreeMap<String, LearnedBackendState>,
}

/// State of `learned` about one backend.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct LearnedBackendState {
    /// Decayed completions of the speed's memories.
    pub completions: [f64; 9],
    /// Decayed exposures of the speed's memories.
    pub exposure: [f64; 9],
    /// Decayed completions by bin of in flight.
    pub shape_completions: [f64; 14],
    /// Completions predicted by bin of in flight.
    pub shape_predicted: [f64; 14],
    /// Dispersion of its completions.
    pub phi: f64,
    /// Decayed requests, and errors among them.
    pub errors: [f64; 2],
    /// Average time of an answered request, ms; 0 before the first.
    pub latency_ms: f64,
}

/// Why a state was refused.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum PolicyStateError {
    /// Of another version of the format.
    Version(u32),
    /// By another policy than the one in use.
    Policy,
    /// A number that the policy cannot have learned: its path.
    Number(String),
    /// Not a state: what is wrong with the text, and where.
    Text(String),
}

impl PolicyState {
    /// The version that is written and read.
    pub const VERSION: u32 = 1;

    /// Reads a state from its JSON text. It is validated when it is restored.
    ///
    /// # Errors
    /// The fault of the text.
    pub fn from_json(text: &str) -> Result<Self, PolicyStateError> {
        serde_json::from_str(text).map_err(|error| PolicyStateError::Text(error.to_string()))
    }

    /// The state as JSON text.
    pub fn to_json(&self) -> String {
        // Plain data with string keys and finite numbers: JSON takes all of it.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}

impl fmt::Display for PolicyStateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(version) => {
                write!(f, "version {version} of the state, where {} is read", PolicyState::VERSION)
            }
            Self::Policy => write!(f, "the state of another policy"),
            Self::Number(path) => write!(f, "{path} of the state is out of range"),
            Self::Text(wrong) => write!(f, "not a state: {wrong}"),
        }
    }
}

impl std::error::Error for PolicyStateError {}

/// Refuses the state when the number at `path` is not `is_good`.
pub(super) fn check(path: &str, is_good: bool) -> Result<(), PolicyStateError> {
    if is_good { Ok(()) } else { Err(PolicyStateError::Number(path.to_owned())) }
}
