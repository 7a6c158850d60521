//! `prequal`: the hot-cold rule over a pool of recent load probes.
//!
//! A probe here is not a request. It records what the proxy knows of a backend at one moment: the
//! requests in flight (its own, plus the queue that the backend reported within the last second),
//! and the recent latency at about that number in flight. Such probes cost nothing. Each request
//! adds a probe of a random candidate, each good response one of its backend. A newer probe
//! replaces the older one of the same backend.
//!
//! The pool has at most 16 probes of at most 1 s. When it is full, the oldest and the worst are
//! removed alternately. A probe is hot if its requests in flight are above the 0.84 quantile
//! (configurable) of the pool. The choice is the cold probe with the least latency or, if all are
//! hot, the probe with the fewest in flight. A used probe then counts one more request in flight,
//! with the latency at that number. With fewer than two probes of candidates, the choice is a
//! random candidate.
//!
//! Wydrowski et al., Load is not what you should balance: Introducing Prequal (NSDI 2024).
//! Latencies are in ms, by the requests in flight when the request arrived. A latency that is
//! unknown, or without a response for 5 s, is 0, so that a new or forgotten backend is tried.
pub(crate) mod rules;

use crate::backend::Backend;
use crate::config::Rules;
use crate::event::Outcome;
use crate::id::BackendId;
use crate::policy::PolicyView;
use crate::policy::candidates::Candidates;
use crate::policy::contract::{Choice, Ended, Policy};
use crate::policy::rows::entry;
use crate::rng::Rng;
use crate::time::{Instant, millis};

/// The pool, and recent latencies by backend.
#[derive(Debug)]
pub(crate) struct Prequal {
    quantile: f64,
    pool: Vec<Probe>,
    latencies: Vec<Latencies>,
    removes_worst: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Probe {
    backend: BackendId,
    at: Instant,
    in_flight: f64,
    latency_ms: f64,
}

/// Latency averages by requests in flight: 1, 2–3, 4–7, … 128 and more.
#[derive(Clone, Copy, Debug, Default)]
struct Latencies {
    averages: [Option<f64>; LEVELS],
    seen_at: Instant,
}

/// The figures of a backend for `prequal`; the cold one with the least latency wins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PrequalView {
    /// Probes of the backend in the pool.
    pub probes: u32,
    /// Requests in flight in the latest probe, including the reported queue.
    pub in_flight: f64,
    /// Recent latency in the latest probe, ms.
    pub latency_ms: Option<f64>,
    /// Whether the latest probe is above the pool's quantile of requests in flight.
    pub is_hot: bool,
}

impl Prequal {
    pub(super) fn new(rules: &Rules) -> Self {
        Self {
            quantile: rules.prequal.hot_quantile,
            pool: Vec::with_capacity(POOL_MAX + 1),
            latencies: Vec::new(),
            removes_worst: false,
        }
    }

    fn probe(&mut self, now: Instant, backend: BackendId, facts: &Backend) {
        let in_flight = f64::from(facts.load());
        let queue = facts.reported_queue(now, AGE_MAX).unwrap_or(0.0).min(QUEUE_MAX);
        let latency_ms = entry(&mut self.latencies, backend).at(now, facts.load());
        // The proxy's own probes are exact, so an older one of the same backend has no use.
        self.pool.retain(|probe| probe.backend != backend);
        self.pool.push(Probe { backend, at: now, in_flight: in_flight + queue, latency_ms });
        if self.pool.len() > POOL_MAX {
            let hot = self.hot_above();
            let oldest = 0;
            let leaves = if self.removes_worst {
                (0..self.pool.len())
                    .max_by(|a, b| self.badness(*a, hot).total_cmp(&self.badness(*b, hot)))
            } else {
                Some(oldest)
            };
            self.pool.remove(leaves.unwrap_or(oldest));
            self.removes_worst = !self.removes_worst;
        }
    }

