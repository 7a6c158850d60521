//! Facts for observers. `edge/` formats and logs them; `counters.rs` counts them for the metrics.
use std::net::SocketAddr;

use intelliproxy_core::{BackendId, ProbeFailure};

use super::excerpt;
use crate::http::{ClientError, UpstreamError};
use crate::tls::TlsFault;

/// A fact for observers. No decision of the proxy depends on whether it is read.
#[derive(Clone, Debug, PartialEq)]
pub enum Notice {
    /// A notice of the router.
    Router(intelliproxy_core::Notice),
    /// A client broke a rule. It gets the status of the error, unless its response has begun.
    ClientError {
        /// The client.
        peer: SocketAddr,
        /// The rule that it broke.
        error: ClientError,
        /// The beginning of the received bytes, escaped and without secrets.
        excerpt: String,
    },
    /// A backend, or the connection to it, failed a request.
    UpstreamError {
        /// The request's client.
        peer: SocketAddr,
        /// The backend, if one had been chosen.
        backend: Option<BackendId>,
        /// The failure.
        error: UpstreamError,
        /// The proxy's reaction to the failure.
        remedy: RemedyTaken,
    },
    /// A backend refused a request, or failed one on trial, and the request goes to another one.
    Refused {
        /// The request's client.
        peer: SocketAddr,
        /// The backend.
        backend: BackendId,
        /// The status of the refusal.
        status: u16,
    },
    /// A new client got 503, or its connection was reset: the bound on clients is reached, or the
    /// proxy is stopping.
    ClientRefused {
        /// The client.
        peer: SocketAddr,
        /// The bound; `None` if the proxy is stopping.
        full: Option<Full>,
    },
    /// A client exceeds its own limit: its request or connection got 429, or its connection was
    /// reset.
    ClientLimited {
        /// The client.
        peer: SocketAddr,
        /// The limit.
        excess: Excess,
    },
    /// Idle clients were closed for new ones because the bound on clients is reached.
    ClientsGaveWay {
        /// Their number since the last such notice.
        count: u64,
        /// The bound.
        full: Full,
    },
    /// A new configuration admits fewer clients than are connected: the idle ones among them are
    /// closed, and new ones wait.
    ClientsInExcess {
        /// Clients that are connected.
        clients: usize,
        /// Clients that may be connected.
        clients_max: usize,
    },
    /// Fewer clients are admitted than `limits.clients`: more would leave no descriptors for their
    /// upstreams.
    ClientsLimited {
        /// `limits.clients`.
        limit: usize,
        /// Clients that are admitted.
        clients_max: usize,
    },
    /// A client's TLS handshake failed, and its connection is closed.
    HandshakeFailed {
        /// The client.
        peer: SocketAddr,
        /// The reason. It contains no text from the client.
        wrong: String,
    },
    /// A client's connection ended because a timeout expired.
    Expired {
        /// The client.
        peer: SocketAddr,
        /// A text that names the effect and the configuration key of the timeout.
        what: &'static str,
    },
    /// A report of a backend could not be read. Sent once for each backend and kind of fault.
    UnreadableReport {
        /// The backend.
        backend: BackendId,
        /// The fault of the report.
        fault: ReportFault,
    },
    /// A probe, or a request on an open connection, found a fault of a backend's TLS. Sent when the
    /// backend's fault changes.
    InsecureBackend {
        /// The backend.
        backend: BackendId,
        /// The fault.
        fault: TlsFault,
    },
    /// The configuration changed at run time.
    Reconfigured(Box<ConfigChange>),
    /// The discovered backends have changed. The change contains only names.
    Discovered(Box<ConfigChange>),
    /// A new configuration is invalid or did not arrive in time; the current one stays.
    ConfigRefused {
        /// The fault, in one line.
        wrong: String,
    },
    /// A backend sent bytes on an idle connection, which was closed.
    UnsolicitedBytes {
        /// The backend.
        backend: BackendId,
    },
}

/// The limit that a client exceeds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Excess {
    /// `limits.clientConnections`.
    Connections,
    /// `limits.clientRequestsPerSecond`.
    Requests,
}

/// The bound on clients that was reached.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Full {
    /// `limits.clients`.
    Clients,
    /// Open files: more clients would leave no descriptors for their upstreams.
    OpenFiles {
        /// Clients that are admitted.
        clients_max: usize,
    },
}

