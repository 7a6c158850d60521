//! What a policy has learned, to be kept across restarts: plain data with a version.
//!
//! Whoever drives the router writes it where it likes and reads it again. Nothing of it is trusted:
//! [`Memory::validate`] refuses another version and numbers that no policy can have learned, and a
//! router takes in only what fits its policy and the names of its backends.
use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// What [`Router::learned_state`](crate::Router::learned_state) gives out.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Memory {
    /// The format: [`Memory::VERSION`].
    pub version: u32,
    /// What was learned.
    pub learned: Lessons,
}

/// What was learned, by policy.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Lessons {
    /// By `learned`.
    Learned(LearnedMemory),
    /// By `linear_rl`: the weights.
    LinearRl([f64; 8]),
}

/// What `learned` keeps.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct LearnedMemory {
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
    pub backends: BTreeMap<String, BackendMemory>,
}

/// What `learned` keeps of one backend.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct BackendMemory {
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

/// Why a memory was refused.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum MemoryError {
    /// Of another version of the format.
    Version(u32),
    /// By another policy than the one in use.
    Policy,
    /// A number that cannot have been learned: where it stands.
    Number(String),
    /// No memory at all: what is wrong with the text, and where.
    Text(String),
}

impl Memory {
    /// The version that is written and read.
    pub const VERSION: u32 = 1;

    /// Reads a memory from its JSON text; it is not validated yet.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn from_json(text: &str) -> Result<Self, MemoryError> {
        serde_json::from_str(text).map_err(|error| MemoryError::Text(error.to_string()))
    }

    /// The memory as JSON text.
    pub fn to_json(&self) -> String {
        // Plain data with string keys and finite numbers: JSON takes all of it.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// Checks the version and every number.
    ///
    /// # Errors
    /// The first thing that cannot be.
    pub fn validate(&self) -> Result<(), MemoryError> {
        if self.version != Self::VERSION {
            return Err(MemoryError::Version(self.version));
        }
        match &self.learned {
            Lessons::LinearRl(weights) => {
                let most = |index: usize| if index == 7 { WEIGHT_MAX } else { 0.0 };
                let is_good =
                    |(index, weight): (usize, &f64)| (-WEIGHT_MAX..=most(index)).contains(weight);
                check("weights", weights.iter().enumerate().all(is_good))
            }
            Lessons::Learned(learned) => learned.validate(),
        }
    }
}

impl LearnedMemory {
    fn validate(&self) -> Result<(), MemoryError> {
        check("scaleMs", (1e-5..=1e8).contains(&self.scale_ms))?;
        check("phi", (0.5..=16.0).contains(&self.phi))?;
        let curves =
            [("curveCompletions", &self.curve_completions), ("curveTimeMs", &self.curve_time_ms)];
        for (name, curve) in curves {
            check(name, curve.len() == 96 && are_counts(curve, COUNT_MAX))?;
        }
        for (name, backend) in &self.backends {
            let counts = [
                ("completions", &backend.completions[..]),
                ("exposure", &backend.exposure),
                ("shapeCompletions", &backend.shape_completions),
                ("shapePredicted", &backend.shape_predicted),
                ("errors", &backend.errors),
                ("latencyMs", std::slice::from_ref(&backend.latency_ms)),
            ];
            for (field, numbers) in counts {
                check(&format!("backends.{name}.{field}"), are_counts(numbers, COUNT_MAX))?;
            }
            let is_share = backend.errors[1] <= backend.errors[0];
            check(&format!("backends.{name}.errors"), is_share)?;
            let is_in_range = (0.5..=16.0).contains(&backend.phi);
            check(&format!("backends.{name}.phi"), is_in_range)?;
        }
        Ok(())
    }
}

impl fmt::Display for MemoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(version) => {
                write!(f, "version {version} of the state, where {} is read", Memory::VERSION)
            }
            Self::Policy => write!(f, "the state of another policy"),
            Self::Number(path) => write!(f, "{path} of the state is out of range"),
            Self::Text(wrong) => write!(f, "not a state: {wrong}"),
        }
    }
}

impl std::error::Error for MemoryError {}

fn check(path: &str, is_good: bool) -> Result<(), MemoryError> {
    if is_good { Ok(()) } else { Err(MemoryError::Number(path.to_owned())) }
}

fn are_counts(numbers: &[f64], most: f64) -> bool {
    numbers.iter().all(|number| (0.0..=most).contains(number))
}

const WEIGHT_MAX: f64 = crate::policy::linear_rl::WEIGHT_MAX;
const COUNT_MAX: f64 = 1e12;
