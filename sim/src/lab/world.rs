//! One run: arrivals, proxies and backends in virtual time.
//!
//! The way from a proxy to a backend and back takes the same time for everybody, so what is on the
//! way lies in queues that are in order by themselves; only what lies at no fixed distance is kept
//! in a heap, and the next end of each backend in a tree of minima. Nothing is allocated for a
//! request once the queues have grown. Of events at the same time the script comes first, then
//! backends, then proxies, then arrivals.
use std::collections::VecDeque;
use std::time::Duration;

use intelliproxy_core::{ConfigError, Lease, Outcome, RequestFailure, Rng};
use serde::Serialize;

use super::arrivals::{Arrival, Arrivals};
use super::backend::{Answer, Backend, MS, Reception, seconds};
use super::contender::Contender;
use super::draw::{Draw, derive};
use super::earliest::{Earliest, NEVER};
use super::later::{Later, LaterEvents};
use super::proxy::Proxy;
use super::scenario::Scenario;
use super::script::script;
use super::tally::{Figures, Tally};

/// What a run has shown.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    /// Its figures.
    #[serde(flatten)]
    pub figures: Figures,
    /// Stands for all arrivals with their luck: equal for all contenders of a scenario and seed.
    pub arrivals_hash: u64,
    /// Stands for every decision and every end with its time.
    pub trace_hash: u64,
    /// Requests that each backend was sent in each second, those of the warm-up included.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub routed_by_second: Vec<Vec<u32>>,
    /// All requests that arrived, those of the warm-up included.
    pub arrived: u64,
}

/// Runs a scenario under one contender.
///
/// # Errors
/// When a router refuses the scenario's backends or rules; not for a scenario that was read.
pub fn run(scenario: &Scenario, contender: Contender, seed: u64) -> Result<Run, ConfigError> {
    let mut world = World::new(scenario, contender, seed)?;
    world.run();
    Ok(world.into_run())
}

#[derive(Debug)]
struct World {
    now: u64,
    rtt: u64,
    timeout: u64,
    charge: u64,
    ends_at: u64,
    warm_at: u64,
    arrivals: Arrivals,
    /// The next arrival; `None` when the run's time is over.
    arrival: Option<Arrival>,
    /// Requests from the oldest open one on.
    requests: VecDeque<Request>,
    /// The number of the first of these.
    oldest: u64,
    backends: Vec<Backend>,
    /// When each backend ends its next request.
    ends: Earliest,
    /// Requests on their way to a backend: when they arrive, which, where.
    inbound: VecDeque<(u64, u64, usize)>,
    /// Answers on their way to a proxy: when they arrive, to which request.
    outbound: VecDeque<(u64, u64, Answer)>,
    later: LaterEvents,
    /// Empty for the oracle.
    proxies: Vec<Proxy>,
    /// When each proxy's router wants the time.
    deadlines: Earliest,
    proxy_count: usize,
    oracle_rng: Rng,
    tally: Tally,
    routed_by_second: Vec<Vec<u32>>,
    arrived: u64,
    arrivals_hash: Hash,
    trace_hash: Hash,
}

#[derive(Debug)]
struct Request {
    at: u64,
    draw: Draw,
    proxy: usize,
    is_open: bool,
    /// `None` for the oracle, and once the request has ended.
    lease: Option<Lease>,
}

