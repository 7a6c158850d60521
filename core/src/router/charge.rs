//! Decides whether the end of a request counts against its backend or only against the request.
//! [`outlier`](crate::outlier) explains "hardly changes" and "changes no result" in the comments on
//! constants.
//!
//! The layout hints are explained in `router.rs`.
use std::time::Duration;

use super::Router;
use crate::backend::{Access, Backend, Comparison};
use crate::blame::Asker;
use crate::event::{Lease, Outcome, RequestFailure};
use crate::id::BackendId;
use crate::time::Instant;

impl Router {
    /// The backend that the next request with these groups (`asker`) must avoid, because another
    /// backend is to give a second opinion.
    pub fn second_opinion_on(&self, now: Instant, asker: Asker) -> Option<BackendId> {
        let not = self.blame.wants_other(asker.bounded())?;
        Some(not).filter(|not| self.has_other(now, &[*not]))
    }

    /// Whether a backend outside `tried` may take a request: it is up, not held, not ejected and
    /// not full. Backups count only while they are in use.
    pub fn has_other(&self, now: Instant, tried: &[BackendId]) -> bool {
        let access = self.table.lowest().and_then(|id| self.table.row(id)).map(|row| row.access);
        let backups_serve = access.is_some_and(Access::is_behind_others);
        self.has_free(now, tried, backups_serve)
    }

    /// Whether a retry would reach a backend outside `tried` that may take a request: like
    /// [`has_other`](Self::has_other), but an idle backup counts, since a retry goes there if every
    /// other backend was tried.
    ///
    /// A backend that counts as down is one too, unless eight backends were tried: it may have
    /// returned since its last ping.
    pub fn has_next(&self, now: Instant, tried: &[BackendId]) -> bool {
        let is_perhaps_back =
            |id| self.table.row(id).is_some_and(|row| row.access <= Access::Refusing);
        self.has_free(now, tried, true)
            || tried.len() < DOWN_TRIED_MAX
                && self.table.lowest_except(tried).is_some_and(is_perhaps_back)
    }

    fn has_free(&self, now: Instant, tried: &[BackendId], with_backups: bool) -> bool {
        let guards_itself = self.habits.guards_itself;
        // The table does not know which backends a policy with its own ejection has ejected.
        let is_out = |id| guards_itself && self.watch_of(id).is_some_and(|watch| !watch.is_in());
        let is_free = |id| {
            let backend = self.table.get(id);
            backend.is_some_and(|b| b.is_free_at(now) && (with_backups || !b.is_backup()))
                && !is_out(id)
        };
        let is_other = |id: &BackendId| !tried.contains(id) && is_free(*id);
        self.table.lowest_except(tried).is_some_and(is_free)
            || guards_itself && self.order.iter().any(is_other)
    }

