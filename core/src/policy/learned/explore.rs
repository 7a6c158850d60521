//! Trials: requests to idle backends that the model would not choose. A budget limits them.
//!
//! Each request adds 0.005 tokens (configurable) to the balance, up to four. A trial is a request
//! to a backend that was idle for 1 s or 30 of the pool's mean latencies, whichever is longer. (If
//! it were the backend's own latency, a slow phase would delay the discovery of its recovery.)
//!
//! A trial needs a balance of one token. Its price is the backend's cost in excess of the pool's
//! mean latency, divided by that latency: from 1 to 16 tokens. The balance may become negative.
//! Trials therefore cost about the same share of the total delay, whether the idle backends are a
//! little slower or ten times slower. When each trial cost one token, up to 1 % of the requests
//! went to backends that were ten times slower, and these determined the p99.
//!
//! A trial with a response in under half of the predicted time starts a series: up to 16 more
//! requests for its backend, one at a time, while each ends within the time predicted before the
//! first. These are paid for like trials: if service times are exponential, two of five trials are
//! that fast by luck. After a series that ends in a slow response, the next fast trial of this
//! backend starts no series; after a second such series the next two start none, and after each
//! further one the next four. A backend that is mostly fast and sometimes very slow would otherwise
//! count as recovered every time. The recovery of such a backend is then found up to four trials
//! later.
use std::time::Duration;

use super::Learned;
use super::marks::{IDLE_TRIAL, LEARNER};
use crate::id::BackendId;
use crate::policy::candidates::Candidates;
use crate::policy::contract::Choice;
use crate::time::{Instant, millis};

/// The budget, and the current series.
#[derive(Clone, Debug)]
pub(super) struct Explorer {
    rate: f64,
    tokens: f64,
    /// The time of the next search for idle backends.
    look_at: Instant,
    following: Option<Following>,
}

/// Results of a backend's series of trials.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Trials {
    /// Number of fast trials that start no series, after the last series that ended in a slow
    /// response.
    wait: u8,
    /// Number of these that are left.
    left: u8,
}

/// The backend of a series, whose trial was much faster than predicted.
#[derive(Clone, Copy, Debug)]
struct Following {
    backend: BackendId,
    /// Prediction before the first trial, ms.
    predicted_ms: f64,
    left: u32,
}

impl Explorer {
    pub(super) const fn new() -> Self {
        Self { rate: 0.0, tokens: 0.0, look_at: Instant::ZERO, following: None }
    }

    pub(super) const fn configure(&mut self, rate: f64) {
        self.rate = rate;
    }

    /// Adds the tokens of one request to the budget.
    pub(super) fn earn(&mut self) {
        self.tokens = (self.tokens + self.rate).min(TOKENS_MAX);
    }

    pub(super) const fn can_spend(&self, cost: f64) -> bool {
        self.tokens >= cost
    }

    pub(super) fn spend(&mut self, cost: f64) {
        self.tokens -= cost;
    }

    /// The backend of the current series.
    pub(super) fn followed(&self) -> Option<BackendId> {
        self.following.map(|following| following.backend)
    }

    /// Counts one more request of the series.
    pub(super) fn follow(&mut self) {
        if let Some(following) = &mut self.following {
            following.left -= 1;
            if following.left == 0 {
                self.following = None;
            }
        }
    }

    /// Records the end of a trial or of a request in its series.
    pub(super) fn ended(
        &mut self,
        backend: BackendId,
        record: &mut Trials,
        predicted_ms: f64,
        good_ms: Option<f64>,
    ) {
        // The prediction from before the series: later predictions include its responses.
        let ours = self.following.filter(|following| following.backend == backend);
        let predicted_ms = ours.map_or(predicted_ms, |following| following.predicted_ms);
        // The first trial has to be clearly faster, since one fast response may be luck. Later
        // ones only have to stay within the prediction.
        let fast_ms = if ours.is_some() { predicted_ms } else { 0.5 * predicted_ms };
        let is_fast = good_ms.is_some_and(|ms| ms < fast_ms);
        if is_fast && self.following.is_none() && record.left > 0 {
            record.left -= 1;
        } else if is_fast && self.following.is_none() {
            self.following = Some(Following { backend, predicted_ms, left: FOLLOW_MAX });
        } else if !is_fast && ours.is_some() {
            self.following = None;
            record.wait = (2 * record.wait).clamp(1, SERIES_WAIT_MAX);
            record.left = record.wait;
        }
    }

    /// Ends the series of a backend that has left.
    pub(super) fn forget(&mut self, backend: BackendId) {
        self.following = self.following.filter(|following| following.backend != backend);
    }
}

impl Learned {
    /// The backend that gets a trial now, if one is due.
    pub(super) fn explore(&mut self, now: Instant, candidates: &Candidates<'_>) -> Option<Choice> {
        if let Some(backend) = self.explorer.followed()
            && self.units[backend.index()].in_flight == 0
            && self.units[backend.index()].is_open()
            && candidates.has(backend)
        {
            // A trial there was fast. More requests must show whether the backend has recovered.
            self.explorer.follow();
            self.explorer.spend(self.price_of_trial(backend.index()));
            return Some(Choice { backend, token: LEARNER | IDLE_TRIAL });
        }
        if now < self.explorer.look_at || !self.explorer.can_spend(TRIAL) {
            return None;
        }
        // The search covers all backends, so it runs at intervals and not for each request.
        self.explorer.look_at = now + IDLE_LOOKS_APART;
        let idle = (0..self.units.len()).find(|slot| {
            let unit = &self.units[*slot];
            let idle_ms = millis(now.since(unit.used_at));
            let wait_ms = IDLE_MIN_MS.max(IDLE_LATENCIES * self.pool.latency_ms);
            unit.in_flight == 0 && idle_ms > wait_ms && unit.is_open() && candidates.has(unit.id)
        })?;
        self.explorer.spend(self.price_of_trial(idle));
        Some(Choice { backend: self.units[idle].id, token: LEARNER | IDLE_TRIAL })
    }

