//! Idle requests (tunnels, silent streams, stalled uploads) at one of two equal backends do not
//! change the shares of the other requests under any policy.
use std::time::Duration;

use crate::config::PolicyKind;
use crate::event::{Event, Outcome};
use crate::policy::testing::Bench;

/// The kind of the forty requests at one backend.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Idle {
    None,
    Tunnels,
    Streams,
    Stalled,
}

/// The share of the backend with the forty requests changes by less than a tenth under every
/// policy.
#[test]
fn idle_requests_move_nobody() {
    for policy in PolicyKind::ALL {
        let usual = share(policy, Idle::None);
        for idle in [Idle::Tunnels, Idle::Streams, Idle::Stalled] {
            let share = share(policy, idle);
            assert!((share - usual).abs() < 0.1, "{policy:?}, {idle:?}: {usual:.2} -> {share:.2}");
        }
    }
}

/// Four requests are always in flight for fifteen seconds, each served in 10 ms by one of its
/// backend's two workers. Returns the share of the first backend in the last five seconds.
fn share(policy: PolicyKind, idle: Idle) -> f64 {
    let mut bench = Bench::new(policy, 2);
    let mut out: [Vec<u64>; 2] = Default::default();
    let (mut first, mut all) = (0.0, 0.0);
    let mut held = Vec::new();
    let mut workers = [[0_u64; 2]; 2];
    for now in 0..15_000_u64 {
        let latency = Duration::from_millis(1);
        if idle != Idle::None && (1000..1040).contains(&now) {
            held.push(bench.hold(0));
        }
        // A stream stops counting when it has been silent for a second.
        let waits = if idle == Idle::Streams { 1001 } else { 1 };
        if (1000 + waits..1040 + waits).contains(&now)
            && let Some((lease, backend)) = held.pop()
        {
            let status = if idle == Idle::Tunnels { 101 } else { 200 };
            let event = match idle {
                Idle::Stalled => Event::LeasePaused { lease, backend },
                _ => Event::StreamOpened { lease, backend, status, latency },
            };
            bench.router.handle_event(bench.now, event);
        }
        while out[0].len() + out[1].len() < 4 {
            let slot = bench.send(&[]);
            workers[slot].sort_unstable();
            workers[slot][0] = workers[slot][0].max(now) + 10;
            out[slot].push(workers[slot][0]);
            if now >= 10_000 {
                first += f64::from(u8::from(slot == 0));
                all += 1.0;
            }
        }
        bench.wait(1);
        bench.mind_pings();
        for slot in [0, 1] {
            while out[slot].first().is_some_and(|ends| *ends <= now + 1) {
                out[slot].remove(0);
                let latency = Duration::from_millis(10);
                bench.end(slot, Outcome::Answered { status: 200, latency });
            }
        }
    }
    first / all
}