impl World {
    fn new(scenario: &Scenario, contender: Contender, seed: u64) -> Result<Self, ConfigError> {
        let groups = scenario.backends.iter().enumerate();
        let groups = groups.flat_map(|(group, spec)| (0..spec.count).map(move |_| group));
        let backends =
            groups.zip(scenario.backend_names()).enumerate().map(|(number, (group, name))| {
                let seed = derive(seed, BACKENDS, number as u64);
                Backend::new(scenario, group, name, seed)
            });
        let backends: Vec<_> = backends.collect();
        let proxy_count = scenario.proxies as usize;
        let charge = (scenario.charge_ms * MS) as u64;
        let mut arrivals = Arrivals::new(scenario, derive(seed, ARRIVALS, 0));
        let ends_at = seconds(scenario.duration_s);
        let expected = scenario.base_rate() * scenario.duration_s * 1.1;
        let mut world = Self {
            now: 0,
            rtt: (scenario.rtt_ms * MS) as u64,
            timeout: (scenario.timeout_ms * MS) as u64,
            charge,
            ends_at,
            warm_at: seconds(scenario.warmup_s),
            arrival: arrivals.next().filter(|arrival| arrival.at < ends_at),
            arrivals,
            requests: VecDeque::new(),
            oldest: 0,
            ends: Earliest::new(backends.len()),
            tally: Tally::new((expected as usize).min(ROOM_MAX), backends.len(), charge),
            backends,
            inbound: VecDeque::new(),
            outbound: VecDeque::new(),
            later: LaterEvents::default(),
            proxies: Vec::new(),
            deadlines: Earliest::new(proxy_count),
            proxy_count,
            oracle_rng: Rng::new(derive(seed, ORACLE, 0)),
            routed_by_second: Vec::new(),
            arrived: 0,
            arrivals_hash: Hash::default(),
            trace_hash: Hash::default(),
        };
        for (at, event) in script(scenario) {
            world.later.push(at, event);
        }
        // Before there are routers: what is there from the start does not join.
        while world.later.first() == 0 {
            world.happen();
        }
        if contender != Contender::Oracle {
            let policy = match contender {
                Contender::Policy(policy) => Some(policy),
                Contender::Oracle | Contender::BrokenLearner => None,
            };
            let members = members(&world.backends);
            for number in 0..proxy_count {
                let seed = derive(seed, ROUTERS, number as u64);
                world.proxies.push(Proxy::new(&scenario.routing, policy, &members, seed)?);
            }
            for number in 0..proxy_count {
                world.attend(number);
            }
        }
        Ok(world)
    }

    fn run(&mut self) {
        loop {
            let inbound = self.inbound.front().map_or(NEVER, |entry| entry.0);
            let outbound = self.outbound.front().map_or(NEVER, |entry| entry.0);
            let arrival = self.arrival.map_or(NEVER, |arrival| arrival.at);
            let overdue = self.requests.front().map_or(NEVER, |oldest| oldest.at + self.timeout);
            if arrival == NEVER && overdue == NEVER {
                return;
            }
            let (later, (ends, backend)) = (self.later.first(), self.ends.first());
            let (deadline, proxy) = self.deadlines.first();
            let inside = later.min(ends).min(inbound);
            let now = inside.min(outbound).min(deadline).min(overdue).min(arrival);
            debug_assert!(now >= self.now, "time does not go backwards");
            self.now = now;
            if now == later {
                self.happen();
            } else if now == ends {
                self.end(backend);
            } else if now == inbound {
                self.arrive_at_backend();
            } else if now == outbound {
                if let Some((_, request, answer)) = self.outbound.pop_front() {
                    self.finish(request, Some(answer));
                }
            } else if now == deadline {
                self.proxies[proxy].handle_timeout(now);
                self.attend(proxy);
            } else if now == overdue {
                self.finish(self.oldest, None);
            } else {
                self.arrive();
            }
        }
    }

    /// A request arrives at its proxy.
    fn arrive(&mut self) {
        let Some(Arrival { at, draw }) = self.arrival.take() else {
            return;
        };
        self.arrival = self.arrivals.next().filter(|arrival| arrival.at < self.ends_at);
        self.arrived += 1;
        self.arrivals_hash.add(at);
        self.arrivals_hash.add(draw.bits());
        let proxy = draw.proxy(self.proxy_count);
        let (backend, lease) = if self.proxies.is_empty() {
            (self.choose_as_oracle(), None)
        } else {
            let route = self.proxies[proxy].route(at);
            self.attend(proxy);
            route.map_or((None, None), |(backend, lease)| (Some(backend), Some(lease)))
        };
        let Some(backend) = backend else {
            if at >= self.warm_at {
                self.tally.failed();
            }
            return;
        };
        self.trace_hash.add(backend as u64);
        if at >= self.warm_at {
            self.tally.routed(backend);
        }
        self.note_second(at, backend);
        let number = self.oldest + self.requests.len() as u64;
        self.requests.push_back(Request { at, draw, proxy, is_open: true, lease });
        self.backends[backend].inbound += 1;
        self.inbound.push_back((at + self.rtt / 2, number, backend));
    }

