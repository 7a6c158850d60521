//! `p2c`: of two different candidates drawn at random, the one with fewer requests in flight; the
//! first one if they are equal. With weights the requests in flight plus the new one are divided by
//! the weight.
//!
//! Mitzenmacher, The Power of Two Choices in Randomized Load Balancing (2001).
use crate::backend::Backend;
use crate::id::BackendId;
use crate::policy::PolicyView;
use crate::policy::candidates::Candidates;
use crate::policy::contract::{Choice, Habits, Policy};
use crate::rng::Rng;
use crate::time::Instant;

/// The policy has no state of its own.
#[derive(Debug)]
pub(crate) struct P2c;

/// The figures of a backend for `p2c`; the lower load of two drawn backends wins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct P2cView {
    /// Requests that the backend works on, and recent ones that it refused.
    pub in_flight: u32,
}

impl Policy for P2c {
    fn choose(
        &mut self,
        _now: Instant,
        candidates: &Candidates<'_>,
        rng: &mut Rng,
    ) -> Option<Choice> {
        let (first, second) = candidates.two(rng)?;
        let is_second_better = candidates.weighted(second) < candidates.weighted(first);
        Some(Choice::of(if is_second_better { second } else { first }))
    }

    fn habits(&self) -> Habits {
        Habits::DEAF
    }

    fn view(&self, _now: Instant, _id: BackendId, backend: &Backend) -> PolicyView {
        PolicyView::P2c(P2cView { in_flight: backend.load() })
    }
}

#[cfg(test)]
mod tests {
    use crate::config::PolicyKind;
    use crate::policy::testing::Bench;

    /// With two backends both are always drawn: they take turns while no request ends.
    #[test]
    fn of_two_the_less_loaded() {
        let mut bench = Bench::new(PolicyKind::P2c, 2);
        for _ in 0..50 {
            assert_eq!(bench.send(&[]) + bench.send(&[]), 1);
        }
        bench.bring_down(0);
        assert_eq!(bench.send(&[]), 1);
    }

    /// Of three backends, one with far more requests than the others is never chosen.
    #[test]
    fn the_busiest_is_never_chosen() {
        let mut bench = Bench::new(PolicyKind::P2c, 3);
        for _ in 0..100 {
            bench.send(&[0, 1]);
        }
        for _ in 0..100 {
            assert_ne!(bench.send(&[]), 2);
        }
    }
}
