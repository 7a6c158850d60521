//! The arrival times of requests, and the random draws of each one.
use std::sync::Arc;

use intelliproxy_core::Rng;

use super::draw::Draw;
use super::scenario::{Bursts, Scenario};

/// The requests of a run in order of time: endless without a trace.
///
/// They depend only on the scenario and the seed, not on a policy's decisions.
#[derive(Debug)]
pub(super) struct Arrivals {
    rng: Rng,
    /// Requests per nanosecond.
    base_rate: f64,
    bursts: Option<Bursts>,
    is_high: bool,
    /// End of the current state of the bursts, ns.
    burst_ends_at: f64,
    /// Steps of the rate: start, ns, and factor.
    steps: Vec<(f64, f64)>,
    /// Index of the current step.
    step: usize,
    /// Current time, ns.
    now: f64,
    trace: Option<Recorded>,
}

/// A trace that is being played.
#[derive(Debug)]
struct Recorded {
    rows: Arc<[(f64, f64)]>,
    next: usize,
    /// Nanoseconds of the run per second of the trace.
    stretch: f64,
}

/// One request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    /// Arrival time, ns.
    pub(super) at: u64,
    pub(super) draw: Draw,
    /// The work from the trace, ms. Negative without a trace: the work is drawn.
    pub(super) work_ms: f64,
}

impl Arrivals {
    pub(super) fn new(scenario: &Scenario, seed: u64) -> Self {
        let mut arrivals = Self {
            rng: Rng::new(seed),
            base_rate: scenario.base_rate() / 1e9,
            bursts: scenario.arrivals.bursts,
            is_high: true,
            burst_ends_at: f64::INFINITY,
            steps: steps(scenario),
            step: 0,
            now: 0.0,
            trace: scenario.arrivals.trace.as_ref().map(|trace| Recorded {
                rows: trace.rows().clone(),
                next: 0,
                stretch: 1e9 * trace.rate() / scenario.base_rate(),
            }),
        };
        if arrivals.bursts.is_some() {
            arrivals.turn_burst();
        }
        arrivals
    }

    /// Ends the current state of the bursts and draws the length of the next.
    fn turn_burst(&mut self) {
        let Some(bursts) = self.bursts else {
            return;
        };
        self.is_high = !self.is_high;
        self.burst_ends_at = self.now + bursts.mean_ms * 1e6 * exponential(&mut self.rng);
    }

    /// Returns the current rate, in requests per nanosecond.
    fn rate(&self) -> f64 {
        let burst = self.bursts.map_or(1.0, |b| if self.is_high { b.high } else { b.low });
        self.base_rate * burst * self.steps[self.step].1
    }

    fn next_recorded(&mut self) -> Option<Arrival> {
        let trace = self.trace.as_mut()?;
        let (seconds, work_ms) = *trace.rows.get(trace.next)?;
        trace.next += 1;
        let at = (seconds * trace.stretch) as u64;
        Some(Arrival { at, draw: Draw::new(self.rng.next_u64()), work_ms })
    }

    /// Returns the time of the next change of the rate.
    fn rate_changes_at(&self) -> f64 {
        let step = self.steps.get(self.step + 1).map_or(f64::INFINITY, |step| step.0);
        step.min(self.burst_ends_at)
    }
}

impl Iterator for Arrivals {
    type Item = Arrival;

    fn next(&mut self) -> Option<Arrival> {
        if self.trace.is_some() {
            return self.next_recorded();
        }
        // In units of the mean gap, so that it does not depend on the rate.
        let mut gap = exponential(&mut self.rng);
        loop {
            let (rate, changes_at) = (self.rate(), self.rate_changes_at());
            let reach = (changes_at - self.now) * rate;
            // If the rate stays 0, the next request arrives in the far future.
            if gap <= reach || changes_at.is_infinite() {
                self.now += gap / rate;
                break;
            }
            gap -= reach;
            self.now = changes_at;
            if self.burst_ends_at <= changes_at {
                self.turn_burst();
            } else {
                self.step += 1;
            }
        }
        let draw = Draw::new(self.rng.next_u64());
        Some(Arrival { at: self.now as u64, draw, work_ms: -1.0 })
    }
}

