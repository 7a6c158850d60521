//! Restraints that keep requests from a backend while its model is unreliable.
//!
//! The standing (in use, ejected, on probation) is that of [`outlier`](crate::outlier). In
//! addition, a backend may be:
//! - stalled: no completion when twelve were due. It is ejected when every request there has
//!   ended without a response.
//! - capped: it refused or failed a request while full.
//! - suspect: it failed a request although errors are rare. It gets no more while requests are in
//!   flight there.
use crate::outlier::{Others, WINDOW_START, Watch};
use crate::time::Instant;

/// The restraints on one backend.
#[derive(Clone, Debug)]
pub(super) struct Restraints {
    pub(super) watch: Watch,
    pub(super) is_stalled: bool,
    /// The cap of requests in flight: the number at which it refused, less a margin.
    pub(super) cap: Option<f64>,
    /// The growth of the cap with each good response.
    growth: f64,
    /// The number of requests in flight at its last error or refusal while full.
    full_at: u32,
    /// Good responses since then.
    good_since: u32,
    /// Whether its last request failed although errors are rare. If so, it gets one request at a
    /// time.
    is_suspect: bool,
}

impl Restraints {
    pub(super) const fn new() -> Self {
        let watch = Watch::new(WINDOW_START, WINDOW_START);
        Self {
            watch,
            is_stalled: false,
            cap: None,
            growth: CAP_GROWTH,
            full_at: 0,
            good_since: 0,
            is_suspect: false,
        }
    }

    /// Whether the backend may get a request while n are in flight there.
    pub(super) fn is_open(&self, n: u32) -> bool {
        self.watch.is_in()
            && !self.is_stalled
            && !(self.is_suspect && n > 0)
            && n < self.watch.window
            && self.cap.is_none_or(|cap| f64::from(n) < cap)
    }

    pub(super) const fn is_normal(&self) -> bool {
        self.watch.is_in()
    }

    /// Whether a good response changes only the counts of errors.
    pub(super) const fn is_calm(&self) -> bool {
        self.watch.is_calm() && !self.is_stalled && !self.is_suspect && self.cap.is_none()
    }

    /// Records a good response to a request that was sent at `sent_at`.
    pub(super) fn succeeded(&mut self, sent_at: Instant) {
        self.is_stalled = false;
        self.is_suspect = false;
        self.watch.succeeded(sent_at);
        if let Some(cap) = &mut self.cap {
            *cap += self.growth;
            self.good_since = self.good_since.saturating_add(1);
        }
    }

    /// Records an error that is the backend's own fault. The request was sent at `sent_at`. Returns
    /// whether the backend [may be bad](Watch::failed). `others` are the errors of the other
    /// backends; `is_seldom` is whether this one gets few requests.
    pub(super) fn failed(
        &mut self,
        now: Instant,
        sent_at: Instant,
        others: Option<Others>,
        is_seldom: bool,
    ) -> bool {
        // If errors are usual, one more says nothing about this backend.
        self.is_suspect = others.is_none_or(|others| others.are_calm());
        self.watch.failed(now, sent_at, is_seldom)
    }

    /// Records an error or refusal while full, with n in flight. It shows nothing but the backend's
    /// capacity. If n is about the same as last time, and at least n good responses came in
    /// between, the limit is confirmed: from then on the cap grows more slowly. A small cap grows
    /// faster, because it may date from a time when everything was refused.
    pub(super) fn was_full(&mut self, n: u32) {
        let gap = (f64::from(n) - f64::from(self.full_at)).abs();
        let is_near = gap <= (CAP_SAME * f64::from(self.full_at)).max(CAP_SAME_MIN);
        let small = CAP_GROWTH_SMALL / (f64::from(n) * f64::from(n));
        self.growth = if !is_near {
            CAP_GROWTH.max(small)
        } else if self.good_since >= n {
            (0.5 * self.growth).max(CAP_GROWTH_MIN)
        } else {
            self.growth.max(small)
        };
        self.full_at = n;
        self.good_since = 0;
        // At least one request, because only good responses raise the cap.
        self.cap = Some((CAP_SHARE * f64::from(n) - 1.0).max(1.0));
    }

    /// Puts the backend back in use: its errors are forgotten, and slow start begins.
    pub(super) fn come_back(&mut self, now: Instant) {
        self.watch.come_back(now);
        self.clear();
    }

    /// Records the end of a request on probation; `None` if it shows nothing about the backend.
    pub(super) fn probation_ended(
        &mut self,
        now: Instant,
        is_good: Option<bool>,
        others: Option<Others>,
    ) {
        self.watch.probation_ended(now, is_good, others);
        if self.is_normal() {
            self.clear();
        }
    }

    const fn clear(&mut self) {
        self.is_suspect = false;
        self.is_stalled = false;
        self.cap = None;
        self.full_at = 0;
    }

    /// The estimated chance of failure, 0 to 1. Ranks backends when none is open.
    pub(super) fn risk(&self, n: u32) -> f64 {
        let is_full = self.cap.is_some_and(|cap| f64::from(n) >= cap);
        if !self.is_normal() {
            let Watch { recent, errors_in_row, .. } = &self.watch;
            let row = f64::from(*errors_in_row);
            (row + recent.errors) / (row + recent.requests + 1.0)
        } else if self.is_stalled || is_full {
            RISK_UNKNOWN
        } else {
            0.0
        }
    }
}

