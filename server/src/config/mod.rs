//! The configuration: every option with its default, unit and range.
//!
//! The types here are plain data. `jsonc.rs` parses JSON with comments, `read.rs` reads its
//! values through serde, `check.rs` checks every value against its range, and `file.rs` combines
//! these steps. This module does not open files or resolve names: see `cli.rs` and
//! `edge/resolve.rs`.
//!
//! To add a key (keys of `routing` begin in `core/src/config.rs`):
//!
//! 1. `mod.rs`, here: the field with its default, unit and range, and the default in `Default`. A
//!    time is a `Duration` with `serde(rename = "...Ms", with = "millis")`. The units of times and
//!    sizes follow from the key's name (`units.rs`).
//! 2. `check.rs`: a row in `COUNTS` or `SPANS`, or a check in `validate`. `check/tests.rs`: a row.
//! 3. A new top-level key: a row in `differences.rs`, and the list of keys in `file/tests.rs`.
//! 4. If it has a flag: `cli/flags.rs`, and a row in `cli/command/tests.rs`.
//! 5. `server/docs/configuration.md`: a row in a table of keys, which `tests/tidy.rs` compares with
//!    the fields. `INTELLIPROXY_SCHEMA=write cargo test -p intelliproxy-tests --test schema` then
//!    rewrites the schema. `CHANGELOG.md`: a line.
use std::time::Duration;

use intelliproxy_core::Rules;
use serde::{Deserialize, Serialize};

mod backend;
mod backend_tls;
mod check;
mod differences;
mod discovery;
mod file;
mod forms;
mod health;
mod host;
mod jsonc;
mod levels;
mod listen;
mod logs;
mod millis;
mod nearest;
mod network;
mod optional_millis;
mod place;
mod read;
mod reports;
mod target;
mod tls;
mod units;
mod url;

pub use backend::BackendConfig;
pub use backend_tls::{BackendTls, OwnBackendTls, OwnCertificate, TargetTls, TlsIdentity};
pub use discovery::{DiscoveryRules, Found, Known};
pub(crate) use discovery::{backends_from_file, fixed_addresses};
pub(crate) use file::rules_from_json;
pub(crate) use health::Check;
pub use health::{CheckKind, CheckMethod, HealthChecks, InitialHealth, OwnHealthChecks};
pub use host::HostError;
pub(crate) use host::HostPort;
pub(crate) use levels::Levels;
pub use listen::{Listen, ListenAddress};
pub use logs::{AccessLogFormat, AccessLogRules, LogFormat, LogRules, RequestIdRules, TakeId};
pub use network::{Network, NetworkError};
pub use place::FileError;
pub(crate) use reports::{FigureNames, Reporting};
pub use reports::{Orca, ReportKind, ReportPreset, ReportRules};
pub use target::BackendTarget;
pub(crate) use target::is_same_set;
pub use tls::{CertificateFiles, ClientAuth, ListenTls, TlsVersion};
pub use url::{BackendUrl, UrlError};