/// Returns the surges as steps of the rate, the first at 0.
fn steps(scenario: &Scenario) -> Vec<(f64, f64)> {
    let surges = &scenario.arrivals.surges;
    let spans = surges.iter().map(|surge| {
        let end = surge.for_s.map_or(f64::INFINITY, |span| surge.from_s + span);
        (surge.from_s, end, surge.factor)
    });
    let spans: Vec<_> = spans.collect();
    let mut edges: Vec<f64> = spans.iter().flat_map(|(from, end, _)| [*from, *end]).collect();
    edges.push(0.0);
    edges.retain(|edge| edge.is_finite());
    edges.sort_unstable_by(f64::total_cmp);
    edges.dedup();
    let factor_at = |edge: f64| {
        let active = spans.iter().filter(|(from, end, _)| *from <= edge && edge < *end);
        active.map(|(_, _, factor)| factor).product::<f64>()
    };
    edges.iter().map(|edge| (edge * 1e9, factor_at(*edge))).collect()
}

/// Draws from an exponential distribution with mean 1.
fn exponential(rng: &mut Rng) -> f64 {
    -libm::log(1.0 - rng.unit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::{Rate, Surge};

    fn count_by_second(scenario: &Scenario, seconds: usize) -> Vec<f64> {
        let mut counts = vec![0.0; seconds];
        for arrival in Arrivals::new(scenario, 3) {
            let Some(count) = counts.get_mut(arrival.at as usize / 1_000_000_000) else {
                break;
            };
            *count += 1.0;
        }
        counts
    }

    /// A steady rate gives Poisson counts: mean and variance agree with the rate within four
    /// standard errors.
    #[test]
    fn steady_rate_is_poisson() {
        let mut scenario = Scenario::default();
        scenario.arrivals.rate = Rate::PerSecond(1000.0);
        let counts = count_by_second(&scenario, 400);
        let mean = counts.iter().sum::<f64>() / 400.0;
        let variance = counts.iter().map(|count| (count - mean).powi(2)).sum::<f64>() / 399.0;
        assert!((mean - 1000.0).abs() < 4.0 * (1000.0_f64 / 400.0).sqrt(), "{mean}");
        assert!((variance / 1000.0 - 1.0).abs() < 4.0 * (2.0_f64 / 399.0).sqrt(), "{variance}");
    }

    /// Surges change the rate between their edges. Factors of overlapping ones multiply.
    #[test]
    fn surges_change_the_rate() {
        let mut scenario = Scenario::default();
        scenario.arrivals.rate = Rate::PerSecond(10_000.0);
        scenario.arrivals.surges = vec![
            Surge { from_s: 1.0, for_s: Some(2.0), factor: 2.0 },
            Surge { from_s: 2.0, for_s: None, factor: 0.5 },
        ];
        let counts = count_by_second(&scenario, 5);
        for (count, expected) in counts.iter().zip([1.0, 2.0, 1.0, 0.5, 0.5]) {
            assert!((count / 10_000.0 - expected).abs() < 0.06, "{counts:?}");
        }
    }

    /// Bursts keep the mean rate. Their counts vary much more than those of a Poisson process.
    #[test]
    fn bursts_vary_and_keep_the_mean() {
        let mut scenario = Scenario::default();
        scenario.arrivals.rate = Rate::PerSecond(1000.0);
        scenario.arrivals.bursts = Some(Bursts { low: 0.6, high: 1.4, mean_ms: 500.0 });
        let counts = count_by_second(&scenario, 400);
        let mean = counts.iter().sum::<f64>() / 400.0;
        let variance = counts.iter().map(|count| (count - mean).powi(2)).sum::<f64>() / 399.0;
        assert!((mean / 1000.0 - 1.0).abs() < 0.06, "{mean}");
        assert!(variance > 10_000.0, "{variance}");
    }
}
