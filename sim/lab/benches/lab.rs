//! Speed of the lab: simulated requests per second on one core, for each policy with 10 backends
//! and for the largest scenario.
//!
//! Run by `cargo bench -p intelliproxy-lab`. Reports the fastest of several runs, because other
//! work of the machine only adds time. The aim is 1 million for `least_request` on `homog70`.
use std::time::Instant;

use intelliproxy_lab::{Contender, catalogue, run};

fn main() {
    println!("{:12}{:16}{:>12}{:>16}", "scenario", "policy", "requests", "million/s");
    for name in ["homog70", "fleet200"] {
        let scenario = catalogue().into_iter().find(|scenario| scenario.name == name);
        let Some(scenario) = scenario else {
            continue;
        };
        let scenario = scenario.scaled(if name == "fleet200" { 0.1 } else { 1.0 });
        for contender in Contender::all() {
            let mut best = f64::INFINITY;
            let mut requests = 0;
            for seed in 1..=5 {
                let start = Instant::now();
                let Ok(run) = run(&scenario, contender, seed) else {
                    return;
                };
                best = best.min(start.elapsed().as_secs_f64() / run.arrived as f64);
                requests = run.arrived;
            }
            println!("{name:12}{contender:16}{requests:>12}{:>16.2}", 1e-6 / best);
        }
    }
}
