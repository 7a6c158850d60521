//! Averages of observed values, without any knowledge of backends.
//!
//! `observe` and `add` record samples. Reads change nothing: they project to the given time.
//!
//! The layout hints are explained in `router.rs`.
use std::time::Duration;

use crate::errors::Errors;
use crate::time::Instant;

/// An exponentially weighted moving average: `value + alpha · (sample − value)`; the first sample
/// is taken as it is. The average never leaves the range of its samples, even with rounding
/// errors.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ewma {
    value: Option<f64>,
}

impl Ewma {
    /// Records a finite sample with weight `alpha`, above 0 and at most 1.
    #[inline]
    pub(crate) fn observe(&mut self, alpha: f64, sample: f64) {
        debug_assert!(sample.is_finite(), "samples are checked where they enter");
        self.value = Some(match self.value {
            None => sample,
            // Rounding could leave the range: `1e308 + (1 − 1e308)` is 0, which is below both.
            Some(value) => {
                let next = value + alpha * (sample - value);
                // A third of the instructions of `max` and `min`, which handle NaN.
                if value < sample {
                    next.clamp(value, sample)
                } else if sample < value {
                    next.clamp(sample, value)
                } else {
                    value
                }
            }
        });
    }

    /// The average; `None` before the first sample.
    pub(crate) const fn value(&self) -> Option<f64> {
        self.value
    }
}

/// A moving average that starts with the median of its first five samples (the lower one of an even
/// number). One outlier among the first samples therefore changes it little: a median withstands up
/// to half of its samples (Hampel 1971). The first sample of a plain moving average would outweigh
/// all later ones for a long time.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SeededEwma {
    first: [f64; FIRST],
    count: usize,
    ewma: Ewma,
}

impl SeededEwma {
    /// Records a finite sample, like [`Ewma::observe`].
    pub(crate) fn observe(&mut self, alpha: f64, sample: f64) {
        if self.count < FIRST {
            self.first[self.count] = sample;
            self.count += 1;
            let mut sorted = self.first;
            let sorted = &mut sorted[..self.count];
            // At most five samples, so sorting again each time is cheap.
            sorted.sort_unstable_by(f64::total_cmp);
            self.ewma = Ewma { value: Some(sorted[(self.count - 1) / 2]) };
        } else {
            self.ewma.observe(alpha, sample);
        }
    }

    /// The average; `None` before the first sample.
    pub(crate) const fn value(&self) -> Option<f64> {
        self.ewma.value()
    }

    /// Whether more samples would still change the median that it starts with.
    pub(crate) const fn is_young(&self) -> bool {
        self.count < FIRST
    }
}

/// Samples whose median a [`SeededEwma`] starts with. Five tolerate two outliers.
const FIRST: usize = 5;

/// The share of errors among recent requests: `errors / (requests + prior)`. Both counts halve
/// every half-life.
///
/// Counts decay in steps. They do not change while less than 1/65536 of the half-life has passed
/// since the last step (0.46 ms of 30 s); the next step covers that time. The error of a reading is
/// therefore below 0.0011 %, and a busy backend pays for one `exp2` per step instead of one per
/// request.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ErrorRate {
    requests: f64,
    errors: f64,
    /// The part of `errors` that the share excludes.
    forgiven: f64,
    stepped_at: Instant,
}

/// A count of events that halves every half-life.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Fading {
    count: f64,
    counted_at: Instant,
}

impl Fading {
    /// No events.
    pub(crate) const ZERO: Self = Self { count: 0.0, counted_at: Instant::ZERO };

    /// Counts `amount` more at `now`.
    pub(crate) fn add(&mut self, now: Instant, amount: f64, half_life: Duration) {
        self.count = self.at(now, half_life) + amount;
        self.counted_at = now;
    }

