//! Failures and refusals: the charge for a failure, a backend's share of errors beyond the common
//! one, and the share of refusals.
use super::unit::{Pool, Unit};
use crate::errors::Rare;
use crate::outlier::REGRET_MEMORY;

/// The pool's failures and refusals.
#[derive(Clone, Debug, Default)]
pub(super) struct Losses {
    /// Recent failures and refusals, and the retries after them.
    broken: f64,
    repaired: f64,
    /// All failures and refusals so far.
    broken_ever: u64,
    /// Refusals among the latest requests.
    refusals: Rare,
}

impl Pool {
    /// The error share that is not held against a backend, 0 to 1: the pool's, or less if a backend
    /// certainly does better. If clients cause errors everywhere, no backend does.
    pub(super) const fn common_errors(&self) -> f64 {
        self.error_share().min(self.best_errors)
    }

    /// Records a failure or refusal.
    pub(super) fn broke(&mut self) {
        self.losses.broken = self.losses.broken * REPAIRS_KEPT + 1.0;
        self.losses.repaired *= REPAIRS_KEPT;
        self.losses.broken_ever += 1;
    }

    /// Records a refusal.
    pub(super) fn refused(&mut self) {
        self.losses.refusals.observe(self.ended(), REGRET_MEMORY);
        self.broke();
    }

    /// The share of refusals among the latest requests, 0 to 1.
    pub(super) fn refused_of_late(&self) -> f64 {
        self.losses.refusals.at(self.ended(), REGRET_MEMORY).share()
    }

    /// Forgets refusals that ejections have caused.
    pub(super) fn forget_refusals(&mut self) {
        self.losses.refusals = Rare::default();
    }

    /// Requests that have ended so far.
    const fn ended(&self) -> u64 {
        self.completions + self.losses.broken_ever
    }

    /// Records that a failed request is tried again. Second opinions are counted as retries, so the
    /// count is bounded by the number of failures.
    pub(super) fn is_tried_again(&mut self) {
        self.losses.repaired = (self.losses.repaired + 1.0).min(self.losses.broken);
    }

    /// The expected charge for a failed attempt, ms. An attempt that is repeated costs the client
    /// only its time.
    pub(super) fn charge(&self) -> f64 {
        let share = self.losses.repaired / (self.losses.broken + REPAIRS_PRIOR);
        self.charge_ms + share * (self.latency_ms - self.charge_ms)
    }
}

impl Unit {
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
}

/// The factor by which each further failure reduces the earlier counts. Chosen.
const REPAIRS_KEPT: f64 = 0.98;
/// Failures without a retry that are added to the count of failures. Chosen.
const REPAIRS_PRIOR: f64 = 2.0;

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand: with 1 failure, 2 added ones and 1 retry, a third of the charge is replaced by the
    /// time of a request. After 400 failures that are tried again the charge is below 250 ms of
    /// 5000; after 400 more that are not it is above 4900.
    #[test]
    fn a_retry_repairs() {
        let mut pool = Pool::new();
        pool.latency_ms = 20.0;
        pool.broke();
        assert_eq!(pool.charge(), 5000.0);
        pool.is_tried_again();
        assert!((pool.charge() - (5000.0 - 4980.0 / 3.0)).abs() < 1e-9, "{}", pool.charge());
        (0..400).for_each(|_| (pool.broke(), pool.is_tried_again()).0);
        assert!(pool.charge() < 250.0, "{}", pool.charge());
        (0..400).for_each(|_| pool.broke());
        assert!(pool.charge() > 4900.0, "{}", pool.charge());
        let mut pool = Pool::new();
        pool.latency_ms = 20.0;
        (0..1000).for_each(|_| pool.is_tried_again());
        pool.broke();
        assert_eq!(pool.charge(), 5000.0, "second opinions repair nothing");
    }
}
