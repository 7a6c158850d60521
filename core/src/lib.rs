//! The routing brain of IntelliProxy.
//!
//! A [`Router`] decides which backend serves a request. It is a plain data structure: it is told
//! facts and the time, and answers with decisions, actions and a deadline. It opens no socket,
//! reads no clock, starts no thread and draws no randomness but from the seed it is given, so the
//! same inputs give the same outputs, bit for bit, on every platform.
mod backend;
mod config;
mod estimate;
mod event;
mod gate;
mod health;
mod policy;
mod probe;
mod rng;
mod router;
mod score;
mod snapshot;
mod time;
mod tournament;

pub use backend::BackendId;
pub use config::{
    ConfigError, ErrorRules, HealthRules, PolicyKind, ProbeRules, RouterConfig, Rules, Smoothing,
    SwitchRules, Weights,
};
pub use event::{
    Action, Event, HoldReason, Lease, LeaseId, LoadReport, NoRoute, Notice, Outcome, ProbeAnswer,
    ProbeFailure, ProbeId, ProbeKind, ProbeResult, RequestFailure, SwitchReason,
};
pub use health::Health;
pub use rng::Rng;
pub use router::Router;
pub use score::{Factor, ScoreParts};
pub use snapshot::{BackendSnapshot, Snapshot};
pub use time::Instant;
