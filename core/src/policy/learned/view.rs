//! The view of `learned` as plain data.
use std::time::Duration;

use super::{Learned, speed};
use crate::id::BackendId;
use crate::outlier::{Standing, WINDOW_OPEN};
use crate::time::Instant;

/// The figures of a backend that determine the choices of `learned`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LearnedView {
    /// Whether the backend may be used.
    pub state: LearnedStanding,
    /// Requests in flight, without streams whose response head has arrived.
    pub in_flight: u32,
    /// Requests of others at the backend, estimated from its reports; 0 without.
    pub others: u32,
    /// Relative speed, shrunk towards the pool's median by its uncertainty; about 1 at the median.
    pub speed: f64,
    /// The number of completions that the speed averages, approximately.
    pub memory: u32,
    /// Number of requests that it works on at once according to the model, 1 to 96.
    pub width: u32,
    /// Predicted latency of one more request, ms.
    pub latency_ms: f64,
    /// Error share of its last 200 requests or so, 0 to 1.
    pub error_share: f64,
    /// The part of `error_share` that is charged: above the common share and beyond the noise, 0 to
    /// 1.
    pub error_excess: f64,
    /// The cap of requests in flight after a refusal, if there was one.
    pub cap: Option<f64>,
    /// The cost of one more request, ms, computed at the last event of this backend.
    pub cost_ms: f64,
}

/// Whether and how `learned` uses a backend.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LearnedStanding {
    /// In use; only its cost matters.
    Normal,
    /// Completions are overdue: not used until it responds.
    Stalled,
    /// Ejected for its errors.
    Quarantined {
        /// Time until a good ping starts the probation.
        left: Duration,
    },
    /// On probation: one request at a time.
    Probation {
        /// Good responses in a row.
        good: u32,
        /// Good responses needed.
        needed: u32,
    },
    /// New or returned: few requests at a time.
    SlowStart {
        /// Requests in flight allowed. Each good response adds one; after an ejection or outage a
        /// good ping doubles it.
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
            others: unit.others,
            speed: unit.shrunk_speed,
            memory: speed::length(unit.estimate.memory.into()) as u32,
            width: unit.shape.width(),
            latency_ms: unit.latency_at(&self.pool, unit.busy(unit.in_flight).saturating_add(1)),
            error_share: unit.errors.share(),
            error_excess: unit.error_excess(&self.pool),
            cap: unit.restraints.cap,
            cost_ms: unit.cost,
        }
    }
}

/// The state of the live guard.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GuardView {
    /// Whether the learner decides. Otherwise `least_request` does.
    pub is_learner_in_charge: bool,
    /// Time until the learner decides again, if it is demoted.
    pub returns_in: Option<Duration>,
    /// Demotions so far.
    pub demotions: u64,
    /// Control requests compared so far.
    pub controls: u64,
    /// Cost of the learner relative to that of `least_request`, by geometric means; below 1 is a
    /// gain. `None` while there are too few samples.
    pub ratio: Option<f64>,
    /// The 95 % confidence interval of the ratio.
    pub interval: Option<(f64, f64)>,
    /// Progress towards a demotion: 0 far, 1 reached.
    pub alarm: f64,
}
