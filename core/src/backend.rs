//! The state of each backend.
//!
//! The score of a backend is cached and changes only with events of that backend. A ping's end sets
//! latency and loss. A report sets queue, CPU and memory; their weight falls with the age of the
//! report, evaluated at the end of each ping and report. The start and the end of a lease set the
//! requests in flight. The error rate and the count of refusals decay with time. They are evaluated
//! at the end of each ping, report and request and are constant in between, so they are at most one
//! ping interval old. A hold ends at its own time: from [`BackendTable::releases_at`] on,
//! [`BackendTable::release`] is due.
//!
//! The layout hints are explained in `router.rs`.
mod access;
mod agent;
mod declines;
mod figure;
mod refusals;
mod service;
mod table;

use std::time::Duration;

pub(crate) use self::access::Access;
use self::agent::Agent;
pub(crate) use self::declines::Comparison;
use self::declines::Declines;
use self::figure::{Figure, weight_of};
pub(crate) use self::table::{Added, BackendTable};
use crate::config::{BackendLimits, CheckRules, Mode, Rules, Weights};
use crate::errors::Errors;
use crate::estimate::{ErrorRate, Ewma, Fading, SeededEwma};
use crate::event::{LoadReport, Outcome, ProbeResult};
use crate::health::HealthTracker;
use crate::id::BackendId;
use crate::outlier::Watch;
use crate::score::{QUEUE_SAMPLE_MAX, ScoreParts};
use crate::time::{Instant, millis};

/// The state of one backend.
#[derive(Debug)]
pub(crate) struct Backend {
    id: BackendId,
    pub(crate) name: String,
    /// Removed from the configuration: it gets no requests and no probes, but its leases still end
    /// here.
    pub(crate) is_retired: bool,
    pub(crate) health: HealthTracker,
    /// Its health checks.
    checks: CheckRules,
    /// Outstanding leases.
    in_flight: u32,
    /// The maximum number of outstanding leases.
    limit: u32,
    /// The maximum, or the number of outstanding leases when the maximum was lowered below it.
    most: u32,
    /// Relative capacity, percent.
    weight: u32,
    mode: Mode,
    /// The state last reported by its agent.
    agent: Agent,
    is_backup: bool,
    /// Outstanding leases that are not counted as work for the backend: streams, and requests that
    /// wait for their client.
    aside: u32,
    /// Outstanding leases that were set aside at least once.
    marked: u32,
    /// Recent requests that it refused, counted at its last event.
    turned_away: u32,
    /// The end of the hold that the backend requested. Until then it gets no requests while another
    /// backend can take them.
    held_until: Option<Instant>,
    /// Its failures, tracked if the router ejects on behalf of the policy.
    pub(crate) watch: Watch,
    /// Whether observers know that a policy with its own ejection has ejected the backend.
    pub(crate) is_told_out: bool,
    /// Whether it went down and has not come up since.
    pub(crate) was_down: bool,
    pings: Pings,
    reports: Reports,
    requests: Requests,
    parts: ScoreParts,
}

/// Results of its pings.
#[derive(Debug, Default)]
pub(crate) struct Pings {
    pub(crate) answered: u64,
    pub(crate) failed: u64,
    pub(crate) last_latency: Option<(Instant, Duration)>,
    pub(crate) last_ended_at: Option<Instant>,
    /// Whether the last ping succeeded.
    pub(crate) was_answered: bool,
    pub(crate) latency_ewma_ms: SeededEwma,
    pub(crate) loss_ewma: Ewma,
}

/// Results of its reports.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    pub(crate) read: u64,
    pub(crate) failed: u64,
    /// The last reported value of each figure and its time. A report without a figure does not
    /// change it.
    pub(crate) queue: Option<Figure>,
    pub(crate) running: Option<Figure>,
    pub(crate) pressure: Option<Figure>,
    pub(crate) cpu_busy_ms: Option<Figure>,
    pub(crate) memory_bytes: Option<Figure>,
    pub(crate) queue_ewma: Ewma,
}

impl Reports {
    /// The time of the last report with a valid figure.
    pub(crate) fn last_said_at(&self) -> Option<Instant> {
        let Self { queue, running, pressure, cpu_busy_ms, memory_bytes, .. } = self;
        let figures = [queue, running, pressure, cpu_busy_ms, memory_bytes].into_iter().flatten();
        figures.map(|figure| figure.said_at).max()
    }
}

