//! A backend of the lab: a station, what is wrong with it now, and how it answers probes.
use std::time::Duration;

use intelliproxy_core::{
    Instant, LoadReport, ProbeAnswer, ProbeFailure, ProbeKind, ProbeResult, Rng,
};

use super::draw::{Draw, derive};
use super::group::{BackendGroup, FaultKind, Probes};
use super::scenario::Scenario;
use super::service::Service;
use super::station::Station;
use crate::model::{Fate, Model, RequestKind};

/// One backend.
#[derive(Debug)]
pub(super) struct Backend {
    pub(super) name: String,
    pub(super) is_configured: bool,
    /// Requests on their way to it.
    pub(super) inbound: usize,
    pub(super) station: Station,
    service: Service,
    mean_work: f64,
    own_speed: f64,
    probes: Probes,
    model: Option<Model>,
    faults: Vec<FaultState>,
    condition: Condition,
}

/// A fault in the script, and where it stands.
#[derive(Debug)]
struct FaultState {
    kind: FaultKind,
    is_active: bool,
    /// The factor last drawn, for a redraw.
    drawn: f64,
    rng: Rng,
}

/// What the active faults come to.
#[derive(Clone, Debug)]
struct Condition {
    speed: f64,
    reach: Reach,
    error_share: f64,
    slow: Option<(f64, f64)>,
}

/// What becomes of a request at the door. The later variant overrules the earlier one.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
enum Reach {
    Open,
    Sinkhole { after: f64 },
    Refusing,
    BlackHole,
}

/// What a backend makes of a request that arrives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Reception {
    /// It is served, or waits.
    Accepted,
    /// It is answered at once.
    Answered(Answer),
    /// It is answered with an error after some ns.
    AnsweredAfter(u64),
    /// Nothing will ever be heard of it.
    Swallowed,
}

