//! Envoy's least request balancer with its outlier detection.
//!
//! | setting | value | source |
//! |---|---|---|
//! | choice count | 2 of the healthy hosts at random, the one with fewer active requests | `LeastRequestLbConfig` |
//! | `consecutive_5xx` | 5, a missing response counts as 5xx | `OutlierDetection` |
//! | `interval` | 10 s | |
//! | `base_ejection_time`, `max_ejection_time` | 30 s times the ejections so far, 300 s | |
//! | `max_ejection_percent` | 10 | |
//! | `success_rate_minimum_hosts`, `_request_volume`, `_stdev_factor` | 5, 100, 1900 (1.9) | |
//! | `healthy_panic_threshold` | 50 %: below it every host is used | `CommonLbConfig` |
//!
//! These are the documented defaults (envoyproxy.io, API v3), except that `always_eject_one_host`
//! is on: without it no host is ever ejected from a cluster of fewer than ten. Active health checks
//! are off, as by default.
use intelliproxy_core::{Outcome, Rng};

use super::{Peer, SECOND, Verdict, row, verdict};

/// The balancer.
#[derive(Debug)]
pub(super) struct Envoy {
    rng: Rng,
    members: Vec<usize>,
    /// Members that are not ejected.
    healthy: Vec<usize>,
    hosts: Vec<Host>,
    sweeps_at: u64,
}

#[derive(Clone, Debug, Default)]
struct Host {
    active: u32,
    consecutive_5xx: u32,
    ejected_until: Option<u64>,
    ejections: u64,
    /// Good requests of this interval.
    good: u32,
    /// All requests of this interval.
    all: u32,
}

impl Envoy {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            rng: Rng::new(seed),
            members: Vec::new(),
            healthy: Vec::new(),
            hosts: Vec::new(),
            sweeps_at: INTERVAL,
        }
    }

    fn list_healthy(&mut self) {
        let hosts = &self.hosts;
        let is_healthy = |backend: &&usize| hosts[**backend].ejected_until.is_none();
        self.healthy = self.members.iter().filter(is_healthy).copied().collect();
    }

    fn eject(&mut self, now: u64, backend: usize) {
        let ejected = self.members.len() - self.healthy.len();
        let percent = 100 * (ejected + 1) / self.members.len().max(1);
        let is_out = self.hosts[backend].ejected_until.is_some();
        if is_out || (ejected > 0 && percent > MAX_EJECTION_PERCENT) {
            return;
        }
        let host = &mut self.hosts[backend];
        host.ejections += 1;
        host.ejected_until = Some(now + (host.ejections * BASE_EJECTION).min(MAX_EJECTION));
        host.consecutive_5xx = 0;
        self.list_healthy();
    }

    fn sweep(&mut self, now: u64) {
        for backend in &self.members {
            let host = &mut self.hosts[*backend];
            match host.ejected_until {
                Some(until) if until <= now => host.ejected_until = None,
                Some(_) => {}
                None => host.ejections = host.ejections.saturating_sub(1),
            }
        }
        self.list_healthy();
        let rate = |host: &Host| f64::from(host.good) / f64::from(host.all);
        let busy = self.members.iter().filter(|backend| self.hosts[**backend].all >= VOLUME);
        let busy: Vec<_> = busy.map(|backend| (*backend, rate(&self.hosts[*backend]))).collect();
        if busy.len() >= MINIMUM_HOSTS {
            let count = busy.len() as f64;
            let mean = busy.iter().map(|(_, rate)| rate).sum::<f64>() / count;
            let variance = busy.iter().map(|(_, rate)| (rate - mean) * (rate - mean)).sum::<f64>();
            let threshold = mean - STDEV_FACTOR * (variance / count).sqrt();
            for (backend, _) in busy.iter().filter(|(_, rate)| *rate < threshold) {
                self.eject(now, *backend);
            }
        }
        for host in &mut self.hosts {
            (host.good, host.all) = (0, 0);
        }
    }
}

impl Peer for Envoy {
    fn configure(&mut self, _now: u64, backends: &[usize]) {
        self.members = backends.to_vec();
        for backend in backends {
            row(&mut self.hosts, *backend);
        }
        self.list_healthy();
    }

