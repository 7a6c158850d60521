//! One run: arrivals, proxies and backends in virtual time.
//!
//! Messages with the scenario's round trip are kept in queues, which stay sorted because the delay
//! is always the same. Events whose delays vary, and messages of backends with their own round
//! trip, are kept in a heap. The next end of each backend is kept in a tree of minima. Once the
//! queues have grown, a plain request allocates nothing.
//!
//! Events at the same time are handled in this order: the heap, ends of service, requests at
//! backends, responses at proxies, deadlines of routers, timeouts of requests, arrivals.
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use intelliproxy_core::{ConfigError, Lease, LoadReport, Rng};
use serde::Serialize;

use self::flow::End;
use self::local::Local;
use self::news::News;
use self::streams::Open;
use super::arrivals::{Arrival, Arrivals};
use super::backend::{Backend, MS, Response, seconds};
use super::cache::Cache;
use super::class::RequestClass;
use super::contender::Contender;
use super::detail::OverTime;
use super::draw::{Draw, derive};
use super::earliest::{Earliest, NEVER};
use super::later::{Later, LaterEvents};
use super::peer;
use super::proxy::{Proxy, Routed};
use super::recovery;
use super::scenario::{Retries, Scenario};
use super::script::script;
use super::tally::{Figures, Tally};

mod flow;
mod local;
mod news;
mod streams;

/// The results of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    /// Its figures.
    #[serde(flatten)]
    pub figures: Figures,
    /// Hash of all arrivals with their draws: equal for all contenders of a scenario and seed.
    pub arrivals_hash: u64,
    /// Hash of every decision and of every end with its time.
    pub trace_hash: u64,
    /// Requests sent to each backend in each second, those of the warm-up included.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub routed_by_second: Vec<Vec<u32>>,
    /// All requests that arrived, those of the warm-up included.
    pub arrived: u64,
}

/// Runs a scenario for one contender.
///
/// # Errors
/// If a router refuses the scenario's backends or rules, which is impossible for a parsed scenario.
pub fn run(scenario: &Scenario, contender: Contender, seed: u64) -> Result<Run, ConfigError> {
    let mut world = World::new(scenario, contender, seed)?;
    world.run();
    Ok(world.into_run(scenario))
}

/// Runs a scenario, and also returns the run over time in this many parts.
pub(super) fn run_over_time(
    scenario: &Scenario,
    contender: Contender,
    seed: u64,
    bins: usize,
) -> Result<(Run, OverTime), ConfigError> {
    let mut world = World::new(scenario, contender, seed)?;
    world.tally.details = Some(Box::default());
    world.run();
    let details = world.tally.details.take().unwrap_or_default();
    let groups: Vec<u32> = scenario.backends.iter().map(|group| group.count).collect();
    let over_time = details.over_time(scenario.duration_s, bins, &groups);
    Ok((world.into_run(scenario), over_time))
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
    /// The next arrival; `None` after the end of the run's time.
    arrival: Option<Arrival>,
    /// Requests, starting with the oldest open one.
    requests: VecDeque<Request>,
    /// The number of the first request in `requests`.
    oldest: u64,
    backends: Vec<Backend>,
    /// The next end of a request at each backend.
    ends: Earliest,
    /// Requests on their way to a backend: arrival time, request, backend.
    inbound: VecDeque<(u64, u64, usize)>,
    /// Responses on their way to a proxy: arrival time, request, response.
    outbound: VecDeque<(u64, u64, Response)>,
    later: LaterEvents,
    classes: Vec<RequestClass>,
    cache: Option<Cache>,
    retries: Option<Retries>,
    /// Whether a response may be something other than a request's end. This requires classes or
    /// retries.
    is_wide: bool,
    /// Whether some class has streams that are work.
    has_streams: bool,
    /// Whether requests have different timeouts.
    times_apart: bool,
    /// Whether backends have different round trips.
    has_distances: bool,
    /// Silence after which a stream no longer counts as work, ns.
    idle_span: u64,
    /// The backends tried so far, for requests that are being repeated.
    tried: BTreeMap<u64, Tried>,
    /// Time to the response head, ns, for responses whose first token has not arrived.
    heads: BTreeMap<u64, u64>,
    /// Responses that continue after their heads.
    streams: BTreeMap<u64, Open>,
    /// The number of streams that count as work.
    working: usize,
    /// Responses whose remaining part does not leave the backend.
    muted: BTreeSet<u64>,
    /// Empty for the oracles.
    proxies: Vec<Proxy>,
    /// The knowledge of the oracle of one proxy; `None` for all other contenders.
    local: Option<Local>,
    /// The knowledge of the learning oracle; `None` for all other contenders.
    news: Option<News>,
    /// The next deadline of each proxy's router.
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
    /// Time at which it had arrived completely, so that its client began to wait.
    from: u64,
    draw: Draw,
    /// Work, ms. Negative: drawn by its backend.
    work_ms: f64,
    proxy: u16,
    backend: u16,
    class: u8,
    /// Number of the attempt, from 0.
    attempt: u8,
    /// Whether its first token was sent.
    has_first: bool,
    is_open: bool,
    /// Whether it arrived after the warm-up.
    is_counted: bool,
    /// The figures in its response.
    said: Option<LoadReport>,
    /// `None` for oracles and peers, and after the end of the request.
    lease: Option<Lease>,
}

