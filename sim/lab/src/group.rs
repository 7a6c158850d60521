//! The backends of a scenario and their responses to probes: plain data.
use serde::{Deserialize, Serialize};

use super::check;
use super::fault::Fault;
use super::service::Service;
use intelliproxy_sim::{Faults, Parameters};

/// Equal backends.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct BackendGroup {
    /// Their name, followed by a number if there are several.
    pub name: String,
    /// Number of backends.
    #[serde(deserialize_with = "check::count")]
    pub count: u32,
    /// Number of requests that each backend serves at a time.
    #[serde(deserialize_with = "check::count")]
    pub workers: u32,
    /// Number of requests that may wait at each backend. Further requests get 503 at once.
    #[serde(deserialize_with = "check::room")]
    pub queue: u32,
    /// Work done per unit of time.
    #[serde(deserialize_with = "check::positive")]
    pub speed: f64,
    /// Slowdown of a request by each other request in service: with k in service, each takes `1 +
    /// sharing · (k − 1)` times as long. 0 for independent workers.
    #[serde(deserialize_with = "check::amount")]
    pub sharing: f64,
    /// The work of a request here; null: that of the scenario.
    pub service: Option<Service>,
    /// Round trip between a proxy and the backend, ms; null: that of the scenario.
    #[serde(deserialize_with = "check::some_amount")]
    pub rtt_ms: Option<f64>,
    /// Its responses to probes.
    pub probes: Probes,
    /// Time at which it joins the configuration, s.
    #[serde(deserialize_with = "check::amount")]
    pub joins_s: f64,
    /// Duration of its stay, s; null: to the end.
    #[serde(deserialize_with = "check::some_amount")]
    pub stays_s: Option<f64>,
    /// Faults with their times. Overlapping ones add up.
    pub faults: Vec<Fault>,
}

impl Default for BackendGroup {
    fn default() -> Self {
        Self {
            name: "b".to_owned(),
            count: 1,
            workers: 4,
            queue: 128,
            speed: 1.0,
            sharing: 0.0,
            service: None,
            rtt_ms: None,
            probes: Probes::default(),
            joins_s: 0.0,
            stays_s: None,
            faults: Vec::new(),
        }
    }
}

/// Responses of a backend to probes. They do not use its workers.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Probes {
    /// Work of a ping at speed 1, ms.
    #[serde(deserialize_with = "check::amount")]
    pub work_ms: f64,
    /// Whether a ping takes as long as a request that arrives at the same time would wait.
    pub waits: bool,
    /// The reported memory, MiB.
    #[serde(deserialize_with = "check::amount")]
    pub memory_mib: f64,
    /// Makes pings as unreliable as those of the simulated servers, and the reported queue a random
    /// walk; null: no ping is lost, and the report has the number of waiting requests.
    pub lossy: Option<Lossy>,
    /// The requests that the backend reports.
    pub reports: Reports,
    /// The factor by which the reported requests differ from the true ones; 1 for an honest
    /// backend.
    #[serde(deserialize_with = "check::amount")]
    pub says: f64,
}

/// The requests that a backend reports.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reports {
    /// The waiting requests, in the response to a report probe.
    #[default]
    Queue,
    /// The waiting and the running requests, in the response to a report probe.
    Counts,
    /// The waiting and the running requests, also with every response.
    Responses,
}

impl Default for Probes {
    fn default() -> Self {
        Self {
            work_ms: 1.0,
            waits: false,
            memory_mib: 50.0,
            lossy: None,
            reports: Reports::Queue,
            says: 1.0,
        }
    }
}

/// Faults of pings only, as in the simulated servers' [`Parameters`].
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Lossy {
    /// Chance per ping that a good channel turns bad.
    #[serde(deserialize_with = "check::share")]
    pub good_to_bad: f64,
    /// Chance per ping that a bad channel turns good.
    #[serde(deserialize_with = "check::share")]
    pub bad_to_good: f64,
    /// Share of pings lost while the channel is good.
    #[serde(deserialize_with = "check::share")]
    pub loss_in_good: f64,
    /// Share of pings lost while the channel is bad.
    #[serde(deserialize_with = "check::share")]
    pub loss_in_bad: f64,
    /// Share of pings that get 500.
    #[serde(deserialize_with = "check::share")]
    pub error_share: f64,
    /// Share of pings that are delayed by `slow_ms`.
    #[serde(deserialize_with = "check::share")]
    pub slow_share: f64,
    /// Delay, ms.
    #[serde(deserialize_with = "check::room")]
    pub slow_ms: u32,
    /// Upper bound of the reported queue's walk.
    #[serde(deserialize_with = "check::count")]
    pub queue_max: u32,
    /// Additional loss with the reported queue at its maximum.
    #[serde(deserialize_with = "check::share")]
    pub overload_loss: f64,
}

impl Default for Lossy {
    fn default() -> Self {
        (&Parameters::default()).into()
    }
}

impl From<&Parameters> for Lossy {
    fn from(parameters: &Parameters) -> Self {
        Self {
            good_to_bad: parameters.p_g_to_b,
            bad_to_good: parameters.p_b_to_g,
            loss_in_good: parameters.loss_in_g,
            loss_in_bad: parameters.loss_in_b,
            error_share: parameters.error_rate,
            slow_share: parameters.slow_rate,
            slow_ms: parameters.slow_ms,
            queue_max: parameters.queue_max,
            overload_loss: parameters.overload_drop_multiplier,
        }
    }
}

impl Lossy {
    /// Returns these values as parameters of the simulated servers.
    pub fn parameters(&self) -> Parameters {
        Parameters {
            p_g_to_b: self.good_to_bad,
            p_b_to_g: self.bad_to_good,
            loss_in_g: self.loss_in_good,
            loss_in_b: self.loss_in_bad,
            queue_max: self.queue_max,
            error_rate: self.error_share,
            slow_rate: self.slow_share,
            slow_ms: self.slow_ms,
            cpu_load_ms: 0,
            overload_drop_multiplier: self.overload_loss,
            faults: Faults::All,
        }
    }
}
