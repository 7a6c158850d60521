//! What is learned of one backend, and of the pool as a whole.
use super::curve::{Curve, LEVELS, Shape, bin};
use super::errors::Errors;
use super::explore::Record;
use super::rails::Rails;
use super::speed::{Estimate, Speed};
use crate::policy::millis;
use crate::time::Instant;

/// What the pool's backends have in common.
#[derive(Clone, Debug)]
pub(super) struct Pool {
    pub(super) curve: Curve,
    /// Dispersion of completions over all: what a new backend starts with.
    pub(super) phi: f64,
    /// The median of the backends' `ln` speed.
    pub(super) center: f64,
    /// The last thousand or so requests.
    pub(super) errors: Errors,
    /// Average time of an answered request, ms.
    pub(super) latency_ms: f64,
    /// Good completions so far.
    pub(super) completions: u64,
    /// While booting: `Σ √n·dt`, ms.
    pub(super) boot_exposure: f64,
    pub(super) z: f64,
    /// What a failed request costs, ms.
    pub(super) charge_ms: f64,
}

/// One backend.
#[derive(Clone, Debug)]
pub(super) struct Unit {
    pub(super) is_present: bool,
    /// By its pings and refusals.
    pub(super) is_up: bool,
    /// Requests in flight that tell something.
    pub(super) n: u32,
    /// Exposure is counted up to here.
    pub(super) looked_at: Instant,
    pub(super) speed: Speed,
    pub(super) shape: Shape,
    /// Dispersion of its completions: variance over that of a Poisson process.
    pub(super) phi: f64,
    phi_samples: u32,
    pub(super) estimate: Estimate,
    /// `estimate`, drawn to the pool's median by its error.
    pub(super) v: f64,
    pub(super) errors: Errors,
    pub(super) rails: Rails,
    /// Average time of an answered request, ms; 0 before the first.
    pub(super) latency_ms: f64,
    pub(super) completions: u64,
    /// How trials of it have turned out.
    pub(super) series: Record,
    /// The last good answer.
    pub(super) answered_at: Option<Instant>,
    /// The last dispatch.
    pub(super) used_at: Instant,
    /// The last answer, or the dispatch that ended idleness.
    pub(super) quiet_since: Instant,
    /// Completions due since then, at the speed of then.
    pub(super) due: f64,
    pub(super) due_speed: f64,
    /// Expected delay and charge of one more request, ms.
    pub(super) cost: f64,
}

impl Pool {
    pub(super) fn new() -> Self {
        Self {
            curve: Curve::new(SCALE_START_MS),
            phi: 1.0,
            center: 0.0,
            errors: Errors::default(),
            latency_ms: 0.0,
            completions: 0,
            boot_exposure: 0.0,
            z: 1.5,
            charge_ms: 5000.0,
        }
    }

    /// Whether only the time scale is known yet.
    pub(super) const fn is_booting(&self) -> bool {
        self.completions < BOOT
    }

    /// A completion while booting: sets the scale.
    pub(super) fn boot(&mut self) {
        let scale = self.boot_exposure / self.completions as f64;
        self.curve = Curve::new(scale.clamp(SCALE_MIN_MS, SCALE_MAX_MS));
    }

    /// Share of errors in the pool.
    pub(super) fn error_share(&self) -> f64 {
        self.error_share_without(0.0)
    }

    /// The share of errors, this many of the latest left out.
    pub(super) fn error_share_without(&self, own: f64) -> f64 {
        (self.errors.errors - own).max(0.0) / (self.errors.requests + ERRORS_PRIOR)
    }
}

impl Unit {
    pub(super) fn new(now: Instant, n: u32, pool: &Pool) -> Self {
        let mut unit = Self {
            is_present: true,
            is_up: true,
            n,
            looked_at: now,
            speed: Speed::default(),
            shape: Shape::new(),
            phi: pool.phi,
            phi_samples: 0,
            estimate: Speed::default().estimate(pool.z, pool.phi),
            v: 1.0,
            errors: Errors::default(),
            rails: Rails::new(),
            latency_ms: 0.0,
            completions: 0,
            series: Record::default(),
            answered_at: None,
            used_at: now,
            quiet_since: now,
            due: 0.0,
            due_speed: 1.0,
            cost: 0.0,
        };
        unit.shape.adopt(&pool.curve);
        unit.settle(pool);
        unit.due_speed = unit.v;
        unit
    }

