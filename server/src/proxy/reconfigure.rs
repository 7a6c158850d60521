//! A configuration that changes while the proxy runs. LIFECYCLE.md has the rules, R1 to R8.
use std::collections::BTreeSet;
use std::time::Duration;

use intelliproxy_core::{BackendId, ConfigError, Instant, Lease, ProbeFailure, RouterConfig};

use super::Proxy;
use super::commands::Overrides;
use super::conn::Conn;
use super::describe::describe_change;
use super::id::ConnId;
use super::notice::{ConfigChange, Notice};
use super::upstreams::{Move, router_config};
use crate::config::{BackendConfig, BackendTarget, Config};
use crate::pages::live::Kind;
use crate::pages::{LogCounts, ReloadCounts};

impl Proxy {
    /// Applies a new configuration; `targets` are its backends in their order, with their
    /// addresses. It takes effect at once, by the rules R1 to R8. No request is lost. Idle clients
    /// beyond a lower limit give way, and bound connections to displaced backends end.
    ///
    /// # Errors
    /// The first invalid value. In that case nothing has changed.
    pub fn handle_reconfigured(
        &mut self,
        now: Instant,
        mut config: Config,
        targets: Vec<BackendTarget>,
    ) -> Result<(), ConfigError> {
        config.validate()?;
        let mut overrides = self.overrides.clone();
        overrides.apply(&mut config);
        let wanted = self.accept(overrides, &config, &targets)?;
        let mut change = ConfigChange {
            settings: config.settings_unlike(&self.shared.config),
            changed: config.backends_unlike(&self.shared.config),
            ..ConfigChange::default()
        };
        self.apply(now, config, wanted, targets, &mut change, Move::OtherAddresses);
        self.reload_counts.done += 1;
        self.reload_counts.last_error = None;
        self.adopt_live(now);
        self.show_event(now, Kind::Reload, format!("configuration: {}", describe_change(&change)));
        self.notify(Notice::Reconfigured(Box::new(change)));
        Ok(())
    }

    /// Replaces the backends in use by the discovered ones, like a new configuration that is
    /// otherwise the same. A backend that keeps the address in use stays the same one, even if
    /// others of its addresses have changed.
    ///
    /// # Errors
    /// The first invalid value. In that case nothing has changed.
    pub fn handle_discovered(
        &mut self,
        now: Instant,
        backends: Vec<BackendConfig>,
        targets: Vec<BackendTarget>,
    ) -> Result<(), ConfigError> {
        let mut config = Config { backends, ..self.shared.config.clone() };
        config.validate()?;
        let mut overrides = self.overrides.clone();
        overrides.apply_to_backends(&mut config);
        let wanted = self.accept(overrides, &config, &targets)?;
        let changed = config.backends_unlike(&self.shared.config);
        let mut change = ConfigChange { changed, ..ConfigChange::default() };
        self.apply(now, config, wanted, targets, &mut change, Move::LostAddress);
        self.adopt_live(now);
        if change != ConfigChange::default() {
            let line = format!("discovery: {}", describe_change(&change));
            self.show_event(now, Kind::Reload, line);
            self.notify(Notice::Discovered(Box::new(change)));
        }
        Ok(())
    }

    /// Returns the router's configuration, and stores the overrides that still apply to it.
    ///
    /// # Errors
    /// The router refuses it. In that case nothing has changed.
    fn accept(
        &mut self,
        overrides: Overrides,
        config: &Config,
        targets: &[BackendTarget],
    ) -> Result<RouterConfig, ConfigError> {
        let names = targets.iter().map(|target| target.name.clone()).collect();
        let wanted = router_config(config, names, overrides.modes());
        wanted.validate()?;
        self.overrides = overrides;
        Ok(wanted)
    }

    /// Applies a valid configuration by the rules R1 to R8.
    fn apply(
        &mut self,
        now: Instant,
        config: Config,
        wanted: RouterConfig,
        targets: Vec<BackendTarget>,
        change: &mut ConfigChange,
        moves: Move,
    ) {
        let displaced = self.upstreams.compare(&targets, change, moves);
        self.upstreams.keep_decisions(config.admin.listen.is_some());
        self.shared.reconfigure(config);
        // The deadlines of sessions were set by the old times, and their connections were counted
        // by the old limits.
        for id in self.client_ids() {
            if let Some(session) = self.table.session_mut(id) {
                session.handle_reconfigured(&mut self.shared);
            }
            self.arm_session(id);
        }
        self.tell_router(now, wanted, &displaced, change);
        self.upstreams.set_places(targets, moves);
        self.upstreams.set_modes(self.overrides.modes());
        self.upstreams.set_checks(&self.shared.config);
        self.shared.loads.set(self.upstreams.response_loads());
        self.stats.handle_reconfigured();
        self.displace_requests(now, &displaced);
        self.trim_idle(now);
        self.tell_clients(now);
        self.limit_clients(now);
        self.serve_queue(now);
    }