/// What comes back from a backend.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Answer {
    /// A good answer.
    Good,
    /// A 5xx of this status.
    Error(u16),
    /// The connection was refused.
    Refused,
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
        });
        let parameters = spec.probes.lossy.map(|lossy| lossy.parameters());
        Self {
            name,
            is_configured: false,
            inbound: 0,
            station: Station::new(
                spec.workers as usize,
                spec.queue as usize,
                spec.sharing,
                spec.speed,
            ),
            mean_work: service.mean_ms() * MS,
            service,
            own_speed: spec.speed,
            probes: spec.probes.clone(),
            model: parameters.map(|p| Model::new(p, derive(seed, PROBES, 0), Instant::ZERO)),
            faults: states.collect(),
            condition: Condition { speed: 1.0, reach: Reach::Open, error_share: 0.0, slow: None },
        }
    }

    /// A request arrives.
    pub(super) fn receive(&mut self, now: u64, request: u64, draw: Draw) -> Reception {
        match self.condition.reach {
            Reach::BlackHole => Reception::Swallowed,
            Reach::Refusing => Reception::Answered(Answer::Refused),
            Reach::Sinkhole { after } => Reception::AnsweredAfter(after as u64),
            Reach::Open => {
                let work = self.service.quantile_ms(draw.service()) * MS;
                if self.station.accept(now, request, work) {
                    Reception::Accepted
                } else {
                    Reception::Answered(Answer::Error(503))
                }
            }
        }
    }

    /// The answer to a request whose service ends now, and by how many ns it leaves late; `None`
    /// when it does not get out.
    pub(super) fn answer(&self, draw: Draw) -> Option<(Answer, u64)> {
        if self.condition.reach == Reach::BlackHole {
            return None;
        }
        let is_error =
            self.condition.error_share > 0.0 && draw.error() < self.condition.error_share;
        let late = self.condition.slow.filter(|(share, _)| draw.slow() < *share);
        let answer = if is_error { Answer::Error(500) } else { Answer::Good };
        Some((answer, late.map_or(0, |(_, delay)| delay as u64)))
    }

    /// A fault of the script starts or ends.
    pub(super) fn set_fault(&mut self, now: u64, index: usize, is_active: bool) {
        self.faults[index].is_active = is_active;
        self.redraw(index);
        self.apply(now);
    }

    /// The speed is drawn anew; false when that fault has ended.
    pub(super) fn redraw_speed(&mut self, now: u64, index: usize) -> bool {
        if self.faults[index].is_active {
            self.redraw(index);
            self.apply(now);
        }
        self.faults[index].is_active
    }

    /// The expected time from arrival to answer, ns, with failures at `charge`, for a request sent
    /// now: by the true speed, queue and faults.
    pub(super) fn expected(&self, charge: f64) -> f64 {
        if self.condition.reach != Reach::Open {
            return charge;
        }
        let ahead = self.station.len() + self.inbound;
        let Some(delay) = self.station.expected(ahead, self.mean_work) else {
            return charge;
        };
        let late = self.condition.slow.map_or(0.0, |(share, delay)| share * delay);
        let errors = self.condition.error_share;
        ((1.0 - errors) * (delay + late) + errors * charge).min(charge)
    }

    /// The end of a probe sent now, and how long it takes, `rtt` in ns included; `None` when there
    /// is no answer.
    pub(super) fn probe(
        &mut self,
        now: u64,
        rtt: u64,
        kind: ProbeKind,
    ) -> Option<(u64, ProbeResult)> {
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
                Fate::Answered(answer) => {
                    latency += answer.delay.as_nanos() as f64;
                    failure = answer.is_error.then_some(ProbeFailure::Status(500));
                }
            }
        }
        if !latency.is_finite() {
            return None;
        }
        let latency = latency as u64;
        let answer = ProbeAnswer { latency: Duration::from_nanos(latency), report: None };
        Some((latency, failure.map_or(Ok(answer), Err)))
    }

    fn report(&mut self, now: u64, rtt: u64) -> ProbeResult {
        let queue = match &mut self.model {
            Some(model) => {
                model.handle_timeout(Instant::from_nanos(now));
                f64::from(model.queue())
            }
            None => self.station.waiting() as f64,
        };
        let report = LoadReport {
            queue: Some(queue),
            cpu_busy_ms: Some(self.station.busy_ms(now)),
            memory_bytes: Some(self.probes.memory_mib * 1_048_576.0),
        };
        Ok(ProbeAnswer { latency: Duration::from_nanos(rtt), report: Some(report) })
    }

    fn redraw(&mut self, index: usize) {
        let fault = &mut self.faults[index];
        if let FaultKind::Redraw { between: [low, high], .. } = fault.kind {
            fault.drawn = low + (high - low) * fault.rng.unit();
        }
    }

    /// Takes up what the active faults come to.
    fn apply(&mut self, now: u64) {
        let mut condition =
            Condition { speed: 1.0, reach: Reach::Open, error_share: 0.0, slow: None };
        for fault in self.faults.iter().filter(|fault| fault.is_active) {
            condition.add(fault);
        }
        self.station.set_speed(now, self.own_speed * condition.speed);
        self.condition = condition;
    }
}

impl Condition {
    fn add(&mut self, fault: &FaultState) {
        let reach = match fault.kind {
            FaultKind::Sinkhole { after_ms } => Reach::Sinkhole { after: after_ms * MS },
            FaultKind::Refusing => Reach::Refusing,
            FaultKind::BlackHole => Reach::BlackHole,
            FaultKind::Speed(_)
            | FaultKind::Redraw { .. }
            | FaultKind::Errors(_)
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
            // Of two kinds of slowness the one that starts later in the script holds.
            FaultKind::Slow { share, ms } => self.slow = Some((share, ms * MS)),
            FaultKind::Sinkhole { .. } | FaultKind::BlackHole | FaultKind::Refusing => {}
        }
    }
}

/// Seconds as ns.
pub(super) fn seconds(seconds: f64) -> u64 {
    (seconds * 1e9) as u64
}

/// A millisecond in ns.
pub(super) const MS: f64 = 1e6;

const REDRAWS: u64 = 1;
const PROBES: u64 = 2;
