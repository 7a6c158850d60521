//! One pool of backends: the router, the addresses, the idle connections, and the leases of
//! requests whose backend left or moved.
//!
//! The pool only decides. The proxy applies the decisions to connections and sessions, mostly in
//! `dispatch.rs`. The pool's parts are private, so that a proxy can have several pools later.
//!
//! The layout hints are explained in `proxy/mod.rs`.
mod decisions;
mod idle;
mod places;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use intelliproxy_core::journal::{JournalSink, RecordedRouter, RecordingCounts};
use intelliproxy_core::{
    Action, AffinityKey, Asker, BackendId, BackendLimits, BackendSnapshot, CheckRules, ConfigError,
    Event, GuardView, Instant, Lease, LeaseId, Mode, NoRoute, Outcome, PolicyState,
    PolicyStateError, RouteReason, RouterConfig, RouterCounts, Rules, Snapshot,
};

pub(crate) use self::decisions::Decisions;
use self::idle::Idle;
use self::places::Places;
pub(crate) use self::places::{Attempt, Move};
use super::id::ConnId;
use super::notice::{ConfigChange, ReportFault};
use crate::collect::one_by_one;
use crate::config::{BackendTarget, Check, Config, Orca, Reporting};
use crate::tls::TlsFault;

/// A pool of backends.
#[derive(Debug)]
pub(crate) struct Upstreams {
    router: RecordedRouter,
    places: Places,
    idle: Idle,
    /// Leases of open requests whose backend left or moved.
    displaced: BTreeSet<LeaseId>,
    /// The number of open leases.
    leases: usize,
    /// The last decisions, while there is an admin page that shows them.
    decisions: Option<Box<Decisions>>,
    /// Backends in maintenance: no idle connection to them is kept.
    maintained: BTreeSet<BackendId>,
    /// The health checks of the configured backends.
    checks: BTreeMap<BackendId, Arc<Check>>,
    /// The status and the checks at the last report that no backend has the path of its check.
    unserved: Option<(u16, Vec<Arc<Check>>)>,
    /// The report settings of the configured backends.
    reportings: BTreeMap<BackendId, Arc<Reporting>>,
}

impl Upstreams {
    pub(crate) fn new(
        config: &Config,
        targets: Vec<BackendTarget>,
        seed: u64,
        now: Instant,
    ) -> Result<Self, ConfigError> {
        let names: Vec<String> = targets.iter().map(|target| target.name.clone()).collect();
        let wanted = router_config(config, names, &BTreeMap::new());
        let router = RecordedRouter::new(wanted, seed, now)?;
        let places = Places::new(targets);
        let (idle, displaced) = (Idle::default(), BTreeSet::new());
        let (leases, decisions, maintained) = (0, None, BTreeSet::new());
        let (checks, unserved, reportings) = (BTreeMap::new(), None, BTreeMap::new());
        let mut upstreams = Self {
            router,
            places,
            idle,
            displaced,
            leases,
            decisions,
            maintained,
            checks,
            unserved,
            reportings,
        };
        upstreams.set_checks(config);
        upstreams.keep_decisions(config.admin.listen.is_some());
        Ok(upstreams)
    }

    /// Begins to keep the last decisions, or drops them.
    pub(crate) fn keep_decisions(&mut self, is_wanted: bool) {
        if is_wanted != self.decisions.is_some() {
            self.decisions = is_wanted.then(Box::default);
        }
    }

    /// Returns the last decisions for additions, while they are kept.
    pub(crate) fn decisions_mut(&mut self) -> Option<&mut Decisions> {
        self.decisions.as_deref_mut()
    }

    /// Returns the last decisions, while they are kept.
    pub(crate) fn decisions(&self) -> Option<&Decisions> {
        self.decisions.as_deref()
    }

    /// Restores the state that the router's policy learned.
    pub(crate) fn restore(&mut self, text: &str) -> Result<(), PolicyStateError> {
        self.router.restore(&PolicyState::from_json(text)?)
    }

