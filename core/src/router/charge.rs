//! Separates the end of a request into effects on its backend and on the request only.
use std::time::Duration;

use super::Router;
use crate::backend::{Backend, Comparison};
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

    /// Counts a refusal that names no time, by what the other usable backends have to work on.
    #[cold]
    pub(super) fn note_refusal(&mut self, now: Instant, id: BackendId, outcome: &Outcome) {
        if !matches!(outcome, Outcome::Refused { hold: None, .. }) {
            return;
        }
        let others = self.order.iter().filter(|other| **other != id && self.is_usable(**other));
        let works = others.filter_map(|other| self.table.get(*other)).map(Backend::at_work);
        let (sum, count) =
            works.fold((0.0, 0.0), |(sum, count), work| (sum + f64::from(work), count + 1.0));
        let others = if count > 0.0 { sum / count } else { 0.0 };
        let rules = &self.rules;
        self.table.update(id, |backend| backend.turned_one_away(now, others, rules));
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
        let known = self.table.get(backend).and_then(|facts| {
            let Comparison { at, stands_out } = facts.comparison();
            // One that has just begun to answer 4xx was compared before that.
            let is_sudden = !stands_out && declines_most(facts);
            let apart = if is_sudden { COMPARED_APART_MIN } else { COMPARED_APART };
            (now.since(at) < apart).then_some(stands_out)
        });
        let stands_out = known.unwrap_or_else(|| self.compare(now, backend));
        self.table.update(backend, |backend| backend.declined(now, half_life));
        if stands_out { Outcome::Refused { status, hold: None } } else { outcome }
    }

    /// Whether a backend answers a larger share of its requests with 4xx than the others do: than
    /// their median, without itself, by so many standard errors and a tenth. All recent requests
    /// are looked at, which tell small differences, and the latest ones, which tell sudden ones.
    fn compare(&mut self, now: Instant, id: BackendId) -> bool {
        let half_life = self.rules.errors.half_life;
        let share = |backend: &Backend| backend.decline_share(now, half_life);
        let stands_out = self.is_above(id, ERRORS_APART, share).unwrap_or(false)
            || self
                .is_above(id, ERRORS_APART_OF_LATE, Backend::decline_share_of_late)
                // Where it gets all requests, the others have to show that they do better.
                .unwrap_or_else(|| {
                    self.table.get(id).is_some_and(declines_most) && self.has_other(now, &[id])
                });
        self.table.update(id, |backend| backend.set_comparison(Comparison { at: now, stands_out }));
        stands_out
    }

    /// Whether a backend's share, of so many requests, is above the median of the others' by so
    /// many standard errors and a tenth; `None` where nothing is known of the others. Of an even
    /// number the median is the lower one, so that one more that answers 4xx excuses nobody.
    fn is_above(
        &self,
        id: BackendId,
        errors: f64,
        share: impl Fn(&Backend) -> (f64, f64),
    ) -> Option<bool> {
        let mut others: Vec<(f64, f64)> = Vec::with_capacity(self.order.len());
        let mut own = (0.0, 0.0);
        for other in &self.order {
            let Some(backend) = self.table.get(*other) else { continue };
            let (share, requests) = share(backend);
            if *other == id {
                own = (share, requests);
            } else if requests >= REQUESTS_MIN {
                others.push((share, requests));
            }
        }
        others.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        let (median, requests) = *others.get(others.len().checked_sub(1)? / 2)?;
        let variance = |share: f64, requests: f64| share * (1.0 - share) / (requests + 2.0);
        let error = (variance(own.0, own.1) + variance(median, requests)).sqrt();
        Some(own.0 - median > (errors * error).max(GAP_MIN))
    }
}

/// Whether a good part of a backend's latest requests were answered 4xx.
fn declines_most(backend: &Backend) -> bool {
    backend.decline_share_of_late().0 > DECLINES_MANY
}

/// Backends are compared no more often than this.
const COMPARED_APART: Duration = Duration::from_millis(100);
/// The same for one that answers many 4xx and is not known to stand out.
const COMPARED_APART_MIN: Duration = Duration::from_millis(5);
const DECLINES_MANY: f64 = 0.4;
/// Recent requests of a backend that another one can be compared with.
const REQUESTS_MIN: f64 = 1.0;
const GAP_MIN: f64 = 0.1;
/// Standard errors that a share is apart by.
const ERRORS_APART: f64 = 3.0;
/// The same of the latest requests, which are looked at time and again.
const ERRORS_APART_OF_LATE: f64 = 5.0;
