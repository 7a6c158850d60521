//! The configuration of `peak_ewma`.
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::range::{self, ConfigError, HOUR, TICK};

/// The policy `peak_ewma`.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct PeakEwmaRules {
    /// Time constant with which a peak decays (10 000 ms, as in Finagle and tower); from 1 ms to an
    /// hour.
    #[serde(rename = "decayMs", with = "crate::config::millis")]
    pub decay: Duration,
}

impl Default for PeakEwmaRules {
    fn default() -> Self {
        Self { decay: Duration::from_secs(10) }
    }
}

impl PeakEwmaRules {
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        range::span("peakEwma.decayMs", self.decay, TICK, HOUR)
    }
}
