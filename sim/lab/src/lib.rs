//! The lab: policies compared on scenarios, in virtual time, on the very [`Router`] that the proxy
//! runs.
//!
//! ```text
//! arrivals -> P proxies, each with its own router -> N backends: W workers, a queue, faults
//! ```
//!
//! # The model
//! - **Arrivals** are open-loop: requests come whether or not earlier ones were answered. They
//!   follow a Poisson process, or one whose rate goes up and down by chance (MMPP) and by script,
//!   or a recorded trace. Each comes to any of the proxies with the same chance.
//! - **A request** goes to a backend in half the round trip, waits in its queue, is served, and
//!   its answer takes the other half. A full queue answers 503 at once. A proxy gives a request up
//!   after the timeout; its work at the backend is done all the same. Where the scenario has
//!   retries, a request that was refused, cut or turned away is sent to another backend as the real
//!   proxy would.
//! - **Classes** of requests differ in work, in their clients (slow up or down, impatient) and in
//!   what follows the response head (tunnels, event streams, tokens).
//! - **Work** is a draw from a distribution; it is done at the speed that the backend has at each
//!   moment. Requests in service may slow each other (`sharing`), as in a batching server.
//! - **Faults** come by script: other speeds, errors, late answers, sinkholes, black holes, refused
//!   and cut connections, refusals with Retry-After; backends join and leave.
//! - **Probes** are those that the routers ask for, at the times they ask for them. Backends answer
//!   them apart from their workers.
//! - **Failed requests** (5xx, refused, given up, not admitted) are charged a fixed time in
//!   percentiles and cost: to fail fast must not look fast.
//!
//! # Fair comparison
//! Arrivals and the luck of each request (how long its work is, whether it meets an error) come
//! from the seed and the request's number alone, so all policies see the same ones (common random
//! numbers). [`Run::arrivals_hash`] shows it. The `oracle` is the reference that everything is
//! divided by: it knows every true speed, queue and fault at once, and sends each request where its
//! expected delay is least. It is greedy, so it can be beaten: where it fills fast backends up, a
//! policy that leaves them room for later requests may have a lower mean.
//!
//! # Determinism
//! Time is a number of nanoseconds; nothing reads a clock. The same scenario, contender and seed
//! give the same [`Run`], bit for bit, on any number of threads. Logarithms are libm's, so that
//! other platforms give the same bits too.
//!
//! ```
//! use intelliproxy_lab::{Contender, Scenario, run};
//!
//! let scenario = Scenario::from_json(r#"{
//!     "durationS": 2,
//!     "arrivals": { "rate": { "load": 0.5 } },
//!     "service": { "exponential": 20 },
//!     "backends": [{ "name": "fast", "count": 2, "speed": 2 }, { "name": "slow" }]
//! }"#)?;
//! let oracle = run(&scenario, Contender::Oracle, 1)?;
//! let policy = run(&scenario, Contender::named("round_robin").expect("a policy"), 1)?;
//! assert_eq!(oracle.arrivals_hash, policy.arrivals_hash);
//! assert!(oracle.figures.mean_ms < policy.figures.mean_ms);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`Router`]: intelliproxy_core::Router
mod arrivals;
mod backend;
mod catalogue;
mod check;
mod class;
mod contender;
mod draw;
mod earliest;
mod group;
mod later;
mod options;
mod peer;
mod program;
mod proxy;
mod random;
mod recovery;
mod scenario;
mod script;
mod service;
mod station;
mod summary;
mod table;
mod tally;
mod trace;
mod world;

pub use catalogue::{catalogue, wide_catalogue};
pub use class::{RequestClass, Stream};
pub use contender::Contender;
pub use group::{BackendGroup, Door, Fault, FaultKind, Lossy, Probes};
pub use peer::PeerKind;
pub use program::{main, run_all};
pub use random::{Half, random_named, random_scenarios};
pub use scenario::{Arrivals, Bursts, Rate, Retries, Scenario, ScenarioError, Surge};
pub use service::{Part, Service};
pub use summary::{ContenderResult, Overall, ScenarioResult, SeedRun};
pub use table::{scenario_table, summary_table};
pub use tally::Figures;
pub use trace::{Trace, TraceError};
pub use world::{Run, run};
