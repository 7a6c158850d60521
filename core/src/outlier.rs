//! Ejection by live traffic: a backend whose requests fail while those of others do not gets no
//! more for a while, under every policy.
//!
//! | standing | left by | for |
//! |---|---|---|
//! | in | failures well above those of the others: three in a row (two if no other fails) or 2.5 of the last 20 | ejected |
//! | ejected | a good ping after the back-off | probation |
//! | ejected, probation | the others failing alike, or worse without it (regret) | in |
//! | probation | enough good requests in a row, one at a time; good pings stand for all but the last | in, slow start |
//! | probation | a failure, and more than are usual with the others | ejected, eight times as long |
//!
//! "Well above" is more than 0.1 + 3 times the median share of the other backends, each with one
//! good request credited, and a failure beside those of all; where nothing is known of them, it takes five in a row. The back-off is 250 ms, 2 s, then 8 s, and starts again after
//! half a minute of calm. From the fourth ejection in a row on it is a quarter of the time since the
//! first one, 8 to 30 s: what has failed for long will most likely fail the next trial, too, and
//! each trial is a request that fails. Where the others fail or refuse so many requests that a trial
//! is little beside them, it ends early. So many good requests are 4, doubled by each relapse up to
//! 32, or as many as there are in [`PROBATION_TIME`]. (Envoy ejects after 5 in a row for 30 s, HAProxy's `observe`
//! after 10; three with the comparison lost fewer requests in the lab and ejected no good backend.)
//!
//! [`Watch`] follows one backend. [`Regret`] follows the pool: an ejection moves load, and where
//! the others fail more by that than it saved, it is taken back. It needs no knowledge of
//! capacities, only what happens.
use std::time::Duration;

use crate::errors::Errors;
use crate::time::Instant;

/// Follows one backend's failures.
#[derive(Clone, Debug)]
pub(crate) struct Watch {
    pub(crate) standing: Standing,
    /// Requests in flight allowed by slow start; any number from [`WINDOW_OPEN`] on.
    pub(crate) window: u32,
    /// The window at its return.
    slow: u32,
    /// The last twenty or so requests.
    pub(crate) recent: Errors,
    pub(crate) errors_in_row: u32,
    /// Times that it was ejected.
    pub(crate) ejections: u64,
    /// When the latest request that failed was sent.
    erred_at: Instant,
    /// The latest failure.
    failed_at: Instant,
    /// Times that the back-off was made eight times as long.
    relapses: u32,
    /// Until when it was last ejected, or when it returned from it.
    troubled_at: Option<Instant>,
    /// The first of the ejections that followed each other.
    since: Instant,
}

/// Whether a backend is trusted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Standing {
    /// It gets requests.
    In,
    /// It gets none while another backend can take them.
    Ejected {
        /// From then on a good ping leads to probation.
        until: Instant,
    },
    /// It gets one request at a time.
    Probation {
        /// Good requests and pings in a row.
        good: u32,
        /// Good ones that bring it back.
        needed: u32,
        /// Failures that were put up with.
        bad: u32,
        /// Whether its one request is out.
        is_out: bool,
        /// When the probation began.
        since: Instant,
    },
}

impl Watch {
    /// A backend whose window is this wide, and `slow` wide when it returns.
    pub(crate) const fn new(window: u32, slow: u32) -> Self {
        Self {
            standing: Standing::In,
            window,
            slow,
            recent: Errors::NONE,
            errors_in_row: 0,
            ejections: 0,
            erred_at: Instant::ZERO,
            failed_at: Instant::ZERO,
            relapses: 0,
            troubled_at: None,
            since: Instant::ZERO,
        }
    }

    pub(crate) const fn is_in(&self) -> bool {
        matches!(self.standing, Standing::In)
    }

    /// Whether good answers change something: until the last failures are forgotten.
    pub(crate) const fn is_troubled(&self) -> bool {
        !self.is_in() || self.recent.errors > 0.0 || self.window < WINDOW_OPEN
    }

    /// Whether a good answer changes nothing but the count of requests.
    #[inline]
    pub(crate) const fn is_calm(&self) -> bool {
        !self.is_troubled() && self.errors_in_row == 0
    }

    /// A good answer while [calm](Self::is_calm).
    pub(crate) fn answered_again(&mut self) {
        self.recent.observe(false, RECENT);
    }

    /// A good answer to a request sent then. One that was sent before the latest failure is old
    /// news: it ends no row of failures.
    pub(crate) fn succeeded(&mut self, sent_at: Instant) {
        if sent_at >= self.erred_at {
            self.errors_in_row = 0;
        }
        self.recent.observe(false, RECENT);
        if self.recent.errors < FORGOTTEN {
            self.recent.errors = 0.0;
        }
        if self.window < WINDOW_OPEN {
            self.widen(self.window + 1);
        }
    }