    /// Returns the outcome that is charged to the backend. An error that the backend did not cause
    /// is not counted. A 4xx of a backend that sends far more of them than the others is a
    /// refusal: a broken release that sends 404 at once has done no work. The caller handles
    /// successful responses itself.
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
            Outcome::Answered { .. } | Outcome::Failed(RequestFailure::TimedOut) => {
                self.charge_error(now, lease, outcome)
            }
            // A broken connection is charged without asking for a second opinion.
            Outcome::Refused { .. } | Outcome::Failed(_) | Outcome::Abandoned => {
                self.blame.ended(now, lease.id, lease.asker, false);
                outcome
            }
        }
    }

    /// Counts a refusal that has no Retry-After. Its weight depends on the work of the other usable
    /// backends.
    pub(super) fn note_refusal(&mut self, now: Instant, id: BackendId, outcome: &Outcome) {
        if !matches!(outcome, Outcome::Refused { hold: None, .. }) {
            return;
        }
        let others = self.order.iter().filter(|other| **other != id && self.is_usable(**other));
        // Backups that are not in use have no work.
        let is_backup = self.table.get(id).is_some_and(|backend| backend.is_backup());
        let others = others.filter_map(|other| self.table.get(*other));
        let works = others.filter(|other| other.is_backup() == is_backup).map(Backend::at_work);
        let (sum, count) =
            works.fold((0.0, 0.0), |(sum, count), work| (sum + f64::from(work), count + 1.0));
        let others = if count > 0.0 { sum / count } else { 0.0 };
        let rules = &self.rules;
        self.table.update(id, |backend| backend.turned_one_away(now, others, rules));
    }

    fn charge_error(&mut self, now: Instant, lease: &Lease, outcome: Outcome) -> Outcome {
        let has_other = self.has_other(now, &[lease.backend]);
        let half_life = self.rules.errors.half_life;
        let (backend, id, asker) = (lease.backend, lease.id, lease.asker);
        let counts = self.blame.counts(now, backend, id, asker, half_life, has_other);
        if counts { outcome } else { Outcome::Abandoned }
    }

    fn charge_client_error(
        &mut self,
        now: Instant,
        lease: &Lease,
        outcome: Outcome,
        status: u16,
    ) -> Outcome {
        let half_life = self.rules.errors.half_life;
        let (backend, id, asker) = (lease.backend, lease.id, lease.asker);
        // A 4xx that only one client among many provokes does not count. No second opinion is
        // needed, because the shares of the other backends are compared.
        if !self.declines.counts(now, backend, id, asker, half_life, false) {
            return outcome;
        }
        let known = self.table.get(backend).and_then(|facts| {
            let Comparison { at, stands_out, .. } = facts.comparison();
            // The last comparison of a backend that has just begun to send 4xx is out of date, so
            // the next one comes sooner.
            let is_row = facts.declines_in_row() >= ROW_MIN;
            let is_sudden = !stands_out && (is_row || declines_most(facts));
            let apart = if is_sudden { COMPARED_APART_MIN } else { COMPARED_APART };
            (now.since(at) < apart).then_some(stands_out)
        });
        // The comparisons with the other backends are the most expensive tests, so they come last.
        let stands_out = known == Some(true)
            || self.still_stands_out(backend)
            || known.unwrap_or_else(|| self.compare(now, backend));
        let routed_at = lease.routed_at;
        self.table.update(backend, |backend| backend.declined(now, routed_at, half_life));
        if stands_out { Outcome::Refused { status, hold: None } } else { outcome }
    }

    /// Whether a backend sends 4xx for a larger share of its requests than the others do. One of
    /// four tests is enough. A share must exceed the other one by some standard errors and at least
    /// [`GAP_MIN`].
    ///
    /// 1. It rarely sent 4xx before, now sends them for most of its latest requests, and for a
    ///    larger share than the best backend. If most of the backends begin to send 4xx at the same
    ///    time, the median is one of theirs. The best backend is therefore the one to compare with.
    /// 2. Its share of all recent requests exceeds the median of the others. This finds small
    ///    differences.
    /// 3. Its current run of 4xx is unlikely at the others' share.
    /// 4. Its share of the latest requests exceeds the median of the others. This finds sudden
    ///    changes.
    fn compare(&mut self, now: Instant, id: BackendId) -> bool {
        let half_life = self.rules.errors.half_life;
        let share = |backend: &Backend| backend.decline_share(now, half_life);
        let late = Backend::decline_share_of_late;
        let has_turned = self.table.get(id).is_some_and(|facts| {
            declines_most(facts) && (facts.comparison().has_turned || facts.seldom_declined())
        }) && self.is_above(id, ERRORS_APART_OF_LATE, late, best) == Some(true);
        let stands_out = has_turned
            || self.is_above(id, ERRORS_APART, share, median).unwrap_or(false)
            || self.is_unlikely_row(id)
            || self
                .is_above(id, ERRORS_APART_OF_LATE, late, median)
                // While one backend gets all requests, the others have no figures. It stands out if
                // it sends 4xx for most of its latest requests and another backend can take some:
                // that one must get a chance to do better.
                .unwrap_or_else(|| {
                    self.table.get(id).is_some_and(declines_most) && self.has_other(now, &[id])
                });
        let comparison = Comparison { at: now, stands_out, has_turned };
        self.table.update(id, |backend| backend.set_comparison(comparison));
        stands_out
    }

    /// Whether a backend stood out when it was last compared, has sent only 4xx since, and the
    /// others hardly send any. The first 4xx of a trial then shows that nothing has changed.
    /// Without this rule a trial took up to six requests.
    fn still_stands_out(&self, id: BackendId) -> bool {
        let facts = self.table.get(id);
        facts.is_some_and(|facts| facts.comparison().stands_out && facts.declines_in_row() > 0)
            && self
                .of_others(id, Backend::decline_share_of_late, median)
                .is_some_and(|(share, _)| share <= GAP_MIN)
    }

    /// Whether a backend's run of 4xx is more than chance: at the median share of the others, a run
    /// of this length has a chance below 1 in [`ROW_ODDS`].
    fn is_unlikely_row(&self, id: BackendId) -> bool {
        let Some(row) = self.table.get(id).map(Backend::declines_in_row) else { return false };
        let usual = self.of_others(id, Backend::decline_share_of_late, median);
        row >= ROW_MIN
            && usual.is_some_and(|(share, _)| {
                libm::pow(share + ROW_MARGIN, row.into()) * ROW_ODDS < 1.0
            })
    }

    /// Whether a backend's share exceeds that of another one by `errors` standard errors and at
    /// least [`GAP_MIN`]; `None` if the others are unknown. `which` selects the other backend by
    /// its rank, see [`of_others`](Self::of_others). `share` returns a share and the number of its
    /// requests.
    fn is_above(
        &self,
        id: BackendId,
        errors: f64,
        share: impl Fn(&Backend) -> (f64, f64),
        which: fn(usize) -> usize,
    ) -> Option<bool> {
        let own = share(self.table.get(id)?);
        let other = self.of_others(id, share, which)?;
        // The variance of a binomial share, with the two added requests of `decline_share`.
        let variance = |(share, requests): (f64, f64)| share * (1.0 - share) / (requests + 2.0);
        let error = (variance(own) + variance(other)).sqrt();
        Some(own.0 - other.0 > (errors * error).max(GAP_MIN))
    }

    /// The share and the number of requests of one of the other backends, by its place among their
    /// shares in ascending order; `None` if nothing is known of the others.
    fn of_others(
        &self,
        id: BackendId,
        share: impl Fn(&Backend) -> (f64, f64),
        place: fn(usize) -> usize,
    ) -> Option<(f64, f64)> {
        let others = self.order.iter().filter(|other| **other != id);
        let others = others.filter_map(|other| self.table.get(*other)).map(share);
        let mut others: Vec<_> = others.filter(|(_, requests)| *requests >= REQUESTS_MIN).collect();
        others.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        others.get(place(others.len())).copied()
    }
}

