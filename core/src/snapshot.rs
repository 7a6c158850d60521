//! The router as plain data, for whoever looks; taking one changes nothing.
use std::time::Duration;

use crate::config::PolicyKind;
use crate::event::{HoldReason, SwitchReason};
use crate::health::Health;
use crate::id::BackendId;
use crate::policy::{GuardView, PolicyView};
use crate::score::ScoreParts;
use crate::time::Instant;

/// The router at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// When it was taken.
    pub at: Instant,
    /// What ranks the backends.
    pub policy: PolicyKind,
    /// The backend that requests go to; `None` before the first request.
    pub current: Option<BackendId>,
    /// Switches so far; the first choice is none.
    pub switches: u64,
    /// Requests that went past the current backend because load alone made the gap.
    pub spills: u64,
    /// The last change of the current backend: when and why.
    pub last_switch: Option<(Instant, SwitchReason)>,
    /// Why the better backend was not taken at the last request that saw one.
    pub last_hold: Option<(Instant, BackendId, HoldReason)>,
    /// Probe results that came for no outstanding probe.
    pub late_probes: u64,
    /// Configurations that were refused as they could not be; the old ones stayed in force.
    pub refused_configs: u64,
    /// How the live guard over the policy stands; only `learned` has one.
    pub guard: Option<GuardView>,
    /// The configured backends, in their order.
    pub backends: Vec<BackendSnapshot>,
}

/// One backend at one moment. A number is `None` until there is one.
#[derive(Clone, Debug, PartialEq)]
pub struct BackendSnapshot {
    /// Its id in actions and leases.
    pub id: BackendId,
    /// Its configured name.
    pub name: String,
    /// Whether it is taken to be able to serve.
    pub health: Health,
    /// Whether requests go to it now.
    pub is_current: bool,
    /// The last answered ping's latency.
    pub latency: Option<Duration>,
    /// The pings' latency average, ms.
    pub latency_ewma_ms: Option<f64>,
    /// Age of the last answered ping.
    pub latency_age: Option<Duration>,
    /// The average of lost pings, 0 to 1.
    pub loss_ewma: Option<f64>,
    /// Age of the last ping that ended.
    pub ping_age: Option<Duration>,
    /// Pings answered well.
    pub pings_answered: u64,
    /// Pings that failed.
    pub pings_failed: u64,
    /// Reports that could be read.
    pub reports_read: u64,
    /// Report probes that failed or could not be read.
    pub reports_failed: u64,
    /// Requests that ended, those abandoned by their client left out.
    pub requests: u64,
    /// Of these, 5xx answers and failures.
    pub errors: u64,
    /// Of these, refusals (429 and 503), which are no errors.
    pub refused: u64,
    /// For how long it is to be left alone, as it asked when it refused a request.
    pub held: Option<Duration>,
    /// Requests in flight that it works on: not those that wait for their client, nor streams that
    /// have left the account.
    pub at_work: u32,
    /// Whether live traffic keeps requests away from it.
    pub standing: StandingView,
    /// Times that it was ejected.
    pub ejections: u64,
    /// Share of errors among recent requests, 0 to 1, as it stands at the snapshot's time.
    pub error_rate: f64,
    /// Requests in flight.
    pub in_flight: u32,
    /// The average time from dispatch to the answer's head of live requests, ms.
    pub response_ewma_ms: Option<f64>,
    /// Age of the last request that ended.
    pub request_age: Option<Duration>,
    /// The queue it last reported.
    pub queue: Option<f64>,
    /// The reported queue's average.
    pub queue_ewma: Option<f64>,
    /// The CPU busy time it last reported, ms.
    pub cpu_busy_ms: Option<f64>,
    /// The memory it last reported, bytes.
    pub memory_bytes: Option<f64>,
    /// Age of the last readable report.
    pub report_age: Option<Duration>,
    /// The score that decisions use: as of the last event that touched this backend.
    pub score: ScoreParts,
    /// The policy's own reason for or against it.
    pub policy: PolicyView,
}

/// Whether a backend is trusted, by the requests that it had.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum StandingView {
    /// It gets requests.
    In,
    /// It gets a few, and more with each one that is answered well.
    SlowStart {
        /// Requests in flight that it may have.
        window: u32,
    },
    /// It gets none for at least this long.
    Ejected {
        /// Until a good ping leads to probation.
        left: Duration,
    },
    /// It gets one at a time.
    Probation {
        /// Good ones in a row.
        good: u32,
        /// Good ones that bring it back.
        needed: u32,
    },
}
