//! Sends requests with a common key to one backend, under every policy.
//!
//! The owner of a key is the backend that the key names, or the backend with the highest rank
//! ([`affinity`](crate::affinity)). A request goes to the owner while it is a candidate like any
//! other (up, not ejected, held or full, and not a backup while others serve) and its expected
//! delay is at most `slack` times the lowest one. Otherwise the request goes to the candidate with
//! the next highest rank for which this holds. Nothing is remembered: the next request with the key
//! starts with the owner again.
//!
//! `score` with spill-over and `learned` have a model of delays. Under all other policies a backend
//! is within the slack while its requests in flight, this one included, are at most `slack` times
//! its share by weight of all requests in flight (consistent hashing with bounded loads: Mirrokni,
//! Thorup and Zadimoghaddam 2018), and always up to [`FEW`]. Some candidate is always within the
//! slack.
//!
//! Only requests show that a slow owner has become faster, so occasionally a request goes to an
//! owner beyond the slack ([`VISIT_EVERY`]).
//!
//! With a slack, affinity is a preference: a trial or a second opinion goes to its own backend.
//! Without a slack, trials and second opinions use only requests whose owner is not usable.
//!
//! The layout hints are explained in `router.rs`.
use super::{Chosen, Router};
use crate::affinity::{AffinityKey, combined, hash, rank};
use crate::backend::Access;
use crate::blame::Asker;
use crate::event::{Lease, NoRoute, RouteReason};
use crate::id::BackendId;
use crate::outlier::Watch;
use crate::time::Instant;

/// Hashes of the backends' names, and a buffer for the delays of one decision.
#[derive(Debug, Default)]
pub(super) struct Ring {
    /// The hash of each name, by slot.
    names: Vec<u64>,
    /// The candidates of a decision with their delays; reused to avoid allocations.
    delays: Vec<(BackendId, f64)>,
    /// Number of requests that did not go to their owners because of a delay, since the last visit
    /// to such an owner.
    passed: u32,
}

/// Makes the hash of a backend differ between sessions, so that two sessions do not reveal whether
/// they share a backend.
const SESSION: u64 = 0x73_6573_7369_6f6e;
/// One in this many requests goes to its owner although the owner's delay is beyond the slack.
/// Chosen.
const VISIT_EVERY: u32 = 64;
/// Under a policy without a model of delays, a backend may always have this many requests in
/// flight, the new one included. One client often sends two requests at a time.
const FEW: f64 = 2.0;

impl Router {
    /// Like [`route_for`](Self::route_for), for a request that may have an affinity key.
    ///
    /// # Errors
    /// The reason why no backend can take the request.
    #[inline(always)]
    pub fn route_keyed(
        &mut self,
        now: Instant,
        tried: &[BackendId],
        asker: Asker,
        key: Option<AffinityKey>,
    ) -> Result<Lease, NoRoute> {
        match key {
            None => self.route_for(now, tried, asker),
            Some(key) => self.route_to_owner(now, tried, asker.bounded(), key),
        }
    }

    /// The mark by which a session with this number names a backend. It does not reveal the name,
    /// but a guessed name can be verified.
    pub fn session_mark(&self, number: u64, backend: BackendId) -> Option<u64> {
        let name = self.ring.names.get(backend.index())?;
        self.table.get(backend)?;
        Some(combined(number ^ SESSION, *name))
    }

    /// The configured backend that a session names.
    pub fn session_owner(&self, number: u64, mark: u64) -> Option<BackendId> {
        self.order.iter().copied().find(|id| self.session_mark(number, *id) == Some(mark))
    }

    /// Whether a session must move: its owner is down, ejected, held, out of service or no longer
    /// configured, or is a backup while others serve. A session stays with a full owner.
    pub fn has_left(&self, owner: BackendId) -> bool {
        let access = self.table.row(owner).map_or(Access::Gone, |row| row.access);
        access != Access::Full && !self.may_own(owner, &[], self.owner_access(&[]))
    }

