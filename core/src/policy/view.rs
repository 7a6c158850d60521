//! A policy's own reason for or against a backend, as plain data.
use std::time::Duration;

/// What a policy sees in one backend; which variant there is tells the policy.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum PolicyView {
    /// `score`: least is best.
    Score {
        /// The score, in points.
        points: f64,
        /// Requests in flight from which on it is full: single requests then go past it. `None`
        /// with spill-over off.
        full_at: Option<u32>,
        /// Requests that came here past a full current backend.
        spills: u64,
    },
    /// `least_request`: least is best.
    LeastRequest {
        /// Requests in flight.
        in_flight: u32,
    },
    /// `p2c`: the less of two that are drawn.
    P2c {
        /// Requests in flight.
        in_flight: u32,
    },
    /// `peak_ewma`: the lesser load of two that are drawn.
    PeakEwma {
        /// The decaying peak of answer times, ms; `None` before the first.
        cost_ms: Option<f64>,
        /// `cost_ms · (in flight + 1)`.
        load: f64,
    },
    /// `prequal`: the cold one with the least latency.
    Prequal {
        /// Probes of it in the pool.
        probes: u32,
        /// Requests in flight by the latest one, reported queue included.
        in_flight: f64,
        /// Recent latency by the latest one, ms.
        latency_ms: Option<f64>,
        /// Whether the latest one is above the pool's quantile of in flight.
        is_hot: bool,
    },
    /// `linear_rl`: the highest value.
    LinearRl {
        /// The weights times the features.
        value: f64,
        /// Latency, loss, errors, in flight, queue, CPU, memory, and 1.
        features: [f64; 8],
        /// The weights, the same for all backends.
        weights: [f64; 8],
    },
    /// `round_robin`: by turns.
    RoundRobin {
        /// Whether the last request went there.
        was_last: bool,
    },
    /// `random`: no reason.
    Random,
    /// `learned`: the least cost of those whose state allows.
    Learned(LearnedView),
}

/// What `learned` knows of a backend: the whole reason for its decisions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LearnedView {
    /// Whether it may be used.
    pub state: LearnedState,
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
pub enum LearnedState {
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
