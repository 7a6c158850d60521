//! A backend's 4xx responses, compared with those of the other backends.
use std::time::Duration;

use super::Backend;
use crate::errors::{Errors, Rare};
use crate::estimate::Fading;
use crate::time::Instant;

/// Responses with status 4xx, not counting those that only one client provokes.
#[derive(Debug, Default)]
pub(super) struct Declines {
    /// The recent 4xx, which decay with time.
    recent: Fading,
    /// The 4xx among about the last [`DECLINES_MEMORY`] requests.
    of_late: Rare,
    /// The 4xx among about the last [`DECLINES_BEFORE`] requests.
    before: Rare,
    /// The length of the current run of 4xx, and the time at which the latest of its requests was
    /// sent.
    in_row: (u32, Instant),
    comparison: Comparison,
}

impl Declines {
    /// Records a good response to a request that was sent at `routed_at`. If a request that got a
    /// 4xx was sent later, the response shows an earlier state and does not end the run.
    pub(super) fn succeeded(&mut self, routed_at: Instant) {
        let (row, sent_at) = self.in_row;
        if row > 0 && routed_at >= sent_at {
            self.in_row.0 = 0;
        }
    }
}

/// A comparison of a backend's 4xx with those of the others.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Comparison {
    /// The time of the comparison.
    pub(crate) at: Instant,
    /// Whether it sent far more 4xx than the others.
    pub(crate) stands_out: bool,
    /// Whether it has begun to send 4xx for most requests while another backend has not.
    pub(crate) has_turned: bool,
}

impl Backend {
    /// Counts a response with status 4xx to a request that was sent at `routed_at`.
    pub(crate) fn declined(&mut self, now: Instant, routed_at: Instant, half_life: Duration) {
        self.requests.declines.recent.add(now, 1.0, half_life);
        let ended = self.requests.ended;
        self.requests.declines.of_late.observe(ended, DECLINES_MEMORY);
        self.requests.declines.before.observe(ended, DECLINES_BEFORE);
        let (row, sent_at) = self.requests.declines.in_row;
        self.requests.declines.in_row = (row.saturating_add(1), sent_at.max(routed_at));
    }

    /// The length of the current run of 4xx.
    pub(crate) const fn declines_in_row(&self) -> u32 {
        self.requests.declines.in_row.0
    }

    /// Whether 4xx were rare among about its last [`DECLINES_BEFORE`] requests.
    pub(crate) fn seldom_declined(&self) -> bool {
        let Errors { requests, errors } =
            self.requests.declines.before.at(self.requests.ended, DECLINES_BEFORE);
        errors < DECLINES_FEW * requests
    }

    /// Returns the share of 4xx among about the last [`DECLINES_MEMORY`] requests, computed with
    /// one 4xx and one other response added, and the number of requests.
    /// [`decline_share`](Self::decline_share) weights by age instead.
    pub(crate) fn decline_share_of_late(&self) -> (f64, f64) {
        let Errors { requests, errors } =
            self.requests.declines.of_late.at(self.requests.ended, DECLINES_MEMORY);
        ((errors + 1.0) / (requests + 2.0), requests)
    }

    /// The last comparison of its 4xx with those of the others.
    pub(crate) const fn comparison(&self) -> Comparison {
        self.requests.declines.comparison
    }

    /// Records a comparison with the others.
    pub(crate) const fn set_comparison(&mut self, comparison: Comparison) {
        self.requests.declines.comparison = comparison;
    }

    /// The share of 4xx among its recent requests, with one 4xx and one other response added
    /// (Agresti and Caffo 2000), and the number of these requests.
    pub(crate) fn decline_share(&self, now: Instant, half_life: Duration) -> (f64, f64) {
        let declined = self.requests.declines.recent.at(now, half_life);
        let answered = self.requests.error_rate.requests_at(now, half_life);
        let refused = self.requests.turned_away.at(now, half_life);
        let requests = (answered + refused).max(declined);
        ((declined + 1.0) / (requests + 2.0), requests)
    }
}

/// The window in which a sudden rise of 4xx is detected, requests.
const DECLINES_MEMORY: f64 = 32.0;
/// The number of requests that define a backend's usual share of 4xx.
const DECLINES_BEFORE: f64 = 512.0;
/// Below this share, a backend's 4xx count as rare.
const DECLINES_FEW: f64 = 0.1;
