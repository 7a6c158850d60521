//! Admits requests, each with a lease, and counts their ends.
//!
//! The layout hints are explained in `router.rs`.
use std::time::Duration;

use super::{Chosen, Router};
use crate::backend::Backend;
use crate::blame::Asker;
use crate::event::{Lease, NoRoute, Outcome, ProbeFailure, RequestFailure, RouteReason};
use crate::id::{BackendId, LeaseId, Token};
use crate::outlier::Watch;
use crate::policy::{Candidates, Ended, Learner};
use crate::time::Instant;

impl Router {
    /// Sends a request to a backend other than `not`, for a second opinion.
    pub(super) fn admit_elsewhere(
        &mut self,
        now: Instant,
        not: BackendId,
        asker: Asker,
    ) -> Result<Lease, NoRoute> {
        let mut lease = self.admit(now, &[not], asker)?;
        lease.reason = RouteReason::SecondOpinion;
        self.blame.asked(asker, lease.id, not);
        Ok(lease)
    }

    #[inline(always)]
    pub(super) fn admit(
        &mut self,
        now: Instant,
        tried: &[BackendId],
        asker: Asker,
    ) -> Result<Lease, NoRoute> {
        self.release_holds(now);
        let chosen = self.pick(now, tried)?;
        Ok(self.give(now, chosen, asker))
    }

    /// Ends holds that have expired. This happens at the next request and without a timer, because
    /// nothing needs the backend earlier.
    #[inline(always)]
    pub(super) fn release_holds(&mut self, now: Instant) {
        if now >= self.table.releases_at() {
            self.release(now);
        }
    }

    /// Returns the backend for a request: one to try out, or the choice of policy and gate.
    #[inline(always)]
    pub(super) fn pick(&mut self, now: Instant, tried: &[BackendId]) -> Result<Chosen, NoRoute> {
        // A trial comes before the policy, which would avoid the backend. A retry is never a trial.
        let trial = if self.ejections.out > 0 && tried.is_empty() { self.try_out() } else { None };
        let (backend, token, reason) = match trial {
            Some(backend) => (backend, 0, RouteReason::Trial),
            None => self.choose(now, tried)?,
        };
        // A policy that ejects by itself marks its trials. Under all others the router makes them.
        let is_marked = self.habits.guards_itself && reason == RouteReason::Policy;
        let reason = if is_marked { self.policy.reason(token) } else { reason };
        Ok((backend, token, reason))
    }

    /// Issues the lease of a request for the chosen backend.
    #[inline(always)]
    pub(super) fn give(&mut self, now: Instant, chosen: Chosen, asker: Asker) -> Lease {
        let (backend, token, reason) = chosen;
        let weights = &self.rules.weights;
        self.table.update_often(backend, |backend| backend.lease_out(weights));
        self.leases_given += 1;
        if self.habits.listens {
            self.policy.on_dispatch(now, backend);
        }
        self.check_in_debug();
        let (id, policy_epoch) = (LeaseId(self.leases_given), self.policy_epoch);
        Lease { id, backend, routed_at: now, token, policy_epoch, asker, reason }
    }

    /// Returns the backend that policy and gate choose, and the policy's token.
    #[inline(always)]
    fn choose(&mut self, now: Instant, tried: &[BackendId]) -> Result<Chosen, NoRoute> {
        // Retries bypass the gate, so that they do not move the current backend.
        if tried.is_empty()
            && self.habits.is_gated
            && let Some(best) = self.table.lowest().filter(|best| self.is_usable(*best))
        {
            return Ok(self.restrain(now, best));
        }
        let others = Some(&self.others).filter(|others| others.is_known(now));
        let mut candidates = Candidates::new(&self.table, tried, others);
        let reason = if tried.is_empty() { RouteReason::Policy } else { RouteReason::Retry };
        // A good backend that is full has room sooner than one that is down is up again.
        if candidates.is_fail_open() && self.is_only_full(tried) {
            return Err(NoRoute::Full);
        }
        if candidates.are_refusing()
            && let Some(backend) = self.table.lowest_except(tried)
        {
            // Policies rank by measurements, which do not show which backend will listen first.
            return Ok((backend, 0, reason));
        }
        if self.has_backups && self.habits.guards_itself && self.are_out(tried) {
            candidates = candidates.with_backups();
        }
        let Some(choice) = self.policy.choose(now, &candidates, &mut self.rng) else {
            let is_full = |id: &&BackendId| self.is_full(**id) && !tried.contains(*id);
            let is_in = |id: &BackendId| self.table.get(*id).is_some_and(|b| b.is_in_service());
            return Err(match self.order.iter().find(is_full) {
                Some(_) => NoRoute::Full,
                None if !self.order.iter().any(is_in) => NoRoute::NoBackends,
                None => NoRoute::AllTried,
            });
        };
        Ok((choice.backend, choice.token, reason))
    }

    /// Whether a policy that ejects by itself has ejected all primary backends that could take a
    /// request.
    #[cold]
    fn are_out(&self, tried: &[BackendId]) -> bool {
        let is_in = |id: &BackendId| {
            let row = self.table.row(*id);
            row.is_some_and(|row| !row.access.is_behind_others())
                && !tried.contains(id)
                && self.watch_of(*id).is_none_or(Watch::is_in)
        };
        !self.order.iter().any(is_in)
    }

