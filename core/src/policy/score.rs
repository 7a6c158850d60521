//! `score`: the lowest score wins, of equals the lowest id. The formula stands in
//! [`score.rs`](crate::score); scores are kept up to date by the backend table, so that a choice
//! costs no arithmetic.
use crate::backend::{Backend, BackendId};
use crate::policy::{Candidates, Choice, Habits, Policy, PolicyView};
use crate::rng::Rng;
use crate::time::Instant;

/// The policy has no state of its own.
#[derive(Debug)]
pub(crate) struct Score;

impl Policy for Score {
    fn choose(
        &mut self,
        _now: Instant,
        candidates: &Candidates<'_>,
        _rng: &mut Rng,
    ) -> Option<Choice> {
        candidates.lowest_scored().map(Choice::of)
    }

    fn habits(&self) -> Habits {
        Habits { is_gated: true, ..Habits::DEAF }
    }

    fn view(&self, _now: Instant, _id: BackendId, backend: &Backend) -> PolicyView {
        PolicyView::Score { points: backend.parts().total }
    }
}
