//! The counts and figures that the metrics show beside the router's own: plain data.
use intelliproxy_core::journal::RecordingCounts;
use intelliproxy_core::{BackendSnapshot, GuardView, RouterCounts};

use super::histogram::Histogram;
use crate::http::UpstreamError;
use crate::pages::counts::{LogCounts, QueueCounts, RetryCounts};

/// Responses by the class of their status: the first digit, 0 for any other.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct StatusCounts(pub(super) [u64; 6]);

impl StatusCounts {
    /// Counts a response.
    #[inline]
    pub(crate) fn add(&mut self, status: u16) {
        let class = usize::from(status / 100);
        self.0[if class < self.0.len() { class } else { 0 }] += 1;
    }
}

/// The traffic of one backend.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct BackendCounts {
    /// Whole responses, refusals included.
    pub(crate) responses: StatusCounts,
    /// Requests that the backend or the way to it failed.
    pub(crate) failed: u64,
    /// Requests that ended without a whole response for another reason, mostly their client.
    pub(crate) abandoned: u64,
    /// From the dispatch to the end of the response, refusals left out.
    pub(crate) duration: Histogram,
    /// From the dispatch to the head of the response, refusals and waits for the client left out.
    pub(crate) first_byte: Histogram,
    /// Connections made, by the time that took.
    pub(crate) connect: Histogram,
    /// Connections that could not be made.
    pub(crate) connect_failures: u64,
    /// Bytes read from its connections, probes left out.
    pub(crate) received: u64,
    /// Bytes written to them.
    pub(crate) sent: u64,
}

/// The exchanges with clients.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct ExchangeCounts {
    /// Request heads accepted.
    pub(crate) requests: u64,
    /// Final responses passed on to clients.
    pub(crate) passed: StatusCounts,
    /// Responses of the proxy itself.
    pub(crate) own: StatusCounts,
}

/// The reasons of errors and retries, as labels.
pub(super) const REASONS: [&str; 16] = [
    "no_backend",
    "queue_full",
    "queue_timeout",
    "connect_refused",
    "unreachable",
    "no_descriptor",
    "connect_timeout",
    "cut_before_head",
    "head_timeout",
    "invalid_head",
    "unsolicited_bytes",
    "truncated",
    "invalid_chunk",
    "body_timeout",
    REFUSED,
    CLOSED_IDLE,
];
/// The backend answered 429 or 503.
pub(crate) const REFUSED: &str = "refused";
/// An idle connection turned out closed.
pub(crate) const CLOSED_IDLE: &str = "closed_idle";

/// Counts by reason.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct ReasonCounts(pub(super) [u64; REASONS.len()]);

impl ReasonCounts {
    /// Counts one of [`REASONS`].
    pub(crate) fn add(&mut self, reason: &str) {
        let index = REASONS.iter().position(|known| *known == reason);
        debug_assert!(index.is_some(), "every reason has its count");
        if let Some(index) = index {
            self.0[index] += 1;
        }
    }
}

/// The reason that an error of a backend is.
pub(crate) const fn reason(error: UpstreamError) -> &'static str {
    match error {
        UpstreamError::NoBackend => "no_backend",
        UpstreamError::QueueFull => "queue_full",
        UpstreamError::QueueTimeout => "queue_timeout",
        UpstreamError::Refused => "connect_refused",
        UpstreamError::Unreachable => "unreachable",
        UpstreamError::Exhausted => "no_descriptor",
        UpstreamError::ConnectTimeout => "connect_timeout",
        UpstreamError::Cut => "cut_before_head",
        UpstreamError::HeadTimeout => "head_timeout",
        UpstreamError::MalformedHead
        | UpstreamError::HeadTooLarge
        | UpstreamError::TooManyFields
        | UpstreamError::InterimTooLarge
        | UpstreamError::AmbiguousFraming
        | UpstreamError::UnexpectedUpgrade => "invalid_head",
        UpstreamError::Unsolicited => "unsolicited_bytes",
        UpstreamError::Truncated => "truncated",
        UpstreamError::MalformedChunk(_) => "invalid_chunk",
        UpstreamError::BodyTimeout => "body_timeout",
    }
}

/// Events that are rare.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct IncidentCounts {
    /// Client connections accepted.
    pub(crate) accepted: u64,
    /// Client connections that were turned away for want of room.
    pub(crate) clients_refused: u64,
    /// Idle clients closed to make room.
    pub(crate) clients_gave_way: u64,
    /// Requests that broke a rule.
    pub(crate) client_errors: u64,
    /// Failed attempts.
    pub(crate) errors: ReasonCounts,
    /// Requests sent again.
    pub(crate) retries: ReasonCounts,
}

/// The figures of the process, as far as its system tells them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ProcessFigures {
    /// Open descriptors.
    pub open_descriptors: Option<u64>,
    /// The limit of open descriptors.
    pub descriptors_max: Option<u64>,
    /// Memory in use, bytes.
    pub resident_bytes: Option<u64>,
    /// CPU time spent, seconds.
    pub cpu_seconds: Option<f64>,
    /// The time of its start, seconds since 1970.
    pub start_seconds: Option<f64>,
}

/// The figures that are of no single backend.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Overall {
    pub(crate) policy: &'static str,
    pub(crate) router: RouterCounts,
    pub(crate) guard: Option<GuardView>,
    pub(crate) exchanges: ExchangeCounts,
    pub(crate) incidents: IncidentCounts,
    pub(crate) retries: RetryCounts,
    pub(crate) queue: QueueCounts,
    /// Requests that wait now.
    pub(crate) queue_length: usize,
    pub(crate) queue_wait: Histogram,
    pub(crate) clients: usize,
    pub(crate) clients_max: usize,
    pub(crate) connections: usize,
    pub(crate) buffers: usize,
    pub(crate) log: LogCounts,
    pub(crate) reloads_done: u64,
    pub(crate) reloads_refused: u64,
    pub(crate) recording: Option<RecordingCounts>,
    pub(crate) is_ready: bool,
}

/// One backend.
#[derive(Clone, Debug)]
pub(crate) struct BackendFigures {
    pub(crate) snapshot: BackendSnapshot,
    pub(crate) counts: BackendCounts,
    /// Idle connections kept.
    pub(crate) idle: usize,
}
