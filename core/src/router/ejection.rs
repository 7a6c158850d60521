//! Ejection by live traffic for policies that do not eject by themselves: taking backends out,
//! trying them out, and returning them. The rules are in [`outlier`](crate::outlier).
//!
//! The layout hints are explained in `router.rs`.
use std::time::Duration;

use super::Router;
use crate::backend::Access;
use crate::errors::Rare;
use crate::event::{EjectReason, Notice, Outcome, ReturnReason};
use crate::id::BackendId;
use crate::outlier::{
    self, Others, PING_EVERY, REGRET_MEMORY, Regret, Saving, Standing, WINDOW_START, Watch,
};
use crate::time::{Instant, millis};

/// The state of ejections that is common to all backends.
#[derive(Debug, Default)]
pub(super) struct Ejections {
    /// Backends that are ejected or on probation.
    pub(super) out: usize,
    regret: Regret,
    /// Refusals among the latest requests.
    refusals: Rare,
    /// The time of the next comparison of ejected backends with the others.
    forgive_at: Instant,
    /// Buffer for medians, kept to avoid allocations.
    scratch: Vec<f64>,
}

impl Router {
    /// Returns the watch for a backend that joins the configuration, or for each backend when the
    /// policy changes. Slow start applies to backends that join later than others. It does not
    /// apply under the gate, where a backend gets all requests or none.
    pub(super) fn new_watch(&self, is_late: bool) -> Watch {
        let slow = if self.habits.is_gated { u32::MAX } else { WINDOW_START };
        let is_slow = is_late && self.ejects();
        Watch::new(if is_slow { slow } else { u32::MAX }, slow)
    }

    /// Whether the router ejects on behalf of the policy.
    pub(super) const fn ejects(&self) -> bool {
        self.rules.errors.eject && !self.habits.guards_itself
    }

    /// The backend on probation that gets this request, if one waits for a trial and is not held. A
    /// backup waits until backups are in use.
    pub(super) fn try_out(&mut self) -> Option<BackendId> {
        let backups_serve = self.table.best_access_except(&[]).is_none_or(Access::is_behind_others);
        let is_ready = |id: &BackendId| {
            self.table.get(*id).is_some_and(|backend| {
                backend.access() == Access::Ejected
                    && (backups_serve || !backend.is_backup())
                    && backend.watch.wants_trial()
                    && backend.held_until().is_none()
            })
        };
        let id = self.order.iter().copied().find(is_ready)?;
        self.table.update(id, |backend| backend.watch.try_out());
        Some(id)
    }

    /// Records the end of a request, if failures are counted or while a backend is out. The request
    /// was routed at `routed_at`.
    #[cold]
    pub(super) fn watch_end(
        &mut self,
        now: Instant,
        id: BackendId,
        routed_at: Instant,
        outcome: &Outcome,
    ) {
        let is_refused = matches!(outcome, Outcome::Refused { .. });
        let is_error = outcome.is_error();
        let Some(standing) = self.table.get(id).map(|backend| backend.watch.standing) else {
            return;
        };
        match standing {
            Standing::In => {
                if self.ejections.out > 0 && (is_refused || is_error.is_some()) {
                    let good = is_error == Some(false);
                    self.weigh_ejections(now, good.then(|| millis(now.since(routed_at))));
                }
                match is_error {
                    Some(true) => self.failed(now, id, routed_at),
                    Some(false) => {
                        self.table.update(id, |backend| backend.watch.succeeded(routed_at));
                    }
                    None => {}
                }
            }
            // Requests sent before the probation do not show the backend's current state.
            Standing::Probation { is_out: true, since, .. } if routed_at >= since => {
                let is_good = is_error.map(|is_error| !is_error);
                // While a backup does better, failures are not excused, even if all others fail.
                let others = self.better_other(now, id).or_else(|| self.others(now, id));
                self.table.update(id, |backend| {
                    backend.watch.probation_ended(now, is_good, others);
                });
                self.standing_changed(now, id, standing, ReturnReason::Probation);
            }
            Standing::Probation { .. } | Standing::Ejected { .. } => {}
        }
    }

