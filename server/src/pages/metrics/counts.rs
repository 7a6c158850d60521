//! Counts and figures of the metrics that are not the router's own, as plain data.
use intelliproxy_core::journal::RecordingCounts;
use intelliproxy_core::{BackendSnapshot, GuardView, RouterCounts};

use super::histogram::Histogram;
use crate::http::UpstreamError;
use crate::pages::counts::{AccessCounts, LimitedCounts, LogCounts, QueueCounts, RetryCounts};
use crate::pages::live::Sketch;

/// Responses by the first digit of their status: index 2 counts 200 to 299.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct StatusCounts([u64; 16]);

impl StatusCounts {
    /// Counts a response.
    pub(crate) fn add(&mut self, status: u16) {
        // The mask saves a bounds check: a status has three digits.
        self.0[usize::from(status / 100) & 15] += 1;
    }

    /// Returns the counts of 1xx to 5xx, and of all others.
    pub(super) fn classes(&self) -> [u64; 6] {
        let [none, informal, good, redirection, client, server, others @ ..] = self.0;
        let others = none + others.iter().sum::<u64>();
        [informal, good, redirection, client, server, others]
    }
}

/// The traffic of one backend.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct BackendCounts {
    /// Complete responses, including refusals.
    pub(crate) responses: StatusCounts,
    /// Requests that failed at the backend or while connecting to it.
    pub(crate) failed: u64,
    /// Requests that ended without a complete response for another reason, mostly by their client.
    pub(crate) abandoned: u64,
    /// Times from the dispatch to the end of the response, without refusals.
    pub(crate) duration: Histogram,
    /// Times from the dispatch to the head of the response, without refusals and without waiting
    /// for the client.
    pub(crate) first_byte: Histogram,
    /// The same times as `first_byte` since the live page's last sample.
    pub(crate) recent: Sketch,
    /// Times of successful connection attempts.
    pub(crate) connect: Histogram,
    /// Failed connection attempts.
    pub(crate) connect_failures: u64,
    /// Load reports that were unreadable or had an unreadable figure.
    pub(crate) bad_reports: u64,
    /// Bytes read from its connections, without probes.
    pub(crate) received: u64,
    /// Bytes written to its connections, without probes.
    pub(crate) sent: u64,
}

/// The exchanges with clients.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct ExchangeCounts {
    /// Request heads accepted.
    pub(crate) requests: u64,
    /// Final responses passed on to clients.
    pub(crate) passed: StatusCounts,
    /// Responses that the proxy made itself.
    pub(crate) own: StatusCounts,
}

/// The labels for reasons of errors and retries.
pub(super) const REASONS: [&str; 17] = [
    "no_backend",
    "queue_full",
    "queue_timeout",
    "connect_refused",
    "tls_handshake",
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
/// The backend refused with 429 or 503.
pub(crate) const REFUSED: &str = "refused";
/// A reused connection had been closed by the backend.
pub(crate) const CLOSED_IDLE: &str = "closed_idle";

/// Counts by reason.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct ReasonCounts(pub(super) [u64; REASONS.len()]);

impl ReasonCounts {
    /// Counts one of [`REASONS`].
    pub(crate) fn add(&mut self, reason: &str) {
        let index = REASONS.iter().position(|known| *known == reason);
        debug_assert!(index.is_some(), "every reason has a count");
        if let Some(index) = index {
            self.0[index] += 1;
        }
    }
}

/// Returns the label for an error of a backend.
pub(crate) const fn reason(error: UpstreamError) -> &'static str {
    match error {
        UpstreamError::NoBackend => "no_backend",
        UpstreamError::QueueFull => "queue_full",
        UpstreamError::QueueTimeout => "queue_timeout",
        UpstreamError::Refused => "connect_refused",
        UpstreamError::Handshake(_) => "tls_handshake",
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

/// Counts of rare events.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct IncidentCounts {
    /// Client connections accepted.
    pub(crate) accepted: u64,
    /// Client connections that were refused because the limit was reached, or while stopping.
    pub(crate) clients_refused: u64,
    /// Idle client connections closed to make room.
    pub(crate) clients_gave_way: u64,
    /// TLS handshakes of clients that failed.
    pub(crate) handshakes_failed: u64,
    /// Requests and connections beyond the limits per client.
    pub(crate) limited: LimitedCounts,
    /// Requests that broke a rule.
    pub(crate) client_errors: u64,
    /// Failed attempts, by reason.
    pub(crate) errors: ReasonCounts,
    /// Requests sent again, by reason.
    pub(crate) retries: ReasonCounts,
}

/// Figures of the process; `None` where the system does not report one.
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

/// The figures that do not belong to a single backend.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Overall {
    pub(crate) policy: &'static str,
    pub(crate) router: RouterCounts,
    pub(crate) guard: Option<GuardView>,
    pub(crate) exchanges: ExchangeCounts,
    pub(crate) incidents: IncidentCounts,
    pub(crate) retries: RetryCounts,
    pub(crate) queue: QueueCounts,
    /// Requests that are waiting now.
    pub(crate) queue_length: usize,
    pub(crate) queue_wait: Histogram,
    pub(crate) clients: usize,
    pub(crate) clients_max: usize,
    pub(crate) connections: usize,
    pub(crate) buffers: usize,
    pub(crate) log: LogCounts,
    pub(crate) access: AccessCounts,
    pub(crate) reloads_done: u64,
    pub(crate) reloads_refused: u64,
    pub(crate) recording: Option<RecordingCounts>,
    pub(crate) is_ready: bool,
}

/// The figures of one backend.
#[derive(Clone, Debug)]
pub(crate) struct BackendFigures {
    pub(crate) snapshot: BackendSnapshot,
    pub(crate) counts: BackendCounts,
    /// Idle connections kept for reuse.
    pub(crate) idle: usize,
}
