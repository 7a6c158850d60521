//! Baselines: the balancing of other products, with their documented defaults.
//!
//! Each replaces the router. All use the scenario's retries, so that only the choice of backends is
//! compared.
mod envoy;
mod haproxy;
mod nginx;

use std::fmt::Debug;

use intelliproxy_core::{Outcome, ProbeId};

use self::envoy::Envoy;
use self::haproxy::HaProxy;
use self::nginx::Nginx;

/// A product.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PeerKind {
    /// Least request of two, with outlier detection.
    Envoy,
    /// `leastconn` with health checks, `observe layer7` and `slowstart`.
    HaProxy,
    /// `least_conn` with `max_fails`.
    Nginx,
}

impl PeerKind {
    /// All products.
    pub const ALL: [Self; 3] = [Self::Envoy, Self::HaProxy, Self::Nginx];

    /// Returns its name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Envoy => "envoy",
            Self::HaProxy => "haproxy",
            Self::Nginx => "nginx",
        }
    }
}

/// The balancer of a product. Backends are identified by the lab's numbers; times are in ns.
pub(super) trait Peer: Debug {
    /// Sets the configured backends.
    fn configure(&mut self, now: u64, backends: &[usize]);

    /// Chooses a backend for a request that failed at `tried`. The request counts as in flight from
    /// now on.
    fn choose(&mut self, now: u64, tried: &[usize]) -> Option<usize>;

    /// Records the end of a request.
    fn ended(&mut self, now: u64, backend: usize, outcome: &Outcome);

    /// Records the end of a health check.
    fn probe_ended(&mut self, _now: u64, _probe: ProbeId, _is_good: bool) {}

    /// Handles the deadline.
    fn handle_timeout(&mut self, _now: u64) {}

    /// Returns the next health check to start.
    fn poll_probe(&mut self) -> Option<(ProbeId, usize)> {
        None
    }

    /// Returns the time of the next `handle_timeout`.
    fn deadline(&self) -> u64 {
        u64::MAX
    }
}

/// Returns a peer without backends.
pub(super) fn new(kind: PeerKind, seed: u64) -> Box<dyn Peer> {
    match kind {
        PeerKind::Envoy => Box::new(Envoy::new(seed)),
        PeerKind::HaProxy => Box::new(HaProxy::default()),
        PeerKind::Nginx => Box::new(Nginx::default()),
    }
}

/// A peer's view of how a request ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Verdict {
    /// A status below 500.
    Good,
    /// A 5xx.
    Status,
    /// No response: refused, cut or too late.
    Failed,
    /// The client left.
    Nothing,
}

const fn verdict(outcome: &Outcome) -> Verdict {
    match outcome {
        Outcome::Answered { status, .. } | Outcome::Refused { status, .. } if *status >= 500 => {
            Verdict::Status
        }
        Outcome::Failed(_) => Verdict::Failed,
        Outcome::Abandoned => Verdict::Nothing,
        _ => Verdict::Good,
    }
}

/// Returns the untried member with the least load, the first of equal ones. Members without a load
/// are skipped.
fn least<L: PartialOrd>(
    members: &[usize],
    tried: &[usize],
    load: impl Fn(usize) -> Option<L>,
) -> Option<usize> {
    let mut best: Option<(usize, L)> = None;
    for member in members.iter().copied().filter(|member| !tried.contains(member)) {
        if let Some(load) = load(member)
            && best.as_ref().is_none_or(|(_, least)| load < *least)
        {
            best = Some((member, load));
        }
    }
    best.map(|(member, _)| member)
}

/// Returns the row of a backend in a table that grows on demand.
fn row<T: Default>(rows: &mut Vec<T>, backend: usize) -> &mut T {
    if rows.len() <= backend {
        rows.resize_with(backend + 1, T::default);
    }
    &mut rows[backend]
}

const SECOND: u64 = 1_000_000_000;
