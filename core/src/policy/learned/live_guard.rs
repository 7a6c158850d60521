//! The live guard: `least_request` routes a slice of the requests (the control), and the learner
//! stays in charge only while it does no worse.
//!
//! A sample `y` is taken at each good or failed end of a control request: the mean of `ln cost` of
//! the learner's requests that ended since the previous sample, minus the control's own `ln cost`.
//! The cost is the time from decision to end, ms; a failure is charged (`errors.chargeMs`). Both
//! cover the same period, so they saw the same load.
//!
//! Sequential test: `x = clamp(y/σ, ±3) − 0.05`, where σ is estimated from about the last 2000
//! samples. For each λ of 0.1, 0.25, 0.5 there is a one-sided CUSUM (cumulative sum)
//! `g ← max(0, g + λx − λ²/2)`. The learner is demoted when one of them exceeds ln 10⁶. If the
//! samples are no worse than the allowance, each `exp g` is bounded by a Shiryaev–Roberts process.
//! A false alarm therefore comes at most once in 10⁶/3 control samples (Lorden 1971; Shin, Ramdas,
//! Rinaldo 2023), about once in 5·10⁷ requests at the default slice.
//!
//! Logarithms emphasise the typical request, so a learner looks worse if it avoids a backend that
//! is mostly fast and sometimes very slow (`seed_ab` of the lab). A suspicion or demotion therefore
//! also requires that the learner's mean cost is higher over the same samples.
//!
//! The size of the slice, not the test, limits how fast a verdict is reached. The slice is
//! therefore ten times as large, up to a tenth of the requests, for the first ten samples and while
//! an alarm is above a quarter of its threshold. The test remains valid if the sampling rate
//! depends on earlier samples. The lab's broken learner is demoted after 24 to 33 control samples.
//! (A test of ranks instead of sizes would need 8 to 21. But it would also demote a learner that
//! avoids a backend that is mostly fast and sometimes very slow.)
//!
//! While the learner is better beyond the 95 % interval, the slice is a fifth of its size: control
//! requests to slow backends are the cost of the guard.
//!
//! A demotion lasts 10 s. If the next demotion follows within ten times the last duration, its
//! duration is doubled, up to 10 min. Meanwhile `least_request` routes over the backends that the
//! restraints leave open, and the learner continues to learn.
use std::time::Duration;

use super::view::GuardView;
use crate::rng::Rng;
use crate::time::Instant;

/// The side in charge, and the results of both sides.
#[derive(Clone, Debug)]
pub(super) struct LiveGuard {
    /// The share of the requests that go to the control.
    share: f64,
    charge_ms: f64,
    demoted_until: Option<Instant>,
    returned_at: Option<Instant>,
    back_off: Duration,
    pub(super) demotions: u64,
    /// The learner's `ln cost` since the last sample: sum and count.
    since: (f64, u64),
    /// The sum of the learner's cost since the last sample, ms.
    since_ms: f64,
    /// Decayed mean of the difference of mean costs, learner minus control, ms.
    gap_ms: f64,
    /// Decayed count of the samples, their mean, and the sum of their squared deviations.
    samples: f64,
    mean: f64,
    spread: f64,
    alarms: [f64; LAMBDAS.len()],
    pub(super) controls: u64,
    /// Whether the learner is better beyond the noise, so that a smaller slice suffices.
    is_gain_clear: bool,
}

impl LiveGuard {
    pub(super) const fn new() -> Self {
        Self {
            share: 0.0,
            charge_ms: 0.0,
            demoted_until: None,
            returned_at: None,
            back_off: BACK_OFF_MIN,
            demotions: 0,
            since: (0.0, 0),
            since_ms: 0.0,
            gap_ms: 0.0,
            samples: 0.0,
            mean: 0.0,
            spread: 0.0,
            alarms: [0.0; LAMBDAS.len()],
            controls: 0,
            is_gain_clear: false,
        }
    }

    pub(super) const fn configure(&mut self, share: f64, charge_ms: f64) {
        self.share = share;
        self.charge_ms = charge_ms;
    }

    /// Whether the learner decides. Updated at each request.
    pub(super) const fn is_in_charge(&self) -> bool {
        self.demoted_until.is_none()
    }

