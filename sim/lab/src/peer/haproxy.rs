//! HAProxy's `leastconn` with health checks, `observe layer7` and `slowstart`.
//!
//! As `server b 10.0.0.1:80 check observe layer7 slowstart 10s` with the defaults of the
//! configuration manual:
//!
//! | setting | value |
//! |---|---|
//! | `balance leastconn` | the fewest connections relative to weight; of equal servers the least recently used |
//! | `inter`, `fall`, `rise` | 2 s, 3, 2; a check must end within `inter` |
//! | `error-limit` | 10 errors in a row: 5xx and missing responses |
//! | `on-error` | `fail-check`: these errors count as one failed check |
//! | `slowstart` | 10 s: the manual has no default, and it is off without one |
//!
//! A server that is down gets no requests. If all are down, requests get 503.
use intelliproxy_core::{Outcome, ProbeId};

use super::{Peer, SECOND, Verdict, least, row, verdict};

/// The balancer.
#[derive(Debug, Default)]
pub(super) struct HaProxy {
    members: Vec<usize>,
    servers: Vec<Server>,
    /// Checks that are due to start.
    due: Vec<usize>,
    /// Counts checks and choices.
    count: u64,
}

#[derive(Clone, Debug)]
struct Server {
    is_member: bool,
    connections: u32,
    /// From 0 to `RISE + FALL - 1`. The server is up from `RISE` on.
    health: u32,
    errors: u32,
    up_since: Option<u64>,
    /// The number of the choice at which it was last used.
    used_at: u64,
    checks_at: u64,
    /// The current check and its latest end.
    check: Option<(u64, u64)>,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            is_member: false,
            connections: 0,
            health: HEALTH_MAX,
            errors: 0,
            up_since: None,
            used_at: 0,
            checks_at: 0,
            check: None,
        }
    }
}

impl Server {
    const fn is_up(&self) -> bool {
        self.health >= RISE
    }

    /// Returns its weight: 1, or less for a time after its return, in steps of a hundredth.
    fn weight(&self, now: u64) -> f64 {
        let since = self.up_since.map_or(SLOW_START, |since| now - since);
        let share = since as f64 / SLOW_START as f64;
        ((share * 100.0).ceil() / 100.0).clamp(0.01, 1.0)
    }

    const fn check_failed(&mut self) {
        if self.health > RISE {
            self.health -= 1;
        } else {
            self.health = 0;
        }
    }

    const fn check_passed(&mut self, now: u64) {
        if self.health >= HEALTH_MAX {
            return;
        }
        self.health += 1;
        if self.health == RISE {
            self.health = HEALTH_MAX;
            self.up_since = Some(now);
            self.errors = 0;
        }
    }
}

impl Peer for HaProxy {
    fn configure(&mut self, now: u64, backends: &[usize]) {
        self.servers.iter_mut().for_each(|server| server.is_member = false);
        self.members = backends.to_vec();
        let count = backends.len().max(1) as u64;
        for (turn, backend) in backends.iter().enumerate() {
            let is_new = self.servers.get(*backend).is_none_or(|server| server.checks_at == 0);
            let server = row(&mut self.servers, *backend);
            server.is_member = true;
            if is_new {
                // The first checks are spread over the interval.
                server.checks_at = now + INTER * (turn as u64 + 1) / count;
            }
        }
    }

    fn choose(&mut self, now: u64, tried: &[usize]) -> Option<usize> {
        let backend = least(&self.members, tried, |backend| {
            let server = &self.servers[backend];
            let load = (f64::from(server.connections) / server.weight(now), server.used_at);
            server.is_up().then_some(load)
        })?;
        self.count += 1;
        let server = &mut self.servers[backend];
        server.connections += 1;
        server.used_at = self.count;
        Some(backend)
    }

    fn ended(&mut self, _now: u64, backend: usize, outcome: &Outcome) {
        let server = &mut self.servers[backend];
        server.connections = server.connections.saturating_sub(1);
        match verdict(outcome) {
            Verdict::Nothing => {}
            Verdict::Good => server.errors = 0,
            Verdict::Status | Verdict::Failed => {
                server.errors += 1;
                if server.errors >= ERROR_LIMIT && server.is_up() {
                    server.errors = 0;
                    server.check_failed();
                }
            }
        }
    }

