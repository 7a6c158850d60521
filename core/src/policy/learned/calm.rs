//! The short path for a model that is rarely consulted: successful requests at a backend without
//! restrictions.
//!
//! Policy `score` consults its model only while the current backend is full. Until then a success
//! is only counted. Its effect on speed, errors and cost is applied at the next consultation, at
//! any other event of the backend, or after [`BATCH`] successes. If the pool has a single backend,
//! successes are not counted at all. The resulting speeds and costs are those of the long path,
//! except that the successes in a batch are taken as evenly spaced.
use std::time::Duration;

use super::curve::{LEVELS, bin};
use super::unit::Unit;
use super::{IDLE_TRIAL, Learned, OWN_MEMORY, POOL_MEMORY, REFRESH, average};
use crate::policy::candidates::Candidates;
use crate::policy::contract::{Choice, Ended};
use crate::rng::Rng;
use crate::time::{Instant, millis};

impl Learned {
    /// Handles the end of a request if the short path is sufficient. Returns `false` if
    /// `on_outcome` has to handle it.
    pub(crate) fn ended_calmly(&mut self, now: Instant, ended: &Ended<'_>) -> bool {
        let slot = ended.backend.index();
        let is_good = ended.outcome.is_error() == Some(false) && ended.token == 0;
        let is_done = is_good && self.completed_calmly(now, slot, ended.elapsed);
        if is_done {
            self.units[slot].heed_refusals(ended.facts.turned_away(), true);
        }
        is_done
    }

    /// Handles a success at a calm backend. Returns `false` if the long path has to handle it.
    fn completed_calmly(&mut self, now: Instant, slot: usize, elapsed: Duration) -> bool {
        let is_alone = self.present < 2;
        let (pool, unit) = (&mut self.pool, &mut self.units[slot]);
        if is_alone && unit.is_calm() {
            unit.skip(now);
            unit.in_flight = unit.in_flight.saturating_sub(1);
            return true;
        }
        // When a fit is due, and while the scale is unknown, a completion has effects that cannot
        // be postponed.
        let is_short = !pool.is_booting()
            && unit.unsettled < BATCH
            && !(pool.completions + 1).is_multiple_of(REFRESH)
            && !(unit.completions + 1).is_multiple_of(REFRESH)
            && unit.is_calm();
        if !is_short {
            return false;
        }
        // The time until now is counted under the number in flight before this end. This may detect
        // a stall.
        unit.count(now, pool);
        if unit.restraints.is_stalled {
            return false;
        }
        let n = unit.in_flight;
        debug_assert!(n > 0, "only a request in flight ends");
        unit.in_flight = n.saturating_sub(1);
        unit.unsettled += 1;
        unit.completions += 1;
        pool.completions += 1;
        let n = unit.answered(now, n);
        pool.curve.completions[(n as usize).min(LEVELS)] += 1.0;
        unit.shape.completions[bin(n)] += 1.0;
        let elapsed_ms = millis(elapsed);
        average(&mut pool.latency_ms, elapsed_ms);
        average(&mut unit.latency_ms, elapsed_ms);
        unit.quiet_since = now;
        unit.due = 0.0;
        self.postpone(slot);
        true
    }

    /// Applies a change in the number of requests in flight. The time from now on is counted under
    /// the new number. The cost is updated when the model is next consulted.
    pub(super) fn postpone(&mut self, slot: usize) {
        let unit = &mut self.units[slot];
        unit.set_pace(&self.pool);
        if !unit.is_postponed {
            unit.is_postponed = true;
            self.postponed.push(slot);
        }
    }

    /// Adds the counted successes of a backend to its speed and errors.
    pub(super) fn settle_up(&mut self, slot: usize) {
        let (pool, unit) = (&mut self.pool, &mut self.units[slot]);
        let good = std::mem::take(&mut unit.unsettled);
        if good == 0 {
            return;
        }
        unit.take_in_parts(pool, good);
        for _ in 0..good {
            // One by one: these counts decay with each request, not with time.
            pool.errors.observe(false, POOL_MEMORY);
            unit.errors.observe(false, OWN_MEMORY);
            unit.restraints.watch.answered_again();
        }
        unit.settle(pool);
        unit.due_speed = unit.shrunk_speed;
    }

    /// The backend for a single request that finds the current one full: the one with the least
    /// expected delay, or one that has been idle long enough for a trial.
    pub(crate) fn relief(
        &mut self,
        now: Instant,
        candidates: &Candidates<'_>,
        rng: &mut Rng,
    ) -> Option<Choice> {
        self.catch_up();
        self.age(now);
        self.explorer.earn();
        if let Some(Choice { backend, .. }) = self.explore(now, candidates) {
            return Some(Choice { backend, token: IDLE_TRIAL });
        }
        let cheapest = self.cheapest(now, candidates, rng);
        cheapest.or_else(|| self.least_bad(candidates, rng)).map(Choice::of)
    }

    /// Updates every cost before a consultation of the model.
    pub(super) fn catch_up(&mut self) {
        while let Some(slot) = self.postponed.pop() {
            self.units[slot].is_postponed = false;
            self.settle_up(slot);
            self.weigh(slot);
        }
    }
}

impl Unit {
    /// Skips the time since the last check: without a choice of backends the model learns nothing.
    fn skip(&mut self, now: Instant) {
        self.looked_at = now;
        self.quiet_since = now;
        self.due = 0.0;
    }

    /// Whether a success leaves all restrictions unchanged.
    #[inline]
    fn is_calm(&self) -> bool {
        self.is_present && self.restraints.is_calm()
    }
}

/// Maximum number of successes in a batch. Chosen. Estimating the speed costs about as much as the
/// rest of a decision, so a batch of 16 leaves little of that cost, and is over after a few requests.
const BATCH: u32 = 16;
