//! Learned figures of one backend: counters, estimates and the cost.
mod taking_back;

use super::curve::{Curve, LEVELS, Shape, bin};
use super::explore::Trials;
use super::pool::Pool;
use super::restraints::Restraints;
use super::speed::{Estimate, Speed};
use crate::errors::Errors;
use crate::event::ReturnReason;
use crate::id::BackendId;
use crate::policy::contract::Reasons;
use crate::time::{Instant, millis};

/// The model's state of one backend.
#[derive(Clone, Debug)]
pub(super) struct Unit {
    pub(super) id: BackendId,
    pub(super) is_present: bool,
    /// Whether it gets requests only while no primary backend can take them.
    pub(super) is_backup: bool,
    /// Whether it may be used, by its pings and connections.
    pub(super) is_up: bool,
    /// Requests in flight, without streams whose response head has arrived.
    pub(super) in_flight: u32,
    /// Requests of others at the backend, estimated from its reports.
    pub(super) others: u32,
    /// Recent refusals, which the cost counts as requests in flight.
    pub(super) turned_away: u32,
    /// A sum over recent refusals: a refusal with n in flight adds 1/n, and good responses reduce
    /// the sum.
    refused_lately: f64,
    /// Consecutive refusals of the only request in flight.
    pub(super) refused_alone: u32,
    /// The time up to which exposure is counted.
    pub(super) looked_at: Instant,
    /// The time since which all counted exposure was passed to `speed`. Before it, the backend was
    /// not configured, the time scale was unknown, or a silence was dropped.
    pub(super) counted_from: Instant,
    /// Counted exposure that was not yet passed to `speed`.
    pending: f64,
    /// Exposure per ms at the current number in flight.
    pace: f64,
    /// Counted successes that were not yet passed to `speed` and `errors`; only in a model.
    pub(super) unsettled: u32,
    /// Whether its cost is out of date; only in a model.
    pub(super) is_postponed: bool,
    pub(super) speed: Speed,
    pub(super) shape: Shape,
    /// Dispersion of its completions: variance over that of a Poisson process.
    pub(super) phi: f64,
    phi_samples: u32,
    pub(super) estimate: Estimate,
    /// The estimated speed, shrunk towards the pool's median by its standard error.
    pub(super) shrunk_speed: f64,
    pub(super) errors: Errors,
    pub(super) restraints: Restraints,
    /// Average time of a successful request, ms; 0 before the first.
    pub(super) latency_ms: f64,
    pub(super) completions: u64,
    /// The results of its trials.
    pub(super) series: Trials,
    /// The time of the last good response.
    pub(super) answered_at: Option<Instant>,
    /// Requests in flight just before the first good response of that instant.
    answered_among: u32,
    /// The time of the last dispatch.
    pub(super) used_at: Instant,
    /// The time of the last response, or of the dispatch that ended idleness.
    pub(super) quiet_since: Instant,
    /// Completions due since then, at the speed of that time (`due_speed`).
    pub(super) due: f64,
    pub(super) due_speed: f64,
    /// Expected delay and charge of one more request, ms.
    pub(super) cost: f64,
    /// The reasons of its last ejection and return, for observers.
    pub(super) reasons: Reasons,
}

impl Unit {
    pub(super) fn new(now: Instant, id: BackendId, in_flight: u32, pool: &Pool) -> Self {
        let mut unit = Self {
            id,
            is_present: true,
            is_backup: false,
            is_up: true,
            in_flight,
            others: 0,
            turned_away: 0,
            refused_lately: 0.0,
            refused_alone: 0,
            looked_at: now,
            counted_from: now,
            pending: 0.0,
            pace: 0.0,
            unsettled: 0,
            is_postponed: false,
            speed: Speed::default(),
            shape: Shape::new(),
            phi: pool.phi,
            phi_samples: 0,
            estimate: Speed::default().estimate(pool.confidence, pool.phi),
            shrunk_speed: 1.0,
            errors: Errors::default(),
            restraints: Restraints::new(),
            latency_ms: 0.0,
            completions: 0,
            series: Trials::default(),
            answered_at: None,
            answered_among: 0,
            used_at: now,
            quiet_since: now,
            due: 0.0,
            due_speed: 1.0,
            cost: 0.0,
            reasons: Reasons::NONE,
        };
        unit.shape.adopt(&pool.curve);
        unit.settle(pool);
        unit.due_speed = unit.shrunk_speed;
        unit
    }

    /// Whether the estimated speed is out of date: since the estimate a completion has become due,
    /// at that speed or at speed 1.
    pub(super) fn is_stale(&self, now: Instant) -> bool {
        if self.in_flight == 0 || self.looked_at == now {
            return false;
        }
        let exposure = self.pending + self.pace * millis(now.since(self.looked_at));
        exposure * self.shrunk_speed.max(1.0) >= STALE
    }