    pub(crate) fn record_into(&mut self, sink: Box<dyn JournalSink>, wall_clock_nanos: u64) {
        self.router.record_into(sink, wall_clock_nanos);
    }

    pub(crate) fn record_from_now(
        &mut self,
        now: Instant,
        sink: Box<dyn JournalSink>,
        wall_clock_nanos: u64,
    ) {
        self.router.record_from_now(now, sink, wall_clock_nanos);
    }

    pub(crate) fn stop_recording(&mut self) {
        self.router.stop_recording();
    }

    /// Passes a fact to the router. It changes nothing else in the pool.
    #[inline]
    pub(crate) fn tell(&mut self, now: Instant, event: Event) {
        self.router.handle_event(now, event);
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.router.handle_timeout(now);
    }

    /// Chooses a backend for a request.
    #[inline]
    pub(crate) fn route(
        &mut self,
        now: Instant,
        tried: &[BackendId],
        asker: Asker,
        key: Option<AffinityKey>,
    ) -> Result<Lease, NoRoute> {
        let routed = match &mut self.decisions {
            None => self.router.route_keyed(now, tried, asker, key),
            Some(decisions) => decisions.route(&mut self.router, now, tried, asker, key),
        };
        self.leases += usize::from(routed.is_ok());
        routed
    }

    /// Lets the router count a request for `backend`, by passing all other backends as tried.
    /// `None` if the backend is no longer at the address of `attempt`, or if the router finds no
    /// route.
    pub(crate) fn route_to(
        &mut self,
        now: Instant,
        backend: BackendId,
        attempt: Option<Attempt>,
    ) -> Option<Lease> {
        if !attempt.is_some_and(|attempt| self.places.is_current(backend, attempt)) {
            return None;
        }
        let others = self.places.configured().map(|(other, _)| other);
        let others: Vec<BackendId> = others.filter(|other| *other != backend).collect();
        let lease = self.router.route(now, &others).ok()?;
        debug_assert!(lease.backend() == backend, "there is no other one left");
        self.leases += 1;
        Some(lease)
    }

    /// Returns the backend that a session names; see [`mark_of`](Self::mark_of).
    pub(crate) fn owner_of(&self, session: u64, mark: u64) -> Option<BackendId> {
        self.router.session_owner(session, mark)
    }

    /// Returns the mark by which a session with this number names a backend.
    pub(crate) fn mark_of(&self, session: u64, backend: BackendId) -> Option<u64> {
        self.router.session_mark(session, backend)
    }

    /// Whether sessions must leave this backend because it is unusable. A full backend is not left.
    pub(crate) fn has_left(&self, backend: BackendId) -> bool {
        self.router.has_left(backend)
    }

    /// Returns the rule by which a request has just got its backend.
    pub(crate) fn reason(&self, lease: &Lease) -> RouteReason {
        self.router.reason(lease)
    }

    /// Returns a lease. Its outcome does not count if the backend has left or moved (R3).
    #[inline]
    pub(crate) fn finish(&mut self, now: Instant, lease: Lease, outcome: Outcome) {
        self.leases -= 1;
        let is_displaced = !self.displaced.is_empty() && self.take_displaced(lease.id());
        let outcome = if is_displaced { Outcome::Abandoned } else { outcome };
        self.router.finish(now, lease, outcome);
    }

    #[cold]
    fn take_displaced(&mut self, lease: LeaseId) -> bool {
        self.displaced.remove(&lease)
    }

    /// Whether a backend that is not in `refused_by` can take a request: it is up, not ejected, and
    /// not held by a refusal.
    pub(crate) fn has_other(&self, now: Instant, refused_by: &[BackendId]) -> bool {
        self.router.has_other(now, refused_by)
    }

    /// Whether a retry would reach a backend that is not in `tried` and can take a request. Unlike
    /// after a refusal, this may be an idle backup.
    pub(crate) fn has_next(&self, now: Instant, tried: &[BackendId]) -> bool {
        self.router.has_next(now, tried)
    }