    /// Records a successful ping of a backend whose standing or window depends on pings.
    pub(super) fn watch_ping(&mut self, now: Instant, id: BackendId) {
        let done = self.table.update(id, |backend| {
            let is_open = backend.is_up() && backend.watch.wants_pings();
            is_open && backend.watch.ping_answered(now)
        });
        if done == Some(true) {
            self.count_out();
        }
    }

    /// Pings a backend more often while pings are a part of its return.
    pub(super) fn hasten_watch(&mut self, now: Instant, id: BackendId) {
        let wants = |id| self.table.get(id).is_some_and(|backend| backend.watch.wants_pings());
        if self.ejects() && self.table.is_configured(id) && wants(id) {
            self.probes.hasten(id, now + PING_EVERY);
        }
    }

    /// The standing of a backend, where the policy ejects by itself.
    pub(super) fn watch_of(&self, id: BackendId) -> Option<&Watch> {
        self.policy.learner()?.watch(id)
    }

    /// Notifies observers when a policy with its own ejection has changed a backend's standing.
    pub(super) fn tell_standing(&mut self, id: BackendId) {
        let Some(backend) = self.table.get(id) else { return };
        let Some(watch) = self.watch_of(id).filter(|_| !backend.is_retired) else { return };
        let is_out = !watch.is_in();
        if is_out != backend.is_told_out {
            let learner = self.policy.learner();
            let Some(reasons) = learner.and_then(|learner| learner.reasons(id)) else { return };
            let notice = if is_out {
                Notice::Ejected { backend: id, reason: reasons.ejected }
            } else {
                Notice::Returned { backend: id, reason: reasons.returned }
            };
            self.table.update(id, |backend| backend.is_told_out = is_out);
            self.notify(notice);
        }
    }

    /// Records that a backend is up after it was down.
    pub(super) fn watch_up(&mut self, now: Instant, id: BackendId) {
        if self.ejects() {
            let rules = &self.rules;
            self.table.update(id, |backend| {
                backend.watch.came_up(now);
                backend.came_up(now, rules);
            });
            self.count_out();
            self.hasten_watch(now, id);
        }
    }

    /// Counts the backends that are ejected or on probation.
    pub(super) fn count_out(&mut self) {
        let here = self.order.iter().filter_map(|id| self.table.get(*id));
        self.ejections.out = here.filter(|backend| !backend.watch.is_in()).count();
    }

    /// Lets all backends return, after a change of the rules or of the policy.
    pub(super) fn forget_ejections(&mut self) {
        for index in 0..self.order.len() {
            let watch = self.new_watch(false);
            self.table.update(self.order[index], |backend| backend.watch = watch);
        }
        self.ejections = Ejections::default();
    }

    fn failed(&mut self, now: Instant, id: BackendId, routed_at: Instant) {
        let done = self.table.update(id, |backend| {
            let is_seldom = backend.is_asked_seldom();
            (backend.watch.failed(now, routed_at, is_seldom), is_seldom)
        });
        if let Some((true, is_seldom)) = done {
            let others = self.others(now, id);
            let Some(watch) = self.table.get(id).map(|backend| &backend.watch) else { return };
            let others = watch.measure(others, || self.has_unknown_spare(now, id));
            if watch.is_bad(others, is_seldom) {
                self.eject(now, id, others);
            } else if watch.has_failed_in_row()
                && let Some(better) = self.better_other(now, id)
            {
                self.eject(now, id, Some(better));
            }
        }
        // This runs at intervals, since it compares each ejected backend with all others.
        if self.ejections.out > 0 && now >= self.ejections.forgive_at {
            self.ejections.forgive_at = now + FORGIVE_EVERY;
            self.forgive(now);
        }
    }

