//! The named scenarios for aspects of real traffic other than load: refusals, classes, slow
//! clients, streams, hard faults at low rates, distances, fleets with short queues.
use std::time::Duration;

use super::{base, group};
use crate::class::{RequestClass, Stream};
use crate::fault::{Door, Fault, FaultKind};
use crate::group::BackendGroup;
use crate::scenario::{Arrivals, Bursts, Rate, Retries, Scenario};
use crate::service::Service;

/// Returns the scenarios of the second catalogue, in the order of their tables. The proxies retry,
/// except in `big_one`, `short_queues` and `few_fast`.
pub fn wide_catalogue() -> Vec<Scenario> {
    vec![
        refusals("refuses", "responds 429 in .5 ms", None),
        refusals("retry_after", "responds 429 with Retry-After 5 s", Some(5.0)),
        rate_limit(),
        broken_release(),
        broken_url(),
        partial_errors(),
        crash(),
        cuts(),
        low_rate("low_sinkhole", "responds 500", FaultKind::Sinkhole { after_ms: 5.0 }),
        low_rate("low_silence", "is silent", FaultKind::BlackHole),
        low_rate("low_crash", "is dead", FaultKind::Crash),
        big_one(),
        costs(),
        distances(),
        slow_clients(),
        impatient(),
        tunnels(),
        events(),
        tokens(),
        short_queues(),
        few_fast(),
    ]
}

/// Returns a scenario whose proxies retry.
fn retried(name: &str, about: &str, load: f64, backends: Vec<BackendGroup>) -> Scenario {
    Scenario { retries: Some(Retries::default()), ..base(name, about, load, backends) }
}

fn fault(from_s: f64, for_s: f64, what: FaultKind) -> Vec<Fault> {
    vec![Fault { from_s, for_s: Some(for_s), what }]
}

fn class(name: &str, share: f64) -> RequestClass {
    RequestClass { name: name.to_owned(), share, ..RequestClass::default() }
}

/// Returns four equal backends, one of which has a fault from 20 s to 40 s of 60.
fn one_of_four(name: &str, about: &str, load: f64, what: FaultKind) -> Scenario {
    let faulty = BackendGroup { faults: fault(20.0, 20.0, what), ..group("faulty", 1) };
    let about = format!("4 backends at {:.0} %, one {about} from 20 s to 40 s", load * 100.0);
    retried(name, &about, load, vec![faulty, group("b", 3)])
}

fn refusals(name: &str, about: &str, retry_after_s: Option<f64>) -> Scenario {
    let door = Door { retry_after_s, ..Door::default() };
    one_of_four(name, about, 0.5, FaultKind::Answers(door))
}

fn rate_limit() -> Scenario {
    let above_per_second = Some(100.0);
    let door = Door { above_per_second, retry_after_s: Some(1.0), ..Door::default() };
    let about = "takes 100 a second and responds 429 with Retry-After 1 s beyond";
    one_of_four("rate_limit", about, 0.5, FaultKind::Answers(door))
}

fn broken_release() -> Scenario {
    let door = Door { status: 404, after_ms: 1.0, ..Door::default() };
    one_of_four("broken_release", "responds 404 in 1 ms", 0.5, FaultKind::Answers(door))
}

fn broken_url() -> Scenario {
    let about = "4 equal backends at 70 %; 5 % of all requests get 500 from every backend";
    let broken = RequestClass { status: 500, ..class("broken", 0.05) };
    let classes = vec![class("page", 0.95), broken];
    Scenario { classes, ..retried("broken_url", about, 0.7, vec![group("b", 4)]) }
}

fn partial_errors() -> Scenario {
    let what = FaultKind::Fails { class: "search".to_owned(), share: 1.0 };
    let about = "responds 500 to every tenth request, a search,";
    let classes = vec![class("page", 0.9), class("search", 0.1)];
    Scenario { classes, ..one_of_four("partial_errors", about, 0.5, what) }
}

fn crash() -> Scenario {
    let scenario = one_of_four("crash", "has ended, its connections cut,", 0.6, FaultKind::Crash);
    let classes = vec![class("get", 0.8), RequestClass { idempotent: false, ..class("post", 0.2) }];
    Scenario { classes, ..scenario }
}

fn cuts() -> Scenario {
    one_of_four("cuts", "cuts every twentieth connection", 0.6, FaultKind::Cut(0.05))
}

/// Returns four backends that get one request per second in total. One has a fault from 100 s to
/// 130 s of 600.
fn low_rate(name: &str, about: &str, what: FaultKind) -> Scenario {
    let faulty = BackendGroup { faults: fault(100.0, 30.0, what), ..group("faulty", 1) };
    let about = format!("4 backends, 1 request/s in all, one {about} from 100 s to 130 s of 600");
    let rate = Rate::PerSecond(1.0);
    Scenario {
        duration_s: 600.0,
        arrivals: Arrivals { rate, ..Arrivals::default() },
        service: Service::Exponential(200.0),
        ..retried(name, &about, 0.0, vec![faulty, group("b", 3)])
    }
}

fn big_one() -> Scenario {
    let faults = fault(20.0, 30.0, FaultKind::Errors(0.1));
    let big = BackendGroup { workers: 16, faults, ..group("big", 1) };
    let about =
        "half the capacity in one backend, which has 10 % errors from 20 s to 50 s, at 70 %";
    base("big_one", about, 0.7, vec![big, group("b", 4)])
}