    /// A failure of a request sent then; returns whether the backend is to be ejected, as far as it
    /// goes, where the others' share of failures is `others`; `None` where nothing is known of
    /// them.
    pub(crate) fn failed(
        &mut self,
        now: Instant,
        sent_at: Instant,
        others: Option<Others>,
    ) -> bool {
        self.failed_at = now;
        self.erred_at = self.erred_at.max(sent_at);
        self.errors_in_row = self.errors_in_row.saturating_add(1);
        self.recent.observe(true, RECENT);
        let Some(others) = others else {
            return self.errors_in_row >= ERRORS_IN_ROW_ALONE;
        };
        // If failures are so rare, two in a row are not chance, whatever succeeded before.
        others.are_calm() && self.errors_in_row >= ERRORS_IN_ROW_CALM
            || self.is_worse_than(others)
                && (self.errors_in_row >= ERRORS_IN_ROW || self.recent.errors >= ERRORS_RECENT)
    }

    /// Whether its last answers were failures, a moment ago.
    pub(crate) fn is_failing(&self, now: Instant) -> bool {
        self.errors_in_row > 0 && now.since(self.failed_at) < FAILING_TIME
    }

    /// Whether its failures are well above those of the others.
    pub(crate) fn is_worse_than(&self, others: Others) -> bool {
        self.recent.share() > 3.0 * (others.share + 1.0 / (others.requests + 1.0)) + 0.1
    }

    /// It gets no more requests for a while.
    pub(crate) fn eject(&mut self, now: Instant) {
        let is_relapse = self.troubled_at.is_some_and(|at| now.since(at) < CALM);
        self.relapses = if is_relapse { (self.relapses + 1).min(RELAPSES_MAX) } else { 0 };
        if !is_relapse {
            self.since = now;
        }
        self.ejections += 1;
        let wait = if self.relapses < RELAPSES_MAX {
            (BACK_OFF * (1 << (3 * self.relapses))).min(BACK_OFF_MAX)
        } else {
            (now.since(self.since) / BACK_OFF_SHARE).clamp(BACK_OFF_MAX, BACK_OFF_LONG)
        };
        let until = now + wait;
        self.troubled_at = Some(until);
        self.standing = Standing::Ejected { until };
    }

    /// It is needed: its back-off is over.
    pub(crate) const fn call_back(&mut self, now: Instant) {
        if let Standing::Ejected { until } = &mut self.standing
            && until.as_nanos() > now.as_nanos()
        {
            *until = now;
        }
    }

    /// A good ping; returns whether the standing changed: the back-off is over.
    pub(crate) fn ping_answered(&mut self, now: Instant) -> bool {
        match &mut self.standing {
            Standing::Ejected { until } if now >= *until => {
                let needed = (PROBATION << self.relapses).min(PROBATION_MAX);
                self.standing =
                    Standing::Probation { good: 0, needed, bad: 0, is_out: false, since: now };
                true
            }
            // With hardly any requests, pings carry all steps but the last.
            Standing::Probation { good, needed, is_out: false, .. } => {
                *good = (*good + 1).min(*needed - 1);
                false
            }
            Standing::In if self.window < WINDOW_OPEN && self.troubled_at.is_some() => {
                self.widen(2 * self.window);
                false
            }
            _ => false,
        }
    }

    /// Whether pings are to come more often: they are part of its way back.
    pub(crate) const fn wants_pings(&self) -> bool {
        !self.is_in() || self.window < WINDOW_OPEN && self.troubled_at.is_some()
    }

    /// Whether one request may go there to show how it does.
    pub(crate) const fn wants_trial(&self) -> bool {
        matches!(self.standing, Standing::Probation { is_out: false, .. })
    }

    /// That request goes there.
    pub(crate) const fn try_out(&mut self) {
        if let Standing::Probation { is_out, .. } = &mut self.standing {
            *is_out = true;
        }
    }

    /// A request on probation ended; `None` when it says nothing. Where the others fail now and
    /// then, too, a failure is put up with: with 5 % of them no probation of 32 requests would end.
    pub(crate) fn probation_ended(
        &mut self,
        now: Instant,
        is_good: Option<bool>,
        others: Option<Others>,
    ) {
        let Standing::Probation { good, needed, bad, since, .. } = self.standing else {
            return;
        };
        let is_over = good + 1 >= needed || now.since(since) >= PROBATION_TIME;
        let common = others.map_or(0.0, |others| others.share);
        let usual = 1.0 + 3.0 * common * f64::from(good + bad);
        let is_usual = common >= COMMON_SHARE && f64::from(bad) < usual;
        let (good, bad) = match is_good {
            Some(false) if !is_usual => return self.eject(now),
            Some(true) if is_over => return self.come_back(now),
            Some(false) => (good, bad + 1),
            Some(true) => (good + 1, bad),
            None => (good, bad),
        };
        self.standing = Standing::Probation { good, needed, bad, is_out: false, since };
    }

