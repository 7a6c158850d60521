//! A configuration that changes while the proxy runs. LIFECYCLE.md has the rules, R1 to R7.
use std::collections::BTreeSet;
use std::time::Duration;

use intelliproxy_core::{
    BackendId, BackendLimits, ConfigError, Event, Instant, Lease, LeaseId, Outcome, ProbeFailure,
    RouterConfig, Rules,
};

use super::Proxy;
use super::conn::Conn;
use super::id::ConnId;
use super::notice::ConfigChange;
use super::notice::Notice;
use crate::config::{BackendTarget, Config};
use crate::pages::{LogCounts, ReloadCounts};

/// Memory of the configurations that arrived at run time.
#[derive(Debug, Default)]
pub(crate) struct Reloads {
    /// Leases of requests that were on their way when their backend left or moved.
    displaced: BTreeSet<LeaseId>,
    counts: ReloadCounts,
}

impl Proxy {
    /// The configuration changed; `targets` are its backends in their order with their addresses.
    /// It holds from now on, and no connection or request is lost by it: R1 to R7.
    ///
    /// # Errors
    /// The first invalid value; nothing has changed then.
    pub fn handle_reconfigured(
        &mut self,
        now: Instant,
        mut config: Config,
        targets: Vec<BackendTarget>,
    ) -> Result<(), ConfigError> {
        config.validate()?;
        let wanted = router_config(&config, &targets);
        wanted.validate()?;
        let mut change = ConfigChange {
            needs_restart: config.keep_fixed(&self.shared.config),
            settings: config.settings_unlike(&self.shared.config),
            ..ConfigChange::default()
        };
        let displaced = self.compare(&targets, &mut change);
        self.shared.reconfigure(config);
        // Sessions are armed by the old times.
        for id in self.client_ids() {
            self.arm_session(id);
        }
        self.tell_router(now, wanted, &displaced, &change);
        self.set_places(targets);
        self.stats.handle_reconfigured();
        self.displace_requests(now, &displaced);
        self.derive_clients_max();
        self.trim_idle(now);
        self.tell_clients(now);
        self.serve_queue(now);
        self.reloads.counts.done += 1;
        self.reloads.counts.last_error = None;
        self.notify(Notice::Reconfigured(Box::new(change)));
        Ok(())
    }

    /// Reports a new configuration that could not be read or is invalid: the current one stays.
    pub fn handle_config_refused(&mut self, wrong: String) {
        self.reloads.counts.refused += 1;
        self.reloads.counts.last_error = Some(wrong.clone());
        self.notify(Notice::ConfigRefused { wrong });
    }

    /// The file that keeps what a policy learns.
    pub(crate) fn state_file(&self) -> Option<&str> {
        self.shared.config.state_file.as_deref()
    }

    /// The configuration in use.
    pub(crate) const fn config(&self) -> &Config {
        &self.shared.config
    }

    /// Returns the longest time for reading the configuration.
    pub(crate) fn reload_time(&self) -> Duration {
        self.shared.config.timeouts.reload
    }

    /// Takes the counts of lines that the driver's log does not have, for /stats.
    pub(crate) fn handle_log_counts(&mut self, counts: LogCounts) {
        self.log_counts = counts;
    }

    pub(super) const fn reload_counts(&self) -> &ReloadCounts {
        &self.reloads.counts
    }

    /// Whether it is of before its backend left or moved.
    pub(super) fn is_displaced(&self, lease: &Lease) -> bool {
        self.reloads.displaced.contains(&lease.id())
    }

    /// Requests under way that are of before their backend left or moved.
    pub(super) fn displaced(&self) -> usize {
        self.reloads.displaced.len()
    }

    /// Returns the outcome of a request for its backend: none for one that left or moved
    /// since (R3).
    #[inline]
    pub(super) fn outcome_of(&mut self, lease: LeaseId, outcome: Outcome) -> Outcome {
        let has_displaced = !self.reloads.displaced.is_empty();
        if has_displaced && self.take_displaced(lease) { Outcome::Abandoned } else { outcome }
    }

    #[cold]
    fn take_displaced(&mut self, lease: LeaseId) -> bool {
        self.reloads.displaced.remove(&lease)
    }

    /// Whether the current request began before its backend left or moved; then it is routed again.
    pub(super) fn reroutes(&mut self, id: ConnId) -> bool {
        let Some(session) = self.table.session_mut(id) else {
            return false;
        };
        let lease = session.lease().map(Lease::id);
        let is_displaced = lease.is_some_and(|lease| self.reloads.displaced.contains(&lease));
        if is_displaced {
            session.handle_displaced(&mut self.shared);
        }
        is_displaced
    }

