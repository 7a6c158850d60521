//! Candidates for a request, and ways of drawing from them.
use crate::backend::{Access, Backend, BackendTable};
use crate::id::BackendId;
use crate::rng::Rng;

/// Backends that may be chosen: the free ones that were not tried; without any, also those that
/// asked to be left alone; otherwise all of them (fail open).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidates<'a> {
    table: &'a BackendTable,
    tried: &'a [BackendId],
    /// The best access of any.
    access: Access,
}

impl<'a> Candidates<'a> {
    pub(crate) fn new(table: &'a BackendTable, tried: &'a [BackendId]) -> Self {
        Self { table, tried, access: table.best_access_except(tried).unwrap_or(Access::Down) }
    }

    /// The candidate with the lowest score, of equals the one with the lowest id.
    pub(super) fn lowest_scored(&self) -> Option<BackendId> {
        self.table.lowest_except(self.tried)
    }

    /// Whether this backend is a candidate.
    pub(super) fn has(&self, id: BackendId) -> bool {
        self.table.row(id).is_some_and(|row| {
            row.access <= self.access && (self.tried.is_empty() || !self.tried.contains(&id))
        })
    }

    /// Whether no usable backend is left, so that the others are candidates.
    pub(super) fn is_fail_open(&self) -> bool {
        self.access >= Access::Down
    }

    /// Whether the request has not been sent anywhere yet.
    pub(super) const fn is_first_attempt(&self) -> bool {
        self.tried.is_empty()
    }

    /// Every candidate with its load, by id.
    pub(super) fn iter(&self) -> impl Iterator<Item = (BackendId, u32)> {
        let able = self.configured().iter().copied().filter(|id| self.has(*id));
        able.map(|id| (id, self.load(id)))
    }

    /// Returns the facts about a candidate.
    pub(super) fn facts(&self, id: BackendId) -> Option<&'a Backend> {
        self.table.get(id)
    }

    /// Requests that keep a backend busy: those it works on, and recent ones that it refused.
    pub(super) fn load(&self, id: BackendId) -> u32 {
        self.table.row(id).map_or(0, |row| row.load)
    }

    /// The configured backends by slot, candidates or not.
    pub(super) fn configured(&self) -> &'a [BackendId] {
        self.table.configured()
    }

    /// A candidate, each as likely as the others.
    pub(crate) fn draw(&self, rng: &mut Rng) -> Option<BackendId> {
        self.draw_but(None, rng)
    }

    /// A candidate other than `but`, each as likely as the others.
    ///
    /// A few draws from all that are configured first: most are candidates nearly always, and then
    /// a draw costs the same however many there are.
    pub(super) fn draw_but(&self, but: Option<BackendId>, rng: &mut Rng) -> Option<BackendId> {
        let all = self.configured();
        for _ in 0..DRAWS_MAX {
            let id = *all.get(rng.below(all.len() as u64) as usize)?;
            if Some(id) != but && self.has(id) {
                return Some(id);
            }
        }
        let others = || self.iter().map(|(id, _)| id).filter(|id| Some(*id) != but);
        let count = others().count() as u64;
        others().nth(rng.below(count) as usize)
    }

    /// The least by `cost`, drawn among equals; `None` when there is no candidate.
    pub(super) fn least<C: PartialOrd>(
        &self,
        rng: &mut Rng,
        mut cost: impl FnMut(BackendId, u32) -> C,
    ) -> Option<BackendId> {
        let mut best: Option<(BackendId, C)> = None;
        let mut equals = 0_u64;
        for (id, load) in self.iter() {
            let cost = cost(id, load);
            match &best {
                Some((_, least)) if cost > *least => continue,
                Some((_, least)) if cost == *least => {
                    // The k-th of k equals is taken with probability 1/k: each ends as likely.
                    equals += 1;
                    if rng.below(equals) != 0 {
                        continue;
                    }
                }
                _ => equals = 1,
            }
            best = Some((id, cost));
        }
        best.map(|(id, _)| id)
    }

    /// Two different candidates in the order of their drawing; the same twice when there is one.
    pub(super) fn two(&self, rng: &mut Rng) -> Option<(BackendId, BackendId)> {
        let first = self.draw(rng)?;
        Some((first, self.draw_but(Some(first), rng).unwrap_or(first)))
    }
}

/// Draws from all backends before the candidates are counted.
const DRAWS_MAX: usize = 8;
