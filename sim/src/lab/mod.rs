//! The lab.
mod arrivals;
mod backend;
mod catalogue;
mod check;
mod draw;
mod earliest;
mod later;
mod proxy;
mod scenario;
mod service;
mod station;
mod tally;
mod world;

pub use catalogue::catalogue;
pub use scenario::{
    Arrivals, BackendGroup, Bursts, Fault, FaultKind, Lossy, Probes, Rate, Scenario, ScenarioError,
    Surge,
};
pub use service::{Part, Service};
pub use tally::Figures;
pub use world::{Contender, Run, run};
