//! The guard rails of one backend: when the model is not to be trusted with it.
//!
//! | standing | left by | for |
//! |---|---|---|
//! | normal | errors well above the pool's, three in a row (two where the pool has none) or 2.5 of the last 20 | quarantined |
//! | normal | stalled, and every request there ended without an answer | quarantined |
//! | quarantined | a good ping after the back-off | probation |
//! | quarantined | the whole pool failing alike (amnesty) | normal |
//! | probation | so many good requests in a row, one at a time | normal, slow start |
//! | probation | an error | quarantined, eight times as long |
//!
//! Beside its standing, a backend may be stalled (no completion where twelve were due), capped
//! (it refused while full), in slow start (a window that grows by a request a good answer), or
//! suspect (after an error where errors are rare, no more requests while it has others to answer).
use std::time::Duration;

use super::errors::Errors;
use crate::time::Instant;

/// One backend's guard rails.
#[derive(Clone, Debug)]
pub(super) struct Rails {
    pub(super) standing: Standing,
    pub(super) is_stalled: bool,
    /// Requests in flight allowed by slow start; none from [`WINDOW_OPEN`] on.
    pub(super) window: u32,
    /// Requests in flight at which it refused, with a margin.
    pub(super) cap: Option<f64>,
    /// The last twenty or so requests.
    pub(super) recent: Errors,
    pub(super) errors_in_row: u32,
    /// When the latest request that failed was sent.
    erred_at: Instant,
    /// Its last answer was an error, where errors are rare: the requests that it has are to tell
    /// more before it gets another.
    is_suspect: bool,
    /// Times that the back-off was made eight times as long.
    relapses: u32,
    /// When it was last quarantined or returned from it.
    troubled_at: Option<Instant>,
}

/// Whether a backend is trusted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Standing {
    Normal,
    Quarantined { until: Instant },
    Probation { good: u32, needed: u32, is_out: bool },
}

impl Rails {
    pub(super) fn new() -> Self {
        Self {
            standing: Standing::Normal,
            is_stalled: false,
            window: WINDOW_START,
            cap: None,
            recent: Errors::default(),
            errors_in_row: 0,
            erred_at: Instant::ZERO,
            is_suspect: false,
            relapses: 0,
            troubled_at: None,
        }
    }

    /// Whether requests may go there with n in flight.
    pub(super) fn is_open(&self, n: u32) -> bool {
        self.standing == Standing::Normal
            && !self.is_stalled
            && !(self.is_suspect && n > 0)
            && n < self.window
            && self.cap.is_none_or(|cap| f64::from(n) < cap)
    }

    pub(super) const fn is_normal(&self) -> bool {
        matches!(self.standing, Standing::Normal)
    }

    /// A good answer, to a request sent then: what it opens. One that was sent before the latest
    /// failure is old news: it ends no row of errors.
    pub(super) fn succeeded(&mut self, sent_at: Instant) {
        self.is_stalled = false;
        if sent_at >= self.erred_at {
            self.errors_in_row = 0;
        }
        self.is_suspect = false;
        self.recent.observe(false, RECENT);
        if let Some(cap) = &mut self.cap {
            *cap += CAP_GROWTH;
        }
        if self.window < WINDOW_OPEN {
            self.window += 1;
            if self.window >= WINDOW_OPEN {
                self.window = u32::MAX;
            }
        }
    }

    /// An error that is the backend's own fault, of a request sent then; returns whether it is to
    /// be quarantined, as far as this backend goes, where the pool's share of errors is `pool`.
    pub(super) fn failed(&mut self, sent_at: Instant, pool: f64) -> bool {
        self.erred_at = self.erred_at.max(sent_at);
        self.errors_in_row = self.errors_in_row.saturating_add(1);
        self.recent.observe(true, RECENT);
        self.is_suspect = pool < POOL_CALM;
        // Where errors are that rare, two in a row are no chance, whatever was good before.
        self.is_suspect && self.errors_in_row >= ERRORS_IN_ROW_CALM
            || self.is_worse_than(pool)
                && (self.errors_in_row >= ERRORS_IN_ROW || self.recent.errors >= ERRORS_RECENT)
    }

