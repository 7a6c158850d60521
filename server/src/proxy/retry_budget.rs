//! The retry budget: a token bucket that bounds how many requests are sent to another backend after
//! a failure or a refusal.
//!
//! This file has only the bucket. A retry is decided elsewhere: after a failure in
//! `session/remedy.rs` and `session/failure.rs`, after a refusal in `session/refused.rs`. They call
//! [`spend`](RetryBudget::spend), which may forbid the retry.
//!
//! Each request adds `limits.retryPercent` percent of a token; 0 turns retries off. While there are
//! fewer than [`FLOOR`] tokens, each second adds [`FLOOR_PER_SECOND`]. There are at most
//! [`TOKENS_MAX`]. Sending a request to another backend takes one token. The driver passes the
//! time. Without a budget, backends that fail every request would get `limits.attempts` times the
//! requests. The default of 20 % and the 10 tokens a second are those of Finagle's RetryBudget and
//! of linkerd.
//!
//! The layout hints are explained in `proxy/mod.rs`.
use intelliproxy_core::Instant;

use crate::pages::RetryCounts;

/// The tokens, and the counts of permitted and forbidden retries.
#[derive(Clone, Debug)]
pub(crate) struct RetryBudget {
    tokens: f64,
    per_request: f64,
    /// The time of the last [`spend`](Self::spend). The tokens per second count from it.
    topped_at: Instant,
    counts: RetryCounts,
}

impl RetryBudget {
    pub(crate) fn new(percent: u32) -> Self {
        let per_request = f64::from(percent) / 100.0;
        let topped_at = Instant::ZERO;
        Self { tokens: TOKENS_START, per_request, topped_at, counts: RetryCounts::default() }
    }

    /// Applies a new share; the tokens stay.
    pub(crate) fn reconfigure(&mut self, percent: u32) {
        self.per_request = f64::from(percent) / 100.0;
    }

    /// Adds the share of a new request.
    #[inline]
    pub(crate) const fn earn(&mut self) {
        self.tokens = (self.tokens + self.per_request).min(TOKENS_MAX);
    }

    /// Takes a token if a request may be sent to another backend. Returns whether it took one.
    #[cold]
    pub(crate) fn spend(&mut self, now: Instant) -> bool {
        // At 0 % there is no floor either.
        if self.tokens < FLOOR && self.per_request > 0.0 {
            let seconds = now.since(self.topped_at).as_secs_f64();
            self.tokens = (self.tokens + FLOOR_PER_SECOND * seconds).min(FLOOR);
        }
        self.topped_at = now;
        let may = self.tokens >= 1.0 && self.per_request > 0.0;
        if may {
            self.tokens -= 1.0;
            self.counts.done += 1;
        } else {
            self.counts.spared += 1;
        }
        may
    }

    pub(crate) const fn counts(&self) -> RetryCounts {
        self.counts
    }
}

const TOKENS_MAX: f64 = 100.0;
const TOKENS_START: f64 = 5.0;
const FLOOR: f64 = 10.0;
const FLOOR_PER_SECOND: f64 = 10.0;

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// 100 requests fail at the same time: the 5 initial tokens and one for every five requests
    /// permit 25 retries.
    #[test]
    fn a_fifth_of_the_requests_is_retried() {
        let mut budget = RetryBudget::new(20);
        let now = Instant::from_millis(7);
        budget.topped_at = now;
        for _ in 0..100 {
            budget.earn();
            while budget.spend(now) {}
        }
        assert_eq!(budget.counts(), RetryCounts { done: 25, spared: 100 });
    }

    /// Without new requests ten retries a second are permitted, and at most ten are saved up.
    #[test]
    fn a_floor_serves_rare_requests() {
        let mut budget = RetryBudget::new(20);
        let mut now = Instant::from_millis(7);
        budget.topped_at = now;
        (0..5).for_each(|_| assert!(budget.spend(now)));
        assert!(!budget.spend(now));
        now += Duration::from_millis(100);
        assert!(budget.spend(now));
        assert!(!budget.spend(now));
        now += Duration::from_secs(3600);
        (0..10).for_each(|_| assert!(budget.spend(now)));
        assert!(!budget.spend(now));
    }

    /// Requests save up at most a hundred tokens, and 0 % turns retries off.
    #[test]
    fn bounds() {
        let mut budget = RetryBudget::new(1000);
        (0..1000).for_each(|_| budget.earn());
        assert_eq!(budget.tokens, 100.0);
        budget.reconfigure(0);
        assert!(!budget.spend(Instant::FAR_FUTURE));
    }
}
