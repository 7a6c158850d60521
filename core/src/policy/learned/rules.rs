//! The configuration of `learned`.
use serde::{Deserialize, Serialize};

use crate::config::range::{self, ConfigError};

/// Settings of the policy `learned`.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct LearnedRules {
    /// Standard errors by which completions must differ from the estimated speed before older ones
    /// are forgotten (1.5); from 0.5 to 5. Lower values follow changes sooner, but mistake noise
    /// for a change more often.
    pub confidence: f64,
    /// Trials of idle or returning backends that each request adds to the budget (0.005); from 0
    /// to 0.1.
    pub exploration: f64,
    /// Share of the requests that `least_request` routes for comparison (0.005); from 0, which
    /// turns the guard off, to 0.1. Keep it smaller than the tail of interest: 0.005 hardly affects
    /// the 99th percentile.
    pub control_share: f64,
}

impl Default for LearnedRules {
    fn default() -> Self {
        Self { confidence: 1.5, exploration: 0.005, control_share: 0.005 }
    }
}

impl LearnedRules {
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        range::number("learned.confidence", self.confidence, 0.5, 5.0)?;
        range::number("learned.exploration", self.exploration, 0.0, 0.1)?;
        range::number("learned.controlShare", self.control_share, 0.0, 0.1)
    }
}
