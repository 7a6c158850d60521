//! The current speed of one backend: completions relative to exposure, with several lengths of
//! memory.
//!
//! While a backend has n requests for dt ms, a backend of speed 1 would complete `dx = D(n)·dt` of
//! them: the exposure. The speed is completions / exposure, which also accounts for requests that
//! are still running (censored ones, in survival analysis). Each of nine memories W = 8 … 2048
//! forgets by exposure: `f = 1/(1 + dx/W)`, `C ← C·f`, `X ← (X + dx)·f`. A completion adds 1 to C.
//!
//! The memory in use is Lepski's choice: the longest one whose interval for the root of the speed,
//! `(√(C + 3/8) ± h)/√X` with `h = confidence·√φ/2` (Anscombe's transform), overlaps those of all
//! shorter ones. The shortest memory considered has 4·φ to 8·φ completions, and at least 8, because
//! fewer completions in clumps say too little. So the memory is long while the speed is steady, and
//! short just after a change.
//!
//! A longer memory describes an earlier time if its interval and that of the memory in use would be
//! disjoint even at twice their width. All memories longer than the one in use then restart with
//! its contents. Without this rule, one longer memory after the other gave estimates one or two
//! standard errors below a recovered speed, and a backend got half its share for 30 s.

/// Completions and exposure of one backend.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Speed {
    /// Completions, by memory.
    pub(super) completions: [f64; MEMORIES],
    /// Number of completions expected at speed 1, by memory.
    pub(super) exposure: [f64; MEMORIES],
    block: Stretch,
}

/// Two adjacent stretches of equal exposure, whose completions show the dispersion.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Stretch {
    completions: [f64; 2],
    exposure: [f64; 2],
}

/// The estimated speed of a backend.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Estimate {
    /// Logarithm of the speed.
    pub(super) ln_speed: f64,
    /// Standard error of `ln_speed`.
    pub(super) error: f64,
    /// The index of the memory in use.
    pub(super) memory: u8,
}

impl Speed {
    /// Starts at the relative speed `factor`, as if it were measured over an exposure of [`START`].
    /// Does nothing if there is any evidence or if `factor` is 1. Returns whether it did something.
    pub(super) fn start(&mut self, factor: f64) -> bool {
        if factor == 1.0 || self.exposure[0] > 0.0 || self.completions[0] > 0.0 {
            return false;
        }
        self.completions = [START * factor; MEMORIES];
        self.exposure = [START; MEMORIES];
        true
    }

    /// Adds exposure. Returns a sample of the dispersion when a pair of stretches is full.
    pub(super) fn expose(&mut self, dx: f64) -> Option<f64> {
        // Each memory decays by exposure, not by time: it keeps the same number of completions at
        // any load.
        for memory in 0..MEMORIES {
            let kept = 1.0 / (1.0 + dx * (1.0 / length(memory)));
            self.completions[memory] *= kept;
            self.exposure[memory] = (self.exposure[memory] + dx) * kept;
        }
        self.block.expose(dx)
    }

    /// Takes back exposure that was added a short time ago.
    pub(super) fn withdraw(&mut self, dx: f64) {
        for memory in 0..MEMORIES {
            // The part of `dx` that has not decayed, if it was added in one step.
            let left = dx / (1.0 + dx * (1.0 / length(memory)));
            self.exposure[memory] = (self.exposure[memory] - left).max(0.0);
        }
        // The exposure may belong to either stretch, so the pair starts again.
        self.block = Stretch::default();
    }

    /// Takes back the exposure of a time in which no completion was due, but only until the speed
    /// of each memory is `most`: how much of that exposure belonged to other requests is known only
    /// roughly.
    pub(super) fn withdraw_up_to(&mut self, dx: f64, most: f64) {
        let before = self.exposure;
        self.withdraw(dx);
        let memories = self.exposure.iter_mut().zip(before).zip(self.completions);
        for ((exposure, before), completions) in memories {
            *exposure = exposure.max(before.min(completions / most));
        }
    }

