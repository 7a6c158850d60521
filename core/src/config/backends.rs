//! The rules of single backends.
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ProbeRules;
use super::range::{self, ConfigError, HOUR, TICK};

/// The rules of single backends: requests in flight at the same time, relative capacity, whether
/// they are in service or backups, and their health checks.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct BackendLimits {
    /// The limit of each backend; 0 for no limit.
    pub per_backend: u32,
    /// The limits of single backends by name, which override `per_backend`; 0 for no limit.
    pub own: BTreeMap<String, u32>,
    /// The relative capacity of backends by name, in percent of the usual one
    /// ([`WEIGHT_USUAL`](Self::WEIGHT_USUAL)); 0 to [`WEIGHT_MAX`](Self::WEIGHT_MAX). A backend
    /// with 0 gets no requests.
    pub weights: BTreeMap<String, u32>,
    /// The backends that are not in service, by name.
    pub modes: BTreeMap<String, Mode>,
    /// The backends that get requests only while no other can take them, by name.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub backups: BTreeSet<String>,
    /// The health checks of backends that differ from the common probe rules, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub checks: BTreeMap<String, CheckRules>,
}

/// The probes of one backend: health checks and load reports.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct CheckRules {
    /// Whether it is never pinged. If so, only the results of requests count: it is never down, and
    /// a timer, not a ping, ends its ejection.
    pub is_off: bool,
    /// Whether it is down until its first good ping, instead of unknown.
    pub starts_down: bool,
    /// Time between two pings, ms; from 1 ms to an hour. `None`: the common value.
    pub interval_ms: Option<u32>,
    /// Time in which a ping must be complete, ms; from 1 ms to an hour. `None`: the common value.
    pub timeout_ms: Option<u32>,
    /// Whether load reports are not requested from it.
    #[serde(skip_serializing_if = "is_false")]
    pub is_report_off: bool,
    /// Time between two load reports, ms; from 1 ms to an hour. `None`: the common value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub report_interval_ms: Option<u32>,
    /// Time in which a load report must be complete, ms; from 1 ms to an hour. `None`: the common
    /// value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub report_timeout_ms: Option<u32>,
    /// Whether an agent sets its weight and takes it out of service
    /// ([`AgentState`](crate::AgentState)).
    #[serde(skip_serializing_if = "is_false")]
    pub has_agent: bool,
    /// Whether pings go to another port than requests. A refused ping then does not show that the
    /// connection of a request would be refused.
    #[serde(skip_serializing_if = "is_false")]
    pub is_elsewhere: bool,
}

/// Whether a value is the default one, which is not written.
const fn is_false(value: &bool) -> bool {
    !*value
}

impl CheckRules {
    /// The rules of probes that apply to this backend.
    pub(crate) fn of_probes(&self, usual: &ProbeRules) -> ProbeRules {
        let own = |ms: Option<u32>, usual| ms.map_or(usual, |ms| Duration::from_millis(ms.into()));
        ProbeRules {
            ping_interval: own(self.interval_ms, usual.ping_interval),
            ping_timeout: own(self.timeout_ms, usual.ping_timeout),
            report_interval: own(self.report_interval_ms, usual.report_interval),
            report_timeout: own(self.report_timeout_ms, usual.report_timeout),
            ..*usual
        }
    }
}

/// Whether a backend is in service. An operator decides this, not its health.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// In service.
    #[default]
    Ready,
    /// It gets no new requests. Requests in flight finish, and probes continue.
    Drain,
    /// It gets neither new requests nor probes. Requests in flight finish.
    Maintain,
}

impl Mode {
    /// The name in commands, /stats and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Drain => "drain",
            Self::Maintain => "maintain",
        }
    }
}

impl BackendLimits {
    /// The weight of a backend for which none is configured, percent.
    pub const WEIGHT_USUAL: u32 = 100;
    /// The highest weight, percent. It is a chosen value: backends of one pool rarely differ by a
    /// factor of ten.
    pub const WEIGHT_MAX: u32 = 1000;

    /// The weight of a backend, percent.
    pub(crate) fn weight_of(&self, name: &str) -> u32 {
        self.weights.get(name).copied().unwrap_or(Self::WEIGHT_USUAL)
    }

    /// The mode of a backend.
    pub(crate) fn mode_of(&self, name: &str) -> Mode {
        self.modes.get(name).copied().unwrap_or_default()
    }

    /// Whether a backend gets requests only while no other can take them.
    pub(crate) fn is_backup(&self, name: &str) -> bool {
        self.backups.contains(name)
    }

    /// The health checks of a backend.
    pub(crate) fn checks_of(&self, name: &str) -> CheckRules {
        self.checks.get(name).copied().unwrap_or_default()
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        if let Some((name, weight)) =
            self.weights.iter().find(|(_, weight)| **weight > Self::WEIGHT_MAX)
        {
            range::count(&format!("backends.{name}.weight"), *weight, 0, Self::WEIGHT_MAX)?;
        }
        for (name, check) in &self.checks {
            for (key, ms) in [
                ("health.intervalMs", check.interval_ms),
                ("health.timeoutMs", check.timeout_ms),
                ("reports.intervalMs", check.report_interval_ms),
                ("reports.timeoutMs", check.report_timeout_ms),
            ] {
                let span = Duration::from_millis(ms.unwrap_or(1).into());
                range::span(&format!("backends.{name}.{key}"), span, TICK, HOUR)?;
            }
        }
        Ok(())
    }

    /// The limit that applies to a backend; `u32::MAX` for no limit.
    pub(crate) fn of(&self, name: &str) -> u32 {
        let limit = self.own.get(name).copied().unwrap_or(self.per_backend);
        if limit == 0 { u32::MAX } else { limit }
    }
}