    /// Counts the time since the last check, and estimates the speed.
    pub(super) fn look(&mut self, now: Instant, pool: &mut Pool) {
        self.count(now, pool);
        self.take_in(pool, false);
        self.settle(pool);
    }

    /// Counts the time since the last check under the current number in flight, so it must precede
    /// any change of that number. The estimated speed stays.
    pub(super) fn count(&mut self, now: Instant, pool: &mut Pool) {
        let dt = millis(now.since(self.looked_at));
        self.looked_at = now;
        if self.in_flight == 0 || dt <= 0.0 {
            return;
        }
        if pool.is_booting() {
            // By the prior curve √n/scale, this is the exposure times the unknown scale.
            pool.boot_exposure += self.share() * f64::from(self.busy(self.in_flight)).sqrt() * dt;
            return;
        }
        let exposure = self.pace * dt;
        self.pending += exposure;
        self.due += self.due_speed * exposure;
        // Only normal work shapes the curve: a backend on probation gets single trials, and a
        // stalled one completes nothing.
        if self.restraints.is_normal() && !self.restraints.is_stalled {
            let worked = self.shrunk_speed * dt;
            let n = self.busy(self.in_flight);
            // Of the completions at n in flight, the proxy sees only those of its own requests.
            pool.curve.time[(n as usize).min(LEVELS)] +=
                worked * self.shape.factor(n) * self.share();
            self.shape.predicted[bin(n)] +=
                worked * f64::from(self.in_flight) / pool.curve.latency(n);
            self.restraints.is_stalled = self.due > STALL_DUE * self.phi.max(1.0)
                && millis(now.since(self.quiet_since)) > STALL_LATENCIES * self.latency_or(pool);
        }
    }

    /// Passes the counted exposure to the speed. For a stalled backend it is kept back until a good
    /// response (`is_good`) shows that the backend is slow, not silent.
    pub(super) fn take_in(&mut self, pool: &mut Pool, is_good: bool) {
        if self.restraints.is_stalled && !is_good {
            return;
        }
        let exposure = std::mem::take(&mut self.pending);
        if exposure <= 0.0 {
            return;
        }
        // The first samples of a new backend have more weight, so that they soon replace the pool's
        // dispersion.
        if let Some(sample) = self.speed.expose(exposure) {
            let sample = sample.min(PHI_MAX);
            let rate = PHI_RATE.max(1.0 / (PHI_PRIOR + f64::from(self.phi_samples)));
            self.phi = (self.phi + rate * (sample - self.phi)).clamp(PHI_MIN, PHI_MAX);
            self.phi_samples = self.phi_samples.saturating_add(1);
            pool.phi = (pool.phi + PHI_RATE * (sample - pool.phi)).clamp(PHI_MIN, PHI_MAX);
        }
    }

    /// Passes completions to the speed, with an equal part of the counted exposure before each. If
    /// all exposure were passed first, short memories would forget their contents and then count
    /// every completion in full.
    pub(super) fn take_in_parts(&mut self, pool: &mut Pool, completions: u32) {
        let part = self.pending / f64::from(completions);
        for _ in 0..completions {
            self.pending = part;
            self.take_in(pool, true);
            self.speed.complete();
        }
    }

    /// The requests in flight at the backend, if `own` of them are the proxy's.
    pub(super) const fn busy(&self, own: u32) -> u32 {
        own.saturating_add(self.others)
    }

    /// The proxy's part of the requests in flight at the backend, 0 to 1.
    fn share(&self) -> f64 {
        if self.others == 0 {
            return 1.0;
        }
        f64::from(self.in_flight) / f64::from(self.busy(self.in_flight))
    }

    /// Counts one more request in flight.
    pub(super) fn take(&mut self, now: Instant) {
        // An idle backend owed no completion, so the wait for one begins with this request.
        if self.in_flight == 0 {
            self.quiet_since = now;
            self.due = 0.0;
            self.due_speed = self.shrunk_speed;
        }
        self.in_flight += 1;
    }

    /// Notes a good response while `n` requests are in flight, itself included. Returns the number
    /// in flight under which it counts as a completion.
    ///
    /// Responses that arrive at the same instant were worked on side by side until then: no time
    /// passed with fewer in flight. Each counts under the number before the first of them, because
    /// the time until the instant was counted under it.
    pub(super) fn answered(&mut self, now: Instant, n: u32) -> u32 {
        if self.answered_at == Some(now) {
            self.answered_among = self.answered_among.max(n);
        } else {
            self.answered_at = Some(now);
            self.answered_among = n;
        }
        self.answered_among
    }