    /// An error while full, with n in flight: no evidence but of its size.
    pub(super) fn was_full(&mut self, n: u32) {
        self.cap = Some((CAP_SHARE * f64::from(n) - 1.0).max(1.0));
    }

    /// Whether its errors are well above the pool's.
    pub(super) fn is_worse_than(&self, pool: f64) -> bool {
        self.recent.share() > 3.0 * pool + 0.1
    }

    /// Enters quarantine.
    pub(super) fn quarantine(&mut self, now: Instant) {
        let is_relapse = self.troubled_at.is_some_and(|at| now.since(at) < CALM);
        self.relapses = if is_relapse { (self.relapses + 1).min(RELAPSES_MAX) } else { 0 };
        self.troubled_at = Some(now);
        let until = now + (BACK_OFF * (1 << (3 * self.relapses))).min(BACK_OFF_MAX);
        self.standing = Standing::Quarantined { until };
    }

    /// A good ping: the way back, once the back-off is over.
    pub(super) fn ping_answered(&mut self, now: Instant) -> bool {
        let is_over = matches!(self.standing, Standing::Quarantined { until } if now >= until);
        if is_over {
            let needed = (PROBATION << self.relapses).min(PROBATION_MAX);
            self.standing = Standing::Probation { good: 0, needed, is_out: false };
        }
        is_over
    }

    /// A request on probation ended; `None` when it says nothing.
    pub(super) fn probation_ended(&mut self, now: Instant, is_good: Option<bool>) {
        let Standing::Probation { good, needed, .. } = self.standing else {
            return;
        };
        match is_good {
            Some(false) => self.quarantine(now),
            Some(true) if good + 1 >= needed => self.come_back(now),
            Some(true) => {
                self.standing = Standing::Probation { good: good + 1, needed, is_out: false };
            }
            None => self.standing = Standing::Probation { good, needed, is_out: false },
        }
    }

    /// Trusted again: its errors are forgotten, and slow start begins.
    pub(super) fn come_back(&mut self, now: Instant) {
        self.standing = Standing::Normal;
        self.troubled_at = Some(now);
        self.recent = Errors::default();
        self.errors_in_row = 0;
        self.is_suspect = false;
        self.is_stalled = false;
        self.window = WINDOW_START;
    }

    /// The chance to fail that speaks against it where no backend is open.
    pub(super) fn risk(&self, n: u32) -> f64 {
        let is_full = self.cap.is_some_and(|cap| f64::from(n) >= cap);
        if !self.is_normal() {
            let row = f64::from(self.errors_in_row);
            (row + self.recent.errors) / (row + self.recent.requests + 1.0)
        } else if self.is_stalled || is_full {
            RISK_UNKNOWN
        } else {
            0.0
        }
    }
}

/// Slow start opens for good at this window.
pub(super) const WINDOW_OPEN: u32 = 64;
/// How often a quarantined backend is pinged.
pub(super) const PING_EVERY: Duration = Duration::from_millis(250);
const WINDOW_START: u32 = 2;
const RECENT: f64 = 20.0;
const ERRORS_IN_ROW: u32 = 3;
const ERRORS_IN_ROW_CALM: u32 = 2;
const ERRORS_RECENT: f64 = 2.5;
const POOL_CALM: f64 = 0.001;
const CAP_SHARE: f64 = 0.97;
const CAP_GROWTH: f64 = 0.01;
const BACK_OFF: Duration = Duration::from_millis(250);
const BACK_OFF_MAX: Duration = Duration::from_secs(8);
const RELAPSES_MAX: u32 = 3;
const CALM: Duration = Duration::from_secs(30);
const PROBATION: u32 = 4;
const PROBATION_MAX: u32 = 32;
const RISK_UNKNOWN: f64 = 0.7;

