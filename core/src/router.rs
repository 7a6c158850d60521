//! The router connects health, policy, gate, probes and estimates. This file has the interface; the
//! files of `router/` do the work: `leases` admits requests and counts their ends, `charge` decides
//! which outcomes count against a backend, `probing` applies probes, `current` changes the current
//! backend, `ejection` ejects and returns backends, `asides` tracks paused requests and streams,
//! `arranging` applies configurations, `affinity` keeps requests at the backends of their keys,
//! `reason` explains decisions.
//!
//! # Layout hints
//! Those of this crate have these reasons:
//!
//! - `inline(always)`: each saves a call on the path of a request. They were measured together with
//!   those of the proxy: see `server/src/proxy/mod.rs`.
//! - `inline`: small functions that every exchange calls. A release inlines others only if they are
//!   tiny (`.cargo/config.toml`); without the hints of both packages an exchange makes 46 more calls
//!   and takes 1.5 % more instructions.
//! - `cold`: keeps the rare parts of `route` and `finish` out of these functions. Without any `cold`
//!   in this crate a small exchange costs 0.9 % more instructions.
mod affinity;
mod arranging;
mod asides;
mod charge;
mod current;
mod ejection;
mod leases;
mod probing;
mod reason;

use std::collections::VecDeque;

use self::affinity::Ring;
use self::asides::Asides;
use self::ejection::Ejections;
use crate::backend::{Access, BackendTable};
use crate::blame::{Asker, Blame};
use crate::config::{ConfigError, RouterConfig, Rules};
use crate::event::{
    Action, Event, HoldReason, Lease, NoRoute, Notice, Outcome, ProbeFailure, ProbeKind,
    RouteReason, SwitchReason,
};
use crate::gate::SwitchGate;
use crate::id::{BackendId, Token};
use crate::others::Others;
use crate::policy::state::{PolicyState, PolicyStateError};
use crate::policy::{self, GuardView, Habits, Policy};
use crate::probe::{Due, ProbeSchedule};
use crate::rng::Rng;
use crate::snapshot::{BackendSnapshot, RouterCounts, Snapshot};
use crate::time::Instant;

/// Decides which backend serves a request.
///
/// A deterministic machine without I/O. Its methods are of four kinds:
/// 1. [`new`](Self::new);
/// 2. facts: [`handle_event`](Self::handle_event), [`finish`](Self::finish),
///    [`handle_timeout`](Self::handle_timeout);
/// 3. the decision that is returned at once: [`route`](Self::route);
/// 4. effects, drained after every call of the others: [`poll_action`](Self::poll_action) until
///    `None`, then [`poll_timeout`](Self::poll_timeout) for the time of the next `handle_timeout`.
///
/// `now` never goes backwards. `route` and the end of a request allocate nothing in steady state
/// and cost a few comparisons for each doubling of the number of backends.
///
/// Rules that hold between calls:
/// - The current backend is configured, and usable if any backend is. When it goes down, leaves, or
///   is ejected or held, the best usable backend replaces it at once, or as soon as there is one
///   (failover, which starts a cooldown like any switch).
/// - A backend that refused a request and named a time is held for that time: it gets requests only
///   if every other usable backend was tried or is held.
/// - A backup gets requests only while no other backend can take them: each is down, full, ejected,
///   held, out of service, or was tried.
/// - While no backend is usable, requests go to the least bad one, which does not become current. If
///   no process listens at any of them, that is the one that failed longest ago.
/// - The requests in flight of all backends are the outstanding leases. Leases of a backend whose
///   slot was taken by another one do not count, and their end changes nothing.
#[derive(Debug)]
pub struct Router {
    rules: Rules,
    table: BackendTable,
    /// The configured backends, in their order.
    order: Vec<BackendId>,
    probes: ProbeSchedule,
    policy: Box<dyn Policy>,
    habits: Habits,
    /// The number of policies before this one. A policy does not get the tokens of an earlier one.
    policy_epoch: u32,
    /// Outstanding leases that were set aside: streams, and requests that waited for their clients.
    asides: Asides,
    ejections: Ejections,
    /// Whether a backup is configured.
    has_backups: bool,
    ring: Ring,
    blame: Blame,
    /// Recent responses with status 4xx by group, like the errors in `blame`.
    declines: Blame,
    /// Requests of others at the backends, from reports.
    others: Others,
    gate: SwitchGate,
    rng: Rng,
    current: Option<BackendId>,
    /// The failed backend that the current one replaced.
    failed: Option<BackendId>,
    /// Whether observers know that no backend has the path of its pings.
    is_told_unserved: bool,
    actions: VecDeque<Action>,
    leases_given: u64,
    leases_home: u64,
    /// Outstanding leases whose backend was removed and whose slot was taken by another one since.
    leases_orphaned: u64,
    switches: u64,
    spills: u64,
    holds: u64,
    late_probes: u64,
    refused_configs: u64,
    last_switch: Option<(Instant, SwitchReason)>,
    last_hold: Option<(Instant, BackendId, HoldReason)>,
    /// The last hold that observers were notified of.
    told_hold: Option<(Instant, BackendId, HoldReason)>,
}

