//! The types that the router and its driver exchange: facts for the router ([`Event`]), work for
//! the driver ([`Action`]) and facts for observers ([`Notice`]).
use std::time::Duration;

use crate::blame::Asker;
use crate::config::RouterConfig;
use crate::id::{BackendId, LeaseId, ProbeId, Token};
use crate::time::Instant;

/// A fact for the router.
#[derive(Debug)]
pub enum Event {
    /// A probe that the router started has ended. Results of unknown or late probes are counted
    /// and ignored.
    ProbeFinished {
        /// The id from [`Action::StartProbe`].
        probe: ProbeId,
        /// The response's figures, or the reason of the failure.
        result: ProbeResult,
    },
    /// A request that [`Router::route`](crate::Router::route) admitted has ended.
    RequestFinished {
        /// The lease that `route` returned.
        lease: Lease,
        /// The outcome of the request for its backend.
        outcome: Outcome,
    },
    /// A request stops being work for its backend before it ends: its connection became a tunnel,
    /// or its response has been silent for the configured time. Policies stop counting it in flight
    /// and learn nothing from it: the time of a handshake or of a stream's head does not show how
    /// fast requests are served. Its lease remains outstanding until [`Event::RequestFinished`].
    /// Sent at most once for a lease.
    StreamOpened {
        /// The number of the lease.
        lease: LeaseId,
        /// The backend that serves the request.
        backend: BackendId,
        /// The final status of the response (101 for an upgrade).
        status: u16,
        /// Time from the dispatch to the backend until the head of the response.
        latency: Duration,
    },
    /// A request waits for its client: the rest of its body is missing, or the client does not
    /// accept the response. Until [`Event::LeaseResumed`] the time is not charged to the backend,
    /// and the request is not counted in flight. Ignored for a lease that is already paused or has
    /// become a stream.
    LeasePaused {
        /// The number of the lease.
        lease: LeaseId,
        /// The backend that serves the request.
        backend: BackendId,
    },
    /// A request waits for its backend again. Ignored unless its lease is paused.
    LeaseResumed {
        /// The number of the lease.
        lease: LeaseId,
        /// The backend that serves the request.
        backend: BackendId,
    },
    /// A backend's own load figures, received by another way than a report probe.
    LoadReported {
        /// The backend that the figures describe.
        backend: BackendId,
        /// The figures.
        report: LoadReport,
    },
    /// The configuration changed. A backend keeps its state while its name stays configured. A
    /// backend whose name is gone gets no new requests; its leases still end normally. An invalid
    /// configuration is counted and ignored.
    Reconfigured(Box<RouterConfig>),
}

/// A piece of work for the driver.
#[derive(Debug, PartialEq)]
pub enum Action {
    /// Send one probe. Report its end with [`Event::ProbeFinished`].
    StartProbe {
        /// The id of this probe; never used twice.
        probe: ProbeId,
        /// The backend to probe.
        backend: BackendId,
        /// The resource to request.
        kind: ProbeKind,
        /// The time at which the probe has failed if no response is complete. The router itself
        /// then counts it as [`ProbeFailure::TimedOut`]; a later result is counted as late.
        deadline: Instant,
    },
    /// Pass a fact to observers.
    Notify(Notice),
}

/// A fact for observers. No decision of the router depends on whether it is read.
#[derive(Clone, Debug, PartialEq)]
pub enum Notice {
    /// The current backend changed.
    Switched {
        /// The previous current backend; `None` for the first choice.
        from: Option<BackendId>,
        /// The new current backend.
        to: BackendId,
        /// The reason of the change.
        reason: SwitchReason,
    },
    /// The current backend was kept although another one scored lower. Sent when the candidate or
    /// the kind of reason has changed, at most once a second between two switches.
    Held {
        /// The current backend.
        current: BackendId,
        /// The backend that scored lower.
        candidate: BackendId,
        /// The reason for keeping the current backend.
        reason: HoldReason,
    },
    /// A backend's health changed.
    HealthChanged {
        /// The backend whose health changed.
        backend: BackendId,
        /// Its health after the change.
        is_up: bool,
        /// The last failure, if failures caused the change; `None` if successful probes did.
        cause: Option<ProbeFailure>,
    },
    /// The first pings of all backends have ended, none of them well, and this one with a status
    /// that means a missing path. Until a ping succeeds, 404 and 405 bring no backend down.
    PingsUnserved {
        /// The status, 404 or 405.
        status: u16,
    },
    /// A backend gets no requests for a while, because it failed or refused earlier ones, or sent
    /// no response to them.
    Ejected {
        /// The ejected backend.
        backend: BackendId,
        /// The rule that ejected it.
        reason: EjectReason,
    },
    /// An ejected backend gets requests again.
    Returned {
        /// The returned backend.
        backend: BackendId,
        /// The reason of the return.
        reason: ReturnReason,
    },
}

