//! The router as plain data, for observers. A snapshot changes nothing.
use std::time::Duration;

use crate::backend::Backend;
use crate::config::{Mode, PolicyKind, Rules};
use crate::event::{HoldReason, SwitchReason};
use crate::health::Health;
use crate::id::BackendId;
use crate::outlier::{StandingView, Watch};
use crate::policy::{GuardView, PolicyView};
use crate::score::ScoreParts;
use crate::time::Instant;

/// The state of the router at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// The time of the snapshot.
    pub at: Instant,
    /// The policy that ranks the backends.
    pub policy: PolicyKind,
    /// The backend that requests go to; `None` before the first request.
    pub current: Option<BackendId>,
    /// The number of switches, not counting the first choice.
    pub switches: u64,
    /// Requests that went past a full current backend.
    pub spills: u64,
    /// The time and the reason of the last change of the current backend.
    pub last_switch: Option<(Instant, SwitchReason)>,
    /// The last hold: its time, the better backend, and the reason for not taking it.
    pub last_hold: Option<(Instant, BackendId, HoldReason)>,
    /// Probe results that came late or belong to no outstanding probe.
    pub late_probes: u64,
    /// Invalid configurations, which were ignored; the previous ones stayed in force.
    pub refused_configs: u64,
    /// The state of the live guard over the policy; only `learned` has one.
    pub guard: Option<GuardView>,
    /// The configured backends, in their configured order.
    pub backends: Vec<BackendSnapshot>,
}

/// Counts of a router's decisions and of its ignored inputs since its start.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct RouterCounts {
    /// Changes of the current backend, not counting the first choice.
    pub switches: u64,
    /// Requests sent past a full current backend.
    pub spills: u64,
    /// Requests that stayed with the current backend although another one scored lower.
    pub holds: u64,
    /// Probe results that came late or belong to no outstanding probe.
    pub late_probes: u64,
    /// Invalid configurations, which were ignored.
    pub refused_configs: u64,
}

/// The state of one backend at one moment. A number is `None` until there is a value.
#[derive(Clone, Debug, PartialEq)]
pub struct BackendSnapshot {
    /// Its id in actions and leases.
    pub id: BackendId,
    /// Its configured name.
    pub name: String,
    /// Whether it is believed to be able to serve.
    pub health: Health,
    /// Whether it is in service.
    pub mode: Mode,
    /// Its relative capacity, percent.
    pub weight: u32,
    /// Whether it gets requests only while no other can take them.
    pub is_backup: bool,
    /// Whether it is the current backend.
    pub is_current: bool,
    /// The latency of the last successful ping.
    pub latency: Option<Duration>,
    /// The latency average of the pings, ms.
    pub latency_ewma_ms: Option<f64>,
    /// Age of the last successful ping.
    pub latency_age: Option<Duration>,
    /// The average of lost pings, 0 to 1.
    pub loss_ewma: Option<f64>,
    /// Age of the last ping that ended.
    pub ping_age: Option<Duration>,
    /// Successful pings.
    pub pings_answered: u64,
    /// Pings that failed.
    pub pings_failed: u64,
    /// Load reports that were read.
    pub reports_read: u64,
    /// Report probes that failed or could not be read.
    pub reports_failed: u64,
    /// Requests that have ended, not counting those abandoned by their client.
    pub requests: u64,
    /// Of these, failures and responses with status 5xx, not counting refusals.
    pub errors: u64,
    /// Of these, refusals, which do not count as errors: 429, 503, and other 4xx of a backend that
    /// sends far more of them than the others.
    pub refused: u64,
    /// The rest of the pause that it requested with a refusal.
    pub held: Option<Duration>,
    /// Requests in flight that it works on. Requests that wait for their client, and streams that
    /// no longer count, are left out.
    pub at_work: u32,
    /// Whether it is ejected, on probation or in slow start because of failed requests.
    pub standing: StandingView,
    /// The number of its ejections.
    pub ejections: u64,
    /// Share of errors among recent requests, 0 to 1, at the time of the snapshot.
    pub error_rate: f64,
    /// Requests in flight.
    pub in_flight: u32,
    /// The maximum number of requests in flight; `None` for no limit.
    pub limit: Option<u32>,
    /// The average time of live requests from dispatch to the head of the response, ms.
    pub response_ewma_ms: Option<f64>,
    /// Age of the last request that ended.
    pub request_age: Option<Duration>,
    /// The last reported queue, in requests.
    pub queue: Option<f64>,
    /// The average of the reported queue.
    pub queue_ewma: Option<f64>,
    /// The last reported number of running requests, from all clients of the backend.
    pub running: Option<f64>,
    /// The last reported utilization of the backend's scarcest resource, 0 to 1.
    pub pressure: Option<f64>,
    /// The estimated number of requests at the backend that others have sent, such as a second
    /// proxy; `None` while no backend reports its running requests.
    pub others: Option<f64>,
    /// The last reported CPU busy time, ms.
    pub cpu_busy_ms: Option<f64>,
    /// The last reported memory, bytes.
    pub memory_bytes: Option<f64>,
    /// Age of the last readable report.
    pub report_age: Option<Duration>,
    /// The score that decisions use, computed at the last event of this backend.
    pub score: ScoreParts,
    /// The policy's reason for or against it.
    pub policy: PolicyView,
}

impl BackendSnapshot {
    /// Whether the configuration lets it get new requests: it is ready and its weight is not 0.
    pub const fn is_in_service(&self) -> bool {
        matches!(self.mode, Mode::Ready) && self.weight > 0
    }

    /// The backend at `now`. `watch` is the standing that applies: its own, or the one that the
    /// policy keeps.
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
            mode: backend.mode(),
            weight: backend.weight(),
            is_backup: backend.is_backup(),
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
            limit: backend.limit(),
            response_ewma_ms: requests.response_ewma_ms.value(),
            request_age: age(requests.last_ended_at),
            queue: reports.queue.map(|figure| figure.value),
            queue_ewma: reports.queue_ewma.value(),
            running: reports.running.map(|figure| figure.value),
            pressure: reports.pressure.map(|figure| figure.value),
            others: None,
            cpu_busy_ms: reports.cpu_busy_ms.map(|figure| figure.value),
            memory_bytes: reports.memory_bytes.map(|figure| figure.value),
            report_age: age(reports.last_said_at()),
            score: *backend.parts(),
            policy,
        }
    }
}
