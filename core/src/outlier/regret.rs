//! Regret: ejections that cost more than they save are reversed. The notes on constants in
//! [`outlier`](super) also apply here.
use std::time::Duration;

use crate::errors::Errors;
use crate::time::Instant;

/// Decides whether ejections are worth their cost: compares the results of the others since the
/// ejection with the failures that it avoids.
#[derive(Clone, Debug, Default)]
pub(crate) struct Regret {
    /// The share of refused requests before the first of the current ejections.
    refused_before: f64,
    /// The share of failed or refused requests that would be expected without the ejection: the
    /// failures of the other backends, the failures that it avoids, and the refusals before it.
    bad_before: f64,
    /// Ejections are regretted if the latency of the others exceeds this, ms: [`LATENCY_SLACK`]
    /// times their latency at the ejection, plus the charge for the avoided failures.
    latency_max_ms: f64,
    /// Requests since the last ejection, and those that failed or were refused.
    since: Errors,
    /// The average latency of good requests since then, ms.
    latency_ms: f64,
    /// The share of requests at other backends that failed or were refused before the ejection.
    usual_bad: f64,
    /// Requests at other backends that failed or were refused since the last ejection, or since
    /// the ejected backends were last called back, beyond [`USUAL_RISE`] times the usual share.
    missed: f64,
    /// The time until which no backend is ejected.
    until: Instant,
    /// The number of consecutive regrets.
    times: u32,
}

/// The expected saving of one ejection, computed from the figures before it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Saving {
    /// The backend's share of the requests.
    pub(crate) share: f64,
    /// The share of its requests that failed.
    pub(crate) failed: f64,
    /// The share of failures at the other backends.
    pub(crate) others: f64,
    /// The share of all requests that were refused, not counting those in `failed`. `None` while
    /// another backend is out: the refusals may be due to that ejection.
    pub(crate) refused: Option<f64>,
    /// The average latency of the other backends, ms.
    pub(crate) latency_ms: f64,
    /// The time charged for a failure, ms.
    pub(crate) charge_ms: f64,
}

impl Regret {
    /// Whether a backend may be ejected now.
    pub(crate) fn allows(&self, now: Instant) -> bool {
        now >= self.until
    }

    /// Records an ejection.
    pub(crate) fn ejected(&mut self, saving: &Saving) {
        let saved = (saving.share * saving.failed).max(SAVED_MIN);
        self.refused_before = saving.refused.unwrap_or(self.refused_before);
        self.usual_bad = saving.others + self.refused_before;
        self.bad_before = self.usual_bad + saved;
        // A backend that fails only some of its requests still carries load. If the others become
        // that much slower without it, their queues are filling.
        let most = if saving.failed < 0.5 { LATENCY_RISE * saving.latency_ms } else { f64::MAX };
        let added = (saved * saving.charge_ms).min(most);
        self.latency_max_ms = LATENCY_SLACK * saving.latency_ms + added;
        self.since = Errors::NONE;
        self.latency_ms = saving.latency_ms;
        self.missed = 0.0;
    }

    /// Whether the others have failed or refused enough requests more than usual to justify an
    /// early trial of an ejected backend. If so, the count starts again.
    pub(crate) const fn calls_back(&mut self) -> bool {
        let is_time = self.missed >= MISSED;
        if is_time {
            self.missed = 0.0;
        }
        is_time
    }

    /// Records the end of a request at another backend while one is out: its time in ms if it
    /// succeeded, `None` if it failed or was refused. Returns whether the ejections are to be
    /// reversed.
    pub(crate) fn observe(&mut self, now: Instant, good_ms: Option<f64>) -> bool {
        self.since.observe(good_ms.is_none(), REGRET_MEMORY);
        let missed = f64::from(good_ms.is_none()) - USUAL_RISE * self.usual_bad;
        self.missed = (self.missed + missed).max(0.0);
        if let Some(ms) = good_ms {
            self.latency_ms += LATENCY_ALPHA * (ms - self.latency_ms);
        }
        if self.since.requests < REGRET_REQUESTS {
            return false;
        }
        // The variance of a share of failures: few requests must not look like regret.
        let noise = (self.bad_before * (1.0 - self.bad_before) / self.since.requests).max(0.0);
        let is_regretted = self.since.share() > self.bad_before + 3.0 * noise.sqrt()
            || self.latency_ms > self.latency_max_ms;
        if is_regretted {
            // Soon after the last regret: the next pause is twice as long.
            let is_again = self.times > 0 && now.since(self.until) < REGRET_CALM;
            self.times = if is_again { (self.times + 1).min(REGRETS_MAX) } else { 1 };
            self.until = now + REGRET_TIME * (1 << (self.times - 1));
            self.since = Errors::NONE;
        }
        is_regretted
    }
}

/// The minimum saving of an ejection, as a share of all requests: a backend that stopped responding
/// has not failed many yet. Chosen; halving or doubling it changes no result.
const SAVED_MIN: f64 = 0.01;
/// Requests over which refusals before an ejection, and failures and refusals after it, are
/// remembered. Chosen; halving or doubling it hardly changes results.
pub(crate) const REGRET_MEMORY: f64 = 400.0;
/// Failures and refusals elsewhere after which a trial, which may cost one more request, is
/// tolerable. Chosen; halving or doubling it changes no result.
const MISSED: f64 = 20.0;
/// The factor by which the others' share of failures and refusals must rise to call a backend back.
/// Chosen: above 1, so that chance alone does not reach [`MISSED`].
const USUAL_RISE: f64 = 1.5;
/// Requests to wait for before an ejection is judged. Chosen; halving or doubling it changes no
/// result.
const REGRET_REQUESTS: f64 = 50.0;
/// A rise of the latency by up to this factor does not count against the ejection. Chosen; halving
/// or doubling it hardly changes results.
const LATENCY_SLACK: f64 = 1.5;
/// Bound of the charge for failures, as a multiple of the latency, if the ejected backend failed
/// less than half of its requests. Chosen; halving or doubling it hardly changes results.
const LATENCY_RISE: f64 = 5.0;
/// The share of a new latency in the average: about the last 50 requests. Chosen; halving or
/// doubling it hardly changes results.
const LATENCY_ALPHA: f64 = 0.02;
/// The pause of ejections after the first regret; doubled by each further one. Chosen; halving or
/// doubling it hardly changes results.
const REGRET_TIME: Duration = Duration::from_secs(8);
/// Regrets that are counted: the longest pause is 64 s. Chosen; halving or doubling it changes no
/// result.
const REGRETS_MAX: u32 = 4;
/// Time after a pause without a regret after which the next pause is the shortest again. Chosen;
/// halving or doubling it changes no result.
const REGRET_CALM: Duration = Duration::from_secs(60);
