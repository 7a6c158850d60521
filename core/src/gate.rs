//! The gate that keeps `score` steady: threshold and cooldown decide whether a better backend is
//! taken.
//!
//! Law, for a gap of `score(current) − score(best)`:
//! 1. No gap: keep. The current backend wins ties.
//! 2. Below the threshold: hold.
//! 3. By load alone: hold. The current one has at least `threshold / weight of in flight` more in
//!    flight, and without these points the gap is below the threshold.
//! 4. Within the cooldown after the last switch: hold.
//! 5. Otherwise: switch.
//!
//! While 3 or 4 holds, a single request may spill over to a backend that has as many fewer to do
//! and is at least the threshold lower. A spill is no switch. What a backend has to do is what it
//! has in flight and what it recently turned away (503): it is too busy for these, and the sooner
//! it says so, the fewer it has in flight.
use std::time::Duration;

use crate::backend::Backend;
use crate::config::Rules;
use crate::event::HoldReason;
use crate::time::Instant;

/// Decides between the current backend and the best one; changes nothing but the time of the last
/// switch.
#[derive(Debug)]
pub(crate) struct SwitchGate {
    threshold: f64,
    cooldown: Duration,
    /// Requests by which the current backend must be busier for a spill; `None`: never.
    spill_load: Option<u32>,
    last_switch_at: Option<Instant>,
}

/// What the gate decided.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Verdict {
    /// The current backend is as good as any.
    Keep,
    /// The current backend is kept although another one is better.
    Hold(HoldReason),
    /// The better one is taken.
    Switch {
        /// Points that it is better by.
        by: f64,
    },
}

impl SwitchGate {
    pub(crate) fn new(rules: &Rules) -> Self {
        let mut gate = Self {
            threshold: 0.0,
            cooldown: Duration::ZERO,
            spill_load: None,
            last_switch_at: None,
        };
        gate.reconfigure(rules);
        gate
    }

    /// Takes new rules; the cooldown runs on from the last switch.
    pub(crate) fn reconfigure(&mut self, rules: &Rules) {
        let weight = rules.weights.in_flight;
        self.threshold = rules.switch.threshold;
        self.cooldown = rules.switch.cooldown;
        self.spill_load = (rules.switch.spill_over && weight > 0.0)
            // The cast saturates: a load that cannot be reached.
            .then(|| (self.threshold / weight).ceil().max(1.0) as u32);
    }

    /// The current backend was changed: the cooldown begins.
    pub(crate) const fn switched(&mut self, now: Instant) {
        self.last_switch_at = Some(now);
    }

    /// Whether to leave the current backend for the best one.
    pub(crate) fn judge(&self, now: Instant, current: &Backend, best: &Backend) -> Verdict {
        let gap = current.parts().total - best.parts().total;
        if gap <= 0.0 {
            return Verdict::Keep;
        }
        if gap < self.threshold {
            return Verdict::Hold(HoldReason::BelowThreshold { missing: self.threshold - gap });
        }
        let load_gap = current.parts().in_flight - best.parts().in_flight;
        if self.is_busier(current, best) && gap - load_gap < self.threshold {
            return Verdict::Hold(HoldReason::LoadAlone);
        }
        let passed = self.last_switch_at.map(|at| now.since(at));
        match passed.and_then(|passed| self.cooldown.checked_sub(passed)) {
            Some(left) if !left.is_zero() => Verdict::Hold(HoldReason::Cooldown { left }),
            Some(_) | None => Verdict::Switch { by: gap },
        }
    }

    /// Whether a request may spill over from the current backend to another one.
    pub(crate) fn is_spill(&self, current: &Backend, other: &Backend) -> bool {
        let gap = current.parts().total - other.parts().total;
        let more = current.load().saturating_sub(other.load());
        other.is_usable()
            && gap >= self.threshold
            && self.spill_load.is_some_and(|load| more >= load)
    }

    /// Whether the current backend has enough to do for any spill; spares the search.
    pub(crate) fn may_spill(&self, current: &Backend) -> bool {
        self.spill_load.is_some_and(|load| current.load() >= load)
    }

    fn is_busier(&self, current: &Backend, other: &Backend) -> bool {
        let more = current.in_flight().saturating_sub(other.in_flight());
        self.spill_load.is_some_and(|load| more >= load)
    }
}