    /// Draws whether a new request goes to the control.
    pub(super) fn draw(&mut self, now: Instant, rng: &mut Rng) -> bool {
        if self.share <= 0.0 {
            return false;
        }
        if let Some(until) = self.demoted_until {
            if now < until {
                return false;
            }
            // The samples before the demotion describe an older learner: it has learned since.
            self.demoted_until = None;
            self.returned_at = Some(now);
            self.alarms = [0.0; LAMBDAS.len()];
            (self.since, self.samples) = ((0.0, 0), 0.0);
            (self.mean, self.spread, self.gap_ms, self.since_ms) = (0.0, 0.0, 0.0, 0.0);
            self.is_gain_clear = false;
        }
        let share = if self.samples < SAMPLES_MIN || self.is_above(SUSPICION * ALARM) {
            (self.share * SUSPECTED).min(SUSPECTED_MAX).max(self.share)
        } else if self.is_gain_clear {
            self.share / CLEAR_GAIN
        } else {
            self.share
        };
        rng.unit() < share
    }

    /// Records the end of a request that the learner routed.
    pub(super) fn learner_ended(&mut self, elapsed_ms: f64, is_error: bool) {
        let cost = self.cost(elapsed_ms, is_error);
        self.since.0 += libm::log(cost);
        self.since.1 += 1;
        self.since_ms += cost;
    }

    /// Records the end of a request that the control routed.
    pub(super) fn control_ended(&mut self, now: Instant, elapsed_ms: f64, is_error: bool) {
        let (sum, count) = std::mem::take(&mut self.since);
        let sum_ms = std::mem::take(&mut self.since_ms);
        // During a demotion `least_request` routes all requests, so a comparison is useless.
        if count == 0 || !self.is_in_charge() {
            return;
        }
        self.controls += 1;
        let cost = self.cost(elapsed_ms, is_error);
        self.take_sample(sum / count as f64 - libm::log(cost));
        self.gap_ms += (sum_ms / count as f64 - cost - self.gap_ms) / self.samples;
        if self.is_above(ALARM) {
            self.demote(now);
        }
    }

    pub(super) fn view(&self, now: Instant) -> GuardView {
        let is_known = self.samples >= SAMPLES_MIN;
        let error = self.error();
        GuardView {
            is_learner_in_charge: self.demoted_until.is_none_or(|until| until <= now),
            returns_in: self.demoted_until.filter(|until| *until > now).map(|until| until - now),
            demotions: self.demotions,
            controls: self.controls,
            ratio: is_known.then(|| libm::exp(self.mean)),
            interval: is_known
                .then(|| (libm::exp(self.mean - error), libm::exp(self.mean + error))),
            alarm: (self.alarm() / ALARM).min(1.0),
        }
    }

    fn take_sample(&mut self, y: f64) {
        // Uses the deviation before this sample: an extreme sample must not widen its own scale.
        let deviation = self.deviation();
        if self.samples >= SAMPLES_MIN {
            let x = (y / deviation).clamp(-X_MAX, X_MAX) - ALLOWANCE;
            for (alarm, lambda) in self.alarms.iter_mut().zip(LAMBDAS) {
                *alarm = (*alarm + lambda * x - 0.5 * lambda * lambda).max(0.0);
            }
        }
        self.samples = self.samples * (1.0 - 1.0 / SAMPLES_MAX) + 1.0;
        // Welford's update of mean and spread, both with slow forgetting.
        let gap = y - self.mean;
        self.mean += gap / self.samples;
        self.spread = self.spread * (1.0 - 1.0 / SAMPLES_MAX) + gap * (y - self.mean);
        self.is_gain_clear = self.samples >= SAMPLES_MIN && self.mean + self.error() < 0.0;
    }

    /// The highest of the CUSUMs.
    fn alarm(&self) -> f64 {
        self.alarms.iter().copied().fold(0.0, f64::max)
    }

    /// Whether an alarm is above `height` and the learner's mean cost above the control's.
    fn is_above(&self, height: f64) -> bool {
        self.gap_ms > 0.0 && self.alarm() > height
    }