    /// The count at `now`; 0 once it is below a millionth.
    #[inline]
    pub(crate) fn at(&self, now: Instant, half_life: Duration) -> f64 {
        if self.count == 0.0 {
            return 0.0;
        }
        let half_life = u64::try_from(half_life.as_nanos()).unwrap_or(u64::MAX);
        let passed = now.as_nanos().saturating_sub(self.counted_at.as_nanos());
        // Errors are counted in several ways at once: only the first reading costs an `exp2`.
        let left = if passed == 0 { 1.0 } else { decay(passed, half_life) };
        let count = self.count * left;
        if count < FADED { 0.0 } else { count }
    }
}

impl ErrorRate {
    /// Counts the end of a request.
    #[inline]
    pub(crate) fn observe(&mut self, now: Instant, is_error: bool, half_life: Duration) {
        if let Some(share) = self.share_left(now, half_life) {
            self.step(now, share);
        }
        self.requests += 1.0;
        if is_error {
            self.errors += 1.0;
        }
    }

    /// Excludes all errors so far from the share. They stay in the counts, which show what is usual
    /// for the backend: without them its next errors would stand out.
    pub(crate) const fn forgive(&mut self) {
        self.forgiven = self.errors;
    }

    const fn unforgiven(&self) -> f64 {
        self.errors - self.forgiven
    }

    fn step(&mut self, now: Instant, share: f64) {
        self.requests *= share;
        self.errors *= share;
        self.forgiven *= share;
        self.stepped_at = now;
        if self.errors < FORGOTTEN {
            (self.errors, self.forgiven) = (0.0, 0.0);
        }
    }

    /// Recent requests at `now`.
    pub(crate) fn requests_at(&self, now: Instant, half_life: Duration) -> f64 {
        self.requests * self.share_left(now, half_life).unwrap_or(1.0)
    }

    /// The share of errors at `now`, 0 to 1, with `prior` good requests added.
    #[inline]
    pub(crate) fn rate_at(&self, now: Instant, half_life: Duration, prior: f64) -> f64 {
        if self.unforgiven() == 0.0 {
            return 0.0;
        }
        let share = self.share_left(now, half_life).unwrap_or(1.0);
        let errors = self.unforgiven() * share;
        if errors < FORGOTTEN { 0.0 } else { errors / (self.requests * share + prior) }
    }

    /// A lower bound of [`rate_at`](Self::rate_at) that needs no `exp2`: the curve of a decay lies
    /// above its tangent, `2^−x ≥ 1 − x·ln 2`. The bound is close to the rate while little of the
    /// half-life has passed.
    pub(crate) fn rate_at_least(&self, now: Instant, half_life: Duration, prior: f64) -> f64 {
        let passed = now.as_nanos().saturating_sub(self.stepped_at.as_nanos());
        let passed = passed as f64 / half_life.as_nanos() as f64;
        let share = (1.0 - ROUNDING) * (1.0 - std::f64::consts::LN_2 * passed).max(0.0);
        let errors = self.unforgiven() * share;
        if errors < 2.0 * FORGOTTEN {
            0.0
        } else {
            (1.0 - ROUNDING) * (errors / (self.requests * share + prior))
        }
    }

    /// The time up to which [`rate_at`](Self::rate_at) stays the same without further requests.
    pub(crate) fn steady_until(&self, half_life: Duration) -> Instant {
        if self.unforgiven() == 0.0 {
            return Instant::FAR_FUTURE;
        }
        let half_life = u64::try_from(half_life.as_nanos()).unwrap_or(u64::MAX);
        self.stepped_at + Duration::from_nanos(half_life / STEPS_PER_HALF_LIFE)
    }

    /// Requests and errors as of `now`.
    pub(crate) fn counts_at(&self, now: Instant, half_life: Duration) -> Errors {
        let share = self.share_left(now, half_life).unwrap_or(1.0);
        Errors { requests: self.requests * share, errors: self.errors * share }
    }

    /// The factor by which the counts have shrunk, if a step is due.
    #[inline]
    fn share_left(&self, now: Instant, half_life: Duration) -> Option<f64> {
        let half_life = u64::try_from(half_life.as_nanos()).unwrap_or(u64::MAX);
        let passed = now.as_nanos().saturating_sub(self.stepped_at.as_nanos());
        let is_due = passed > half_life / STEPS_PER_HALF_LIFE;
        is_due.then(|| decay(passed, half_life))
    }
}