    /// Counts the time since the last look; the speed is estimated anew.
    pub(super) fn look(&mut self, now: Instant, pool: &mut Pool) {
        let dt = millis(now.since(self.looked_at));
        self.looked_at = now;
        if self.n == 0 || dt <= 0.0 {
            return;
        }
        let n = f64::from(self.n);
        if pool.is_booting() {
            pool.boot_exposure += n.sqrt() * dt;
            return;
        }
        let exposure = n / self.shape.latency(&pool.curve, self.n) * dt;
        if let Some(sample) = self.speed.expose(exposure) {
            let sample = sample.min(PHI_MAX);
            let rate = PHI_RATE.max(1.0 / (PHI_PRIOR + f64::from(self.phi_samples)));
            self.phi = (self.phi + rate * (sample - self.phi)).clamp(PHI_MIN, PHI_MAX);
            self.phi_samples = self.phi_samples.saturating_add(1);
            pool.phi = (pool.phi + PHI_RATE * (sample - pool.phi)).clamp(PHI_MIN, PHI_MAX);
        }
        self.due += self.due_speed * exposure;
        if self.rails.is_normal() && !self.rails.is_stalled {
            pool.curve.time[(self.n as usize).min(LEVELS)] +=
                self.v * self.shape.factor(self.n) * dt;
            self.shape.predicted[bin(self.n)] += self.v * n / pool.curve.latency(self.n) * dt;
            let quiet_ms = millis(now.since(self.quiet_since));
            self.rails.is_stalled = self.due > STALL_DUE * self.phi.max(1.0)
                && quiet_ms > STALL_LATENCIES * self.latency_or(pool);
        }
        self.settle(pool);
    }

    /// Estimates the speed from what was counted.
    pub(super) fn settle(&mut self, pool: &Pool) {
        self.estimate = self.speed.estimate(pool.z, self.phi);
        let gap = firm(self.estimate.ln_speed - pool.center, self.estimate.error);
        self.v = libm::exp(pool.center + gap);
    }

    /// Weighs one more request.
    pub(super) fn weigh(&mut self, pool: &Pool) {
        let next = self.n.saturating_add(1);
        let marginal = 1.0 + CROWD * f64::from(next);
        let wait = self.latency_at(pool, next) * marginal;
        self.cost = (wait + pool.charge_ms * self.error_excess(pool)).min(COST_MAX);
    }

    /// The latency that the model predicts at n in flight, ms.
    pub(super) fn latency_at(&self, pool: &Pool, n: u32) -> f64 {
        self.shape.latency(&pool.curve, n) / self.v
    }

    /// The share of errors that it has above the pool's and beyond the noise.
    pub(super) fn error_excess(&self, pool: &Pool) -> f64 {
        if self.errors.errors == 0.0 {
            return 0.0;
        }
        let common = pool.error_share();
        let noise = 1.0 / (self.errors.requests + 1.0);
        (self.errors.share() - common - 2.0 * ((common + noise) * noise).sqrt()).max(0.0)
    }

    /// Whether requests may go there now.
    pub(super) fn is_open(&self) -> bool {
        self.is_present && self.is_up && self.rails.is_open(self.n)
    }

    /// Its own average latency, or the pool's, ms.
    pub(super) fn latency_or(&self, pool: &Pool) -> f64 {
        if self.latency_ms > 0.0 { self.latency_ms } else { pool.latency_ms }
    }
}

/// `gap` where it is beyond twice its error, 0 where it is within it, and straight between: equal
/// backends become exactly equal, and clearly different ones are taken as they are.
/// (Gao and Bruce 1997, firm shrinkage; soft shrinkage kept pulling the worse of two backends to
/// the better one.)
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

/// Good completions that only set the time scale.
const BOOT: u64 = 20;
const SCALE_START_MS: f64 = 10.0;
const SCALE_MIN_MS: f64 = 1e-4;
const SCALE_MAX_MS: f64 = 1e7;
const PHI_RATE: f64 = 0.02;
const PHI_PRIOR: f64 = 4.0;
const PHI_MIN: f64 = 0.5;
const PHI_MAX: f64 = 16.0;
const STALL_DUE: f64 = 12.0;
const STALL_LATENCIES: f64 = 2.0;
/// What a request's presence costs those that come after it, by requests in flight.
const CROWD: f64 = 0.08;
const ERRORS_PRIOR: f64 = 10.0;
const COST_MAX: f64 = 1e15;
