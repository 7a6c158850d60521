//! The router as plain data, for observers. Taking a snapshot changes nothing.
use std::time::Duration;

use crate::backend::Backend;
use crate::config::{PolicyKind, Rules};
use crate::event::{HoldReason, SwitchReason};
use crate::health::Health;
use crate::id::BackendId;
use crate::outlier::{StandingView, Watch};
use crate::policy::{GuardView, PolicyView};
use crate::score::ScoreParts;
use crate::time::Instant;

/// The router at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// When it was taken.
    pub at: Instant,
    /// Policy that ranks the backends.
    pub policy: PolicyKind,
    /// The backend that requests go to; `None` before the first request.
    pub current: Option<BackendId>,
    /// Switches so far, without the first choice.
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
    /// State of the live guard over the policy; only `learned` has one.
    pub guard: Option<GuardView>,
    /// The configured backends, in their order.
    pub backends: Vec<BackendSnapshot>,
}

/// The decisions of a router, counted since its start.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct RouterCounts {
    /// Changes of the current backend, without the first choice.
    pub switches: u64,
    /// Requests sent past a full current backend.
    pub spills: u64,
    /// Requests that stayed with the current backend though another one ranked better.
    pub holds: u64,
    /// Results of probes that were not outstanding any more.
    pub late_probes: u64,
    /// Invalid configurations.
    pub refused_configs: u64,
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

impl BackendSnapshot {
    /// The backend at `now`; `watch` is the standing that holds, its own or the policy's.
    pub(crate) fn new(
        now: Instant,
        id: BackendId,
        backend: &Backend,
        is_current: bool,
        policy: PolicyView,
        watch: &Watch,
        rules: &Rules,
    ) -> Self {
        let age = |at: Option<Instant>| at.map(|at| now.since(at));
        let (pings, reports, requests) = (backend.pings(), backend.reports(), backend.requests());
        Self {
            id,
            name: backend.name.clone(),
            health: backend.health.health(),
            is_current,
            latency: pings.last_latency.map(|(_, latency)| latency),
            latency_ewma_ms: pings.latency_ewma_ms.value(),
            latency_age: age(pings.last_latency.map(|(at, _)| at)),
            loss_ewma: pings.loss_ewma.value(),
            ping_age: age(pings.last_ended_at),
            pings_answered: pings.answered,
            pings_failed: pings.failed,
            reports_read: reports.read,
            reports_failed: reports.failed,
            requests: requests.ended,
            errors: requests.errors,
            refused: requests.refused,
            held: backend.held_until().filter(|until| *until > now).map(|until| until - now),
            at_work: backend.at_work(),
            standing: watch.view(now),
            ejections: watch.ejections,
            error_rate: backend.error_rate_at(now, rules),
            in_flight: backend.in_flight(),
            response_ewma_ms: requests.response_ewma_ms.value(),
            request_age: age(requests.last_ended_at),
            queue: reports.queue.map(|figure| figure.value),
            queue_ewma: reports.queue_ewma.value(),
            cpu_busy_ms: reports.cpu_busy_ms.map(|figure| figure.value),
            memory_bytes: reports.memory_bytes.map(|figure| figure.value),
            report_age: age(reports.last_read_at),
            score: *backend.parts(),
            policy,
        }
    }
}
