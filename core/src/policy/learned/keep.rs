//! What the learner keeps across restarts, and takes in again.
use std::collections::BTreeMap;

use super::Learned;
use super::curve::Curve;
use super::unit::Unit;
use crate::id::BackendId;
use crate::memory::{BackendMemory, LearnedMemory};

impl Learned {
    /// What was learned, under the names of the backends.
    pub(super) fn remember(&self, name: &dyn Fn(BackendId) -> Option<String>) -> LearnedMemory {
        let pool = &self.pool;
        let mut backends = BTreeMap::new();
        for unit in self.units.iter().filter(|unit| unit.is_present) {
            if let Some(name) = name(unit.id) {
                backends.insert(name, unit.remember());
            }
        }
        LearnedMemory {
            scale_ms: pool.curve.scale,
            phi: pool.phi,
            completions: pool.completions,
            curve_completions: pool.curve.completions[1..].to_vec(),
            curve_time_ms: pool.curve.time[1..].to_vec(),
            backends,
        }
    }

    /// Takes in a valid memory; backends that it does not name start anew.
    pub(super) fn recall(
        &mut self,
        memory: &LearnedMemory,
        name: &dyn Fn(BackendId) -> Option<String>,
    ) {
        let pool = &mut self.pool;
        pool.curve = Curve::new(memory.scale_ms);
        pool.curve.completions[1..].copy_from_slice(&memory.curve_completions);
        pool.curve.time[1..].copy_from_slice(&memory.curve_time_ms);
        pool.curve.fit();
        pool.phi = memory.phi;
        pool.completions = memory.completions;
        for unit in &mut self.units {
            let known = name(unit.id).and_then(|name| memory.backends.get(&name));
            if let Some(known) = known.filter(|_| unit.is_present) {
                unit.recall(known);
            }
            unit.settle(pool);
        }
        self.adopt_curve();
        self.recenter();
        self.adopt_curve();
    }
}

impl Unit {
    fn remember(&self) -> BackendMemory {
        BackendMemory {
            completions: self.speed.completions,
            exposure: self.speed.exposure,
            shape_completions: self.shape.completions,
            shape_predicted: self.shape.predicted,
            phi: self.phi,
            errors: [self.errors.requests, self.errors.errors],
            latency_ms: self.latency_ms,
        }
    }

    fn recall(&mut self, memory: &BackendMemory) {
        self.speed.completions = memory.completions;
        self.speed.exposure = memory.exposure;
        self.shape.completions = memory.shape_completions;
        self.shape.predicted = memory.shape_predicted;
        self.phi = memory.phi;
        self.shape.fit(self.phi, 0.0);
        [self.errors.requests, self.errors.errors] = memory.errors;
        self.latency_ms = memory.latency_ms;
    }
}