/// The share of a count that remains after `passed` nanoseconds.
fn decay(passed: u64, half_life: u64) -> f64 {
    libm::exp2(-(passed as f64 / half_life as f64))
}

const STEPS_PER_HALF_LIFE: u64 = 65_536;
/// Decayed errors below this are treated as 0: a single error after 30 half-lives.
const FORGOTTEN: f64 = 1e-9;
/// A bound above the rounding error of a rate.
const ROUNDING: f64 = 1e-12;
/// Counts below this are treated as 0: a single event after 20 half-lives.
const FADED: f64 = 1e-6;

#[cfg(test)]
mod tests {
    use super::*;

    const HALF_LIFE: Duration = Duration::from_secs(30);

    #[track_caller]
    fn assert_near(left: f64, right: f64) {
        assert!((left - right).abs() < 1e-12, "{left} is not {right}");
    }

    /// The first sample is taken as it is; each later one moves the average by a fifth of the
    /// distance.
    #[test]
    fn ewma_by_hand() {
        let mut ewma = Ewma::default();
        assert_eq!(ewma.value(), None);
        for (sample, expected) in [(100.0, 100.0), (200.0, 120.0), (20.0, 100.0), (100.0, 100.0)] {
            ewma.observe(0.2, sample);
            assert_near(ewma.value().unwrap(), expected);
        }
    }

    /// By hand: an outlier of 500 at any place among the first five determines the average only
    /// until the second sample. The sixth sample moves the median by a fifth of the distance.
    #[test]
    fn outliers_among_the_first_do_not_decide() {
        for place in 0..5 {
            let mut samples = [10.0, 11.0, 12.0, 13.0, 14.0];
            samples[place] = 500.0;
            let mut average = SeededEwma::default();
            for (number, sample) in samples.into_iter().enumerate() {
                assert!(average.is_young());
                average.observe(0.2, sample);
                assert!(average.value().unwrap() < 15.0 || (place, number) == (0, 0));
            }
            assert!(!average.is_young());
            let seeded = average.value().unwrap();
            average.observe(0.2, 20.0);
            assert_near(average.value().unwrap(), seeded + 0.2 * (20.0 - seeded));
        }
    }

    /// With alpha 1 and samples of very different size, rounding does not leave their range.
    #[test]
    fn ewma_stays_in_range_despite_rounding() {
        let mut ewma = Ewma::default();
        ewma.observe(1.0, 1e308);
        ewma.observe(1.0, 1.0);
        assert_eq!(ewma.value(), Some(1.0));
    }

    /// One error of one request with ten good ones added is 1/11. A half-life later both counts
    /// are halved, so 0.5/10.5. Nine good requests then make it 0.5/19.5.
    #[test]
    fn error_rate_by_hand() {
        let mut rate = ErrorRate::default();
        let start = Instant::from_millis(5_000);
        assert_near(rate.rate_at(start, HALF_LIFE, 10.0), 0.0);
        rate.observe(start, true, HALF_LIFE);
        assert_near(rate.rate_at(start, HALF_LIFE, 10.0), 1.0 / 11.0);
        assert_near(rate.rate_at(start, HALF_LIFE, 0.0), 1.0);
        let later = start + HALF_LIFE;
        assert_near(rate.rate_at(later, HALF_LIFE, 10.0), 0.5 / 10.5);
        for _ in 0..9 {
            rate.observe(later, false, HALF_LIFE);
        }
        assert_near(rate.rate_at(later, HALF_LIFE, 10.0), 0.5 / 19.5);
    }