    /// Restarts the wait for completions: the backend is idle, or has just responded.
    pub(super) fn quiet(&mut self, now: Instant) {
        if self.restraints.is_stalled {
            self.restraints.is_stalled = false;
            self.was_silent();
        }
        self.quiet_since = now;
        self.due = 0.0;
    }

    /// Records a refusal; `in_flight` no longer includes the request. A refusal ends a stall, but
    /// is not counted as work. If other requests are in flight, the backend counts as full. The
    /// curve cannot show this: a backend with a short queue refuses before latencies rise much.
    pub(super) fn refused(&mut self, now: Instant) {
        let n = self.in_flight + 1;
        // A backend on probation is judged by its trials alone.
        if !self.restraints.is_normal() {
            return;
        }
        self.refused_lately += 1.0 / f64::from(n);
        // A backend that refuses its only request is not full. After some of these it is ejected.
        if n == 1 {
            self.refused_alone += 1;
        } else if !self.restraints.is_stalled {
            self.restraints.was_full(n);
        }
        self.quiet(now);
    }

    /// Updates the recent refusals, which fade with time (`turned_away`) and with good responses.
    /// About 16 good responses after a refusal, a full backend counts as having room again.
    pub(super) fn heed_refusals(&mut self, turned_away: u32, is_good: bool) {
        if self.refused_lately == 0.0 {
            self.turned_away = 0;
            return;
        }
        if is_good {
            self.refused_lately *= REFUSALS_KEPT;
            if self.refused_lately < REFUSALS_MIN {
                self.refused_lately = 0.0;
            }
        }
        // The cast rounds, as the value is not negative, and it saturates.
        self.turned_away = turned_away.min((self.refused_lately + 0.5) as u32);
    }

    /// Forgets recent refusals and the cap after them: the backend did not cause them.
    pub(super) const fn forget_refusals(&mut self) {
        self.turned_away = 0;
        self.refused_lately = 0.0;
        self.refused_alone = 0;
        self.restraints.cap = None;
    }

    /// Whether a request among n in flight takes more than [`FULL`] times as long as a single one.
    pub(super) fn is_full(&self, curve: &Curve, n: u32) -> bool {
        self.shape.latency(curve, n) > FULL * self.shape.latency(curve, 1)
    }

    /// Drops the exposure of a silence, which shows nothing about the speed afterwards.
    pub(super) fn was_silent(&mut self) {
        self.pending = 0.0;
        self.counted_from = self.looked_at;
    }

    /// Records that the backend came up: errors before it went down are forgotten, and slow start
    /// begins.
    pub(super) fn came_up(&mut self, now: Instant) {
        self.was_silent();
        self.errors = Errors::default();
        // Only the return of a backend that was out is reported with a reason.
        if !self.restraints.is_normal() {
            self.reasons.returned = ReturnReason::CameUp;
        }
        self.restraints.watch.came_up(now);
        self.restraints.is_stalled = false;
    }

    /// Records a return after an ejection: earlier errors are forgotten, and slow start begins.
    pub(super) fn came_back(&mut self, now: Instant) {
        self.errors = Errors::default();
        self.restraints.come_back(now);
    }

    /// Its completions per ms at the highest number in flight in the model.
    pub(super) fn capacity(&self, pool: &Pool) -> f64 {
        LEVELS as f64 / self.latency_at(pool, LEVELS as u32)
    }

    /// Estimates the speed from the counted completions.
    pub(super) fn settle(&mut self, pool: &Pool) {
        self.estimate = self.speed.estimate(pool.confidence, self.phi);
        self.draw_in(pool);
    }

    /// Shrinks the estimated speed towards the pool's median.
    pub(super) fn draw_in(&mut self, pool: &Pool) {
        let gap = firm(self.estimate.ln_speed - pool.center, self.estimate.error);
        self.shrunk_speed =
            if gap == 0.0 { pool.center_speed } else { libm::exp(pool.center + gap) };
    }

    /// Updates the exposure per ms to the current number in flight.
    pub(super) fn set_pace(&mut self, pool: &Pool) {
        let busy = self.busy(self.in_flight);
        self.pace = f64::from(self.in_flight) / self.shape.latency(&pool.curve, busy);
    }

    /// Updates the cost of one more request.
    pub(super) fn weigh(&mut self, pool: &Pool) {
        self.set_pace(pool);
        let busy = self.busy(self.in_flight);
        // Recent refusals count as work: the backend is fuller than its requests in flight show.
        let next = busy.saturating_add(self.turned_away).saturating_add(1);
        let latency = self.shape.latency(&pool.curve, next);
        // The share of waiting in the latency: this request would lengthen the queue for later
        // ones.
        let queueing = pool.price * (latency - self.shape.single());
        let wait = (latency + f64::from(next) * (CROWD * latency + queueing)) / self.shrunk_speed;
        let excess = self.error_excess(pool);
        let charge = if excess > 0.0 { pool.charge() * excess } else { 0.0 };
        self.cost = (wait + charge).min(COST_MAX);
    }

