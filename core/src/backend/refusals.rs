//! Refusals of a backend, and the count of the recent ones.
//!
//! The layout hints are explained in `router.rs`.
use std::time::Duration;

use super::Backend;
use crate::config::{Rules, Weights};
use crate::estimate::Fading;
use crate::time::Instant;

impl Backend {
    /// Records a refusal, with or without a time to wait.
    #[cold]
    pub(super) fn refused(&mut self, now: Instant, hold: Option<Duration>) {
        self.requests.ended += 1;
        self.requests.refused += 1;
        self.requests.last_ended_at = Some(now);
        // Without a time, the weight depends on the other backends: see `turned_one_away`.
        if let Some(hold) = hold {
            self.held_until = self.held_until.max(Some(now + hold));
        }
    }

    /// Counts a refusal without a time, while the others worked on `others` requests each on
    /// average. A backend that looks idle gets one more request in flight. A backend that works on
    /// as many as the others gets hardly any addition: it is full like them, which its load already
    /// shows.
    ///
    /// Measured alternatives: a whole request for each refusal ranked ten full backends by their
    /// refusals for a minute after a burst; `1/(1 + in flight)` made two proxies with short queues
    /// fail 0.1 % more requests.
    pub(crate) fn turned_one_away(&mut self, now: Instant, others: f64, rules: &Rules) {
        let idle = ((1.0 + others - f64::from(self.at_work())) / (1.0 + others)).clamp(0.0, 1.0);
        let amount = idle * idle * idle;
        self.requests.turned_away.add(now, amount, rules.errors.half_life);
        self.requests.turned_away_at = now;
        self.rescore_errors(now, rules);
    }

    /// Recent refusals at `now`; 0 from [`RETRIED_AFTER`] after the last one until the next one. If
    /// they only faded, a backend with many refusals would get no requests long after its recovery.
    #[inline]
    pub(super) fn refusals_at(&self, now: Instant, rules: &Rules) -> f64 {
        if now.since(self.requests.turned_away_at) >= RETRIED_AFTER {
            return 0.0;
        }
        self.requests.turned_away.at(now, rules.errors.half_life)
    }

    /// Forgets recent refusals because the backend did not cause them.
    pub(crate) fn forget_refusals(&mut self, weights: &Weights) {
        self.requests.turned_away = Fading::default();
        self.turned_away = 0;
        self.rescore_in_flight(weights);
    }
}

/// Time without a refusal after which a backend that refused gets a request again. A backend that
/// still refuses costs one request each time. A recovered one is in full use within 15 s.
const RETRIED_AFTER: Duration = Duration::from_secs(8);
