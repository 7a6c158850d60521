//! A backend of the lab: a station, its active faults, and its responses to probes.
use std::time::Duration;

use intelliproxy_core::{
    Instant, LoadReport, ProbeAnswer, ProbeFailure, ProbeKind, ProbeResult, Rng,
};

use super::cache::{Cache, Kept};
use super::draw::{Draw, derive};
use super::fault::FaultKind;
use super::group::{BackendGroup, Probes, Reports};
use super::scenario::Scenario;
use super::service::Service;
use super::station::Station;
use intelliproxy_sim::{Fate, Model, RequestKind};

/// A backend in the lab.
#[derive(Debug)]
pub(super) struct Backend {
    pub(super) name: String,
    pub(super) is_configured: bool,
    /// Requests on their way to it.
    pub(super) inbound: usize,
    /// Round trip between a proxy and the backend, ns.
    pub(super) rtt: u64,
    pub(super) station: Station,
    service: Service,
    /// The cache, and the rule for the keys of requests.
    cache: Option<(Kept, Cache)>,
    mean_work: f64,
    own_speed: f64,
    probes: Probes,
    model: Option<Model>,
    faults: Vec<FaultState>,
    condition: Condition,
    /// The condition before the last change. The end of a fault also counts as a change here.
    former: Condition,
    /// The number of changes of the condition so far, not counting ends of faults.
    changes: u32,
}

/// A scripted fault and its state.
#[derive(Debug)]
struct FaultState {
    kind: FaultKind,
    is_active: bool,
    /// The speed factor of the last redraw.
    drawn: f64,
    rng: Rng,
    /// Index of the class that a class-specific fault affects.
    class: usize,
    /// For a rate limit: the number of permitted requests, and the time of that count, ns.
    allowance: (f64, u64),
}

/// The combined effect of the active faults.
#[derive(Clone, Debug)]
struct Condition {
    /// Whether only the speed differs from normal.
    is_faultless: bool,
    speed: f64,
    reach: Reach,
    error_share: f64,
    cut_share: f64,
    slow: Option<(f64, f64)>,
    /// Indices of faults that respond to requests on arrival, without work.
    doors: Vec<usize>,
    /// Classes in which a share of the requests gets 500.
    fails: Vec<(usize, f64)>,
}

impl Default for Condition {
    fn default() -> Self {
        Self {
            is_faultless: true,
            speed: 1.0,
            reach: Reach::Open,
            error_share: 0.0,
            cut_share: 0.0,
            slow: None,
            doors: Vec::new(),
            fails: Vec::new(),
        }
    }
}

/// A request that arrives at a backend.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arriving {
    pub(super) request: u64,
    pub(super) draw: Draw,
    /// The random draws of this attempt.
    pub(super) luck: Draw,
    /// Work, ms. Negative: drawn from the backend's own distribution.
    pub(super) work_ms: f64,
    /// The share of the work after which the station reports the first token.
    pub(super) first_share: f64,
}

/// The fate of new requests. A later variant overrides an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
enum Reach {
    Open,
    Sinkhole { after: f64 },
    Refusing,
    BlackHole,
}

/// The reaction of a backend to a request that arrives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Reception {
    /// The request is served, or waits.
    Accepted,
    /// An immediate response.
    Responded(Response),
    /// A response after some ns.
    RespondedAfter(Response, u64),
    /// No response at all.
    Swallowed,
}

/// The outcome of a request at a backend.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Response {
    /// A good response.
    Good,
    /// A response with any other status.
    Status {
        status: u16,
        /// Its Retry-After, ms; 0 without the field.
        retry_after_ms: u32,
    },
    /// The connection was refused.
    Refused,
    /// The connection was cut.
    Cut,
    /// The head of a stream. The end of the stream is a separate outcome.
    Head,
    /// The first token of a stream.
    First,
}

impl Response {
    /// A status without Retry-After.
    pub(super) const fn status(status: u16) -> Self {
        Self::Status { status, retry_after_ms: 0 }
    }
}

