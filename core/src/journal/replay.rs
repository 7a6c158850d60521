//! Runs a router through a journal and compares the results.
use std::collections::{BTreeMap, VecDeque};

use super::header::Header;
use super::record::{Admission, Entry, Record};
use crate::config::ConfigError;
use crate::event::{Action, Event, Lease, NoRoute, Notice, ProbeKind};
use crate::id::{BackendId, LeaseId, ProbeId};
use crate::router::Router;

/// A router that gets every input of a journal at its recorded time. Every decision is compared
/// with the recorded one.
///
/// The comparison is exact from the first record of the first file to the first gap. After a gap,
/// or from a later file, nothing can be compared, because the router's learned state is unknown.
#[derive(Debug)]
pub struct Replay {
    router: Router,
    leases: BTreeMap<LeaseId, Lease>,
    /// Probes that the router has started and whose records have not been read yet.
    started: VecDeque<(ProbeId, BackendId, ProbeKind)>,
    is_exact: bool,
}

/// The comparison of a record with the router's result.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Step {
    /// An input without a result to compare.
    Fact,
    /// A decision or a probe as recorded.
    Same,
    /// A decision that differs.
    OtherRoute {
        /// The recorded decision.
        recorded: Result<Admission, NoRoute>,
        /// The decision of this router.
        replayed: Result<Admission, NoRoute>,
    },
    /// A probe that differs: number, backend and kind.
    OtherProbe {
        /// The recorded probe.
        recorded: (ProbeId, BackendId, ProbeKind),
        /// The probe of this router; `None` if it started none.
        replayed: Option<(ProbeId, BackendId, ProbeKind)>,
    },
    /// Records are missing before this one, or a lease ended that was never issued. Nothing can be
    /// compared from here.
    Unknown,
}

impl Replay {
    /// A router in the state at the beginning of the recording.
    ///
    /// # Errors
    /// The configuration is invalid for this version.
    pub fn new(header: &Header) -> Result<Self, ConfigError> {
        let router = Router::new(header.config.clone(), header.seed, header.started)?;
        let is_exact = header.part == 0;
        Ok(Self { router, leases: BTreeMap::new(), started: VecDeque::new(), is_exact })
    }

    /// Applies one record. After a difference the router continues with its own decisions. Does
    /// nothing once [`is_exact`](Self::is_exact) is false.
    pub fn apply(&mut self, entry: &Entry) -> Step {
        self.apply_with(entry, |_, _| {})
    }

    /// Like [`apply`](Self::apply), and also passes the router and each of its notices to
    /// `observe`.
    pub fn apply_with(&mut self, entry: &Entry, mut observe: impl FnMut(&Router, &Notice)) -> Step {
        if !self.is_exact {
            return Step::Unknown;
        }
        let now = entry.at;
        let step = match &entry.record {
            Record::TimedOut => {
                self.router.handle_timeout(now);
                Step::Fact
            }
            Record::Routed { asker, key, tried, result } => {
                let routed = self.router.route_keyed(now, tried, *asker, *key);
                let replayed = routed
                    .as_ref()
                    .map_err(|reason| *reason)
                    .map(|lease| Admission { lease: lease.id, backend: lease.backend });
                if let (Ok(lease), Ok(recorded)) = (routed, result) {
                    self.leases.insert(recorded.lease, lease);
                }
                if replayed == *result {
                    Step::Same
                } else {
                    Step::OtherRoute { recorded: *result, replayed }
                }
            }
            Record::ProbeStarted { probe, backend, kind } => {
                let recorded = (*probe, *backend, *kind);
                let replayed = self.started.pop_front();
                if replayed == Some(recorded) {
                    Step::Same
                } else {
                    Step::OtherProbe { recorded, replayed }
                }
            }
            Record::ProbeFinished { probe, result } => {
                self.tell(now, Event::ProbeFinished { probe: *probe, result: result.clone() })
            }
            Record::RequestFinished { lease, outcome } => match self.leases.remove(lease) {
                Some(lease) => self.tell(now, Event::RequestFinished { lease, outcome: *outcome }),
                None => self.lose(),
            },
            Record::StreamOpened { lease, backend, status, latency } => {
                let (lease, backend) = (*lease, *backend);
                let (status, latency) = (*status, *latency);
                self.tell(now, Event::StreamOpened { lease, backend, status, latency })
            }
            Record::LeasePaused { lease, backend } => {
                self.tell(now, Event::LeasePaused { lease: *lease, backend: *backend })
            }
            Record::LeaseResumed { lease, backend } => {
                self.tell(now, Event::LeaseResumed { lease: *lease, backend: *backend })
            }
            Record::LoadReported { backend, report } => {
                self.tell(now, Event::LoadReported { backend: *backend, report: *report })
            }
            Record::Reconfigured(config) => self.tell(now, Event::Reconfigured(config.clone())),
            Record::Restored(state) => match self.router.restore(state) {
                Ok(()) => Step::Fact,
                // The router accepted this state when it was recorded.
                Err(_) => self.lose(),
            },
            Record::Lost { .. } => self.lose(),
            Record::Ended { .. } => Step::Fact,
        };
        while let Some(action) = self.router.poll_action() {
            match action {
                Action::StartProbe { probe, backend, kind, .. } => {
                    self.started.push_back((probe, backend, kind));
                }
                // Effects for observers, which are not recorded.
                Action::Notify(notice) => observe(&self.router, &notice),
            }
        }
        step
    }

    /// Whether all records since the router's start were applied.
    pub const fn is_exact(&self) -> bool {
        self.is_exact
    }

    /// The router between two records.
    pub const fn router(&self) -> &Router {
        &self.router
    }

    /// Returns the router, for experiments. The replay ends.
    pub fn into_router(self) -> Router {
        self.router
    }

    fn tell(&mut self, now: crate::time::Instant, event: Event) -> Step {
        self.router.handle_event(now, event);
        Step::Fact
    }

    const fn lose(&mut self) -> Step {
        self.is_exact = false;
        Step::Unknown
    }
}
