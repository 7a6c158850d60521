//! The candidates for a request, and ways to draw from them.
use crate::backend::{Access, Backend, BackendTable, ScanRow};
use crate::id::BackendId;
use crate::others::Others;
use crate::rng::Rng;

/// The backends that may be chosen: free ones that were not tried. Without any, those in slow start
/// are candidates too, then held ones, then backups, then ejected ones. If all are down (fail
/// open), the candidates are those that are not known to refuse connections. If all are, no policy
/// is asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidates<'a> {
    table: &'a BackendTable,
    tried: &'a [BackendId],
    /// The best access that a candidate has.
    access: Access,
    /// Requests of others at the backends, as far as reports show them.
    others: Option<&'a Others>,
}

impl<'a> Candidates<'a> {
    pub(crate) fn new(
        table: &'a BackendTable,
        tried: &'a [BackendId],
        others: Option<&'a Others>,
    ) -> Self {
        let access = table.best_access_except(tried).unwrap_or(Access::Refusing);
        Self { table, tried, access, others }
    }

    /// Requests of others at the backends; `None` while no report shows them.
    pub(super) const fn others(&self) -> Option<&'a Others> {
        self.others
    }

    /// The candidates if the policy cannot use those with the best access: backups join them.
    pub(crate) fn with_backups(self) -> Self {
        let untried = self.configured().iter().filter(|id| !self.tried.contains(id));
        let best = untried.filter_map(|id| self.table.row(*id)).map(|row| row.access);
        let best =
            best.filter(|access| access.is_behind_others() && *access < Access::Ejected).min();
        Self { access: best.map_or(self.access, |best| best.max(self.access)), ..self }
    }

    /// The candidate with the lowest score; the lowest id among equals.
    pub(super) fn lowest_scored(&self) -> Option<BackendId> {
        self.table.lowest_except(self.tried)
    }

    /// Whether this backend is a candidate.
    pub(super) fn has(&self, id: BackendId) -> bool {
        self.table.row(id).is_some_and(|row| {
            row.access <= self.access && (self.tried.is_empty() || !self.tried.contains(&id))
        })
    }

    /// Whether no usable backend is left, so that unusable ones are candidates.
    pub(crate) fn is_fail_open(&self) -> bool {
        self.access >= Access::Down
    }

    /// Whether every backend that is left is known to refuse connections.
    pub(crate) fn are_refusing(&self) -> bool {
        self.access == Access::Refusing
    }

    /// Whether this is the first attempt of the request.
    pub(super) const fn is_first_attempt(&self) -> bool {
        self.tried.is_empty()
    }

    /// Every candidate with its load, by id.
    pub(super) fn iter(&self) -> impl Iterator<Item = (BackendId, u32)> {
        // Only configured backends have an access that a candidate can have.
        let rows = self.table.rows().iter().enumerate();
        let able = rows.filter(|(slot, row)| {
            row.access <= self.access
                && (self.tried.is_empty() || !self.tried.contains(&row.id(*slot)))
        });
        able.map(|(slot, row)| (row.id(slot), row.load))
    }

    /// Returns the facts about a candidate.
    pub(super) fn facts(&self, id: BackendId) -> Option<&'a Backend> {
        self.table.get(id)
    }

    /// A counter of the changes of a backend's facts, which wraps. While it is unchanged, so are
    /// the facts.
    pub(super) fn changes(&self, id: BackendId) -> u32 {
        self.table.row(id).map_or(0, |row| row.changes)
    }

    /// Requests that keep a backend busy: those it works on, and recent ones that it refused.
    pub(super) fn load(&self, id: BackendId) -> u32 {
        self.table.row(id).map_or(0, |row| row.load)
    }

    /// The cost of one more request at a backend, for a policy that counts requests: those that
    /// keep it busy plus one, relative to its weight.
    pub(super) fn weighted(&self, id: BackendId) -> f64 {
        self.table.row(id).map_or(0.0, |row| row.weighted())
    }

    /// The number of slots, including those of removed backends.
    pub(super) fn slots(&self) -> usize {
        self.table.rows().len()
    }

    /// The configured backends by slot, candidates or not.
    pub(super) fn configured(&self) -> &'a [BackendId] {
        self.table.configured()
    }

    /// A candidate drawn at random, all equally likely.
    pub(crate) fn draw(&self, rng: &mut Rng) -> Option<BackendId> {
        self.draw_but(None, rng)
    }

    /// A candidate other than `but` drawn at random, all equally likely.
    ///
    /// The first draws are from all configured backends: nearly always most of them are
    /// candidates, and such a draw costs the same for any number of backends.
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

    /// The candidate with the least `cost`, drawn among equals; `None` without candidates. The row
    /// has what a scan reads of a candidate.
    pub(super) fn least<C: PartialOrd>(
        &self,
        rng: &mut Rng,
        mut cost: impl FnMut(BackendId, &ScanRow) -> C,
    ) -> Option<BackendId> {
        let mut best: Option<(BackendId, C)> = None;
        let mut equals = 0_u64;
        let is_retry = !self.tried.is_empty();
        for (slot, row) in self.table.rows().iter().enumerate() {
            let id = row.id(slot);
            if row.access > self.access || is_retry && self.tried.contains(&id) {
                continue;
            }
            let cost = cost(id, row);
            match &best {
                Some((_, least)) if cost > *least => continue,
                Some((_, least)) if cost == *least => {
                    // The k-th of k equals replaces the choice with probability 1/k, so all are
                    // equally likely.
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

    /// Two different candidates in the order in which they were drawn; the same one twice if there
    /// is only one.
    pub(super) fn two(&self, rng: &mut Rng) -> Option<(BackendId, BackendId)> {
        let first = self.draw(rng)?;
        Some((first, self.draw_but(Some(first), rng).unwrap_or(first)))
    }
}

/// The maximum number of draws from all backends, before the candidates are counted.
const DRAWS_MAX: usize = 8;
