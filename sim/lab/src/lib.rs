//! The lab: policies compared on scenarios, in virtual time, on the same [`Router`] that the proxy
//! runs.
//!
//! ```text
//! arrivals -> P proxies, each with its own router -> N backends: W workers, a queue, faults
//! ```
//!
//! # The model
//! - **Arrivals** are open-loop: requests arrive whether or not earlier ones have completed. They
//!   follow a Poisson process, a process with random and scripted changes of the rate (MMPP), or a
//!   recorded trace. Each request arrives at one of the proxies, all equally likely.
//! - **A request** reaches a backend after half the round trip, waits in its queue and is served.
//!   The response takes the other half. A full queue responds 503 at once. A proxy gives a request
//!   up after the timeout; the backend still does its work. In a scenario with retries, a refused
//!   or cut request is sent to another backend as in the real proxy.
//! - **Classes** of requests differ in work, in their clients (slow uploads or downloads,
//!   impatience) and in the stream after the response head (tunnels, event streams, tokens).
//! - **Work** is a draw from a distribution. It is done at the backend's current speed. Requests
//!   in service may slow each other (`sharing`), as in a batching server.
//! - **Faults** are scripted: other speeds, errors, late responses, sinkholes, black holes,
//!   refused and cut connections, refusals with Retry-After. Backends join and leave.
//! - **Probes** are those that the routers request, at the requested times. Backends respond to
//!   them without using their workers.
//! - **Failed requests** (any status that is not the right one of their class, refused, cut, given
//!   up by the proxy, not admitted) are charged a fixed time in percentiles and cost, so that fast
//!   failures do not look fast.
//!
//! # Fair comparison
//! Arrivals and the random draws of each request (its work, its errors) depend on the seed and the
//! request's number only, so all policies see the same ones (common random numbers).
//! [`Run::arrivals_hash`] shows it. The tables also have p99 and cost divided by those of the
//! `oracle`. It knows every true speed, queue and fault at once, and sends each request to the
//! backend with the least expected delay. It is greedy, so it can be beaten: it fills fast
//! backends, while a policy that leaves room there for later requests may have a lower mean.
//!
//! # Determinism
//! Time is a number of nanoseconds; a run reads no clock. The same scenario, contender and seed
//! give the same [`Run`], bit for bit, on any number of threads. Logarithms are libm's, so that all
//! platforms give the same bits.
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
mod cache;
mod catalogue;
mod check;
mod class;
mod contender;
mod detail;
mod draw;
mod earliest;
mod fault;
mod group;
mod later;
mod options;
mod peer;
mod program;
mod proxy;
mod random;
mod recovery;
mod report;
mod scenario;
mod script;
mod service;
mod station;
mod summary;
mod table;
mod tally;
mod trace;
mod world;

pub use cache::Cache;
pub use catalogue::{catalogue, wide_catalogue};
pub use class::{RequestClass, Stream};
pub use contender::Contender;
pub use fault::{Door, Fault, FaultKind};
pub use group::{BackendGroup, Lossy, Probes};
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
