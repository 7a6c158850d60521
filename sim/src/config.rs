//! The settings and the counters of a backend.
use crate::parameters::Parameters;

/// Settings of a backend.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The port on 127.0.0.1 and ::1; 0 for any free one.
    pub port: u16,
    /// Whether to listen on all addresses instead, for clients in other containers.
    pub is_public: bool,
    /// The seed of every random draw.
    pub seed: u64,
    /// Level of the log on stderr.
    pub log: LogLevel,
    /// Maximum number of connections. Another one gets 503.
    pub connections_max: usize,
    /// Faults and costs.
    pub parameters: Parameters,
}

impl Config {
    /// Default of `connections_max`. It bounds the threads.
    pub const CONNECTIONS_MAX: usize = 1024;

    /// Returns settings for tests: no faults, no log, a free port.
    pub fn faultless() -> Self {
        Self {
            port: 0,
            is_public: false,
            seed: 1,
            log: LogLevel::Off,
            connections_max: Self::CONNECTIONS_MAX,
            parameters: Parameters::faultless(),
        }
    }
}

/// Level of a backend's log.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum LogLevel {
    /// Nothing.
    Off,
    /// Start and end.
    Info,
    /// Also every fault and every bad request.
    Debug,
}

/// Counts of a backend since its start.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Counters {
    /// Connections accepted, the refused ones included.
    pub connections: u64,
    /// Connections open now.
    pub connections_open: usize,
    /// Connections that got 503 because too many were open.
    pub connections_refused: u64,
    /// Requests for `/health`.
    pub pings: u64,
    /// Requests for `/metrics`.
    pub polls: u64,
    /// All other requests.
    pub requests: u64,
    /// Pings that got no response.
    pub dropped: u64,
    /// Pings and requests that got 500.
    pub errors: u64,
    /// Pings and requests with a delayed response.
    pub delayed: u64,
    /// Bad requests, which got 400.
    pub malformed: u64,
}
