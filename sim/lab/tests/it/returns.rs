//! Failures seen by clients at a low rate, and the return of a backend after its fault, by policy.
use std::time::Duration;

use intelliproxy_core::PolicyKind;
use intelliproxy_lab::{Contender, Rate, Run, Scenario, random_named, run, wide_catalogue};

fn play(scenario: &Scenario, policy: PolicyKind, seed: u64) -> Run {
    run(scenario, Contender::Policy(policy), seed).expect("it runs")
}

fn named(name: &str) -> Scenario {
    let found = wide_catalogue().into_iter().find(|scenario| scenario.name == name);
    found.unwrap_or_else(|| panic!("no scenario {name}"))
}

/// One request a second arrives, and one of four backends fails all of its requests for half a
/// minute. The first failure ejects it, and another backend serves the requests that fail on a
/// trial. In a run at most two of about 600 clients see a failure. Over four runs at most 0.2 % of
/// them do, plus one.
#[test]
fn a_fault_at_one_request_a_second_is_seen_once() {
    let scenario = named("low_sinkhole");
    for policy in PolicyKind::ALL {
        let figures = |seed| play(&scenario, policy, seed).figures;
        let (failed, requests) = [1, 2, 3, 4].into_iter().map(figures).fold((0, 0), |sum, run| {
            assert!(run.failed <= 2, "{policy:?}: {}", run.failed);
            (sum.0 + run.failed, sum.1 + run.requests)
        });
        assert!(failed * 1000 <= 2 * requests + 1000, "{policy:?}: {failed} of {requests}");
    }
}

/// Four backends get two hundred requests a second. For 20 s, one of them refuses everything with
/// 429 or 404, fails everything, or is dead. Under every policy except `score` and `learned` it has
/// its share again within 15 s. (These two do not spread light traffic evenly.)
#[test]
fn every_exclusion_ends_in_time() {
    for name in ["refuses", "broken_release", "low_sinkhole", "crash"] {
        let what = named(name).backends[0].faults[0].what.clone();
        let mut scenario = named("refuses");
        scenario.backends[0].faults[0].what = what;
        scenario.arrivals.rate = Rate::PerSecond(200.0);
        for policy in PolicyKind::ALL {
            if matches!(policy, PolicyKind::Score | PolicyKind::Learned) {
                continue;
            }
            let took = play(&scenario, policy, 1).figures.recovery_s;
            assert!(took.is_some_and(|took| took <= 15.0), "{name}, {policy:?}: {took:?}");
        }
    }
}

/// Language models send the head at once, and their queues are full. A stream that waits there for
/// its first token is silent. If it counts as work for a minute, fewer requests find a full queue
/// than if it counts for a second.
#[test]
fn the_idle_time_of_streams_counts() {
    let mut scenario = random_named("r972.48").expect("a random scenario");
    let mut failed = |idle: Duration| {
        scenario.routing.streams.idle = idle;
        play(&scenario, PolicyKind::Learned, 1).figures.failed
    };
    let (short, long) = (failed(Duration::from_secs(1)), failed(Duration::from_secs(60)));
    assert!(short > 10 * long, "{short} and {long}");
}
