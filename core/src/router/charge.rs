//! Separates the end of a request into effects on its backend and on the request only.
use std::time::Duration;

use super::Router;
use crate::backend::Comparison;
use crate::event::{Lease, Outcome, RequestFailure};
use crate::id::BackendId;
use crate::time::Instant;

impl Router {
    /// Returns the outcome that counts. An error that is not the backend's fault is neutral, and a
    /// 4xx of a backend that sends far more of them than the others is a refusal: a broken release
    /// that sends 404 at once has done no work. Good responses need no check.
    #[cold]
    pub(super) fn charge(&mut self, now: Instant, lease: &Lease, outcome: Outcome) -> Outcome {
        match outcome {
            Outcome::Answered { status: ..400 | 408, .. } => {
                self.blame.ended(now, lease.id, lease.asker, true);
                outcome
            }
            Outcome::Answered { status, .. } if status < 500 => {
                self.blame.ended(now, lease.id, lease.asker, true);
                self.charge_client_error(now, lease, outcome, status)
            }
            // A connection that breaks is the backend's own.
            Outcome::Answered { .. } | Outcome::Failed(RequestFailure::TimedOut) => {
                self.charge_error(now, lease, outcome)
            }
            Outcome::Refused { .. } | Outcome::Failed(_) | Outcome::Abandoned => {
                self.blame.ended(now, lease.id, lease.asker, false);
                outcome
            }
        }
    }

    #[cold]
    fn charge_error(&mut self, now: Instant, lease: &Lease, outcome: Outcome) -> Outcome {
        let has_other = self.has_other(now, &[lease.backend]);
        let half_life = self.rules.errors.half_life;
        let (backend, id, asker) = (lease.backend, lease.id, lease.asker);
        let counts = self.blame.counts(now, backend, id, asker, half_life, has_other);
        if counts { outcome } else { Outcome::Abandoned }
    }

    #[cold]
    fn charge_client_error(
        &mut self,
        now: Instant,
        lease: &Lease,
        outcome: Outcome,
        status: u16,
    ) -> Outcome {
        let half_life = self.rules.errors.half_life;
        let (backend, id, asker) = (lease.backend, lease.id, lease.asker);
        // Those of one client among many are its own matter. No second opinion: the others' shares
        // are compared with.
        if !self.declines.counts(now, backend, id, asker, half_life, false) {
            return outcome;
        }
        let last = self.table.get(backend).map(|backend| backend.comparison());
        let stands_out = match last {
            Some(last) if now.since(last.at) < COMPARED_APART => last.stands_out,
            _ => self.compare(now, backend),
        };
        self.table.update(backend, |backend| backend.declined(now, half_life));
        if stands_out { Outcome::Refused { status, hold: None } } else { outcome }
    }

    /// Whether a backend answers a larger share of its requests with 4xx than the others do: than
    /// their median, without itself, by three standard errors and a tenth.
    fn compare(&mut self, now: Instant, id: BackendId) -> bool {
        let half_life = self.rules.errors.half_life;
        let mut others: Vec<(f64, f64)> = Vec::with_capacity(self.order.len());
        let mut own = (0.0, 0.0);
        for other in &self.order {
            let Some(backend) = self.table.get(*other) else { continue };
            let (share, requests) = backend.decline_share(now, half_life);
            if *other == id {
                own = (share, requests);
            } else if requests >= REQUESTS_MIN {
                others.push((share, requests));
            }
        }
        others.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        let stands_out = others.get(others.len() / 2).is_some_and(|(median, requests)| {
            let variance = |share: f64, requests: f64| share * (1.0 - share) / (requests + 2.0);
            let error = (variance(own.0, own.1) + variance(*median, *requests)).sqrt();
            own.0 - median > (3.0 * error).max(GAP_MIN)
        });
        self.table.update(id, |backend| backend.set_comparison(Comparison { at: now, stands_out }));
        stands_out
    }
}

/// Backends are compared no more often than this.
const COMPARED_APART: Duration = Duration::from_millis(100);
/// Recent requests of a backend that another one can be compared with.
const REQUESTS_MIN: f64 = 1.0;
const GAP_MIN: f64 = 0.1;
