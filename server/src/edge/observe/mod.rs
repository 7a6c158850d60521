//! Writes the proxy's notices to the log. `proxy/describe.rs` describes the router's notices, and
//! `limit.rs` limits the number of lines.
mod limit;

use std::fmt;
use std::net::SocketAddr;

use intelliproxy_core::Notice as RouterNotice;
use intelliproxy_core::Notice::HealthChanged;
use intelliproxy_core::{BackendId, Instant};
use log::{Level, debug, error, info, log, log_enabled, warn};

use self::limit::Kind;
pub(crate) use self::limit::LineLimits;
use crate::config::{Config, Limits};
use crate::proxy::describe::{describe, describe_change, describe_fault};
use crate::proxy::{Excess, Full, Notice, RemedyTaken, ReportFault};

/// Logs a notice, unless the limit of its kind is exceeded. `name` returns the name of a backend.
/// Lines of a disabled level are not formatted.
pub(crate) fn log_notice<'a>(
    now: Instant,
    notice: &Notice,
    config: &Config,
    limits: &mut LineLimits,
    name: impl Fn(BackendId) -> &'a str,
) {
    if let Some((level, kind)) = kind(notice)
        && (!log_enabled!(level) || !limits.admits(now, kind))
    {
        return;
    }
    match notice {
        Notice::Router(notice @ RouterNotice::PingsUnserved { .. }) => {
            warn!("{}", describe(notice, config, name));
        }
        Notice::Router(notice) => info!("{}", describe(notice, config, name)),
        Notice::ClientError { peer, error, excerpt } => {
            let (client, status) = (Client(*peer), error.status());
            match excerpt.is_empty() {
                true => warn!("{client}: {status}: {error}"),
                false => warn!("{client}: {status}: {error}: \"{excerpt}\""),
            }
        }
        Notice::Refused { peer, backend, status } => {
            let backend = name(*backend);
            let what = if matches!(status, 429 | 503) { "refused" } else { "failed on trial" };
            debug!("client {peer}: {status}: backend {backend} {what}: sent to another backend");
        }
        Notice::UpstreamError { peer, backend, error, remedy } => {
            let backend = backend.map_or("none", name);
            let level = level_of(*remedy);
            let remedy = match remedy {
                RemedyTaken::Excused => "delayed by the client: not charged to the backend",
                RemedyTaken::Redialled => "sent again over a new connection",
                RemedyTaken::Retried => "sent to another backend",
                RemedyTaken::Closed => {
                    "client connection closed, so that the client repeats the request"
                }
                RemedyTaken::Answered => "error returned to the client",
                RemedyTaken::Unretried => {
                    "error returned to the client, limits.retryPercent is spent"
                }
                RemedyTaken::Truncated => "client connection cut",
            };
            let status = error.status();
            let client = Client(*peer);
            log!(level, "{client}: {status}: backend {backend}: {error}: {remedy}");
        }
        Notice::HandshakeFailed { peer, wrong } => {
            info!("{}: TLS handshake failed: {wrong}", Client(*peer));
        }
        Notice::Expired { peer, what } => info!("{}: {what}", Client(*peer)),
        Notice::UnreadableReport { backend, fault } => {
            let backend = name(*backend);
            let reporting = config.reporting_named(backend);
            let fault_line = describe_fault(fault, &reporting);
            log!(level_of_fault(fault), "backend {backend}: {fault_line}");
        }
        Notice::InsecureBackend { backend, fault } => {
            warn!("backend {}: TLS: {fault}", name(*backend));
        }
        Notice::ClientRefused { peer, full } => {
            let why = full.map_or_else(|| "stopping".to_owned(), describe_full);
            warn!("client {peer}: 503: {why}");
        }
        Notice::ClientLimited { peer, excess } => {
            warn!("{}: 429: {} reached", Client(*peer), key(*excess));
        }
        Notice::ClientsGaveWay { count, full } => {
            warn!("{}: closed {count} idle clients for new ones", describe_full(*full));
        }
        Notice::ClientsInExcess { clients, clients_max } => {
            warn!(
                "{clients} clients are connected, {clients_max} are permitted now: closing idle ones, \
                 accepting no more until there is room"
            );
        }
        Notice::ClientsLimited { limit, clients_max } => {
            // A default that exceeds the system's limit is not the operator's mistake.
            let is_default = *limit == Limits::default().clients;
            let level = if is_default { Level::Info } else { Level::Warn };
            log!(
                level,
                "limits.clients is {limit}, but open files suffice for {clients_max} clients and \
                 their upstreams: admitting no more"
            );
        }
        Notice::Reconfigured(change) => {
            info!("configuration: {}", describe_change(change));
        }
        Notice::Discovered(change) => info!("discovery: {}", describe_change(change)),
        Notice::ConfigRefused { wrong } => {
            error!("configuration not applied, keeping the current one: {wrong}");
        }
        Notice::UnsolicitedBytes { backend } => {
            let backend = name(*backend);
            warn!("backend {backend}: unsolicited bytes: connection closed");
        }
    }
}