    /// Ejects a backend if another one can take its requests, the cap allows it, and no recent
    /// ejection was regretted.
    fn eject(&mut self, now: Instant, id: BackendId, others: Option<Others>) {
        let is_other = |other: &BackendId| {
            let row = self.table.row(*other);
            *other != id && row.is_some_and(|row| row.access < Access::Ejected)
        };
        // The last usable backend is never ejected, however much it fails.
        let is_needed = !self.order.iter().any(is_other);
        // All others may be ejected if a backup can serve, or a backend that certainly fails less.
        let is_capped = !outlier::is_within_cap(self.ejections.out + 1, self.order.len())
            && self.spares(id).next().is_none()
            && self.better_other(now, id).is_none();
        if is_needed || is_capped || !self.ejections.regret.allows(now) {
            return;
        }
        let Some(watch) = self.table.get(id).map(|backend| &backend.watch) else {
            return;
        };
        let (share, others) = (watch.recent.share(), others.map(|others| others.share));
        let reason = EjectReason::Failures { in_row: watch.errors_in_row, share, others };
        let saving = self.saving(now, id, share, others);
        self.ejections.regret.ejected(&saving);
        // The saving is estimated before the ejection changes the figures.
        self.table.update(id, |backend| backend.watch.eject(now));
        self.count_out();
        self.hasten_watch(now, id);
        self.notify(Notice::Ejected { backend: id, reason });
        self.settle(now);
    }

    /// Estimates the saving of an ejection.
    fn saving(&self, now: Instant, id: BackendId, share: f64, others: Option<f64>) -> Saving {
        let (mut all, mut own, mut elsewhere_ms) = (0.0, 0.0, 0.0);
        for other in self.order.iter().filter_map(|id| Some((*id, self.table.get(*id)?))) {
            let (other, backend) = other;
            let requests = backend.recent(now, &self.rules).requests;
            all += requests;
            if other == id {
                own = requests;
            } else {
                elsewhere_ms += requests * backend.response_ms().unwrap_or(0.0);
            }
        }
        let elsewhere = all - own;
        // Weighted by requests: a backend with hardly any traffic shows little about the pool.
        let known_ms = (elsewhere > 1.0).then(|| elsewhere_ms / elsewhere);
        let own_ms = self.table.get(id).and_then(|backend| backend.response_ms());
        Saving {
            share: own / all.max(1.0),
            failed: share,
            others: others.unwrap_or(0.0),
            refused: (self.ejections.out == 0).then(|| self.refused_of_late()),
            latency_ms: known_ms.or(own_ms).unwrap_or(0.0),
            charge_ms: millis(self.rules.errors.charge),
        }
    }

    /// Counts the refusal of a request whose lease has ended.
    pub(super) fn count_refusal(&mut self) {
        self.ejections.refusals.observe(self.leases_home.saturating_sub(1), REGRET_MEMORY);
    }

    /// The share of refusals among the latest requests.
    fn refused_of_late(&self) -> f64 {
        self.ejections.refusals.at(self.leases_home, REGRET_MEMORY).share()
    }

    /// Notifies observers if the backend has returned, and updates everything that depends on
    /// standings.
    fn standing_changed(
        &mut self,
        now: Instant,
        id: BackendId,
        before: Standing,
        reason: ReturnReason,
    ) {
        let Some(watch) = self.table.get(id).map(|backend| &backend.watch) else {
            return;
        };
        if watch.is_in() && before != Standing::In {
            if reason == ReturnReason::Probation {
                // Otherwise a policy that ranks by errors would leave it out until they have faded.
                let rules = &self.rules;
                self.table.update(id, |backend| backend.forgive(now, rules));
            }
            self.policy.on_return(now, id);
            self.notify(Notice::Returned { backend: id, reason });
        }
        self.count_out();
        self.hasten_watch(now, id);
        self.settle(now);
    }