fn costs() -> Scenario {
    let report = RequestClass { service: Some(Service::Constant(400.0)), ..class("report", 0.02) };
    let about = "6 equal backends at 75 %, every fiftieth request is 400 ms of work";
    let classes = vec![class("page", 0.98), report];
    Scenario { classes, ..retried("costs", about, 0.75, vec![group("b", 6)]) }
}

fn distances() -> Scenario {
    let far = BackendGroup { rtt_ms: Some(30.0), ..group("far", 3) };
    let about = "3 backends .5 ms away and 3 of them 30 ms, at 40 %";
    retried("distances", about, 0.4, vec![group("near", 3), far])
}

fn slow_clients() -> Scenario {
    let up = RequestClass {
        upload_ms: Some(Service::Uniform([500.0, 10_000.0])),
        idempotent: false,
        ..class("up", 0.03)
    };
    let down = RequestClass {
        download_ms: Some(Service::Uniform([500.0, 10_000.0])),
        ..class("down", 0.03)
    };
    let about =
        "3 backends of speed 1, 1 and 3 at 60 %; 3 % of the clients send slowly, 3 % read slowly";
    let fast = BackendGroup { speed: 3.0, ..group("fast", 1) };
    let classes = vec![class("page", 0.94), up, down];
    Scenario { classes, ..retried("slow_clients", about, 0.6, vec![group("b", 2), fast]) }
}

fn impatient() -> Scenario {
    let leaves =
        RequestClass { patience_ms: Some(Service::Exponential(20.0)), ..class("leaves", 0.3) };
    let scenario = one_of_four("impatient", "is 10x slower", 0.6, FaultKind::Speed(0.1));
    let about = format!("{}; 3 in 10 clients leave after 20 ms in the mean", scenario.about);
    Scenario { about, classes: vec![class("page", 0.7), leaves], ..scenario }
}

/// Returns two equal backends at 40 % with silent connections. Those of one backend are cut at 30
/// s.
fn silent(name: &str, about: &str, stream: Stream) -> Scenario {
    let socket = RequestClass { stream: Some(stream), ..class("socket", 0.005) };
    let ends = BackendGroup { faults: fault(30.0, 1.0, FaultKind::Crash), ..group("ends", 1) };
    let about = format!("2 backends at 40 % and {about}; one restarts at 30 s");
    let classes = vec![class("page", 0.995), socket];
    Scenario { classes, ..retried(name, &about, 0.4, vec![ends, group("b", 1)]) }
}

fn tunnels() -> Scenario {
    let for_ms = Service::Exponential(25_000.0);
    silent("tunnels", "some 40 idle tunnels", Stream::Tunnel { for_ms })
}

fn events() -> Scenario {
    let for_ms = Service::Exponential(25_000.0);
    silent("events", "some 40 idle event streams", Stream::Events { for_ms })
}

fn tokens() -> Scenario {
    let backends = [("quick", 12.0), ("middle", 3.0), ("slow", 1.0)];
    let backends = backends.map(|(name, speed)| BackendGroup {
        speed,
        workers: 16,
        queue: 64,
        sharing: 0.05,
        ..group(name, 1)
    });
    let mut scenario = retried(
        "tokens",
        "3 language models of speed 12, 3 and 1, 7 requests/s; the time is that of the first token",
        0.0,
        backends.to_vec(),
    );
    scenario.routing.errors.charge = Duration::from_secs(120);
    Scenario {
        duration_s: 900.0,
        timeout_ms: 120_000.0,
        charge_ms: 120_000.0,
        arrivals: Arrivals { rate: Rate::PerSecond(7.0), ..Arrivals::default() },
        service: Service::Lognormal {
            median_ms: 8000.0,
            sigma: 0.8,
            clip_ms: Some([500.0, 60_000.0]),
        },
        classes: vec![RequestClass {
            stream: Some(Stream::Tokens { first_share: 0.05 }),
            ..class("chat", 1.0)
        }],
        ..scenario
    }
}

fn short_queues() -> Scenario {
    let backends = BackendGroup { workers: 2, queue: 16, ..group("b", 8) };
    let about = "8 backends of 2 workers and queues of 16, 2 proxies 8 ms away, bursts, at 83 %";
    let mut scenario = base("short_queues", about, 0.83, vec![backends]);
    scenario.arrivals.bursts = Some(Bursts { low: 0.7, high: 1.3, mean_ms: 100.0 });
    Scenario {
        proxies: 2,
        rtt_ms: 8.0,
        service: Service::Exponential(3.0),
        // The full queue is the subject of this scenario.
        retries: None,
        ..scenario
    }
}

fn few_fast() -> Scenario {
    let slow = BackendGroup { workers: 6, speed: 0.3, ..group("slow", 16) };
    let fast = BackendGroup { workers: 6, speed: 5.0, ..group("fast", 7) };
    let about = "16 backends of speed .3 and 7 of 5, constant 60 ms, at 94 %";
    let service = Service::Constant(60.0);
    Scenario { service, ..base("few_fast", about, 0.94, vec![slow, fast]) }
}
