//! What `learned` shows of itself, as plain data.
use std::time::Duration;

/// What `learned` knows of a backend: the whole reason for its decisions.
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
    /// What of it is above the pool's and beyond the noise: this much is charged.
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

/// How the live guard stands.
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
    /// Where the ratio lies with 95 % confidence.
    pub interval: Option<(f64, f64)>,
    /// How near a demotion is: 0 far, 1 there.
    pub alarm: f64,
}
