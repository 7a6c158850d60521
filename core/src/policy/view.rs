//! A policy's own reason for or against a backend, as plain data.

/// What a policy sees in one backend; which variant there is tells the policy.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum PolicyView {
    /// `score`: least is best.
    Score {
        /// The score, in points.
        points: f64,
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
    /// `round_robin`: by turns.
    RoundRobin {
        /// Whether the last request went there.
        was_last: bool,
    },
    /// `random`: no reason.
    Random,
}