    /// Readings do not change later readings, and ten minutes without requests forgive a hundred
    /// errors.
    #[test]
    fn error_rate_reads_are_pure_and_forgiving() {
        let mut rate = ErrorRate::default();
        for _ in 0..100 {
            rate.observe(Instant::ZERO, true, HALF_LIFE);
        }
        let end = Instant::from_millis(600_000);
        let before = rate.rate_at(end, HALF_LIFE, 10.0);
        for second in 0..600 {
            let _ = rate.rate_at(Instant::from_millis(second * 1000), HALF_LIFE, 10.0);
        }
        assert_eq!(rate.rate_at(end, HALF_LIFE, 10.0), before);
        assert!(before < 1e-4, "{before}");
        assert_eq!(rate.rate_at(Instant::from_millis(2_000_000), HALF_LIFE, 10.0), 0.0);
    }

    /// By hand: one of five requests failed. Once it is forgiven the share is 0, another failure
    /// makes it 1 of 16, and the counts have both.
    #[test]
    fn forgiven_errors_only_count_as_usual() {
        let mut rate = ErrorRate::default();
        let now = Instant::from_millis(5);
        for is_error in [true, false, false, false, false] {
            rate.observe(now, is_error, HALF_LIFE);
        }
        rate.forgive();
        assert_near(rate.rate_at(now, HALF_LIFE, 10.0), 0.0);
        rate.observe(now, true, HALF_LIFE);
        assert_near(rate.rate_at(now, HALF_LIFE, 10.0), 1.0 / 16.0);
        assert_eq!(rate.counts_at(now, HALF_LIFE), Errors { requests: 6.0, errors: 2.0 });
        assert_near(rate.rate_at(now + HALF_LIFE, HALF_LIFE, 10.0), 0.5 / 13.0);
    }

    /// The bound is never above the rate, and within a thousandth of it for a hundredth of the
    /// half-life. The rate stays the same up to the time of `steady_until`, and falls after it.
    #[test]
    fn rates_are_bounded_from_below() {
        for (good, passed_us) in [(0, 1), (5, 500), (1000, 3000), (30, 300_000), (1, 900_000_000)] {
            let mut rate = ErrorRate::default();
            assert_eq!(rate.steady_until(HALF_LIFE), Instant::FAR_FUTURE);
            rate.observe(Instant::from_millis(1), true, HALF_LIFE);
            (0..good).for_each(|_| rate.observe(Instant::from_millis(1), false, HALF_LIFE));
            let now = Instant::from_millis(1) + Duration::from_micros(passed_us);
            let (exact, bound) =
                (rate.rate_at(now, HALF_LIFE, 10.0), rate.rate_at_least(now, HALF_LIFE, 10.0));
            assert!(bound <= exact, "{bound} above {exact}");
            assert!(passed_us > 300_000 || bound > 0.999 * exact, "{bound} far below {exact}");
            let until = rate.steady_until(HALF_LIFE);
            let first = rate.rate_at(Instant::from_millis(1), HALF_LIFE, 10.0);
            assert_eq!(rate.rate_at(until, HALF_LIFE, 10.0), first);
            assert!(rate.rate_at(until + Duration::from_nanos(1), HALF_LIFE, 10.0) < first);
        }
    }

    /// By hand: one event is 1; another one a half-life later makes it 1.5; in the end it is 0.
    #[test]
    fn counts_fade() {
        let mut count = Fading::default();
        count.add(Instant::ZERO, 1.0, HALF_LIFE);
        let later = Instant::ZERO + HALF_LIFE;
        assert_near(count.at(later, HALF_LIFE), 0.5);
        count.add(later, 1.0, HALF_LIFE);
        assert_near(count.at(later, HALF_LIFE), 1.5);
        assert_eq!(count.at(later + 30 * HALF_LIFE, HALF_LIFE), 0.0);
    }

    /// Steps lose no time: a request every 0.1 ms for a half-life decays the counts like one long
    /// step, within the documented error.
    #[test]
    fn small_steps_add_up() {
        let mut fine = ErrorRate::default();
        fine.observe(Instant::ZERO, true, HALF_LIFE);
        let mut now = Instant::ZERO;
        for _ in 0..300_000 {
            now += Duration::from_micros(100);
            fine.observe(now, false, HALF_LIFE);
        }
        let expected_errors = 0.5;
        assert!((fine.errors / expected_errors - 1.0).abs() < 1.1e-5, "{}", fine.errors);
    }
}