/// Results of its requests.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    pub(crate) ended: u64,
    pub(crate) errors: u64,
    pub(crate) refused: u64,
    pub(crate) turned_away: Fading,
    /// The time of the last refusal without Retry-After.
    pub(crate) turned_away_at: Instant,
    declines: Declines,
    pub(crate) last_ended_at: Option<Instant>,
    /// Whether no other request had ended for [`SELDOM`] before the last failure.
    pub(crate) was_quiet: bool,
    pub(crate) error_rate: ErrorRate,
    pub(crate) response_ewma_ms: Ewma,
}

impl Backend {
    fn new(id: BackendId, name: String, weights: &Weights) -> Self {
        let mut backend = Self {
            id,
            name,
            is_retired: false,
            health: HealthTracker::default(),
            checks: CheckRules::default(),
            in_flight: 0,
            limit: u32::MAX,
            most: u32::MAX,
            weight: BackendLimits::WEIGHT_USUAL,
            mode: Mode::Ready,
            agent: Agent::default(),
            is_backup: false,
            aside: 0,
            marked: 0,
            turned_away: 0,
            held_until: None,
            watch: Watch::new(u32::MAX, u32::MAX),
            is_told_out: false,
            was_down: false,
            pings: Pings::default(),
            reports: Reports::default(),
            requests: Requests::default(),
            parts: ScoreParts::default(),
        };
        backend.parts.latency = weights.latency_points(None);
        backend.parts.total = backend.parts.sum();
        backend
    }

    /// Records the end of a ping. Only successful pings feed the latency: a fast failure does not
    /// mean a fast backend.
    pub(crate) fn ping_ended(&mut self, now: Instant, result: &ProbeResult, rules: &Rules) {
        let alpha = rules.smoothing.alpha;
        self.pings.last_ended_at = Some(now);
        self.pings.was_answered = result.is_ok();
        self.pings.loss_ewma.observe(alpha, if result.is_ok() { 0.0 } else { 1.0 });
        match result {
            Ok(answer) => {
                self.pings.answered += 1;
                self.pings.last_latency = Some((now, answer.latency));
                self.pings.latency_ewma_ms.observe(alpha, millis(answer.latency));
            }
            Err(_) => self.pings.failed += 1,
        }
        self.rescore_pings(rules);
        self.rescore_load(now, rules);
        self.rescore_errors(now, rules);
    }

    /// Whether the next ping should follow soon: a verdict on its health is open, or the latency
    /// average has too few samples.
    pub(crate) const fn wants_ping(&self) -> bool {
        let pings = &self.pings;
        let ended = pings.answered + pings.failed;
        self.health.is_verdict_open()
            || pings.latency_ewma_ms.is_young() && (pings.was_answered || ended < PINGS_FIRST)
    }

    /// Applies a load report. Negative and non-finite values are ignored.
    pub(crate) fn report_read(&mut self, now: Instant, report: &LoadReport, rules: &Rules) {
        let said = |number: Option<f64>| number.filter(|x| x.is_finite() && *x >= 0.0);
        self.reports.read += 1;
        if let Some(queue) = said(report.queue) {
            if weight_of(self.reports.queue, now, self.report_interval(rules)) == 0.0 {
                // The earlier value has lost all its weight: the average starts again.
                self.reports.queue_ewma = Ewma::default();
            }
            self.reports.queue_ewma.observe(rules.smoothing.alpha, queue.min(QUEUE_SAMPLE_MAX));
        }
        let figure = |number| said(number).map(|value| Figure { value, said_at: now });
        self.reports.queue = figure(report.queue).or(self.reports.queue);
        self.reports.running = figure(report.running).or(self.reports.running);
        let pressure = report.pressure.map(|pressure| pressure.min(1.0));
        self.reports.pressure = figure(pressure).or(self.reports.pressure);
        self.reports.cpu_busy_ms = figure(report.cpu_busy_ms).or(self.reports.cpu_busy_ms);
        self.reports.memory_bytes = figure(report.memory_bytes).or(self.reports.memory_bytes);
        self.rescore_load(now, rules);
        self.rescore_errors(now, rules);
    }

    /// Records a failed or unreadable report. The earlier figures are evaluated again, as their
    /// weight has fallen.
    pub(crate) fn report_failed(&mut self, now: Instant, rules: &Rules) {
        self.reports.failed += 1;
        self.rescore_load(now, rules);
        self.rescore_errors(now, rules);
    }

    /// Records a new lease.
    pub(crate) fn lease_out(&mut self, weights: &Weights) {
        self.in_flight += 1;
        self.rescore_in_flight(weights);
    }

