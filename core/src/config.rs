//! The rules of a router with their defaults, units and ranges. The rules of a single policy are
//! in its folder.
mod affinity;
mod backends;
pub(crate) mod millis;
pub(crate) mod range;

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::affinity::{AffinityBy, AffinityRules};
pub use self::backends::{BackendLimits, CheckRules, Mode};
pub use self::range::ConfigError;
use self::range::{DAY, HOUR, TICK};
pub use crate::policy::kind::PolicyKind;
pub use crate::policy::learned::rules::LearnedRules;
pub use crate::policy::linear_rl::rules::LinearRlRules;
pub use crate::policy::peak_ewma::rules::PeakEwmaRules;
pub use crate::policy::prequal::rules::PrequalRules;

/// The configuration of a [`Router`](crate::Router).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RouterConfig {
    /// The backends by name, in order of preference among equals. Names are unique and not empty.
    pub backends: Vec<String>,
    /// The rules for choosing among them.
    pub rules: Rules,
}

impl RouterConfig {
    /// The maximum number of backends of a router. It is a chosen value: the probes of more
    /// backends would be a heavy load.
    pub const BACKENDS_MAX: usize = 10_000;

    /// Checks names and rules.
    ///
    /// # Errors
    /// The first invalid value: `backends[1].name` for the second backend's name, or the path of a
    /// rule below `routing`.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.backends.len() > Self::BACKENDS_MAX {
            let allowed = format!("at most {} backends", Self::BACKENDS_MAX);
            return Err(ConfigError::new("backends", &allowed));
        }
        let mut seen = BTreeSet::new();
        for (index, name) in self.backends.iter().enumerate() {
            let path = format!("backends[{index}].name");
            if name.is_empty() {
                return Err(ConfigError::new(&path, "not empty"));
            }
            if !seen.insert(name) {
                return Err(ConfigError::new(&path, "unlike the names before it"));
            }
        }
        self.rules.limits.validate()?;
        self.rules.validate()
    }
}

/// The rules of routing; the `routing` object of the proxy's configuration file.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Rules {
    /// The policy that ranks the backends.
    pub policy: PolicyKind,
    /// The cost of each factor of the score.
    pub weights: Weights,
    /// Conditions for leaving the current backend for a better one.
    pub switch: SwitchRules,
    /// Intervals and timeouts of probes.
    pub probes: ProbeRules,
    /// Probes that bring a backend down, and up again.
    pub health: HealthRules,
    /// The weight of past errors.
    pub errors: ErrorRules,
    /// The averaging of samples.
    pub smoothing: Smoothing,
    /// The condition for treating a response as a stream.
    pub streams: StreamRules,
    /// The rules that keep requests with a common key at one backend.
    pub affinity: AffinityRules,
    /// Rules of the policy `learned`.
    pub learned: LearnedRules,
    /// Rules of the policy `peak_ewma`.
    pub peak_ewma: PeakEwmaRules,
    /// Rules of the policy `prequal`.
    pub prequal: PrequalRules,
    /// Rules of the policy `linear_rl`.
    pub linear_rl: LinearRlRules,
    /// The rules of single backends. Not a part of the `routing` object.
    #[serde(skip)]
    pub limits: BackendLimits,
}

/// Points that each factor of the score adds; each is finite and from 0 to 1e6. The defaults, in
/// brackets, are the product's specification of the score.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Weights {
    /// Points per millisecond of the latency average (1).
    pub latency: f64,
    /// Points if all pings are lost (80). The loss is capped at 0.98.
    pub loss: f64,
    /// Points per percent of the error rate (40).
    pub errors: f64,
    /// Points per request in flight (2).
    pub in_flight: f64,
    /// The limit of the points for a growing queue: `queue · tanh(queueEwma / 50)` (12).
    pub queue: f64,
    /// The limit of the points for a growing CPU busy time: `cpu · tanh(cpuBusyMs / 100)` (30). A
    /// backend that reports its pressure and no CPU time has `cpu · pressure`.
    pub cpu: f64,
    /// The limit of the points for growing memory: `memory · tanh(bytes / 200 MiB)` (12).
    pub memory: f64,
}

impl Default for Weights {
    fn default() -> Self {
        Self {
            latency: 1.0,
            loss: 80.0,
            errors: 40.0,
            in_flight: 2.0,
            queue: 12.0,
            cpu: 30.0,
            memory: 12.0,
        }
    }
}

