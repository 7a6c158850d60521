//! The current backend: changing it, and sending requests past it.
//!
//! The layout hints are explained in `router.rs`.
use std::time::Duration;

use super::{Chosen, Router};
use crate::backend::Access;
use crate::event::{HoldReason, Notice, RouteReason, SwitchReason};
use crate::gate::Verdict;
use crate::id::{BackendId, Token};
use crate::policy::Candidates;
use crate::time::Instant;

/// The shortest time between two notices of holds.
const HELD_NOTICES_APART: Duration = Duration::from_secs(1);

impl Router {
    /// Replaces a current backend that is unusable or held as soon as another one is better.
    pub(super) fn settle(&mut self, now: Instant) {
        let access = |id| self.table.row(id).map_or(Access::Gone, |row| row.access);
        let Some(current) = self.current.filter(|id| self.is_left(*id)) else {
            return;
        };
        // A backend that is down or full never replaces the current one: failing open does not
        // change it. A backup in slow start is left for a primary backend, but not for another
        // backup.
        let least = match access(current) {
            Access::BackupSlow => Access::Backup,
            other => other.min(Access::Down),
        };
        let is_better = |id: &BackendId| access(*id) < least;
        match self.table.lowest().filter(is_better) {
            Some(best) => {
                let reason = access(current)
                    .out()
                    .map_or(SwitchReason::FromBackup, |cause| SwitchReason::Failover { cause });
                self.change_current(now, best, reason);
            }
            None if self.table.is_configured(current) => {}
            None => self.current = None,
        }
    }

    /// Whether a current backend must be replaced. A full one need not be: single requests go past
    /// it.
    pub(super) fn is_left(&self, id: BackendId) -> bool {
        let access = self.table.row(id).map_or(Access::Gone, |row| row.access);
        access > Access::Slow && access != Access::Full
    }

    /// Whether a backend is unusable or held. A backup is not out merely because another backend
    /// can serve.
    pub(super) fn is_out(&self, id: BackendId) -> bool {
        self.table.row(id).is_none_or(|row| row.access.out().is_some())
    }

    /// Applies the gate to the best usable backend for a request's first attempt. Returns the
    /// current backend or, while that is full, a backend with a lower expected delay.
    #[inline(always)]
    pub(super) fn restrain(&mut self, now: Instant, best: BackendId) -> Chosen {
        // A single backend has no other to spill over to. The check saves a call for each request.
        let spills = self.gate.spills() && self.order.len() > 1;
        // A usable backend has not reached its maximum.
        let (current, is_full) = if self.current == Some(best) {
            (best, false)
        } else {
            let current = self.judge(now, best);
            (current, self.is_full(current))
        };
        if !(is_full || spills && self.has_no_room(current)) {
            return (current, 0, RouteReason::Current);
        }
        self.go_past(now, current, best, spills)
    }

    /// Returns the backend for a request that finds the current one full.
    fn go_past(
        &mut self,
        now: Instant,
        current: BackendId,
        best: BackendId,
        spills: bool,
    ) -> Chosen {
        let (to, token) = if spills { self.spill(now, current) } else { (current, 0) };
        let (to, token) = if self.is_full(to) { (best, 0) } else { (to, token) };
        let is_past = self.current != Some(to);
        (to, token, if is_past { RouteReason::Spill } else { RouteReason::Current })
    }

    /// Whether the policy counts a backend as full.
    fn has_no_room(&self, id: BackendId) -> bool {
        self.table.get(id).is_some_and(|facts| self.policy.is_full(id, facts.turned_away()))
    }

    fn judge(&mut self, now: Instant, best: BackendId) -> BackendId {
        let Some(current) = self.current else {
            self.change_current(now, best, SwitchReason::First);
            return best;
        };
        let (Some(from), Some(to)) = (self.table.get(current), self.table.get(best)) else {
            debug_assert!(false, "the current and the best backend are in the table");
            return best;
        };
        // A backup does not replace a backend that is only full: single requests go past it.
        if to.is_backup() && !from.is_backup() && !self.is_left(current) {
            return current;
        }
        let is_full = self.policy.is_full(current, from.turned_away());
        match self.gate.judge(now, from, to, is_full) {
            Verdict::Keep => current,
            Verdict::Hold(reason) => {
                self.held(now, current, best, reason);
                current
            }
            Verdict::Switch { by } => {
                self.change_current(now, best, SwitchReason::Better { by });
                best
            }
        }
    }

    /// Returns the backend for a single request while the current one is full: that one or
    /// another.
    fn spill(&mut self, now: Instant, current: BackendId) -> (BackendId, Token) {
        let candidates = Candidates::new(&self.table, &[], None);
        let choice = self.policy.overflow(now, current, &candidates, &mut self.rng);
        let (to, token) = choice.map_or((current, 0), |choice| (choice.backend, choice.token));
        self.spills += u64::from(to != current);
        (to, token)
    }

    fn change_current(&mut self, now: Instant, to: BackendId, reason: SwitchReason) {
        let from = self.current.replace(to);
        debug_assert!(from != Some(to), "a switch changes the current backend");
        if reason != SwitchReason::First {
            self.switches += 1;
            self.gate.switched(now);
        }
        self.failed = from.filter(|_| matches!(reason, SwitchReason::Failover { .. }));
        self.last_switch = Some((now, reason));
        self.told_hold = None;
        self.notify(Notice::Switched { from, to, reason });
    }

    /// Records a hold. Observers are notified if it differs from the last reported one, at most
    /// once in [`HELD_NOTICES_APART`]: under load the best candidate may change with every request.
    fn held(&mut self, now: Instant, current: BackendId, candidate: BackendId, reason: HoldReason) {
        self.holds += 1;
        self.last_hold = Some((now, candidate, reason));
        let is_news = self.told_hold.is_none_or(|(at, told, told_reason)| {
            let is_other = told != candidate || !told_reason.is_same_kind(reason);
            is_other && now.since(at) >= HELD_NOTICES_APART
        });
        if is_news {
            self.told_hold = self.last_hold;
            self.notify(Notice::Held { current, candidate, reason });
        }
    }
}
