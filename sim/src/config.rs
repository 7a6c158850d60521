//! Settings and counts of a backend.
use crate::parameters::Parameters;

/// Settings of a backend.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The port on 127.0.0.1 and ::1; 0 for any that is free.
    pub port: u16,
    /// Decides every random draw.
    pub seed: u64,
    /// Level of the log on stderr.
    pub log: LogLevel,
    /// Connections served at a time; one more is answered 503.
    pub connections_max: usize,
    /// Faults and costs.
    pub parameters: Parameters,
}

impl Config {
    /// Connections served at a time unless something else is asked for: it bounds the threads.
    pub const CONNECTIONS_MAX: usize = 1024;

    /// A silent backend without faults on a free port: the ground for tests.
    pub fn faultless() -> Self {
        Self {
            port: 0,
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
    /// Every fault and every bad request too.
    Debug,
}

/// Counts of a backend since its start.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Counters {
    /// Connections accepted, the refused ones included.
    pub connections: u64,
    /// Connections open now.
    pub connections_open: usize,
    /// Connections answered 503 because too many were open.
    pub connections_refused: u64,
    /// Requests for `/health`.
    pub pings: u64,
    /// Requests for `/metrics`.
    pub polls: u64,
    /// All other requests.
    pub requests: u64,
    /// Pings that got no answer.
    pub dropped: u64,
    /// Pings and requests answered 500.
    pub errors: u64,
    /// Pings and requests answered late.
    pub delayed: u64,
    /// Bad requests, answered 400.
    pub malformed: u64,
}
