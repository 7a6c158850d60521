//! Rates between readings, and the figures since the start.
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::cli::top::reading::{Reading, Row, Times};
use crate::collect::one_by_one;

/// The counters of the last readings.
#[derive(Debug, Default)]
pub(crate) struct History {
    /// The counters with the time of each reading, the newest last.
    samples: VecDeque<(Duration, BTreeMap<String, Counters>)>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counters {
    requests: u64,
    errors: u64,
}

/// The traffic of a backend, or of all. Fields are `None` before the second reading and without
/// requests.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Traffic {
    /// Requests that ended per second.
    pub(crate) per_second: Option<f64>,
    /// Its share of the requests of all backends, 0 to 1.
    pub(crate) share: Option<f64>,
    /// Failed requests in percent.
    pub(crate) error_percent: Option<f64>,
    /// Times to a response's head, ms.
    pub(crate) p50_ms: Option<f64>,
    pub(crate) p99_ms: Option<f64>,
}

impl Traffic {
    const fn with(self, Times { p50_ms, p99_ms }: Times) -> Self {
        Self { p50_ms, p99_ms, ..self }
    }
}

/// The traffic of each row of a reading, in order, and the total.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Rates {
    pub(crate) rows: Vec<Traffic>,
    pub(crate) all: Traffic,
}

impl History {
    /// Adds a reading made at `at`, later than all earlier ones.
    pub(crate) fn add(&mut self, at: Duration, reading: &Reading) {
        let counters = reading.rows.iter().map(|row| (row.name.clone(), Counters::of(row)));
        self.samples.push_back((at, one_by_one(counters)));
        // One reading beyond the window, as differences need.
        while self.samples.get(1).is_some_and(|(second, _)| *second + ERRORS_SPAN < at) {
            self.samples.pop_front();
        }
    }

    /// Returns the current traffic. `reading` must be the last one added.
    pub(crate) fn rates(&self, reading: &Reading) -> Rates {
        let recent: Vec<_> =
            reading.rows.iter().map(|row| self.since(&row.name, RATE_SPAN)).collect();
        let rate = |change: &Option<Change>| change.as_ref().map(Change::per_second);
        let whole: Option<f64> =
            recent.iter().filter_map(rate).fold(None, |sum, rate| Some(sum.unwrap_or(0.0) + rate));
        let mut all = Change::default();
        let rows = reading.rows.iter().zip(&recent).map(|(row, recent)| {
            let long = self.since(&row.name, ERRORS_SPAN).unwrap_or_default();
            all.add(&long);
            let share = rate(recent).zip(whole).filter(|(_, whole)| *whole > 0.0);
            let share = share.map(|(own, whole)| own / whole);
            Traffic { per_second: rate(recent), share, ..long.errors().with(row.times) }
        });
        let rows = rows.collect();
        let all = Traffic { per_second: whole, ..all.errors().with(reading.times) };
        Rates { rows, all }
    }

    /// Returns the change of a backend's counters over the last `span`, or since they restarted
    /// from zero.
    fn since(&self, name: &str, span: Duration) -> Option<Change> {
        let mut samples = self.samples.iter().rev();
        let (end, newest) = samples.next()?;
        let newest = newest.get(name)?;
        let mut later = newest;
        let mut first = None;
        for (at, sample) in samples {
            let Some(counters) = sample.get(name) else { break };
            if counters.is_after(later) {
                break;
            }
            first = Some((*at, counters));
            if *at + span <= *end {
                break;
            }
            later = counters;
        }
        let (at, first) = first?;
        Some(Change {
            seconds: (*end - at).as_secs_f64(),
            requests: newest.requests - first.requests,
            errors: newest.errors.saturating_sub(first.errors),
        })
    }
}

/// Returns the traffic since the proxy's start, with times estimated from its buckets.
pub(crate) fn since_start(reading: &Reading) -> Rates {
    let whole: u64 = reading.rows.iter().map(|row| row.requests).fold(0, u64::saturating_add);
    let (mut all, mut heads) = (Change::default(), Vec::new());
    let rows = reading.rows.iter().map(|row| {
        let Counters { requests, errors } = Counters::of(row);
        let change = Change { seconds: 0.0, requests, errors };
        all.add(&change);
        add_heads(&mut heads, &row.heads);
        let share = (whole > 0).then(|| row.requests as f64 / whole as f64);
        Traffic { share, ..change.errors().with(times_of(&row.heads)) }
    });
    let rows = rows.collect();
    Rates { rows, all: all.errors().with(times_of(&heads)) }
}

impl Counters {
    fn of(row: &Row) -> Self {
        Self { requests: row.requests, errors: row.errors }
    }

    /// Whether a counter is higher than in `later`, because the proxy was restarted in between.
    fn is_after(&self, later: &Self) -> bool {
        self.requests > later.requests || self.errors > later.errors
    }
}

/// The difference between two readings.
#[derive(Debug, Default)]
struct Change {
    seconds: f64,
    requests: u64,
    errors: u64,
}

impl Change {
    fn per_second(&self) -> f64 {
        if self.seconds > 0.0 { self.requests as f64 / self.seconds } else { 0.0 }
    }

    fn add(&mut self, other: &Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.errors = self.errors.saturating_add(other.errors);
    }

    fn errors(&self) -> Traffic {
        let percent = 100.0 * self.errors as f64 / self.requests as f64;
        Traffic { error_percent: (self.requests > 0).then_some(percent), ..Traffic::default() }
    }
}

