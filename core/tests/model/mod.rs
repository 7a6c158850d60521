//! The oracle: the knowledge and the decisions of a router, written independently of its code.
//!
//! It keeps whole histories and computes everything again at each call, following the text of the
//! rules: slow, plain, and without caches. Time is in whole milliseconds.
use std::collections::{BTreeMap, BTreeSet};

use intelliproxy_core::{
    BackendId, Health, HoldReason, LoadReport, ProbeFailure, ProbeKind, Rules, ScoreParts,
    SwitchReason,
};

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

pub(crate) struct Backend {
    pub(crate) id: BackendId,
    pub(crate) is_configured: bool,
    pub(crate) in_flight: u32,
    /// Pings that have ended, and requests whose connection was refused, since it joined.
    pub(crate) facts: Vec<(u64, Fact)>,
    pub(crate) reports: Vec<(u64, LoadReport)>,
    /// The time at which its reported figures were last evaluated for the score.
    pub(crate) heard_at: u64,
    pub(crate) reports_failed: u64,
    /// Requests that have ended: the time, and whether in error.
    pub(crate) requests: Vec<(u64, bool)>,
    /// Requests refused without a time: the time, and the part of a request that each counts.
    pub(crate) turned_away: Vec<(u64, f64)>,
    /// The number of refused requests.
    pub(crate) refused: u64,
    /// The end of its hold.
    pub(crate) held_until: u64,
    /// Requests in flight that are not work for it.
    pub(crate) aside: u32,
    pub(crate) responses: Vec<f64>,
    /// The time at which its error rate was last evaluated for the score.
    pub(crate) touched_at: u64,
    pub(crate) lines: BTreeMap<ProbeKind, Line>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fact {
    Answered { ms: f64 },
    Failed(ProbeFailure),
    RequestRefused,
}

/// One backend's pings or reports.
pub(crate) struct Line {
    pub(crate) due: Option<u64>,
    pub(crate) outstanding: Option<Outstanding>,
    pub(crate) first_wait: Option<u64>,
}

#[derive(Clone, Copy)]
pub(crate) struct Outstanding {
    pub(crate) probe: u64,
    pub(crate) started: u64,
    pub(crate) deadline: u64,
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
                let outstanding = old_lines.remove(&kind).and_then(|line| line.outstanding);
                let wait = self.interval(kind) * (index as u64 + 1) / names.len() as u64;
                let due = outstanding.is_none().then_some(now);
                backend.lines.insert(kind, Line { due, outstanding, first_wait: Some(wait) });
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
        for backend in self.backends.values_mut() {
            if backend.health(&self.rules) == Health::Down {
                backend.held_until = 0;
            }
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

    /// Decides a request by the current scores and by the numbers in flight at which backends are
    /// full. Returns the decision, and whether the request may go past the current backend.
    pub(crate) fn route(
        &mut self,
        now: u64,
        tried: &[BackendId],
        scores: &BTreeMap<BackendId, ScoreParts>,
        full_at: &BTreeMap<BackendId, Option<u32>>,
    ) -> (Decision, bool) {
        let totals = scores.iter().map(|(id, score)| (*id, score.total)).collect();
        let free = lowest(&totals, |id| self.is_free(id) && !tried.contains(&id));
        let usable = lowest(&totals, |id| self.is_usable(id) && !tried.contains(&id));
        let best_usable = free.or(usable);
        let least_bad = lowest(&totals, |id| !tried.contains(&id));
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
        (decision, is_by_rule && may_spill)
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

/// The result of a successful probe.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer {
    pub(crate) ms: u64,
    pub(crate) report: Option<LoadReport>,
}

impl Backend {
    fn unknown(now: u64) -> Self {
        Self {
            id: BackendId::from_index(0),
            is_configured: true,
            in_flight: 0,
            facts: Vec::new(),
            reports: Vec::new(),
            reports_failed: 0,
            requests: Vec::new(),
            turned_away: Vec::new(),
            refused: 0,
            held_until: 0,
            aside: 0,
            responses: Vec::new(),
            touched_at: now,
            heard_at: now,
            lines: BTreeMap::new(),
        }
    }

    fn learn(
        &mut self,
        now: u64,
        kind: ProbeKind,
        timeout: u64,
        result: Result<Answer, ProbeFailure>,
    ) {
        self.touched_at = now;
        self.heard_at = now;
        match (kind, result) {
            (ProbeKind::Ping, Ok(answer)) => {
                let ms = answer.ms.min(timeout) as f64;
                self.facts.push((now, Fact::Answered { ms }));
            }
            (ProbeKind::Ping, Err(cause)) => {
                self.facts.push((now, Fact::Failed(cause)));
            }
            (ProbeKind::Report, Ok(Answer { report: Some(report), .. })) => {
                self.reports.push((now, report));
            }
            (ProbeKind::Report, _) => self.reports_failed += 1,
        }
    }

    pub(crate) fn health(&self, rules: &Rules) -> Health {
        let mut health = Health::Unknown;
        for ended in 1..=self.facts.len() {
            let facts = &self.facts[..ended];
            health = match facts[ended - 1].1 {
                Fact::RequestRefused | Fact::Failed(ProbeFailure::Refused) => Health::Down,
                Fact::Failed(_) if failures_in_row(facts) >= rules.health.fall => Health::Down,
                Fact::Failed(_) => health,
                Fact::Answered { .. } if health != Health::Down => Health::Up,
                Fact::Answered { .. } if answers_in_row(facts) >= rules.health.rise => Health::Up,
                Fact::Answered { .. } => Health::Down,
            };
        }
        health
    }

    pub(crate) fn is_verdict_open(&self, rules: &Rules) -> bool {
        if self.health(rules) == Health::Down {
            answers_in_row(&self.facts) > 0
        } else {
            failures_in_row(&self.facts) > 0
        }
    }

    pub(crate) fn latencies(&self) -> Vec<f64> {
        let latency = |fact: &(u64, Fact)| match fact.1 {
            Fact::Answered { ms } => Some(ms),
            Fact::Failed(_) | Fact::RequestRefused => None,
        };
        self.facts.iter().filter_map(latency).collect()
    }

    pub(crate) fn losses(&self) -> Vec<f64> {
        let loss = |fact: &(u64, Fact)| match fact.1 {
            Fact::Answered { .. } => Some(0.0),
            Fact::Failed(_) => Some(1.0),
            Fact::RequestRefused => None,
        };
        self.facts.iter().filter_map(loss).collect()
    }

    /// The reported values of one figure with their times, without invalid ones.
    fn said(&self, figure: impl Fn(&LoadReport) -> Option<f64>) -> Vec<(u64, f64)> {
        let said = self.reports.iter().filter_map(|(at, report)| Some((*at, figure(report)?)));
        said.filter(|(_, number)| number.is_finite() && *number >= 0.0).collect()
    }

    /// The reported queues that are averaged: those since the last gap of more than three report
    /// intervals.
    pub(crate) fn queues(&self, rules: &Rules) -> Vec<f64> {
        let said = self.said(|report| report.queue);
        let longest = 3 * rules.probes.report_interval.as_millis() as u64;
        let begin = (1..said.len()).rev().find(|at| said[*at].0 - said[*at - 1].0 >= longest);
        said[begin.unwrap_or(0)..].iter().map(|(_, queue)| queue.min(250.0)).collect()
    }

    /// The weight of a figure by its last report: 1 within a report interval, 0 from three on.
    fn weight(&self, said: &[(u64, f64)], rules: &Rules) -> f64 {
        let Some((at, _)) = said.last() else { return 0.0 };
        let age = (self.heard_at - at) as f64 / rules.probes.report_interval.as_millis() as f64;
        (1.5 - 0.5 * age).clamp(0.0, 1.0)
    }

    /// Whether its next ping should come soon.
    fn wants_ping(&self, rules: &Rules) -> bool {
        let is_ping = |(_, fact): &&(u64, Fact)| *fact != Fact::RequestRefused;
        let last = self.facts.iter().rfind(is_ping);
        let was_answered = matches!(last, Some((_, Fact::Answered { .. })));
        let is_new = self.latencies().len() < 5 && (was_answered || self.losses().len() < 5);
        self.is_verdict_open(rules) || is_new
    }

    pub(crate) fn error_rate(&self, now: u64, rules: &Rules) -> f64 {
        let half_life = rules.errors.half_life.as_millis() as f64;
        let weight = |at: u64| libm::pow(0.5, now.saturating_sub(at) as f64 / half_life);
        let requests: f64 = self.requests.iter().map(|(at, _)| weight(*at)).sum();
        let errors: f64 =
            self.requests.iter().filter(|(_, is_error)| *is_error).map(|(at, _)| weight(*at)).sum();
        if errors == 0.0 { 0.0 } else { errors / (requests + rules.errors.prior) }
    }

    pub(crate) fn at_work(&self) -> u32 {
        self.in_flight - self.aside
    }

    /// Its load: requests in flight, and recent refusals.
    fn load(&self, rules: &Rules) -> u32 {
        let half_life = rules.errors.half_life.as_millis() as f64;
        let weight = |(at, amount): &(u64, f64)| {
            amount * libm::pow(0.5, (self.touched_at - at) as f64 / half_life)
        };
        let counts = self.turned_away.last().is_some_and(|(at, _)| self.touched_at - at < 8000);
        let refused = self.turned_away.iter().filter(|_| counts).map(weight).sum::<f64>();
        self.at_work() + refused.round() as u32
    }

    /// The points in the order of [`ScoreParts::parts`].
    pub(crate) fn points(&self, rules: &Rules) -> [f64; 7] {
        let (weights, alpha) = (&rules.weights, rules.smoothing.alpha);
        let losses = self.losses();
        let counts = losses.len() >= rules.smoothing.loss_pings as usize;
        let loss = average(alpha, &losses).filter(|_| counts).unwrap_or(0.0);
        let last = |figures: &[(u64, f64)]| figures.last().map_or(0.0, |(_, number)| *number);
        let queue = average(alpha, &self.queues(rules)).unwrap_or(0.0);
        let queues = self.said(|report| report.queue);
        let cpu = self.said(|report| report.cpu_busy_ms);
        let memory = self.said(|report| report.memory_bytes);
        [
            weights.latency * seeded(alpha, &self.latencies()).unwrap_or(10_000.0),
            weights.loss * if loss > 0.98 { 0.98 } else { loss },
            weights.errors * self.error_rate(self.touched_at, rules) * 100.0,
            weights.in_flight * f64::from(self.load(rules)),
            weights.queue * libm::tanh(queue / 50.0) * self.weight(&queues, rules),
            weights.cpu * libm::tanh(last(&cpu) / 100.0) * self.weight(&cpu, rules),
            weights.memory
                * libm::tanh(last(&memory) / (200.0 * 1024.0 * 1024.0))
                * self.weight(&memory, rules),
        ]
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

/// The moving average that starts with the (lower) median of the first five samples.
pub(crate) fn seeded(alpha: f64, samples: &[f64]) -> Option<f64> {
    let (first, rest) = samples.split_at(samples.len().min(5));
    let mut first = first.to_vec();
    first.sort_by(f64::total_cmp);
    let median = *first.get(first.len().checked_sub(1)? / 2)?;
    average(alpha, &[&[median], rest].concat())
}

/// The moving average, written as shares of the old and the new value.
pub(crate) fn average(alpha: f64, samples: &[f64]) -> Option<f64> {
    let (first, rest) = samples.split_first()?;
    Some(rest.iter().fold(*first, |old, new| (1.0 - alpha) * old + alpha * new))
}

fn failures_in_row(facts: &[(u64, Fact)]) -> u32 {
    let since = facts.iter().rev().take_while(|(_, fact)| !matches!(fact, Fact::Answered { .. }));
    since.filter(|(_, fact)| matches!(fact, Fact::Failed(_))).count() as u32
}

fn answers_in_row(facts: &[(u64, Fact)]) -> u32 {
    let is_answer = |(_, fact): &&(u64, Fact)| matches!(fact, Fact::Answered { .. });
    facts.iter().rev().take_while(is_answer).count() as u32
}