/// The level and the kind of a notice's line. `None` if the line needs no limit, because only the
/// operator can cause it or the proxy already limits the notices.
fn kind(notice: &Notice) -> Option<(Level, Kind)> {
    let kind = |about, status| Kind { about, status, lines: LINES };
    Some(match notice {
        Notice::Router(HealthChanged { .. }) => {
            (Level::Info, Kind { about: "health", status: 0, lines: HEALTH_LINES })
        }
        Notice::Router(RouterNotice::PingsUnserved { .. }) => {
            (Level::Warn, Kind { about: "health", status: 0, lines: HEALTH_LINES })
        }
        Notice::Router(_) => (Level::Info, kind("switch", 0)),
        Notice::ClientError { error, .. } => (Level::Warn, kind("client", error.status())),
        Notice::UpstreamError { error, remedy, .. } => {
            (level_of(*remedy), kind("backend", error.status()))
        }
        Notice::Refused { status, .. } => (Level::Debug, kind("refused", *status)),
        Notice::HandshakeFailed { .. } => (Level::Info, kind("handshake", 0)),
        Notice::Expired { .. } => (Level::Info, kind("timeout", 0)),
        Notice::UnreadableReport { fault, .. } => (level_of_fault(fault), kind("report", 0)),
        Notice::InsecureBackend { .. } => (Level::Warn, kind("tls", 0)),
        Notice::ClientRefused { .. } => (Level::Warn, kind("limits.clients", 503)),
        Notice::ClientLimited { excess, .. } => (Level::Warn, kind(key(*excess), 429)),
        Notice::UnsolicitedBytes { .. } => (Level::Warn, kind("unsolicited bytes", 0)),
        _ => return None,
    })
}

const fn level_of(remedy: RemedyTaken) -> Level {
    match remedy {
        RemedyTaken::Redialled => Level::Debug,
        RemedyTaken::Excused | RemedyTaken::Retried | RemedyTaken::Closed => Level::Info,
        RemedyTaken::Answered | RemedyTaken::Unretried | RemedyTaken::Truncated => Level::Warn,
    }
}

/// The level of a report's fault. A failure status or missing figures only mean that the backend
/// offers no report, which is allowed.
const fn level_of_fault(fault: &ReportFault) -> Level {
    match fault {
        ReportFault::Status(_) | ReportFault::NoFigures => Level::Info,
        _ => Level::Warn,
    }
}

/// Describes the limit that was reached.
fn describe_full(full: Full) -> String {
    match full {
        Full::Clients => "limits.clients reached".to_owned(),
        Full::OpenFiles { clients_max } => {
            format!("open files suffice for {clients_max} clients, all connected")
        }
    }
}

/// The configuration key of a limit.
const fn key(excess: Excess) -> &'static str {
    match excess {
        Excess::Connections => "limits.clientConnections",
        Excess::Requests => "limits.clientRequestsPerSecond",
    }
}

/// Lines of one kind per second. 20 lines of 300 bytes are 22 MB an hour.
const LINES: u32 = 20;
/// Lines about health changes per second: enough for one change of each backend in a large
/// configuration.
const HEALTH_LINES: u32 = 1000;

/// A client in a log line. Port 0 means unknown (a client behind a trusted hop) and is omitted.
struct Client(SocketAddr);

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.port() {
            0 => write!(f, "client {}", self.0.ip()),
            _ => write!(f, "client {}", self.0),
        }
    }
}
