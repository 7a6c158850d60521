//! A backend that sends 404 at once for every request, together with a working one. No policy
//! treats it as a fast one.
use std::time::Duration;

use crate::config::PolicyKind;
use crate::event::Outcome;
use crate::policy::testing::Bench;

/// Six requests are always in flight. One backend serves each in 40 ms. The other one sends 404
/// after 1 ms, from the start or after it has worked equally well. In the last 2 s it gets fewer
/// requests than the other, which does at least half of what it can do alone.
#[test]
fn fast_404s_attract_nobody() {
    for policy in PolicyKind::ALL {
        // These do not use the results of requests.
        if matches!(policy, PolicyKind::RoundRobin | PolicyKind::Random) {
            continue;
        }
        for broken_from in [0, 2000] {
            let mut bench = Bench::new(policy, 2);
            let mut out: [Vec<u64>; 2] = Default::default();
            let (mut good, mut bad) = (0, 0);
            for now in 0..8000 {
                let is_broken = now >= broken_from;
                while out[0].len() + out[1].len() < 6 {
                    let slot = bench.send(&[]);
                    out[slot].push(now);
                }
                bench.wait(1);
                bench.mind_pings();
                for slot in [0, 1] {
                    let is_declining = slot == 1 && is_broken;
                    let takes = if is_declining { 0 } else { 40 };
                    while out[slot].first().is_some_and(|since| now - since >= takes) {
                        out[slot].remove(0);
                        let latency = Duration::from_millis(takes + 1);
                        let status = if is_declining { 404 } else { 200 };
                        bench.end(slot, Outcome::Answered { status, latency });
                        let is_late = now >= 6000;
                        good += u32::from(is_late && !is_declining);
                        bad += u32::from(is_late && is_declining);
                    }
                }
            }
            // At least half of what the good backend alone can do with six in flight, 293 in 2 s.
            assert!(
                good > 146 && bad < good,
                "{policy:?}, from {broken_from}: {good} good, {bad} not"
            );
        }
    }
}