/// The whole configuration of a proxy.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Config {
    /// Addresses to listen on, `HOST:PORT`, 1 to 64. Only those with port 0 may be equal.
    /// `localhost` means both loopback addresses, port 0 any free one.
    pub listen: Vec<Listen>,
    /// Backends in order of preference among equals, at most 1000; names differ.
    pub backends: Vec<BackendConfig>,
    /// Rules for choosing among the backends.
    pub routing: Rules,
    /// Limits of sizes, connections and requests.
    pub limits: Limits,
    /// Limits of times to wait.
    pub timeouts: Timeouts,
    /// Changes to forwarded messages.
    pub forwarding: Forwarding,
    /// Rules for idle upstream connections.
    pub pool: PoolRules,
    /// Treatment of clients beyond `limits.clients`.
    pub overflow: Overflow,
    /// Clients that may read /stats.
    pub stats: StatsRules,
    /// The listener of the admin pages, and the socket for commands.
    pub admin: AdminRules,
    /// The paths that probes request.
    pub probe_paths: ProbePaths,
    /// The health checks of all backends.
    pub health: HealthChecks,
    /// The load reports of all backends.
    pub reports: ReportRules,
    /// TLS towards all backends.
    pub tls: BackendTls,
    /// Backends that are found while the proxy runs.
    pub discovery: DiscoveryRules,
    /// The program's log.
    pub log: LogRules,
    /// The access log.
    pub access_log: AccessLogRules,
    /// Ids of requests.
    pub request_id: RequestIdRules,
    /// Recordings for `intelliproxy replay`.
    pub recording: RecordingRules,
    /// The file that keeps the learned state of a policy across restarts (null: none).
    pub state_file: Option<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: vec!["127.0.0.1:3001".into()],
            backends: vec![
                BackendConfig::new("A", "http://localhost:3000"),
                BackendConfig::new("B", "http://localhost:3002"),
            ],
            routing: Rules::default(),
            limits: Limits::default(),
            timeouts: Timeouts::default(),
            forwarding: Forwarding::default(),
            pool: PoolRules::default(),
            overflow: Overflow::default(),
            stats: StatsRules::default(),
            admin: AdminRules::default(),
            probe_paths: ProbePaths::default(),
            health: HealthChecks::default(),
            reports: ReportRules::default(),
            tls: BackendTls::default(),
            discovery: DiscoveryRules::default(),
            log: LogRules::default(),
            access_log: AccessLogRules::default(),
            request_id: RequestIdRules::default(),
            recording: RecordingRules::default(),
            state_file: None,
        }
    }
}

/// Limits of sizes, connections and requests.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Limits {
    /// Bytes of a request or response head, including its empty line (32 768); 1024 to 60 000. A
    /// larger request gets 431; a larger response becomes a 502.
    pub head_bytes_max: usize,
    /// Bytes of a request's target (16 384); 64 to 60 000 and at most `headBytesMax`. Longer ones
    /// get 414.
    pub target_bytes_max: usize,
    /// Fields of a head or trailer section (128); 8 to 1000.
    pub fields_max: usize,
    /// Bytes of one chunk's extensions (1024), skipped and never forwarded; 0 to 60 000.
    pub chunk_extension_bytes_max: usize,
    /// Bytes of a trailer section (8192); 0 to 60 000.
    pub trailer_bytes_max: usize,
    /// Bytes of a request body (0: any size). Larger ones get 413.
    pub body_bytes_max: u64,
    /// Client connections at the same time (10 000); 1 to 1 000 000.
    pub clients: usize,
    /// Connections of one client at the same time (0: any number); 0 to 1 000 000. A client is an
    /// IPv4 address or an IPv6 network of 64 bits. Further connections get 429 and are closed.
    pub client_connections: u32,
    /// Requests of one client per second (0: any number); 0 to 1 000 000. The client may send this
    /// number in one burst. Further requests get 429.
    pub client_requests_per_second: u32,
    /// Maximum number of client TLS handshakes in progress (4000); 1 to 1 000 000. For a further
    /// client the oldest handshake is closed once it has taken a second.
    pub handshakes: usize,
    /// Maximum number of backends to which one request is sent (3); 1 to 16.
    pub attempts: usize,
    /// Requests that may be sent to another backend after a failure or refusal, in percent of all
    /// requests (20); 0 to 1000. Ten more a second are always allowed, except with 0, which allows
    /// none.
    pub retry_percent: u32,
    /// Requests in flight at a backend at the same time (0: any number); 0 to 1 000 000.
    pub per_backend: u32,
    /// Requests that wait while every backend is at its limit (1000); 0 to 100 000.
    pub queue_length: usize,
    /// Longest wait of such a request (5000 ms), 1 ms to a day. Then it gets 503.
    #[serde(rename = "queueMs", with = "millis")]
    pub queue: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_bytes_max: 32 * 1024,
            target_bytes_max: 16 * 1024,
            fields_max: 128,
            chunk_extension_bytes_max: 1024,
            trailer_bytes_max: 8 * 1024,
            body_bytes_max: 0,
            clients: 10_000,
            client_connections: 0,
            client_requests_per_second: 0,
            handshakes: 4000,
            attempts: 3,
            retry_percent: 20,
            per_backend: 0,
            queue_length: 1000,
            queue: Duration::from_millis(5000),
        }
    }
}

