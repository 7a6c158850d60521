//! The score of a backend: points by factor and their sum. The lowest sum is best.
//!
//! ```text
//! latency · latencyEwma(ms)  + loss · min(lossEwma, 0.98)       + errors · errorRate(%)
//! + inFlight · inFlight      + queue · tanh(queueEwma / 50)     + cpu · tanh(cpuBusyMs / 100)
//! + memory · tanh(memory / 200 MiB)
//! ```
//! A backend that reports its pressure, from 0 to 1, and no CPU time has `cpu · pressure` instead.
//!
//! The words before the dots are [`Weights`]. An unknown latency counts as 10 000 ms; other
//! unknown factors count as 0. All points are finite and not negative.
use crate::config::Weights;

/// A backend's score: the points of each factor and their sum.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ScoreParts {
    /// Points of the pings' latency average.
    pub latency: f64,
    /// Points of lost pings.
    pub loss: f64,
    /// Points of the recent requests' error rate.
    pub errors: f64,
    /// Points of requests in flight.
    pub in_flight: f64,
    /// Points of the reported queue's average.
    pub queue: f64,
    /// Points of the reported CPU busy time, or of the reported pressure without it.
    pub cpu: f64,
    /// Points of the reported memory.
    pub memory: f64,
    /// The score: exactly the sum of the others, added from first to last.
    pub total: f64,
}

/// One of the factors that make a score.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Factor {
    /// The pings' latency average.
    Latency,
    /// Lost pings.
    Loss,
    /// The recent requests' error rate.
    Errors,
    /// Requests in flight.
    InFlight,
    /// The reported queue.
    Queue,
    /// The reported CPU busy time, or the reported pressure without it.
    Cpu,
    /// The reported memory.
    Memory,
}

impl ScoreParts {
    /// The factors and their points, in the order in which they are added.
    pub const fn parts(&self) -> [(Factor, f64); 7] {
        [
            (Factor::Latency, self.latency),
            (Factor::Loss, self.loss),
            (Factor::Errors, self.errors),
            (Factor::InFlight, self.in_flight),
            (Factor::Queue, self.queue),
            (Factor::Cpu, self.cpu),
            (Factor::Memory, self.memory),
        ]
    }

    /// The sum of the parts. The caller stores it in [`total`](Self::total).
    pub(crate) fn sum(&self) -> f64 {
        // The sum starts at 0.0, so that parts of −0.0 (from a weight of −0) do not give a total of
        // −0.0.
        self.parts().iter().fold(0.0, |sum, (_, points)| sum + points)
    }
}

impl Factor {
    /// The name of the weight in the configuration file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Latency => "latency",
            Self::Loss => "loss",
            Self::Errors => "errors",
            Self::InFlight => "inFlight",
            Self::Queue => "queue",
            Self::Cpu => "cpu",
            Self::Memory => "memory",
        }
    }
}

impl Weights {
    /// Points of a latency average in ms; an unknown one counts as 10 000 ms.
    pub(crate) fn latency_points(&self, ewma_ms: Option<f64>) -> f64 {
        self.latency * ewma_ms.unwrap_or(LATENCY_UNKNOWN_MS)
    }

    /// Points of a loss average; 0 until it counts.
    pub(crate) fn loss_points(&self, ewma: Option<f64>) -> f64 {
        self.loss * ewma.unwrap_or(0.0).min(LOSS_MAX)
    }

    /// Points of an error rate from 0 to 1.
    pub(crate) fn error_points(&self, rate: f64) -> f64 {
        self.errors * (100.0 * rate)
    }

    /// Points of requests in flight.
    pub(crate) fn in_flight_points(&self, in_flight: u32) -> f64 {
        self.in_flight * f64::from(in_flight)
    }

    /// Points of a queue average.
    pub(crate) fn queue_points(&self, ewma: Option<f64>) -> f64 {
        self.queue * libm::tanh(ewma.unwrap_or(0.0) / QUEUE_SCALE)
    }

    /// Points of a CPU busy time in ms.
    pub(crate) fn cpu_points(&self, busy_ms: Option<f64>) -> f64 {
        self.cpu * libm::tanh(busy_ms.unwrap_or(0.0) / CPU_SCALE_MS)
    }

    /// Points of a pressure from 0 to 1, for a backend that reports no CPU busy time.
    pub(crate) fn pressure_points(&self, pressure: f64) -> f64 {
        self.cpu * pressure
    }

    /// Points of memory in bytes.
    pub(crate) fn memory_points(&self, bytes: Option<f64>) -> f64 {
        self.memory * libm::tanh(bytes.unwrap_or(0.0) / MEMORY_SCALE_BYTES)
    }
}

// The scales and bounds are the product's specification; only the weights are configurable.
const LATENCY_UNKNOWN_MS: f64 = 10_000.0;
const LOSS_MAX: f64 = 0.98;
const QUEUE_SCALE: f64 = 50.0;
/// The largest reported queue that enters the average. At five times the scale, tanh is within 0.01
/// % of 1. A larger value would add hardly any points and would only take longer to fade.
pub(crate) const QUEUE_SAMPLE_MAX: f64 = 5.0 * QUEUE_SCALE;
const CPU_SCALE_MS: f64 = 100.0;
const MEMORY_SCALE_BYTES: f64 = 200.0 * 1024.0 * 1024.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn assert_points(actual: f64, expected: f64) {
        assert!((actual - expected).abs() < 1e-9, "{actual} points instead of {expected}");
    }

    /// Points by hand with the default weights; tanh(1) = 0.761594155956.
    #[test]
    fn points_by_hand() {
        let weights = Weights::default();
        assert_points(weights.latency_points(Some(42.5)), 42.5);
        assert_points(weights.latency_points(None), 10_000.0);
        assert_points(weights.loss_points(Some(0.2)), 16.0);
        assert_points(weights.loss_points(Some(1.0)), 78.4);
        assert_points(weights.loss_points(None), 0.0);
        assert_points(weights.error_points(0.05), 200.0);
        assert_points(weights.in_flight_points(15), 30.0);
        assert_points(weights.queue_points(Some(50.0)), 12.0 * 0.761_594_155_956);
        assert_points(weights.queue_points(None), 0.0);
        assert_points(weights.cpu_points(Some(100.0)), 30.0 * 0.761_594_155_956);
        assert_points(weights.memory_points(Some(209_715_200.0)), 12.0 * 0.761_594_155_956);
        assert_points(weights.memory_points(Some(f64::MAX)), 12.0);
    }

    /// The total is the sum of the parts in their order, bit for bit, and contains every factor.
    #[test]
    fn the_parts_make_the_sum() {
        let mut parts = ScoreParts {
            latency: 0.1,
            loss: 0.2,
            errors: 0.3,
            in_flight: 0.4,
            queue: 0.5,
            cpu: 0.6,
            memory: 0.7,
            total: 0.0,
        };
        parts.total = parts.sum();
        assert_eq!(parts.total, 0.1 + 0.2 + 0.3 + 0.4 + 0.5 + 0.6 + 0.7);
        let named: Vec<_> = parts.parts().iter().map(|(factor, _)| factor.name()).collect();
        assert_eq!(named, ["latency", "loss", "errors", "inFlight", "queue", "cpu", "memory"]);
    }
}