/// The backends tried so far, and the time at which the request was sent to the current one.
#[derive(Debug, Default)]
struct Tried {
    backends: Vec<usize>,
    sent_at: u64,
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
            is_wide: !scenario.classes.is_empty() || scenario.retries.is_some(),
            has_streams: scenario.classes.iter().any(|class| class.stream.is_some()),
            times_apart: scenario
                .classes
                .iter()
                .any(|class| class.upload_ms.is_some() || class.patience_ms.is_some()),
            has_distances: scenario.backends.iter().any(|group| group.rtt_ms.is_some()),
            idle_span: scenario.routing.streams.idle.as_nanos() as u64,
            classes: scenario.classes.clone(),
            cache: scenario.cache,
            retries: scenario.retries,
            tried: BTreeMap::new(),
            heads: BTreeMap::new(),
            streams: BTreeMap::new(),
            working: 0,
            muted: BTreeSet::new(),
            local: None,
            news: None,
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
        // Routers do not exist yet, so backends present from the start do not join.
        while world.later.first() == 0 {
            world.happen();
        }
        world.add_proxies(scenario, contender, seed)?;
        for number in 0..world.proxies.len() {
            world.attend(number);
        }
        Ok(world)
    }

    /// Adds the decider of each proxy. An oracle needs none.
    fn add_proxies(
        &mut self,
        scenario: &Scenario,
        contender: Contender,
        seed: u64,
    ) -> Result<(), ConfigError> {
        let members = members(&self.backends);
        for number in 0..self.proxy_count {
            let is_again = matches!(contender, Contender::Again(_));
            let purpose = if is_again { ROUTERS_AGAIN } else { ROUTERS };
            let seed = derive(seed, purpose, number as u64);
            let policy = match contender {
                Contender::Oracle => return Ok(()),
                Contender::LocalOracle | Contender::LearningOracle => {
                    let services = self.backends.iter().map(Backend::mean_service);
                    let services: Vec<_> = services.collect();
                    if contender == Contender::LearningOracle {
                        self.news = Some(News::new(self.proxy_count, &self.backends));
                    }
                    self.local = Some(Local::new(self.proxy_count, &services));
                    return Ok(());
                }
                Contender::Peer(kind) => {
                    let numbers: Vec<_> = members.iter().map(|(number, _)| *number).collect();
                    let mut peer = peer::new(kind, seed);
                    peer.configure(0, &numbers);
                    self.proxies.push(Proxy::Peer(peer));
                    continue;
                }
                Contender::Policy(policy) | Contender::Again(policy) => Some(policy),
                Contender::BrokenLearner => None,
            };
            let routed = Routed::new(&scenario.routing, policy, &members, seed)?;
            self.proxies.push(Proxy::Routed(Box::new(routed)));
        }
        Ok(())
    }

    fn run(&mut self) {
        loop {
            let inbound = self.inbound.front().map_or(NEVER, |entry| entry.0);
            let outbound = self.outbound.front().map_or(NEVER, |entry| entry.0);
            let arrival = self.arrival.map_or(NEVER, |arrival| arrival.at);
            let overdue = match self.requests.front() {
                Some(oldest) if !self.times_apart => oldest.from + self.timeout,
                None if arrival == NEVER && self.working == 0 => return,
                _ => NEVER,
            };
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
                if let Some((_, request, backend)) = self.inbound.pop_front() {
                    self.arrive_at_backend(request, backend);
                }
            } else if now == outbound {
                if let Some((_, request, response)) = self.outbound.pop_front() {
                    self.finish(request, End::Responded(response));
                }
            } else if now == deadline {
                self.proxies[proxy].handle_timeout(now);
                self.attend(proxy);
            } else if now == overdue {
                self.finish(self.oldest, End::TimedOut);
            } else {
                self.arrive();
            }
        }
    }

    /// Handles an event from the heap.
    fn happen(&mut self) {
        match self.later.pop() {
            Some(Later::Arrives { request, backend }) => self.arrive_at_backend(request, backend),
            Some(Later::Leaves { request, backend, response }) => {
                self.leave(request, backend, response);
            }
            Some(Later::Whole { request }) => self.resume(request),
            Some(Later::Reaches { request, response }) => {
                self.finish(request, End::Responded(response));
            }
            Some(Later::TimesOut { request }) => self.finish(request, End::TimedOut),
            Some(Later::GivesUp { request }) => self.finish(request, End::GivenUp),
            Some(Later::Silent { request }) => self.fall_silent(request),
            Some(Later::Closes { request }) => {
                self.finish_stream(request, End::Responded(Response::Good));
            }
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
        let cut = at.crash(self.now, index);
        self.ends.set(backend, at.station.ends_at());
        if is_active && self.backends[backend].is_crashed() {
            self.cut(backend, cut);
        }
    }

    /// Carries out the actions of a proxy's router, and records its deadline.
    fn attend(&mut self, number: usize) {
        let proxy = &mut self.proxies[number];
        while let Some((probe, backend, kind)) = proxy.poll_probe() {
            // Without a response, the router itself gives the probe up.
            if let Some((span, result)) = self.backends[backend].probe(self.now, kind) {
                let ends = Later::ProbeEnds { proxy: number, probe, result };
                self.later.push(self.now + span, ends);
            }
        }
        if let Some(details) = &mut self.tally.details {
            (0..proxy.take_switched()).for_each(|_| details.switched(self.now));
        }
        self.deadlines.set(number, proxy.deadline());
    }

    /// Returns a backend with the least expected delay. Ties are broken at random.
    fn choose_as_oracle(&mut self, proxy: usize, tried: &[usize]) -> Option<usize> {
        let is_plain = tried.is_empty() && self.local.is_none() && !self.has_distances;
        let charge = self.charge as f64;
        let mut best = None;
        let mut least = f64::INFINITY;
        let mut ties = 0;
        for (number, backend) in self.backends.iter().enumerate() {
            if !backend.is_configured {
                continue;
            }
            let expected = if is_plain {
                backend.expected(self.now, charge)
            } else if tried.contains(&number) {
                continue;
            } else {
                let farther = backend.rtt as f64 - self.rtt as f64;
                farther
                    + match &mut self.local {
                        None => backend.expected(self.now, charge),
                        Some(local) => {
                            let ahead = local.ahead(self.now, proxy, number);
                            match &mut self.news {
                                None => backend.expected_behind(self.now, ahead, charge),
                                Some(news) => {
                                    news.expected(self.now, proxy, (number, backend), ahead, charge)
                                }
                            }
                        }
                    }
            };
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

    fn into_run(mut self, scenario: &Scenario) -> Run {
        let (recovery, unfairness) = recovery::figures(scenario, &self.routed_by_second);
        self.tally.compared(recovery, unfairness);
        let switches: u64 = self.proxies.iter().map(|proxy| proxy.switches()).sum();
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

/// Returns the configured backends: number and name.
fn members(backends: &[Backend]) -> Vec<(usize, &str)> {
    let all = backends.iter().enumerate();
    let members = all.filter(|(_, backend)| backend.is_configured);
    members.map(|(number, backend)| (number, backend.name.as_str())).collect()
}

/// An FNV-1a hash over whole words.
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
const ROUTERS_AGAIN: u64 = 6;
/// Maximum number of latencies for which room is allocated in advance.
const ROOM_MAX: usize = 10_000_000;