    fn demote(&mut self, now: Instant) {
        let was_calm =
            self.returned_at.is_none_or(|at| now.since(at) > self.back_off.saturating_mul(CALM));
        self.back_off = if was_calm { BACK_OFF_MIN } else { (self.back_off * 2).min(BACK_OFF_MAX) };
        self.demoted_until = Some(now + self.back_off);
        self.demotions += 1;
    }

    fn deviation(&self) -> f64 {
        (self.spread / (self.samples - 1.0).max(1.0)).max(0.0).sqrt().max(DEVIATION_MIN)
    }

    /// Half the width of the interval around the mean of the samples.
    fn error(&self) -> f64 {
        Z_95 * self.deviation() / self.samples.sqrt().max(1.0)
    }

    fn cost(&self, elapsed_ms: f64, is_error: bool) -> f64 {
        // A failure is never cheaper than its duration: a timeout may exceed the charge.
        let cost = if is_error { self.charge_ms.max(elapsed_ms) } else { elapsed_ms };
        cost.max(COST_MIN_MS)
    }
}

/// Slopes of the CUSUMs. Each detects a learner that is worse by this many standard deviations
/// soonest (Lorden 1971). Chosen to span the range that matters.
const LAMBDAS: [f64; 3] = [0.1, 0.25, 0.5];
/// ln 10^6. The header of this file has the rate of false alarms that it allows.
const ALARM: f64 = 13.815_510_557_964_274;
/// The share of the alarm's threshold above which the control slice grows. Chosen.
const SUSPICION: f64 = 0.25;
/// Factor of the control slice during a suspicion, and its largest share of the requests. Chosen by
/// the measurement in the header of this file.
const SUSPECTED: f64 = 10.0;
const SUSPECTED_MAX: f64 = 0.1;
/// Allowance for the learner, in standard deviations of a sample. Chosen.
const ALLOWANCE: f64 = 0.05;
/// The bound of a single sample, in standard deviations: one request of a heavy tail does not
/// decide (bounded influence: Huber 1964). Chosen.
const X_MAX: f64 = 3.0;
/// Samples before the guard judges. With fewer, the relative error of the deviation is more than a
/// quarter: 1/√(2·(n − 1)) for normal samples.
const SAMPLES_MIN: f64 = 10.0;
/// Number of samples that mean and deviation average. Chosen.
const SAMPLES_MAX: f64 = 2000.0;
/// The minimum deviation. Without it, a difference of one percent would be extreme among nearly
/// equal costs. Chosen.
const DEVIATION_MIN: f64 = 0.1;
/// Keeps logarithms finite.
const COST_MIN_MS: f64 = 1e-3;
/// The 97.5 % quantile of the normal distribution.
const Z_95: f64 = 1.96;
/// Divisor of the control slice while the gain is clear. Chosen.
const CLEAR_GAIN: f64 = 5.0;
/// First and longest duration of a demotion. Chosen.
const BACK_OFF_MIN: Duration = Duration::from_secs(10);
const BACK_OFF_MAX: Duration = Duration::from_secs(600);
/// A demotion is a relapse if it comes within this many times the last one's duration after the
/// return. Chosen.
const CALM: u32 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn guard() -> LiveGuard {
        let mut guard = LiveGuard::new();
        guard.configure(0.5, 5000.0);
        guard
    }

    /// Runs rounds until a demotion, at most `most`. Each has 20 requests of the learner and one of
    /// the control, with exponential times of mean `learner` and 10 ms. Returns the number of
    /// rounds.
    fn pairs_to_demotion(guard: &mut LiveGuard, now: Instant, learner: f64, most: u64) -> u64 {
        let mut rng = Rng::new(9);
        let mut draw = |mean: f64| -mean * libm::log(1.0 - rng.unit());
        for pair in 0..most {
            for _ in 0..20 {
                guard.learner_ended(draw(learner), false);
            }
            guard.control_ended(now, draw(10.0), false);
            if !guard.is_in_charge() {
                return pair + 1;
            }
        }
        most
    }

    /// A learner twice as slow is demoted within 100 samples, one four times as slow within 60,
    /// one ten times as slow within 40. Equal sides continue, and their ratio is 1 within its
    /// interval.
    #[test]
    fn demotes_what_is_worse() {
        let now = Instant::from_millis(1000);
        let mut equal = guard();
        assert_eq!(pairs_to_demotion(&mut equal, now, 10.0, 20_000), 20_000);
        let view = equal.view(now);
        let (low, high) = view.interval.expect("samples");
        // The means of logarithms differ slightly: one side is averaged over 20 requests, the
        // other is single.
        assert!(low < 1.02 && high > 0.98 && high - low < 0.2, "{view:?}");
        for (learner, most) in [(20.0, 100), (40.0, 60), (100.0, 40)] {
            let pairs = pairs_to_demotion(&mut guard(), now, learner, 1000);
            assert!(pairs < most, "{learner}: {pairs}");
        }
    }

    type Draw = fn(&mut Rng) -> f64;
    const SAMPLES: u32 = 50_000;

    /// Both sides draw from the same distribution, for four distributions. The highest of the three
    /// CUSUMs exceeds ln A in at most 3 of A samples. The test counts this for A = 100 and 1000,
    /// restarting after each crossing. For A = 10^6 none of 4 times 50 000 samples causes a
    /// demotion.
    #[test]
    fn equal_sides_are_left_alone() {
        let exponential = |rng: &mut Rng| -10.0 * libm::log(1.0 - rng.unit());
        let pareto = |rng: &mut Rng| libm::pow(1.0 - rng.unit(), -1.0 / 1.1);
        let two = |rng: &mut Rng| if rng.unit() < 0.1 { 100.0 } else { 2.0 };
        let failing = |rng: &mut Rng| if rng.unit() < 0.02 { 5000.0 } else { 5.0 + rng.unit() };
        let cases: [(&str, Draw); 4] = [
            ("exponential", exponential),
            ("pareto", pareto),
            ("two values", two),
            ("failing", failing),
        ];
        for (name, draw) in cases {
            for height in [100.0, 1000.0, 1e6] {
                let mut rng = Rng::new(7);
                let mut guard = guard();
                let mut crossings = 0;
                for _ in 0..SAMPLES {
                    for _ in 0..8 {
                        guard.learner_ended(draw(&mut rng), false);
                    }
                    guard.control_ended(Instant::ZERO, draw(&mut rng), false);
                    if guard.alarm() > libm::log(height) {
                        crossings += 1;
                        guard.alarms = Default::default();
                    }
                }
                let most = f64::from(SAMPLES) * 3.0 / height;
                assert!(f64::from(crossings) <= most, "{name}: {crossings} above {height}");
                assert_eq!(guard.demotions, 0, "{name}");
            }
        }
    }

    /// The first demotion lasts 10 s. The next two, each soon after a return, last 20 s and 40 s.
    /// One half an hour later lasts 10 s again.
    #[test]
    fn back_off_doubles_and_forgets() {
        let mut guard = guard();
        let mut rng = Rng::new(1);
        let mut now = Instant::from_millis(1000);
        for (calm_s, expected_s) in [(0, 10), (1, 20), (1, 40), (1800, 10)] {
            now += Duration::from_secs(calm_s);
            pairs_to_demotion(&mut guard, now, 1000.0, 1000);
            let wait = Duration::from_secs(expected_s);
            assert_eq!(guard.view(now).returns_in, Some(wait));
            now += wait;
            guard.draw(now, &mut rng);
            assert!(guard.is_in_charge());
        }
        assert_eq!(guard.demotions, 4);
    }

    /// By hand: ln cost 2.0 and 4.0 of the learner and 1.0 of the control make a sample of 2.
    #[test]
    fn a_sample_by_hand() {
        let mut guard = guard();
        guard.learner_ended(libm::exp(2.0), false);
        guard.learner_ended(libm::exp(4.0), false);
        guard.control_ended(Instant::ZERO, libm::exp(1.0), false);
        assert!((guard.mean - 2.0).abs() < 1e-12);
        guard.learner_ended(1.0, true);
        guard.control_ended(Instant::ZERO, 5000.0, false);
        assert!((guard.mean - 1.0).abs() < 1e-3, "{}", guard.mean);
    }

    /// With a share of 0 there are no control requests, and no random number is drawn.
    #[test]
    fn can_be_turned_off() {
        let mut guard = LiveGuard::new();
        let mut rng = Rng::new(5);
        assert!(!guard.draw(Instant::ZERO, &mut rng));
        assert_eq!(rng, Rng::new(5));
    }
}
