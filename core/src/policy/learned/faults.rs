//! Effects of errors and refusals on a backend's standing. The backend is compared with the others.
use std::time::Duration;

use super::unit::Unit;
use super::{Learned, OWN_MEMORY, POOL_MEMORY};
use crate::backend::Backend;
use crate::event::{EjectReason, Outcome, ReturnReason};
use crate::outlier::{self, Others, Saving, Standing};
use crate::time::Instant;

impl Learned {
    /// Handles the error of a request, which `in_flight` no longer counts.
    pub(super) fn failed(
        &mut self,
        now: Instant,
        slot: usize,
        elapsed: Duration,
        is_timeout: bool,
        is_seldom: bool,
    ) {
        let unit = &mut self.units[slot];
        self.pool.broke();
        self.pool.errors.observe(true, POOL_MEMORY);
        let common = self.pool.error_share();
        let n = unit.in_flight + 1;
        if !is_timeout && unit.restraints.is_normal() {
            // An error is a response: the backend is not stalled.
            unit.restraints.is_stalled = false;
            unit.quiet_since = now;
            unit.due = 0.0;
        }
        if unit.is_full(&self.pool.curve, n)
            && !unit.restraints.is_stalled
            && unit.restraints.is_normal()
        {
            // The load caused this error. It lowers the cap and has no other effect on the backend.
            unit.restraints.was_full(n);
            return;
        }
        unit.errors.observe(true, OWN_MEMORY);
        let others = self.others(slot);
        let restraints = &mut self.units[slot].restraints;
        let may_be_bad = restraints.failed(now, now - elapsed, others, is_seldom);
        if may_be_bad && restraints.is_normal() {
            let watch = &self.units[slot].restraints.watch;
            let mut others = watch.measure(others, || self.has_unknown_spare(slot));
            let mut is_bad = watch.is_bad(others, is_seldom);
            if !is_bad
                && watch.has_failed_in_row()
                && let Some(better) = self.better_other(slot)
            {
                (is_bad, others) = (true, Some(better));
            }
            if is_bad {
                let share = watch.recent.share();
                let (in_row, others) = (watch.errors_in_row, others.map(|others| others.share));
                self.eject(now, slot, share, EjectReason::Failures { in_row, share, others });
            }
        }
        // If the whole pool fails, ejected backends are no longer worse than the others.
        if common >= AMNESTY && self.quarantined + self.probation > 0 {
            self.forgive(now);
        }
    }

    /// Handles the refusal of a request, which `in_flight` no longer counts. If a backend refuses
    /// [`REFUSED_ALONE`] requests in a row, each while no other was in flight there, it is not
    /// full: it refuses everything.
    pub(super) fn refused(&mut self, now: Instant, slot: usize) {
        self.pool.refused();
        let unit = &mut self.units[slot];
        unit.refused(now);
        if unit.refused_alone >= REFUSED_ALONE && unit.restraints.is_normal() {
            let in_row = std::mem::take(&mut unit.refused_alone);
            self.eject(now, slot, 1.0, EjectReason::Refusals { in_row });
        }
    }

    /// Handles an error that is not charged to the backend. It ends a stall; otherwise a backend
    /// would be ejected for silence if its last request ends like this after a long wait.
    pub(super) fn excused(&mut self, now: Instant, slot: usize, elapsed_ms: f64) {
        let unit = &mut self.units[slot];
        unit.abandoned(&mut self.pool, elapsed_ms);
        if unit.restraints.is_normal() {
            unit.quiet(now);
        }
    }

    /// Ejects a stalled backend whose last request has ended without a response. As no request is
    /// left to show its recovery, pings and probation must.
    pub(super) fn eject_silent(&mut self, now: Instant, slot: usize) {
        let unit = &mut self.units[slot];
        unit.was_silent();
        let (lasted, due) = (now.since(unit.quiet_since), unit.due);
        self.eject(now, slot, 1.0, EjectReason::Silence { lasted, due });
        let restraints = &mut self.units[slot].restraints;
        restraints.is_stalled = restraints.is_normal();
    }

    /// The median error share of the other backends, and the number of their requests.
    pub(super) fn others(&mut self, slot: usize) -> Option<Others> {
        let others = self.units.iter().enumerate();
        let others = others.filter(|(other, unit)| *other != slot && unit.is_present);
        Others::new(others.map(|(_, unit)| unit.errors), &mut self.shares)
    }

    /// The other backends that are up and not ejected.
    fn usable_others(&self, slot: usize) -> impl Iterator<Item = &Unit> {
        let others = self.units.iter().enumerate().filter(move |(other, _)| *other != slot);
        let others = others.map(|(_, unit)| unit);
        others.filter(|unit| unit.is_present && unit.is_up && unit.restraints.is_normal())
    }

    /// The other backends that are backups and can serve.
    fn spares(&self, slot: usize) -> impl Iterator<Item = &Unit> {
        let usable = self.usable_others(slot);
        usable.filter(|unit| unit.is_backup && !unit.restraints.is_stalled)
    }

    /// Whether a backup with an unknown error share could take the requests of this backend.
    fn has_unknown_spare(&self, slot: usize) -> bool {
        self.spares(slot).any(|unit| !Others::know(unit.errors))
    }

