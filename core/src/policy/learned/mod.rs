//! `learned`: shortest expected delay under a model that is learned online.
//!
//! Each request goes to the backend with the lowest `cost = q(n+1)/v · (1 + (0.08 + p·w)·(n+1)) +
//! T·excess`, with ties broken at random:
//! - v: the backend's relative speed ([`speed`])
//! - q(n): its latency with n in flight if its speed were 1 ([`curve`])
//! - w = 1 − q(1)/q(n+1): the share of waiting in that latency
//! - p: the price of waiting, which rises while queues persist ([`pool`])
//! - T: the charge for a failure, reduced if failed requests are tried again
//! - excess: its error share above the common one and beyond the noise. The common share is the
//!   pool's, or three standard errors above the share of the best backend if that is less
//!
//! Speed and curve are learned from the proxy's own completions. If a backend reports the number of
//! requests that it works on, n includes those of other proxies, and the proxy's completions are
//! compared with its part of the work. Without reports, n counts the proxy's own requests. A false
//! report changes n and, with the next completions, the speed in the opposite direction. Speeds are
//! shrunk towards the pool's median by their standard error: equal backends become exactly equal,
//! and the policy becomes `least_request`.
//!
//! | module | content |
//! |---|---|
//! | [`speed`] | completions against exposure, and the choice of the memory |
//! | [`curve`] | the pool's congestion curve, and each backend's deviation |
//! | [`unit`] | one backend: counters and cost |
//! | [`pool`] | the figures of the pool: time scale, price of queues, charge for a failure |
//! | [`restraints`] | stall, quarantine, probation, caps, slow start |
//! | [`choosing`] | the ways to choose a backend, except trials of idle ones |
//! | [`calm`] | the short path for a model that is rarely consulted |
//! | [`refit`] | the fit over all backends together, every 64 completions |
//! | [`faults`] | effects of errors on a backend's standing |
//! | [`rules`] | the configuration |
//! | [`explore`] | trials of idle backends, and the budget for them |
//! | [`aging`] | how estimates of idle backends lose certainty |
//! | [`marks`] | the bits of a request's token |
//! | [`outsiders`] | requests of others, from the backends' reports |
//! | [`start`] | the first speed of a backend with a configured weight |
//! | [`learner`] | state, guard, pings and ejections, for the router |
//! | [`state`] | the state kept across restarts |
//! | [`view`] | the view for observers |
//! | [`live_guard`] | the control slice, and demotion to `least_request` |
//!
//! A cost rises while a backend works without completing anything. Speeds are estimated when a
//! request ends, so a cost in the tournament tree dates from the last end or dispatch. If the
//! winner should have completed at least one request since then, its speed and cost are computed
//! again, at most four times for each choice. If it still wins, its cost is the lowest, with an
//! error of at most one completion. (Shortest expected delay: Whitt 1986; adaptive memory: Lepski
//! 1991.)
//!
//! # Constants
//! A constant without a source was chosen. "Hardly changes" means that halving or doubling the
//! value changes the cost relative to the oracle's by at most 1.2 %, in the geometric mean over the
//! scenarios of `cargo lab homog90 hetero80 seed_ab brownout sinkhole coldstart burst120 antagonist
//! partial_errors costs --policies learned --seeds 2 --duration-scale 0.5`. Other seeds change the
//! same figure by up to 1.4 %.
mod aging;
mod calm;
mod choosing;
mod curve;
mod explore;
mod faults;
mod learner;
mod live_guard;
pub(super) mod marks;
mod outsiders;
mod pool;
mod refit;
mod restraints;
pub(crate) mod rules;
mod speed;
mod start;
mod state;
mod unit;
mod view;

use std::time::Duration;

use self::curve::{LEVELS, bin};
use self::explore::Explorer;
use self::live_guard::LiveGuard;
use self::marks::{CONTROL, IDLE_TRIAL, LEARNER, PROBATION};
use self::pool::Pool;
use self::unit::Unit;
pub use self::view::{GuardView, LearnedStanding, LearnedView};
use crate::backend::Backend;
use crate::config::Rules;
use crate::errors::Errors;
use crate::event::{Outcome, RequestFailure, ReturnReason, RouteReason};
use crate::id::{BackendId, Token};
use crate::outlier::Regret;
use crate::policy::PolicyView;
use crate::policy::candidates::Candidates;
use crate::policy::contract::{Choice, Ended, Habits, Learner, Policy};
use crate::rng::Rng;
use crate::time::{Instant, millis};
use crate::tournament::{ABSENT, Tournament};