/// Limits of waiting times; each from 1 ms to a day. Only `lame_duck` may be 0.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Timeouts {
    /// Time from the acceptance of a client to the end of its TLS handshake (10 s). After that its
    /// connection is closed.
    #[serde(rename = "handshakeMs", with = "millis")]
    pub handshake: Duration,
    /// From a request's first byte to the end of its head (10 s); then 408.
    #[serde(rename = "requestHeadMs", with = "millis")]
    pub request_head: Duration,
    /// Between two pieces of a request's body (30 s); then 408.
    #[serde(rename = "requestBodyMs", with = "millis")]
    pub request_body: Duration,
    /// Between two requests of a client, and before its first (60 s); then its connection is
    /// closed.
    #[serde(rename = "clientIdleMs", with = "millis")]
    pub client_idle: Duration,
    /// Time in which a client accepts none of the bytes that wait for it (30 s); then its
    /// connection is cut.
    #[serde(rename = "clientWriteMs", with = "millis")]
    pub client_write: Duration,
    /// Time to connect to one address of a backend (2 s); then the next one is tried, or the client
    /// gets 504.
    #[serde(rename = "connectMs", with = "millis")]
    pub connect: Duration,
    /// From the request's last byte to the response's head (60 s); then 504.
    #[serde(rename = "responseHeadMs", with = "millis")]
    pub response_head: Duration,
    /// Between two pieces of a response body, or while the backend accepts no bytes of the request
    /// body (60 s); then the client's response is cut.
    #[serde(rename = "responseBodyMs", with = "millis")]
    pub response_body: Duration,
    /// Time without bytes in either direction of a tunnel (1 h); then it is closed.
    #[serde(rename = "tunnelIdleMs", with = "millis")]
    pub tunnel_idle: Duration,
    /// After its last response a client's further input is read and dropped until none has arrived
    /// for this time (2 s), so that the response is not lost to a reset (RFC 9112 section 9.6).
    #[serde(rename = "lingerMs", with = "millis")]
    pub linger: Duration,
    /// The longest total time of such reading (30 s).
    #[serde(rename = "lingerTotalMs", with = "millis")]
    pub linger_total: Duration,
    /// Time for requests in flight after a signal to stop (10 s).
    #[serde(rename = "shutdownMs", with = "millis")]
    pub shutdown: Duration,
    /// Time from a signal to stop until no more clients are accepted (0); up to a day. In this time
    /// responses end their connections, and /readyz returns 503.
    #[serde(rename = "lameDuckMs", with = "millis")]
    pub lame_duck: Duration,
    /// Time from a SIGHUP until the configuration is read and its names are resolved (30 s). A
    /// longer reload is abandoned, and the current configuration stays.
    #[serde(rename = "reloadMs", with = "millis")]
    pub reload: Duration,
    /// Time from a SIGUSR2 until the new process is ready (30 s). If it takes longer, it is ended,
    /// and this one serves as before.
    #[serde(rename = "upgradeMs", with = "millis")]
    pub upgrade: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            request_head: Duration::from_secs(10),
            request_body: Duration::from_secs(30),
            client_idle: Duration::from_secs(60),
            client_write: Duration::from_secs(30),
            connect: Duration::from_secs(2),
            response_head: Duration::from_secs(60),
            response_body: Duration::from_secs(60),
            tunnel_idle: Duration::from_secs(3600),
            linger: Duration::from_secs(2),
            linger_total: Duration::from_secs(30),
            shutdown: Duration::from_secs(10),
            lame_duck: Duration::ZERO,
            reload: Duration::from_secs(30),
            upgrade: Duration::from_secs(30),
        }
    }
}

impl Timeouts {
    /// Returns the shortest time from the start of a timeout to its first check. `lame_duck`,
    /// `reload` and `upgrade` are checked elsewhere.
    pub(crate) fn shortest(&self) -> Duration {
        let Self { request_head, request_body, client_idle, client_write, .. } = *self;
        let Self { connect, response_head, response_body, tunnel_idle, .. } = *self;
        // The timeout of a receiving peer is checked four times before it expires.
        let of_clients = request_head.min(request_body).min(client_idle).min(client_write / 4);
        let of_backends = connect.min(response_head / 4).min(response_body / 4);
        let linger = self.linger.min(self.linger_total);
        of_clients.min(of_backends).min(tunnel_idle).min(linger).min(self.shutdown)
    }
}