    /// Sets the address that is tried first for the next connection to a backend.
    pub(crate) fn prefer(&mut self, backend: BackendId, attempt: Attempt) {
        self.places.prefer(backend, attempt);
    }

    /// Whether this kind of report fault is new for the backend.
    pub(crate) fn is_first_fault(&mut self, backend: BackendId, fault: &ReportFault) -> bool {
        self.places.is_first_fault(backend, fault)
    }

    /// Stores the fault of a backend's TLS, `None` if it works. Returns whether this is a change.
    pub(crate) fn is_news_tls(&mut self, backend: BackendId, fault: Option<TlsFault>) -> bool {
        self.places.is_news_tls(backend, fault)
    }

    /// Takes the most recently used idle connection to `backend`.
    #[inline]
    pub(crate) fn take_idle(&mut self, backend: BackendId) -> Option<ConnId> {
        self.idle.take(backend)
    }

    /// Keeps an idle connection to `backend`, made by `attempt`. Returns false if the backend has
    /// moved or is in maintenance, or if there are `most` already.
    #[inline]
    pub(crate) fn keep_idle(
        &mut self,
        backend: BackendId,
        attempt: &Attempt,
        conn: ConnId,
        most: usize,
    ) -> bool {
        let is_wanted = self.maintained.is_empty() || !self.maintained.contains(&backend);
        is_wanted && self.places.is_current(backend, *attempt) && self.idle.put(backend, conn, most)
    }

    /// Removes a connection that ended while idle.
    pub(crate) fn forget_idle(&mut self, backend: BackendId, conn: ConnId) {
        self.idle.remove(backend, conn);
    }

    /// Removes the idle connections to `backend` beyond `most`: the least recently used ones.
    pub(crate) fn trim_idle(&mut self, backend: BackendId, most: usize) -> Vec<ConnId> {
        self.idle.trim(backend, most)
    }

    /// Removes every idle connection.
    pub(crate) fn drain_idle(&mut self) -> Vec<ConnId> {
        self.idle.drain().collect()
    }

    /// Compares the configured backends with `targets`. Adds the names of added, moved and removed
    /// backends to `change`, and returns the ids of the moved and removed ones.
    pub(crate) fn compare(
        &self,
        targets: &[BackendTarget],
        change: &mut ConfigChange,
        moves: Move,
    ) -> BTreeSet<BackendId> {
        let mut displaced = BTreeSet::new();
        let mut kept = BTreeSet::new();
        for target in targets {
            match self.router.backend(&target.name) {
                Some(id) if self.places.stays(id, target, moves) => {
                    kept.insert(id);
                }
                Some(id) => {
                    displaced.insert(id);
                    change.moved.push(target.name.clone());
                }
                None => change.added.push(target.name.clone()),
            }
        }
        for (id, name) in self.places.configured() {
            if !kept.contains(&id) && displaced.insert(id) {
                change.removed.push(name.to_owned());
            }
        }
        displaced
    }

    /// Reconfigures the router as if the moved backends had left. When
    /// [`reconfigure`](Self::reconfigure) adds them again, they are new to the router.
    pub(crate) fn reconfigure_without(
        &mut self,
        now: Instant,
        wanted: &RouterConfig,
        moved: &[String],
    ) {
        let moved: BTreeSet<&String> = one_by_one(moved);
        let stays = |name: &&String| !moved.contains(name);
        let backends = wanted.backends.iter().filter(stays).cloned().collect();
        self.reconfigure(now, RouterConfig { backends, rules: wanted.rules.clone() });
    }

    pub(crate) fn reconfigure(&mut self, now: Instant, wanted: RouterConfig) {
        self.router.handle_event(now, Event::Reconfigured(Box::new(wanted)));
    }