    fn choose(&mut self, _now: u64, tried: &[usize]) -> Option<usize> {
        let is_panic = 2 * self.healthy.len() < self.members.len();
        let all = if is_panic { &self.members } else { &self.healthy };
        let rest: Vec<usize>;
        let among = if tried.is_empty() {
            all
        } else {
            rest = all.iter().filter(|backend| !tried.contains(backend)).copied().collect();
            &rest
        };
        if among.is_empty() {
            return None;
        }
        let mut draw = || among[self.rng.below(among.len() as u64) as usize];
        let (first, second) = (draw(), draw());
        let is_less = self.hosts[second].active < self.hosts[first].active;
        let backend = if is_less { second } else { first };
        self.hosts[backend].active += 1;
        Some(backend)
    }

    fn ended(&mut self, now: u64, backend: usize, outcome: &Outcome) {
        let host = &mut self.hosts[backend];
        host.active = host.active.saturating_sub(1);
        match verdict(outcome) {
            Verdict::Nothing => {}
            Verdict::Good => {
                host.consecutive_5xx = 0;
                host.good += 1;
                host.all += 1;
            }
            Verdict::Status | Verdict::Failed => {
                host.all += 1;
                host.consecutive_5xx += 1;
                if host.consecutive_5xx >= CONSECUTIVE_5XX {
                    self.eject(now, backend);
                }
            }
        }
    }

    fn handle_timeout(&mut self, now: u64) {
        if now >= self.sweeps_at {
            self.sweep(now);
            self.sweeps_at = now + INTERVAL;
        }
    }

    fn deadline(&self) -> u64 {
        self.sweeps_at
    }
}

const CONSECUTIVE_5XX: u32 = 5;
const INTERVAL: u64 = 10 * SECOND;
const BASE_EJECTION: u64 = 30 * SECOND;
const MAX_EJECTION: u64 = 300 * SECOND;
const MAX_EJECTION_PERCENT: usize = 10;
const MINIMUM_HOSTS: usize = 5;
const VOLUME: u32 = 100;
const STDEV_FACTOR: f64 = 1.9;

#[cfg(test)]
mod tests {
    use intelliproxy_core::RequestFailure;

    use super::*;

    /// By hand: five failures in a row eject one of three. A second ejection would exceed 10 %, so
    /// that host stays. The sweep after 30 s brings the first host back. Its second ejection lasts
    /// 60 s.
    #[test]
    fn ejects_and_returns() {
        let failed = Outcome::Failed(RequestFailure::Cut);
        let mut envoy = Envoy::new(1);
        envoy.configure(0, &[0, 1, 2]);
        let fail = |envoy: &mut Envoy, now, backend, times| {
            for _ in 0..times {
                envoy.ended(now, backend, &failed);
            }
        };
        fail(&mut envoy, 0, 0, 4);
        assert_eq!(envoy.healthy, [0, 1, 2]);
        fail(&mut envoy, 0, 0, 1);
        fail(&mut envoy, 0, 1, 5);
        assert_eq!(envoy.healthy, [1, 2]);
        assert!((0..50).all(|_| envoy.choose(0, &[1]) == Some(2)));
        for (at, healthy) in [(20, 2), (30, 3)] {
            envoy.handle_timeout(at * SECOND);
            assert_eq!(envoy.healthy.len(), healthy, "{at}");
        }
        fail(&mut envoy, 31 * SECOND, 0, 5);
        for (at, healthy) in [(80, 2), (91, 3)] {
            envoy.handle_timeout(at * SECOND);
            assert_eq!(envoy.healthy.len(), healthy, "{at}");
        }
    }

    /// Of six hosts with a hundred requests each, the sweep ejects the one that failed half of
    /// them.
    #[test]
    fn success_rates_are_compared() {
        let mut envoy = Envoy::new(1);
        envoy.configure(0, &[0, 1, 2, 3, 4, 5]);
        let latency = std::time::Duration::ZERO;
        for turn in 0..100 {
            for backend in 0..6 {
                let status = if backend == 3 && turn % 2 == 0 { 500 } else { 200 };
                envoy.ended(0, backend, &Outcome::Answered { status, latency });
            }
        }
        envoy.handle_timeout(INTERVAL);
        assert_eq!(envoy.healthy, [0, 1, 2, 4, 5]);
    }
}
