//! The oracle: the knowledge and the decisions of a router, written independently of its code.
//!
//! It keeps whole histories and computes everything again at each call, following the text of the
//! rules: slow, plain, and without caches. Time is in whole milliseconds.
mod backend;

use std::collections::{BTreeMap, BTreeSet};

use intelliproxy_core::{
    BackendId, Health, HoldReason, ProbeFailure, ProbeKind, Rules, ScoreParts, SwitchReason,
};

use self::backend::Line;
pub(crate) use self::backend::{Answer, Backend, Ended, Fact, Outstanding, average, seeded};

/// The rules applied to a set of backends.
pub(crate) struct Model {
    pub(crate) rules: Rules,
    pub(crate) names: Vec<&'static str>,
    /// The backends by name: all that are configured or whose slot is free.
    pub(crate) backends: BTreeMap<&'static str, Backend>,
    pub(crate) current: Option<BackendId>,
    pub(crate) last_switch: Option<u64>,
    pub(crate) switches: u64,
    pub(crate) spills: u64,
    pub(crate) late: u64,
    /// The number of slots ever assigned.
    pub(crate) slots: u32,
    /// The backends of failovers since the last check, and the scores that decided.
    pub(crate) failovers: Vec<(BackendId, BTreeMap<BackendId, f64>)>,
}

/// The backend of a request, and the notice about it.
#[derive(Debug, PartialEq)]
pub(crate) enum Decision {
    Keep(BackendId),
    Switch(BackendId, SwitchReason),
    Hold {
        candidate: BackendId,
        reason: HoldReason,
    },
    /// A retry, or a request while no backend is usable: nothing else changes.
    Aside(BackendId),
    Nowhere,
}

/// The result of [`Model::route`].
pub(crate) struct Routed {
    pub(crate) decision: Decision,
    /// Whether the request may go past the current backend.
    pub(crate) may_spill: bool,
}

impl Model {
    pub(crate) fn new(rules: Rules) -> Self {
        Self {
            rules,
            names: Vec::new(),
            backends: BTreeMap::new(),
            current: None,
            last_switch: None,
            switches: 0,
            spills: 0,
            late: 0,
            slots: 0,
            failovers: Vec::new(),
        }
    }

