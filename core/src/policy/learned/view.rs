//! The view of `learned`, as plain data.
use std::time::Duration;

use super::{Learned, speed};
use crate::id::BackendId;
use crate::outlier::{Standing, WINDOW_OPEN};
use crate::time::Instant;

/// Facts of `learned` about a backend: the whole reason for its decisions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LearnedView {
    /// Whether it may be used.
    pub state: LearnedStanding,
    /// Requests in flight that tell something: streams do not after their heads.
    pub in_flight: u32,
    /// Relative speed; 1 is about the pool's median.
    pub speed: f64,
    /// Completions that the speed is an average of, about.
    pub memory: u32,
    /// Predicted latency of one more request, ms.
    pub latency_ms: f64,
    /// Share of errors among its last 200 requests or so.
    pub error_share: f64,
    /// Part of it above the pool's and beyond the noise, which is charged.
    pub error_excess: f64,
    /// Requests in flight at which it refuses, if it did.
    pub cap: Option<f64>,
    /// The cost of one more request, ms, as of the last event that touched this backend.
    pub cost_ms: f64,
}

/// Whether `learned` uses a backend.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LearnedStanding {
    /// As the model says.
    Normal,
    /// Completions are overdue: not used until the next one.
    Stalled,
    /// Too many errors: not used.
    Quarantined {
        /// Time until a good ping begins probation.
        left: Duration,
    },
    /// One request at a time.
    Probation {
        /// Good answers in a row.
        good: u32,
        /// Good answers wanted.
        needed: u32,
    },
    /// New or back: few requests at a time.
    SlowStart {
        /// Requests in flight allowed; grows by one a good answer.
        window: u32,
    },
}

impl Learned {
    /// Returns the facts about a backend.
    pub(super) fn view_of(&self, now: Instant, id: BackendId) -> LearnedView {
        let unit = &self.units[id.index()];
        let state = match unit.restraints.watch.standing {
            Standing::Ejected { until } => LearnedStanding::Quarantined { left: until - now },
            Standing::Probation { good, needed, .. } => LearnedStanding::Probation { good, needed },
            Standing::In if unit.restraints.is_stalled => LearnedStanding::Stalled,
            Standing::In if unit.restraints.watch.window < WINDOW_OPEN => {
                LearnedStanding::SlowStart { window: unit.restraints.watch.window }
            }
            Standing::In => LearnedStanding::Normal,
        };
        LearnedView {
            state,
            in_flight: unit.in_flight,
            speed: unit.shrunk_speed,
            memory: speed::length(unit.estimate.memory.into()) as u32,
            latency_ms: unit.latency_at(&self.pool, unit.in_flight.saturating_add(1)),
            error_share: unit.errors.share(),
            error_excess: unit.error_excess(&self.pool),
            cap: unit.restraints.cap,
            cost_ms: unit.cost,
        }
    }
}

/// State of the live guard.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GuardView {
    /// Whether the learner decides; else `least_request` does.
    pub is_learner_in_charge: bool,
    /// When the learner is tried again, if it was demoted.
    pub returns_in: Option<Duration>,
    /// Demotions so far.
    pub demotions: u64,
    /// Control requests compared so far.
    pub controls: u64,
    /// Cost of the learner over that of `least_request`, by their geometric means: below 1 is a
    /// gain. `None` before there are samples to tell.
    pub ratio: Option<f64>,
    /// Interval of the ratio with 95 % confidence.
    pub interval: Option<(f64, f64)>,
    /// Nearness of a demotion: 0 far, 1 reached.
    pub alarm: f64,
}
