//! Random scenarios: one half for tuning policies, the other for reporting.
//!
//! A scenario is defined by a seed and a number: `r7.12` is the same everywhere. Even numbers are
//! for tuning, odd ones for reporting. Each draws its backends, its load and its faults from the
//! ranges in this file. It lasts for about 25 000 requests, but at least 30 s and at most 900 s.
use std::time::Duration;

use intelliproxy_core::Rng;

use super::class::{RequestClass, Stream};
use super::draw::derive;
use super::fault::{Door, Fault, FaultKind};
use super::group::BackendGroup;
use super::scenario::{Arrivals, Bursts, Rate, Retries, Scenario, Surge};
use super::service::{Part, Service};

/// A half of the random scenarios.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Half {
    /// The scenarios with even numbers.
    Tune,
    /// The scenarios with odd numbers.
    Report,
}

/// Returns the scenarios of a seed: the first `count` numbers, or a half of them.
pub fn random_scenarios(seed: u64, count: u64, half: Option<Half>) -> Vec<Scenario> {
    let numbers = (0..count).filter(|number| match half {
        None => true,
        Some(Half::Tune) => number % 2 == 0,
        Some(Half::Report) => number % 2 == 1,
    });
    numbers.map(|number| random_scenario(seed, number)).collect()
}

/// Returns the scenario of this name: `r`, the seed, a point and the number.
pub fn random_named(name: &str) -> Option<Scenario> {
    let (seed, number) = name.strip_prefix('r')?.split_once('.')?;
    Some(random_scenario(seed.parse().ok()?, number.parse().ok()?))
}

fn random_scenario(seed: u64, number: u64) -> Scenario {
    let mut dice = Dice(Rng::new(derive(seed, RANDOM, number)));
    let mut about = Vec::new();
    let mut scenario = Scenario { name: format!("r{seed}.{number}"), ..Scenario::default() };
    scenario.backends = backends(&mut dice, &mut about);
    scenario.service = service(&mut dice, &mut about);
    let load = dice.between(0.3, 0.92);
    scenario.arrivals = Arrivals { rate: Rate::Load(load), ..Arrivals::default() };
    about.push(format!("at {:.0} %", load * 100.0));
    let rate_max = *dice.one_of(&[20.0, 100.0, 300.0, 1000.0, 1500.0]);
    slow_to(&mut scenario, rate_max);
    scenario.duration_s = (REQUESTS / scenario.base_rate()).clamp(30.0, 900.0).round();
    if dice.chance(0.3) {
        let swing = dice.between(0.2, 0.6);
        let mean_ms = dice.log_between(50.0, 5000.0);
        scenario.arrivals.bursts = Some(Bursts { low: 1.0 - swing, high: 1.0 + swing, mean_ms });
        about.push("bursts".to_owned());
    }
    if dice.chance(0.1) {
        let from_s = 0.3 * scenario.duration_s;
        let factor = dice.between(1.2, 1.0 / load + 0.2);
        scenario.arrivals.surges = vec![Surge { from_s, for_s: Some(0.1 * from_s), factor }];
        about.push("a surge".to_owned());
    }
    scenario.rtt_ms = dice.log_between(0.2, 10.0);
    if dice.chance(0.25) {
        scenario.proxies = *dice.one_of(&[2, 3, 6]);
        about.push(format!("{} proxies", scenario.proxies));
    }
    if dice.chance(0.7) {
        scenario.retries = Some(Retries::default());
        about.push("retries".to_owned());
    }
    if dice.chance(0.3) {
        scenario.classes = classes(&mut dice, &scenario, &mut about);
    }
    if dice.chance(0.65) {
        add_fault(&mut dice, &mut scenario, &mut about);
    }
    let mean = scenario.backends.iter().map(|group| scenario.mean_ms_at(group) / group.speed);
    let timeout = (50.0 * mean.fold(0.0, f64::max)).clamp(5000.0, 120_000.0);
    (scenario.timeout_ms, scenario.charge_ms) = (timeout, timeout);
    scenario.routing.errors.charge = Duration::from_millis(timeout as u64);
    scenario.about = about.join(", ");
    scenario
}

