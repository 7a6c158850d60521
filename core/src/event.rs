//! The vocabulary between the router and its driver: facts for it ([`Event`]), its wishes
//! ([`Action`]), and its reports to observers ([`Notice`]).
use std::time::Duration;

use crate::blame::Asker;
use crate::config::RouterConfig;
use crate::id::{BackendId, LeaseId, ProbeId, Token};
use crate::time::Instant;

/// A fact for the router.
#[derive(Debug)]
pub enum Event {
    /// A probe that the router asked for came to its end. Unknown or late ones are counted and
    /// ignored.
    ProbeFinished {
        /// The id from [`Action::StartProbe`].
        probe: ProbeId,
        /// Its result.
        result: ProbeResult,
    },
    /// A request that [`Router::route`](crate::Router::route) admitted came to its end.
    RequestFinished {
        /// The lease that `route` gave out.
        lease: Lease,
        /// The outcome of the request for its backend.
        outcome: Outcome,
    },
    /// A request stops being work for its backend before it ends: its connection became a tunnel,
    /// or its response has been silent for long. Policies stop counting it in
    /// flight and learn nothing of it: neither a handshake nor the head of a stream is a measure of
    /// requests. Its lease stays out until [`Event::RequestFinished`]. At most once for a lease.
    StreamOpened {
        /// The number of the lease.
        lease: LeaseId,
        /// The request's backend.
        backend: BackendId,
        /// The answer's final status (101 for an upgrade).
        status: u16,
        /// From the dispatch to the backend to the answer's head.
        latency: Duration,
    },
    /// A request waits for its client: the rest of its body is missing, or its response is not
    /// taken. Until [`Event::LeaseResumed`] its time is not the backend's, and it does not count
    /// in flight. Ignored for a lease that is paused already or has become a stream.
    LeasePaused {
        /// The number of the lease.
        lease: LeaseId,
        /// The request's backend.
        backend: BackendId,
    },
    /// A request waits for its backend again. Ignored unless its lease is paused.
    LeaseResumed {
        /// The number of the lease.
        lease: LeaseId,
        /// The request's backend.
        backend: BackendId,
    },
    /// A backend's own load figures came by another way than a report probe.
    LoadReported {
        /// The reporting backend.
        backend: BackendId,
        /// The figures.
        report: LoadReport,
    },
    /// The configuration changed. A backend keeps its state when its name stays; one whose name is
    /// gone gets no new requests, and its leases still come back.
    Reconfigured(Box<RouterConfig>),
}

/// Something the router wants its driver to do.
#[derive(Debug, PartialEq)]
pub enum Action {
    /// Send one probe; its end is reported by [`Event::ProbeFinished`].
    StartProbe {
        /// Names this probe; never used twice.
        probe: ProbeId,
        /// The backend to probe.
        backend: BackendId,
        /// Kind of the probe.
        kind: ProbeKind,
        /// When it has failed if there is no answer yet. The router itself counts it as
        /// [`ProbeFailure::TimedOut`] then; a later result is late news.
        deadline: Instant,
    },
    /// Something an observer may want to know.
    Notify(Notice),
}

/// A fact for observers; no decision hangs on anyone reading it.
#[derive(Clone, Debug, PartialEq)]
pub enum Notice {
    /// The current backend changed.
    Switched {
        /// The current backend until now; `None` for the very first choice.
        from: Option<BackendId>,
        /// The current backend from now on.
        to: BackendId,
        /// Why.
        reason: SwitchReason,
    },
    /// A better backend was seen and not taken. Told when the candidate or the kind of reason
    /// changes, and at most once a second between two switches, not for every request.
    Held {
        /// The current backend.
        current: BackendId,
        /// The backend that scored lower.
        candidate: BackendId,
        /// Why it was not taken.
        reason: HoldReason,
    },
    /// A backend's health changed.
    HealthChanged {
        /// The backend.
        backend: BackendId,
        /// Its present health.
        is_up: bool,
        /// The last failure, or `None` after successes.
        cause: Option<ProbeFailure>,
    },
    /// A backend gets no requests for a while because those that it had failed.
    Ejected {
        /// The backend.
        backend: BackendId,
        /// Figures of its failures.
        reason: EjectReason,
    },
    /// An ejected backend gets requests again.
    Returned {
        /// The backend.
        backend: BackendId,
        /// Why.
        reason: ReturnReason,
    },
}

/// Reason for ejecting a backend.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EjectReason {
    /// Failures in a row.
    pub in_row: u32,
    /// The share of failures among its last requests, 0 to 1.
    pub share: f64,
    /// The median share of the other backends; `None` while nothing is known of them.
    pub others: Option<f64>,
}

/// Why an ejected backend returned.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ReturnReason {
    /// Its requests on probation were answered well.
    Probation,
    /// The others fail as much.
    OthersFail,
    /// The others failed more without it than it had.
    Regretted,
}

/// Why the current backend changed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SwitchReason {
    /// There was no current backend before. Not counted as a switch: it starts no cooldown.
    First,
    /// The new one's score is lower.
    Better {
        /// By how many points.
        by: f64,
    },
    /// The old one went down or left the configuration; threshold and cooldown do not apply.
    Failover,
}

/// Why the current backend was kept although another one scored lower.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum HoldReason {
    /// The gap is smaller than the threshold.
    BelowThreshold {
        /// Points that are missing.
        missing: f64,
    },
    /// The gap is large enough, the last switch too recent.
    Cooldown {
        /// Time until a switch is allowed.
        left: Duration,
    },
    /// Load alone makes the gap, and the current backend is full: it stays the current one, and
    /// single requests spill over.
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