impl Router {
    /// A router with these backends and rules, at time `now`. The first probes are due at once.
    ///
    /// # Errors
    /// The first invalid value of the configuration.
    pub fn new(config: RouterConfig, seed: u64, now: Instant) -> Result<Self, ConfigError> {
        let policy = policy::new(&config.rules);
        Self::with_policy(config, policy, seed, now)
    }

    /// A router with a learner that is broken on purpose (its costs are inverted) under its live
    /// guard, for tests of that guard. No configuration leads to it.
    ///
    /// # Errors
    /// The first invalid value of the configuration.
    pub fn with_broken_learner(
        config: RouterConfig,
        seed: u64,
        now: Instant,
    ) -> Result<Self, ConfigError> {
        let policy = policy::broken_learner(&config.rules);
        Self::with_policy(config, policy, seed, now)
    }

    fn with_policy(
        config: RouterConfig,
        policy: Box<dyn Policy>,
        seed: u64,
        now: Instant,
    ) -> Result<Self, ConfigError> {
        config.validate()?;
        let mut router = Self {
            table: BackendTable::new(),
            order: Vec::new(),
            probes: ProbeSchedule::new(),
            habits: policy.habits(),
            policy,
            policy_epoch: 0,
            asides: Asides::new(),
            ejections: Ejections::default(),
            has_backups: false,
            ring: Ring::default(),
            blame: Blame::new(),
            declines: Blame::new(),
            others: Others::default(),
            gate: SwitchGate::new(&config.rules),
            rng: Rng::new(seed),
            current: None,
            failed: None,
            is_told_unserved: false,
            actions: VecDeque::with_capacity(4 * config.backends.len() + 16),
            leases_given: 0,
            leases_home: 0,
            leases_orphaned: 0,
            switches: 0,
            spills: 0,
            holds: 0,
            late_probes: 0,
            refused_configs: 0,
            last_switch: None,
            last_hold: None,
            told_hold: None,
            rules: config.rules,
        };
        router.arrange(now, &config.backends);
        router.check_in_debug();
        Ok(router)
    }

    /// Applies a fact.
    #[inline(always)]
    pub fn handle_event(&mut self, now: Instant, event: Event) {
        match event {
            Event::RequestFinished { lease, outcome } => return self.finish(now, lease, outcome),
            Event::StreamOpened { lease, backend, status, latency } => {
                self.stream_opened(now, lease, backend, status, latency);
            }
            Event::LeasePaused { lease, backend } => self.lease_paused(now, lease, backend),
            Event::LeaseResumed { lease, backend } => self.lease_resumed(now, lease, backend),
            Event::ProbeFinished { probe, result } => self.probe_finished(now, probe, &result),
            Event::LoadReported { backend, report } => self.load_reported(now, backend, &report),
            Event::Reconfigured(config) => self.reconfigured(now, *config),
        }
        self.check_in_debug();
    }

    /// Ends a request, like [`Event::RequestFinished`], without a copy of its lease in an event.
    pub fn finish(&mut self, now: Instant, lease: Lease, outcome: Outcome) {
        self.request_finished(now, lease, outcome);
        self.check_in_debug();
    }