#[cfg(test)]
mod tests {
    use super::*;

    /// Three errors in a row quarantine, for 250 ms; each relapse makes it eight times as long up to
    /// 8 s, and doubles the good answers wanted up to 32; half a minute of calm starts anew.
    #[test]
    fn back_off_grows() {
        let mut rails = Rails::new();
        let mut now = Instant::from_millis(1000);
        assert!(!rails.failed(now, 0.002));
        assert!(!rails.failed(now, 0.002));
        assert!(rails.failed(now, 0.002));
        assert!(rails.clone().failed(now, 0.0));
        for (wait, expected) in [(250, 4), (2000, 8), (8000, 16), (8000, 32), (8000, 32)] {
            rails.quarantine(now);
            let until = now + Duration::from_millis(wait);
            assert_eq!(rails.standing, Standing::Quarantined { until });
            assert!(!rails.ping_answered(now + Duration::from_millis(wait - 1)), "too soon");
            now = until;
            assert!(rails.ping_answered(now));
            let Standing::Probation { needed, .. } = rails.standing else { panic!("probation") };
            assert_eq!(needed, expected);
        }
        for _ in 0..32 {
            assert!(!rails.is_open(0));
            rails.probation_ended(now, Some(true));
        }
        assert!(rails.is_open(1) && !rails.is_open(2), "slow start");
        rails.quarantine(now + CALM);
        let until = now + CALM + BACK_OFF;
        assert_eq!(rails.standing, Standing::Quarantined { until });
    }

    /// By hand: errors are 1 of 2, 1.95 of 2.95 and 2.8525 of 3.8525 with the one good request
    /// beside them; a pool that fails in a quarter of all cases excuses up to 0.85 of them.
    #[test]
    fn a_failing_pool_excuses() {
        let mut rails = Rails::new();
        for _ in 0..3 {
            assert!(!rails.failed(Instant::ZERO, 0.25));
        }
        assert!((rails.recent.share() - 2.8525 / 3.8525).abs() < 1e-12);
        assert!(rails.is_worse_than(0.2));
        assert!((rails.risk(0)).abs() < 1e-12, "a normal one has no risk");
        rails.quarantine(Instant::ZERO);
        assert!((rails.risk(0) - 5.8525 / 6.8525).abs() < 1e-12);
    }

    /// Refused with 100 in flight: at most 96 from then on, a hundred completions allow one more.
    #[test]
    fn caps_grow_slowly() {
        let mut rails = Rails::new();
        rails.window = u32::MAX;
        rails.was_full(100);
        assert!(rails.is_open(95) && !rails.is_open(96));
        for _ in 0..101 {
            rails.succeeded(Instant::ZERO);
        }
        assert!(rails.is_open(96) && !rails.is_open(98));
        assert_eq!(rails.risk(98), 0.7);
    }

    /// An error in a calm pool: nothing more while it has requests, one when it has none; a good
    /// answer clears it. Where errors are usual one is no reason. Two errors are in a row when what
    /// was answered well between them had been sent before the first.
    #[test]
    fn an_error_makes_suspect() {
        let mut rails = Rails::new();
        let now = Instant::from_millis(9);
        assert!(!rails.failed(now, 0.0));
        assert!(rails.is_open(0) && !rails.is_open(1));
        rails.succeeded(Instant::ZERO);
        assert!(rails.is_open(1));
        assert!(rails.clone().failed(now, 0.0), "the second in a row");
        rails.succeeded(now);
        assert!(!rails.clone().failed(now, 0.0), "the first of a new row");
        rails.failed(now, 0.01);
        assert!(rails.is_open(1));
    }

    /// A window of 2 grows by each good answer and is gone at 64.
    #[test]
    fn slow_start_opens() {
        let mut rails = Rails::new();
        for n in 2..64 {
            assert!(rails.is_open(n - 1) && !rails.is_open(n));
            rails.succeeded(Instant::ZERO);
        }
        assert!(rails.is_open(1000));
    }
}
