//! Applies a new configuration: its backends, rules and policy.
use std::collections::BTreeSet;

use super::Router;
use crate::backend::{Added, Backend};
use crate::config::{BackendLimits, Mode, RouterConfig};
use crate::event::AgentState;
use crate::id::BackendId;
use crate::policy;
use crate::time::Instant;

/// The factor of a weight in percent: 1 is the usual capacity.
fn factor(weight: u32) -> f64 {
    f64::from(weight) / f64::from(BackendLimits::WEIGHT_USUAL)
}

impl Router {
    pub(super) fn reconfigured(&mut self, now: Instant, config: RouterConfig) {
        if config.validate().is_err() {
            self.refused_configs += 1;
            return;
        }
        // `score` has a model of the backends only while it spills over.
        let is_other = self.rules.policy != config.rules.policy
            || self.rules.switch.spill_over != config.rules.switch.spill_over;
        let ejected = self.ejects();
        self.gate.reconfigure(&config.rules);
        self.rules = config.rules;
        if is_other {
            self.change_policy(now);
        } else {
            self.policy.reconfigure(&self.rules);
        }
        // Standings belong to the part that ejects, router or policy.
        if is_other || self.ejects() != ejected {
            self.forget_ejections();
        }
        // Before backends join or leave, because a failover must compare scores under the new
        // weights.
        self.table.rescore_all(now, &self.rules);
        self.arrange(now, &config.backends);
        self.count_out();
        self.is_told_unserved = false;
        let (table, rules) = (&self.table, &self.rules.probes);
        let rules_of = |id| table.get(id).map_or(*rules, |one| one.checks().of_probes(rules));
        self.probes.reconfigure(now, rules_of);
        self.settle(now);
    }

    /// Starts the policy that the rules name, and passes it the backends and their states. The new
    /// configuration's weights follow in [`arrange`](Self::arrange).
    fn change_policy(&mut self, now: Instant) {
        self.policy = policy::new(&self.rules);
        self.habits = self.policy.habits();
        self.policy_epoch = self.policy_epoch.wrapping_add(1);
        for (id, backend) in self.table.iter() {
            self.policy.on_join(now, id, backend.at_work());
            // A full backend may be up or down.
            if !backend.is_available() {
                self.policy.on_health(now, id, false);
            }
            if backend.is_retired {
                self.policy.on_leave(now, id);
            }
        }
    }

    /// Sets the configured backends to those with these names. All others are retired.
    pub(super) fn arrange(&mut self, now: Instant, names: &[String]) {
        // The slots of backends that leave now are not reused yet: notices still name these
        // backends.
        let mut free = self.table.free_slots(names);
        let mut order = Vec::with_capacity(names.len());
        let mut joined = 0;
        for (index, name) in names.iter().enumerate() {
            let kept = self.table.find(name).filter(|id| self.table.is_configured(*id));
            order.push(match kept {
                Some(id) => id,
                None => {
                    joined += 1;
                    self.join(now, name, (index, names.len()), joined - 1, &mut free)
                }
            });
        }
        let kept: BTreeSet<_> = order.iter().copied().collect();
        for id in std::mem::replace(&mut self.order, order) {
            if !kept.contains(&id) {
                self.table.retire(id);
                self.probes.retire(id);
                self.policy.on_leave(now, id);
            }
        }
        self.table.set_configured(&self.order);
        self.name_ring();
        self.has_backups = false;
        for (index, name) in names.iter().enumerate() {
            let id = self.order[index];
            let limit = self.rules.limits.of(name);
            self.table.update(id, |backend| backend.set_limit(limit));
            self.set_service(now, id, (index, names.len()));
        }
    }

