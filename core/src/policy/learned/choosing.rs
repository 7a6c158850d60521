//! Ways of choosing a backend: least cost, the control's rule, probation, and the last resort.
//! Trials of idle backends are in [`explore`](super::explore).
use super::Learned;
use crate::backend::ScanRow;
use crate::id::BackendId;
use crate::policy::candidates::Candidates;
use crate::rng::Rng;
use crate::time::Instant;

impl Learned {
    /// The open backend with the least cost at `now`.
    pub(super) fn cheapest(
        &mut self,
        now: Instant,
        candidates: &Candidates<'_>,
        rng: &mut Rng,
    ) -> Option<BackendId> {
        // Each cost in the tree dates from the backend's last event. As time passes a cost can only
        // rise. So the winner is weighed again until it stays the winner, at most [`LOOKS_MAX`]
        // times.
        let mut slot = self.costs.draw(rng)?.slot;
        for _ in 0..LOOKS_MAX {
            if !self.units[slot].is_stale(now) {
                break;
            }
            self.units[slot].look(now, &mut self.pool);
            self.weigh(slot);
            slot = self.costs.draw(rng)?.slot;
        }
        let winner = self.units[slot].id;
        if candidates.has(winner) {
            return Some(winner);
        }
        // The tree does not know which backends were already tried or are on hold. For the few
        // requests whose winner is one of these, a scan is fast enough.
        let open = |id: BackendId| self.units.get(id.index()).filter(|unit| unit.is_open());
        let cost = |id, _: &ScanRow| open(id).map_or(f64::INFINITY, |unit| unit.cost);
        candidates.least(rng, cost).filter(|id| open(*id).is_some())
    }

    /// The cost of one more request at a backend at `now`, ms; infinite unless the backend is open.
    pub(crate) fn expected_delay(&mut self, now: Instant, backend: BackendId) -> f64 {
        self.catch_up();
        let slot = backend.index();
        if self.units[slot].is_stale(now) {
            self.units[slot].look(now, &mut self.pool);
            self.weigh(slot);
        }
        let unit = &self.units[slot];
        if unit.is_open() { unit.cost } else { f64::INFINITY }
    }

    /// The open backend with the fewest in flight. Backends whose last response was a recent
    /// failure come last: they have few in flight only because they fail fast.
    pub(super) fn fewest(
        &self,
        now: Instant,
        candidates: &Candidates<'_>,
        rng: &mut Rng,
    ) -> Option<BackendId> {
        let open = |id: BackendId| self.units.get(id.index()).filter(|unit| unit.is_open());
        let load = |id, row: &ScanRow| {
            open(id).map_or((2, 0), |unit| {
                let is_failing = unit.restraints.watch.is_failing(now);
                (u8::from(is_failing), unit.busy(row.load))
            })
        };
        candidates.least(rng, load).filter(|id| open(*id).is_some())
    }

    /// The least bad backend, used if no backend is open.
    pub(super) fn least_bad(
        &self,
        candidates: &Candidates<'_>,
        rng: &mut Rng,
    ) -> Option<BackendId> {
        candidates.least(rng, |id, _| {
            let Some(unit) = self.units.get(id.index()) else {
                return f64::INFINITY;
            };
            let wait = unit.latency_at(&self.pool, unit.busy(unit.in_flight).saturating_add(1));
            // If no backend is open, earlier charges for errors hardly distinguish them, so the
            // chance of failure is used instead.
            let is_shut = if unit.restraints.is_normal() { 0 } else { 1 };
            // Backends in quarantine or on probation come last: a normal one is usable, however
            // full.
            f64::from(is_shut) * SHUT_MS
                + wait
                + unit.restraints.risk(unit.in_flight) * self.pool.charge_ms
        })
    }

    /// The backend on probation that waits for a request. It gets the request even without a budget
    /// for trials and while the learner is not in charge.
    pub(super) fn try_out(&mut self, candidates: &Candidates<'_>) -> Option<BackendId> {
        let mut units = self.units.iter_mut();
        let unit = units.find(|unit| {
            unit.is_present
                && unit.is_up
                && unit.restraints.watch.wants_trial()
                && candidates.has(unit.id)
        })?;
        unit.restraints.watch.try_out();
        Some(unit.id)
    }
}

/// The maximum number of backends that one decision evaluates again. Chosen: usually one or two are.
const LOOKS_MAX: usize = 4;
/// Longer than any wait, so that ejected backends come after all others.
const SHUT_MS: f64 = 1e12;
