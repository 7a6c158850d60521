//! The configuration of `linear_rl`.
use serde::{Deserialize, Serialize};

use crate::config::range::{self, ConfigError};

/// Settings of the policy `linear_rl`.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct LinearRlRules {
    /// Share of the requests that explore at the start (0.1); from 0 to 1. It falls to a tenth of
    /// the initial value.
    pub exploration: f64,
}

impl Default for LinearRlRules {
    fn default() -> Self {
        Self { exploration: 0.1 }
    }
}

impl LinearRlRules {
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        range::number("linearRl.exploration", self.exploration, 0.0, 1.0)
    }
}