    /// Records the end of a lease that was given at `routed_at`. Returns whether it was an error,
    /// as [`Outcome::is_error`] does.
    pub(crate) fn lease_home(
        &mut self,
        now: Instant,
        routed_at: Instant,
        outcome: &Outcome,
        rules: &Rules,
    ) -> Option<bool> {
        debug_assert!(self.in_flight > 0, "a lease ends once, at the router that gave it");
        self.in_flight = self.in_flight.saturating_sub(1);
        let is_error = outcome.is_error();
        if let Some(is_error) = is_error {
            self.requests.ended += 1;
            self.requests.errors += u64::from(is_error);
            if is_error {
                let last = self.requests.last_ended_at;
                self.requests.was_quiet = last.is_some_and(|at| now.since(at) >= SELDOM);
            }
            self.requests.last_ended_at = Some(now);
            self.requests.error_rate.observe(now, is_error, rules.errors.half_life);
            if let (Outcome::Answered { status, latency }, false) = (outcome, is_error) {
                // A 4xx is not an error here, but it does not end a run of them either.
                if *status < 400 {
                    self.requests.declines.succeeded(routed_at);
                }
                let alpha = rules.smoothing.alpha;
                self.requests.response_ewma_ms.observe(alpha, millis(*latency));
            }
        } else if let Outcome::Refused { hold, .. } = outcome {
            self.refused(now, *hold);
        }
        self.rescore_errors(now, rules);
        is_error
    }

    /// Whether it got so few requests before its last failure that the first back-off of an
    /// ejection would divert hardly any requests.
    pub(crate) const fn is_asked_seldom(&self) -> bool {
        self.requests.was_quiet
    }

    /// Records a passed probation: earlier failures no longer rank it behind the others.
    pub(crate) fn forgive(&mut self, now: Instant, rules: &Rules) {
        self.requests.error_rate.forgive();
        self.rescore_errors(now, rules);
    }

    /// Records that it has come up: the failures and lost pings of the outage no longer count.
    pub(crate) fn came_up(&mut self, now: Instant, rules: &Rules) {
        self.pings.loss_ewma = Ewma::default();
        self.rescore_pings(rules);
        self.forgive(now, rules);
    }

    /// Counts a failure that would have happened at any backend. Nothing else changes.
    #[cold]
    pub(crate) const fn excused(&mut self) {
        self.requests.ended += 1;
        self.requests.errors += 1;
    }

    /// Sets the maximum number of outstanding leases. Leases beyond it remain until they end.
    pub(crate) fn set_limit(&mut self, limit: u32) {
        self.limit = limit;
        self.most = limit.max(self.in_flight);
    }

    /// Returns the maximum number of outstanding leases; `None` for no limit.
    pub(crate) fn limit(&self) -> Option<u32> {
        (self.limit < u32::MAX).then_some(self.limit)
    }

    /// Whether it is configured and not down, even if it is full, held or ejected.
    pub(crate) fn is_up(&self) -> bool {
        !self.is_retired && self.health.health().is_usable()
    }

    /// Whether it has the maximum number of outstanding leases.
    pub(crate) const fn is_full(&self) -> bool {
        self.in_flight >= self.limit
    }

    /// Stops counting one of its leases as work (`is_aside`), or counts it again.
    pub(crate) fn set_aside(&mut self, is_aside: bool, weights: &Weights) {
        if is_aside {
            debug_assert!(self.aside < self.in_flight, "only a lease that is out is set aside");
            self.aside += 1;
        } else {
            debug_assert!(self.aside > 0, "a lease is set aside before it is taken back");
            self.aside = self.aside.saturating_sub(1);
        }
        self.rescore_in_flight(weights);
    }

    /// Counts a lease that was set aside for the first time, or the end of a lease that once was.
    pub(crate) const fn mark(&mut self, is_marked: bool) {
        self.marked = if is_marked { self.marked + 1 } else { self.marked.saturating_sub(1) };
    }

    /// Whether an outstanding lease was never set aside.
    pub(crate) const fn has_unmarked(&self) -> bool {
        self.marked < self.in_flight
    }

    /// Ends a hold that has expired.
    fn release(&mut self, now: Instant) {
        self.held_until = self.held_until.filter(|until| *until > now);
    }

    /// Ends a hold early.
    pub(crate) const fn release_now(&mut self) {
        self.held_until = None;
    }

    /// Outstanding leases.
    pub(crate) const fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// Requests that it works on.
    pub(crate) const fn at_work(&self) -> u32 {
        self.in_flight.saturating_sub(self.aside)
    }