    pub(super) fn request_finished(&mut self, now: Instant, lease: Lease, outcome: Outcome) {
        let backend = lease.backend;
        let (mut is_excused, mut has_answered) = (false, false);
        let (mut is_response, mut is_failure) = (true, false);
        let outcome = if let Outcome::Answered { status: ..400, .. } = outcome {
            self.blame.ended(now, lease.id, lease.asker, true);
            outcome
        } else {
            (is_response, is_failure) = (outcome.is_response(), outcome.is_without_response());
            let told = outcome.normal();
            let charged = self.charge(now, &lease, told);
            is_excused = charged == Outcome::Abandoned && told != charged;
            has_answered = matches!(told, Outcome::Answered { .. });
            charged
        };
        // Time spent waiting for the client; `None` for a stream, which has already ended for the
        // policy.
        let waited = if self.asides.is_empty() {
            Some(Duration::ZERO)
        } else {
            self.end_aside(now, lease.id)
        };
        let rules = &self.rules;
        let done = self.table.update_often(backend, |backend| {
            // Determined before the lease ends, because that makes room.
            let was_full = backend.is_full();
            let is_error = backend.lease_home(now, lease.routed_at, &outcome, rules);
            if is_excused {
                backend.excused();
            }
            let is_good = is_error == Some(false);
            let is_watched = is_error == Some(true) || backend.watch.is_troubled();
            let is_newly_down = !is_good && contact_failed(now, backend, &outcome, is_failure);
            let is_back = is_response && backend.health.responded(lease.routed_at);
            LeaseEnd { is_good, is_newly_down, is_back, is_watched, was_full }
        });
        self.leases_home += 1;
        let Some(LeaseEnd { is_good, is_newly_down, is_back, is_watched, was_full }) = done else {
            debug_assert!(self.leases_orphaned > 0, "a lease ends at the router that gave it");
            self.leases_orphaned = self.leases_orphaned.saturating_sub(1);
            return;
        };
        if is_good && self.others.is_known(now) {
            self.others.ended(backend, now.since(lease.routed_at));
        }
        let is_refusal = !is_good && matches!(outcome, Outcome::Refused { .. });
        if is_refusal {
            self.count_refusal();
            self.note_refusal(now, backend, &outcome);
        }
        if let Some(waited) = waited
            && self.habits.listens
        {
            // A later policy cannot interpret the token.
            let token = if lease.policy_epoch == self.policy_epoch { lease.token } else { 0 };
            let mut elapsed = now.since(lease.routed_at);
            if !waited.is_zero() {
                elapsed = elapsed.saturating_sub(waited);
            }
            let is_excused = is_excused && has_answered;
            self.tell_policy(now, backend, token, elapsed, &outcome, is_excused);
        }
        if (is_watched || self.ejections.out > 0) && self.ejects() {
            self.watch_end(now, backend, lease.routed_at, &outcome);
        }
        // New room, or the hold after a refusal, may require another current backend.
        if was_full || is_refusal {
            self.settle(now);
        }
        if is_newly_down {
            self.health_changed(now, backend, Some(ProbeFailure::Refused));
        }
        if is_back {
            // Others may have returned at the same time.
            self.hasten_down(now, None);
        }
    }

    /// Ends the holds that have expired. A current backend that is still held is replaced.
    fn release(&mut self, now: Instant) {
        self.table.release(now);
        self.settle(now);
    }

    /// Reports the end of a request to a policy that listens.
    fn tell_policy(
        &mut self,
        now: Instant,
        backend: BackendId,
        token: Token,
        elapsed: Duration,
        outcome: &Outcome,
        is_excused: bool,
    ) {
        let Some(facts) = self.table.get(backend) else { return };
        let ended = Ended { backend, token, outcome, elapsed, is_excused, facts };
        self.policy.on_outcome(now, &ended);
        if self.habits.guards_itself {
            self.hasten_pings(now, backend);
            if self.policy.learner_mut().is_some_and(Learner::take_regret) {
                self.forget_refusals();
            }
            self.tell_standing(backend);
        }
    }
}

/// Records what a request without a good response shows of a backend's health. Returns whether the
/// backend is down from now on.
#[cold]
fn contact_failed(
    now: Instant,
    backend: &mut Backend,
    outcome: &Outcome,
    is_failure: bool,
) -> bool {
    if is_failure {
        backend.health.failed(now);
    }
    *outcome == Outcome::Failed(RequestFailure::Refused) && backend.connection_refused(now)
}

/// The effects of a lease's end.
struct LeaseEnd {
    /// Whether the response was complete and not an error.
    is_good: bool,
    /// Whether a refused connection has just brought the backend down.
    is_newly_down: bool,
    /// Whether a response shows that a process listens again.
    is_back: bool,
    /// Whether the watch must evaluate the end.
    is_watched: bool,
    /// Whether the backend had the maximum number of outstanding leases.
    was_full: bool,
}
