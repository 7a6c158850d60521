//! CPU work of a known size: an undisturbed core needs the requested time for it.
//!
//! It is a fixed amount of work, not a loop until a time has passed: on a busy machine it takes
//! longer, like the work of a real server.
use std::hint;
use std::time::{Duration, Instant};

/// The speed of this machine.
#[derive(Debug)]
pub(crate) struct Work {
    rounds_per_slice: u64,
}

impl Work {
    /// Measures the machine for some milliseconds. The fastest of several measurements counts,
    /// because disturbances only make them slower.
    pub(crate) fn calibrate() -> Self {
        let best = (0..CALIBRATIONS)
            .map(|_| {
                let start = Instant::now();
                spin(CALIBRATION_ROUNDS);
                start.elapsed().as_nanos().max(1)
            })
            .min()
            .unwrap_or(1);
        let rounds = u128::from(CALIBRATION_ROUNDS) * SLICE.as_nanos() / best;
        Self { rounds_per_slice: u64::try_from(rounds).unwrap_or(u64::MAX).max(1) }
    }

    /// Works for `cpu` in slices, and stops between two slices once `is_over` returns true.
    pub(crate) fn run(&self, cpu: Duration, is_over: impl Fn() -> bool) {
        for _ in 0..cpu.as_nanos() / SLICE.as_nanos() {
            if is_over() {
                return;
            }
            spin(self.rounds_per_slice);
        }
    }
}

fn spin(rounds: u64) {
    let mut state = hint::black_box(1_u64);
    for _ in 0..rounds {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).rotate_left(17) ^ 1;
    }
    hint::black_box(state);
}

const SLICE: Duration = Duration::from_millis(1);
const CALIBRATIONS: u32 = 8;
/// About a millisecond on a machine of 2025.
const CALIBRATION_ROUNDS: u64 = 500_000;

#[cfg(test)]
mod tests {
    use super::*;

    /// Work of 40 ms takes more than 15 ms. The margin is for a core that has become faster since
    /// the calibration. Other work that ends in between makes it faster by more, so only one of
    /// several attempts must take that long.
    #[test]
    fn work_takes_its_time() {
        let is_long = |_| {
            let work = Work::calibrate();
            let start = Instant::now();
            work.run(Duration::from_millis(40), || false);
            start.elapsed() > Duration::from_millis(15)
        };
        assert!((0..10).any(is_long), "the work is too short each time");
    }

    /// Work that is over before it begins does nothing: ten minutes of it return at once.
    #[test]
    fn work_can_be_given_up() {
        let start = Instant::now();
        Work::calibrate().run(Duration::from_secs(600), || true);
        assert!(start.elapsed() < Duration::from_secs(60));
    }
}