    /// Tells added, removed and moved backends apart; returns the ids of the last two.
    fn compare(&self, targets: &[BackendTarget], change: &mut ConfigChange) -> BTreeSet<BackendId> {
        let mut displaced = BTreeSet::new();
        let mut kept = BTreeSet::new();
        for target in targets {
            match self.router.backend(&target.name) {
                Some(id) if self.places.is_at(id, target) => {
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

    /// R1, R2: the router forgets what it knows of backends that left or moved, and what is on its
    /// way to them otherwise than for a request ends.
    fn tell_router(
        &mut self,
        now: Instant,
        wanted: RouterConfig,
        displaced: &BTreeSet<BackendId>,
        change: &ConfigChange,
    ) {
        // A backend that left and came back is a new one to the router.
        let moved: BTreeSet<&String> = change.moved.iter().collect();
        let stays = |name: &&String| !moved.contains(name);
        let backends = wanted.backends.iter().filter(stays).cloned().collect();
        let without = RouterConfig { backends, rules: wanted.rules.clone() };
        self.router.handle_event(now, Event::Reconfigured(Box::new(without)));
        self.drain_router(now);
        self.end_connections(now, displaced);
        if !moved.is_empty() {
            self.router.handle_event(now, Event::Reconfigured(Box::new(wanted)));
            self.drain_router(now);
        }
    }

    /// Ends idle connections and probes of backends that left or moved.
    fn end_connections(&mut self, now: Instant, displaced: &BTreeSet<BackendId>) {
        for &backend in displaced {
            for conn in self.pool.trim(backend, 0) {
                self.close(conn, false);
            }
        }
        let is_its =
            |conn: &Conn| matches!(conn, Conn::Probe(probe) if displaced.contains(&probe.backend));
        let probes: Vec<ConnId> =
            self.table.iter().filter(|(_, conn)| is_its(conn)).map(|(id, _)| id).collect();
        for conn in probes {
            // It is not counted: the backend is not configured at this moment.
            self.finish_probe(now, conn, Err(ProbeFailure::Cut));
        }
    }

    fn set_places(&mut self, targets: Vec<BackendTarget>) {
        let ids: Vec<BackendId> =
            targets.iter().filter_map(|target| self.router.backend(&target.name)).collect();
        self.places.set(&ids, targets);
    }

    /// R3: requests that were not begun are routed again, others continue where they are.
    fn displace_requests(&mut self, now: Instant, displaced: &BTreeSet<BackendId>) {
        if displaced.is_empty() {
            return;
        }
        for id in self.client_ids() {
            let Some(session) = self.table.session_mut(id) else {
                continue;
            };
            if session.bound().is_some_and(|bound| displaced.contains(&bound.backend)) {
                session.handle_bound_ended(now, &mut self.shared);
                self.serve(now, id);
            } else if let Some(lease) = session.lease()
                && displaced.contains(&lease.backend())
            {
                self.reloads.displaced.insert(lease.id());
                session.handle_displaced(&mut self.shared);
                self.serve(now, id);
            }
        }
    }

    /// R5: idle connections beyond the new bound are closed, and all of them at the new time.
    fn trim_idle(&mut self, now: Instant) {
        let rules = self.shared.config.pool;
        let ids: Vec<BackendId> = self.places.configured().map(|(id, _)| id).collect();
        for backend in ids {
            for conn in self.pool.trim(backend, rules.idle_per_backend) {
                self.close(conn, false);
            }
            for index in 0..self.pool.idle(backend).len() {
                let conn = self.pool.idle(backend)[index];
                let upstream = self.table.upstream_mut(conn);
                let ends = upstream.map_or(now, |upstream| upstream.idle_until(rules.idle));
                self.arm(conn, ends);
            }
        }
    }

    /// R6: deadlines follow the new times, and permission for /stats the new list.
    fn tell_clients(&mut self, now: Instant) {
        for id in self.client_ids() {
            if let Some(session) = self.table.session_mut(id) {
                session.handle_reconfigured(&self.shared);
            }
            self.serve(now, id);
        }
    }
}

/// Returns the router's part of a configuration.
pub(super) fn router_config(config: &Config, targets: &[BackendTarget]) -> RouterConfig {
    let backends = targets.iter().map(|target| target.name.clone()).collect();
    let own = config.backends.iter().filter_map(|one| Some((one.name.clone(), one.limit?)));
    let limits = BackendLimits { per_backend: config.limits.per_backend, own: own.collect() };
    RouterConfig { backends, rules: Rules { limits, ..config.routing.clone() } }
}