    /// Counts a good completion.
    pub(super) fn complete(&mut self) {
        for completions in &mut self.completions {
            *completions += 1.0;
        }
        self.block.completions[self.block.at()] += 1.0;
    }

    /// Estimates the speed, with intervals of `confidence` standard errors under dispersion `phi`.
    pub(super) fn estimate(&mut self, confidence: f64, phi: f64) -> Estimate {
        let half = 0.5 * confidence * phi.sqrt();
        let (mut low, mut high) = ([0.0; MEMORIES], [0.0; MEMORIES]);
        for memory in 0..MEMORIES {
            let root = (self.completions[memory] + 0.375).sqrt();
            let scale = 1.0 / self.exposure[memory].max(EXPOSURE_MIN).sqrt();
            low[memory] = (root - half) * scale;
            high[memory] = (root + half) * scale;
        }
        // N completions in clumps of phi are as much evidence as N/phi independent ones.
        let first = (0..MEMORIES - 1).find(|memory| phi < f64::from(2_u32 << memory)).unwrap_or(0);
        // Intersects the intervals, beginning with the shortest memory. The first empty
        // intersection shows that the longer memory contains an earlier speed.
        let (mut lowest, mut highest) = (low[first], high[first]);
        let mut used = first;
        for memory in first + 1..MEMORIES {
            lowest = lowest.max(low[memory]);
            highest = highest.min(high[memory]);
            if lowest > highest {
                break;
            }
            used = memory;
        }
        let is_past = |memory: usize| {
            let apart = |above: usize, below: usize| {
                let reach = |memory: usize| high[memory] - low[memory];
                low[above] - high[below] > 0.5 * (reach(above) + reach(below))
            };
            apart(used, memory) || apart(memory, used)
        };
        let (completions, exposure) = (self.completions[used], self.exposure[used]);
        // The speed has certainly changed. The longer memories would need their whole length to
        // forget the time before.
        if (used + 1..MEMORIES).any(is_past) {
            self.completions[used + 1..].fill(completions);
            self.exposure[used + 1..].fill(exposure);
        }
        Estimate {
            // Adding half a completion, and its exposure at speed 1, keeps the logarithm finite.
            ln_speed: libm::log((completions + 0.5) / (exposure + 0.5)),
            error: (phi / (completions + 1.0)).sqrt(),
            memory: used as u8,
        }
    }

    /// Reduces the evidence, so that the variance of `ln_speed` grows by `drift` under the
    /// dispersion `phi`. The speed stays the same.
    pub(super) fn age(&mut self, drift: f64, phi: f64) {
        for (completions, exposure) in self.completions.iter_mut().zip(&mut self.exposure) {
            // From `phi/(kept·c) = phi/c + drift`.
            let kept = phi / (phi + drift * *completions);
            *completions *= kept;
            *exposure *= kept;
        }
    }

    /// Adapts the exposure to a curve that is `factor` times as high.
    pub(super) fn rescale(&mut self, factor: f64) {
        self.exposure.iter_mut().for_each(|exposure| *exposure *= factor);
        self.block.exposure.iter_mut().for_each(|exposure| *exposure *= factor);
    }
}

/// A configured weight counts as this much exposure: the length of the shortest memory. It takes
/// about as many completions to correct a wrong weight.
const START: f64 = 8.0;

impl Stretch {
    const fn at(&self) -> usize {
        (self.exposure[0] >= BLOCK_EXPOSURE) as usize
    }

    fn expose(&mut self, dx: f64) -> Option<f64> {
        self.exposure[self.at()] += dx;
        if self.exposure[1] < BLOCK_EXPOSURE {
            return None;
        }
        let ([c1, c2], [x1, x2]) = (self.completions, self.exposure);
        *self = Self::default();
        let total = c1 + c2;
        let gap = c1 * x2 - c2 * x1;
        // The chi-square statistic of two Poisson counts with exposures x1 and x2, about 1 without
        // clumps.
        (total > 0.0).then(|| gap * gap / (x1 * x2 * total))
    }
}

