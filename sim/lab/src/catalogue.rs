//! The named scenarios for load, speed and faults. `wide.rs` has those for other aspects.
use std::time::Duration;

use intelliproxy_core::Rules;

use super::fault::{Fault, FaultKind};
use super::group::{BackendGroup, Lossy, Probes};
use super::scenario::{Arrivals, Bursts, Rate, Scenario, Surge};
use super::service::{Part, Service};
use intelliproxy_sim::Preset;

pub use self::wide::wide_catalogue;

mod wide;

/// The scenarios of the first catalogue, in the order of their tables.
///
/// By default a backend has 4 workers and exponential work of 10 ms.
pub fn catalogue() -> Vec<Scenario> {
    vec![
        homogeneous("homog70", 0.7),
        homogeneous("homog90", 0.9),
        heterogeneous("hetero40", 0.4),
        heterogeneous("hetero80", 0.8),
        seed_ab(),
        brownout(),
        sinkhole(),
        black_hole(),
        cold_start(),
        bimodal(),
        burst(),
        antagonist(),
        llm(),
        fleet(),
    ]
}

fn base(name: &str, about: &str, load: f64, backends: Vec<BackendGroup>) -> Scenario {
    Scenario {
        name: name.to_owned(),
        about: about.to_owned(),
        arrivals: Arrivals { rate: Rate::Load(load), ..Arrivals::default() },
        backends,
        ..Scenario::default()
    }
}

fn group(name: &str, count: u32) -> BackendGroup {
    BackendGroup { name: name.to_owned(), count, ..BackendGroup::default() }
}

fn homogeneous(name: &str, load: f64) -> Scenario {
    let about = format!("10 equal backends at {:.0} %", load * 100.0);
    base(name, &about, load, vec![group("b", 10)])
}

fn heterogeneous(name: &str, load: f64) -> Scenario {
    let about = format!("3 backends of speed 1, 3 of 2, 3 of 4, at {:.0} %", load * 100.0);
    let speeds = [("one", 1.0), ("two", 2.0), ("four", 4.0)];
    let groups = speeds.map(|(name, speed)| BackendGroup { speed, ..group(name, 3) });
    base(name, &about, load, groups.to_vec())
}

fn seed_ab() -> Scenario {
    let server = |name: &str, preset: Preset| {
        let parameters = preset.parameters();
        let cpu_ms = f64::from(parameters.cpu_load_ms);
        let (share, ms) = (parameters.slow_rate, f64::from(parameters.slow_ms));
        BackendGroup {
            workers: 1,
            service: Some(Service::Constant(cpu_ms)),
            probes: Probes {
                work_ms: cpu_ms,
                lossy: Some(Lossy::from(&parameters)),
                ..Probes::default()
            },
            faults: vec![Fault { from_s: 0.0, for_s: None, what: FaultKind::Slow { share, ms } }],
            ..group(name, 1)
        }
    };
    Scenario {
        duration_s: 600.0,
        arrivals: Arrivals { rate: Rate::PerSecond(40.0), ..Arrivals::default() },
        ..base(
            "seed_ab",
            "server A (1 worker, 16 ms, 4 % + 300 ms) and B (8 ms, 12 % + 850 ms), 40 req/s",
            0.0,
            vec![server("A", Preset::A), server("B", Preset::B)],
        )
    }
}

/// Five backends at 60 %, one of which has a fault from 20 s on.
fn one_faulty(name: &str, about: &str, for_s: f64, what: FaultKind) -> Scenario {
    let faults = vec![Fault { from_s: 20.0, for_s: Some(for_s), what }];
    let faulty = BackendGroup { faults, ..group("faulty", 1) };
    Scenario { duration_s: 80.0, ..base(name, about, 0.6, vec![faulty, group("b", 4)]) }
}

fn brownout() -> Scenario {
    let about = "5 backends at 60 %, one 10x slower from 20 s to 50 s of 80";
    one_faulty("brownout", about, 30.0, FaultKind::Speed(0.1))
}