    /// The tokens for a trial of a backend, by its cost and the mean latency of the pool.
    fn price_of_trial(&self, slot: usize) -> f64 {
        price(self.units[slot].cost, self.pool.latency_ms)
    }
}

/// Returns the tokens for a request to a backend whose cost is `cost_ms`, where `usual_ms` is the
/// mean latency of the pool.
fn price(cost_ms: f64, usual_ms: f64) -> f64 {
    if usual_ms > 0.0 { (cost_ms / usual_ms - 1.0).clamp(TRIAL, TRIAL_MAX) } else { TRIAL }
}

/// The minimum price of a trial, and the balance that it needs. The unit in which prices and the
/// balance are counted.
const TRIAL: f64 = 1.0;
/// The highest price, for a backend that fails every request. Every 3200 requests a trial shows
/// whether it has recovered. Chosen; a quarter of it and four times as much hardly change results
/// in random scenarios.
const TRIAL_MAX: f64 = 16.0;
/// The minimum idle time before a trial, ms. Chosen; halving or doubling it hardly changes results.
const IDLE_MIN_MS: f64 = 1000.0;
/// The minimum idle time before a trial, in mean latencies of the pool. Chosen; halving or doubling
/// it hardly changes results.
const IDLE_LATENCIES: f64 = 30.0;
/// Time between two searches for an idle backend. The work of a search grows with the number of
/// backends. Chosen; halving or doubling it hardly changes results.
const IDLE_LOOKS_APART: Duration = Duration::from_millis(50);
/// The maximum balance, tokens. Chosen; the run of [`learned`](super) does not reach it.
const TOKENS_MAX: f64 = 4.0;
/// The maximum number of requests in a series after a fast trial. Chosen; halving or doubling it
/// hardly changes results.
const FOLLOW_MAX: u32 = 16;
/// The maximum number of fast trials that start no series, after a series that ended in a slow
/// response. Chosen; halving or doubling it hardly changes results.
const SERIES_WAIT_MAX: u8 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    /// 200 requests earn one trial; more than 800 earn no more than four.
    #[test]
    fn earns_slowly() {
        let mut explorer = Explorer::new();
        explorer.configure(0.005);
        (0..199).for_each(|_| explorer.earn());
        assert!(!explorer.can_spend(TRIAL));
        (0..2).for_each(|_| explorer.earn());
        assert!(explorer.can_spend(TRIAL));
        (0..10_000).for_each(|_| explorer.earn());
        explorer.spend(TRIAL);
        assert!(explorer.can_spend(3.0) && !explorer.can_spend(3.01));
    }

    /// By hand: 30 ms where 10 are usual cost two tokens. A price is never below one or above
    /// sixteen. After a debt of fifteen the next trial is 3200 requests away.
    #[test]
    fn trials_have_a_price() {
        for (cost_ms, expected) in [(30.0, 2.0), (10.0, 1.0), (5.0, 1.0), (5000.0, 16.0)] {
            assert_eq!(price(cost_ms, 10.0), expected, "{cost_ms}");
        }
        assert_eq!(price(30.0, 0.0), 1.0, "nothing is usual yet");
        let mut explorer = Explorer::new();
        explorer.configure(0.005);
        (0..201).for_each(|_| explorer.earn());
        assert!(explorer.can_spend(TRIAL));
        explorer.spend(price(5000.0, 10.0));
        (0..3195).for_each(|_| explorer.earn());
        assert!(!explorer.can_spend(TRIAL));
        (0..10).for_each(|_| explorer.earn());
        assert!(explorer.can_spend(TRIAL));
    }

    /// A fast trial is followed by sixteen requests at most, and by none after a slow one. After a
    /// series that ends slowly, the next 1, then 2, 4 and 4 fast trials start no series.
    #[test]
    fn follows_fast_trials() {
        let (backend, other) = (BackendId::from_index(3), BackendId::from_index(4));
        let mut explorer = Explorer::new();
        let mut record = Trials::default();
        explorer.ended(backend, &mut record, 100.0, Some(50.0));
        assert_eq!(explorer.followed(), None);
        explorer.ended(backend, &mut record, 100.0, Some(49.0));
        explorer.ended(other, &mut record, 100.0, Some(51.0));
        for _ in 0..16 {
            assert_eq!(explorer.followed(), Some(backend));
            explorer.follow();
        }
        assert_eq!(explorer.followed(), None);
        explorer.ended(backend, &mut record, 100.0, Some(49.0));
        explorer.ended(backend, &mut record, 20.0, Some(49.0));
        assert_eq!(explorer.followed(), Some(backend), "compared with the first prediction");
        for wait in [1, 2, 4, 4] {
            explorer.ended(backend, &mut record, 20.0, None);
            for _ in 0..=wait {
                assert_eq!(explorer.followed(), None, "{wait}");
                explorer.ended(backend, &mut record, 100.0, Some(1.0));
            }
            assert_eq!(explorer.followed(), Some(backend), "{wait}");
        }
    }
}
