//! The routing brain of IntelliProxy.
//!
//! A [`Router`] decides which backend serves a request. It is a plain data structure: its inputs
//! are facts and the time; its outputs are decisions, actions and a deadline. It opens no socket,
//! reads no clock, starts no thread, and all its randomness comes from the given seed. The same
//! inputs give the same outputs, bit for bit, on every platform.
//!
//! A longer example than the one below is `core/examples/route.rs`.
//!
//! The driver owns sockets and clock. After each call it performs the router's actions. It calls
//! the router again when a new fact arrives or the router's deadline has passed:
//!
//! ```
//! use std::time::Duration;
//!
//! use intelliproxy_core::{
//!     Action, Event, Instant, NoRoute, Outcome, ProbeAnswer, ProbeId, ProbeKind, ProbeResult, Router,
//!     RouterConfig, Rules,
//! };
//!
//! // Two backends; the seed fixes every random choice.
//! let backends = vec!["near".to_owned(), "far".to_owned()];
//! let mut now = Instant::ZERO;
//! let mut router = Router::new(RouterConfig { backends, rules: Rules::default() }, 42, now)?;
//!
//! // The probe loop: start the probes that are due and report how each ended. A real driver sends
//! // `GET /health` or `GET /metrics` here and sleeps until `poll_timeout`.
//! # let mut pings = 0;
//! while let Some(deadline) = router.poll_timeout().filter(|at| *at < Instant::from_millis(6_000)) {
//!     now = now.max(deadline);
//!     router.handle_timeout(now);
//!     let mut ended: Vec<(ProbeId, ProbeResult)> = Vec::new();
//!     while let Some(action) = router.poll_action() {
//!         match action {
//!             Action::StartProbe { probe, backend, kind: ProbeKind::Ping, .. } => {
//!                 let ms = if router.name(backend) == Some("near") { 3 } else { 80 };
//!                 let latency = Duration::from_millis(ms);
//!                 ended.push((probe, Ok(ProbeAnswer { latency, report: None })));
//! #               pings += 1;
//!             }
//!             // Reports get no response here: the router gives them up at their deadline.
//!             Action::StartProbe { .. } => {}
//!             Action::Notify(notice) => println!("{now:?}: {notice:?}"),
//!         }
//!     }
//!     for (probe, result) in ended {
//!         router.handle_event(now, Event::ProbeFinished { probe, result });
//!     }
//! }
//! # assert_eq!(pings, 11);
//!
//! // One request: the router names its backend, and the driver reports how it ended there.
//! let lease = router.route(now, &[]).expect("two backends to choose from");
//! assert_eq!(router.name(lease.backend()), Some("near"));
//! let tried = [lease.backend()];
//! now += Duration::from_millis(4);
//! let outcome = Outcome::Answered { status: 500, latency: Duration::from_millis(4) };
//! router.handle_event(now, Event::RequestFinished { lease, outcome });
//!
//! // It failed. A retry goes to the other backend, and a third attempt is not admitted.
//! let lease = router.route(now, &tried).expect("one backend is left");
//! assert_eq!(router.name(lease.backend()), Some("far"));
//! let outcome = Outcome::Answered { status: 200, latency: Duration::from_millis(90) };
//! router.handle_event(now, Event::RequestFinished { lease, outcome });
//! let everyone: Vec<_> = router.snapshot(now).backends.iter().map(|b| b.id).collect();
//! assert_eq!(router.route(now, &everyone), Err(NoRoute::AllTried));
//!
//! // The reason: one error plus ten assumed good requests is a rate of 1/11, at 40 points a
//! // percent.
//! let near = &router.snapshot(now).backends[0];
//! assert_eq!(near.score.latency, 3.0);
//! assert!((near.score.errors - 40.0 * 100.0 / 11.0).abs() < 1e-9);
//! # Ok::<(), intelliproxy_core::ConfigError>(())
//! ```
mod affinity;
mod backend;
mod blame;
mod config;
mod errors;
mod estimate;
mod event;
mod gate;
mod health;
mod id;
pub mod journal;
mod others;
mod outlier;
mod policy;
mod probe;
mod rng;
mod router;
mod score;
mod snapshot;
pub mod sorting;
mod time;
mod tournament;

pub use affinity::AffinityKey;
pub use blame::Asker;
pub use config::{
    AffinityBy, AffinityRules, BackendLimits, CheckRules, ConfigError, ErrorRules, HealthRules,
    LearnedRules, LinearRlRules, Mode, PeakEwmaRules, PolicyKind, PrequalRules, ProbeRules,
    RouterConfig, Rules, Smoothing, StreamRules, SwitchRules, Weights,
};
pub use event::{
    Action, AgentState, EjectReason, Event, HoldReason, Lease, LoadReport, NoRoute, Notice,
    OutCause, Outcome, ProbeAnswer, ProbeFailure, ProbeKind, ProbeResult, RequestFailure,
    ReturnReason, RouteReason, SwitchReason,
};
pub use health::Health;
pub use id::{BackendId, LeaseId, ProbeId};
pub use outlier::StandingView;
pub use policy::{
    GuardView, LearnedBackendState, LearnedPolicyState, LearnedStanding, LearnedView,
    LeastRequestView, LinearRlView, P2cView, PeakEwmaView, PolicyState, PolicyStateError,
    PolicyView, PrequalView, RoundRobinView, ScoreView, StateOf,
};
pub use rng::Rng;
pub use router::Router;
pub use score::{Factor, ScoreParts};
pub use snapshot::{BackendSnapshot, RouterCounts, Snapshot};
pub use time::Instant;
