//! What errors do to a backend's standing, by the guard rails of all.
use std::time::Duration;

use super::rails::Standing;
use super::{Learned, OWN_MEMORY, POOL_MEMORY};
use crate::time::Instant;

impl Learned {
    /// An error of a request that was in flight with n − 1 others.
    pub(super) fn failed(
        &mut self,
        now: Instant,
        slot: usize,
        elapsed: Duration,
        is_timeout: bool,
    ) {
        let unit = &mut self.units[slot];
        // Without its own run of errors, which else were part of what they are compared with.
        let own = f64::from(unit.rails.errors_in_row);
        let others = self.pool.error_share_without(own);
        self.pool.errors.observe(true, POOL_MEMORY);
        let common = self.pool.error_share();
        let n = unit.n + 1;
        if !is_timeout && unit.rails.is_normal() {
            // An answer, if a bad one: it is not stalled.
            unit.rails.is_stalled = false;
            unit.quiet_since = now;
            unit.due = 0.0;
        }
        if unit.is_full(&self.pool.curve, n) && !unit.rails.is_stalled && unit.rails.is_normal() {
            unit.rails.was_full(n);
            return;
        }
        unit.errors.observe(true, OWN_MEMORY);
        let is_bad = unit.rails.failed(now - elapsed, others);
        if is_bad && unit.rails.is_normal() {
            self.quarantine(now, slot);
        }
        if common >= AMNESTY && self.quarantined + self.probation > 0 {
            self.forgive(now);
        }
    }

    /// Quarantines a backend, unless half of them are already.
    pub(super) fn quarantine(&mut self, now: Instant, slot: usize) {
        if !self.is_model && 2 * (self.quarantined + self.probation + 1) <= self.present {
            self.units[slot].rails.quarantine(now);
            self.count();
        }
    }

    /// The whole pool fails alike: those that are not worse return at once.
    pub(super) fn forgive(&mut self, now: Instant) {
        let common = self.pool.error_share();
        for slot in 0..self.units.len() {
            let rails = &mut self.units[slot].rails;
            if !rails.is_normal() && !rails.is_worse_than(common) {
                rails.come_back(now);
                self.weigh(slot);
            }
        }
        self.count();
    }

    /// Counts who is quarantined and who on probation.
    pub(super) fn count(&mut self) {
        let standing = |wanted: fn(&Standing) -> bool| {
            let here = self.units.iter().filter(|unit| unit.is_present);
            here.filter(|unit| wanted(&unit.rails.standing)).count()
        };
        let quarantined = standing(|standing| matches!(standing, Standing::Quarantined { .. }));
        let probation = standing(|standing| matches!(standing, Standing::Probation { .. }));
        (self.quarantined, self.probation) = (quarantined, probation);
    }
}

/// The pool's share of errors from which on it fails as a whole.
const AMNESTY: f64 = 0.1;