/// Conditions for leaving the current backend for a better one. The defaults of the first two are
/// the product's specification.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct SwitchRules {
    /// Points by which the score of the other backend must be lower (30); finite, from 0 to 1e6.
    pub threshold: f64,
    /// Time that must have passed since the last switch (1500 ms); at most an hour.
    #[serde(rename = "cooldownMs", with = "millis")]
    pub cooldown: Duration,
    /// Whether single requests go to another backend while the current one is full, so that load
    /// alone causes no switch (true).
    pub spill_over: bool,
}

impl Default for SwitchRules {
    fn default() -> Self {
        Self { threshold: 30.0, cooldown: Duration::from_millis(1500), spill_over: true }
    }
}

/// Intervals and timeouts of probes; each from 1 ms to an hour. The intervals are the product's
/// specification.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct ProbeRules {
    /// Time between two pings of a backend (5000 ms).
    #[serde(rename = "pingIntervalMs", with = "millis")]
    pub ping_interval: Duration,
    /// Time in which a ping must be complete (1000 ms).
    #[serde(rename = "pingTimeoutMs", with = "millis")]
    pub ping_timeout: Duration,
    /// Wait before the next ping while a verdict is open (500 ms): after a first failure or
    /// success, before the backend is down or up.
    #[serde(rename = "pingRetryMs", with = "millis")]
    pub ping_retry: Duration,
    /// Time between two reports of a backend (3000 ms).
    #[serde(rename = "reportIntervalMs", with = "millis")]
    pub report_interval: Duration,
    /// Time in which a report must be complete (1000 ms).
    #[serde(rename = "reportTimeoutMs", with = "millis")]
    pub report_timeout: Duration,
}

impl Default for ProbeRules {
    fn default() -> Self {
        Self {
            ping_interval: Duration::from_millis(5000),
            ping_timeout: Duration::from_millis(1000),
            ping_retry: Duration::from_millis(500),
            report_interval: Duration::from_millis(3000),
            report_timeout: Duration::from_millis(1000),
        }
    }
}

/// Probes that bring a backend down, and up again.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct HealthRules {
    /// Consecutive failed pings after which a backend is down (3, as in HAProxy); from 1 to 1000.
    pub fall: u32,
    /// Consecutive successful pings after which a backend is up again (2, as in HAProxy); from 1
    /// to 1000.
    pub rise: u32,
}

impl Default for HealthRules {
    fn default() -> Self {
        Self { fall: 3, rise: 2 }
    }
}

/// The weight of past errors.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct ErrorRules {
    /// Time after which a request has half its weight (30 000 ms); from 1 ms to a day.
    #[serde(rename = "halfLifeMs", with = "millis")]
    pub half_life: Duration,
    /// The number of good requests that every backend gets in addition, so that one error among few
    /// requests weighs little (10); finite, from 0 to 1e6. With 0, a backend without requests has
    /// no errors.
    pub prior: f64,
    /// Time charged for a failed request wherever costs are compared (5000 ms), about the timeout
    /// of a request; from 1 ms to an hour.
    #[serde(rename = "chargeMs", with = "millis")]
    pub charge: Duration,
    /// Whether a backend is left out for a while if only its requests fail (true). `learned` always
    /// ejects by its own rules.
    pub eject: bool,
}

impl Default for ErrorRules {
    fn default() -> Self {
        Self {
            half_life: Duration::from_secs(30),
            prior: 10.0,
            charge: Duration::from_millis(5000),
            eject: true,
        }
    }
}

/// The averaging of samples.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Smoothing {
    /// Share of a new sample in an average (0.2, the product's specification); above 0, at most 1.
    pub alpha: f64,
    /// Pings after which loss counts in the score (5, the product's specification); from 0 to
    /// 1000.
    pub loss_pings: u32,
}

impl Default for Smoothing {
    fn default() -> Self {
        Self { alpha: 0.2, loss_pings: 5 }
    }
}

/// The condition for treating a response as a stream, which is not counted as work. The driver
/// measures the time and sends [`Event::StreamOpened`](crate::Event::StreamOpened).
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct StreamRules {
    /// A response that has begun counts as work until no byte arrives for this time (1000 ms); from
    /// 1 ms to an hour.
    #[serde(rename = "idleMs", with = "millis")]
    pub idle: Duration,
}

impl Default for StreamRules {
    fn default() -> Self {
        Self { idle: Duration::from_millis(1000) }
    }
}

