//! The learned state of a policy, kept across restarts: plain data with a version.
//!
//! The driver writes the state to a file and reads it again, so it is checked like any input. The
//! router refuses another version. Each policy refuses the state of another policy, and numbers
//! that it cannot have learned.
use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The state of a policy, returned by [`Router::policy_state`](crate::Router::policy_state).
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PolicyState {
    /// The version of the format: [`PolicyState::VERSION`].
    pub version: u32,
    /// The learned state.
    #[serde(rename = "learned")]
    pub of: StateOf,
}

/// The learned state, by policy.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StateOf {
    /// The model of `learned`.
    Learned(LearnedPolicyState),
    /// The weights of `linear_rl`.
    LinearRl([f64; 8]),
}

/// The learned state of `learned`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct LearnedPolicyState {
    /// Latency of an idle backend of speed 1, before anything was learned, ms.
    pub scale_ms: f64,
    /// Dispersion of completions: variance over mean.
    pub phi: f64,
    /// Good completions so far.
    pub completions: u64,
    /// Decayed completions of the pool by requests in flight, 1 to 96.
    pub curve_completions: Vec<f64>,
    /// Speed-weighted time at each number of requests in flight, ms.
    pub curve_time_ms: Vec<f64>,
    /// The backends by name.
    pub backends: BTreeMap<String, LearnedBackendState>,
}

/// The learned state of `learned` for one backend.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct LearnedBackendState {
    /// Decayed completions in each memory of the speed.
    pub completions: [f64; 9],
    /// Decayed exposure in each memory of the speed.
    pub exposure: [f64; 9],
    /// Decayed completions by bin of requests in flight.
    pub shape_completions: [f64; 14],
    /// Decayed predicted completions by bin of requests in flight.
    pub shape_predicted: [f64; 14],
    /// Dispersion of the backend's completions.
    pub phi: f64,
    /// Decayed requests, and errors among them.
    pub errors: [f64; 2],
    /// Average time of a successful request, ms; 0 before the first.
    pub latency_ms: f64,
}

/// The reason why a state was refused.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum PolicyStateError {
    /// The state has another version of the format.
    Version(u32),
    /// The state belongs to another policy than the one in use.
    Policy,
    /// A number that the policy cannot have learned, by its path.
    Number(String),
    /// The text is not a state: the error and its place.
    Text(String),
}

impl PolicyState {
    /// The version that is written and read.
    pub const VERSION: u32 = 1;

    /// Reads a state from its JSON text. It is validated when it is restored.
    ///
    /// # Errors
    /// The error of the text.
    pub fn from_json(text: &str) -> Result<Self, PolicyStateError> {
        serde_json::from_str(text).map_err(|error| PolicyStateError::Text(error.to_string()))
    }

    /// The state as JSON text.
    pub fn to_json(&self) -> String {
        // Plain data with string keys and finite numbers, which always serialises.
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

/// Refuses the state unless the number at `path` is valid.
pub(super) fn check(path: &str, is_good: bool) -> Result<(), PolicyStateError> {
    if is_good { Ok(()) } else { Err(PolicyStateError::Number(path.to_owned())) }
}