/// The learner: a model of each backend, and the restraints on its use.
#[derive(Debug)]
pub(crate) struct Learned {
    pool: Pool,
    units: Vec<Unit>,
    /// The costs of the open backends.
    costs: Tournament,
    explorer: Explorer,
    guard: LiveGuard,
    /// The number of backends in the configuration.
    present: usize,
    quarantined: usize,
    probation: usize,
    /// Whether it prefers the highest cost. Only for tests of the guard.
    is_inverted: bool,
    /// Whether it is the model of another policy. A model excludes no backend for its errors.
    is_model: bool,
    /// Whether reports showed requests of others.
    has_others: bool,
    /// The backend for which the requests of others are estimated next.
    others_next: usize,
    /// Decides whether ejections are worth their cost.
    regret: Regret,
    has_regretted: bool,
    /// Backends whose cost is out of date; only in a model.
    postponed: Vec<usize>,
    /// The time up to which the estimates of idle backends have aged.
    aged_at: Instant,
    /// Buffers for medians.
    scratch: Vec<(f64, f64)>,
    shares: Vec<f64>,
}

impl Learned {
    pub(super) fn new(rules: &Rules) -> Self {
        let mut learned = Self {
            pool: Pool::new(),
            units: Vec::new(),
            costs: Tournament::new(),
            explorer: Explorer::new(),
            guard: LiveGuard::new(),
            present: 0,
            quarantined: 0,
            probation: 0,
            is_inverted: false,
            is_model: false,
            has_others: false,
            others_next: 0,
            regret: Regret::default(),
            has_regretted: false,
            postponed: Vec::new(),
            aged_at: Instant::ZERO,
            scratch: Vec::new(),
            shares: Vec::new(),
        };
        learned.reconfigure(rules);
        learned
    }

    /// A broken learner for tests of the guard: it prefers the most expensive backend.
    pub(super) fn inverted(rules: &Rules) -> Self {
        Self { is_inverted: true, ..Self::new(rules) }
    }

    /// The model alone, for a policy that ranks by something else and uses only delays and widths.
    /// It quarantines no backend, since such a policy makes no trials that could end the
    /// quarantine.
    pub(super) fn model(rules: &Rules) -> Self {
        Self { is_model: true, ..Self::new(rules) }
    }

    /// Whether a backend has as many requests in flight as it can work on at once. Recent refusals
    /// (`turned_away`) count as requests in flight.
    pub(super) fn is_full(&self, backend: BackendId, turned_away: u32) -> bool {
        let unit = self.units.get(backend.index());
        unit.is_some_and(|unit| unit.in_flight.saturating_add(turned_away) >= unit.full_at())
    }

    /// Requests in flight that a backend can work on at once; 0 while it is stalled.
    pub(super) fn full_at(&self, backend: BackendId) -> u32 {
        self.units.get(backend.index()).map_or(1, Unit::full_at)
    }

    /// Updates the cost of a backend in the ranking.
    fn weigh(&mut self, slot: usize) {
        let unit = &mut self.units[slot];
        unit.weigh(&self.pool);
        if self.is_inverted {
            // Positive like any cost, so that its bits are ordered as the tree requires.
            unit.cost = 1.0 / unit.cost;
        }
        let key = if unit.is_open() { unit.cost.to_bits() } else { ABSENT };
        self.costs.set(slot, key);
    }