impl Backend {
    pub(super) fn new(scenario: &Scenario, group: usize, name: String, seed: u64) -> Self {
        let spec: &BackendGroup = &scenario.backends[group];
        let service = scenario.service_of(spec).clone();
        let states = spec.faults.iter().enumerate().map(|(index, fault)| FaultState {
            kind: fault.what.clone(),
            is_active: false,
            drawn: 1.0,
            rng: Rng::new(derive(seed, REDRAWS, index as u64)),
            class: match &fault.what {
                FaultKind::Fails { class, .. } => scenario.class_named(class).unwrap_or(0),
                _ => 0,
            },
            allowance: (0.0, 0),
        });
        let parameters = spec.probes.lossy.map(|lossy| lossy.parameters());
        Self {
            name,
            is_configured: false,
            inbound: 0,
            rtt: (spec.rtt_ms.unwrap_or(scenario.rtt_ms) * MS) as u64,
            station: Station::new(
                spec.workers as usize,
                spec.queue as usize,
                spec.sharing,
                spec.speed,
            ),
            cache: scenario.cache.map(|cache| (Kept::new(&cache), cache)),
            mean_work: scenario.mean_ms_at(spec) * MS,
            service,
            own_speed: spec.speed,
            probes: spec.probes.clone(),
            model: parameters.map(|p| Model::new(p, derive(seed, PROBES, 0), Instant::ZERO)),
            faults: states.collect(),
            condition: Condition::default(),
            former: Condition::default(),
            changes: 0,
        }
    }

    /// Handles a request that arrives.
    pub(super) fn receive(&mut self, now: u64, arriving: Arriving) -> Reception {
        match self.condition.reach {
            Reach::BlackHole => Reception::Swallowed,
            Reach::Refusing => Reception::Responded(Response::Refused),
            Reach::Sinkhole { after } => {
                Reception::RespondedAfter(Response::status(500), after as u64)
            }
            Reach::Open => {
                if !self.condition.doors.is_empty()
                    && let Some(answered) = self.respond_at_door(now, arriving.luck)
                {
                    return answered;
                }
                let mut work = self.work(arriving.draw, arriving.work_ms) * arriving.first_share;
                let key = self.cache.as_ref().map(|(_, cache)| cache.key(arriving.draw.key()));
                if let (Some((kept, _)), Some(key)) = (&mut self.cache, key) {
                    work *= kept.factor(key);
                    kept.keep(key);
                }
                if self.station.accept(now, arriving.request, work) {
                    Reception::Accepted
                } else {
                    Reception::Responded(Response::status(503))
                }
            }
        }
    }

    /// Returns the work of a request here, ns: `work_ms`, or a draw if that is negative.
    pub(super) fn work(&self, draw: Draw, work_ms: f64) -> f64 {
        let ms = if work_ms < 0.0 { self.service.quantile_ms(draw.service()) } else { work_ms };
        ms * MS
    }

    /// Returns the response of the first fault that handles this request without work.
    fn respond_at_door(&mut self, now: u64, luck: Draw) -> Option<Reception> {
        for index in &self.condition.doors {
            let fault = &mut self.faults[*index];
            let FaultKind::Answers(door) = &fault.kind else {
                continue;
            };
            if luck.door() >= door.share {
                continue;
            }
            if let Some(rate) = door.above_per_second {
                let (allowed, at) = fault.allowance;
                let allowed = (allowed + (now - at) as f64 / 1e9 * rate).min(rate.max(1.0));
                fault.allowance = (allowed, now);
                if allowed >= 1.0 {
                    fault.allowance.0 -= 1.0;
                    continue;
                }
            }
            let retry_after_ms = door.retry_after_s.map_or(0, |seconds| (seconds * 1e3) as u32);
            let response = Response::Status { status: door.status, retry_after_ms };
            return Some(Reception::RespondedAfter(response, (door.after_ms * MS) as u64));
        }
        None
    }