/// The rule by which a backend was ejected, with its figures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum EjectReason {
    /// It failed more requests than the others.
    Failures {
        /// Failures in a row.
        in_row: u32,
        /// The share of failures among its last requests, 0 to 1.
        share: f64,
        /// The median share of the other backends, 0 to 1; `None` while none of
        /// them has had enough requests.
        others: Option<f64>,
    },
    /// It refused requests although no other request was in flight there.
    Refusals {
        /// Such refusals in a row.
        in_row: u32,
    },
    /// It sent no response for longer than its speed explains. Counted to the end of its last
    /// request in flight.
    Silence {
        /// The time of silence.
        lasted: Duration,
        /// The number of responses expected in that time.
        due: f64,
    },
}

/// Why an ejected backend returned.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ReturnReason {
    /// The backend served its requests on probation well.
    Probation,
    /// The other backends fail about as much as it does.
    OthersFail,
    /// The share of failures was higher without the backend than with it.
    Regretted,
    /// It came up after it was down, so earlier failures no longer count.
    CameUp,
}

/// The reason why a backend gets no requests.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum OutCause {
    /// It requested a pause.
    Held,
    /// Its requests failed.
    Ejected,
    /// Its pings failed, or its connections are refused.
    Down,
    /// Its mode or its weight keeps it out of service.
    OutOfService,
    /// It is no longer configured.
    Removed,
}

impl OutCause {
    /// Returns the cause as the end of a sentence that begins with the backend's name.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Held => "requested a pause",
            Self::Ejected => "is ejected",
            Self::Down => "is down",
            Self::OutOfService => "is out of service",
            Self::Removed => "is no longer configured",
        }
    }
}

/// Why the current backend changed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SwitchReason {
    /// No backend was current before. Not counted as a switch, and starts no cooldown.
    First,
    /// The score of the new backend is lower.
    Better {
        /// The difference in points.
        by: f64,
    },
    /// The old backend cannot be used. Threshold and cooldown do not apply.
    Failover {
        /// The reason why the old backend gets no requests.
        cause: OutCause,
    },
    /// The old backend is a backup, which could still serve, and another backend can take requests
    /// again. Threshold and cooldown do not apply.
    FromBackup,
}

/// The reason for keeping the current backend although another one scored lower.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum HoldReason {
    /// The score is lower by less than the threshold.
    BelowThreshold {
        /// Points missing to the threshold.
        missing: f64,
    },
    /// The gap is large enough, but the last switch was too recent.
    Cooldown {
        /// Time until a switch is allowed.
        left: Duration,
    },
    /// The gap comes from load alone, and the current backend is full: it stays current, and
    /// single requests spill over to other backends.
    LoadAlone,
}

impl HoldReason {
    /// Whether both are of the same kind, whatever their numbers.
    pub(crate) const fn is_same_kind(self, other: Self) -> bool {
        matches!(
            (self, other),
            (Self::BelowThreshold { .. }, Self::BelowThreshold { .. })
                | (Self::Cooldown { .. }, Self::Cooldown { .. })
                | (Self::LoadAlone, Self::LoadAlone)
        )
    }
}

/// The resource that a probe requests.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum ProbeKind {
    /// `GET /health`, or another check: measures whether and how fast the backend responds.
    Ping,
    /// `GET /metrics`: the backend's own load figures.
    Report,
}

/// Result of a probe.
pub type ProbeResult = Result<ProbeAnswer, ProbeFailure>;