    fn note_second(&mut self, at: u64, backend: usize) {
        let second = (at / SECOND) as usize;
        while self.routed_by_second.len() <= second {
            self.routed_by_second.push(vec![0; self.backends.len()]);
        }
        self.routed_by_second[second][backend] += 1;
    }

    fn arrive_at_backend(&mut self) {
        let Some((_, number, backend)) = self.inbound.pop_front() else {
            return;
        };
        let to = &mut self.backends[backend];
        to.inbound -= 1;
        // Given up on the way: nobody sends it any more.
        let Some(request) = number.checked_sub(self.oldest) else {
            return;
        };
        let draw = self.requests[request as usize].draw;
        match to.receive(self.now, number, draw) {
            Reception::Accepted => self.ends.set(backend, to.station.ends_at()),
            Reception::Answered(answer) => self.leave(number, answer),
            Reception::AnsweredAfter(span) => {
                let leaves = Later::Leaves { request: number, answer: Answer::Error(500) };
                self.later.push(self.now + span, leaves);
            }
            Reception::Swallowed => {}
        }
    }

    /// A backend ends the service of a request.
    fn end(&mut self, backend: usize) {
        let from = &mut self.backends[backend];
        let ended = from.station.end(self.now);
        self.ends.set(backend, from.station.ends_at());
        let Some(number) = ended else {
            debug_assert!(false, "a backend whose end is due serves somebody");
            return;
        };
        // One whose proxy has given it up was served in vain.
        let Some(request) = number.checked_sub(self.oldest) else {
            return;
        };
        let draw = self.requests[request as usize].draw;
        match from.answer(draw) {
            Some((answer, 0)) => self.leave(number, answer),
            Some((answer, late)) => {
                self.later.push(self.now + late, Later::Leaves { request: number, answer });
            }
            None => {}
        }
    }

    /// An answer leaves its backend.
    fn leave(&mut self, request: u64, answer: Answer) {
        self.outbound.push_back((self.now + self.rtt - self.rtt / 2, request, answer));
    }

    /// A request ends at its proxy: by an answer, or given up.
    fn finish(&mut self, number: u64, answer: Option<Answer>) {
        let Some(request) = number.checked_sub(self.oldest) else {
            return;
        };
        let request = &mut self.requests[request as usize];
        if !request.is_open {
            return;
        }
        request.is_open = false;
        let (at, proxy, lease) = (request.at, request.proxy, request.lease.take());
        let latency = self.now - at;
        self.trace_hash.add(number);
        self.trace_hash.add(self.now);
        if at >= self.warm_at {
            match answer {
                Some(Answer::Good) => self.tally.answered(latency),
                Some(Answer::Error(_) | Answer::Refused) | None => self.tally.failed(),
            }
        }
        if let Some(lease) = lease {
            let latency = Duration::from_nanos(latency);
            let outcome = match answer {
                Some(Answer::Good) => Outcome::Answered { status: 200, latency },
                Some(Answer::Error(status)) => Outcome::Answered { status, latency },
                Some(Answer::Refused) => Outcome::Failed(RequestFailure::Refused),
                None => Outcome::Failed(RequestFailure::TimedOut),
            };
            self.proxies[proxy].finish(self.now, lease, outcome);
            self.attend(proxy);
        }
        while self.requests.front().is_some_and(|request| !request.is_open) {
            self.requests.pop_front();
            self.oldest += 1;
        }
    }

