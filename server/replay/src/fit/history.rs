//! The history of each backend, request by request.
use std::collections::BTreeMap;
use std::ops::ControlFlow;

use intelliproxy_core::journal::Record;
use intelliproxy_core::{Instant, LeaseId, Outcome, ProbeFailure, ProbeKind, RequestFailure};

use super::super::recording::Recording;
use super::super::text::quantile;

/// One request at one backend. Times are seconds since the recording's start.
#[derive(Clone, Copy, Debug)]
pub(super) struct Visit {
    pub(super) at_s: f64,
    pub(super) end_s: f64,
    /// Requests in flight at the backend before it.
    pub(super) in_flight: u32,
    /// Time to the response's head; 0 without a response.
    pub(super) latency_ms: f64,
    pub(super) ending: Ending,
}

/// The outcome of a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Ending {
    Good,
    Error,
    Refused,
    TimedOut,
    /// The outcome shows nothing about the backend.
    Silent,
}

/// The events at one backend.
#[derive(Clone, Debug, Default)]
pub(super) struct BackendHistory {
    /// In the order of their ends.
    pub(super) visits: Vec<Visit>,
    /// Latencies of successful pings.
    pub(super) pings_ms: Vec<f64>,
    /// Events that show whether it accepted connections.
    pub(super) contacts: Vec<Contact>,
}

/// A connection that a backend refused, or a response, which shows that it accepted one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Contact {
    pub(super) at_s: f64,
    pub(super) is_refused: bool,
}

/// The events at all backends.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    pub(super) backends: Vec<BackendHistory>,
    /// Times at which requests arrived, s, without retries.
    pub(super) arrivals: Vec<f64>,
    pub(super) seconds: f64,
}

impl Visit {
    pub(super) fn is_good(&self) -> bool {
        self.ending == Ending::Good
    }

    pub(super) fn is_error(&self) -> bool {
        matches!(self.ending, Ending::Error | Ending::TimedOut)
    }
}

impl History {
    /// Reads a recording. Returns the history and the damage found.
    pub(super) fn read(recording: &Recording<'_>) -> (Self, Vec<String>) {
        let header = recording.header();
        let count = header.config.backends.len();
        let mut history =
            Self { backends: vec![BackendHistory::default(); count], ..Self::default() };
        let mut open: BTreeMap<LeaseId, (usize, f64, u32)> = BTreeMap::new();
        let mut in_flight = vec![0_u32; count];
        let mut probes = BTreeMap::new();
        let seconds = |at: Instant| at.since(header.started).as_secs_f64();
        let wrong = recording.each(|entry| {
            let now = seconds(entry.at);
            history.seconds = history.seconds.max(now);
            match &entry.record {
                Record::Routed { tried, result, .. } => {
                    if tried.is_empty() {
                        history.arrivals.push(now);
                    }
                    if let Ok(to) = result
                        && to.backend.generation() == 0
                        && let Some(count) = in_flight.get_mut(to.backend.index())
                    {
                        open.insert(to.lease, (to.backend.index(), now, *count));
                        *count += 1;
                    }
                }
                Record::RequestFinished { lease, outcome } => {
                    if let Some((backend, at_s, before)) = open.remove(lease) {
                        in_flight[backend] -= 1;
                        history.backends[backend].end(at_s, now, before, outcome);
                    }
                }
                Record::ProbeStarted { probe, backend, kind } if backend.generation() == 0 => {
                    probes.insert(*probe, (backend.index(), *kind));
                }
                Record::ProbeFinished { probe, result } => {
                    let Some((backend, kind)) = probes.remove(probe) else {
                        return ControlFlow::Continue(());
                    };
                    let Some(history) = history.backends.get_mut(backend) else {
                        return ControlFlow::Continue(());
                    };
                    match result {
                        Ok(answer) => {
                            if kind == ProbeKind::Ping {
                                history.pings_ms.push(answer.latency.as_secs_f64() * 1e3);
                            }
                            history.contacts.push(Contact { at_s: now, is_refused: false });
                        }
                        Err(ProbeFailure::Refused) => {
                            history.contacts.push(Contact { at_s: now, is_refused: true })
                        }
                        Err(_) => {}
                    }
                }
                Record::Lost { .. } => {
                    open.clear();
                    in_flight.fill(0);
                }
                _ => {}
            }
            ControlFlow::Continue(())
        });
        (history, wrong)
    }

    /// Returns all good responses.
    pub(super) fn good(&self) -> impl Iterator<Item = &Visit> {
        self.backends.iter().flat_map(|backend| &backend.visits).filter(|visit| visit.is_good())
    }

    /// Returns the time after which requests were given up, if any were, in ms.
    pub(super) fn timeout_ms(&self) -> Option<f64> {
        let visits = self.backends.iter().flat_map(|backend| &backend.visits);
        let given_up = visits.filter(|visit| visit.ending == Ending::TimedOut);
        let mut times: Vec<f64> = given_up.map(|visit| 1e3 * (visit.end_s - visit.at_s)).collect();
        times.sort_by(f64::total_cmp);
        quantile(&times, 0.5)
    }
}

impl BackendHistory {
    fn end(&mut self, at_s: f64, end_s: f64, in_flight: u32, outcome: &Outcome) {
        let latency_ms = match outcome {
            Outcome::Answered { latency, .. } => latency.as_secs_f64() * 1e3,
            Outcome::Refused { .. } | Outcome::Failed(_) | Outcome::Abandoned => 0.0,
        };
        let ending = match outcome {
            Outcome::Answered { status: 500.., .. } => Ending::Error,
            Outcome::Answered { .. } => Ending::Good,
            Outcome::Failed(RequestFailure::Refused) => Ending::Refused,
            Outcome::Failed(RequestFailure::TimedOut | RequestFailure::Unreachable) => {
                Ending::TimedOut
            }
            Outcome::Refused { .. } | Outcome::Failed(_) => Ending::Error,
            Outcome::Abandoned => Ending::Silent,
        };
        match ending {
            Ending::Refused => self.contacts.push(Contact { at_s: end_s, is_refused: true }),
            Ending::Good => self.contacts.push(Contact { at_s: end_s, is_refused: false }),
            Ending::Error | Ending::TimedOut | Ending::Silent => {}
        }
        self.visits.push(Visit { at_s, end_s, in_flight, latency_ms, ending });
    }
}
