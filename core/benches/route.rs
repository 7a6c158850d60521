//! The cost of a decision: nanoseconds for `route` and for the request's end, by number of
//! backends.
//!
//! `cargo bench -p intelliproxy-core`. The result is the fastest of several runs, since other work
//! on the machine only adds time. Cases: `calm`, one request at a time; `errors`, every tenth
//! response is a 500, so that the error rate decays all the time; `loaded`, hundreds in flight, so
//! that requests spill over; `held`, the current backend is slow and the cooldown never ends.
#![expect(clippy::disallowed_types, reason = "a benchmark reads the clock; the core does not")]
use std::collections::VecDeque;
use std::hint::black_box;
use std::time::{Duration, Instant as Clock};

use intelliproxy_core::{
    Action, Event, Instant, Lease, Outcome, PolicyKind, ProbeAnswer, ProbeKind, Router,
    RouterConfig, Rules,
};

fn main() {
    println!("{:>8}  {:8}{:>12}{:>12}   ns", "backends", "case", "route", "finish");
    for count in [2, 10, 1000] {
        for case in ["calm", "errors", "loaded", "held"] {
            let (route, finish) = fastest(count, case);
            println!("{count:>8}  {case:8}{route:>12.1}{finish:>12.1}");
        }
    }
    println!("{:>8}  {:14}{:>12}{:>12}   ns", "backends", "policy", "route", "finish");
    for count in [10, 200] {
        for policy in PolicyKind::ALL.into_iter().skip(1) {
            let (route, finish) = fastest_of_policy(count, policy);
            println!("{count:>8}  {:14}{route:>12.1}{finish:>12.1}", format!("{policy:?}"));
        }
    }
}

/// With three requests in flight at each backend on average, which end in the order of their
/// starts.
fn fastest_of_policy(count: usize, policy: PolicyKind) -> (f64, f64) {
    let mut best = (f64::MAX, f64::MAX);
    for _ in 0..5 {
        let backends = (0..count).map(|index| format!("backend {index}")).collect();
        let rules = Rules { policy, ..Rules::default() };
        let now = Instant::from_millis(1);
        let router = Router::new(RouterConfig { backends, rules }, 1, now).expect("valid rules");
        let in_flight_max = 50 + 3 * count;
        let mut load = Load {
            router,
            now,
            in_flight: VecDeque::new(),
            in_flight_max,
            error_every: usize::MAX,
        };
        load.run(20_000);
        let (route, finish) = load.run(50_000);
        best = (best.0.min(route), best.1.min(finish));
    }
    best
}

/// Nanoseconds for a route and for a finish, each from its fastest run.
fn fastest(count: usize, case: &str) -> (f64, f64) {
    let mut best = (f64::MAX, f64::MAX);
    for _ in 0..7 {
        let mut load = Load::new(count, case);
        load.run(20_000);
        let (route, finish) = load.run(100_000);
        best = (best.0.min(route), best.1.min(finish));
    }
    best
}

struct Load {
    router: Router,
    now: Instant,
    in_flight: VecDeque<Lease>,
    in_flight_max: usize,
    error_every: usize,
}

impl Load {
    fn new(count: usize, case: &str) -> Self {
        let backends = (0..count).map(|index| format!("backend {index}")).collect();
        let mut config = RouterConfig { backends, ..RouterConfig::default() };
        if case == "held" {
            config.rules.switch.cooldown = Duration::from_secs(3600);
        }
        let now = Instant::from_millis(1);
        let router = Router::new(config, 1, now).expect("a valid configuration");
        let mut load = Self {
            router,
            now,
            in_flight: VecDeque::new(),
            in_flight_max: if case == "loaded" { 300 } else { 1 },
            error_every: if case == "errors" { 10 } else { usize::MAX },
        };
        if case == "held" {
            load.make_current_slow(count);
        } else {
            load.answer_pings(|index| 1.0 + index as f64 / count as f64);
        }
        load
    }

    /// Makes a first choice and a switch that starts the cooldown. Then the chosen backend becomes
    /// slow.
    fn make_current_slow(&mut self, count: usize) {
        self.route_once();
        self.answer_pings(|index| if index == 1 { 1.0 } else { 100.0 });
        self.route_once();
        self.now += Duration::from_secs(10);
        for _ in 0..2 {
            self.now += Duration::from_secs(10);
            self.answer_pings(
                |index| {
                    if index == 1 { 1000.0 } else { 1.0 + index as f64 / count as f64 }
                },
            );
        }
    }

    fn answer_pings(&mut self, latency_ms: impl Fn(usize) -> f64) {
        self.router.handle_timeout(self.now);
        while let Some(action) = self.router.poll_action() {
            if let Action::StartProbe { probe, backend, kind: ProbeKind::Ping, .. } = action {
                let latency = Duration::from_secs_f64(latency_ms(backend.index()) / 1e3);
                let result = Ok(ProbeAnswer { latency, report: None });
                self.router.handle_event(self.now, Event::ProbeFinished { probe, result });
            }
        }
    }

    fn route_once(&mut self) {
        let lease = self.router.route(self.now, &[]).expect("a backend");
        self.router.handle_event(self.now, finished(lease, 200));
    }

    /// Nanoseconds for each route and each finish of this many requests, 5 microseconds apart.
    fn run(&mut self, requests: usize) -> (f64, f64) {
        // Measured in batches, since reading the clock costs as much as a decision.
        const BATCH: usize = 50;
        let mut spent = (Duration::ZERO, Duration::ZERO);
        let mut ended = Vec::with_capacity(BATCH);
        for batch in 0..requests / BATCH {
            while self.in_flight.len() + BATCH > self.in_flight_max.max(BATCH) {
                ended.extend(self.in_flight.pop_front());
            }
            let start = Clock::now();
            for (index, lease) in ended.drain(..).enumerate() {
                self.now += Duration::from_micros(5);
                let is_error = (batch * BATCH + index) % self.error_every == self.error_every - 1;
                self.router
                    .handle_event(self.now, finished(lease, if is_error { 500 } else { 200 }));
            }
            spent.1 += start.elapsed();
            let start = Clock::now();
            for _ in 0..BATCH {
                self.now += Duration::from_micros(5);
                let lease = black_box(&mut self.router).route(self.now, &[]);
                self.in_flight.push_back(lease.expect("a backend"));
            }
            spent.0 += start.elapsed();
            while self.router.poll_action().is_some() {}
        }
        let each = |spent: Duration| spent.as_nanos() as f64 / requests as f64;
        (each(spent.0), each(spent.1))
    }
}

fn finished(lease: Lease, status: u16) -> Event {
    let outcome = Outcome::Answered { status, latency: Duration::from_millis(2) };
    Event::RequestFinished { lease, outcome }
}