/// The result of a successful probe: a complete response with a good status, usually 2xx or 3xx.
/// For a ping the driver may also accept that a connection is made.
#[derive(Clone, Debug, PartialEq)]
pub struct ProbeAnswer {
    /// Time from the start of the probe, connection set-up included, to the end of the response.
    pub latency: Duration,
    /// The load figures of a [`ProbeKind::Report`]; `None` for a ping, or when they could not be
    /// read.
    pub report: Option<LoadReport>,
}

/// Why a probe failed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ProbeFailure {
    /// The connection was refused: no process listens. A refused ping brings the backend down at
    /// once; a refused report, like any failed report, does not affect health.
    Refused,
    /// The connection could not be made for another reason.
    Unreachable,
    /// No complete response before the deadline.
    TimedOut,
    /// The connection ended before the response was complete.
    Cut,
    /// The response was not HTTP.
    Malformed,
    /// The response, or its head, was larger than the proxy reads.
    TooLarge,
    /// The status of the response was not a good one, usually 2xx or 3xx.
    Status(u16),
    /// The body of the response lacked the text that the driver looks for.
    Body,
    /// The proxy gave up for reasons of its own, such as a lack of file descriptors. The probe
    /// shows nothing about the backend and is not counted.
    Abandoned,
}

/// A backend's own load figures; each is `None` when the report does not contain it.
///
/// Negative and non-finite numbers are ignored. The score caps queues at 250, where their points
/// are within 0.01 % of the maximum.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LoadReport {
    /// Requests waiting in the backend's queue (`queueLen`).
    pub queue: Option<f64>,
    /// Number of requests that the backend works on, from all its clients.
    pub running: Option<f64>,
    /// The utilization of its scarcest resource, 0 to 1. Higher values count as 1.
    pub pressure: Option<f64>,
    /// CPU busy time in ms during about the last second (`cpuBusyMs`).
    pub cpu_busy_ms: Option<f64>,
    /// Bytes in use: `heapUsed`, or `memRss` if that is missing.
    pub memory_bytes: Option<f64>,
    /// The state that the backend's agent has set; `None` from other sources.
    pub agent: Option<AgentState>,
}

/// An agent's report about its backend. A field that is `None` stays as it was.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct AgentState {
    /// The weight, percent of the configured one.
    pub percent: Option<u16>,
    /// Whether the backend is taken out of service.
    pub is_out: Option<bool>,
    /// Whether the agent's own check of the backend fails.
    pub is_down: Option<bool>,
}

/// The right to send one request to one backend. The request is counted in flight until the lease
/// is passed to [`Event::RequestFinished`].
///
/// Neither `Copy` nor `Clone`, so that each request is counted in flight and ended once.
#[derive(Debug, PartialEq)]
#[must_use = "a lease that is dropped leaves its request in flight for ever"]
pub struct Lease {
    pub(crate) id: LeaseId,
    pub(crate) backend: BackendId,
    pub(crate) routed_at: Instant,
    /// The policy's token for the request.
    pub(crate) token: Token,
    /// The number of the policy that set the token, counted from the start of the router.
    pub(crate) policy_epoch: u32,
    /// The groups of the client and of the requested target.
    pub(crate) asker: Asker,
    /// The rule by which the router chose. Rules that only the policy's token shows are left out.
    pub(crate) reason: RouteReason,
}

/// The rule by which a request got its backend; see [`Router::reason`](crate::Router::reason).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RouteReason {
    /// The current backend.
    Current,
    /// The current backend, which replaced one that is still down, ejected or held.
    Failover,
    /// A backend other than the current one, which is full.
    Spill,
    /// The choice of a policy that has no current backend.
    Policy,
    /// Another backend after one failed or refused the request.
    Retry,
    /// A request that tries out a backend that is ejected or idle.
    Trial,
    /// A request of the learner's control slice, routed by `least_request` for comparison.
    Control,
    /// A request that shows whether a target that failed at one backend fails at another.
    SecondOpinion,
    /// A backup, as no other backend can take the request.
    Backup,
    /// The backend that owns the request's key.
    Owner,
    /// The next backend for the request's key, because the owner is unusable, full or too slow.
    NextOwner,
    /// No backend is usable: the least bad one.
    LastResort,
}