    /// Stores the hash of each configured backend's name.
    pub(super) fn name_ring(&mut self) {
        for id in &self.order {
            let Some(backend) = self.table.get(*id) else { continue };
            if self.ring.names.len() <= id.index() {
                self.ring.names.resize(id.index() + 1, 0);
            }
            self.ring.names[id.index()] = hash(backend.name.as_bytes());
        }
    }

    fn route_to_owner(
        &mut self,
        now: Instant,
        tried: &[BackendId],
        asker: Asker,
        key: AffinityKey,
    ) -> Result<Lease, NoRoute> {
        let slack = self.rules.affinity.slack();
        self.release_holds(now);
        // Without a slack only the state of the owner matters. The policy is not consulted, unless
        // that owner cannot serve.
        if slack.is_none() {
            let owner = self.owner(key);
            let access = self.owner_access(tried);
            if access >= Access::Down && self.is_only_full(tried) {
                return Err(NoRoute::Full);
            }
            if let Some(owner) = owner.filter(|owner| self.may_own(*owner, tried, access)) {
                return Ok(self.give(now, (owner, 0, RouteReason::Owner), asker));
            }
        } else if tried.is_empty()
            && let Some(not) = self.second_opinion_on(now, asker)
        {
            return self.admit_elsewhere(now, not, asker);
        }
        let chosen = self.pick(now, tried)?;
        let chosen = self.prefer_owner(now, tried, key, slack, chosen);
        Ok(self.give(now, chosen, asker))
    }

    /// Replaces the policy's choice by the backend that serves the key.
    fn prefer_owner(
        &mut self,
        now: Instant,
        tried: &[BackendId],
        key: AffinityKey,
        slack: Option<f64>,
        chosen: Chosen,
    ) -> Chosen {
        let access = self.best_access(tried);
        // A trial must reach its backend.
        if [chosen.2, self.policy.reason(chosen.1)].contains(&RouteReason::Trial) {
            return chosen;
        }
        // Taken out of `self`, which `measure` and `visits` borrow as a whole.
        let mut delays = std::mem::take(&mut self.ring.delays);
        delays.clear();
        let owner = self.owner(key);
        let candidates = self.order.iter().filter(|id| {
            self.is_candidate(**id, tried, access)
                || owner == Some(**id) && self.may_own(**id, tried, access)
        });
        delays.extend(candidates.map(|id| (*id, 0.0)));
        let bound = slack.map_or(f64::INFINITY, |slack| self.measure(now, slack, &mut delays));
        let is_slow = |one: &(BackendId, f64)| Some(one.0) == owner && one.1 > bound && bound > 0.0;
        let is_visit = delays.iter().any(is_slow) && self.visits(tried, owner);
        let within = delays.iter().filter(|(_, delay)| *delay <= bound).map(|(id, _)| *id);
        let to = match owner {
            Some(_) if is_visit => owner,
            // The owner that a session names need not have the highest rank.
            Some(owner) if key.owner.is_some() && within.clone().any(|id| id == owner) => {
                Some(owner)
            }
            _ => self.highest(key.hash, within),
        };
        self.ring.delays = delays;
        let Some(to) = to else { return chosen };
        // A token belongs to the policy's own choice of backend.
        let token = if to == chosen.0 { chosen.1 } else { 0 };
        let reason = match owner {
            _ if !tried.is_empty() => RouteReason::Retry,
            _ if is_visit => RouteReason::Trial,
            Some(owner) if owner == to => RouteReason::Owner,
            _ => RouteReason::NextOwner,
        };
        (to, token, reason)
    }

