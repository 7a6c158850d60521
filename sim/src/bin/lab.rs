//! The lab.
use intelliproxy_core::PolicyKind;
use intelliproxy_sim::lab;
use std::time::Instant;
fn main() {
    let only: Vec<String> = std::env::args().skip(1).collect();
    for s in lab::catalogue() {
        if !only.is_empty() && !only.contains(&s.name) {
            continue;
        }
        let mut base = (0.0, 0.0);
        let names = [
            "score",
            "learned",
            "linear_rl",
            "least_request",
            "p2c",
            "peak_ewma",
            "prequal",
            "round_robin",
            "random",
        ];
        let mut cs = vec![("oracle", lab::Contender::Oracle)];
        for n in names {
            if let Ok(k) = serde_json::from_value::<PolicyKind>(n.into()) {
                cs.push((n, lab::Contender::Policy(k)));
            }
        }
        for (n, c) in cs {
            let t = Instant::now();
            let r = lab::run(&s, c, 1).unwrap();
            let f = &r.figures;
            if n == "oracle" {
                base = (f.p99_ms, f.cost_ms);
            }
            println!(
                "{:10} {:13} mean {:8.2} p50 {:8.2} p99 {:8.2} ({:5.2}) cost {:8.2} ({:5.2}) fail {:.3}% sw/s {:.2} {:.2} Mreq/s {}",
                s.name,
                n,
                f.mean_ms,
                f.p50_ms,
                f.p99_ms,
                f.p99_ms / base.0,
                f.cost_ms,
                f.cost_ms / base.1,
                100.0 * f.failed as f64 / f.requests as f64,
                f.switches_per_s,
                r.arrived as f64 / t.elapsed().as_secs_f64() / 1e6,
                r.arrived
            );
        }
    }
}