    /// Sets the configured backends. The router must have them already.
    pub(crate) fn set_places(&mut self, targets: Vec<BackendTarget>, moves: Move) {
        let ids: Vec<BackendId> =
            targets.iter().filter_map(|target| self.router.backend(&target.name)).collect();
        self.places.set(&ids, targets, moves);
    }

    /// Sets the health checks and load reports of the configured backends.
    pub(crate) fn set_checks(&mut self, config: &Config) {
        let mut checks = config.checks();
        let check = |id: &BackendId| {
            let check = checks.remove(self.router.name(*id)?).unwrap_or_default();
            Some((*id, Arc::new(check)))
        };
        self.checks = one_by_one(self.configured().iter().filter_map(check));
        let named = config.backends.iter().map(|one| (one.name.as_str(), one));
        let named: BTreeMap<_, _> = one_by_one(named);
        let reporting = |id: &BackendId| {
            let reporting =
                config.reporting_of(named.get(self.router.name(*id)?)?.reports.as_ref());
            Some((*id, Arc::new(reporting)))
        };
        self.reportings = one_by_one(self.configured().iter().filter_map(reporting));
    }

    /// Returns the report settings of a configured backend.
    pub(crate) fn reporting(&self, backend: BackendId) -> Arc<Reporting> {
        self.reportings.get(&backend).cloned().unwrap_or_default()
    }

    /// Returns the backends whose responses are read for load figures.
    pub(crate) fn response_loads(&self) -> BTreeMap<BackendId, Arc<Reporting>> {
        let reading = self.reportings.iter().filter(|(_, one)| one.orca != Orca::Off);
        one_by_one(reading.map(|(id, one)| (*id, Arc::clone(one))))
    }

    /// Whether to report that no backend has the path of its check. The router repeats this after
    /// each new configuration, but it is reported again only with another status or other checks.
    pub(crate) fn is_news_unserved(&mut self, status: u16) -> bool {
        let mut checks: Vec<Arc<Check>> = Vec::new();
        for check in self.checks.values() {
            if !checks.contains(check) {
                checks.push(Arc::clone(check));
            }
        }
        let unserved = Some((status, checks));
        let is_news = self.unserved != unserved;
        self.unserved = unserved;
        is_news
    }

    /// Returns the health check of a configured backend.
    pub(crate) fn check(&self, backend: BackendId) -> Arc<Check> {
        self.checks.get(&backend).cloned().unwrap_or_default()
    }

    /// Records which backends are in maintenance. `modes` has the backends that are not ready.
    pub(crate) fn set_modes(&mut self, modes: &BTreeMap<String, Mode>) {
        let maintained = modes.iter().filter(|(_, mode)| **mode == Mode::Maintain);
        self.maintained = one_by_one(maintained.filter_map(|(name, _)| self.router.backend(name)));
    }

    /// Returns the configured backend with this name.
    pub(crate) fn named(&self, name: &str) -> Option<BackendId> {
        self.router.backend(name)
    }

    /// Returns the names of the configured backends in their order.
    pub(crate) fn names(&self) -> Vec<String> {
        let names = self.configured().iter().filter_map(|id| self.router.name(*id));
        names.map(str::to_owned).collect()
    }

    /// Records that the backend of a lease left or moved.
    pub(crate) fn displace(&mut self, lease: LeaseId) {
        self.displaced.insert(lease);
    }

    pub(crate) fn has_actions(&self) -> bool {
        self.router.has_actions()
    }

    pub(crate) fn poll_action(&mut self) -> Option<Action> {
        self.router.poll_action()
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.router.poll_timeout()
    }

    /// Returns the number of open leases.
    pub(crate) const fn leases(&self) -> usize {
        self.leases
    }

    /// Whether the backend of a lease has left or moved since it was given.
    pub(crate) fn is_displaced(&self, lease: LeaseId) -> bool {
        self.displaced.contains(&lease)
    }

    /// Returns the configured backends in their order.
    pub(crate) fn configured(&self) -> &[BackendId] {
        self.router.configured()
    }