    /// Records the success of a request, which `in_flight` no longer counts.
    fn completed(&mut self, now: Instant, slot: usize, elapsed: Duration) {
        let elapsed_ms = millis(elapsed);
        let pool = &mut self.pool;
        let unit = &mut self.units[slot];
        let n = unit.answered(now, unit.in_flight + 1);
        let was_booting = pool.is_booting();
        pool.completions += 1;
        pool.errors.observe(false, POOL_MEMORY);
        average(&mut pool.latency_ms, elapsed_ms);
        average(&mut unit.latency_ms, elapsed_ms);
        unit.errors.observe(false, OWN_MEMORY);
        unit.refused_alone = 0;
        // Read before `succeeded` ends the stall.
        let was_stalled = unit.restraints.is_stalled;
        unit.restraints.succeeded(now - elapsed);
        unit.quiet_since = now;
        unit.due = 0.0;
        if was_booting {
            // While the time scale is unknown, a completion shows nothing about the speed: it would
            // be compared with a guessed duration.
            pool.boot();
            if !pool.is_booting() {
                self.units.iter_mut().for_each(|unit| unit.counted_from = unit.looked_at);
                self.adopt_curve();
            }
            return;
        }
        unit.speed.complete();
        // Completions after a stall arrive in a clump, and probation has one request at a time.
        // Neither shows the backend's rate at that number in flight.
        if unit.restraints.is_normal() && !was_stalled {
            let n = unit.busy(n);
            pool.curve.completions[(n as usize).min(LEVELS)] += 1.0;
            unit.shape.completions[bin(n)] += 1.0;
        }
        unit.completions += 1;
        if unit.completions.is_multiple_of(REFRESH) {
            unit.shape.fit(unit.phi, REFRESH as f64 / SHAPE_MEMORY);
            unit.shape.adopt(&pool.curve);
        }
        unit.settle(pool);
        unit.due_speed = unit.shrunk_speed;
        if pool.completions.is_multiple_of(REFRESH) {
            self.refresh(now);
        }
    }
}

impl Policy for Learned {
    fn choose(
        &mut self,
        now: Instant,
        candidates: &Candidates<'_>,
        rng: &mut Rng,
    ) -> Option<Choice> {
        if candidates.is_fail_open() {
            return self.least_bad(candidates, rng).map(Choice::of);
        }
        if let Some(others) = candidates.others() {
            self.look_at_others(now, others);
        } else if self.has_others {
            self.forget_others(now);
        }
        self.age(now);
        let mut token = 0;
        // A retry is neither a trial nor a control request: it excludes the backend that failed it,
        // so its cost cannot be compared.
        if candidates.is_first_attempt() {
            self.explorer.earn();
            let is_control = self.guard.draw(now, rng);
            // The control is drawn before everything else, so that both sides see the same
            // requests.
            if self.probation > 0
                && !is_control
                && let Some(backend) = self.try_out(candidates)
            {
                let by = if self.guard.is_in_charge() { LEARNER } else { 0 };
                return Some(Choice { backend, token: by | PROBATION });
            }
            if is_control || !self.guard.is_in_charge() {
                if let Some(backend) = self.fewest(now, candidates, rng) {
                    let token = if is_control { CONTROL } else { 0 };
                    return Some(Choice { backend, token });
                }
            } else {
                token = LEARNER;
            }
            if let Some(trial) = self.explore(now, candidates) {
                return Some(trial);
            }
        } else {
            self.pool.is_tried_again();
        }
        let chosen = self.cheapest(now, candidates, rng);
        let backend = chosen.or_else(|| self.least_bad(candidates, rng))?;
        Some(Choice { backend, token })
    }

    fn delay(&mut self, now: Instant, backend: BackendId) -> Option<f64> {
        Some(self.expected_delay(now, backend))
    }

    fn reason(&self, token: Token) -> RouteReason {
        marks::reason(token)
    }

    fn reconfigure(&mut self, rules: &Rules) {
        self.pool.confidence = rules.learned.confidence;
        self.pool.charge_ms = millis(rules.errors.charge);
        // The model is kept: it does not depend on these settings.
        self.explorer.configure(rules.learned.exploration);
        self.guard.configure(rules.learned.control_share, self.pool.charge_ms);
    }

    fn on_join(&mut self, now: Instant, backend: BackendId, in_flight: u32) {
        let unit = Unit::new(now, backend, in_flight, &self.pool);
        let slot = backend.index();
        if slot == self.units.len() {
            self.units.push(unit);
            self.costs.push(ABSENT);
        } else {
            debug_assert!(slot < self.units.len(), "slots are given out without gaps");
            self.units[slot] = unit;
        }
        self.scratch.reserve(self.units.len());
        self.shares.reserve(self.units.len());
        self.present = self.units.iter().filter(|unit| unit.is_present).count();
        if self.is_model && self.present == 2 {
            // While there was a single backend, its exposure was not measured. Now it is.
            for unit in &mut self.units {
                (unit.looked_at, unit.counted_from) = (now, now);
            }
        }
        self.count();
        self.weigh(slot);
    }

    fn set_weight(&mut self, backend: BackendId, factor: f64) {
        // Only a first estimate: completions soon replace it.
        if factor > 0.0 && self.units[backend.index()].start(factor, &self.pool) {
            self.weigh(backend.index());
        }
    }

