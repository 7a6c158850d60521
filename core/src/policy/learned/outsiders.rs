//! Requests of others at each backend, from its reports. They affect the cost and the comparison of
//! completions with exposure.
use super::Learned;
use crate::others::Others;
use crate::time::Instant;

impl Learned {
    /// Sets the number of requests of others at a backend. The time until now is counted under the
    /// previous number.
    pub(super) fn set_others(&mut self, now: Instant, slot: usize, others: f64) {
        if self.is_model {
            return;
        }
        // The cast rounds, as the value is not negative, and it saturates.
        let others = (others + 0.5) as u32;
        let unit = &mut self.units[slot];
        if unit.others != others {
            unit.count(now, &mut self.pool);
            unit.others = others;
            self.weigh(slot);
        }
    }

    /// Estimates the requests of others at a few backends. Between two reports an estimate returns
    /// to the usual number. Without this update, a backend that was full at its last report would
    /// stay expensive until the next one.
    pub(super) fn look_at_others(&mut self, now: Instant, others: &Others) {
        for _ in 0..self.units.len().min(LOOKS) {
            let slot = self.others_next % self.units.len();
            self.others_next = slot + 1;
            let unit = &self.units[slot];
            if unit.is_present {
                self.set_others(now, slot, others.at(now, unit.id, unit.in_flight));
            }
        }
    }

    /// Sets all numbers to 0: the last reports have lost their weight.
    pub(super) fn forget_others(&mut self, now: Instant) {
        self.has_others = false;
        for slot in 0..self.units.len() {
            self.set_others(now, slot, 0.0);
        }
    }
}

/// Number of backends that one decision updates, to bound its work. Chosen.
const LOOKS: usize = 8;
