//! Commands from an operator, which change the running proxy in addition to its configuration file.
//!
//! | command | lasts until |
//! |---|---|
//! | a backend's mode | `ready`, or a configuration without the backend |
//! | a backend's weight | a configuration that changes the weight, or lacks the backend |
//! | the policy | a configuration that changes the policy |
//!
//! The router gets each change as a new configuration, so that recordings contain it.
use std::collections::BTreeMap;

use intelliproxy_core::{BackendId, Instant, Mode, PolicyKind};

use super::Proxy;
use super::upstreams::router_config;
use crate::config::Config;
use crate::pages::live::Kind;

/// The changes made by commands, each kept as long as the table above states.
#[derive(Clone, Debug, Default)]
pub(crate) struct Overrides {
    /// The policy of the configuration, and the policy in use instead.
    policy: Option<(PolicyKind, PolicyKind)>,
    /// For each backend's name: the weight of the configuration, and the weight in use instead.
    weights: BTreeMap<String, (Option<u32>, u32)>,
    /// The modes of the backends that are not ready, by name.
    modes: BTreeMap<String, Mode>,
}

impl Overrides {
    /// Applies the changes to a configuration that was just read. Drops the changes that this
    /// configuration ends.
    pub(crate) fn apply(&mut self, config: &mut Config) {
        if let Some((replaced, policy)) = self.policy {
            if config.routing.policy == replaced {
                config.routing.policy = policy;
            } else {
                self.policy = None;
            }
        }
        self.apply_to_backends(config);
    }

    /// Applies the changes to backends that were just discovered. Drops the changes that these end.
    pub(super) fn apply_to_backends(&mut self, config: &mut Config) {
        self.weights.retain(|name, (replaced, weight)| {
            let mut backends = config.backends.iter_mut();
            let backend = backends.find(|backend| backend.name == *name);
            let backend = backend.filter(|backend| backend.weight == *replaced);
            backend.map(|backend| backend.weight = Some(*weight)).is_some()
        });
        self.modes.retain(|name, _| config.backends.iter().any(|backend| backend.name == *name));
    }

    /// Returns the modes of the backends that are not ready, by name.
    pub(super) const fn modes(&self) -> &BTreeMap<String, Mode> {
        &self.modes
    }
}

impl Proxy {
    /// Sets the mode of a backend: takes it out of service, or puts it back.
    ///
    /// # Errors
    /// There is no such backend.
    pub fn set_mode(&mut self, now: Instant, backend: &str, mode: Mode) -> Result<(), String> {
        let id = self.commanded(backend)?;
        if mode == Mode::Ready {
            self.overrides.modes.remove(backend);
        } else {
            self.overrides.modes.insert(backend.to_owned(), mode);
        }
        self.command(now);
        self.show_event(now, Kind::Command, format!("mode of {backend} is {}", mode.name()));
        if mode == Mode::Maintain {
            for conn in self.upstreams.trim_idle(id, 0) {
                self.close(conn, false);
            }
        }
        Ok(())
    }

    /// Sets the relative capacity of a backend, percent.
    ///
    /// # Errors
    /// There is no such backend, or the weight is above
    /// [`WEIGHT_MAX`](intelliproxy_core::BackendLimits::WEIGHT_MAX).
    pub fn set_weight(&mut self, now: Instant, backend: &str, weight: u32) -> Result<(), String> {
        self.commanded(backend)?;
        let mut config = self.shared.config.clone();
        let Some(of_config) = config.backends.iter_mut().find(|one| one.name == backend) else {
            return Err(format!("no backend is named {backend}"));
        };
        let replaced = of_config.weight.replace(weight);
        config.validate().map_err(|error| error.to_string())?;
        self.shared.config = config;
        let change = self.overrides.weights.entry(backend.to_owned()).or_insert((replaced, weight));
        change.1 = weight;
        self.command(now);
        let text =
            format!("weight of {backend} is {weight} % instead of {}", replaced.unwrap_or(100));
        self.show_event(now, Kind::Command, text);
        Ok(())
    }

    /// Routes by another policy. The state that the last policy learned is lost, unless the driver
    /// has kept its [`policy_state`](Self::policy_state).
    pub fn set_policy(&mut self, now: Instant, policy: PolicyKind) {
        let used = self.shared.config.routing.policy;
        let replaced = self.overrides.policy.map_or(used, |(replaced, _)| replaced);
        self.overrides.policy = (replaced != policy).then_some((replaced, policy));
        self.shared.config.routing.policy = policy;
        self.command(now);
        let text = format!("policy is {} instead of {}", policy.name(), used.name());
        self.show_event(now, Kind::Command, text);
    }

    /// Returns the changes by commands.
    pub(crate) const fn overrides(&self) -> &Overrides {
        &self.overrides
    }

    /// Returns the backend that a command names, or the error for the operator.
    fn commanded(&self, backend: &str) -> Result<BackendId, String> {
        self.upstreams.named(backend).ok_or_else(|| format!("no backend is named {backend}"))
    }

    /// Passes the changed configuration to the router.
    fn command(&mut self, now: Instant) {
        let names = self.upstreams.names();
        let wanted = router_config(&self.shared.config, names, self.overrides.modes());
        self.upstreams.reconfigure(now, wanted);
        self.upstreams.set_modes(self.overrides.modes());
        self.drain_router(now);
        self.stats.handle_reconfigured();
        self.serve_queue(now);
    }
}
