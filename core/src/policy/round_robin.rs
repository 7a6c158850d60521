//! `round_robin`: the next candidate by id after the last one; the lowest id follows the highest.
//!
//! The state is the slot after the last choice. A candidate that was skipped while it was unusable
//! gets no extra turns later.
use crate::backend::Backend;
use crate::id::BackendId;
use crate::policy::PolicyView;
use crate::policy::candidates::Candidates;
use crate::policy::contract::{Choice, Habits, Policy};
use crate::rng::Rng;
use crate::time::Instant;

/// The slot of the next turn.
#[derive(Debug)]
pub(crate) struct RoundRobin {
    next: usize,
}

/// The state of one backend under `round_robin`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RoundRobinView {
    /// Whether the last request went to it.
    pub was_last: bool,
}

impl RoundRobin {
    pub(super) const fn new() -> Self {
        Self { next: 0 }
    }
}

impl Policy for RoundRobin {
    fn choose(
        &mut self,
        _now: Instant,
        candidates: &Candidates<'_>,
        _rng: &mut Rng,
    ) -> Option<Choice> {
        let all = candidates.configured();
        let (before, after) = all.split_at(all.partition_point(|id| id.index() < self.next));
        let chosen = after.iter().chain(before).copied().find(|id| candidates.has(*id))?;
        self.next = chosen.index() + 1;
        Some(Choice::of(chosen))
    }

    fn habits(&self) -> Habits {
        Habits::DEAF
    }

    fn view(&self, _now: Instant, id: BackendId, _backend: &Backend) -> PolicyView {
        PolicyView::RoundRobin(RoundRobinView { was_last: self.next == id.index() + 1 })
    }
}

#[cfg(test)]
mod tests {
    use crate::config::PolicyKind;
    use crate::policy::testing::Bench;

    /// Turns go by id. A backend that is down and one that was tried are skipped.
    #[test]
    fn turns_by_id() {
        let mut bench = Bench::new(PolicyKind::RoundRobin, 4);
        let turns: Vec<_> = (0..5).map(|_| bench.send(&[])).collect();
        assert_eq!(turns, [0, 1, 2, 3, 0]);
        bench.bring_down(1);
        assert_eq!(bench.send(&[]), 2);
        assert_eq!(bench.send(&[3]), 0);
        assert_eq!(bench.send(&[]), 2);
    }
}
