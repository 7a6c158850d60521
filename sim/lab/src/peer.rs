//! Baselines: how other products balance, by their documented defaults.
//!
//! Each takes the router's place. All use the scenario's retries, so that only the choice of
//! backends is compared.
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
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Envoy, Self::HaProxy, Self::Nginx];

    /// Its name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Envoy => "envoy",
            Self::HaProxy => "haproxy",
            Self::Nginx => "nginx",
        }
    }
}

/// Balancer of a product. Backends are the lab's numbers, times are ns.
pub(super) trait Peer: Debug {
    /// The configuration names these backends from now on.
    fn configure(&mut self, now: u64, backends: &[usize]);

    /// Chooses a backend for a request that `tried` failed; it counts in flight from now on.
    fn choose(&mut self, now: u64, tried: &[usize]) -> Option<usize>;

    /// A request came to its end.
    fn ended(&mut self, now: u64, backend: usize, outcome: &Outcome);

    /// A health check came to its end.
    fn probe_ended(&mut self, _now: u64, _probe: ProbeId, _is_good: bool) {}

    /// The deadline has come.
    fn handle_timeout(&mut self, _now: u64) {}

    /// The next health check to start.
    fn poll_probe(&mut self) -> Option<(ProbeId, usize)> {
        None
    }

    /// When `handle_timeout` is due.
    fn deadline(&self) -> u64 {
        u64::MAX
    }
}

/// A peer before it knows of any backend.
pub(super) fn new(kind: PeerKind, seed: u64) -> Box<dyn Peer> {
    match kind {
        PeerKind::Envoy => Box::new(Envoy::new(seed)),
        PeerKind::HaProxy => Box::new(HaProxy::default()),
        PeerKind::Nginx => Box::new(Nginx::default()),
    }
}

/// Meaning of a request's end for a peer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Verdict {
    Good,
    /// A 5xx.
    Status,
    /// No response: refused, cut, too late.
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

/// Of those that were not tried and have a load, the one with the least; of equals the first.
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

/// The row of a backend in a table that grows as backends come.
fn row<T: Default>(rows: &mut Vec<T>, backend: usize) -> &mut T {
    if rows.len() <= backend {
        rows.resize_with(backend + 1, T::default);
    }
    &mut rows[backend]
}

const SECOND: u64 = 1_000_000_000;
