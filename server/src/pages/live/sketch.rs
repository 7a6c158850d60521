//! Times by buckets: 8 for each doubling from 65 us to 137 s. The ends of a bucket differ by up to an
//! eighth of the lower one. A quantile is the point with the same relative distance to both, so it
//! is within 1/17 (5.9 %) of the time of its rank. The bounds of the metrics' histograms are chosen
//! for people, which is too coarse for a page.

/// Doublings with buckets of their own.
const OCTAVES: usize = 21;
/// Buckets of a doubling: the upper three bits of the mantissa.
const PARTS_BITS: u32 = 3;
const BUCKETS: usize = OCTAVES << PARTS_BITS;
/// The bits of an `f32` below the bucket.
const SHIFT: u32 = f32::MANTISSA_DIGITS - 1 - PARTS_BITS;
/// The bucket of 2^16 ns as the upper bits of an `f32`, whose exponent is biased by 127.
const FIRST: u32 = (127 + 16) << PARTS_BITS;
/// The part of the earlier times that is left after each second: half after 3 s.
const KEPT: f32 = 0.8;

/// Times counted since the last [`Recent::take`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Sketch([u32; BUCKETS]);

impl Default for Sketch {
    fn default() -> Self {
        Self([0; BUCKETS])
    }
}

impl Sketch {
    /// Counts a time in nanoseconds.
    #[inline]
    pub(crate) fn add_nanos(&mut self, nanos: u64) {
        let bits = (nanos as f32).to_bits() >> SHIFT;
        let bucket = (bits.saturating_sub(FIRST) as usize).min(BUCKETS - 1);
        // While nothing is sampled, no count is taken for a long time. The first sample discards it.
        self.0[bucket] = self.0[bucket].wrapping_add(1);
    }
}

/// The times of the last seconds; older ones weigh less.
#[derive(Clone, Debug)]
pub(crate) struct Recent(Box<[f32; BUCKETS]>);

impl Default for Recent {
    fn default() -> Self {
        Self(Box::new([0.0; BUCKETS]))
    }
}

impl Recent {
    /// Takes the times of the last second, which the sketch then forgets.
    pub(crate) fn take(&mut self, sketch: &mut Sketch) {
        for (kept, new) in self.0.iter_mut().zip(&mut sketch.0) {
            *kept = KEPT * *kept + std::mem::take(new) as f32;
        }
    }

    /// Adds the times of another backend.
    pub(crate) fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(&*other.0).for_each(|(sum, more)| *sum += more);
    }

    /// Returns the times, in ms, that the given shares of requests took at most; `None` if there were
    /// too few requests lately. Shares must rise.
    pub(crate) fn quantiles<const N: usize>(&self, shares: [f32; N]) -> [Option<f32>; N] {
        let all: f32 = self.0.iter().sum();
        let mut found = [None; N];
        // One request is worth 0.1 after ten seconds.
        if all < 0.1 {
            return found;
        }
        let (mut below, mut bucket) = (0.0, 0);
        for (share, found) in shares.iter().zip(&mut found) {
            let rank = share * all;
            while bucket < BUCKETS - 1 && below + self.0[bucket] < rank {
                below += self.0[bucket];
                bucket += 1;
            }
            let (low, high) = (start_ms(bucket), start_ms(bucket + 1));
            *found = Some(2.0 * low * high / (low + high));
        }
        found
    }
}

/// Returns the lower bound of a bucket, ms.
fn start_ms(bucket: usize) -> f32 {
    f32::from_bits((FIRST + bucket as u32) << SHIFT) / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recent(times_ms: impl Iterator<Item = f64>) -> Recent {
        let (mut recent, mut sketch) = (Recent::default(), Sketch::default());
        times_ms.for_each(|ms| sketch.add_nanos((ms * 1e6) as u64));
        recent.take(&mut sketch);
        assert_eq!(sketch, Sketch::default());
        recent
    }

    /// A quantile is within 5.9 % of the time of its rank, wherever in a bucket that is, over the
    /// whole range.
    #[test]
    fn quantiles_are_near() {
        let mut ms = 0.066;
        while ms < 130_000.0 {
            for (share, times) in [(0.5, [ms, ms, 1e9]), (0.99, [0.0, ms, ms])] {
                let [found] = recent(times.into_iter()).quantiles([share]);
                let found = f64::from(found.expect("enough requests"));
                assert!((found / ms - 1.0).abs() < 0.059, "{ms}: {found}");
            }
            ms *= 1.003;
        }
        for scale in [0.1, 1.0, 37.0, 1000.0] {
            let times = (1..=1000).map(|at| scale * (1.0 + f64::from(at) / 1000.0));
            let [median, high] = recent(times).quantiles([0.5, 0.99]);
            for (found, expected) in [(median, 1.5 * scale), (high, 1.99 * scale)] {
                let found = f64::from(found.expect("enough requests"));
                assert!((found / expected - 1.0).abs() < 0.06, "{scale}: {found} for {expected}");
            }
        }
    }

    /// A single time, none, and times beyond both ends.
    #[test]
    fn ends_are_counted() {
        assert_eq!(Recent::default().quantiles([0.5]), [None]);
        for (ms, low, high) in [(12.0, 11.0, 13.0), (0.0, 0.0, 0.1), (1e9, 100_000.0, 140_000.0)] {
            let [found] = recent([ms].into_iter()).quantiles([0.5]);
            let found = found.expect("a request");
            assert!((low..=high).contains(&found), "{ms}: {found}");
        }
    }

    /// Old times weigh less: a slow second outweighs a hundred fast ones of a minute ago, and without
    /// requests nothing is left at last.
    #[test]
    fn old_times_fade() {
        let mut sketch = Sketch::default();
        let mut recent = recent((0..100).map(|_| 1.0));
        (0..60).for_each(|_| recent.take(&mut sketch));
        assert_eq!(recent.quantiles([0.5]), [None]);
        sketch.add_nanos(500_000_000);
        recent.take(&mut sketch);
        let [median] = recent.quantiles([0.5]);
        assert!(median.is_some_and(|ms| ms > 400.0), "{median:?}");
    }
}