    /// The share of its errors above the common one and beyond the noise, 0 to 1.
    pub(super) fn error_excess(&self, pool: &Pool) -> f64 {
        // The usual case, without a square root.
        if self.errors.errors == 0.0 {
            return 0.0;
        }
        let common = pool.common_errors();
        let noise = 1.0 / (self.errors.requests + 1.0);
        (self.errors.share() - common - 2.0 * ((common + noise) * noise).sqrt()).max(0.0)
    }

    /// The predicted latency with n in flight, ms.
    pub(super) fn latency_at(&self, pool: &Pool, n: u32) -> f64 {
        self.shape.latency(&pool.curve, n) / self.shrunk_speed
    }

    /// Whether requests may go there now.
    pub(super) fn is_open(&self) -> bool {
        self.is_present && self.is_up && self.restraints.is_open(self.in_flight)
    }

    /// Number of requests that it can work on at once, by its curve or by the number at which it
    /// refused; 0 while it is stalled.
    pub(super) fn full_at(&self) -> u32 {
        if self.restraints.is_stalled {
            return 0;
        }
        // The cast saturates.
        let cap = self.restraints.cap.map_or(u32::MAX, |cap| cap.ceil() as u32);
        self.shape.width().min(cap)
    }

    /// Its own average latency or, before its first request, the pool's, ms.
    pub(super) fn latency_or(&self, pool: &Pool) -> f64 {
        if self.latency_ms > 0.0 { self.latency_ms } else { pool.latency_ms }
    }
}

/// Returns `gap` if it is beyond twice its error, 0 if it is within the error, and a linear part
/// in between. Equal backends become exactly equal, and clearly different ones keep their
/// difference. (Gao and Bruce 1997, firm shrinkage. Soft shrinkage kept pulling the worse of two
/// backends towards the better one.)
fn firm(gap: f64, error: f64) -> f64 {
    let size = gap.abs();
    if size <= error {
        0.0
    } else if size >= 2.0 * error {
        gap
    } else {
        2.0 * (size - error).copysign(gap)
    }
}

/// The weighted median of numbers with standard errors. The weight is the inverse square of the
/// error, so an uncertain number has little influence, even among two. 0 for an empty list.
pub(super) fn median(numbers: &mut [(f64, f64)]) -> f64 {
    numbers.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    let weight = |(_, error): &(f64, f64)| 1.0 / (error * error);
    let half = 0.5 * numbers.iter().map(weight).sum::<f64>();
    let mut below = 0.0;
    let middle = numbers.iter().find(|number| {
        below += weight(number);
        below >= half
    });
    middle.map_or(0.0, |(number, _)| *number)
}

/// Share of a new sample in the dispersion. Chosen; halving or doubling it hardly changes results.
const PHI_RATE: f64 = 0.02;
/// The weight of the pool's dispersion in a new backend, in samples. Chosen; halving or doubling it
/// hardly changes results.
const PHI_PRIOR: f64 = 4.0;
/// Bounds of the dispersion, which is 1 for a Poisson process. Chosen.
const PHI_MIN: f64 = 0.5;
const PHI_MAX: f64 = 16.0;
/// The speed is estimated again when this many completions have become due since the last estimate.
/// Chosen; halving or doubling it hardly changes results.
const STALE: f64 = 1.0;
/// A backend is stalled when this many completions are overdue. In a Poisson process such a silence
/// has probability e^−12. Chosen; halving or doubling it hardly changes results.
const STALL_DUE: f64 = 12.0;
/// The minimum silence before a backend is stalled, in mean latencies. Chosen; halving or doubling
/// it hardly changes results.
const STALL_LATENCIES: f64 = 2.0;
/// A backend that refuses is full if its latency is above this many times that of a single request.
/// Chosen; the run of [`learned`](super) does not reach it.
const FULL: f64 = 4.0;
/// The cost that a request adds for later ones, relative to its latency and per request in flight.
/// Chosen; halving or doubling it hardly changes results, except in `hetero80`, where the cost
/// changes by +5 % and −6 %.
const CROWD: f64 = 0.08;
/// A sum of refusals below this counts as zero. Chosen.
const REFUSALS_MIN: f64 = 0.01;
/// A good response multiplies the sum of recent refusals by this. Short queues hold about 16
/// requests. Chosen on random scenarios.
const REFUSALS_KEPT: f64 = 1.0 - 1.0 / 16.0;
/// Keeps a cost finite if a speed is almost 0.
const COST_MAX: f64 = 1e15;
