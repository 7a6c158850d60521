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

#[cfg(test)]
mod tests {
    use super::*;

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
