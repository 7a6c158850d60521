//! Another router with the same inputs: its decision at each recorded request.
//!
//! The shadow decides on every recorded request and then gets the recorded result: the request is
//! counted for its real backend, with its real outcome. Its view of the backends is therefore
//! always the recorded one. Only its own state (the current backend, the draws and counts of its
//! policy) follows its own decisions.
//!
//! The effects of its own decisions are not visible: a backend that gets more requests would also
//! get slower.
use std::collections::{BTreeMap, BTreeSet};

use super::record::{Admission, Entry, Record};
use crate::affinity::AffinityKey;
use crate::blame::Asker;
use crate::config::{ConfigError, RouterConfig, Rules};
use crate::event::{Action, Event, Lease, LoadReport, NoRoute, Outcome, ProbeKind, ProbeResult};
use crate::id::{BackendId, LeaseId, ProbeId};
use crate::probe::LineId;
use crate::router::Router;
use crate::time::Instant;

/// A router with its own rules that decides on each request of a journal.
#[derive(Debug)]
pub struct Shadow {
    router: Router,
    /// Rules that replace the recorded ones, even after a recorded reconfiguration.
    rules: Rules,
    leases: BTreeMap<LeaseId, Lease>,
    /// Recorded probes that are outstanding.
    recorded: BTreeMap<ProbeId, (BackendId, ProbeKind)>,
    /// Recorded lines (backend and kind of probe) with an outstanding probe.
    lines_out: BTreeSet<LineId>,
    /// The last recorded result of each line.
    results: BTreeMap<LineId, ProbeResult>,
    /// The shadow's own outstanding probes and the times of their starts.
    waiting: BTreeMap<LineId, (ProbeId, Instant)>,
    /// A reused list of all backends but one.
    others: Vec<BackendId>,
}

/// Decision of the shadow for a recorded request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Choice {
    /// The recorded decision.
    pub recorded: Result<Admission, NoRoute>,
    /// The shadow's decision.
    pub chosen: Result<BackendId, NoRoute>,
    /// Whether it was a first attempt.
    pub is_first: bool,
}

impl Shadow {
    /// A shadow with these backends and rules.
    ///
    /// # Errors
    /// The first invalid value of the configuration.
    pub fn new(config: RouterConfig, seed: u64, now: Instant) -> Result<Self, ConfigError> {
        let rules = config.rules.clone();
        Ok(Self {
            router: Router::new(config, seed, now)?,
            rules,
            leases: BTreeMap::new(),
            recorded: BTreeMap::new(),
            lines_out: BTreeSet::new(),
            results: BTreeMap::new(),
            waiting: BTreeMap::new(),
            others: Vec::new(),
        })
    }

    /// Applies one record. Returns the shadow's choice if it is a request.
    pub fn apply(&mut self, entry: &Entry) -> Option<Choice> {
        let now = entry.at;
        if self.router.poll_timeout().is_some_and(|at| at <= now) {
            self.router.handle_timeout(now);
            self.drain(now);
        }
        // Before the record, so that a decision sees the results that have arrived until now.
        self.answer_waiting(now);
        let mut choice = None;
        match &entry.record {
            Record::TimedOut | Record::Ended { .. } => {}
            Record::Routed { asker, key, tried, result } => {
                choice = Some(self.route(now, tried, *asker, *key, *result));
            }
            Record::ProbeStarted { probe, backend, kind } => {
                self.recorded.insert(*probe, (*backend, *kind));
                self.lines_out.insert(LineId { backend: *backend, kind: *kind });
            }
            Record::ProbeFinished { probe, result } => self.probe_finished(now, *probe, result),
            Record::RequestFinished { lease, outcome } => {
                if let Some(lease) = self.leases.remove(lease) {
                    let event = Event::RequestFinished { lease, outcome: *outcome };
                    self.router.handle_event(now, event);
                }
            }
            Record::StreamOpened { lease, backend, status, latency } => {
                // The shadow numbers its own leases.
                if let Some(lease) = self.leases.get(lease).map(Lease::id) {
                    let (backend, status, latency) = (*backend, *status, *latency);
                    let event = Event::StreamOpened { lease, backend, status, latency };
                    self.router.handle_event(now, event);
                }
            }
            Record::LeasePaused { lease, backend } => {
                if let Some(lease) = self.leases.get(lease).map(Lease::id) {
                    let event = Event::LeasePaused { lease, backend: *backend };
                    self.router.handle_event(now, event);
                }
            }
            Record::LeaseResumed { lease, backend } => {
                if let Some(lease) = self.leases.get(lease).map(Lease::id) {
                    let event = Event::LeaseResumed { lease, backend: *backend };
                    self.router.handle_event(now, event);
                }
            }
            Record::LoadReported { backend, report } => self.load_reported(now, *backend, *report),
            Record::Reconfigured(config) => {
                let rules = self.rules.clone();
                let config = RouterConfig { backends: config.backends.clone(), rules };
                self.router.handle_event(now, Event::Reconfigured(Box::new(config)));
            }
            // A state of another policy is refused: the shadow's policy then starts empty.
            Record::Restored(state) => drop(self.router.restore(state)),
            Record::Lost { .. } => self.forget(now),
        }
        self.drain(now);
        choice
    }