    pub(crate) fn target(&self, backend: BackendId) -> Option<&BackendTarget> {
        self.places.target(backend)
    }

    #[inline]
    pub(crate) fn authority(&self, backend: BackendId) -> &str {
        self.places.authority(backend)
    }

    pub(crate) fn first_attempt(&self, backend: BackendId) -> Attempt {
        self.places.first_attempt(backend)
    }

    /// Returns the address of an attempt; `None` if all were tried.
    pub(crate) fn address(&self, backend: BackendId, attempt: Attempt) -> Option<SocketAddr> {
        self.places.address(backend, attempt)
    }

    /// Whether a backend is still at the address of an attempt.
    pub(crate) fn is_current(&self, backend: BackendId, attempt: Attempt) -> bool {
        self.places.is_current(backend, attempt)
    }

    /// Returns the idle connections to `backend`, the last used one at the end.
    pub(crate) fn idle(&self, backend: BackendId) -> &[ConnId] {
        self.idle.idle(backend)
    }

    /// Returns the least recently used idle connection of each backend.
    pub(crate) fn oldest_idle(&self) -> impl Iterator<Item = ConnId> + '_ {
        self.idle.oldest()
    }

    pub(crate) fn policy_state(&self) -> Option<PolicyState> {
        self.router.policy_state()
    }

    pub(crate) fn snapshot(&self, now: Instant) -> Snapshot {
        self.router.snapshot(now)
    }

    pub(crate) fn backend_snapshot(
        &self,
        now: Instant,
        backend: BackendId,
    ) -> Option<BackendSnapshot> {
        self.router.backend_snapshot(now, backend)
    }

    pub(crate) fn guard(&self, now: Instant) -> Option<GuardView> {
        self.router.guard(now)
    }

    /// Returns the latencies that a learning policy predicts for a backend, by requests in flight.
    pub(crate) fn predictions(&self, backend: BackendId) -> Vec<(u32, f64)> {
        self.router.predictions(backend)
    }

    /// Returns the counts of the router's decisions.
    pub(crate) fn counts(&self) -> RouterCounts {
        self.router.counts()
    }

    /// Whether any backend, busy or not, is up and not ejected.
    pub(crate) fn has_usable(&self) -> bool {
        self.router.has_usable()
    }

    pub(crate) fn recording(&self) -> Option<RecordingCounts> {
        self.router.recording()
    }

    /// Compares the pool with the numbers that the caller counted in the connection table: leases
    /// held by exchanges, those of them whose backend left or moved, and upstream connections
    /// without a session.
    pub(crate) fn check_invariants(&self, leases: usize, displaced: usize, idle: usize) {
        assert_eq!(leases, self.leases, "I3: every lease is held by one exchange");
        assert_eq!(idle, self.idle.len(), "I4: an upstream without a session is in the pool");
        assert_eq!(displaced, self.displaced.len(), "I8: displaced requests are under way");
        self.router.check_invariants();
    }
}

/// Returns the router's part of a configuration for the backends of these names. `modes` has the
/// backends that are not ready.
pub(crate) fn router_config(
    config: &Config,
    backends: Vec<String>,
    modes: &BTreeMap<String, Mode>,
) -> RouterConfig {
    let own = config.backends.iter().filter_map(|one| Some((one.name.clone(), one.limit?)));
    let weights = config.backends.iter().filter_map(|one| Some((one.name.clone(), one.weight?)));
    let backups = config.backends.iter().filter(|one| one.backup).map(|one| one.name.clone());
    let checks = config.backends.iter().map(|one| (one.name.clone(), config.probe_rules_of(one)));
    let limits = BackendLimits {
        per_backend: config.limits.per_backend,
        own: one_by_one(own),
        weights: one_by_one(weights),
        modes: modes.clone(),
        backups: one_by_one(backups),
        checks: one_by_one(checks.filter(|(_, rules)| *rules != CheckRules::default())),
    };
    RouterConfig { backends, rules: Rules { limits, ..config.routing.clone() } }
}