    /// Records a request that ended elsewhere while a backend is out. Reverses the ejections if
    /// they cost more than they save.
    fn weigh_ejections(&mut self, now: Instant, good_ms: Option<f64>) {
        let is_regretted = self.ejections.regret.observe(now, good_ms);
        // The others fail a large share of requests: ejected backends get trials at once.
        if self.ejections.regret.calls_back() {
            for index in 0..self.order.len() {
                self.table.update(self.order[index], |backend| backend.watch.call_back(now));
            }
        }
        if is_regretted {
            for index in 0..self.order.len() {
                self.return_at_once(now, self.order[index], ReturnReason::Regretted);
            }
            self.forget_refusals();
        }
    }

    /// Forgets refusals after regretted ejections: the others refused because of the additional
    /// load.
    pub(super) fn forget_refusals(&mut self) {
        self.ejections.refusals = Rare::default();
        for index in 0..self.order.len() {
            let weights = &self.rules.weights;
            self.table.update(self.order[index], |backend| backend.forget_refusals(weights));
        }
    }

    /// Lets the ejected backends return that are not worse than the others.
    fn forgive(&mut self, now: Instant) {
        for index in 0..self.order.len() {
            let id = self.order[index];
            let is_out = self.table.get(id).is_some_and(|backend| !backend.watch.is_in());
            if is_out
                && !self.has_unknown_spare(now, id)
                && self.better_other(now, id).is_none()
                && let Some(others) = self.others(now, id)
                && self.table.get(id).is_some_and(|b| b.watch.is_excused_by(others))
            {
                self.return_at_once(now, id, ReturnReason::OthersFail);
            }
        }
    }

    fn return_at_once(&mut self, now: Instant, id: BackendId, reason: ReturnReason) {
        let Some(before) = self.table.get(id).map(|backend| backend.watch.standing) else {
            return;
        };
        if before != Standing::In {
            self.table.update(id, |backend| backend.watch.come_back(now));
            self.standing_changed(now, id, before, reason);
        }
    }

    /// The other backends that are backups and can serve.
    fn spares(&self, id: BackendId) -> impl Iterator<Item = BackendId> {
        let is_spare = move |other: &BackendId| {
            let row = self.table.row(*other);
            *other != id && row.is_some_and(|row| row.access == Access::Backup)
        };
        self.order.iter().copied().filter(is_spare)
    }

    /// Whether a backup with an unknown error share could take the requests of this backend.
    fn has_unknown_spare(&self, now: Instant, id: BackendId) -> bool {
        let known = |id| self.table.get(id).map(|backend| backend.recent(now, &self.rules));
        self.has_backups && self.spares(id).any(|id| !known(id).is_some_and(Others::know))
    }

    /// The results of a backend that could take the requests of this one and fails fewer of them. A
    /// backup must fail clearly fewer; for any other one [`Watch::gives_way_to`] decides.
    fn better_other(&self, now: Instant, id: BackendId) -> Option<Others> {
        let watch = &self.table.get(id)?.watch;
        let better = |other: &BackendId| {
            let other_watch = &self.table.get(*other)?.watch;
            let errors = self.table.get(*other)?.recent(now, &self.rules);
            let is_better = match self.table.row(*other)?.access {
                Access::Free | Access::Slow => watch.gives_way_to(other_watch, errors),
                Access::Backup => watch.is_worse_than_spare(errors),
                _ => false,
            };
            is_better.then(|| Others::one(errors))
        };
        self.order.iter().filter(|other| **other != id).find_map(better)
    }

    /// The median share of failures of the other backends, and their requests.
    fn others(&mut self, now: Instant, id: BackendId) -> Option<Others> {
        let (table, rules) = (&self.table, &self.rules);
        let others = self.order.iter().filter(|other| **other != id);
        let shares = others.filter_map(|other| table.get(*other));
        let shares = shares.map(|backend| backend.recent(now, rules));
        Others::new(shares, &mut self.ejections.scratch)
    }
}

/// The interval of comparing ejected backends with the others. Chosen; halving or doubling it
/// changes no result.
const FORGIVE_EVERY: Duration = Duration::from_millis(250);