    /// Ends the process if the fault is a crash. Returns the requests that were in it.
    pub(super) fn crash(&mut self, now: u64, index: usize) -> Vec<u64> {
        let is_crash = self.faults[index].kind == FaultKind::Crash && self.faults[index].is_active;
        if is_crash { self.station.clear(now) } else { Vec::new() }
    }

    /// Returns the response to a request whose service ends now, and its delay, ns; `None` if the
    /// response does not reach the proxy.
    pub(super) fn respond(&self, draw: Draw, class: usize) -> Option<(Response, u64)> {
        let condition = &self.condition;
        if condition.is_faultless {
            return Some((Response::Good, 0));
        }
        if condition.reach == Reach::BlackHole {
            return None;
        }
        let mut error_share = condition.error_share;
        for (_, share) in condition.fails.iter().filter(|(failing, _)| *failing == class) {
            error_share = 1.0 - (1.0 - error_share) * (1.0 - share);
        }
        let is_error = error_share > 0.0 && draw.error() < error_share;
        let is_cut = condition.cut_share > 0.0 && draw.cut() < condition.cut_share;
        let late = condition.slow.filter(|(share, _)| draw.slow() < *share);
        let response = match (is_cut, is_error) {
            (true, _) => Response::Cut,
            (false, true) => Response::status(500),
            (false, false) => Response::Good,
        };
        Some((response, late.map_or(0, |(_, delay)| delay as u64)))
    }

    /// Returns the mean service time without faults, ns.
    pub(super) fn mean_service(&self) -> f64 {
        self.mean_work / self.own_speed
    }

    /// Returns the number of changes of its speed or faults so far. The end of a fault does not
    /// count, because afterwards nothing is unknown.
    pub(super) const fn changes(&self) -> u32 {
        self.changes
    }

    /// Returns whether its process has ended.
    pub(super) fn is_crashed(&self) -> bool {
        let mut active = self.faults.iter().filter(|fault| fault.is_active);
        active.any(|fault| fault.kind == FaultKind::Crash)
    }

    /// Returns whether its responses reach the proxies.
    pub(super) fn is_heard(&self) -> bool {
        self.condition.reach != Reach::BlackHole
    }

    /// Starts or ends a scripted fault.
    pub(super) fn set_fault(&mut self, now: u64, index: usize, is_active: bool) {
        self.faults[index].is_active = is_active;
        self.faults[index].allowance.1 = now;
        self.redraw(index);
        self.apply(now);
        if !is_active {
            self.former = self.condition.clone();
        }
    }

    /// Redraws the speed. Returns false if the fault has ended.
    pub(super) fn redraw_speed(&mut self, now: u64, index: usize) -> bool {
        if self.faults[index].is_active {
            self.redraw(index);
            self.apply(now);
        }
        self.faults[index].is_active
    }

    /// Returns the expected time from arrival to response, ns, for a request sent now, with
    /// failures at `charge`. It uses the true speed, queue and faults.
    pub(super) fn expected(&self, now: u64, charge: f64) -> f64 {
        self.expected_behind(now, self.station.len() + self.inbound, charge)
    }

    /// Returns the expected time of a request with a given number of others ahead of it.
    pub(super) fn expected_behind(&self, now: u64, ahead: usize, charge: f64) -> f64 {
        if self.condition.is_faultless {
            let delay = self.station.expected(ahead, self.mean_work);
            return delay.map_or(charge, |delay| delay.min(charge));
        }
        self.expected_with_faults(now, ahead, charge)
    }

    fn expected_with_faults(&self, now: u64, ahead: usize, charge: f64) -> f64 {
        self.expected_in(&self.condition, now, ahead, charge)
    }

    /// Returns the time that an observer without knowledge of the last change would expect.
    pub(super) fn expected_before(&self, now: u64, ahead: usize, charge: f64) -> f64 {
        self.expected_in(&self.former, now, ahead, charge)
    }