/// Changes to forwarded messages.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Forwarding {
    /// Send the client's Host to the backend instead of the backend's own (true).
    pub keep_host: bool,
    /// The proxy's name in Via (`intelliproxy`), followed by `-` and eight digits of the instance;
    /// a token of 1 to 64 characters.
    pub via: String,
    /// Addresses or networks whose X-Forwarded fields, Forwarded and PROXY protocol headers are
    /// used, at most 64 (none).
    pub trusted: Vec<String>,
    /// Serve a client that ends its side at any time before its response (false: only if the end
    /// arrives with the request; a later end aborts the request).
    pub half_close: bool,
    /// Whether to send a request that a backend refuses (429, 503) to another backend, if its
    /// method allows that and the proxy still holds the whole request (true).
    pub retry_refused: bool,
    /// The field of a response that names its backend and the rule that chose it (null: none).
    pub route_field: Option<String>,
}

impl Default for Forwarding {
    fn default() -> Self {
        Self {
            keep_host: true,
            via: "intelliproxy".to_owned(),
            trusted: Vec::new(),
            half_close: false,
            retry_refused: true,
            route_field: None,
        }
    }
}

/// Rules for idle upstream connections.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct PoolRules {
    /// Idle connections kept for each backend (1024); 0 to 100 000.
    pub idle_per_backend: usize,
    /// Lifetime of an idle connection (4 s, below the 5 s after which a Node.js server closes its
    /// side); 1 ms to a day.
    #[serde(rename = "idleMs", with = "millis")]
    pub idle: Duration,
}

impl Default for PoolRules {
    fn default() -> Self {
        Self { idle_per_backend: 1024, idle: Duration::from_secs(4) }
    }
}

/// Treatment of clients beyond `limits.clients`.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Overflow {
    /// New clients wait in the listener's backlog until another client leaves.
    #[default]
    Wait,
    /// They get 503 and are closed.
    Reject,
}

/// Clients that may read /stats.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct StatsRules {
    /// Addresses or networks (`10.0.0.0/8`, `::1`) that may read it, at most 64. Requests of others
    /// for this path are forwarded like any other.
    pub allow: Vec<String>,
}

impl Default for StatsRules {
    fn default() -> Self {
        Self { allow: vec!["127.0.0.0/8".to_owned(), "::1".to_owned()] }
    }
}

/// The listener of the admin pages (/stats, /metrics, /healthz, /readyz, /config, /explain), and
/// the socket for commands.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct AdminRules {
    /// `HOST:PORT` (null: none). Every client that can connect there can read the pages.
    pub listen: Option<String>,
    /// The path of the Unix socket for `intelliproxy ctl` (null: none), with mode 0600.
    pub socket: Option<String>,
}

/// The paths that probes request; each begins with `/` and has at most 1024 visible ASCII
/// characters, without `#`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct ProbePaths {
    /// Pings (`/health`), where `health.path` is null.
    pub ping: String,
    /// Reports (`/metrics`).
    pub report: String,
}

impl Default for ProbePaths {
    fn default() -> Self {
        Self { ping: "/health".to_owned(), report: "/metrics".to_owned() }
    }
}

/// Recordings for `intelliproxy replay`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct RecordingRules {
    /// The file that gets every input of the router (null: none). An existing file is renamed to
    /// `FILE.old`.
    pub file: Option<String>,
    /// Bytes of one file (0: any number). With a bound the files are `FILE.0`, `FILE.1` and so on.
    /// When all are full the oldest is overwritten. Its decisions are lost, and later ones can no
    /// longer be checked.
    pub bytes_max: u64,
    /// Number of files in the ring (4); 2 to 1000.
    pub files: u32,
}

impl Default for RecordingRules {
    fn default() -> Self {
        Self { file: None, bytes_max: 0, files: 4 }
    }
}