    /// Requests that keep it busy: those it works on, and recent refusals. Immediate refusals must
    /// not make a full backend look idle.
    pub(crate) const fn load(&self) -> u32 {
        self.at_work().saturating_add(self.turned_away)
    }

    /// Recent requests that it refused, counted at its last event.
    pub(crate) const fn turned_away(&self) -> u32 {
        self.turned_away
    }

    pub(crate) const fn parts(&self) -> &ScoreParts {
        &self.parts
    }

    /// The last reported queue, if it is not older than `age`.
    pub(crate) fn reported_queue(&self, now: Instant, age: Duration) -> Option<f64> {
        let queue = self.reports.queue.filter(|queue| now.since(queue.said_at) <= age);
        queue.map(|queue| queue.value)
    }

    /// The latency average of its pings, ms.
    pub(crate) const fn ping_latency_ms(&self) -> Option<f64> {
        self.pings.latency_ewma_ms.value()
    }

    /// The average of lost pings, 0 to 1.
    pub(crate) const fn ping_loss(&self) -> Option<f64> {
        self.pings.loss_ewma.value()
    }

    /// The time between two reports of this backend.
    fn report_interval(&self, rules: &Rules) -> Duration {
        self.checks().of_probes(&rules.probes).report_interval
    }

    /// The average of the reported queue, and its weight by age, 0 to 1.
    pub(crate) fn queue_said(&self, now: Instant, rules: &Rules) -> Option<(f64, f64)> {
        self.reports.queue.map(|figure| {
            let average = self.reports.queue_ewma.value().unwrap_or(0.0);
            (average, weight_of(Some(figure), now, self.report_interval(rules)))
        })
    }

    /// The last reported CPU time, ms, and its weight by age, 0 to 1.
    pub(crate) fn cpu_said(&self, now: Instant, rules: &Rules) -> Option<(f64, f64)> {
        self.reports
            .cpu_busy_ms
            .map(|figure| (figure.value, weight_of(Some(figure), now, self.report_interval(rules))))
    }

    /// The last reported memory, bytes, and its weight by age, 0 to 1.
    pub(crate) fn memory_said(&self, now: Instant, rules: &Rules) -> Option<(f64, f64)> {
        self.reports
            .memory_bytes
            .map(|figure| (figure.value, weight_of(Some(figure), now, self.report_interval(rules))))
    }

    /// The access that requests have to the backend.
    #[inline]
    pub(crate) const fn access(&self) -> Access {
        let access = self.own_access();
        if self.is_backup { access.of_backup() } else { access }
    }

    /// The access that requests have to it if it is needed.
    #[inline]
    const fn own_access(&self) -> Access {
        if self.is_retired {
            Access::Gone
        } else if !self.is_in_service() {
            Access::Drained
        // Before the health: a full backend cannot take a request even if all others are down.
        } else if self.is_full() {
            Access::Full
        } else if !self.health.health().is_usable() {
            if self.health.is_refusing() { Access::Refusing } else { Access::Down }
        } else if !self.watch.is_in() {
            Access::Ejected
        } else if self.held_until.is_some() {
            Access::Held
        } else if self.at_work() >= self.watch.window {
            Access::Slow
        } else {
            Access::Free
        }
    }

    const fn row(&self) -> ScanRow {
        // Exactly 1 for the usual weight, so that its costs are whole numbers.
        let per_request = BackendLimits::WEIGHT_USUAL as f32 / self.weight as f32;
        let (generation, load, access) = (self.id.generation(), self.load(), self.access());
        ScanRow { generation, load, per_request, access, changes: 0 }
    }

    pub(crate) const fn pings(&self) -> &Pings {
        &self.pings
    }

    /// Results of its load reports.
    pub(crate) const fn reports(&self) -> &Reports {
        &self.reports
    }

    pub(crate) const fn requests(&self) -> &Requests {
        &self.requests
    }

    /// The end of the hold that the backend requested, if there is one.
    pub(crate) const fn held_until(&self) -> Option<Instant> {
        self.held_until
    }

    #[inline]
    pub(crate) fn error_rate_at(&self, now: Instant, rules: &Rules) -> f64 {
        self.requests.error_rate.rate_at(now, rules.errors.half_life, rules.errors.prior)
    }

    /// The share of errors among its requests, which decays with time.
    pub(crate) const fn error_rate(&self) -> ErrorRate {
        self.requests.error_rate
    }

