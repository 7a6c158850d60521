//! Shares of errors: counts that forget by requests, their own or the pool's, not by time.

/// Requests and errors, both forgotten a little with each request.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Errors {
    /// Requests that count.
    pub(crate) requests: f64,
    /// Errors among them.
    pub(crate) errors: f64,
}

impl Errors {
    /// Nothing seen.
    pub(crate) const NONE: Self = Self { requests: 0.0, errors: 0.0 };

    /// A request ended; `memory` is how many count at most.
    pub(crate) fn observe(&mut self, is_error: bool, memory: f64) {
        let kept = 1.0 - 1.0 / memory;
        self.requests = self.requests * kept + 1.0;
        self.errors = self.errors * kept + f64::from(is_error);
    }

    /// A share of what was seen says nothing any more.
    pub(crate) fn forget(&mut self, share: f64) {
        self.requests *= 1.0 - share;
        self.errors *= 1.0 - share;
    }

    /// Errors of requests, with one good request beside those seen.
    pub(crate) fn share(&self) -> f64 {
        self.errors / (self.requests + 1.0)
    }
}

/// Rare events among the latest requests. The caller counts the requests, and passes the count
/// with each event: a request without an event costs nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rare {
    seen: Errors,
    /// Requests that had ended at the latest event, including its own.
    ended: u64,
}

impl Rare {
    /// Records an event. `ended` requests had ended before it.
    pub(crate) fn observe(&mut self, ended: u64, memory: f64) {
        self.seen = self.at(ended, memory);
        self.seen.observe(true, memory);
        self.ended = ended + 1;
    }

    /// Requests and events when `ended` requests have ended.
    pub(crate) fn at(&self, ended: u64, memory: f64) -> Errors {
        let others = ended.saturating_sub(self.ended) as f64;
        let kept = libm::pow(1.0 - 1.0 / memory, others);
        let requests = self.seen.requests * kept + memory * (1.0 - kept);
        Errors { requests, errors: self.seen.errors * kept }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts that are updated only at events equal counts that are updated at each request.
    #[test]
    fn rare_events_count_like_all() {
        let (mut rare, mut plain) = (Rare::default(), Errors::default());
        let is_event = |number: u64| matches!(number, 3 | 4 | 40);
        for number in 0..100 {
            if is_event(number) {
                rare.observe(number, 20.0);
            }
            plain.observe(is_event(number), 20.0);
            let seen = rare.at(number + 1, 20.0);
            assert!((seen.requests - plain.requests).abs() < 1e-9, "{number}");
            assert!((seen.errors - plain.errors).abs() < 1e-9, "{number}");
        }
    }

    /// By hand, memory 20: an error, then a good one: 0.95 of 1.95 requests, 0.95/2.95.
    #[test]
    fn shares_by_hand() {
        let mut errors = Errors::default();
        assert_eq!(errors.share(), 0.0);
        errors.observe(true, 20.0);
        assert_eq!(errors.share(), 0.5);
        errors.observe(false, 20.0);
        assert!((errors.share() - 0.95 / 2.95).abs() < 1e-12);
        for _ in 0..10_000 {
            errors.observe(true, 20.0);
        }
        assert!((errors.requests - 20.0).abs() < 1e-9);
    }
}