    /// Something from the heap happens.
    fn happen(&mut self) {
        match self.later.pop() {
            Some(Later::Leaves { request, answer }) => self.leave(request, answer),
            Some(Later::ProbeEnds { proxy, probe, result }) => {
                self.proxies[proxy].finish_probe(self.now, probe, result);
                self.attend(proxy);
            }
            Some(Later::Fault { backend, index, is_active }) => {
                self.set_fault(backend, index, is_active);
            }
            Some(Later::Redraw { backend, index, every }) => {
                let from = &mut self.backends[backend];
                if from.redraw_speed(self.now, index) {
                    self.ends.set(backend, from.station.ends_at());
                    self.later.push(self.now + every, Later::Redraw { backend, index, every });
                }
            }
            Some(Later::Member { backend, is_configured }) => {
                self.backends[backend].is_configured = is_configured;
                let members = members(&self.backends);
                for proxy in &mut self.proxies {
                    proxy.configure(self.now, &members);
                }
                for proxy in 0..self.proxies.len() {
                    self.attend(proxy);
                }
            }
            None => {}
        }
    }

    fn set_fault(&mut self, backend: usize, index: usize, is_active: bool) {
        let at = &mut self.backends[backend];
        at.set_fault(self.now, index, is_active);
        self.ends.set(backend, at.station.ends_at());
    }

    /// Does what a proxy's router wants done, and notes its deadline.
    fn attend(&mut self, number: usize) {
        let proxy = &mut self.proxies[number];
        while let Some((probe, backend, kind)) = proxy.poll_probe() {
            // Unanswered ones are given up by the router.
            if let Some((span, result)) = self.backends[backend].probe(self.now, self.rtt, kind) {
                let ends = Later::ProbeEnds { proxy: number, probe, result };
                self.later.push(self.now + span, ends);
            }
        }
        self.deadlines.set(number, proxy.deadline());
    }

    /// Where the expected delay is least, of equals any.
    fn choose_as_oracle(&mut self) -> Option<usize> {
        let mut best = None;
        let mut least = f64::INFINITY;
        let mut ties = 0;
        for (number, backend) in self.backends.iter().enumerate() {
            if !backend.is_configured {
                continue;
            }
            let expected = backend.expected(self.charge as f64);
            if expected < least || best.is_none() {
                (best, least, ties) = (Some(number), expected, 1);
            } else if expected == least {
                ties += 1;
                if self.oracle_rng.below(ties) == 0 {
                    best = Some(number);
                }
            }
        }
        best
    }

    fn into_run(self) -> Run {
        let switches: u64 = self.proxies.iter().map(|proxy| proxy.switches(self.now)).sum();
        let time = self.ends_at as f64 / 1e9 * self.proxy_count as f64;
        Run {
            figures: self.tally.figures(switches as f64 / time),
            arrivals_hash: self.arrivals_hash.0,
            trace_hash: self.trace_hash.0,
            routed_by_second: self.routed_by_second,
            arrived: self.arrived,
        }
    }
}

/// The configured backends: number and name.
fn members(backends: &[Backend]) -> Vec<(usize, &str)> {
    let all = backends.iter().enumerate();
    let members = all.filter(|(_, backend)| backend.is_configured);
    members.map(|(number, backend)| (number, backend.name.as_str())).collect()
}

/// A running FNV-1a over whole words.
#[derive(Debug)]
struct Hash(u64);

impl Default for Hash {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hash {
    const fn add(&mut self, word: u64) {
        self.0 = (self.0 ^ word).wrapping_mul(0x0100_0000_01b3);
    }
}

const SECOND: u64 = 1_000_000_000;
const BACKENDS: u64 = 1;
const ARRIVALS: u64 = 2;
const ROUTERS: u64 = 3;
const ORACLE: u64 = 4;
/// Latencies that room is made for in advance; more come at the price of growing.
const ROOM_MAX: usize = 10_000_000;