    /// Applies the report of a backend's agent.
    pub(super) fn agent_said(&mut self, now: Instant, id: BackendId, said: AgentState) {
        let is_asked = self.table.get(id).is_some_and(|backend| backend.checks().has_agent);
        let has_changed = is_asked && self.table.update(id, |b| b.heed_agent(said)) == Some(true);
        let Some(index) = self.order.iter().position(|other| *other == id && has_changed) else {
            return;
        };
        let has_backups = self.has_backups;
        self.set_service(now, id, (index, self.order.len()));
        self.has_backups |= has_backups;
        self.settle(now);
    }

    /// Applies the weight and the mode of a backend, number `place.0` of `place.1`.
    fn set_service(&mut self, now: Instant, id: BackendId, place: (usize, usize)) {
        let Some(backend) = self.table.get(id) else { return };
        let limits = &self.rules.limits;
        let (weight, mode) = (limits.weight_of(&backend.name), limits.mode_of(&backend.name));
        let (checks, is_backup) =
            (limits.checks_of(&backend.name), limits.is_backup(&backend.name));
        self.has_backups |= is_backup;
        let (was, was_in, is_up) = (backend.mode(), backend.is_in_service(), backend.is_up());
        let done = self.table.update(id, |backend| {
            backend.set_checks(checks);
            let (weight, mode) = backend.with_agent(weight, mode);
            backend.set_service(weight, mode);
            backend.set_backup(is_backup);
            (weight, mode)
        });
        let (weight, mode) = done.unwrap_or((weight, mode));
        self.policy.set_weight(id, factor(weight));
        self.policy.set_backup(id, is_backup);
        match (was == Mode::Maintain, mode == Mode::Maintain) {
            (false, true) => self.probes.retire(id),
            (true, false) => {
                // The results of earlier probes are out of date.
                self.table.update(id, Backend::forget_health);
                let rules = self.probe_rules(id);
                self.probes.add(now, id, place, 0, &rules);
            }
            _ => {}
        }
        // The new mode or checks may bring it up, or take it down until its first good ping.
        let has_come_up = self.table.update(id, |backend| {
            let is_up = backend.is_up();
            std::mem::replace(&mut backend.was_down, !is_up) && is_up
        });
        let is_in = self.table.get(id).is_some_and(|backend| backend.is_in_service());
        let is_available = self.table.get(id).is_some_and(|backend| backend.is_available());
        if is_available != (was_in && is_up) {
            self.policy.on_health(now, id, is_available);
        }
        // It has no requests in flight, so without slow start it would get all of the next ones. A
        // hold from before it went out of service no longer applies.
        if is_in && !was_in {
            self.table.update(id, |backend| backend.release_now());
        }
        if is_available && (!was_in || has_come_up == Some(true)) {
            self.watch_up(now, id);
        }
    }

    /// Adds a backend, number `place.0` of `place.1`. It is the `nth` one that joins now.
    fn join(
        &mut self,
        now: Instant,
        name: &str,
        place: (usize, usize),
        nth: usize,
        free: &mut BTreeSet<u32>,
    ) -> BackendId {
        let Added { id, replaced } = self.table.add(name, free, &self.rules.weights);
        if let Some((old, in_flight)) = replaced {
            self.leases_orphaned += u64::from(in_flight);
            self.forget_asides(old);
        }
        // The slot may have belonged to another backend, whose errors must not count here.
        self.blame.forget(id);
        self.declines.forget(id);
        let checks = self.rules.limits.checks_of(name);
        let watch = self.new_watch(!self.order.is_empty());
        self.table.update(id, |backend| {
            backend.watch = watch;
            backend.set_checks(checks);
            backend.forget_health();
            // It waits for its first good ping, which counts as coming up.
            backend.was_down = !backend.is_up();
        });
        let rules = self.probe_rules(id);
        self.probes.add(now, id, place, nth, &rules);
        let facts = self.table.get(id).map(|backend| (backend.at_work(), backend.is_up()));
        let (at_work, is_up) = facts.unwrap_or((0, true));
        self.policy.on_join(now, id, at_work);
        if !is_up {
            self.policy.on_health(now, id, false);
        }
        id
    }
}