    /// Trusted again: its failures are forgotten, and slow start begins.
    pub(crate) fn come_back(&mut self, now: Instant) {
        self.standing = Standing::In;
        self.troubled_at = Some(now);
        self.recent = Errors::NONE;
        self.errors_in_row = 0;
        self.window = self.slow;
    }

    /// It was down and is up: what it failed before is of the past, and slow start begins.
    pub(crate) fn came_up(&mut self, now: Instant) {
        if !self.is_in() {
            self.come_back(now);
        }
        self.recent = Errors::NONE;
        self.errors_in_row = 0;
        self.window = self.window.min(self.slow);
    }

    /// The standing as plain data.
    pub(crate) fn view(&self, now: Instant) -> StandingView {
        match self.standing {
            Standing::In if self.window < WINDOW_OPEN => {
                StandingView::SlowStart { window: self.window }
            }
            Standing::In => StandingView::In,
            Standing::Ejected { until } => StandingView::Ejected { left: until.since(now) },
            Standing::Probation { good, needed, .. } => StandingView::Probation { good, needed },
        }
    }

    fn widen(&mut self, window: u32) {
        self.window = if window >= WINDOW_OPEN { u32::MAX } else { window };
    }
}

/// Whether a backend is trusted, by the requests that it had.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum StandingView {
    /// It gets requests.
    In,
    /// It gets a few, and more with each one that is answered well.
    SlowStart {
        /// Requests in flight that it may have.
        window: u32,
    },
    /// It gets none for at least this long.
    Ejected {
        /// Until a good ping leads to probation.
        left: Duration,
    },
    /// It gets one at a time.
    Probation {
        /// Good ones in a row.
        good: u32,
        /// Good ones that bring it back.
        needed: u32,
    },
}

/// Failures of the other backends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Others {
    /// The median of their shares of failures: of an even number the lower one. One backend that
    /// fails everything so cannot excuse itself.
    pub(crate) share: f64,
    /// Requests of all of them: how much the share is worth.
    pub(crate) requests: f64,
}

impl Others {
    /// The others, given as requests and failures of each; `None` where none has had a few
    /// requests.
    pub(crate) fn new(each: impl Iterator<Item = Errors>, scratch: &mut Vec<f64>) -> Option<Self> {
        scratch.clear();
        let mut requests = 0.0;
        for errors in each.filter(|errors| errors.requests >= KNOWN_REQUESTS) {
            requests += errors.requests;
            scratch.push(errors.share());
        }
        let middle = scratch.len().checked_sub(1)? / 2;
        let share = *scratch.select_nth_unstable_by(middle, f64::total_cmp).1;
        Some(Self { share, requests })
    }

    /// Whether failures are rare with them.
    pub(crate) const fn are_calm(&self) -> bool {
        self.share < CALM_SHARE && self.requests >= CALM_REQUESTS
    }
}

/// Whether `ejected` backends out of `of` are within the cap: half of them.
pub(crate) const fn is_within_cap(ejected: usize, of: usize) -> bool {
    2 * ejected <= of
}

/// Whether ejections pay: what the others do without the ejected ones against what these failed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Regret {
    /// The share of all requests that failed or were refused, what the ejected ones saved included.
    bad_before: f64,
    /// The latency of the others before, and what they may add to it, ms: what is saved, where a
    /// failure is charged as everywhere.
    latency_max_ms: f64,
    /// Requests since the last ejection, and those that failed or were refused.
    since: Errors,
    /// The latency of those that were answered well, ms.
    latency_ms: f64,
    /// Requests that failed or were refused since the last ejection, or since the ejected ones were
    /// last called back.
    missed: u32,
    /// Until when no backend is ejected.
    until: Instant,
    /// Times in a row that ejections were regretted.
    times: u32,
}

/// Saving of one ejection, by the figures before it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Saving {
    /// The backend's share of the requests.
    pub(crate) share: f64,
    /// The share of these that it failed.
    pub(crate) failed: f64,
    /// The share of failures elsewhere.
    pub(crate) others: f64,
    /// The latency elsewhere, ms.
    pub(crate) latency_ms: f64,
    /// Charge for a failure, ms.
    pub(crate) charge_ms: f64,
}

impl Regret {
    /// Whether a backend may be ejected now.
    pub(crate) fn allows(&self, now: Instant) -> bool {
        now >= self.until
    }