    /// The time until which the weights of the reported figures remain those at `now`, without
    /// further reports.
    pub(crate) fn reports_hold_until(&self, now: Instant, rules: &Rules) -> Instant {
        let Reports { queue, cpu_busy_ms, memory_bytes, pressure, .. } = &self.reports;
        let interval = self.report_interval(rules);
        let figures = [queue, cpu_busy_ms, memory_bytes, pressure].into_iter().flatten();
        figures.map(|figure| figure.holds_until(now, interval)).min().unwrap_or(Instant::FAR_FUTURE)
    }

    /// The average time to the head of a response, ms.
    pub(crate) const fn response_ms(&self) -> Option<f64> {
        self.requests.response_ewma_ms.value()
    }

    /// Recent requests and failures.
    pub(crate) fn recent(&self, now: Instant, rules: &Rules) -> Errors {
        self.requests.error_rate.counts_at(now, rules.errors.half_life)
    }

    fn rescore_all(&mut self, now: Instant, rules: &Rules) {
        self.rescore_pings(rules);
        self.rescore_load(now, rules);
        self.rescore_errors(now, rules);
    }

    fn rescore_pings(&mut self, rules: &Rules) {
        let ended = self.pings.answered + self.pings.failed;
        let loss = self.pings.loss_ewma.value();
        // With fewer pings, a single lost one would count as heavy loss.
        let loss = loss.filter(|_| ended >= u64::from(rules.smoothing.loss_pings));
        self.parts.latency = rules.weights.latency_points(self.pings.latency_ewma_ms.value());
        self.parts.loss = rules.weights.loss_points(loss);
        self.parts.total = self.parts.sum();
    }

    /// Evaluates the reported figures with their weight at `now`.
    fn rescore_load(&mut self, now: Instant, rules: &Rules) {
        let weights = &rules.weights;
        let (queue, cpu, memory) =
            (self.reports.queue, self.reports.cpu_busy_ms, self.reports.memory_bytes);
        let interval = self.report_interval(rules);
        let weight = |figure| weight_of(figure, now, interval);
        let value = |figure: Option<Figure>| figure.map(|figure| figure.value);
        self.parts.queue = weight(queue) * weights.queue_points(self.reports.queue_ewma.value());
        self.parts.cpu = match (cpu, self.reports.pressure) {
            (None, Some(pressure)) => {
                weight(Some(pressure)) * weights.pressure_points(pressure.value)
            }
            _ => weight(cpu) * weights.cpu_points(value(cpu)),
        };
        self.parts.memory = weight(memory) * weights.memory_points(value(memory));
        self.parts.total = self.parts.sum();
    }

    fn rescore_in_flight(&mut self, weights: &Weights) {
        self.parts.in_flight = weights.in_flight_points(self.load());
        self.parts.total = self.parts.sum();
    }

    /// Evaluates the counts that fade with time: errors and refusals.
    #[inline(always)]
    fn rescore_errors(&mut self, now: Instant, rules: &Rules) {
        self.parts.errors = rules.weights.error_points(self.error_rate_at(now, rules));
        let turned_away = self.refusals_at(now, rules);
        // The cast rounds, as the value is not negative, and it saturates.
        self.turned_away = (turned_away + 0.5) as u32;
        self.parts.in_flight = rules.weights.in_flight_points(self.load());
        self.parts.total = self.parts.sum();
    }
}

impl ScanRow {
    /// The id of the backend in slot `slot`.
    pub(crate) const fn id(&self, slot: usize) -> BackendId {
        BackendId::new(slot as u32, self.generation)
    }

    /// The requests that keep it busy plus one, relative to its weight.
    pub(crate) fn weighted(&self) -> f64 {
        (f64::from(self.load) + 1.0) * f64::from(self.per_request)
    }
}

/// The fields read when scanning candidates, kept in a dense array.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct ScanRow {
    generation: u32,
    /// Requests that keep it busy.
    pub(crate) load: u32,
    /// The cost of a request for a policy that counts them: 1 at the usual weight.
    pub(crate) per_request: f32,
    pub(crate) access: Access,
    /// The number of changes of the backend so far; it wraps. Figures derived from the backend are
    /// valid until this number changes.
    pub(crate) changes: u32,
}

/// The length of a quiet time, in which no request ends: twice the first back-off of an ejection.
const SELDOM: Duration = Duration::from_millis(500);
/// After this number of pings, a failed one is followed by the next at the regular interval, even
/// if the average still lacks samples. It is the number of samples in the first median of
/// [`SeededEwma`].
const PINGS_FIRST: u64 = 5;