    /// Sets the delay of each candidate. Returns the largest delay within the slack.
    fn measure(&mut self, now: Instant, slack: f64, delays: &mut [(BackendId, f64)]) -> f64 {
        let mut least = f64::INFINITY;
        let mut is_known = true;
        for (id, delay) in delays.iter_mut() {
            match self.policy.delay(now, *id) {
                Some(known) => *delay = known,
                None => is_known = false,
            }
            least = least.min(*delay);
        }
        if is_known {
            return slack * least;
        }
        // The delay is measured in requests in flight: it is the excess over the slack times the
        // share by weight, and is compared with 0.
        let rows =
            delays.iter().filter_map(|(id, _)| Some((self.table.row(*id)?, self.table.get(*id)?)));
        let (load, weight) = rows.fold((1.0, 0.0), |(load, weight), (row, backend)| {
            (load + f64::from(row.load), weight + f64::from(backend.weight()))
        });
        for (id, delay) in delays {
            let Some((row, backend)) = self.table.row(*id).zip(self.table.get(*id)) else {
                continue;
            };
            let share = load * f64::from(backend.weight()) / weight;
            *delay = f64::from(row.load) + 1.0 - (slack * share).ceil().max(FEW);
        }
        0.0
    }

    /// Whether a request goes to an owner beyond the slack. Only requests show that the owner has
    /// become faster, so one in [`VISIT_EVERY`] goes there while the owner is idle.
    fn visits(&mut self, tried: &[BackendId], owner: Option<BackendId>) -> bool {
        self.ring.passed = self.ring.passed.saturating_add(1);
        let is_idle = owner.and_then(|id| self.table.row(id)).is_some_and(|row| row.load == 0);
        // A visit is a trial, and a retry is never one.
        let is_due = self.ring.passed >= VISIT_EVERY && tried.is_empty() && is_idle;
        if is_due {
            self.ring.passed = 0;
        }
        is_due
    }

    /// The owner of a key among the backends in service, usable or not.
    fn owner(&self, key: AffinityKey) -> Option<BackendId> {
        let is_in = |id: &BackendId| self.table.get(*id).is_some_and(|one| one.is_in_service());
        let is_usual = |id: &BackendId| is_in(id) && !self.is_spare(*id);
        // Unless a session names it, a backup owns keys only if all backends in service are
        // backups.
        let named = key.owner.filter(is_in);
        named
            .or_else(|| self.highest(key.hash, self.order.iter().copied().filter(is_usual)))
            .or_else(|| self.highest(key.hash, self.order.iter().copied().filter(is_in)))
    }

    /// The backend with the highest rank for a key; the lowest id among equals.
    fn highest(&self, key: u64, among: impl Iterator<Item = BackendId>) -> Option<BackendId> {
        let mut best: Option<(f64, BackendId)> = None;
        for id in among {
            let (Some(name), Some(backend)) = (self.ring.names.get(id.index()), self.table.get(id))
            else {
                continue;
            };
            let rank = rank(key, *name, backend.weight());
            if best.is_none_or(|(highest, at)| rank > highest || rank == highest && id < at) {
                best = Some((rank, id));
            }
        }
        best.map(|(_, id)| id)
    }

    fn is_spare(&self, id: BackendId) -> bool {
        self.table.get(id).is_some_and(|backend| backend.is_backup())
    }

    /// The best access of any backend outside `tried`.
    fn best_access(&self, tried: &[BackendId]) -> Access {
        self.table.best_access_except(tried).unwrap_or(Access::Free)
    }

    /// The least access with which an owner serves its key if there is no slack. Slow start limits
    /// only other requests.
    fn owner_access(&self, tried: &[BackendId]) -> Access {
        self.best_access(tried).max(Access::Slow)
    }

    /// Whether a backend serves its keys: it is a candidate. While no backend is usable, it is also
    /// enough that it has not refused a request: a refused ping does not move its keys to a backend
    /// that is down as well.
    fn may_own(&self, id: BackendId, tried: &[BackendId], access: Access) -> bool {
        self.is_candidate(id, tried, access)
            || access >= Access::Down
                && self.is_candidate(id, tried, Access::Refusing)
                && self.table.get(id).is_some_and(|one| !one.health.has_refused_request())
    }

    /// Whether a backend has at least this access, was not tried, and is not ejected by the policy.
    /// While no backend is usable, the least bad ones are candidates.
    fn is_candidate(&self, id: BackendId, tried: &[BackendId], access: Access) -> bool {
        self.table.row(id).is_some_and(|row| row.access <= access)
            && !tried.contains(&id)
            && (!self.habits.guards_itself || self.watch_of(id).is_none_or(Watch::is_in))
    }
}
