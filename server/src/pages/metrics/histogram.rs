//! A histogram of times with fixed buckets.
//!
//! The layout hints are explained in `proxy/mod.rs`.
use std::time::Duration;

/// The upper bounds of the buckets in nanoseconds, from 1 ms to 60 s, each with its label.
pub(super) const BOUNDS: [(u64, &str); 15] = [
    (1_000_000, "0.001"),
    (2_500_000, "0.0025"),
    (5_000_000, "0.005"),
    (10_000_000, "0.01"),
    (25_000_000, "0.025"),
    (50_000_000, "0.05"),
    (100_000_000, "0.1"),
    (250_000_000, "0.25"),
    (500_000_000, "0.5"),
    (1_000_000_000, "1"),
    (2_500_000_000, "2.5"),
    (5_000_000_000, "5"),
    (10_000_000_000, "10"),
    (30_000_000_000, "30"),
    (60_000_000_000, "60"),
];

/// Times counted by bucket. Adding one neither allocates nor formats.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Histogram {
    /// The number of times in each bucket. The last bucket is for times beyond every bound.
    counts: [u64; BOUNDS.len() + 1],
    sum_nanos: u64,
}

impl Histogram {
    /// Adds a time.
    #[inline]
    pub(crate) fn add(&mut self, span: Duration) {
        self.add_nanos(span.as_secs().wrapping_mul(1_000_000_000) + u64::from(span.subsec_nanos()));
    }

    /// Adds a time in nanoseconds.
    #[inline]
    pub(crate) fn add_nanos(&mut self, nanos: u64) {
        // A scan from the start, since most requests are fast.
        let bucket = BOUNDS.iter().position(|(bound, _)| nanos <= *bound).unwrap_or(BOUNDS.len());
        self.counts[bucket] += 1;
        self.sum_nanos = self.sum_nanos.wrapping_add(nanos);
    }

    /// Returns the number of times up to each bound, then the number of all times.
    pub(super) fn cumulated(&self) -> [u64; BOUNDS.len() + 1] {
        let mut sum = 0;
        self.counts.map(|count| {
            sum += count;
            sum
        })
    }

    /// Returns each bucket: its upper bound in nanoseconds, `None` for the last one, and its count.
    pub(crate) fn buckets(&self) -> impl Iterator<Item = (Option<u64>, u64)> {
        let bounds = BOUNDS.iter().map(|(bound, _)| Some(*bound)).chain([None]);
        bounds.zip(self.counts)
    }

    /// Returns the sum of all times in seconds.
    pub(super) fn sum_seconds(&self) -> f64 {
        self.sum_nanos as f64 / 1e9
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A time equal to a bound is in its bucket, one nanosecond more is in the next. The last
    /// bucket is for times above all bounds.
    #[test]
    fn bounds_are_inclusive() {
        for (index, (bound, label)) in BOUNDS.into_iter().enumerate() {
            let mut histogram = Histogram::default();
            histogram.add(Duration::from_nanos(bound));
            histogram.add(Duration::from_nanos(bound + 1));
            assert_eq!(histogram.counts[index..=index + 1], [1, 1], "{label}");
            let seconds: f64 = label.parse().expect("a number");
            assert_eq!(Duration::from_secs_f64(seconds), Duration::from_nanos(bound));
        }
    }

    /// Buckets are cumulated as the text format requires, and the sum is in seconds.
    #[test]
    fn buckets_are_cumulated() {
        let mut histogram = Histogram::default();
        for ms in [0, 2, 2, 400, 100_000] {
            histogram.add(Duration::from_millis(ms));
        }
        let cumulated = histogram.cumulated();
        assert_eq!(cumulated[..3], [1, 3, 3]);
        assert_eq!(cumulated[8..], [4, 4, 4, 4, 4, 4, 4, 5]);
        assert_eq!(histogram.sum_seconds(), 100.404);
    }
}