    /// The number of requests in flight above which a probe is hot.
    fn hot_above(&self) -> f64 {
        let mut sorted = [f64::INFINITY; POOL_MAX + 1];
        for (slot, probe) in sorted.iter_mut().zip(&self.pool) {
            *slot = probe.in_flight;
        }
        sorted[..self.pool.len()].sort_unstable_by(f64::total_cmp);
        let rank = self.quantile * self.pool.len().saturating_sub(1) as f64;
        sorted[rank as usize]
    }

    /// A rank in which cold probes come first, by latency, and hot ones follow, by requests in
    /// flight.
    fn badness(&self, index: usize, hot: f64) -> f64 {
        let probe = &self.pool[index];
        if probe.in_flight > hot { HOT + probe.in_flight } else { probe.latency_ms.min(HOT) }
    }
}

impl Latencies {
    const fn level(in_flight: u32) -> usize {
        let level = (u32::BITS - in_flight.leading_zeros()).saturating_sub(1) as usize;
        if level < LEVELS { level } else { LEVELS - 1 }
    }

    /// The average at the nearest level that has one. If two are equally near, the lower level
    /// counts.
    fn at(&self, now: Instant, in_flight: u32) -> f64 {
        if now.since(self.seen_at) > FORGOTTEN_AFTER {
            return 0.0;
        }
        let level = Self::level(in_flight);
        let near = (0..LEVELS).filter(|other| self.averages[*other].is_some());
        let nearest = near.min_by_key(|other| other.abs_diff(level));
        nearest.and_then(|level| self.averages[level]).unwrap_or(0.0)
    }

    fn observe(&mut self, now: Instant, in_flight: u32, ms: f64) {
        self.seen_at = now;
        let average = &mut self.averages[Self::level(in_flight)];
        *average = Some(average.map_or(ms, |old| old + ALPHA * (ms - old)));
    }
}

impl Policy for Prequal {
    fn choose(
        &mut self,
        now: Instant,
        candidates: &Candidates<'_>,
        rng: &mut Rng,
    ) -> Option<Choice> {
        // A random probe per request keeps the pool from showing only the backends that are chosen.
        let drawn = candidates.draw(rng)?;
        if let Some(facts) = candidates.facts(drawn) {
            self.probe(now, drawn, facts);
        }
        self.pool.retain(|probe| now.since(probe.at) <= AGE_MAX);
        let hot = self.hot_above();
        let able = || (0..self.pool.len()).filter(|at| candidates.has(self.pool[*at].backend));
        let best = able().min_by(|a, b| self.badness(*a, hot).total_cmp(&self.badness(*b, hot)));
        match best.filter(|_| able().count() >= POOL_MIN) {
            Some(best) => {
                let probe = &mut self.pool[best];
                // The request that is being sent is part of the load for the next one.
                probe.in_flight += 1.0;
                let in_flight = candidates.load(probe.backend).saturating_add(1);
                probe.latency_ms = entry(&mut self.latencies, probe.backend).at(now, in_flight);
                Some(Choice { backend: probe.backend, token: in_flight })
            }
            None => {
                let token = candidates.load(drawn).saturating_add(1);
                Some(Choice { backend: drawn, token })
            }
        }
    }

    fn reconfigure(&mut self, rules: &Rules) {
        self.quantile = rules.prequal.hot_quantile;
    }

    fn on_join(&mut self, _now: Instant, backend: BackendId, _in_flight: u32) {
        *entry(&mut self.latencies, backend) = Latencies::default();
    }

    fn on_leave(&mut self, _now: Instant, backend: BackendId) {
        self.pool.retain(|probe| probe.backend != backend);
    }

    fn on_outcome(&mut self, now: Instant, ended: &Ended<'_>) {
        if let (Outcome::Answered { latency, .. }, Some(false)) =
            (ended.outcome, ended.outcome.is_error())
        {
            if ended.token > 0 {
                let latencies = entry(&mut self.latencies, ended.backend);
                latencies.observe(now, ended.token, millis(*latency));
            }
            self.probe(now, ended.backend, ended.facts);
        }
    }