fn backends(dice: &mut Dice, about: &mut Vec<String>) -> Vec<BackendGroup> {
    let count = *dice.one_of(&[2, 3, 3, 4, 4, 5, 6, 8, 10, 16]);
    let workers = *dice.one_of(&[1, 2, 4, 4, 8, 16]);
    let queue = *dice.one_of(&[8, 32, 128, 128, 128]);
    let sharing = if dice.chance(0.15) { dice.between(0.01, 0.1) } else { 0.0 };
    let group = |name: &str, count: u32| BackendGroup {
        name: name.to_owned(),
        count,
        workers,
        queue,
        sharing,
        ..BackendGroup::default()
    };
    let some = (count / 2).max(1);
    let rest = count - some;
    let factor = dice.log_between(1.5, 12.0);
    let (mut groups, kind) = match dice.0.below(10) {
        0..4 => (vec![group("b", count)], "equal".to_owned()),
        4..7 => {
            let fast = BackendGroup { speed: factor, ..group("fast", rest) };
            (vec![group("slow", some), fast], format!("speeds 1 and {factor:.1}"))
        }
        7..8 => {
            let wide = BackendGroup { workers: 4 * workers, ..group("wide", rest) };
            (vec![group("narrow", some), wide], "widths 1 and 4".to_owned())
        }
        8..9 => {
            let workers = workers * (count - 1).min(8);
            let big = BackendGroup { workers, ..group("big", 1) };
            (vec![big, group("b", count - 1)], "half of it in one".to_owned())
        }
        _ => {
            let speeds = (1..=count).map(|number| BackendGroup {
                speed: dice.log_between(0.5, 4.0),
                ..group(&format!("b{number}-"), 1)
            });
            (speeds.collect(), "all speeds".to_owned())
        }
    };
    if groups.len() > 1 && dice.chance(0.15) {
        groups[0].rtt_ms = Some(dice.log_between(5.0, 60.0));
        about.push("some far".to_owned());
    }
    about.push(format!("{count} backends of {workers} workers, queue {queue}, {kind}"));
    groups
}

fn service(dice: &mut Dice, about: &mut Vec<String>) -> Service {
    let mean = dice.log_between(2.0, 500.0);
    let (service, kind) = match dice.0.below(6) {
        0 | 1 => (Service::Exponential(mean), "exponential"),
        2 => (Service::Constant(mean), "constant"),
        3 => {
            let sigma = dice.between(0.4, 1.2);
            (Service::Lognormal { median_ms: mean, sigma, clip_ms: None }, "lognormal")
        }
        4 => {
            let short = Service::Uniform([0.2 * mean, 0.3 * mean]);
            let long = Service::Uniform([5.0 * mean, 9.0 * mean]);
            let parts =
                vec![Part { share: 0.9, service: short }, Part { share: 0.1, service: long }];
            (Service::Mixture(parts), "bimodal")
        }
        _ => {
            let clip_ms = Some([0.5 * mean, 100.0 * mean]);
            (Service::Pareto { min_ms: 0.5 * mean, shape: 1.8, clip_ms }, "pareto")
        }
    };
    about.push(kind.to_owned());
    service
}

/// Makes requests longer until their rate is at most `rate_max` a second.
fn slow_to(scenario: &mut Scenario, rate_max: f64) {
    let factor = scenario.base_rate() / rate_max;
    if factor <= 1.0 {
        return;
    }
    scale(&mut scenario.service, factor);
}

fn scale(service: &mut Service, factor: f64) {
    match service {
        Service::Constant(ms) | Service::Exponential(ms) => *ms *= factor,
        Service::Uniform([low, high]) => (*low, *high) = (*low * factor, *high * factor),
        Service::Lognormal { median_ms, .. } => *median_ms *= factor,
        Service::Pareto { min_ms, clip_ms, .. } => {
            *min_ms *= factor;
            *clip_ms = clip_ms.map(|[low, high]| [low * factor, high * factor]);
        }
        Service::Mixture(parts) => {
            parts.iter_mut().for_each(|part| scale(&mut part.service, factor))
        }
        Service::Empirical(points) => points.iter_mut().for_each(|point| point[1] *= factor),
    }
}

fn classes(dice: &mut Dice, scenario: &Scenario, about: &mut Vec<String>) -> Vec<RequestClass> {
    let mean = scenario.mean_ms_at(&scenario.backends[0]);
    let share = dice.log_between(0.01, 0.1);
    let special = RequestClass { name: "special".to_owned(), share, ..RequestClass::default() };
    let usual =
        RequestClass { name: "usual".to_owned(), share: 1.0 - share, ..RequestClass::default() };
    let (special, kind) = match dice.0.below(7) {
        0 => {
            let service = Some(Service::Exponential(mean * dice.between(3.0, 20.0)));
            (RequestClass { service, ..special }, "expensive")
        }
        1 => (RequestClass { status: 500, ..special }, "status 500"),
        2 => {
            let upload_ms = Some(Service::Uniform([100.0, 10_000.0]));
            (RequestClass { upload_ms, idempotent: false, ..special }, "slow uploads")
        }
        3 => {
            let download_ms = Some(Service::Uniform([100.0, 10_000.0]));
            (RequestClass { download_ms, ..special }, "slow downloads")
        }
        4 => {
            let patience_ms = Some(Service::Exponential(3.0 * mean));
            (RequestClass { patience_ms, ..special }, "impatient")
        }
        5 => {
            let for_ms = Service::Exponential(20_000.0);
            (RequestClass { stream: Some(Stream::Tunnel { for_ms }), ..special }, "tunnels")
        }
        _ => {
            let first_share = dice.between(0.02, 0.3);
            let tokens = Some(Stream::Tokens { first_share });
            about.push("tokens".to_owned());
            return vec![RequestClass { stream: tokens, ..RequestClass::default() }];
        }
    };
    about.push(format!("{:.0} % {kind}", share * 100.0));
    vec![usual, special]
}