    /// Returns the time that an observer with knowledge of only the backend's size would expect.
    /// `service` is the mean service time, ns.
    pub(super) fn expected_unknown(&self, ahead: usize, service: f64, charge: f64) -> f64 {
        self.station.expected_at(1.0, ahead, service).map_or(charge, |delay| delay.min(charge))
    }

    fn expected_in(&self, condition: &Condition, now: u64, ahead: usize, charge: f64) -> f64 {
        if condition.reach != Reach::Open {
            return charge;
        }
        let speed = self.own_speed * condition.speed;
        let Some(delay) = self.station.expected_at(speed, ahead, self.mean_work) else {
            return charge;
        };
        let late = condition.slow.map_or(0.0, |(share, delay)| share * delay);
        let mut errors = condition.error_share;
        if !condition.doors.is_empty() {
            errors = 1.0 - (1.0 - errors) * (1.0 - self.turned_away(condition, now));
        }
        let cuts = condition.cut_share;
        let errors = if cuts > 0.0 { 1.0 - (1.0 - errors) * (1.0 - cuts) } else { errors };
        ((1.0 - errors) * (delay + late) + errors * charge).min(charge)
    }

    /// Returns the chance that a request which arrives now gets a response without work.
    fn turned_away(&self, condition: &Condition, now: u64) -> f64 {
        let mut passes = 1.0;
        for index in &condition.doors {
            let fault = &self.faults[*index];
            if let FaultKind::Answers(door) = &fault.kind {
                let (allowed, at) = fault.allowance;
                let is_below = door.above_per_second.is_some_and(|rate| {
                    allowed + (now - at) as f64 / 1e9 * rate >= 1.0 + self.inbound as f64
                });
                passes *= if is_below { 1.0 } else { 1.0 - door.share };
            }
        }
        1.0 - passes
    }

    /// Returns the outcome of a probe sent now, and its duration including the round trip, ns;
    /// `None` without a response.
    pub(super) fn probe(&mut self, now: u64, kind: ProbeKind) -> Option<(u64, ProbeResult)> {
        let rtt = self.rtt;
        match (self.condition.reach, kind) {
            (Reach::BlackHole, _) => None,
            (Reach::Refusing, _) => Some((rtt, Err(ProbeFailure::Refused))),
            (Reach::Open | Reach::Sinkhole { .. }, ProbeKind::Ping) => self.ping(now, rtt),
            (Reach::Open | Reach::Sinkhole { .. }, ProbeKind::Report) => {
                Some((rtt, self.report(now, rtt)))
            }
        }
    }

    fn ping(&mut self, now: u64, rtt: u64) -> Option<(u64, ProbeResult)> {
        let mut latency = rtt as f64 + self.probes.work_ms * MS / self.station.speed();
        if self.probes.waits {
            let ahead = self.station.len();
            let one = self.station.expected(0, self.mean_work).unwrap_or(0.0);
            let all = self.station.expected(ahead, self.mean_work).unwrap_or(f64::MAX);
            latency += (all - one).max(0.0);
        }
        let mut failure = None;
        if let Some(model) = &mut self.model {
            match model.request(Instant::from_nanos(now), RequestKind::Ping) {
                Fate::Dropped => return None,
                Fate::Answered(response) => {
                    latency += response.delay.as_nanos() as f64;
                    failure = response.is_error.then_some(ProbeFailure::Status(500));
                }
            }
        }
        if !latency.is_finite() {
            return None;
        }
        let latency = latency as u64;
        let response = ProbeAnswer { latency: Duration::from_nanos(latency), report: None };
        Some((latency, failure.map_or(Ok(response), Err)))
    }

