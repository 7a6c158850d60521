//! The exploration budget: what may be spent on backends that the model would not choose.
//!
//! Each request earns 0.005 tokens (configurable), four at most. A trial costs 1: a request to a
//! backend that was idle for the longer of 1 s and 30 of the pool's mean latencies (its own, while
//! it was slow, would tell of its recovery late). A trial that is answered in under half of the
//! predicted time earns its backend up to 16 requests more, one at a time, for as long as each is
//! answered within the time predicted before the first. Each such series that ends in a slow answer
//! makes the next one of this backend wait for twice as many trials, up to four: one that is fast
//! mostly and very slow now and then is not to be taken for one that has recovered every time.
use crate::id::BackendId;
use crate::time::Instant;

/// The budget, and the trial that turned out well.
#[derive(Clone, Debug)]
pub(super) struct Explorer {
    rate: f64,
    tokens: f64,
    /// When a look for idle backends is worth while again.
    pub(super) look_at: Instant,
    following: Option<Following>,
}

/// Results of a backend's series of trials.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Trials {
    /// Trials to be left without a series after one that ended in a slow answer.
    wait: u8,
    /// Trials left of these.
    left: u8,
}

/// A backend that answered a trial much sooner than predicted.
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

    /// A request earns its share.
    pub(super) fn earn(&mut self) {
        self.tokens = (self.tokens + self.rate).min(TOKENS_MAX);
    }

    pub(super) const fn can_spend(&self, cost: f64) -> bool {
        self.tokens >= cost
    }

    pub(super) fn spend(&mut self, cost: f64) {
        self.tokens -= cost;
    }

    /// The backend that has earned more requests.
    pub(super) fn followed(&self) -> Option<BackendId> {
        self.following.map(|following| following.backend)
    }

    /// One more request goes to the followed backend.
    pub(super) fn follow(&mut self) {
        if let Some(following) = &mut self.following {
            following.left -= 1;
            if following.left == 0 {
                self.following = None;
            }
        }
    }

    /// A trial or a request that followed one ended.
    pub(super) fn ended(
        &mut self,
        backend: BackendId,
        record: &mut Trials,
        predicted_ms: f64,
        good_ms: Option<f64>,
    ) {
        let ours = self.following.filter(|following| following.backend == backend);
        let predicted_ms = ours.map_or(predicted_ms, |following| following.predicted_ms);
        // A first trial has to be clearly faster, since one fast answer may be luck. Those that follow
        // only have to stay within what was predicted.
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

    /// A backend left.
    pub(super) fn forget(&mut self, backend: BackendId) {
        self.following = self.following.filter(|following| following.backend != backend);
    }
}

/// Cost of a trial: the unit of the budget.
pub(super) const TRIAL: f64 = 1.0;
/// Trials that a quiet time saves up, at most. Chosen; the run of [`learned`](super) does not reach
/// it.
const TOKENS_MAX: f64 = 4.0;
/// Requests that follow a trial that went well. Chosen; insensitive from half to twice.
const FOLLOW_MAX: u32 = 16;
/// Trials without a series after one that ended in a slow answer, at most.
/// Chosen; insensitive from half to twice.
const SERIES_WAIT_MAX: u8 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    /// 200 requests earn one trial, and more than 800 no more than four.
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

    /// A fast trial is followed up sixteen times at most, and no longer once one is slow.
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
