//! Figures common to the backends of the pool: the time scale, the median speed, the price of
//! queues, and the charge for a failure.
use super::curve::Curve;
use crate::errors::{Errors, Rare};
use crate::outlier::REGRET_MEMORY;

/// The figures common to the backends of the pool.
#[derive(Clone, Debug)]
pub(super) struct Pool {
    pub(super) curve: Curve,
    /// Dispersion of all completions, which new backends start with.
    pub(super) phi: f64,
    /// The median of the backends' `ln` speed.
    pub(super) center: f64,
    /// The speed at the median.
    pub(super) center_speed: f64,
    /// Requests and errors, decayed: about the last thousand requests.
    pub(super) errors: Errors,
    /// The highest error share that the best backend can have by its recent requests, 0 to 1.
    pub(super) best_errors: f64,
    /// Average time of a successful request, ms.
    pub(super) latency_ms: f64,
    /// Good completions so far.
    pub(super) completions: u64,
    /// The average share of the requests in flight that wait for others, 0 to 1.
    waiting: f64,
    /// The cost that a queued request adds for later ones, per request in flight.
    pub(super) price: f64,
    /// While booting: `Σ √n·dt` over all backends, with n in flight for dt ms.
    pub(super) boot_exposure: f64,
    /// Number of standard errors by which completions must differ from a speed before older ones
    /// are forgotten.
    pub(super) confidence: f64,
    /// The charge for a failed request, ms.
    pub(super) charge_ms: f64,
    losses: Losses,
}

impl Pool {
    pub(super) fn new() -> Self {
        Self {
            curve: Curve::new(SCALE_START_MS),
            phi: 1.0,
            center: 0.0,
            center_speed: 1.0,
            errors: Errors::default(),
            best_errors: 1.0,
            latency_ms: 0.0,
            completions: 0,
            waiting: 0.0,
            price: 0.0,
            boot_exposure: 0.0,
            confidence: 1.5,
            charge_ms: 5000.0,
            losses: Losses::default(),
        }
    }

    /// Whether only the time scale is being learned.
    pub(super) const fn is_booting(&self) -> bool {
        self.completions < BOOT
    }

    /// Sets the time scale after a completion while booting.
    pub(super) fn boot(&mut self) {
        let scale = self.boot_exposure / self.completions as f64;
        self.curve = Curve::new(scale.clamp(SCALE_MIN_MS, SCALE_MAX_MS));
    }

    /// The share of errors in the pool, 0 to 1.
    pub(super) const fn error_share(&self) -> f64 {
        self.errors.errors / (self.errors.requests + ERRORS_PRIOR)
    }

    /// Updates the price of queues. `waiting` is the share of the requests in flight that wait for
    /// others now.
    pub(super) fn price_queues(&mut self, waiting: f64) {
        self.waiting += WAITING_ALPHA * (waiting - self.waiting);
        let ratio = self.waiting / (1.0 - self.waiting).max(WAITING_REST);
        self.price = (PRICE * ratio * ratio).min(PRICE_MAX);
    }

    /// Sets the median of the speeds, given as a logarithm.
    pub(super) fn set_center(&mut self, center: f64) {
        self.center = center;
        self.center_speed = libm::exp(center);
    }

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

/// The pool's failures and refusals.
#[derive(Clone, Debug, Default)]
struct Losses {
    /// Recent failures and refusals, and the retries after them.
    broken: f64,
    repaired: f64,
    /// All failures and refusals so far.
    broken_ever: u64,
    /// Refusals among the latest requests.
    refusals: Rare,
}

/// Number of good completions that only set the time scale. Chosen; halving or doubling it hardly
/// changes results.
pub(super) const BOOT: u64 = 20;
/// The initial time scale. Chosen: it is replaced after [`BOOT`] completions.
const SCALE_START_MS: f64 = 10.0;
/// Bounds of the time scale, 0.1 µs and three hours. No backend reaches them; they keep floats
/// finite.
const SCALE_MIN_MS: f64 = 1e-4;
const SCALE_MAX_MS: f64 = 1e7;
/// The price of a queue if as many requests wait as are worked on; it grows with the square of that
/// ratio. The queue of a burst soon drains. A persistent queue makes all later requests wait, so it
/// is cheaper to also use the slow backends. Measured in the lab's `few_fast`, where seven fast
/// backends can do 93 % of the work: the mean is 48 ms instead of 75. Chosen: at 0.04 it is 50 ms;
/// at 0.1 the p99 of `llm` is 2 % higher.
const PRICE: f64 = 0.06;
/// The highest price. Chosen; reached where about four of five requests wait.
const PRICE_MAX: f64 = 1.0;
/// Weight of a new sample in the share of waiting requests. A sample is taken every 64 completions.
/// Chosen.
const WAITING_ALPHA: f64 = 0.05;
/// Keeps the ratio finite where all requests wait.
const WAITING_REST: f64 = 0.01;
/// Number of good requests that are added to the pool's error share. Chosen; halving or doubling it
/// hardly changes results.
const ERRORS_PRIOR: f64 = 10.0;
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

    /// By hand: the price is 0.06·4² if four of five requests wait, 0.06 if half do, and at most
    /// 1. One sample moves the average by a twentieth.
    #[test]
    fn queues_that_stand_have_a_price() {
        let mut pool = Pool::new();
        pool.price_queues(0.8);
        assert!((pool.price - PRICE * (0.04 / 0.96) * (0.04 / 0.96)).abs() < 1e-12);
        for (waiting, price) in [(0.5, 0.06), (0.8, 0.96), (0.99, 1.0), (0.0, 0.0)] {
            (0..1000).for_each(|_| pool.price_queues(waiting));
            assert!((pool.price - price).abs() < 1e-6, "{waiting}: {}", pool.price);
        }
    }
}
