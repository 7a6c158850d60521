//! The cost of a decision: nanoseconds for `route` and for the request's end, by number of
//! backends.
//!
//! `cargo bench -p intelliproxy-core`; with names of policies as arguments it prints only their
//! rows of the second table. 64 requests are timed together; the result is the lower quartile of
//! these windows, because other work on the machine only adds time.
//!
//! First table, policy `score`: `calm`, up to 64 requests in flight; `errors`, every twentieth
//! response is a 500, so that the error rate decays all the time; `loaded`, hundreds in flight, so
//! that requests spill over; `held`, the current backend is slow and the cooldown never ends.
//! Second table: every policy with up to 50 + 3 · backends requests in flight (8 each at 10
//! backends, 3 each at 200), without errors and with 5 % of them.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "a benchmark reads the clock and its arguments; the core does not"
)]
use std::collections::VecDeque;
use std::hint::black_box;
use std::time::{Duration, Instant as Clock};

use intelliproxy_core::{
    Action, Event, Instant, Lease, Outcome, PolicyKind, ProbeAnswer, ProbeKind, Router,
    RouterConfig, Rules,
};

fn main() {
    // cargo passes `--bench`.
    let names: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    println!("{:>8}  {:14}{:>9}{:>9}{:>9}   ns", "backends", "case", "route", "finish", "both");
    for count in [2, 10, 200, 1000] {
        for case in ["calm", "errors", "loaded", "held"] {
            if names.is_empty() {
                print(count, case, Load::new(count, case).measure());
            }
        }
    }
    for count in [10, 200] {
        for policy in PolicyKind::ALL {
            if names.is_empty() || names.iter().any(|name| name == policy.name()) {
                print(count, policy.name(), Load::of_policy(count, policy, 0).measure());
                print(count, "  5 % errors", Load::of_policy(count, policy, 20).measure());
            }
        }
    }
}

fn print(count: usize, case: &str, (route, finish): (f64, f64)) {
    let both = route + finish;
    println!("{count:>8}  {case:14}{route:>9.0}{finish:>9.0}{both:>9.0}");
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
        let mut rules = Rules::default();
        if case == "held" {
            rules.switch.cooldown = Duration::from_secs(3600);
        }
        let in_flight_max = if case == "loaded" { 300 } else { 1 };
        let mut load = Self::start(count, rules, in_flight_max);
        load.error_every = if case == "errors" { 20 } else { 0 };
        if case == "held" {
            load.make_current_slow(count);
        } else {
            load.answer_pings(|index| 1.0 + index as f64 / count as f64);
        }
        load
    }

    /// Up to 50 + 3 · `count` requests are in flight, and they end in the order in which they
    /// began. Every `error_every`-th response is an error; with 0 there are no errors.
    fn of_policy(count: usize, policy: PolicyKind, error_every: usize) -> Self {
        let rules = Rules { policy, ..Rules::default() };
        let mut load = Self::start(count, rules, 50 + 3 * count);
        load.error_every = error_every;
        load.answer_pings(|index| 1.0 + index as f64 / count as f64);
        load
    }

    fn start(count: usize, rules: Rules, in_flight_max: usize) -> Self {
        let backends = (0..count).map(|index| format!("backend {index}")).collect();
        let now = Instant::from_millis(1);
        let router = Router::new(RouterConfig { backends, rules }, 1, now).expect("valid rules");
        Self { router, now, in_flight: VecDeque::new(), in_flight_max, error_every: 0 }
    }

    /// Nanoseconds for a route and for a finish.
    fn measure(&mut self) -> (f64, f64) {
        self.run(WINDOWS_FIRST);
        let (mut route, mut finish) = self.run(WINDOWS);
        (lower_quartile(&mut route), lower_quartile(&mut finish))
    }

    /// Causes a first choice, and a switch that starts the cooldown. Then the chosen backend
    /// becomes slow.
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

    /// Runs this number of windows, in which routes and ends are 5 us apart each. Returns the
    /// nanoseconds per route and per end in each window.
    fn run(&mut self, windows: usize) -> (Vec<f64>, Vec<f64>) {
        let (mut routes, mut finishes) = (Vec::new(), Vec::new());
        let mut ended = Vec::with_capacity(WINDOW);
        for window in 0..windows {
            while self.in_flight.len() + WINDOW > self.in_flight_max.max(WINDOW) {
                ended.extend(self.in_flight.pop_front());
            }
            let (count, start) = (ended.len(), Clock::now());
            for (index, lease) in ended.drain(..).enumerate() {
                self.now += Duration::from_micros(5);
                let number = window * WINDOW + index + 1;
                let is_error = self.error_every > 0 && number.is_multiple_of(self.error_every);
                self.router
                    .handle_event(self.now, finished(lease, if is_error { 500 } else { 200 }));
            }
            if count > 0 {
                finishes.push(start.elapsed().as_nanos() as f64 / count as f64);
            }
            let start = Clock::now();
            for _ in 0..WINDOW {
                self.now += Duration::from_micros(5);
                let lease = black_box(&mut self.router).route(self.now, &[]);
                self.in_flight.push_back(lease.expect("a backend"));
            }
            routes.push(start.elapsed().as_nanos() as f64 / WINDOW as f64);
            while self.router.poll_action().is_some() {}
        }
        (routes, finishes)
    }
}

fn finished(lease: Lease, status: u16) -> Event {
    let outcome = Outcome::Answered { status, latency: Duration::from_millis(2) };
    Event::RequestFinished { lease, outcome }
}

fn lower_quartile(numbers: &mut [f64]) -> f64 {
    numbers.sort_unstable_by(f64::total_cmp);
    numbers[numbers.len() / 4]
}

/// The number of requests that are timed together, because reading the clock costs as much as a
/// decision. The model of `learned` is fitted once per 64 completions, so each window contains one
/// fit.
const WINDOW: usize = 64;
const WINDOWS_FIRST: usize = 300;
const WINDOWS: usize = 1200;
