//! The learner's state across restarts.
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use super::Learned;
use super::curve::{Curve, LEVELS};
use super::unit::Unit;
use crate::id::BackendId;
use crate::policy::state::{LearnedBackendState, LearnedPolicyState, PolicyStateError, check};

impl Learned {
    /// The learned state, by names of backends.
    pub(super) fn own_state(
        &self,
        name: &dyn Fn(BackendId) -> Option<String>,
    ) -> LearnedPolicyState {
        let pool = &self.pool;
        let mut backends = BTreeMap::new();
        for unit in self.units.iter().filter(|unit| unit.is_present) {
            if let Some(name) = name(unit.id) {
                backends.insert(name, unit.state());
            }
        }
        LearnedPolicyState {
            scale_ms: pool.curve.scale,
            phi: pool.phi,
            completions: pool.completions,
            curve_completions: pool.curve.completions[1..].to_vec(),
            curve_time_ms: pool.curve.time[1..].to_vec(),
            backends,
        }
    }

    /// Restores a valid state. Backends that it does not contain start empty.
    pub(super) fn restore_own(
        &mut self,
        state: &LearnedPolicyState,
        name: &dyn Fn(BackendId) -> Option<String>,
    ) {
        let pool = &mut self.pool;
        pool.curve = Curve::new(state.scale_ms);
        pool.curve.completions[1..].copy_from_slice(&state.curve_completions);
        pool.curve.time[1..].copy_from_slice(&state.curve_time_ms);
        pool.curve.fit();
        pool.phi = state.phi;
        pool.completions = state.completions;
        for unit in &mut self.units {
            let known = name(unit.id).and_then(|name| state.backends.get(&name));
            if let Some(known) = known.filter(|_| unit.is_present) {
                unit.restore(known);
            }
            unit.settle(pool);
        }
        // The median needs speeds under the restored curve, and the costs need the new median.
        self.adopt_curve();
        self.recenter();
        self.adopt_curve();
    }
}

impl Unit {
    fn state(&self) -> LearnedBackendState {
        LearnedBackendState {
            completions: self.speed.completions,
            exposure: self.speed.exposure,
            shape_completions: self.shape.completions,
            shape_predicted: self.shape.predicted,
            phi: self.phi,
            errors: [self.errors.requests, self.errors.errors],
            latency_ms: self.latency_ms,
        }
    }

    fn restore(&mut self, state: &LearnedBackendState) {
        self.speed.completions = state.completions;
        self.speed.exposure = state.exposure;
        self.shape.completions = state.shape_completions;
        self.shape.predicted = state.shape_predicted;
        self.phi = state.phi;
        self.shape.fit(self.phi, 0.0);
        [self.errors.requests, self.errors.errors] = state.errors;
        self.latency_ms = state.latency_ms;
    }
}

impl LearnedPolicyState {
    /// Checks that every number is within the range that can be learned.
    pub(super) fn validate(&self) -> Result<(), PolicyStateError> {
        check("scaleMs", SCALE_MS.contains(&self.scale_ms))?;
        check("phi", PHI.contains(&self.phi))?;
        let curves =
            [("curveCompletions", &self.curve_completions), ("curveTimeMs", &self.curve_time_ms)];
        for (name, curve) in curves {
            check(name, curve.len() == LEVELS && are_counts(curve))?;
        }
        for (name, backend) in &self.backends {
            let counts = [
                ("completions", &backend.completions[..]),
                ("exposure", &backend.exposure),
                ("shapeCompletions", &backend.shape_completions),
                ("shapePredicted", &backend.shape_predicted),
                ("errors", &backend.errors),
                ("latencyMs", std::slice::from_ref(&backend.latency_ms)),
            ];
            for (field, numbers) in counts {
                check(&format!("backends.{name}.{field}"), are_counts(numbers))?;
            }
            let is_share = backend.errors[1] <= backend.errors[0];
            check(&format!("backends.{name}.errors"), is_share)?;
            check(&format!("backends.{name}.phi"), PHI.contains(&backend.phi))?;
        }
        Ok(())
    }
}

fn are_counts(numbers: &[f64]) -> bool {
    numbers.iter().all(|number| (0.0..=COUNT_MAX).contains(number))
}

/// The largest count. Beyond it additions would lose precision.
const COUNT_MAX: f64 = 1e12;
/// The range of a curve's initial scale, ms: wider than the bounds of the time scale, so that only
/// damaged files are refused.
const SCALE_MS: RangeInclusive<f64> = 1e-5..=1e8;
/// The range of the dispersion.
const PHI: RangeInclusive<f64> = 0.5..=16.0;