    /// A backend was ejected.
    pub(crate) fn ejected(&mut self, saving: &Saving) {
        let saved = (saving.share * saving.failed).max(SAVED_MIN);
        self.bad_before = saving.others + saved;
        // A backend that fails some of its requests carries load all the same: where the others
        // become that much slower without it, their queues are filling.
        let most = if saving.failed < 0.5 { LATENCY_RISE * saving.latency_ms } else { f64::MAX };
        let added = (saved * saving.charge_ms).min(most);
        self.latency_max_ms = LATENCY_SLACK * saving.latency_ms + added;
        self.since = Errors::NONE;
        self.latency_ms = saving.latency_ms;
        self.missed = 0;
    }

    /// Whether the others have failed or refused enough requests to justify an early trial of an
    /// ejected backend. If so, the count starts again.
    pub(crate) const fn calls_back(&mut self) -> bool {
        let is_time = self.missed >= MISSED;
        if is_time {
            self.missed = 0;
        }
        is_time
    }

    /// Handles the end of a request at another backend while one is out: a success after `good_ms`,
    /// or a failure or refusal. Returns whether the ejections are to be taken back.
    pub(crate) fn observe(&mut self, now: Instant, good_ms: Option<f64>) -> bool {
        self.since.observe(good_ms.is_none(), REGRET_MEMORY);
        self.missed = self.missed.saturating_add(good_ms.is_none() as u32);
        if let Some(ms) = good_ms {
            self.latency_ms += LATENCY_ALPHA * (ms - self.latency_ms);
        }
        if self.since.requests < REGRET_REQUESTS {
            return false;
        }
        let noise = (self.bad_before * (1.0 - self.bad_before) / self.since.requests).max(0.0);
        let is_regretted = self.since.share() > self.bad_before + 3.0 * noise.sqrt()
            || self.latency_ms > self.latency_max_ms;
        if is_regretted {
            // Soon after the last time: the same again.
            let is_again = self.times > 0 && now.since(self.until) < REGRET_CALM;
            self.times = if is_again { (self.times + 1).min(REGRETS_MAX) } else { 1 };
            self.until = now + REGRET_TIME * (1 << (self.times - 1));
            self.since = Errors::NONE;
        }
        is_regretted
    }
}

/// Slow start opens for good at this window.
pub(crate) const WINDOW_OPEN: u32 = 64;
pub(crate) const WINDOW_START: u32 = 2;
/// Interval of pings to a backend that is ejected, on probation or in slow start after it.
pub(crate) const PING_EVERY: Duration = Duration::from_millis(250);
const RECENT: f64 = 20.0;
/// Fewer failures than these count as none.
const FORGOTTEN: f64 = 1e-3;
const ERRORS_IN_ROW: u32 = 3;
const ERRORS_IN_ROW_CALM: u32 = 2;
/// Failures in a row if nothing is known of the others (Envoy's `consecutive_5xx`).
const ERRORS_IN_ROW_ALONE: u32 = 5;
const ERRORS_RECENT: f64 = 2.5;
/// Requests from which on something is known of a backend.
const KNOWN_REQUESTS: f64 = 2.0;
/// Failures of the others below this share count as zero.
const CALM_SHARE: f64 = 0.001;
/// With fewer requests it cannot be seen that failures are rare.
const CALM_REQUESTS: f64 = 50.0;
/// Time for which a single failure ranks a backend behind others.
const FAILING_TIME: Duration = Duration::from_secs(1);
const BACK_OFF: Duration = Duration::from_millis(250);
const BACK_OFF_MAX: Duration = Duration::from_secs(8);
/// The longest back-off of a backend that has failed for long, and its part of that time: within a
/// minute of the first failure every return is found in 15 s.
const BACK_OFF_LONG: Duration = Duration::from_secs(30);
const BACK_OFF_SHARE: u32 = 4;
const RELAPSES_MAX: u32 = 3;
const CALM: Duration = Duration::from_secs(30);
const PROBATION: u32 = 4;
const PROBATION_MAX: u32 = 32;
/// Failures of the others from this share on are usual.
const COMMON_SHARE: f64 = 0.01;
/// A probation without a failure ends after this time at the latest.
const PROBATION_TIME: Duration = Duration::from_secs(8);
/// An ejection saves at least this share of the requests: a backend that stopped answering has not
/// failed many yet.
const SAVED_MIN: f64 = 0.01;
const REGRET_MEMORY: f64 = 400.0;
/// Failures and refusals elsewhere beside which a trial is little.
const MISSED: u32 = 20;
/// Requests before an ejection is judged.
const REGRET_REQUESTS: f64 = 50.0;
/// Up to this many times the earlier latency is not attributed to the ejection.
const LATENCY_SLACK: f64 = 1.5;
const LATENCY_RISE: f64 = 5.0;
const LATENCY_ALPHA: f64 = 0.02;
const REGRET_TIME: Duration = Duration::from_secs(8);
const REGRETS_MAX: u32 = 4;
const REGRET_CALM: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