/// Adds counts by bucket to others.
fn add_heads(heads: &mut Vec<(f64, u64)>, more: &[(f64, u64)]) {
    for (bound, count) in more {
        match heads.binary_search_by(|(known, _)| known.total_cmp(bound)) {
            Ok(at) => heads[at].1 = heads[at].1.saturating_add(*count),
            Err(at) => heads.insert(at, (*bound, *count)),
        }
    }
}

fn times_of(heads: &[(f64, u64)]) -> Times {
    Times { p50_ms: quantile(heads, 0.5), p99_ms: quantile(heads, 0.99) }
}

/// Returns a quantile of counts by bucket, interpolated within its bucket.
fn quantile(heads: &[(f64, u64)], share: f64) -> Option<f64> {
    let whole: f64 = heads.iter().map(|(_, count)| *count as f64).sum();
    let rank = share * whole;
    let mut sum = 0.0;
    for (bound, count) in heads.iter().filter(|(_, count)| *count > 0) {
        let below = sum;
        sum += *count as f64;
        if sum >= rank {
            let under = |known: &&f64| **known < *bound;
            let least = BOUNDS_MS.iter().rev().find(under).copied().unwrap_or(0.0);
            if bound.is_infinite() {
                return Some(least);
            }
            return Some(least + (bound - least) * (rank - below) / *count as f64);
        }
    }
    None
}

/// Bounds of the proxy's buckets, ms. /stats leaves out buckets without responses, but they bound
/// the next one.
const BOUNDS_MS: [f64; 15] = [
    1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10_000.0,
    30_000.0, 60_000.0,
];
/// The span of rates and shares: long enough for a few requests, short enough to show a switch.
const RATE_SPAN: Duration = Duration::from_secs(2);
/// The span of errors: long enough for some requests at a low rate.
const ERRORS_SPAN: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::top::reading::tests::reading;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Two backends by hand: 30 and 10 requests a second, a tenth of them errors.
    #[test]
    fn rates_by_hand() {
        let mut history = History::default();
        let mut last = Reading::default();
        for second in 0..=20 {
            last = reading(&[("A", 30 * second, 30 * second), ("B", 10 * second, 10 * second)]);
            history.add(seconds(second), &last);
            if second == 0 {
                assert_eq!(history.rates(&last).rows[0], Traffic::default());
            }
        }
        let Rates { rows, all } = history.rates(&last);
        assert_eq!((rows[0].per_second, rows[0].share), (Some(30.0), Some(0.75)));
        assert_eq!((rows[1].per_second, rows[1].error_percent), (Some(10.0), Some(10.0)));
        assert_eq!(all.per_second, Some(40.0));
        assert!(history.samples.len() <= 12, "{}", history.samples.len());
    }

    /// Times are those that the proxy reports, never an estimate from its buckets.
    #[test]
    fn reported_times_are_shown() {
        let mut history = History::default();
        for second in 0..3 {
            let mut last = reading(&[("A", 30 * second, 30 * second), ("B", second, second)]);
            last.rows[0].times = Times { p50_ms: Some(4.9), p99_ms: None };
            last.times = Times { p50_ms: Some(4.8), p99_ms: Some(7.0) };
            history.add(seconds(second), &last);
            let Rates { rows, all } = history.rates(&last);
            assert_eq!((rows[0].p50_ms, rows[0].p99_ms), (Some(4.9), None));
            assert_eq!((all.p50_ms, all.p99_ms), (Some(4.8), Some(7.0)));
            assert_eq!(rows[1].p50_ms, None);
        }
    }

    /// A restarted proxy counts from zero: only readings after its restart are used.
    #[test]
    fn a_restart_is_not_a_rate() {
        let mut history = History::default();
        history.add(seconds(0), &reading(&[("A", 1000, 1000)]));
        let restarted = reading(&[("A", 5, 5)]);
        history.add(seconds(1), &restarted);
        assert_eq!(history.rates(&restarted).rows[0].per_second, None);
        let later = reading(&[("A", 25, 25), ("new", 3, 3)]);
        history.add(seconds(2), &later);
        let rates = history.rates(&later);
        assert_eq!(rates.rows[0].per_second, Some(20.0));
        assert_eq!(rates.rows[1], Traffic::default());
    }

    /// Quantiles of buckets by hand. A quantile above the last bound is that bound.
    #[test]
    fn quantiles_by_hand() {
        let heads = [(5.0, 50), (100.0, 49), (f64::INFINITY, 1)];
        assert_eq!(quantile(&heads, 0.5), Some(5.0));
        assert_eq!(quantile(&heads, 0.99), Some(100.0));
        assert_eq!(quantile(&heads, 0.999), Some(60_000.0));
        assert_eq!(quantile(&[(5.0, 0)], 0.5), None);
        assert_eq!(quantile(&[], 0.5), None);
    }

    /// Shares since the start are shares of all requests.
    #[test]
    fn all_since_the_start() {
        let rates = since_start(&reading(&[("A", 30, 30), ("B", 10, 10)]));
        assert_eq!((rates.rows[0].share, rates.rows[1].share), (Some(0.75), Some(0.25)));
        assert_eq!(rates.all.error_percent, Some(10.0));
        // Half of the way from 2.5 to 5 ms.
        assert_eq!((rates.rows[0].p50_ms, rates.all.p99_ms), (Some(3.75), Some(2.5 + 2.5 * 0.99)));
        assert_eq!(since_start(&reading(&[("A", 0, 0)])).rows[0], Traffic::default());
    }
}