    fn view(&self, _now: Instant, id: BackendId, backend: &Backend) -> PolicyView {
        let hot = self.hot_above();
        let latest = self.pool.iter().rev().find(|probe| probe.backend == id);
        PolicyView::Prequal(PrequalView {
            probes: self.pool.iter().filter(|probe| probe.backend == id).count() as u32,
            in_flight: latest.map_or_else(|| f64::from(backend.load()), |p| p.in_flight),
            latency_ms: latest.map(|probe| probe.latency_ms),
            is_hot: latest.is_some_and(|probe| probe.in_flight > hot),
        })
    }
}

const POOL_MAX: usize = 16;
const POOL_MIN: usize = 2;
const AGE_MAX: std::time::Duration = std::time::Duration::from_secs(1);
const FORGOTTEN_AFTER: std::time::Duration = std::time::Duration::from_secs(5);
const LEVELS: usize = 8;
const ALPHA: f64 = 0.2;
/// An offset beyond any latency in ms that a duration can hold.
const HOT: f64 = 1e30;
const QUEUE_MAX: f64 = 1e6;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::PolicyKind;
    use crate::policy::testing::Bench;

    fn policy(probes: &[(u32, f64, f64)]) -> Prequal {
        let mut policy = Prequal::new(&Rules::default());
        for (slot, in_flight, latency_ms) in probes {
            policy.pool.push(Probe {
                backend: BackendId::from_index(*slot),
                at: Instant::ZERO,
                in_flight: *in_flight,
                latency_ms: *latency_ms,
            });
        }
        policy
    }

    /// By hand: of 0, 1, 2, 3, 4 in flight the 0.84 quantile is at rank 3.36, so 3. The probe with
    /// 4 is hot: it comes last although it is the fastest, and is the worst of all.
    #[test]
    fn hot_and_cold_by_hand() {
        let policy = policy(&[
            (0, 0.0, 30.0),
            (1, 1.0, 20.0),
            (2, 2.0, 10.0),
            (3, 3.0, 40.0),
            (4, 4.0, 5.0),
        ]);
        let hot = policy.hot_above();
        assert_eq!(hot, 3.0);
        let mut order: Vec<_> = (0..5).collect();
        order.sort_by(|a, b| policy.badness(*a, hot).total_cmp(&policy.badness(*b, hot)));
        assert_eq!(order, [2, 1, 0, 3, 4]);
    }

    /// Averages are kept by level of requests in flight and read at the nearest level: 10 at level
    /// 1; 20 and then 30 at level 4 to 7 make 20 + 0.2·10 = 22.
    #[test]
    fn latency_at_that_in_flight() {
        let now = Instant::from_millis(1);
        let mut latencies = Latencies::default();
        assert_eq!(latencies.at(now, 9), 0.0);
        latencies.observe(now, 1, 10.0);
        latencies.observe(now, 4, 20.0);
        latencies.observe(now, 7, 30.0);
        for (in_flight, expected) in [(0, 10.0), (1, 10.0), (2, 10.0), (5, 22.0), (1000, 22.0)] {
            assert_eq!(latencies.at(now, in_flight), expected, "{in_flight}");
        }
    }

    /// The faster of two backends gets most of the single requests, and all of them when the
    /// slower one is down.
    #[test]
    fn prefers_the_fast() {
        let mut bench = Bench::new(PolicyKind::Prequal, 2);
        let mut counts = [0; 2];
        for _ in 0..200 {
            let slot = bench.send(&[]);
            counts[slot] += 1;
            bench.answer(slot, if slot == 0 { 2.0 } else { 20.0 });
        }
        assert!(counts[0] > 150, "{counts:?}");
        bench.bring_down(1);
        assert!((0..50).all(|_| bench.send(&[]) == 0));
    }
}