/// The length of a memory in completions.
pub(super) const fn length(memory: usize) -> f64 {
    (8_u32 << memory) as f64
}

pub(super) const MEMORIES: usize = 9;
/// Keeps the division finite while the exposure is 0.
const EXPOSURE_MIN: f64 = 1e-9;
/// Exposure of a stretch, about the number of completions at speed 1. Chosen; halving or doubling
/// it hardly changes results.
const BLOCK_EXPOSURE: f64 = 32.0;

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand: an exposure of 8 halves the contents of the shortest memory, itself included, and
    /// a completion adds one to every memory.
    #[test]
    fn memories_by_hand() {
        let mut speed = Speed::default();
        speed.complete();
        speed.expose(8.0);
        assert_eq!(speed.completions[0], 0.5);
        assert_eq!(speed.exposure[0], 4.0);
        assert!((speed.exposure[8] - 8.0 / (1.0 + 8.0 / 2048.0)).abs() < 1e-12);
        speed.complete();
        assert_eq!(speed.completions[0], 1.5);
    }

    /// After exposure is taken back the speed is as before, within 2 %.
    #[test]
    fn exposure_is_taken_back() {
        let mut speed = Speed::default();
        for _ in 0..3000 {
            speed.expose(0.5);
            speed.complete();
        }
        let before = speed.estimate(1.5, 1.0).ln_speed;
        speed.expose(100.0);
        assert!(speed.clone().estimate(1.5, 1.0).ln_speed < before - 1.0);
        speed.withdraw(100.0);
        let after = speed.estimate(1.5, 1.0).ln_speed;
        assert!((after - before).abs() < 0.02, "{before} and {after}");
    }

    /// By hand: 100 completions have a variance of 0.01. With a drift of 0.03 it is that of 25. With
    /// a dispersion of 4 it is 0.04, so a drift of 0.12 has the same effect. The speed stays.
    #[test]
    fn evidence_ages() {
        for (drift, phi) in [(0.03, 1.0), (0.12, 4.0)] {
            let mut speed =
                Speed { completions: [100.0; 9], exposure: [50.0; 9], ..Speed::default() };
            speed.age(drift, phi);
            assert!((speed.completions[0] - 25.0).abs() < 1e-9, "{speed:?}");
            assert!((speed.exposure[8] - 12.5).abs() < 1e-9, "{speed:?}");
        }
    }

    /// A steady speed of 2 is found with the longest memory. After the speed falls to a fifth, a
    /// short memory is used within 40 completions, and the estimate is close after 150. Without
    /// completions, exposure alone lowers the speed.
    #[test]
    fn follows_a_change_with_a_short_memory() {
        let mut speed = Speed::default();
        for _ in 0..6000 {
            speed.expose(0.5);
            speed.complete();
        }
        let steady = speed.estimate(1.5, 1.0);
        assert_eq!(steady.memory, 8);
        assert!((steady.ln_speed - libm::log(2.0)).abs() < 0.01, "{steady:?}");
        let mut stalled = speed.clone();
        for _ in 0..40 {
            speed.expose(2.5);
            speed.complete();
        }
        assert!(speed.estimate(1.5, 1.0).memory <= 3);
        for _ in 0..110 {
            speed.expose(2.5);
            speed.complete();
        }
        let fallen = speed.estimate(1.5, 1.0);
        assert!((fallen.ln_speed - libm::log(0.4)).abs() < 0.25, "{fallen:?}");
        for _ in 0..12 {
            stalled.expose(5.0);
        }
        assert!(stalled.estimate(1.5, 1.0).ln_speed < libm::log(2.0) - 1.0);
    }

    /// By hand: 40 and 24 completions in two stretches of 32 are (40·32 − 24·32)²/(32·32·64) = 4.
    #[test]
    fn dispersion_by_hand() {
        let mut speed = Speed::default();
        let mut sample = None;
        for count in [40, 24] {
            for _ in 0..count {
                speed.complete();
            }
            sample = speed.expose(32.0);
        }
        assert_eq!(sample, Some(4.0));
        assert_eq!(speed.block, Stretch::default());
    }
}