impl Rules {
    /// Checks every number against its range.
    ///
    /// # Errors
    /// The first number out of range, with its path in the configuration file below `routing`.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let weights = [
            ("weights.latency", self.weights.latency),
            ("weights.loss", self.weights.loss),
            ("weights.errors", self.weights.errors),
            ("weights.inFlight", self.weights.in_flight),
            ("weights.queue", self.weights.queue),
            ("weights.cpu", self.weights.cpu),
            ("weights.memory", self.weights.memory),
            ("switch.threshold", self.switch.threshold),
            ("errors.prior", self.errors.prior),
        ];
        for (path, value) in weights {
            range::number(path, value, 0.0, 1e6)?;
        }
        range::span("switch.cooldownMs", self.switch.cooldown, Duration::ZERO, HOUR)?;
        range::span("probes.pingIntervalMs", self.probes.ping_interval, TICK, HOUR)?;
        range::span("probes.pingTimeoutMs", self.probes.ping_timeout, TICK, HOUR)?;
        range::span("probes.pingRetryMs", self.probes.ping_retry, TICK, HOUR)?;
        range::span("probes.reportIntervalMs", self.probes.report_interval, TICK, HOUR)?;
        range::span("probes.reportTimeoutMs", self.probes.report_timeout, TICK, HOUR)?;
        range::span("errors.halfLifeMs", self.errors.half_life, TICK, DAY)?;
        range::span("errors.chargeMs", self.errors.charge, TICK, HOUR)?;
        range::span("streams.idleMs", self.streams.idle, TICK, HOUR)?;
        range::count("health.fall", self.health.fall, 1, 1000)?;
        range::count("health.rise", self.health.rise, 1, 1000)?;
        range::count("smoothing.lossPings", self.smoothing.loss_pings, 0, 1000)?;
        if !(self.smoothing.alpha > 0.0 && self.smoothing.alpha <= 1.0) {
            return Err(ConfigError::new("smoothing.alpha", "a number above 0 and at most 1"));
        }
        self.affinity.validate()?;
        self.learned.validate()?;
        self.peak_ewma.validate()?;
        self.prequal.validate()?;
        self.linear_rl.validate()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The defaults are the documented ones, written as in the configuration file. Serialising and
    /// parsing agree.
    #[test]
    fn defaults_as_json() {
        let json = serde_json::json!({
            "policy": "score",
            "weights": {
                "latency": 1.0, "loss": 80.0, "errors": 40.0, "inFlight": 2.0,
                "queue": 12.0, "cpu": 30.0, "memory": 12.0,
            },
            "switch": { "threshold": 30.0, "cooldownMs": 1500, "spillOver": true },
            "probes": {
                "pingIntervalMs": 5000, "pingTimeoutMs": 1000, "pingRetryMs": 500,
                "reportIntervalMs": 3000, "reportTimeoutMs": 1000,
            },
            "health": { "fall": 3, "rise": 2 },
            "errors": { "halfLifeMs": 30_000, "prior": 10.0, "chargeMs": 5000, "eject": true },
            "smoothing": { "alpha": 0.2, "lossPings": 5 },
            "streams": { "idleMs": 1000 },
            "affinity": { "by": null, "name": null, "slack": null },
            "learned": { "confidence": 1.5, "exploration": 0.005, "controlShare": 0.005 },
            "peakEwma": { "decayMs": 10_000 },
            "prequal": { "hotQuantile": 0.84 },
            "linearRl": { "exploration": 0.1 },
        });
        assert_eq!(serde_json::to_value(Rules::default()).unwrap(), json);
        assert_eq!(serde_json::from_value::<Rules>(json).unwrap(), Rules::default());
        assert_eq!(serde_json::from_str::<Rules>("{}").unwrap(), Rules::default());
        assert!(serde_json::from_str::<Rules>(r#"{"weights": {"latencies": 1}}"#).is_err());
    }

    /// Every range ends exactly at its documented bounds: the bounds are accepted, a value just
    /// outside is rejected with its path.
    #[test]
    fn ranges_are_exact() {
        let cases = [
            (r#"{"weights": {"latency": 0, "loss": 0, "errors": 0, "inFlight": 0}}"#, None),
            (r#"{"weights": {"queue": 0, "cpu": 0}}"#, None),
            (r#"{"weights": {"latency": 1e6, "loss": 1e6, "errors": 1e6}}"#, None),
            (r#"{"weights": {"inFlight": 1e6, "queue": 1e6}}"#, None),
            (r#"{"weights": {"cpu": 1e6, "memory": 1e6}, "errors": {"prior": 1e6}}"#, None),
            (
                r#"{"weights": {"memory": 0}, "errors": {"prior": 0, "halfLifeMs": 1, "chargeMs": 1}}"#,
                None,
            ),
            (r#"{"errors": {"halfLifeMs": 86400000, "chargeMs": 3600000}}"#, None),
            (r#"{"switch": {"threshold": 0, "cooldownMs": 0}}"#, None),
            (r#"{"switch": {"threshold": 1e6, "cooldownMs": 3600000}}"#, None),
            (r#"{"probes": {"pingIntervalMs": 1, "pingTimeoutMs": 1, "pingRetryMs": 1}}"#, None),
            (r#"{"probes": {"pingIntervalMs": 3600000, "pingTimeoutMs": 3600000}}"#, None),
            (
                r#"{"probes": {"pingRetryMs": 3600000, "reportIntervalMs": 1, "reportTimeoutMs": 1}}"#,
                None,
            ),
            (r#"{"probes": {"reportIntervalMs": 3600000, "reportTimeoutMs": 3600000}}"#, None),
            (r#"{"streams": {"idleMs": 1}, "peakEwma": {"decayMs": 1}}"#, None),
            (r#"{"streams": {"idleMs": 3600000}, "peakEwma": {"decayMs": 3600000}}"#, None),
            (
                r#"{"health": {"fall": 1, "rise": 1}, "smoothing": {"alpha": 0.001, "lossPings": 0}}"#,
                None,
            ),
            (
                r#"{"health": {"fall": 1000, "rise": 1000}, "smoothing": {"alpha": 1, "lossPings": 1000}}"#,
                None,
            ),
            (r#"{"learned": {"confidence": 0.5, "exploration": 0, "controlShare": 0}}"#, None),
            (r#"{"learned": {"confidence": 5, "exploration": 0.1, "controlShare": 0.1}}"#, None),
            (r#"{"prequal": {"hotQuantile": 0}, "linearRl": {"exploration": 0}}"#, None),
            (r#"{"prequal": {"hotQuantile": 1}, "linearRl": {"exploration": 1}}"#, None),
            (r#"{"weights": {"latency": -0.1}}"#, Some("weights.latency")),
            (r#"{"weights": {"latency": 1000000.1}}"#, Some("weights.latency")),
            (r#"{"weights": {"loss": -0.1}}"#, Some("weights.loss")),
            (r#"{"weights": {"loss": 1000000.1}}"#, Some("weights.loss")),
            (r#"{"weights": {"errors": -0.1}}"#, Some("weights.errors")),
            (r#"{"weights": {"errors": 1000000.1}}"#, Some("weights.errors")),
            (r#"{"weights": {"inFlight": -0.1}}"#, Some("weights.inFlight")),
            (r#"{"weights": {"inFlight": 1000000.1}}"#, Some("weights.inFlight")),
            (r#"{"weights": {"queue": -0.1}}"#, Some("weights.queue")),
            (r#"{"weights": {"queue": 1000000.1}}"#, Some("weights.queue")),
            (r#"{"weights": {"cpu": -0.1}}"#, Some("weights.cpu")),
            (r#"{"weights": {"cpu": 1000000.1}}"#, Some("weights.cpu")),
            (r#"{"weights": {"memory": -0.1}}"#, Some("weights.memory")),
            (r#"{"weights": {"memory": 1000000.1}}"#, Some("weights.memory")),
            (r#"{"switch": {"threshold": -0.1}}"#, Some("switch.threshold")),
            (r#"{"switch": {"threshold": 1000000.1}}"#, Some("switch.threshold")),
            (r#"{"switch": {"cooldownMs": 3600001}}"#, Some("switch.cooldownMs")),
            (r#"{"probes": {"pingIntervalMs": 0}}"#, Some("probes.pingIntervalMs")),
            (r#"{"probes": {"pingIntervalMs": 3600001}}"#, Some("probes.pingIntervalMs")),
            (r#"{"probes": {"pingTimeoutMs": 0}}"#, Some("probes.pingTimeoutMs")),
            (r#"{"probes": {"pingTimeoutMs": 3600001}}"#, Some("probes.pingTimeoutMs")),
            (r#"{"probes": {"pingRetryMs": 0}}"#, Some("probes.pingRetryMs")),
            (r#"{"probes": {"pingRetryMs": 3600001}}"#, Some("probes.pingRetryMs")),
            (r#"{"probes": {"reportIntervalMs": 0}}"#, Some("probes.reportIntervalMs")),
            (r#"{"probes": {"reportIntervalMs": 3600001}}"#, Some("probes.reportIntervalMs")),
            (r#"{"probes": {"reportTimeoutMs": 0}}"#, Some("probes.reportTimeoutMs")),
            (r#"{"probes": {"reportTimeoutMs": 3600001}}"#, Some("probes.reportTimeoutMs")),
            (r#"{"errors": {"prior": -0.1}}"#, Some("errors.prior")),
            (r#"{"errors": {"prior": 1000000.1}}"#, Some("errors.prior")),
            (r#"{"errors": {"halfLifeMs": 0}}"#, Some("errors.halfLifeMs")),
            (r#"{"errors": {"halfLifeMs": 86400001}}"#, Some("errors.halfLifeMs")),
            (r#"{"errors": {"chargeMs": 0}}"#, Some("errors.chargeMs")),
            (r#"{"errors": {"chargeMs": 3600001}}"#, Some("errors.chargeMs")),
            (r#"{"streams": {"idleMs": 0}}"#, Some("streams.idleMs")),
            (r#"{"streams": {"idleMs": 3600001}}"#, Some("streams.idleMs")),
            (r#"{"peakEwma": {"decayMs": 0}}"#, Some("peakEwma.decayMs")),
            (r#"{"peakEwma": {"decayMs": 3600001}}"#, Some("peakEwma.decayMs")),
            (r#"{"learned": {"confidence": 0.49}}"#, Some("learned.confidence")),
            (r#"{"learned": {"confidence": 5.01}}"#, Some("learned.confidence")),
            (r#"{"learned": {"exploration": -0.01}}"#, Some("learned.exploration")),
            (r#"{"learned": {"exploration": 0.11}}"#, Some("learned.exploration")),
            (r#"{"learned": {"controlShare": -0.01}}"#, Some("learned.controlShare")),
            (r#"{"learned": {"controlShare": 0.11}}"#, Some("learned.controlShare")),
            (r#"{"affinity": {"slack": 0, "name": "a"}}"#, None),
            (r#"{"affinity": {"slack": 1, "by": "header"}}"#, None),
            (r#"{"affinity": {"slack": 100, "by": "cookie"}}"#, None),
            (r#"{"affinity": {"slack": -0.01}}"#, Some("affinity.slack")),
            (r#"{"affinity": {"slack": 0.99}}"#, Some("affinity.slack")),
            (r#"{"affinity": {"slack": 100.01}}"#, Some("affinity.slack")),
            (r#"{"affinity": {"name": ""}}"#, Some("affinity.name")),
            (r#"{"affinity": {"name": "a=b"}}"#, Some("affinity.name")),
            (r#"{"affinity": {"by": "clientAddress", "name": "a"}}"#, Some("affinity.name")),
            (r#"{"prequal": {"hotQuantile": -0.01}}"#, Some("prequal.hotQuantile")),
            (r#"{"prequal": {"hotQuantile": 1.01}}"#, Some("prequal.hotQuantile")),
            (r#"{"linearRl": {"exploration": -0.01}}"#, Some("linearRl.exploration")),
            (r#"{"linearRl": {"exploration": 1.01}}"#, Some("linearRl.exploration")),
            (r#"{"health": {"fall": 0}}"#, Some("health.fall")),
            (r#"{"health": {"fall": 1001}}"#, Some("health.fall")),
            (r#"{"health": {"rise": 0}}"#, Some("health.rise")),
            (r#"{"health": {"rise": 1001}}"#, Some("health.rise")),
            (r#"{"smoothing": {"alpha": 0}}"#, Some("smoothing.alpha")),
            (r#"{"smoothing": {"alpha": 1.01}}"#, Some("smoothing.alpha")),
            (r#"{"smoothing": {"lossPings": 1001}}"#, Some("smoothing.lossPings")),
        ];
        for (json, refused) in cases {
            let rules: Rules = serde_json::from_str(json).expect(json);
            let path = rules.validate().err().map(|error| error.path);
            assert_eq!(path.as_deref(), refused, "{json}");
        }
    }

    /// The maximum number of backends is accepted, one more is not.
    #[test]
    fn backends_are_bounded() {
        for (count, is_allowed) in [
            (RouterConfig::BACKENDS_MAX - 1, true),
            (RouterConfig::BACKENDS_MAX, true),
            (RouterConfig::BACKENDS_MAX + 1, false),
        ] {
            let backends = (0..count).map(|index| index.to_string()).collect();
            let config = RouterConfig { backends, rules: Rules::default() };
            assert_eq!(config.validate().is_ok(), is_allowed, "{count} backends");
        }
    }
}
