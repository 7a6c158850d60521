//! nginx's `least_conn` with `max_fails` and `fail_timeout`.
//!
//! The defaults of `ngx_http_upstream_module` and `ngx_http_proxy_module`: `max_fails=1`,
//! `fail_timeout=10s`, `proxy_next_upstream error timeout`. Only a missing response is therefore an
//! unsuccessful attempt; a 5xx is not. A server with an unsuccessful attempt is skipped for ten
//! seconds. Then a single request tries it, and the outcome decides. If all are skipped, the
//! response is 502. Servers with equally few connections take turns. The only server of a group is
//! never skipped.
use intelliproxy_core::Outcome;

use super::{Peer, SECOND, Verdict, least, row, verdict};

/// The balancer.
#[derive(Debug, Default)]
pub(super) struct Nginx {
    members: Vec<usize>,
    servers: Vec<Server>,
    count: u64,
}

#[derive(Clone, Debug, Default)]
struct Server {
    connections: u32,
    fails: u32,
    /// The time of its last failure.
    accessed: u64,
    /// The time of its last trial after a failure.
    checked: u64,
    used_at: u64,
}

impl Peer for Nginx {
    fn configure(&mut self, _now: u64, backends: &[usize]) {
        self.members = backends.to_vec();
        for backend in backends {
            row(&mut self.servers, *backend);
        }
    }

    fn choose(&mut self, now: u64, tried: &[usize]) -> Option<usize> {
        let is_only = self.members.len() == 1;
        let backend = least(&self.members, tried, |backend| {
            let server = &self.servers[backend];
            let is_out = server.fails >= MAX_FAILS && now - server.checked <= FAIL_TIMEOUT;
            (is_only || !is_out).then_some((server.connections, server.used_at))
        })?;
        self.count += 1;
        let server = &mut self.servers[backend];
        server.connections += 1;
        server.used_at = self.count;
        if now - server.checked > FAIL_TIMEOUT {
            server.checked = now;
        }
        Some(backend)
    }

    fn ended(&mut self, now: u64, backend: usize, outcome: &Outcome) {
        let server = &mut self.servers[backend];
        server.connections = server.connections.saturating_sub(1);
        match verdict(outcome) {
            Verdict::Nothing => {}
            Verdict::Good | Verdict::Status => {
                if server.accessed < server.checked {
                    server.fails = 0;
                }
            }
            Verdict::Failed => {
                server.fails += 1;
                (server.accessed, server.checked) = (now, now);
            }
        }
    }
}

const MAX_FAILS: u32 = 1;
const FAIL_TIMEOUT: u64 = 10 * SECOND;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use intelliproxy_core::RequestFailure;

    use super::*;

    /// By hand: a 500 is not a failure, but a cut response is. Ten seconds later a single request
    /// tries the server, and its success brings it back.
    #[test]
    fn one_failure_is_ten_seconds() {
        let mut nginx = Nginx::default();
        nginx.configure(0, &[0, 1]);
        let latency = Duration::ZERO;
        let error = Outcome::Answered { status: 500, latency };
        nginx.ended(SECOND, 0, &error);
        assert_eq!(nginx.choose(SECOND, &[]), Some(0));
        nginx.ended(SECOND, 0, &Outcome::Failed(RequestFailure::Cut));
        assert!((0..9).all(|_| nginx.choose(10 * SECOND, &[]) == Some(1)));
        let late = 12 * SECOND;
        assert_eq!(nginx.choose(late, &[]), Some(0));
        assert_eq!(nginx.choose(late, &[]), Some(1), "the trial is under way");
        nginx.ended(late + 1, 0, &Outcome::Answered { status: 200, latency });
        assert_eq!(nginx.choose(late + 1, &[]), Some(0));
    }
}
