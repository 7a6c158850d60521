//! Speeds of backends that get no requests lose certainty with time.
//!
//! A speed is learned from completions only. A backend that seems slower than the others by chance
//! gets requests only while these are busy, and without requests its estimate would stay. Trials
//! ([`explore`](super::explore)) are few at low rates, and a single one hardly changes an estimate.
//! So the logarithm of its speed is treated as a random walk: from [`IDLE`] after its last request
//! on, the variance grows by [`DRIFT`] per second. The estimated speed stays the same, but is shrunk
//! more and more towards the pool's median. When its error reaches the gap, the backend counts as
//! equal and gets its share of the requests. Since its evidence is small by then, these requests
//! decide about its speed.
//!
//! A backend that seems half as fast as the median counts as equal after 50 s at the latest, one
//! that seems a quarter as fast after 135 s. A larger gap is no chance: the shortest memory has eight
//! completions, whose logarithm has a standard error of 1/3. Its estimate does not age, because at
//! low rates, requests to ten times slower backends would determine the p99.
use std::time::Duration;

use super::Learned;
use crate::time::{Instant, millis};

impl Learned {
    /// Lets the speeds of avoided backends age, once a second.
    #[inline]
    pub(super) fn age(&mut self, now: Instant) {
        if now.since(self.aged_at) >= EVERY {
            self.age_avoided(now);
        }
    }

    #[cold]
    fn age_avoided(&mut self, now: Instant) {
        let since = std::mem::replace(&mut self.aged_at, now);
        if self.pool.is_booting() {
            return;
        }
        for slot in 0..self.units.len() {
            let unit = &mut self.units[slot];
            let avoided_ms = millis(now.since(since.max(unit.used_at + IDLE)));
            if unit.is_present
                && unit.in_flight == 0
                && avoided_ms > 0.0
                && (unit.estimate.ln_speed - self.pool.center).abs() < GAP_MAX
            {
                unit.speed.age(DRIFT * avoided_ms / 1e3, unit.phi);
                unit.settle(&self.pool);
                self.weigh(slot);
            }
        }
    }
}

/// Time between two passes over the backends, whose work grows with the number of backends. Chosen.
const EVERY: Duration = Duration::from_secs(1);
/// Time without requests after which a speed ages. Chosen on random scenarios: without it every
/// pause between two requests costs evidence, and at low rates the cost is up to 10 % higher.
const IDLE: Duration = Duration::from_secs(20);
/// Growth of the variance of the logarithm of a speed, per second. Chosen on random scenarios.
const DRIFT: f64 = 1.0 / 60.0;
/// The gap from which on a speed does not age, ln 4. Chosen.
const GAP_MAX: f64 = 1.386;