fn sinkhole() -> Scenario {
    let about = "5 backends at 60 %, one responds 500 in 1 ms from 20 s to 50 s, its /health fine";
    one_faulty("sinkhole", about, 30.0, FaultKind::Sinkhole { after_ms: 1.0 })
}

fn black_hole() -> Scenario {
    let about = "5 backends at 60 %, one silent from 20 s to 40 s";
    one_faulty("blackhole", about, 20.0, FaultKind::BlackHole)
}

fn cold_start() -> Scenario {
    let newcomer = |name: &str, joins_s: f64, stays_s: Option<f64>| BackendGroup {
        joins_s,
        stays_s,
        faults: vec![Fault { from_s: joins_s, for_s: Some(10.0), what: FaultKind::Speed(0.2) }],
        ..group(name, 1)
    };
    base(
        "coldstart",
        "5 backends at 80 %; a 6th from 15 s to 38 s, a 7th from 40 s, each 5x slow for 10 s",
        0.8,
        vec![group("b", 5), newcomer("sixth", 15.0, Some(23.0)), newcomer("seventh", 40.0, None)],
    )
}

fn bimodal() -> Scenario {
    let parts = vec![
        Part { share: 0.9, service: Service::Uniform([1.6, 2.4]) },
        Part { share: 0.1, service: Service::Uniform([80.0, 120.0]) },
    ];
    let about = "10 equal backends at 85 %, 90 % of 2 ms and 10 % of 100 ms, each ±20 %";
    let service = Service::Mixture(parts);
    Scenario { service, ..base("bimodal85", about, 0.85, vec![group("b", 10)]) }
}

fn burst() -> Scenario {
    let about = "10 equal backends at 60 % in bursts of .6 and 1.4; at 120 % from 20 s to 30 s";
    let mut scenario = base("burst120", about, 0.6, vec![group("b", 10)]);
    scenario.arrivals.bursts = Some(Bursts { low: 0.6, high: 1.4, mean_ms: 500.0 });
    scenario.arrivals.surges = vec![Surge { from_s: 20.0, for_s: Some(10.0), factor: 2.0 }];
    scenario
}

fn antagonist() -> Scenario {
    let what = FaultKind::Redraw { between: [0.3, 1.0], every_s: 2.0 };
    let faults = vec![Fault { from_s: 0.0, for_s: None, what }];
    let about = "10 backends at 75 %, each speed redrawn from .3 to 1 every 2 s, by turns";
    base("antagonist", about, 0.75, vec![BackendGroup { faults, ..group("b", 10) }])
}

fn llm() -> Scenario {
    let speeds = [1.0, 1.0, 1.0, 0.6, 0.6, 0.6, 0.3, 0.3];
    let groups = speeds.iter().zip([16, 32].into_iter().cycle()).enumerate();
    let groups = groups.map(|(index, (speed, workers))| BackendGroup {
        workers,
        queue: 64,
        speed: *speed,
        sharing: 0.05,
        ..group(&format!("gpu{}", index + 1), 1)
    });
    let mut routing = Rules::default();
    routing.errors.charge = Duration::from_secs(120);
    Scenario {
        duration_s: 3600.0,
        routing,
        timeout_ms: 120_000.0,
        charge_ms: 120_000.0,
        service: Service::Lognormal {
            median_ms: 2500.0,
            sigma: 0.8,
            clip_ms: Some([500.0, 20_000.0]),
        },
        ..base(
            "llm",
            "8 batching backends of 3 speeds and 2 widths at 70 %, lognormal work of 2.5 s",
            0.7,
            groups.collect(),
        )
    }
}

fn fleet() -> Scenario {
    let speeds = [("half", 0.5, 67), ("one", 1.0, 66), ("more", 1.5, 67)];
    let groups = speeds.map(|(name, speed, count)| BackendGroup { speed, ..group(name, count) });
    let about = "200 backends of speed .5, 1 and 1.5 behind 10 proxies at 80 %";
    Scenario { duration_s: 20.0, proxies: 10, ..base("fleet200", about, 0.8, groups.to_vec()) }
}
