//! The gate that keeps `score` steady: threshold and cooldown decide whether the router switches
//! to a better backend.
//!
//! Rules, for a gap of `score(current) − score(best)`; the first one that applies decides:
//! 1. No gap: keep. The current backend wins ties.
//! 2. Below the threshold: hold.
//! 3. The gap is load alone: hold. The current backend is full (see
//!    [`Policy::is_full`](crate::policy::Policy)), it has at least `threshold / weight of in
//!    flight` more requests in flight, and without their points the gap is below the threshold.
//!    Applies only with spill-over.
//! 4. Within the cooldown after the last switch: hold.
//! 5. Otherwise: switch.
//!
//! While the current backend is full, a single request may go to the backend with the least
//! expected delay instead. Such a spill is not a switch: neither the current backend nor the
//! cooldown changes.
use std::time::Duration;

use crate::backend::Backend;
use crate::config::Rules;
use crate::event::HoldReason;
use crate::time::Instant;

/// Decides between the current backend and the best one. Its only state is the time of the last
/// switch.
#[derive(Debug)]
pub(crate) struct SwitchGate {
    threshold: f64,
    cooldown: Duration,
    /// Requests that the current backend must have in flight beyond the best one before the gap can
    /// be load alone; `None` without spill-over or with an in-flight weight of 0.
    load_gap: Option<u32>,
    spills: bool,
    last_switch_at: Option<Instant>,
}

/// A decision of the gate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Verdict {
    /// The current backend is as good as any other.
    Keep,
    /// The current backend is kept although another one is better.
    Hold(HoldReason),
    /// Switch to the better backend.
    Switch {
        /// Points by which it is better.
        by: f64,
    },
}

impl SwitchGate {
    pub(crate) fn new(rules: &Rules) -> Self {
        let mut gate = Self {
            threshold: 0.0,
            cooldown: Duration::ZERO,
            load_gap: None,
            spills: false,
            last_switch_at: None,
        };
        gate.reconfigure(rules);
        gate
    }

    /// Applies new rules. A running cooldown continues from the last switch.
    pub(crate) fn reconfigure(&mut self, rules: &Rules) {
        let weight = rules.weights.in_flight;
        self.threshold = rules.switch.threshold;
        self.cooldown = rules.switch.cooldown;
        self.spills = rules.switch.spill_over;
        self.load_gap = (rules.switch.spill_over && weight > 0.0)
            // The cast saturates: with a tiny weight the gap is never reached.
            .then(|| (self.threshold / weight).ceil().max(1.0) as u32);
    }

    /// Records a switch, which starts the cooldown.
    pub(crate) const fn switched(&mut self, now: Instant) {
        self.last_switch_at = Some(now);
    }

    /// Decides whether to leave the current backend for the best one. `is_full` is whether the
    /// current one is full.
    pub(crate) fn judge(
        &self,
        now: Instant,
        current: &Backend,
        best: &Backend,
        is_full: bool,
    ) -> Verdict {
        let gap = current.parts().total - best.parts().total;
        if gap <= 0.0 {
            return Verdict::Keep;
        }
        if gap < self.threshold {
            return Verdict::Hold(HoldReason::BelowThreshold { missing: self.threshold - gap });
        }
        let load_gap = current.parts().in_flight - best.parts().in_flight;
        // A switch would only move the load: the new backend would soon be the busier one.
        if is_full && self.is_busier(current, best) && gap - load_gap < self.threshold {
            return Verdict::Hold(HoldReason::LoadAlone);
        }
        let passed = self.last_switch_at.map(|at| now.since(at));
        match passed.and_then(|passed| self.cooldown.checked_sub(passed)) {
            Some(left) if !left.is_zero() => Verdict::Hold(HoldReason::Cooldown { left }),
            Some(_) | None => Verdict::Switch { by: gap },
        }
    }

    /// Whether requests may go past a full current backend.
    pub(crate) const fn spills(&self) -> bool {
        self.spills
    }

    fn is_busier(&self, current: &Backend, other: &Backend) -> bool {
        let more = current.at_work().saturating_sub(other.at_work());
        self.load_gap.is_some_and(|load| more >= load)
    }
}