/// Adds a fault to some backends, for the middle part of the run or for all of it.
fn add_fault(dice: &mut Dice, scenario: &mut Scenario, about: &mut Vec<String>) {
    let duration = scenario.duration_s;
    let first = &mut scenario.backends[0];
    // The fault affects one of several equal backends: the others become a group of their own.
    if first.count > 1 {
        let victim = BackendGroup { name: "victim".to_owned(), count: 1, ..first.clone() };
        first.count -= 1;
        scenario.backends.push(victim);
    }
    let door = |status, after_ms| Door { status, after_ms, ..Door::default() };
    let retry_after_s = dice.chance(0.5).then_some(2.0);
    let (what, kind) = match dice.0.below(13) {
        0 | 1 => {
            let factor = dice.log_between(0.05, 0.5);
            (FaultKind::Speed(factor), format!("speed x {factor:.2}"))
        }
        2 => {
            let between = [dice.between(0.2, 0.5), dice.between(0.6, 1.0)];
            (FaultKind::Redraw { between, every_s: 2.0 }, "speed redrawn".to_owned())
        }
        3 | 4 => (FaultKind::Sinkhole { after_ms: 1.0 }, "sinkhole".to_owned()),
        5 => (FaultKind::BlackHole, "black hole".to_owned()),
        6 => (FaultKind::Refusing, "refusing".to_owned()),
        7 => (FaultKind::Crash, "crash".to_owned()),
        8 => {
            let share = dice.log_between(0.01, 0.5);
            (FaultKind::Errors(share), format!("{:.0} % errors", 100.0 * share))
        }
        9 => (FaultKind::Cut(dice.log_between(0.01, 0.3)), "cuts".to_owned()),
        10 => {
            let door = Door { retry_after_s, ..door(*dice.one_of(&[429, 503]), 0.5) };
            (FaultKind::Answers(door), "refusals".to_owned())
        }
        11 => (FaultKind::Answers(door(404, 1.0)), "404".to_owned()),
        _ => {
            let ms = dice.log_between(20.0, 1000.0);
            let share = dice.between(0.01, 0.2);
            (FaultKind::Slow { share, ms }, "late responses".to_owned())
        }
    };
    let victim = scenario.backends.last_mut();
    if let Some(victim) = victim {
        let is_short = dice.chance(0.8);
        let (from_s, for_s) =
            if is_short { (0.25 * duration, Some(0.35 * duration)) } else { (0.0, None) };
        victim.faults.push(Fault { from_s, for_s, what });
        about.push(format!("{}: {kind}{}", victim.name, if is_short { "" } else { " always" }));
    }
    if dice.chance(0.1) {
        let newcomer = BackendGroup {
            name: "newcomer".to_owned(),
            count: 1,
            joins_s: 0.4 * duration,
            faults: Vec::new(),
            ..scenario.backends[0].clone()
        };
        scenario.backends.push(newcomer);
        about.push("one joins".to_owned());
    }
}

/// The source of random draws.
struct Dice(Rng);

impl Dice {
    fn chance(&mut self, share: f64) -> bool {
        self.0.unit() < share
    }

    fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.0.unit()
    }

    /// Draws evenly on a logarithmic scale.
    fn log_between(&mut self, low: f64, high: f64) -> f64 {
        low * libm::pow(high / low, self.0.unit())
    }

    fn one_of<'a, T>(&mut self, values: &'a [T]) -> &'a T {
        &values[self.0.below(values.len() as u64) as usize]
    }
}

const RANDOM: u64 = 5;
/// Number of requests of a scenario, unless its duration is at a bound.
const REQUESTS: f64 = 25_000.0;

#[cfg(test)]
mod tests {
    use super::*;

    /// Every scenario is valid, has a bounded size, and can be found by its name. Together the two
    /// halves are the whole list.
    #[test]
    fn drawn_scenarios_are_sound() {
        let all = random_scenarios(7, 200, None);
        for scenario in &all {
            let read = Scenario::from_json(&scenario.to_json());
            assert_eq!(read.as_ref(), Ok(scenario), "{}", scenario.name);
            assert_eq!(random_named(&scenario.name).as_ref(), Some(scenario));
            let requests = scenario.base_rate() * scenario.duration_s;
            assert!((300.0..60_000.0).contains(&requests), "{}: {requests}", scenario.name);
        }
        let tune = random_scenarios(7, 200, Some(Half::Tune));
        let report = random_scenarios(7, 200, Some(Half::Report));
        assert_eq!((tune.len(), report.len()), (100, 100));
        assert!(tune.iter().zip(all.iter().step_by(2)).all(|(a, b)| a == b));
        assert!(report.iter().zip(all.iter().skip(1).step_by(2)).all(|(a, b)| a == b));
        assert_ne!(random_named("r7.1").map(|s| s.about), random_named("r8.1").map(|s| s.about));
        assert_eq!(random_named("r7"), None);
    }
}