    pub(crate) fn configure(&mut self, now: u64, names: &[&'static str], rules: Rules) {
        self.rules = rules;
        for backend in self.backends.values_mut() {
            backend.touched_at = now;
            backend.heard_at = now;
        }
        // The slots of backends that left earlier and do not return now.
        let gone = self.backends.iter().filter(|(_, backend)| !backend.is_configured);
        let mut free: BTreeSet<BackendId> =
            gone.filter(|(name, _)| !names.contains(name)).map(|(_, gone)| gone.id).collect();
        for (index, name) in names.iter().enumerate() {
            if self.backends.get(name).is_some_and(|backend| backend.is_configured) {
                continue;
            }
            let old = self.backends.remove(name);
            let id = match &old {
                Some(old) => old.id,
                None => match free.pop_first() {
                    Some(id) => {
                        self.backends.retain(|_, backend| backend.id != id);
                        BackendId::new(id.index() as u32, id.generation() + 1)
                    }
                    None => {
                        self.slots += 1;
                        BackendId::from_index(self.slots - 1)
                    }
                },
            };
            let mut backend = Backend {
                id,
                in_flight: old.as_ref().map_or(0, |old| old.in_flight),
                aside: old.as_ref().map_or(0, |old| old.aside),
                ..Backend::unknown(now)
            };
            let mut old_lines = old.map(|old| old.lines).unwrap_or_default();
            for kind in [ProbeKind::Ping, ProbeKind::Report] {
                let old_line = old_lines.remove(&kind);
                let started = old_line.as_ref().and_then(|line| line.started);
                let outstanding = old_line.and_then(|line| line.outstanding);
                let wait = self.interval(kind) * (index as u64 + 1) / names.len() as u64;
                let due = outstanding.is_none().then_some(now);
                let first_wait = Some(wait);
                backend.lines.insert(kind, Line { due, outstanding, first_wait, started });
            }
            self.backends.insert(name, backend);
        }
        for (name, backend) in &mut self.backends {
            if !names.contains(name) {
                backend.is_configured = false;
                backend.lines.values_mut().for_each(|line| line.due = None);
            }
        }
        let soonest = |kind| now + self.interval(kind);
        let limits = [
            (ProbeKind::Ping, soonest(ProbeKind::Ping)),
            (ProbeKind::Report, soonest(ProbeKind::Report)),
        ];
        for backend in self.backends.values_mut() {
            for (kind, limit) in limits {
                let line = backend.lines.get_mut(&kind).expect("two lines for each backend");
                line.due = line.due.map(|due| due.min(limit));
            }
        }
        self.names = names.to_vec();
        self.settle(now);
    }

    pub(crate) fn by_id(&self, id: BackendId) -> &Backend {
        self.backends.values().find(|backend| backend.id == id).expect("a known backend")
    }

    /// The backend with this id; `None` if its slot was taken by another one.
    pub(crate) fn by_id_mut(&mut self, id: BackendId) -> Option<&mut Backend> {
        self.backends.values_mut().find(|backend| backend.id == id)
    }

    pub(crate) fn interval(&self, kind: ProbeKind) -> u64 {
        let probes = &self.rules.probes;
        let span =
            if kind == ProbeKind::Ping { probes.ping_interval } else { probes.report_interval };
        span.as_millis() as u64
    }

    pub(crate) fn timeout(&self, kind: ProbeKind) -> u64 {
        let probes = &self.rules.probes;
        let span =
            if kind == ProbeKind::Ping { probes.ping_timeout } else { probes.report_timeout };
        span.as_millis() as u64
    }

    /// The next deadline of the router.
    pub(crate) fn deadline(&self) -> Option<u64> {
        let lines = self.backends.values().flat_map(|backend| backend.lines.values());
        lines.filter_map(|line| line.outstanding.map(|probe| probe.deadline).or(line.due)).min()
    }

    /// Ends a probe. Returns whether it was outstanding.
    pub(crate) fn probe_ended(
        &mut self,
        now: u64,
        probe: u64,
        result: Result<Answer, ProbeFailure>,
    ) -> bool {
        let rules = self.rules.clone();
        let (ping_retry, intervals) = (
            rules.probes.ping_retry.as_millis() as u64,
            [self.interval(ProbeKind::Ping), self.interval(ProbeKind::Report)],
        );
        for backend in self.backends.values_mut() {
            for kind in [ProbeKind::Ping, ProbeKind::Report] {
                let line = &backend.lines[&kind];
                let Some(ended) = line.outstanding.filter(|out| out.probe == probe) else {
                    continue;
                };
                // An abandoned probe shows nothing, even if it is late.
                let is_abandoned = matches!(result, Err(ProbeFailure::Abandoned));
                let is_late = now > ended.deadline && !is_abandoned;
                let result = if is_late { Err(ProbeFailure::TimedOut) } else { result };
                self.late += u64::from(is_late);
                if backend.is_configured && !is_abandoned {
                    backend.learn(now, kind, ended.deadline - ended.started, result);
                }
                let is_open = kind == ProbeKind::Ping && backend.wants_ping(&rules);
                let is_configured = backend.is_configured;
                let line = backend.lines.get_mut(&kind).expect("two lines for each backend");
                line.outstanding = None;
                let interval = intervals[usize::from(kind == ProbeKind::Report)];
                let regular = ended.started + line.first_wait.unwrap_or(interval).min(interval);
                line.due = is_configured.then_some(if is_open && now + ping_retry < regular {
                    now + ping_retry
                } else {
                    line.first_wait = None;
                    regular
                });
                self.settle(now);
                return true;
            }
        }
        self.late += 1;
        false
    }

    /// Replaces a current backend that is unusable or held as soon as another one is better.
    pub(crate) fn settle(&mut self, now: u64) {
        let mut newly_down = None;
        for backend in self.backends.values_mut() {
            let is_down = backend.health(&self.rules) == Health::Down;
            // A hold that a backend requests while it is down outlasts its recovery.
            if is_down && !backend.was_down {
                backend.held_until = 0;
                newly_down = Some(backend.id);
            }
            backend.was_down = is_down;
        }
        if newly_down.is_some() {
            self.hasten_pings(now, newly_down);
        }
        let Some(current) = self.current.filter(|id| !self.is_free(*id)) else {
            return;
        };
        let configured = self.backends.values().filter(|backend| backend.is_configured);
        let total = |backend: &Backend| backend.points(&self.rules).iter().sum();
        let scores = configured.map(|backend| (backend.id, total(backend))).collect();
        let is_better = |id| self.is_free(id) || self.is_usable(id) && !self.is_usable(current);
        let free = lowest(&scores, |id| self.is_free(id));
        match free.or_else(|| lowest(&scores, is_better)) {
            Some(best) => {
                self.current = Some(best);
                self.last_switch = Some(now);
                self.switches += 1;
                self.failovers.push((best, scores));
            }
            None if self.by_id(current).is_configured => {}
            None => self.current = None,
        }
    }

    /// While no backend is usable, pings those that are down, except `but`: after a millisecond, or a
    /// second after the start of the last ping.
    pub(crate) fn hasten_pings(&mut self, now: u64, but: Option<BackendId>) {
        if self.backends.values().any(|backend| self.is_usable(backend.id)) {
            return;
        }
        for backend in self.backends.values_mut().filter(|backend| Some(backend.id) != but) {
            let line = backend.lines.get_mut(&ProbeKind::Ping).expect("two lines for each backend");
            let soonest = line.started.map_or(now + 1, |started| (now + 1).max(started + 1000));
            line.due = line.due.map(|due| due.min(soonest));
        }
    }

    /// Decides a request by the current scores and by the numbers in flight at which backends are
    /// full.
    pub(crate) fn route(
        &mut self,
        now: u64,
        tried: &[BackendId],
        scores: &BTreeMap<BackendId, ScoreParts>,
        full_at: &BTreeMap<BackendId, Option<u32>>,
    ) -> Routed {
        let totals = scores.iter().map(|(id, score)| (*id, score.total)).collect();
        let free = lowest(&totals, |id| self.is_free(id) && !tried.contains(&id));
        let usable = lowest(&totals, |id| self.is_usable(id) && !tried.contains(&id));
        let best_usable = free.or(usable);
        let is_listening = |id| self.by_id(id).refusal().is_none();
        let listening = lowest(&totals, |id| is_listening(id) && !tried.contains(&id));
        // Without any, the one that failed longest ago.
        let failed_at = |id| self.by_id(id).refusal().map(|(_, failed_at)| failed_at);
        let untried = totals.keys().copied().filter(|id| !tried.contains(id));
        let least_bad = listening.or_else(|| untried.min_by_key(|id| (failed_at(*id), *id)));
        let decision = match (best_usable, least_bad, self.current) {
            (_, None, _) => Decision::Nowhere,
            (None, Some(least_bad), _) => Decision::Aside(least_bad),
            (Some(best), ..) if !tried.is_empty() => Decision::Aside(best),
            (Some(best), _, None) => Decision::Switch(best, SwitchReason::First),
            (Some(best), _, Some(current)) => {
                let is_full = self.is_full(current, full_at);
                self.compare(now, current, best, scores, is_full)
            }
        };
        if let Decision::Switch(to, reason) = decision {
            self.current = Some(to);
            if reason != SwitchReason::First {
                self.last_switch = Some(now);
                self.switches += 1;
            }
        }
        let is_by_rule = !matches!(decision, Decision::Aside(_) | Decision::Nowhere);
        let may_spill = self.current.is_some_and(|id| self.is_full(id, full_at));
        Routed { decision, may_spill: is_by_rule && may_spill }
    }

    /// Records that a request went to a backend, and whether past the current one.
    pub(crate) fn sent(&mut self, to: BackendId, is_spill: bool) {
        self.by_id_mut(to).expect("a request goes to a known backend").in_flight += 1;
        self.spills += u64::from(is_spill);
    }

    fn is_full(&self, id: BackendId, full_at: &BTreeMap<BackendId, Option<u32>>) -> bool {
        full_at[&id].is_some_and(|full_at| self.by_id(id).load(&self.rules) >= full_at)
    }

    fn compare(
        &self,
        now: u64,
        current: BackendId,
        best: BackendId,
        scores: &BTreeMap<BackendId, ScoreParts>,
        is_full: bool,
    ) -> Decision {
        let (threshold, weight) = (self.rules.switch.threshold, self.rules.weights.in_flight);
        let gap_to = |id: BackendId| scores[&current].total - scores[&id].total;
        let more_than = |id: BackendId| {
            i64::from(self.by_id(current).at_work()) - i64::from(self.by_id(id).at_work())
        };
        let is_busier = |id: BackendId| {
            let least = (threshold / weight).ceil().max(1.0);
            self.rules.switch.spill_over && weight > 0.0 && more_than(id) as f64 >= least
        };
        let gap = gap_to(best);
        if gap == 0.0 {
            return Decision::Keep(current);
        }
        if gap < threshold {
            let reason = HoldReason::BelowThreshold { missing: threshold - gap };
            return Decision::Hold { candidate: best, reason };
        }
        let by_load = scores[&current].in_flight - scores[&best].in_flight;
        let cooldown = self.rules.switch.cooldown.as_millis() as u64;
        let left = self.last_switch.map_or(0, |at| (at + cooldown).saturating_sub(now));
        let reason = if is_full && is_busier(best) && gap - by_load < threshold {
            HoldReason::LoadAlone
        } else if left > 0 {
            HoldReason::Cooldown { left: std::time::Duration::from_millis(left) }
        } else {
            return Decision::Switch(best, SwitchReason::Better { by: gap });
        };
        Decision::Hold { candidate: best, reason }
    }

    /// Whether it is usable and not held. Holds end when a request arrives.
    pub(crate) fn is_free(&self, id: BackendId) -> bool {
        self.is_usable(id) && self.by_id(id).held_until == 0
    }

    /// Ends the holds that have expired, when a request arrives.
    pub(crate) fn release(&mut self, now: u64) {
        for backend in self.backends.values_mut() {
            if backend.held_until <= now {
                backend.held_until = 0;
            }
        }
        self.settle(now);
    }

    /// The mean number of requests that the usable backends except `id` work on; 0 without others.
    pub(crate) fn work_beside(&self, id: BackendId) -> f64 {
        let others = self.backends.values().map(|backend| backend.id);
        let others: Vec<f64> = others
            .filter(|other| *other != id && self.is_usable(*other))
            .map(|other| f64::from(self.by_id(other).at_work()))
            .collect();
        others.iter().sum::<f64>() / others.len().max(1) as f64
    }

    pub(crate) fn is_usable(&self, id: BackendId) -> bool {
        let backend = self.by_id(id);
        backend.is_configured && backend.health(&self.rules) != Health::Down
    }
}

/// The wanted backend with the lowest score; the lowest id among equals.
fn lowest(
    scores: &BTreeMap<BackendId, f64>,
    is_wanted: impl Fn(BackendId) -> bool,
) -> Option<BackendId> {
    let mut best: Option<BackendId> = None;
    for (id, score) in scores {
        if is_wanted(*id) && best.is_none_or(|best| *score < scores[&best]) {
            best = Some(*id);
        }
    }
    best
}