impl RouteReason {
    /// The rule in one word, as logs and pages name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Failover => "failover",
            Self::Spill => "spill",
            Self::Policy => "policy",
            Self::Retry => "retry",
            Self::Trial => "trial",
            Self::Control => "control",
            Self::SecondOpinion => "second_opinion",
            Self::Backup => "backup",
            Self::Owner => "owner",
            Self::NextOwner => "next_owner",
            Self::LastResort => "last_resort",
        }
    }
}

impl Lease {
    /// The request's number: 1 for the first that this router admitted.
    pub const fn id(&self) -> LeaseId {
        self.id
    }

    /// The backend that the request goes to.
    pub const fn backend(&self) -> BackendId {
        self.backend
    }

    /// Whether the request tries out a backend that was ejected or idle. If it fails there and may
    /// be sent to another backend, the client need not see the failure.
    pub fn is_trial(&self) -> bool {
        self.reason == RouteReason::Trial
    }

    /// When it was routed.
    pub const fn routed_at(&self) -> Instant {
        self.routed_at
    }
}

/// Outcome of a request for its backend.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Outcome {
    /// A complete response. A status of 500 or more counts as an error; 429 and 503 count as
    /// [`Outcome::Refused`] without a hold.
    Answered {
        /// The final status.
        status: u16,
        /// Time from the dispatch to the backend until the head of the response.
        latency: Duration,
    },
    /// The backend turned the request away: it is full, or it limits this client. A refusal is
    /// neither finished work nor a fault.
    Refused {
        /// The status of the response, usually 429 or 503.
        status: u16,
        /// The value of Retry-After: the backend gets no requests for this long while another one
        /// can take them, at most 60 s. Without it the refusal counts as up to one more request in
        /// flight: less if the backend works on many requests compared with the others. This weight
        /// fades with the half-life of errors.
        hold: Option<Duration>,
    },
    /// The request failed at the backend or while connecting to it.
    Failed(RequestFailure),
    /// The client left, or the proxy gave up for its own reasons. The end shows nothing about the
    /// backend.
    Abandoned,
}

impl Outcome {
    /// Whether the outcome counts as an error of the backend; `None` when it shows nothing about
    /// errors.
    pub const fn is_error(&self) -> Option<bool> {
        match self {
            Self::Answered { status, .. } => Some(*status >= 500),
            Self::Failed(_) => Some(true),
            Self::Refused { .. } | Self::Abandoned => None,
        }
    }

    /// Whether the backend has sent at least the head of a response.
    pub(crate) const fn is_response(&self) -> bool {
        matches!(self, Self::Answered { .. } | Self::Refused { .. })
            || matches!(self, Self::Failed(RequestFailure::Truncated))
    }

    /// Whether the request failed before the head of a response.
    pub(crate) const fn is_without_response(&self) -> bool {
        matches!(self, Self::Failed(_)) && !self.is_response()
    }

    /// Returns the outcome with every 429 (RFC 6585 section 4) and 503 (RFC 9110 section 15.6.4)
    /// as a refusal, and with a hold above 0 and at most [`HOLD_MAX`].
    pub(crate) fn normal(self) -> Self {
        match self {
            Self::Answered { status: status @ (429 | 503), .. } => {
                Self::Refused { status, hold: None }
            }
            Self::Refused { status, hold } => {
                let hold = hold.map(|hold| hold.min(HOLD_MAX)).filter(|hold| !hold.is_zero());
                Self::Refused { status, hold }
            }
            other => other,
        }
    }
}

/// The maximum time for which one refusal keeps requests away from a backend. A minute: a backend
/// must not be able to remove itself for hours with one header field.
const HOLD_MAX: Duration = Duration::from_secs(60);

/// The way in which a request failed at its backend.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RequestFailure {
    /// The connection was refused: no process listens. The backend is down at once.
    Refused,
    /// The connection could not be made for another reason, or not in time.
    Unreachable,
    /// The connection ended before the head of the response was complete.
    Cut,
    /// The head of the response did not arrive in time.
    TimedOut,
    /// The response violated the protocol.
    Malformed,
    /// The body of the response was cut off or stalled.
    Truncated,
}

/// The reason why a request was not admitted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NoRoute {
    /// No backend is in service.
    NoBackends,
    /// Every backend has been tried for this request.
    AllTried,
    /// Every backend that was not tried has the maximum number of requests in flight. The end of
    /// one of them makes room.
    Full,
}