    fn set_backup(&mut self, backend: BackendId, is_backup: bool) {
        self.units[backend.index()].is_backup = is_backup;
    }

    fn on_leave(&mut self, _now: Instant, backend: BackendId) {
        // The row stays until its slot is reused, since requests of the backend still end.
        self.units[backend.index()].is_present = false;
        self.explorer.forget(backend);
        self.present = self.units.iter().filter(|unit| unit.is_present).count();
        self.count();
        self.weigh(backend.index());
    }

    fn on_health(&mut self, now: Instant, backend: BackendId, is_up: bool) {
        let unit = &mut self.units[backend.index()];
        if is_up && !unit.is_up {
            unit.came_up(now);
        }
        unit.is_up = is_up;
        self.weigh(backend.index());
    }

    fn on_return(&mut self, now: Instant, backend: BackendId) {
        self.settle_up(backend.index());
        self.units[backend.index()].came_back(now);
        self.weigh(backend.index());
    }

    fn on_dispatch(&mut self, now: Instant, backend: BackendId) {
        let slot = backend.index();
        let unit = &mut self.units[slot];
        if self.is_model && self.present < 2 {
            // A single backend leaves no choice, so nothing is measured.
            unit.take(now);
            return;
        }
        // Before `take`: the time until now passed with one request less.
        unit.count(now, &mut self.pool);
        unit.take(now);
        unit.used_at = now;
        if self.is_model {
            self.postpone(slot);
        } else {
            self.weigh(slot);
        }
    }

    fn on_outcome(&mut self, now: Instant, ended: &Ended<'_>) {
        let slot = ended.backend.index();
        let is_error = ended.outcome.is_error();
        if self.is_model {
            self.settle_up(slot);
            if is_error == Some(true) {
                // An error is compared with those of the other backends, so their ends must be
                // counted first.
                self.catch_up();
            }
        }
        let elapsed_ms = millis(ended.elapsed);
        let unit = &mut self.units[slot];
        unit.count(now, &mut self.pool);
        unit.take_in(&mut self.pool, is_error == Some(false));
        let is_trial = ended.token & IDLE_TRIAL != 0;
        // Successes are counted before the speed is estimated.
        if is_trial || is_error != Some(false) {
            unit.settle(&self.pool);
        }
        debug_assert!(unit.in_flight > 0, "only requests that were sent end");
        unit.in_flight = unit.in_flight.saturating_sub(1);
        // The prediction for an idle backend, made before the model learns from this end.
        let predicted_ms = if is_trial { unit.latency_at(&self.pool, 1) } else { 0.0 };
        match is_error {
            Some(false) => self.completed(now, slot, ended.elapsed),
            Some(true) => {
                let failure = Outcome::Failed(RequestFailure::TimedOut);
                let (is_timeout, facts) = (*ended.outcome == failure, ended.facts);
                self.failed(now, slot, ended.elapsed, is_timeout, facts.is_asked_seldom());
            }
            None if matches!(ended.outcome, Outcome::Refused { .. }) => self.refused(now, slot),
            None if ended.is_excused => self.excused(now, slot, elapsed_ms),
            None => self.units[slot].abandoned(&mut self.pool, elapsed_ms),
        }
        self.units[slot].heed_refusals(ended.facts.turned_away(), is_error == Some(false));
        if ended.token & PROBATION != 0 {
            // While a backup does better, failures are not excused, even if all others fail.
            let others = self.better_other(slot).or_else(|| self.others(slot));
            let unit = &mut self.units[slot];
            if !unit.restraints.is_normal() {
                unit.reasons.returned = ReturnReason::Probation;
            }
            unit.restraints.probation_ended(now, faults::shows(ended.outcome), others);
            if unit.restraints.is_normal() {
                // The errors that caused the ejection must not continue to cost it requests.
                unit.errors = Errors::default();
            }
            self.count();
        }
        if is_trial && self.units[slot].is_present {
            let good_ms = (is_error == Some(false)).then_some(elapsed_ms);
            let record = &mut self.units[slot].series;
            self.explorer.ended(ended.backend, record, predicted_ms, good_ms);
        }
        if let Some(is_error) = is_error {
            if ended.token & CONTROL != 0 {
                self.guard.control_ended(now, elapsed_ms, is_error);
            } else if ended.token & LEARNER != 0 {
                self.guard.learner_ended(elapsed_ms, is_error);
            }
        }
        if self.quarantined + self.probation > 0 && self.units[slot].restraints.is_normal() {
            let is_refused = matches!(ended.outcome, Outcome::Refused { .. });
            if is_refused || is_error.is_some() {
                let good_ms = (is_error == Some(false)).then_some(elapsed_ms);
                self.weigh_ejections(now, good_ms);
            }
        }
        let unit = &self.units[slot];
        if unit.in_flight == 0 && unit.restraints.is_stalled && unit.restraints.is_normal() {
            self.eject_silent(now, slot);
        }
        self.weigh(slot);
    }

