//! The configuration of `prequal`.
use serde::{Deserialize, Serialize};

use crate::config::range::{self, ConfigError};

/// The policy `prequal`.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct PrequalRules {
    /// The quantile of requests in flight above which a probe is hot (0.84, as in the paper); from
    /// 0 to 1. Low values give load more weight than latency, and send more consecutive requests to
    /// one backend.
    pub hot_quantile: f64,
}

impl Default for PrequalRules {
    fn default() -> Self {
        Self { hot_quantile: 0.84 }
    }
}

impl PrequalRules {
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        range::number("prequal.hotQuantile", self.hot_quantile, 0.0, 1.0)
    }
}