    /// The router between two records.
    pub const fn router(&self) -> &Router {
        &self.router
    }

    /// Returns the router, for experiments. The shadow ends.
    pub fn into_router(self) -> Router {
        self.router
    }

    /// Decides, then sends the request to its real backend.
    fn route(
        &mut self,
        now: Instant,
        tried: &[BackendId],
        asker: Asker,
        key: Option<AffinityKey>,
        recorded: Result<Admission, NoRoute>,
    ) -> Choice {
        // Keys count only if the shadow's rules have affinity.
        let key = key.filter(|_| self.rules.affinity.by.is_some());
        let lease = self.router.route_keyed(now, tried, asker, key);
        let chosen = lease.as_ref().map(|lease| lease.backend).map_err(|reason| *reason);
        let admission = recorded.ok();
        match (lease, admission) {
            (Ok(lease), Some(admission)) if lease.backend == admission.backend => {
                self.leases.insert(admission.lease, lease);
            }
            (lease, admission) => {
                if let Ok(lease) = lease {
                    // Only the decision is wanted. Policies learn nothing from abandoned requests.
                    let outcome = Outcome::Abandoned;
                    self.router.handle_event(now, Event::RequestFinished { lease, outcome });
                }
                if let Some(admission) = admission {
                    self.admit(now, admission, asker);
                }
            }
        }
        Choice { recorded, chosen, is_first: tried.is_empty() }
    }

    /// Sends a request to one backend by passing all others as tried.
    fn admit(&mut self, now: Instant, to: Admission, asker: Asker) {
        self.others.clear();
        self.others.extend(self.router.configured().iter().filter(|id| **id != to.backend));
        if let Ok(lease) = self.router.route_for(now, &self.others, asker) {
            self.leases.insert(to.lease, lease);
        }
    }

    /// Ends the shadow's own probe of the same line together with a recorded probe.
    fn probe_finished(&mut self, now: Instant, probe: ProbeId, result: &ProbeResult) {
        let Some((backend, kind)) = self.recorded.remove(&probe) else {
            return;
        };
        let line = LineId { backend, kind };
        self.lines_out.remove(&line);
        self.results.insert(line, result.clone());
        if let Some((probe, _)) = self.waiting.remove(&line) {
            let event = Event::ProbeFinished { probe, result: result.clone() };
            self.router.handle_event(now, event);
        } else if let (ProbeKind::Report, Ok(answer)) = (kind, result)
            && let Some(report) = answer.report
        {
            self.load_reported(now, backend, report);
        }
    }

    fn load_reported(&mut self, now: Instant, backend: BackendId, report: LoadReport) {
        self.router.handle_event(now, Event::LoadReported { backend, report });
    }

    /// Ends probes that have no recorded counterpart at this time, with the last recorded result of
    /// their line. Other probes end with their recorded counterpart.
    fn answer_waiting(&mut self, now: Instant) {
        let ready = |(line, (_, since)): (&LineId, &(ProbeId, Instant))| {
            let is_ready = *since < now && !self.lines_out.contains(line);
            (is_ready && self.results.contains_key(line)).then_some(*line)
        };
        let ready: Vec<_> = self.waiting.iter().filter_map(ready).collect();
        for line in ready {
            if let (Some((probe, _)), Some(result)) =
                (self.waiting.remove(&line), self.results.get(&line))
            {
                let event = Event::ProbeFinished { probe, result: result.clone() };
                self.router.handle_event(now, event);
            }
        }
    }

    fn drain(&mut self, now: Instant) {
        while let Some(action) = self.router.poll_action() {
            if let Action::StartProbe { probe, backend, kind, .. } = action {
                self.waiting.insert(LineId { backend, kind }, (probe, now));
            }
        }
    }

    /// Forgets all open requests and probes, which are unknown after a gap.
    fn forget(&mut self, now: Instant) {
        for (_, lease) in std::mem::take(&mut self.leases) {
            let outcome = Outcome::Abandoned;
            self.router.handle_event(now, Event::RequestFinished { lease, outcome });
        }
        self.recorded.clear();
        self.lines_out.clear();
    }
}
