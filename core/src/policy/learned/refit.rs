//! Fits the pool's curve and the median of the speeds over all backends, and updates every cost. It
//! runs every [`REFRESH`] completions.
use super::unit;
use super::{Learned, REFRESH};
use crate::time::Instant;

impl Learned {
    /// Fits the curve and the median of the speeds, and weighs all backends.
    pub(super) fn refresh(&mut self, now: Instant) {
        // A backend that is charged for its errors may get no requests to show its recovery. Its
        // errors therefore fade even without requests.
        let stale = REFRESH as f64 / (UNASKED_MEMORY * self.present.max(1) as f64);
        for slot in 0..self.units.len() {
            self.settle_up(slot);
            let unit = &mut self.units[slot];
            if unit.is_present {
                unit.look(now, &mut self.pool);
                unit.errors.forget(stale);
            }
        }
        // Only backends that requests could go to instead.
        let usable = self.units.iter().filter(|unit| {
            unit.is_present && unit.is_up && !unit.is_backup && unit.restraints.is_normal()
        });
        self.pool.best_errors = usable.map(|unit| unit.errors.bound()).fold(1.0, f64::min);
        let pool = &mut self.pool;
        // Early completions are forgotten quickly, so that the curve does not depend on the first
        // minutes.
        let memory = (pool.completions as f64 / 3.0).clamp(CURVE_MEMORY_MIN, CURVE_MEMORY_MAX);
        pool.curve.forget(REFRESH as f64 / memory);
        pool.curve.fit();
        self.recenter();
        let pool = &mut self.pool;
        if pool.center.abs() > CENTER_MAX {
            // Only the product of speed and curve can be observed, so keep the speeds around 1.
            let factor = libm::exp(pool.center);
            pool.curve.rescale(factor);
            for unit in &mut self.units {
                unit.speed.rescale(factor);
                unit.settle(pool);
                unit.due_speed /= factor;
            }
            pool.set_center(0.0);
        }
        self.price_queues();
        self.adopt_curve();
    }

    /// Updates the price of queues from the share of the requests in flight that wait for others.
    /// With n in flight a request takes q(n); alone it would take q(1).
    fn price_queues(&mut self) {
        let curve = &self.pool.curve;
        let here = self.units.iter().filter(|unit| unit.is_present && unit.in_flight > 0);
        let (all, worked_on) = here.fold((0.0, 0.0), |(all, worked_on), unit| {
            let n = f64::from(unit.in_flight);
            let busy = unit.busy(unit.in_flight);
            let part = unit.shape.latency(curve, 1) / unit.shape.latency(curve, busy);
            (all + n, worked_on + n * part)
        });
        if all > 0.0 {
            self.pool.price_queues(1.0 - worked_on / all);
        }
    }

    /// Finds the median of the speeds.
    pub(super) fn recenter(&mut self) {
        self.scratch.clear();
        let known = self.units.iter().filter(|unit| {
            // Ejected backends and those without completions have no current speed.
            unit.is_present && unit.restraints.is_normal() && unit.speed.completions[0] > 0.0
        });
        self.scratch.extend(known.map(|unit| (unit.estimate.ln_speed, unit.estimate.error)));
        self.pool.set_center(unit::median(&mut self.scratch));
    }

    /// Passes the pool's curve to all backends, and weighs them.
    pub(super) fn adopt_curve(&mut self) {
        for slot in 0..self.units.len() {
            let unit = &mut self.units[slot];
            if unit.is_present {
                unit.shape.adopt(&self.pool.curve);
                unit.draw_in(&self.pool);
                self.weigh(slot);
            }
        }
    }
}

/// Bounds of the number of completions that the pool's curve averages: a third of all so far.
/// Chosen; halving or doubling it hardly changes results.
const CURVE_MEMORY_MIN: f64 = 640.0;
const CURVE_MEMORY_MAX: f64 = 20_000.0;
/// The errors of a backend without requests fade to 1/e over this many completions of the pool per
/// backend. Chosen; halving or doubling it hardly changes results.
const UNASKED_MEMORY: f64 = 400.0;
/// Speeds are rescaled when their median differs from 1 by more than a factor of e^0.7, about 2.
/// Chosen; no decision depends on it.
/// Only their product with the curve has a meaning; this keeps both near 1.
const CENTER_MAX: f64 = 0.7;
