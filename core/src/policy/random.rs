//! `random`: every candidate is equally likely, regardless of its state.
//!
//! The baseline that every other policy must beat. Its choices depend only on the seed.
use crate::backend::Backend;
use crate::id::BackendId;
use crate::policy::PolicyView;
use crate::policy::candidates::Candidates;
use crate::policy::contract::{Choice, Habits, Policy};
use crate::rng::Rng;
use crate::time::Instant;

/// The policy has no state of its own.
#[derive(Debug)]
pub(crate) struct Random;

impl Policy for Random {
    fn choose(
        &mut self,
        _now: Instant,
        candidates: &Candidates<'_>,
        rng: &mut Rng,
    ) -> Option<Choice> {
        candidates.draw(rng).map(Choice::of)
    }

    fn habits(&self) -> Habits {
        Habits::DEAF
    }

    fn view(&self, _now: Instant, _id: BackendId, _backend: &Backend) -> PolicyView {
        PolicyView::Random
    }
}

#[cfg(test)]
mod tests {
    use crate::config::PolicyKind;
    use crate::policy::testing::Bench;

    /// Of 4000 requests to four backends, of which one is down, each of the other three gets a
    /// third, within four standard deviations (30 each). If all but one were tried, that one is
    /// chosen.
    #[test]
    fn all_are_as_likely() {
        let mut bench = Bench::new(PolicyKind::Random, 4);
        bench.bring_down(2);
        let mut counts = [0_i32; 4];
        for _ in 0..4000 {
            counts[bench.send(&[])] += 1;
        }
        assert_eq!(counts[2], 0);
        for slot in [0, 1, 3] {
            assert!((counts[slot] - 1333).abs() < 120, "{counts:?}");
        }
        assert_eq!(bench.send(&[0, 1]), 3);
    }
}