    fn on_others(&mut self, now: Instant, backend: BackendId, others: f64) {
        self.has_others = true;
        self.set_others(now, backend.index(), others);
    }

    fn on_pause(&mut self, now: Instant, backend: BackendId) {
        // The time until now counts, because the backend worked. From now on the client is awaited.
        self.settle_up(backend.index());
        let unit = &mut self.units[backend.index()];
        unit.look(now, &mut self.pool);
        debug_assert!(unit.in_flight > 0, "only what is in flight is paused");
        unit.in_flight = unit.in_flight.saturating_sub(1);
        if unit.in_flight == 0 && unit.restraints.is_normal() {
            // No request waits for the backend: an apparent silence may have been that of its
            // clients.
            unit.quiet(now);
        }
        self.weigh(backend.index());
    }

    fn on_stream(&mut self, now: Instant, backend: BackendId, elapsed: Duration) {
        self.on_pause(now, backend);
        self.units[backend.index()].was_no_work(&mut self.pool, millis(elapsed));
        self.weigh(backend.index());
    }

    fn on_resume(&mut self, now: Instant, backend: BackendId) {
        self.settle_up(backend.index());
        let unit = &mut self.units[backend.index()];
        unit.count(now, &mut self.pool);
        unit.take(now);
        self.weigh(backend.index());
    }

    fn on_ping(&mut self, now: Instant, backend: BackendId, is_good: bool, facts: &Backend) {
        let slot = backend.index();
        self.fade(slot, facts);
        if !is_good {
            return;
        }
        if self.units[slot].restraints.watch.ping_answered(now) {
            self.count();
        } else {
            self.end_stall(now, slot);
        }
    }

    fn on_wait(&mut self, now: Instant, backend: BackendId, facts: &Backend) {
        let slot = backend.index();
        self.fade(slot, facts);
        if self.units[slot].restraints.watch.waited(now) {
            self.count();
        } else {
            self.end_stall(now, slot);
        }
    }

    fn habits(&self) -> Habits {
        Habits { is_gated: false, listens: true, guards_itself: true }
    }

    fn view(&self, now: Instant, id: BackendId, _backend: &Backend) -> PolicyView {
        PolicyView::Learned(self.view_of(now, id))
    }

    fn learner(&self) -> Option<&dyn Learner> {
        Some(self)
    }

    fn learner_mut(&mut self) -> Option<&mut dyn Learner> {
        Some(self)
    }
}

/// Updates an average of latencies: the first sample is used unchanged, later ones have weight
/// 1/20.
fn average(mean: &mut f64, ms: f64) {
    *mean = if *mean > 0.0 { *mean + LATENCY_ALPHA * (ms - *mean) } else { ms.max(LATENCY_MIN_MS) };
}

/// Completions from one fit of the pool's curve to the next, so that the cost of a fit is shared.
/// Chosen; halving or doubling it hardly changes results.
const REFRESH: u64 = 64;
/// Number of completions that a backend's shape averages. It is large because the shape is a
/// property of the machine. Chosen; halving or doubling it hardly changes results.
const SHAPE_MEMORY: f64 = 4000.0;
/// Number of requests that the pool's error share averages. Chosen; halving or doubling it hardly
/// changes results.
const POOL_MEMORY: f64 = 1000.0;
/// Number of requests that a backend's error share averages. Chosen; halving or doubling it hardly
/// changes results.
const OWN_MEMORY: f64 = 200.0;
/// Share of a new sample in the mean latencies. Chosen; halving or doubling it hardly changes
/// results.
const LATENCY_ALPHA: f64 = 0.05;
/// The minimum of a mean, since 0 means unknown.
const LATENCY_MIN_MS: f64 = 1e-3;

#[cfg(test)]
mod tests;