    /// Does the work that is due by `now`: starts probes and gives up overdue ones. Early or
    /// repeated calls do nothing. Afterwards the next deadline is `None` or later than `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(due) = self.probes.due(now) {
            match due {
                // The schedule goes on without probes: each time stands in for the ping that would
                // end an ejection.
                Due::Start(line) if self.is_unchecked(line) => {
                    let rules = self.probe_rules(line.backend);
                    self.probes.skip(now, line, &rules);
                    if line.kind == ProbeKind::Ping {
                        self.waited(now, line.backend);
                    }
                }
                Due::Start(line) => {
                    let rules = self.probe_rules(line.backend);
                    let (probe, deadline) = self.probes.start(now, line, &rules);
                    let (backend, kind) = (line.backend, line.kind);
                    let start = Action::StartProbe { probe, backend, kind, deadline };
                    self.actions.push_back(start);
                }
                // The driver may still report a result. That probe is then unknown, and counts as
                // late.
                Due::GiveUp(probe) => {
                    let Some(ended) = self.probes.finish(probe) else {
                        debug_assert!(false, "a probe is given up only while outstanding");
                        return;
                    };
                    self.probe_ended(now, ended, &Err(ProbeFailure::TimedOut));
                }
            }
        }
        debug_assert!(
            self.poll_timeout().is_none_or(|deadline| deadline > now),
            "after a timeout the next deadline lies ahead"
        );
        self.check_in_debug();
    }

    /// Admits a request: names its backend and counts it in flight there until the lease is
    /// returned with [`Event::RequestFinished`].
    ///
    /// `tried` are the backends at which earlier attempts of this request failed. A retry goes to
    /// the best of the others and does not change the current backend.
    ///
    /// # Errors
    /// The reason why no backend can take the request.
    pub fn route(&mut self, now: Instant, tried: &[BackendId]) -> Result<Lease, NoRoute> {
        self.route_for(now, tried, Asker::default())
    }

    /// Like [`route`](Self::route), with the groups that separate errors of a backend from errors
    /// that one client provokes.
    ///
    /// # Errors
    /// The reason why no backend can take the request.
    pub fn route_for(
        &mut self,
        now: Instant,
        tried: &[BackendId],
        asker: Asker,
    ) -> Result<Lease, NoRoute> {
        let asker = asker.bounded();
        // Only for a first attempt: a retry must avoid all of `tried`, not only this one backend.
        if self.blame.is_open()
            && tried.is_empty()
            && let Some(not) = self.second_opinion_on(now, asker)
        {
            return self.admit_elsewhere(now, not, asker);
        }
        self.admit(now, tried, asker)
    }

    /// The next piece of work for the driver; `None` when nothing is left.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Whether [`poll_action`](Self::poll_action) would return an action.
    pub fn has_actions(&self) -> bool {
        !self.actions.is_empty()
    }

    /// The time at which [`handle_timeout`](Self::handle_timeout) is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.probes.deadline()
    }

    /// The state of the router as plain data. It changes nothing.
    pub fn snapshot(&self, now: Instant) -> Snapshot {
        let backends = self.order.iter().filter_map(|id| self.backend_snapshot(now, *id));
        Snapshot {
            at: now,
            policy: self.rules.policy,
            current: self.current,
            switches: self.switches,
            spills: self.spills,
            last_switch: self.last_switch,
            last_hold: self.last_hold,
            late_probes: self.late_probes,
            refused_configs: self.refused_configs,
            guard: self.guard(now),
            backends: backends.collect(),
        }
    }

    /// The counts of decisions and of ignored inputs since the start.
    pub const fn counts(&self) -> RouterCounts {
        let Self { switches, spills, holds, late_probes, refused_configs, .. } = *self;
        RouterCounts { switches, spills, holds, late_probes, refused_configs }
    }

    /// Whether a backend is configured, up and not ejected, however busy it is.
    pub fn has_usable(&self) -> bool {
        self.order.iter().any(|id| self.is_good(*id))
    }

    /// The number of requests of others at a backend.
    #[cfg(test)]
    pub(crate) fn others_at(&self, now: Instant, id: BackendId) -> f64 {
        let own = self.table.get(id).map_or(0, |backend| backend.at_work());
        self.others.at(now, id, own)
    }

    /// The ratio of others' requests to own requests, at the median backend.
    #[cfg(test)]
    pub(crate) const fn others_ratio(&self) -> f64 {
        self.others.ratio()
    }

    /// One backend as plain data; `None` if it was removed and its slot taken by another one.
    pub fn backend_snapshot(&self, now: Instant, id: BackendId) -> Option<BackendSnapshot> {
        let backend = self.table.get(id)?;
        let reason = self.policy.view(now, id, backend);
        let watch = self.watch_of(id).unwrap_or(&backend.watch);
        let is_current = self.current == Some(id);
        let rules = &self.rules;
        let others = self.others.is_known(now).then(|| self.others.at(now, id, backend.at_work()));
        let rest = BackendSnapshot::new(now, id, backend, is_current, reason, watch, rules);
        Some(BackendSnapshot { others, ..rest })
    }

    /// The state of the guard over the policy; `None` for a policy without a guard.
    pub fn guard(&self, now: Instant) -> Option<GuardView> {
        self.policy.learner()?.guard(now)
    }

    /// The latencies that a learning policy predicts for a backend: requests in flight, rising, and
    /// ms. Empty for a policy without a model.
    pub fn predictions(&self, backend: BackendId) -> Vec<(u32, f64)> {
        self.policy.learner().map_or_else(Vec::new, |learner| learner.predictions(backend))
    }

    /// The policy's learned state, to be kept across restarts; `None` if it does not learn.
    pub fn policy_state(&self) -> Option<PolicyState> {
        // A removed backend has its name until the slot is taken again. Its state is not kept.
        let name = |id| self.name(id).filter(|_| self.table.is_configured(id)).map(str::to_owned);
        let of = self.policy.learner()?.state(&name);
        Some(PolicyState { version: PolicyState::VERSION, of })
    }

    /// Restores a learned state for the configured backends in it, preferably before the first
    /// request. It is an input like any event: a replay needs it.
    ///
    /// # Errors
    /// The version or the policy is another one, or a number is out of range. In that case nothing
    /// has changed.
    pub fn restore(&mut self, state: &PolicyState) -> Result<(), PolicyStateError> {
        if state.version != PolicyState::VERSION {
            return Err(PolicyStateError::Version(state.version));
        }
        // Not `self.name`, because the policy is borrowed mutably below.
        let table = &self.table;
        let name = |id| {
            let is_configured = table.is_configured(id);
            table.get(id).filter(|_| is_configured).map(|backend| backend.name.clone())
        };
        let learner = self.policy.learner_mut().ok_or(PolicyStateError::Policy)?;
        learner.restore(&state.of, &name)
    }

    /// The current backend, which requests go to; `None` before the first choice, and under every
    /// policy but `score`.
    pub const fn current(&self) -> Option<BackendId> {
        self.current
    }

    /// The configured backends, in their order.
    pub fn configured(&self) -> &[BackendId] {
        &self.order
    }

    /// The configured backend with this name.
    pub fn backend(&self, name: &str) -> Option<BackendId> {
        self.table.find(name).filter(|id| self.table.is_configured(*id))
    }

    /// The name of a backend that is configured, or was removed and whose slot is still free.
    pub fn name(&self, backend: BackendId) -> Option<&str> {
        self.table.get(backend).map(|backend| backend.name.as_str())
    }

    /// Checks what must hold between calls, and panics otherwise. Debug builds call it after every
    /// call. Its cost grows with the number of backends.
    pub fn check_invariants(&self) {
        self.table.check_invariants();
        self.probes.check_invariants();
        let in_flight: u64 = self.table.iter().map(|(_, b)| u64::from(b.in_flight())).sum();
        let leases_out = self.leases_given - self.leases_home;
        let accounted = in_flight + self.leases_orphaned;
        assert!(accounted == leases_out, "requests in flight are the leases out");
        let configured = self.table.iter().filter(|(_, backend)| !backend.is_retired).count();
        assert!(configured == self.order.len(), "only configured backends are not retired");
        if let Some(current) = self.current {
            assert!(self.table.is_configured(current), "the current backend is configured");
            let access = |id| self.table.row(id).map(|row| row.access);
            // Access ranks before score, so the first backend has the best access of all.
            let best = self.table.lowest().and_then(access);
            // Slow start alone is not a reason to leave a backend.
            let slow = if best < Some(Access::Backup) { Access::Slow } else { Access::BackupSlow };
            assert!(
                best >= Some(Access::Ejected)
                    || best.is_none()
                    || access(current) == Some(Access::Full)
                    || access(current) <= best.max(Some(slow)),
                "the current backend is usable if any is, and free if any is"
            );
        }
        assert!(self.switches == 0 || self.last_switch.is_some(), "switches leave their reason");
    }

    /// Schedules the next ping as early as the policy, or the return of the backend, needs it.
    #[inline(always)]
    fn hasten_pings(&mut self, now: Instant, backend: BackendId) {
        if self.habits.guards_itself
            && let Some(learner) = self.policy.learner()
            && let Some(wait) = learner.ping_every(backend)
            && self.table.is_configured(backend)
        {
            self.probes.hasten(backend, now + wait);
        }
    }

    /// Pings the backends that are down, except `but`, because no backend is usable: one that has
    /// returned is found at once. [`ProbeSchedule::hasten_early`] bounds the rate.
    fn hasten_down(&mut self, now: Instant, but: Option<BackendId>) {
        if self.has_usable() {
            return;
        }
        let is_down = |id: &BackendId| {
            let backend = self.table.get(*id).filter(|backend| backend.is_in_service());
            Some(*id) != but && backend.is_some_and(|backend| !backend.is_up())
        };
        let down = self.order.iter().copied().filter(is_down);
        for (nth, id) in down.enumerate() {
            self.probes.hasten_early(now, id, nth);
        }
    }

    fn health_changed(&mut self, now: Instant, backend: BackendId, cause: Option<ProbeFailure>) {
        let is_up = self.table.get(backend).is_some_and(|backend| backend.is_up());
        if !is_up {
            // A hold from before it went down no longer applies when it is up again.
            self.table.update(backend, |backend| {
                backend.release_now();
                backend.was_down = true;
            });
            self.hasten_down(now, Some(backend));
        } else if self.table.update(backend, |b| std::mem::take(&mut b.was_down)) == Some(true) {
            // Slow start is for a backend that was down, not for one that was `unknown` until now.
            self.watch_up(now, backend);
        }
        // For the policy, a backend out of service is down. `arranging.rs` reports its return.
        if self.table.get(backend).is_some_and(|backend| backend.is_in_service()) {
            self.policy.on_health(now, backend, is_up);
        }
        self.notify(Notice::HealthChanged { backend, is_up, cause });
        self.settle(now);
    }

    fn notify(&mut self, notice: Notice) {
        self.actions.push_back(Action::Notify(notice));
    }

    /// Whether a backend is configured, up and not ejected, however busy it is.
    fn is_good(&self, id: BackendId) -> bool {
        let backend = self.table.get(id).filter(|backend| backend.is_available());
        // A policy that ejects by itself has the watches. Those in the table are unused then.
        backend.is_some_and(|backend| self.watch_of(id).unwrap_or(&backend.watch).is_in())
    }

    /// Whether a backend outside `tried` would take the request if it were not full.
    #[cold]
    fn is_only_full(&self, tried: &[BackendId]) -> bool {
        let mut full = self.order.iter().filter(|id| self.is_full(**id) && !tried.contains(id));
        full.any(|id| self.is_good(*id))
    }

    fn is_usable(&self, id: BackendId) -> bool {
        self.table.access(id).is_some_and(|access| access < Access::Ejected)
    }

    /// Whether a backend has the maximum number of requests in flight.
    fn is_full(&self, id: BackendId) -> bool {
        self.table.access(id) == Some(Access::Full)
    }

    fn check_in_debug(&self) {
        if cfg!(debug_assertions) {
            self.check_invariants();
        }
    }
}

/// A backend, the policy's token, and the rule.
type Chosen = (BackendId, Token, RouteReason);

#[cfg(test)]
mod tests;
