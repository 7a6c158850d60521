//! Effects of errors on a backend's standing, by the restraints of all of them.
use std::time::Duration;

use super::{Learned, OWN_MEMORY, POOL_MEMORY};
use crate::event::Outcome;
use crate::outlier::{self, Others, Saving, Standing};
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
        self.pool.errors.observe(true, POOL_MEMORY);
        let common = self.pool.error_share();
        let n = unit.in_flight + 1;
        if !is_timeout && unit.restraints.is_normal() {
            // An answer, if a bad one: it is not stalled.
            unit.restraints.is_stalled = false;
            unit.quiet_since = now;
            unit.due = 0.0;
        }
        if unit.is_full(&self.pool.curve, n)
            && !unit.restraints.is_stalled
            && unit.restraints.is_normal()
        {
            // An error under so much load is one of load: it lowers the cap and speaks against nothing
            // else.
            unit.restraints.was_full(n);
            return;
        }
        unit.errors.observe(true, OWN_MEMORY);
        let others = self.others(slot);
        let restraints = &mut self.units[slot].restraints;
        let is_bad = restraints.failed(now, now - elapsed, others);
        if is_bad && restraints.is_normal() {
            let share = restraints.watch.recent.share();
            self.eject(now, slot, share);
        }
        if common >= AMNESTY && self.quarantined + self.probation > 0 {
            self.forgive(now);
        }
    }

    /// A request was turned away that was in flight with n − 1 others. One that had no others
    /// there, and that thrice in a row: the backend is not full, it refuses everything.
    pub(super) fn refused(&mut self, now: Instant, slot: usize) {
        let unit = &mut self.units[slot];
        unit.refused(now);
        if unit.refused_alone >= REFUSED_ALONE && unit.restraints.is_normal() {
            unit.refused_alone = 0;
            self.eject(now, slot, 1.0);
        }
    }

    /// The median share of errors of the other backends.
    pub(super) fn others(&mut self, slot: usize) -> Option<Others> {
        let others = self.units.iter().enumerate();
        let others = others.filter(|(other, unit)| *other != slot && unit.is_present);
        Others::new(others.map(|(_, unit)| unit.errors), &mut self.shares)
    }

    /// Ejects a backend that fails this share of its requests, within the cap and unless ejections
    /// are regretted.
    pub(super) fn eject(&mut self, now: Instant, slot: usize, share: f64) {
        let out = self.quarantined + self.probation + 1;
        let may = outlier::is_within_cap(out, self.present) && self.regret.allows(now);
        if self.is_model || !may {
            return;
        }
        let here = self.units.iter().filter(|unit| unit.is_present);
        // By what it can do, not by what it was sent: a backend that is avoided already gets little.
        let capacity: f64 = here.map(|unit| unit.capacity(&self.pool)).sum();
        let of_all = self.units[slot].capacity(&self.pool) / capacity;
        let others = self.others(slot).map_or(0.0, |others| others.share);
        self.regret.ejected(&Saving {
            share: of_all,
            failed: share,
            others,
            latency_ms: self.pool.latency_ms,
            charge_ms: self.pool.charge_ms,
        });
        self.units[slot].restraints.watch.eject(now);
        self.count();
    }

    /// A request ended while a backend is out: takes the ejections back where they cost more than
    /// they save.
    pub(super) fn weigh_ejections(&mut self, now: Instant, good_ms: Option<f64>) {
        let is_regretted = self.regret.observe(now, good_ms);
        if self.regret.calls_back() {
            self.units.iter_mut().for_each(|unit| unit.restraints.watch.call_back(now));
        }
        if is_regretted {
            // What the others refused, and the caps that followed, may be due to the ejections.
            self.has_regretted = true;
            for slot in 0..self.units.len() {
                self.units[slot].forget_refusals();
                if !self.units[slot].restraints.is_normal() {
                    self.units[slot].restraints.come_back(now);
                    self.weigh(slot);
                }
            }
            self.count();
        }
    }

    /// The whole pool fails alike: those that are not worse return at once.
    pub(super) fn forgive(&mut self, now: Instant) {
        for slot in 0..self.units.len() {
            let Some(others) = self.others(slot) else { continue };
            let restraints = &mut self.units[slot].restraints;
            if !restraints.is_normal() && !restraints.watch.is_worse_than(others) {
                restraints.come_back(now);
                self.weigh(slot);
            }
        }
        self.count();
    }

    /// Counts who is quarantined and who on probation.
    pub(super) fn count(&mut self) {
        let standing = |wanted: fn(&Standing) -> bool| {
            let here = self.units.iter().filter(|unit| unit.is_present);
            here.filter(|unit| wanted(&unit.restraints.watch.standing)).count()
        };
        let quarantined = standing(|standing| matches!(standing, Standing::Ejected { .. }));
        let probation = standing(|standing| matches!(standing, Standing::Probation { .. }));
        (self.quarantined, self.probation) = (quarantined, probation);
    }
}

/// Returns whether a request on probation was good; `None` if it does not count.
pub(super) fn shows(outcome: &Outcome) -> Option<bool> {
    match outcome {
        Outcome::Refused { .. } => Some(false),
        _ => outcome.is_error().map(|is_error| !is_error),
    }
}

/// Refusals in a row of single requests. Chosen, as many as failures.
const REFUSED_ALONE: u32 = 3;
/// The pool's share of errors from which on it fails as a whole.
/// Chosen; the run of [`learned`](super) does not reach it.
const AMNESTY: f64 = 0.1;