/// Kind of a probe.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum ProbeKind {
    /// `GET /health`: is it alive, and how fast does it answer.
    Ping,
    /// `GET /metrics`: the backend's own load figures.
    Report,
}

/// Result of a probe.
pub type ProbeResult = Result<ProbeAnswer, ProbeFailure>;

/// A probe that was answered well (2xx or 3xx).
#[derive(Clone, Debug, PartialEq)]
pub struct ProbeAnswer {
    /// From the start of the probe (connection set-up included) to the end of its answer.
    pub latency: Duration,
    /// The load figures of a [`ProbeKind::Report`]; `None` when they could not be read.
    pub report: Option<LoadReport>,
}

/// Why a probe failed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ProbeFailure {
    /// The connection was refused: there is no listener. A ping's refusal brings the backend down
    /// at once; a report's, like any failure of it, does not affect health.
    Refused,
    /// The connection could not be made for another reason.
    Unreachable,
    /// No whole answer before the deadline.
    TimedOut,
    /// The connection ended before the answer was whole.
    Cut,
    /// The answer was not HTTP.
    Malformed,
    /// The response, or its head, was larger than the proxy reads.
    TooLarge,
    /// The answer's status was neither 2xx nor 3xx.
    Status(u16),
    /// The proxy gave up for a reason of its own, such as no descriptor left: says nothing about
    /// the backend, and is not counted.
    Abandoned,
}

/// A backend's own load figures; each is `None` when it did not say.
///
/// Negative and non-finite numbers are ignored. The score averages queues up to 250, where its
/// points have reached their maximum.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LoadReport {
    /// Requests waiting (`queueLen`).
    pub queue: Option<f64>,
    /// CPU busy time in ms of the last second or so (`cpuBusyMs`).
    pub cpu_busy_ms: Option<f64>,
    /// Bytes in use: `heapUsed`, else `memRss`.
    pub memory_bytes: Option<f64>,
}

/// The right to send one request to one backend; counted in flight until it comes back by
/// [`Event::RequestFinished`].
///
/// Neither `Copy` nor `Clone`, so that requests in flight balance by construction.
#[derive(Debug, PartialEq)]
#[must_use = "a lease that is dropped leaves its request in flight for ever"]
pub struct Lease {
    pub(crate) id: LeaseId,
    pub(crate) backend: BackendId,
    pub(crate) routed_at: Instant,
    /// The mark that the policy put on the request.
    pub(crate) token: Token,
    /// Number of the router's policy that chose.
    pub(crate) policy_epoch: u32,
    /// Groups of client and path.
    pub(crate) asker: Asker,
}

impl Lease {
    /// The request's number: 1 for the first that this router admitted.
    pub const fn id(&self) -> LeaseId {
        self.id
    }

    /// Returns the request's backend.
    pub const fn backend(&self) -> BackendId {
        self.backend
    }

    /// When it was routed.
    pub const fn routed_at(&self) -> Instant {
        self.routed_at
    }
}

/// Outcome of a request for its backend.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Outcome {
    /// A whole answer came. A status of 500 or more counts as an error; 429 and 503 count as
    /// [`Outcome::Refused`] without a hold.
    Answered {
        /// The final status.
        status: u16,
        /// From the dispatch to the backend to the answer's head.
        latency: Duration,
    },
    /// The backend turned the request away: it is full, or its client asks too much of it. Neither
    /// work done nor a fault.
    Refused {
        /// The status, as a rule 429 or 503.
        status: u16,
        /// The value of Retry-After: the backend gets no requests for this long while another one
        /// can take them, at most 60 s. Without it the refusal counts as one request in flight at
        /// an idle backend, and as less the more the backend works on compared with the others. It
        /// fades with the half-life of errors.
        hold: Option<Duration>,
    },
    /// The backend or the way to it failed.
    Failed(RequestFailure),
    /// The client left, or the proxy gave up for a reason of its own: says nothing about the
    /// backend.
    Abandoned,
}

impl Outcome {
    /// Whether it counts as an error of the backend; `None` when it says nothing about it.
    pub const fn is_error(&self) -> Option<bool> {
        match self {
            Self::Answered { status, .. } => Some(*status >= 500),
            Self::Failed(_) => Some(true),
            Self::Refused { .. } | Self::Abandoned => None,
        }
    }

    /// The same, with a refusal named as one however it was reported: 429 (RFC 6585 section 4) and
    /// 503 (RFC 9110 section 15.6.4) are refusals.
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

/// The longest time for which one refusal keeps requests away from a backend.
const HOLD_MAX: Duration = Duration::from_secs(60);

/// Failure of a backend at a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RequestFailure {
    /// The connection was refused: there is no listener. The backend is down at once.
    Refused,
    /// The connection could not be made for another reason, or not in time.
    Unreachable,
    /// The connection ended before the response's head was complete.
    Cut,
    /// No response head in time.
    TimedOut,
    /// The answer broke the protocol.
    Malformed,
    /// The answer's body was cut or stalled.
    Truncated,
}

/// Why a request was not admitted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NoRoute {
    /// No backend is configured.
    NoBackends,
    /// Every backend has been tried for this request.
    AllTried,
    /// Every backend that was not tried has as many requests in flight as it may have. One that
    /// ends makes room.
    Full,
}