    /// The results of a backend that could take the requests of this one and fails fewer of them. A
    /// backup must fail clearly fewer; for any other one
    /// [`gives_way_to`](crate::outlier::Watch::gives_way_to) decides.
    pub(super) fn better_other(&self, slot: usize) -> Option<Others> {
        let watch = &self.units[slot].restraints.watch;
        let is_better = |unit: &&Unit| {
            if unit.is_backup {
                watch.is_worse_than_spare(unit.errors)
            } else {
                watch.gives_way_to(&unit.restraints.watch, unit.errors)
            }
        };
        let mut others = self.usable_others(slot).filter(|unit| !unit.restraints.is_stalled);
        others.find(is_better).map(|unit| Others::one(unit.errors))
    }

    /// Ejects a backend that fails `share` of its requests, 0 to 1. Does nothing if too many
    /// backends are out, if a recent ejection was regretted, if this is the last usable backend, or
    /// in a model.
    pub(super) fn eject(&mut self, now: Instant, slot: usize, share: f64, reason: EjectReason) {
        let out = self.quarantined + self.probation + 1;
        // The last usable backend is never ejected, however much it fails.
        let is_needed = self.usable_others(slot).next().is_none();
        // All others may be ejected if a backup can serve, or a backend that certainly fails less.
        let is_capped = !outlier::is_within_cap(out, self.present)
            && self.spares(slot).next().is_none()
            && self.better_other(slot).is_none();
        if self.is_model || is_needed || is_capped || !self.regret.allows(now) {
            return;
        }
        let here = self.units.iter().filter(|unit| unit.is_present);
        // This is its share of the capacity, not of the requests: a backend that is already avoided
        // gets few requests.
        let capacity: f64 = here.map(|unit| unit.capacity(&self.pool)).sum();
        let of_all = self.units[slot].capacity(&self.pool) / capacity;
        let others = self.others(slot).map_or(0.0, |others| others.share);
        let refused = self.pool.refused_of_late();
        // For a backend ejected for refusals, `share` already includes them.
        let counted = if matches!(reason, EjectReason::Refusals { .. }) { of_all } else { 0.0 };
        self.regret.ejected(&Saving {
            share: of_all,
            failed: share,
            others,
            refused: (out == 1).then_some((refused - counted).max(0.0)),
            latency_ms: self.pool.latency_ms,
            charge_ms: self.pool.charge(),
        });
        self.units[slot].restraints.watch.eject(now);
        self.units[slot].reasons.ejected = reason;
        self.count();
    }

    /// Records a request that ended while a backend is out. Reverses the ejections if they cost
    /// more than they save.
    pub(super) fn weigh_ejections(&mut self, now: Instant, good_ms: Option<f64>) {
        let is_regretted = self.regret.observe(now, good_ms);
        if self.regret.calls_back() {
            self.units.iter_mut().for_each(|unit| unit.restraints.watch.call_back(now));
        }
        if is_regretted {
            // The ejections may have caused the refusals of the others, and their caps.
            self.has_regretted = true;
            self.pool.forget_refusals();
            for slot in 0..self.units.len() {
                self.units[slot].forget_refusals();
                if !self.units[slot].restraints.is_normal() {
                    self.units[slot].restraints.come_back(now);
                    self.units[slot].reasons.returned = ReturnReason::Regretted;
                    self.weigh(slot);
                }
            }
            self.count();
        }
    }

    /// If the whole pool fails, reverses the ejections of backends that are not worse than the
    /// others.
    pub(super) fn forgive(&mut self, now: Instant) {
        for slot in 0..self.units.len() {
            let Some(others) = self.others(slot) else { continue };
            if self.has_unknown_spare(slot) || self.better_other(slot).is_some() {
                continue;
            }
            let restraints = &mut self.units[slot].restraints;
            if !restraints.is_normal() && restraints.watch.is_excused_by(others) {
                restraints.come_back(now);
                self.units[slot].reasons.returned = ReturnReason::OthersFail;
                self.weigh(slot);
            }
        }
        self.count();
    }

    /// Ends the stall of a backend without requests in flight. It was silent but could not be
    /// quarantined, because too many backends are out, ejections are suspended after a regret, or
    /// no other backend is usable.
    pub(super) fn end_stall(&mut self, now: Instant, slot: usize) {
        let unit = &mut self.units[slot];
        if unit.restraints.is_stalled && unit.restraints.is_normal() && unit.in_flight == 0 {
            unit.restraints.come_back(now);
            self.weigh(slot);
        }
    }

    /// Updates the cost of a backend that is avoided for its refusals as these fade.
    pub(super) fn fade(&mut self, slot: usize, facts: &Backend) {
        if self.units[slot].turned_away > facts.turned_away() {
            self.units[slot].turned_away = facts.turned_away();
            self.weigh(slot);
        }
    }

    /// Counts the backends in quarantine and on probation.
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

/// Whether a request on probation was good; `None` if it does not count.
pub(super) fn shows(outcome: &Outcome) -> Option<bool> {
    match outcome {
        Outcome::Refused { .. } => Some(false),
        _ => outcome.is_error().map(|is_error| !is_error),
    }
}

/// Refusals of single requests in a row that eject a backend. Chosen; the same number as of
/// failures.
const REFUSED_ALONE: u32 = 3;
/// The error share at which the pool counts as failing as a whole. Chosen; the run of
/// [`learned`](super) does not reach it.
const AMNESTY: f64 = 0.1;