    fn probe_ended(&mut self, now: u64, probe: ProbeId, is_good: bool) {
        let number = probe.as_u64();
        let is_it = |server: &&mut Server| server.check.is_some_and(|(own, _)| own == number);
        if let Some(server) = self.servers.iter_mut().find(is_it) {
            server.check = None;
            if is_good {
                server.check_passed(now);
            } else {
                server.check_failed();
            }
        }
    }

    fn handle_timeout(&mut self, now: u64) {
        for (backend, server) in self.servers.iter_mut().enumerate() {
            if server.check.is_some_and(|(_, ends_at)| ends_at <= now) {
                server.check = None;
                server.check_failed();
            }
            if server.is_member && server.checks_at <= now {
                server.checks_at = now + INTER;
                self.due.push(backend);
            }
        }
    }

    fn poll_probe(&mut self) -> Option<(ProbeId, usize)> {
        let backend = self.due.pop()?;
        self.count += 1;
        let server = &mut self.servers[backend];
        // The next check starts `INTER` after this one, which must have ended by then.
        server.check = Some((self.count, server.checks_at));
        Some((ProbeId::from_u64(self.count), backend))
    }

    fn deadline(&self) -> u64 {
        let members = self.servers.iter().filter(|server| server.is_member);
        let checks = members.map(|server| server.checks_at);
        let ends = self.servers.iter().filter_map(|server| server.check.map(|check| check.1));
        checks.chain(ends).min().unwrap_or(u64::MAX)
    }
}

const INTER: u64 = 2 * SECOND;
const RISE: u32 = 2;
const FALL: u32 = 3;
const HEALTH_MAX: u32 = RISE + FALL - 1;
const ERROR_LIMIT: u32 = 10;
const SLOW_START: u64 = 10 * SECOND;

#[cfg(test)]
mod tests {
    use intelliproxy_core::RequestFailure;

    use super::*;

    /// By hand: thirty errors in a row are three failed checks, after which the server is down. Two
    /// passed checks bring it back, and five seconds later it has half its weight.
    #[test]
    fn errors_fail_checks() {
        let mut haproxy = HaProxy::default();
        haproxy.configure(0, &[0, 1]);
        let failed = Outcome::Failed(RequestFailure::Cut);
        for _ in 0..29 {
            haproxy.ended(0, 0, &failed);
        }
        assert!(haproxy.servers[0].is_up());
        haproxy.ended(0, 0, &failed);
        assert!(!haproxy.servers[0].is_up());
        assert!((0..9).all(|_| haproxy.choose(0, &[]) == Some(1)));
        let mut checks = 0;
        while !haproxy.servers[0].is_up() {
            let now = haproxy.deadline();
            haproxy.handle_timeout(now);
            while let Some((probe, backend)) = haproxy.poll_probe() {
                checks += u32::from(backend == 0);
                haproxy.probe_ended(now, probe, true);
            }
        }
        assert_eq!(checks, RISE);
        let since = haproxy.servers[0].up_since.expect("it has returned");
        assert_eq!(haproxy.servers[0].weight(since + 5 * SECOND), 0.5);
        assert_eq!(haproxy.servers[0].weight(since + 11 * SECOND), 1.0);
    }

    /// Checks without a response bring a server down after three intervals.
    #[test]
    fn silent_checks_fail() {
        let mut haproxy = HaProxy::default();
        haproxy.configure(0, &[0]);
        let mut started = 0;
        while haproxy.servers[0].is_up() {
            let now = haproxy.deadline();
            haproxy.handle_timeout(now);
            while haproxy.poll_probe().is_some() {
                started += 1;
            }
        }
        assert_eq!(started, FALL + 1, "the third has failed when the fourth starts");
        assert_eq!(haproxy.choose(0, &[]), None);
    }
}