/// The cap after a refusal, as a share of the requests in flight at the refusal. Chosen; halving or
/// doubling it hardly changes results.
const CAP_SHARE: f64 = 0.97;
/// Growth of the cap per good response: one request per hundred responses. Chosen; halving or
/// doubling it hardly changes results.
const CAP_GROWTH: f64 = 0.01;
/// The minimum growth of a cap, after several refusals have confirmed it. Chosen on random
/// scenarios.
const CAP_GROWTH_MIN: f64 = CAP_GROWTH / 16.0;
/// The growth of a small cap is this divided by the square of the requests in flight at the
/// refusal. That exceeds [`CAP_GROWTH`] up to five requests. Chosen.
const CAP_GROWTH_SMALL: f64 = 32.0 * CAP_GROWTH;
/// Two refusals count as at the same number if their requests in flight differ by at most this
/// share, or by at most [`CAP_SAME_MIN`]. Chosen.
const CAP_SAME: f64 = 0.1;
const CAP_SAME_MIN: f64 = 1.5;
/// The chance of failure of a backend that is stalled or at its cap. Matters only if no backend is
/// open. Chosen; the run of [`learned`](super) does not reach it.
const RISK_UNKNOWN: f64 = 0.7;

#[cfg(test)]
mod tests {
    use super::*;

    const fn others(share: f64) -> Option<Others> {
        Some(Others { share, requests: 1e9 })
    }

    /// By hand: errors are 1 of 2, 1.95 of 2.95 and 2.8525 of 3.8525, with one good request added.
    /// A pool that fails a quarter of its requests excuses up to 0.85 of them.
    #[test]
    fn a_failing_pool_excuses() {
        let mut restraints = Restraints::new();
        for _ in 0..3 {
            restraints.failed(Instant::ZERO, Instant::ZERO, others(0.25), false);
            assert!(!restraints.watch.is_bad(others(0.25), false));
        }
        assert!((restraints.watch.recent.share() - 2.8525 / 3.8525).abs() < 1e-12);
        assert!(restraints.watch.is_worse_than(Others { share: 0.2, requests: 1e9 }));
        assert!((restraints.risk(0)).abs() < 1e-12, "a normal one has no risk");
        restraints.watch.eject(Instant::ZERO);
        assert!((restraints.risk(0) - 5.8525 / 6.8525).abs() < 1e-12);
    }

    /// After a refusal with 100 in flight, at most 96 are allowed. Each hundred good responses
    /// allow about one more.
    #[test]
    fn caps_grow_slowly() {
        let mut restraints = Restraints::new();
        restraints.watch.window = u32::MAX;
        restraints.was_full(100);
        assert!(restraints.is_open(95) && !restraints.is_open(96));
        for _ in 0..101 {
            restraints.succeeded(Instant::ZERO);
        }
        assert!(restraints.is_open(96) && !restraints.is_open(98));
        assert_eq!(restraints.risk(98), 0.7);
    }

    /// A backend refuses with 100 in flight, repeatedly, after a hundred good responses each time:
    /// the cap grows half as fast each time, down to a sixteenth. A refusal with far fewer is
    /// another limit. A cap of a few requests grows faster, and a refusal that no good response
    /// precedes confirms nothing. After a return there is no cap.
    #[test]
    fn a_limit_that_stays_is_tried_seldom() {
        let mut restraints = Restraints::new();
        for expected in [0.01, 0.005, 0.0025, 0.00125, 0.000_625, 0.000_625] {
            restraints.was_full(100);
            assert_eq!(restraints.growth, expected);
            let cap = restraints.cap;
            restraints.succeeded(Instant::ZERO);
            assert_eq!(restraints.cap, cap.map(|cap| cap + expected));
            (1..100).for_each(|_| restraints.succeeded(Instant::ZERO));
        }
        restraints.was_full(50);
        assert_eq!((restraints.cap, restraints.growth), (Some(47.5), 0.01));
        restraints.was_full(2);
        restraints.was_full(2);
        assert_eq!((restraints.cap, restraints.growth), (Some(1.0), 0.08));
        restraints.come_back(Instant::ZERO);
        assert_eq!(restraints.cap, None);
    }

    /// After an error in a pool with rare errors the backend gets one request at a time. A good
    /// response ends this. If errors are usual, one error has no such effect. Two errors are in a
    /// row if the good responses between them belong to requests sent before the first.
    #[test]
    fn an_error_makes_suspect() {
        let mut restraints = Restraints::new();
        let now = Instant::from_millis(9);
        let fails = |restraints: &mut Restraints| {
            restraints.failed(now, now, others(0.0), false)
                && restraints.watch.is_bad(others(0.0), false)
        };
        assert!(!fails(&mut restraints));
        assert!(restraints.is_open(0) && !restraints.is_open(1));
        restraints.succeeded(Instant::ZERO);
        assert!(restraints.is_open(1));
        assert!(fails(&mut restraints.clone()), "the second in a row");
        restraints.succeeded(now);
        assert!(!fails(&mut restraints.clone()), "the first of a new row");
        restraints.failed(now, now, others(0.01), false);
        assert!(restraints.is_open(1));
    }
}
