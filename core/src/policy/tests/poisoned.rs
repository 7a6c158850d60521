//! A path for which every backend sends 500, requested along with other paths. Under every policy
//! the requests for the other paths stay fast.
use std::time::Duration;

use crate::blame::Asker;
use crate::config::PolicyKind;
use crate::event::Outcome;
use crate::policy::testing::Bench;

/// Three backends of 5, 60 and 150 ms get a hundred honest requests a second, at equal intervals.
/// From the tenth second there are eight more a second, in groups of four, for a path that fails
/// everywhere, from the honest client's address or another one. The mean time of the honest
/// requests rises by at most a fifth and 0.5 ms.
#[test]
fn one_client_moves_nobody() {
    for policy in PolicyKind::ALL {
        for client in [0, 9] {
            let (before, after) = means(policy, client);
            assert!(
                after < 1.2 * before + 0.5,
                "{policy:?} by {client}: {before:.1} -> {after:.1}"
            );
        }
    }
}

const TAKES: [u64; 3] = [5, 60, 150];

/// Mean time of honest requests in seconds 5 to 10 and 13 to 25, ms.
fn means(policy: PolicyKind, client: u8) -> (f64, f64) {
    let mut bench = Bench::new(policy, 3);
    bench.ping_ms = |slot| TAKES[slot];
    let mut out: [Vec<(u64, u16)>; 3] = Default::default();
    let mut sums = [(0.0, 0.0), (0.0, 0.0)];
    for now in 0..25_000_u64 {
        for (slot, out) in out.iter_mut().enumerate() {
            while out.first().is_some_and(|(since, _)| now - since >= TAKES[slot]) {
                let (since, status) = out.remove(0);
                let latency = Duration::from_millis(TAKES[slot]);
                bench.end(slot, Outcome::Answered { status, latency });
                let phase = match since {
                    5000..10_000 => 0,
                    13_000.. => 1,
                    _ => continue,
                };
                if status == 200 {
                    sums[phase].0 += TAKES[slot] as f64;
                    sums[phase].1 += 1.0;
                }
            }
        }
        let mut send = |bench: &mut Bench, is_poison: bool| {
            let honest = Asker { client: 0, target: 1 };
            let asker = if is_poison { Asker { client, target: 2 } } else { honest };
            let slot = bench.send_for(asker);
            out[slot].push((now, if is_poison { 500 } else { 200 }));
        };
        if now.is_multiple_of(10) {
            send(&mut bench, false);
        }
        if now >= 10_000 && now.is_multiple_of(500) {
            (0..4).for_each(|_| send(&mut bench, true));
        }
        bench.wait(1);
        bench.mind_pings();
    }
    (sums[0].0 / sums[0].1, sums[1].0 / sums[1].1)
}