/// The place of the median among `count` shares: the lower one if `count` is even, so that a second
/// backend that sends 4xx does not excuse the first.
const fn median(count: usize) -> usize {
    count.saturating_sub(1) / 2
}

/// The place of the smallest share.
const fn best(_count: usize) -> usize {
    0
}

/// Whether more than [`DECLINES_MANY`] of a backend's latest requests got a 4xx.
fn declines_most(backend: &Backend) -> bool {
    backend.decline_share_of_late().0 > DECLINES_MANY
}

/// The number of backends that one request tries at most while each refuses the connection and no
/// backend is up. Chosen: a refusal is quick, and the retry budget bounds all of them together.
const DOWN_TRIED_MAX: usize = 8;
/// The minimum time between two comparisons of a backend. Chosen; halving or doubling it changes no
/// result.
const COMPARED_APART: Duration = Duration::from_millis(100);
/// The minimum time between two comparisons of a backend that sends many 4xx and is not known to
/// stand out. Chosen; halving or doubling it hardly changes results.
const COMPARED_APART_MIN: Duration = Duration::from_millis(5);
/// A backend is compared at once if the share of 4xx among its latest requests exceeds this.
/// Chosen; halving or doubling it hardly changes results.
const DECLINES_MANY: f64 = 0.4;
/// The minimum length of a run of 4xx that is compared with chance. Because of [`ROW_MARGIN`],
/// shorter ones are never unlikely enough. Chosen; halving or doubling it hardly changes results.
const ROW_MIN: u32 = 4;
/// Added to the others' share, because 4xx are correlated. Chosen; halving or doubling it hardly
/// changes results.
const ROW_MARGIN: f64 = 0.05;
/// A run of 4xx is unlikely if its chance is below 1 in this number. Chosen; halving or doubling it
/// changes no result.
const ROW_ODDS: f64 = 1e5;
/// The minimum number of recent requests for which another backend is part of a comparison. Chosen;
/// halving or doubling it changes no result.
const REQUESTS_MIN: f64 = 1.0;
/// The minimum difference between two shares that counts, however certain it is. Chosen; halving or
/// doubling it changes no result.
const GAP_MIN: f64 = 0.1;
/// Standard errors of a significant difference among all recent requests. Chosen; halving or
/// doubling it changes no result.
const ERRORS_APART: f64 = 3.0;
/// Standard errors of a significant difference among the latest requests. They are compared often,
/// so a wider margin keeps chance out. Chosen; halving or doubling it hardly changes results.
const ERRORS_APART_OF_LATE: f64 = 5.0;
