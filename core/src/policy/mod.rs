//! Policies rank backends and do nothing else: health filters before them, the gate restrains
//! after them, the router combines.
mod score;

use crate::backend::{BackendId, BackendTable};
use crate::config::PolicyKind;
use crate::event::Outcome;
use crate::rng::Rng;
use crate::time::Instant;

use self::score::Score;

/// Ranks candidates. The same calls with the same seed give the same choices.
pub(crate) trait Policy {
    /// The candidate that this request should go to; `None` only when there is none.
    fn choose(
        &mut self,
        now: Instant,
        candidates: &Candidates<'_>,
        rng: &mut Rng,
    ) -> Option<Choice>;

    /// A request to this backend came to its end. Policies that do not learn do not listen.
    fn on_outcome(&mut self, _now: Instant, _backend: BackendId, _outcome: &Outcome) {}
}

/// Who may be chosen: the usable backends that were not tried, or, when there are none, the others
/// that were not tried (fail open).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidates<'a> {
    table: &'a BackendTable,
    tried: &'a [BackendId],
}

/// What a policy would do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Choice {
    pub(crate) backend: BackendId,
}

/// The configured policy; an enum, so that a choice costs no indirect call.
#[derive(Debug)]
pub(crate) enum Ranker {
    Score(Score),
}

impl<'a> Candidates<'a> {
    pub(crate) const fn new(table: &'a BackendTable, tried: &'a [BackendId]) -> Self {
        Self { table, tried }
    }

    /// The candidate with the lowest score, of equals the one with the lowest id.
    fn lowest_scored(&self) -> Option<BackendId> {
        self.table.lowest_except(self.tried)
    }
}

impl Ranker {
    pub(crate) const fn new(kind: PolicyKind) -> Self {
        match kind {
            PolicyKind::Score => Self::Score(Score),
        }
    }

    pub(crate) const fn kind(&self) -> PolicyKind {
        match self {
            Self::Score(_) => PolicyKind::Score,
        }
    }

    /// Whether the gate restrains its choices: only a policy that sends everything to one backend
    /// needs steadying.
    pub(crate) const fn is_gated(&self) -> bool {
        match self {
            Self::Score(_) => true,
        }
    }
}

impl Policy for Ranker {
    fn choose(
        &mut self,
        now: Instant,
        candidates: &Candidates<'_>,
        rng: &mut Rng,
    ) -> Option<Choice> {
        match self {
            Self::Score(score) => score.choose(now, candidates, rng),
        }
    }

    fn on_outcome(&mut self, now: Instant, backend: BackendId, outcome: &Outcome) {
        match self {
            Self::Score(score) => score.on_outcome(now, backend, outcome),
        }
    }
}
