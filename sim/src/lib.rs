//! Simulated backends for IntelliProxy: servers whose faults can be chosen, repeated and observed.
//!
//! [`Model`] decides the response to each request. It is seeded, receives the time, and does no
//! I/O. [`Backend`] is a blocking HTTP/1.1 server that applies the decisions, with a thread for
//! each connection. The binary `sim` runs one backend.
//!
//! # Responses of a backend
//! | path | response |
//! |---|---|
//! | `/health` | `OK`: a ping |
//! | `/metrics` | the backend's own figures as JSON; without faults or effect on the model |
//! | any other | `Hello from backend on port N`: traffic |
//!
//! # Faults
//! Pings and traffic have the same seeded faults, so that pings show a proxy what its traffic will
//! get:
//! - **loss** (Gilbert-Elliott): every request may move the channel between the states G and B,
//!   each with its own loss rate. Above 80 % of the queue's maximum an overloaded server loses
//!   more: an independent loss of `multiplier · (queue / max − 0.8) / 0.2` on top. A lost *ping*
//!   gets no response: the connection stays silent until the client leaves, at most 30 s. Lost
//!   *traffic* is late instead, as with TCP: sent again after 200 ms, then after 400 ms, and so on,
//!   five times at most. A lossy period therefore affects both, and curl in the demonstration does
//!   not hang.
//! - **errors** have status 500, **slow responses** are delayed by a fixed time, and every request
//!   costs **CPU work**.
//! - the **queue** is the model's own random walk, reported by `/metrics`.
//!
//! With [`Faults::Health`] only pings have faults.
//!
//! ```
//! use intelliproxy_sim::{Backend, Config, Parameters};
//!
//! let backend = Backend::start(Config::faultless())?;
//! let slow = Parameters { slow_rate: 1.0, slow_ms: 40, ..Parameters::faultless() };
//! backend.set_parameters(slow)?;
//! assert_ne!(backend.port(), 0);
//! backend.kill();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
mod accept;
mod backend;
pub mod cli;
mod config;
mod connection;
mod host;
mod http;
mod metrics;
mod model;
mod options;
mod outage;
mod parameters;
mod process;
mod work;

pub use backend::{Backend, StartError};
pub use config::{Config, Counters, LogLevel};
pub use model::{Answer, Channel, Fate, Model, RequestKind};
pub use outage::Outage;
pub use parameters::{Faults, ParameterError, Parameters, Preset};
