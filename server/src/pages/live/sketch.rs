//! A histogram of times with 8 buckets for each doubling from 65 us to 137 s. The bounds of a
//! bucket differ by up to an eighth of the lower one. A quantile is the point with the same
//! relative distance to both bounds, so it is within 1/17 (5.9 %) of the time of its rank. The
//! buckets of the metrics have round bounds and are too coarse for the page.

/// Doublings with buckets of their own.
const OCTAVES: usize = 21;
/// Buckets of a doubling: the upper three bits of the mantissa.
const PARTS_BITS: u32 = 3;
const BUCKETS: usize = OCTAVES << PARTS_BITS;
/// The bits of an `f32` below the bucket.
const SHIFT: u32 = f32::MANTISSA_DIGITS - 1 - PARTS_BITS;
/// The bucket of 2^16 ns as the upper bits of an `f32`, whose exponent is biased by 127.
const FIRST: u32 = (127 + 16) << PARTS_BITS;
/// Parts of the time that is shown: the newest one grows, the oldest one is dropped as a whole.
const SLICES: usize = 3;
/// Seconds of a part.
const SLICE_SECONDS: u32 = 2;

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
    pub(crate) fn add_nanos(&mut self, nanos: u64) {
        let bits = (nanos as f32).to_bits() >> SHIFT;
        let bucket = (bits.saturating_sub(FIRST) as usize).min(BUCKETS - 1);
        // While nothing is sampled, counts may overflow. The first sample discards them.
        self.0[bucket] = self.0[bucket].wrapping_add(1);
    }

    /// Adds other times.
    pub(crate) fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(sum, more)| *sum = sum.saturating_add(*more));
    }

    /// Returns the times, in ms, that the given shares of requests took at most; `None` without
    /// requests. Shares must rise.
    pub(crate) fn quantiles<const N: usize>(&self, shares: [f64; N]) -> [Option<f32>; N] {
        let all: u64 = self.0.iter().copied().map(u64::from).sum();
        let mut found = [None; N];
        if all == 0 {
            return found;
        }
        let (mut below, mut bucket) = (0.0, 0);
        for (share, found) in shares.iter().zip(&mut found) {
            let rank = share * all as f64;
            while bucket < BUCKETS - 1 && below + f64::from(self.0[bucket]) < rank {
                below += f64::from(self.0[bucket]);
                bucket += 1;
            }
            let (low, high) = (start_ms(bucket), start_ms(bucket + 1));
            *found = Some(2.0 * low * high / (low + high));
        }
        found
    }
}

/// The times of the last five to six seconds.
///
/// Weights that fade with age would suit the median, but not p99: of a steady load, a slow second
/// stays among the slowest hundredth until its weight is below a hundredth.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recent {
    slices: Box<[Sketch; SLICES]>,
    newest: usize,
    /// Seconds of the newest slice.
    seconds: u32,
}

impl Recent {
    /// Takes the times of the last second, which the sketch then forgets.
    pub(crate) fn take(&mut self, sketch: &mut Sketch) {
        if self.seconds == SLICE_SECONDS {
            self.newest = (self.newest + 1) % SLICES;
            (self.slices[self.newest], self.seconds) = (Sketch::default(), 0);
        }
        self.seconds += 1;
        self.slices[self.newest].add(&std::mem::take(sketch));
    }

    /// Returns all times together.
    pub(crate) fn whole(&self) -> Sketch {
        let mut whole = Sketch::default();
        self.slices.iter().for_each(|slice| whole.add(slice));
        whole
    }
}

/// Returns the lower bound of a bucket, ms.
fn start_ms(bucket: usize) -> f32 {
    f32::from_bits((FIRST + bucket as u32) << SHIFT) / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sketch(times_ms: impl Iterator<Item = f64>) -> Sketch {
        let mut sketch = Sketch::default();
        times_ms.for_each(|ms| sketch.add_nanos((ms * 1e6) as u64));
        sketch
    }

    /// Over the whole range, and anywhere in a bucket, a quantile is within 5.9 % of the time of
    /// its rank.
    #[test]
    fn quantiles_are_near() {
        let mut ms = 0.066;
        while ms < 130_000.0 {
            for (share, times) in [(0.5, [ms, ms, 1e9]), (0.99, [0.0, ms, ms])] {
                let [found] = sketch(times.into_iter()).quantiles([share]);
                let found = f64::from(found.expect("enough requests"));
                assert!((found / ms - 1.0).abs() < 0.059, "{ms}: {found}");
            }
            ms *= 1.003;
        }
        for scale in [0.1, 1.0, 37.0, 1000.0] {
            let times = (1..=1000).map(|at| scale * (1.0 + f64::from(at) / 1000.0));
            let [median, high] = sketch(times).quantiles([0.5, 0.99]);
            for (found, expected) in [(median, 1.5 * scale), (high, 1.99 * scale)] {
                let found = f64::from(found.expect("enough requests"));
                assert!((found / expected - 1.0).abs() < 0.06, "{scale}: {found} for {expected}");
            }
        }
    }

    /// A single time, no time, and times beyond both ends.
    #[test]
    fn ends_are_counted() {
        assert_eq!(Sketch::default().quantiles([0.5]), [None]);
        for (ms, low, high) in [(12.0, 11.0, 13.0), (0.0, 0.0, 0.1), (1e9, 100_000.0, 140_000.0)] {
            let [found] = sketch([ms].into_iter()).quantiles([0.5]);
            let found = found.expect("a request");
            assert!((low..=high).contains(&found), "{ms}: {found}");
        }
    }

    /// After a fault of any length p99 is that of the steady load again within six seconds, and
    /// without requests nothing is left after six.
    #[test]
    fn old_times_are_forgotten() {
        let mut recent = Recent::default();
        for second in 0..40 {
            let ms = if second < 20 { 1500.0 } else { 20.0 };
            let mut new = sketch((0..100).map(|_| ms));
            recent.take(&mut new);
            assert_eq!(new, Sketch::default());
            let [p99] = recent.whole().quantiles([0.99]);
            let p99 = p99.expect("requests");
            if !(20..25).contains(&second) {
                assert!((f64::from(p99) / ms - 1.0).abs() < 0.06, "{second}: {p99}");
            }
        }
        for second in 1..=5 {
            assert!(recent.whole().quantiles([0.5])[0].is_some(), "{second}");
            recent.take(&mut Sketch::default());
        }
        assert_eq!(recent.whole().quantiles([0.5]), [None]);
    }
}