    fn report(&mut self, now: u64, rtt: u64) -> ProbeResult {
        let queue = match &mut self.model {
            Some(model) => {
                model.handle_timeout(Instant::from_nanos(now));
                f64::from(model.queue())
            }
            None => self.station.waiting() as f64,
        };
        let says = self.probes.says;
        let running = (self.probes.reports != Reports::Queue).then(|| self.running() * says);
        let report = LoadReport {
            queue: Some(if running.is_some() { queue * says } else { queue }),
            running,
            cpu_busy_ms: Some(self.station.busy_ms(now)),
            memory_bytes: Some(self.probes.memory_mib * 1_048_576.0),
            ..LoadReport::default()
        };
        Ok(ProbeAnswer { latency: Duration::from_nanos(rtt), report: Some(report) })
    }

    /// Requests in service.
    fn running(&self) -> f64 {
        (self.station.len() - self.station.waiting()) as f64
    }

    /// Returns the load report that the backend sends with a response; `None` if it sends none.
    pub(super) fn said(&self) -> Option<LoadReport> {
        if self.probes.reports != Reports::Responses {
            return None;
        }
        let says = self.probes.says;
        // The request counts until its response has been sent.
        let running = Some((self.running() + 1.0) * says);
        let queue = Some(self.station.waiting() as f64 * says);
        Some(LoadReport { queue, running, ..LoadReport::default() })
    }

    fn redraw(&mut self, index: usize) {
        let fault = &mut self.faults[index];
        if let FaultKind::Redraw { between: [low, high], .. } = fault.kind {
            fault.drawn = low + (high - low) * fault.rng.unit();
        }
    }

    /// Applies the sum of the active faults.
    fn apply(&mut self, now: u64) {
        let mut condition = Condition::default();
        let active = self.faults.iter().enumerate().filter(|(_, fault)| fault.is_active);
        for (index, fault) in active {
            condition.add(index, fault);
            condition.is_faultless &=
                matches!(fault.kind, FaultKind::Speed(_) | FaultKind::Redraw { .. });
        }
        self.station.set_speed(now, self.own_speed * condition.speed);
        self.former = std::mem::replace(&mut self.condition, condition);
        self.changes = self.changes.wrapping_add(1);
    }
}

impl Condition {
    fn add(&mut self, index: usize, fault: &FaultState) {
        let reach = match fault.kind {
            FaultKind::Sinkhole { after_ms } => Reach::Sinkhole { after: after_ms * MS },
            FaultKind::Refusing | FaultKind::Crash => Reach::Refusing,
            FaultKind::BlackHole => Reach::BlackHole,
            FaultKind::Speed(_)
            | FaultKind::Redraw { .. }
            | FaultKind::Errors(_)
            | FaultKind::Cut(_)
            | FaultKind::Fails { .. }
            | FaultKind::Answers(_)
            | FaultKind::Slow { .. } => Reach::Open,
        };
        if reach > self.reach {
            self.reach = reach;
        }
        match fault.kind {
            FaultKind::Speed(factor) => self.speed *= factor,
            FaultKind::Redraw { .. } => self.speed *= fault.drawn,
            FaultKind::Errors(share) => {
                self.error_share = 1.0 - (1.0 - self.error_share) * (1.0 - share);
            }
            FaultKind::Cut(share) => {
                self.cut_share = 1.0 - (1.0 - self.cut_share) * (1.0 - share);
            }
            FaultKind::Fails { share, .. } => self.fails.push((fault.class, share)),
            FaultKind::Answers(_) => self.doors.push(index),
            // If two faults delay responses, the later one in the script applies.
            FaultKind::Slow { share, ms } => self.slow = Some((share, ms * MS)),
            FaultKind::Sinkhole { .. }
            | FaultKind::BlackHole
            | FaultKind::Refusing
            | FaultKind::Crash => {}
        }
    }
}

/// Converts seconds to ns.
pub(super) fn seconds(seconds: f64) -> u64 {
    (seconds * 1e9) as u64
}

/// A millisecond, ns.
pub(super) const MS: f64 = 1e6;

const REDRAWS: u64 = 1;
const PROBES: u64 = 2;