/// A fault of a report.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ReportFault {
    /// It is not a JSON object.
    NoObject {
        /// The beginning of the received text, escaped.
        excerpt: String,
    },
    /// A figure is not a number; the other figures are used.
    NoNumber {
        /// Its name.
        field: String,
        /// The beginning of its value, escaped.
        excerpt: String,
    },
    /// A figure is out of range; the others are used.
    OutOfRange {
        /// Its name.
        field: String,
        /// The number.
        excerpt: String,
    },
    /// A line or field that cannot be read.
    Unreadable {
        /// The beginning of the text, escaped.
        excerpt: String,
    },
    /// Its body is compressed.
    Encoded,
    /// It lacks all figures that are read.
    NoFigures,
    /// It is longer than 1 MiB.
    TooLong,
    /// The head of its response is larger than 32 KiB or has too many fields, or its interim
    /// responses together are larger than 32 KiB.
    HeadTooLarge,
    /// It was not complete in time.
    TimedOut,
    /// The connection ended before the report was complete.
    Cut,
    /// The response is not HTTP.
    Malformed,
    /// The response's status is neither 2xx nor 3xx.
    Status(u16),
}

impl ReportFault {
    /// Returns the fault of a failed report probe. `None` if no connection was made, which the
    /// backend's health shows, or if the proxy abandoned the probe.
    pub(crate) const fn of(failure: ProbeFailure) -> Option<Self> {
        Some(match failure {
            // Only a ping searches a body for a text.
            ProbeFailure::Refused
            | ProbeFailure::Unreachable
            | ProbeFailure::Abandoned
            | ProbeFailure::Body => return None,
            ProbeFailure::TimedOut => Self::TimedOut,
            ProbeFailure::Cut => Self::Cut,
            ProbeFailure::Malformed => Self::Malformed,
            ProbeFailure::TooLarge => Self::HeadTooLarge,
            ProbeFailure::Status(status) => Self::Status(status),
        })
    }

    /// Returns the bit of this kind of fault, for a set of kinds.
    pub(crate) const fn bit(&self) -> u16 {
        1 << match self {
            Self::NoObject { .. } => 0,
            Self::NoNumber { .. } => 1,
            Self::NoFigures => 2,
            Self::TooLong => 3,
            Self::HeadTooLarge => 4,
            Self::TimedOut => 5,
            Self::Cut => 6,
            Self::Malformed => 7,
            Self::Status(_) => 8,
            Self::OutOfRange { .. } => 9,
            Self::Unreadable { .. } => 10,
            Self::Encoded => 11,
        }
    }
}

/// Changes of a new configuration, by the backends' names and the configuration's keys.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ConfigChange {
    /// New backends.
    pub added: Vec<String>,
    /// Removed backends.
    pub removed: Vec<String>,
    /// Backends at another address.
    pub moved: Vec<String>,
    /// Backends with another limit, weight, health check or role.
    pub changed: Vec<String>,
    /// Keys with changed values, without `backends`. The new values are in use.
    pub settings: Vec<&'static str>,
}

/// The proxy's reaction to a failed upstream.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RemedyTaken {
    /// The same backend was tried over a new connection.
    Redialled,
    /// The backend was not blamed, because the client kept it waiting.
    Excused,
    /// Another backend was tried.
    Retried,
    /// The client's connection was closed without a response, so that the client may repeat the
    /// request.
    Closed,
    /// The client got the error's status.
    Answered,
    /// The client got the error's status because the retry budget was used up. Otherwise the proxy
    /// would have tried another backend.
    Unretried,
    /// The client's response was cut.
    Truncated,
}

impl Notice {
    /// Returns the notice of an error, with an excerpt of `input`, the client's bytes that were not
    /// consumed yet. `is_head` says whether they begin with a request's head.
    pub(crate) fn client_error(
        peer: SocketAddr,
        error: ClientError,
        input: &[u8],
        is_head: bool,
    ) -> Self {
        let excerpt = match error {
            _ if is_head => excerpt::of_head(input),
            ClientError::MalformedChunk(error) if error.is_in_size_line() => {
                excerpt::of_size_line(input)
            }
            _ => String::new(),
        };
        Self::ClientError { peer, error, excerpt }
    }
}
