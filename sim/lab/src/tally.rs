//! The results of a run: latencies as seen by clients, with a charge for failures.
use serde::Serialize;

use super::detail::Details;

/// Collects the requests of a run.
#[derive(Debug)]
pub(super) struct Tally {
    /// The time of every counted request, ns. For failed requests it is the charge.
    charged: Vec<u64>,
    /// Sum over the requests with a good response, ns.
    succeeded_sum: f64,
    failed: u64,
    gave_up: u64,
    routed: Vec<u64>,
    charge: u64,
    recovery_s: Option<f64>,
    unfairness: Option<f64>,
    /// Every request, for a report.
    pub(super) details: Option<Box<Details>>,
}

/// A counted request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counted {
    /// Its arrival, ns.
    pub(super) at: u64,
    /// Its last backend; `None` if no backend was found.
    pub(super) backend: Option<usize>,
}

/// The figures of one run. Times in ms.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Figures {
    /// Number of counted requests: all that arrived after the warm-up.
    pub requests: u64,
    /// Number of failed requests: wrong status, refused, cut, given up by the proxy or not
    /// admitted.
    pub failed: u64,
    /// Mean time of the requests that did not fail.
    pub mean_ms: f64,
    /// Median time, with the charge for failed ones.
    pub p50_ms: f64,
    /// 99th percentile of the time, with the charge for failed ones.
    pub p99_ms: f64,
    /// 99.9th percentile of the time, with the charge for failed ones.
    pub p999_ms: f64,
    /// Mean time, with the charge for failed ones.
    pub cost_ms: f64,
    /// Share of the requests sent to each backend, in the scenario's order.
    pub shares: Vec<f64>,
    /// Changes of the routers' current backends per second and proxy. Only policies under the gate
    /// have a current backend.
    pub switches_per_s: f64,
    /// Number of requests whose clients left before the response began. They count with their
    /// waiting time, and not as failed.
    pub gave_up: u64,
    /// The longest recovery, s: the time from the return of a backend (its fault ends, or it joins)
    /// until it gets 0.8 of its fair share. `None` if no backend returns.
    pub recovery_s: Option<f64>,
    /// Unevenness among equal backends: the difference between the largest and the smallest number
    /// of requests, divided by their mean; the worst of several groups. `None` without equal
    /// backends free of faults.
    pub unfairness: Option<f64>,
}

impl Tally {
    /// Returns a tally for about `requests` to `backends`. A failed request is charged `charge` ns.
    pub(super) fn new(requests: usize, backends: usize, charge: u64) -> Self {
        Self {
            charged: Vec::with_capacity(requests),
            succeeded_sum: 0.0,
            failed: 0,
            gave_up: 0,
            routed: vec![0; backends],
            charge,
            recovery_s: None,
            unfairness: None,
            details: None,
        }
    }

    pub(super) fn routed(&mut self, backend: usize) {
        self.routed[backend] += 1;
    }

    pub(super) fn succeeded(&mut self, request: Counted, latency: u64) {
        self.note(request, latency, false);
        self.charged.push(latency);
        self.succeeded_sum += latency as f64;
    }

    pub(super) fn failed(&mut self, request: Counted) {
        self.note(request, self.charge, true);
        self.charged.push(self.charge);
        self.failed += 1;
    }

    /// Counts a client that left after `waited` ns.
    pub(super) fn gave_up(&mut self, request: Counted, waited: u64) {
        self.note(request, waited, false);
        self.charged.push(waited);
        self.succeeded_sum += waited as f64;
        self.gave_up += 1;
    }

    fn note(&mut self, Counted { at, backend }: Counted, time: u64, has_failed: bool) {
        if let Some(details) = &mut self.details {
            details.add(at, time, backend, has_failed);
        }
    }

    /// Sets the results about shares of backends.
    pub(super) fn compared(&mut self, recovery_s: Option<f64>, unfairness: Option<f64>) {
        (self.recovery_s, self.unfairness) = (recovery_s, unfairness);
    }

    pub(super) fn figures(mut self, switches_per_s: f64) -> Figures {
        let count = self.charged.len() as u64;
        let routed: u64 = self.routed.iter().sum();
        let failed_sum = self.failed as f64 * self.charge as f64;
        Figures {
            requests: count,
            failed: self.failed,
            mean_ms: self.succeeded_sum / (count - self.failed).max(1) as f64 / 1e6,
            p50_ms: quantile_ms(&mut self.charged, 0.5),
            p99_ms: quantile_ms(&mut self.charged, 0.99),
            p999_ms: quantile_ms(&mut self.charged, 0.999),
            cost_ms: (self.succeeded_sum + failed_sum) / count.max(1) as f64 / 1e6,
            shares: self.routed.iter().map(|n| *n as f64 / routed.max(1) as f64).collect(),
            switches_per_s,
            gave_up: self.gave_up,
            recovery_s: self.recovery_s,
            unfairness: self.unfairness,
        }
    }
}

impl Figures {
    /// Returns the share of failed requests, 0 to 1.
    pub fn failed_share(&self) -> f64 {
        self.failed as f64 / self.requests.max(1) as f64
    }
}

/// Returns the `q`-quantile of the values; 0 for an empty list.
fn quantile_ms(values: &mut [u64], q: f64) -> f64 {
    if values.is_empty() {
        return 0.0;
    }
    let rank = (q * values.len() as f64).ceil() as usize;
    let index = rank.clamp(1, values.len()) - 1;
    *values.select_nth_unstable(index).1 as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTED: Counted = Counted { at: 0, backend: None };

    /// A hundred requests by hand: 98 of 1 to 98 ms and two failures at 5 s. The 99th in order is
    /// one of the failures. The mean excludes failures, the cost includes them.
    #[test]
    fn figures_by_hand() {
        let mut tally = Tally::new(100, 2, 5_000_000_000);
        for ms in 1..=98 {
            tally.routed(usize::from(ms > 49));
            tally.succeeded(NOTED, ms * 1_000_000);
        }
        tally.failed(NOTED);
        tally.failed(NOTED);
        let figures = tally.figures(0.5);
        assert_eq!((figures.requests, figures.failed), (100, 2));
        assert_eq!((figures.p50_ms, figures.p99_ms, figures.p999_ms), (50.0, 5000.0, 5000.0));
        assert_eq!(figures.mean_ms, 49.5);
        assert!((figures.cost_ms - (49.5 * 98.0 + 10_000.0) / 100.0).abs() < 1e-9);
        assert_eq!(figures.shares, [0.5, 0.5]);
    }

    /// A run without counted requests does not divide by zero.
    #[test]
    fn nothing_counted() {
        let figures = Tally::new(0, 1, 5).figures(0.0);
        assert_eq!((figures.mean_ms, figures.cost_ms, figures.p99_ms), (0.0, 0.0, 0.0));
    }
}