    /// Reports a new configuration that could not be read or is invalid: the current one stays.
    pub fn handle_config_refused(&mut self, now: Instant, wrong: String) {
        self.reload_counts.refused += 1;
        self.reload_counts.last_error = Some(wrong.clone());
        self.show_refused_config(now, &wrong);
        self.notify(Notice::ConfigRefused { wrong });
    }

    /// Returns the number of new configurations that were applied or refused, and the error of the
    /// last one if it was refused.
    pub(crate) fn reloads(&self) -> (u64, Option<&str>) {
        let ReloadCounts { done, refused, last_error } = &self.reload_counts;
        (done + refused, last_error.as_deref())
    }

    /// Returns the configuration in use.
    pub(crate) const fn config(&self) -> &Config {
        &self.shared.config
    }

    /// Returns the longest time for reading a new configuration.
    pub(crate) fn reload_time(&self) -> Duration {
        self.shared.config.timeouts.reload
    }

    /// Takes the counts of lines that are missing in the driver's log, for /stats and the metrics.
    pub(crate) fn handle_log_counts(&mut self, counts: LogCounts) {
        self.log_counts = counts;
    }

    /// Routes the current request again if its backend has left or moved since the request was
    /// routed. Returns whether it did.
    pub(super) fn reroutes(&mut self, id: ConnId) -> bool {
        let Some(session) = self.table.session_mut(id) else {
            return false;
        };
        let lease = session.lease().map(Lease::id);
        let is_displaced = lease.is_some_and(|lease| self.upstreams.is_displaced(lease));
        if is_displaced {
            session.handle_displaced(&mut self.shared);
        }
        is_displaced
    }

    /// R1, R2: makes the router forget backends that left or moved, and ends their probes and idle
    /// connections.
    fn tell_router(
        &mut self,
        now: Instant,
        wanted: RouterConfig,
        displaced: &BTreeSet<BackendId>,
        change: &ConfigChange,
    ) {
        self.upstreams.reconfigure_without(now, &wanted, &change.moved);
        self.drain_router(now);
        self.end_connections(now, displaced);
        if !change.moved.is_empty() {
            self.upstreams.reconfigure(now, wanted);
            self.drain_router(now);
        }
    }

    /// Ends idle connections and probes of backends that left or moved.
    fn end_connections(&mut self, now: Instant, displaced: &BTreeSet<BackendId>) {
        for &backend in displaced {
            for conn in self.upstreams.trim_idle(backend, 0) {
                self.close(conn, false);
            }
        }
        let is_its =
            |conn: &Conn| matches!(conn, Conn::Probe(probe) if displaced.contains(&probe.backend));
        let probes: Vec<ConnId> =
            self.table.iter().filter(|(_, conn)| is_its(conn)).map(|(id, _)| id).collect();
        for conn in probes {
            // The router ignores the result, since the backend is no longer configured. No notice
            // may blame the backend for the end.
            self.finish_probe(now, conn, Err(ProbeFailure::Abandoned));
        }
    }

    /// R3, B5: routes requests again if no part of them was sent; other requests continue on their
    /// connections. Idle bound connections end.
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
                self.upstreams.displace(lease.id());
                session.handle_displaced(&mut self.shared);
                self.serve(now, id);
            }
        }
    }

    /// R5: closes idle connections beyond the new bound, and all of them after the new time.
    fn trim_idle(&mut self, now: Instant) {
        let rules = self.shared.config.pool;
        let ids = self.upstreams.configured().to_vec();
        for backend in ids {
            for conn in self.upstreams.trim_idle(backend, rules.idle_per_backend) {
                self.close(conn, false);
            }
            for index in 0..self.upstreams.idle(backend).len() {
                let conn = self.upstreams.idle(backend)[index];
                let upstream = self.table.upstream_mut(conn);
                let ends = upstream.map_or(now, |upstream| upstream.idle_until(rules.idle));
                self.arm(conn, ends);
            }
        }
    }

    /// R6: applies the new times to deadlines.
    fn tell_clients(&mut self, now: Instant) {
        for id in self.client_ids() {
            self.serve(now, id);
        }
    }
}
