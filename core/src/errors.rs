//! Shares of errors over recent requests. Old requests are forgotten as new ones arrive, not with
//! time.

/// Requests and errors. Each new request reduces the weight of the earlier ones a little.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Errors {
    /// The weighted number of requests.
    pub(crate) requests: f64,
    /// The weighted number of errors among them.
    pub(crate) errors: f64,
}

impl Errors {
    /// No requests.
    pub(crate) const NONE: Self = Self { requests: 0.0, errors: 0.0 };

    /// Counts one request. The counts approach `memory` requests at most; `memory` is above 1.
    pub(crate) fn observe(&mut self, is_error: bool, memory: f64) {
        let kept = 1.0 - 1.0 / memory;
        self.requests = self.requests * kept + 1.0;
        self.errors = self.errors * kept + f64::from(is_error);
    }

    /// Reduces both counts by `share`, from 0 to 1.
    pub(crate) fn forget(&mut self, share: f64) {
        self.requests *= 1.0 - share;
        self.errors *= 1.0 - share;
    }

    /// The share of errors, 0 to 1, with one good request added, so that a single error is at most
    /// 1/2.
    pub(crate) fn share(&self) -> f64 {
        self.errors / (self.requests + 1.0)
    }

    /// The highest share of errors that these requests allow, 0 to 1 and above: three standard
    /// errors above the share seen.
    pub(crate) fn bound(&self) -> f64 {
        let (share, noise) = (self.share(), 1.0 / (self.requests + 1.0));
        share + 3.0 * ((share + noise) * noise).sqrt()
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

    /// By hand, with memory 20: an error and then a success are 0.95 of 1.95 requests, so the share
    /// is 0.95/2.95.
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
