//! Ejection by live traffic, under every policy: a backend whose requests fail, while requests to
//! the others succeed, gets no requests for a while.
//!
//! | standing | left on | for |
//! |---|---|---|
//! | in | failures well above those of the others, and three in a row (two if the others do not fail) or [`ERRORS_RECENT`] in about the last 20 | ejected |
//! | in | one failure after half a second without requests, if the others do not fail | ejected |
//! | ejected | a good ping after the back-off, or the end of the back-off if pings are off | probation |
//! | ejected, probation | the others fail about as much, or the ejection costs more than it saves (regret) | in |
//! | probation | enough good requests in a row, one at a time; good pings count for all but the last | in, slow start |
//! | probation | a failure, unless the others fail about as much | ejected, for longer |
//!
//! "Well above" is more than 0.1 + 3 times the share of the others. That share is the median over
//! the other backends, each with one good request added, plus one failure spread over all their
//! requests. If no other backend has had enough requests, five failures in a row are needed. While
//! a backup with unknown results stands by, failures of the others do not excuse a backend: five in
//! a row eject it too, and the backup then shows whether it does better. If a standby backup is
//! known to fail less, three in a row are enough, and failures of the others are no excuse. The
//! same holds if a backend that serves certainly fails less: its share is at most what its requests
//! allow ([`Errors::bound`]), and the latest of them agree. Five in a row are also enough if a
//! backend that serves has had no recent failure, however few requests it had.
//!
//! At most half of the backends are out at a time, unless a backup can serve or a backend that
//! serves certainly fails less. (Envoy's cap is 10 %. If fewer than 50 % of its backends are
//! usable, it uses all.) If two of three backends fail everything at 25 % load, this lowers the
//! share of failed requests of `least_request` in the lab from 22 % to 0.2 %.
//!
//! The back-off is 250 ms, 2 s, then 8 s, and starts again after 30 s without an ejection. From the
//! fourth consecutive ejection on, it is a quarter of the time since the first one, 8 s to 2 min: a
//! backend that has failed for a long time will probably fail the next trial as well, and each such
//! trial costs a request. The back-off ends early when the others fail or refuse enough requests
//! beyond their usual share to justify a trial. A probation needs 4 good requests, doubled by each
//! relapse up to 32, or as many as fit into [`PROBATION_TIME`].
//!
//! (Envoy ejects after 5 in a row for 30 s, HAProxy's `observe` after 10. Three with the
//! comparison lost fewer requests in the lab and ejected no good backend.)
//!
//! [`Watch`] tracks one backend. [`Regret`] tracks the pool: an ejection moves load to the others.
//! If they then fail more than the ejection saved, it is reversed. This needs no knowledge of
//! capacities, only the observed results.
//!
//! # Constants
//! A constant without a source was chosen. "Hardly changes" means that halving or doubling the
//! value changes the cost relative to the oracle's by at most 1.2 %, in the geometric mean over the
//! scenarios of `cargo lab sinkhole blackhole brownout refuses broken_release broken_url
//! partial_errors crash cuts low_sinkhole low_silence low_crash big_one --policies
//! learned,least_request --seeds 1 --duration-scale 0.5`. Other seeds change the same figure by up
//! to 1.2 %. "Changes no result" means that the figure stays the same. In these scenarios a backend
//! is back within 30 s, so they do not cover longer faults. The runs were made before the rule of
//! [`GOOD_REQUESTS`] was added.
mod regret;

use std::time::Duration;

pub(crate) use self::regret::{REGRET_MEMORY, Regret, Saving};
use crate::errors::Errors;
use crate::time::Instant;

/// Tracks one backend's failures.
#[derive(Clone, Debug)]
pub(crate) struct Watch {
    pub(crate) standing: Standing,
    /// Requests in flight that slow start allows; unlimited at [`WINDOW_OPEN`] and above.
    pub(crate) window: u32,
    /// The window after a return.
    slow: u32,
    /// About the last twenty requests.
    pub(crate) recent: Errors,
    pub(crate) errors_in_row: u32,
    /// The number of ejections.
    pub(crate) ejections: u64,
    /// The time at which the latest failed request was sent.
    erred_at: Instant,
    /// The time of the latest failure.
    failed_at: Instant,
    /// Ejections soon after a return, up to [`RELAPSES_MAX`]; each makes the back-off longer.
    relapses: u32,
    /// The end of the last back-off, or the time of the last return.
    troubled_at: Option<Instant>,
    /// The time of the first ejection of the current series.
    since: Instant,
}

/// Whether a backend is trusted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Standing {
    /// It gets requests.
    In,
    /// It gets no requests while another backend can take them.
    Ejected {
        /// From this time on a good ping leads to probation.
        until: Instant,
    },
    /// It gets one request at a time.
    Probation {
        /// Good requests and pings in a row.
        good: u32,
        /// Good requests that are needed to return.
        needed: u32,
        /// Good requests among them.
        served: u32,
        /// Failures that were tolerated.
        bad: u32,
        /// Whether its one request is in flight.
        is_out: bool,
        /// The time at which the probation began.
        since: Instant,
    },
}

impl Watch {
    /// A watch of a backend whose window is `window` now and `slow` after a return.
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

    /// Whether a good response has effects beyond the counts: the backend is out, has recent
    /// failures, or is in slow start.
    pub(crate) const fn is_troubled(&self) -> bool {
        !self.is_in() || self.recent.errors > 0.0 || self.window < WINDOW_OPEN
    }

    /// Whether a good response changes only the count of requests.
    pub(crate) const fn is_calm(&self) -> bool {
        !self.is_troubled() && self.errors_in_row == 0
    }

    /// Records a good response while [calm](Self::is_calm).
    pub(crate) fn answered_again(&mut self) {
        self.recent.observe(false, RECENT);
    }

    /// Records a good response to a request that was sent at `sent_at`. If that was before the
    /// latest failed request was sent, the response does not end the run of failures: it shows an
    /// earlier state.
    pub(crate) fn succeeded(&mut self, sent_at: Instant) {
        if sent_at >= self.erred_at {
            self.errors_in_row = 0;
        }
        self.recent.observe(false, RECENT);
        // Exactly 0, because several rules ask whether there were any failures at all.
        if self.recent.errors < FORGOTTEN {
            self.recent.errors = 0.0;
        }
        // As in TCP's slow start, one more for each response doubles the window in the time of one
        // response.
        if self.window < WINDOW_OPEN {
            self.widen(self.window + 1);
        }
    }

    /// Records the failure of a request that was sent at `sent_at`. Returns whether the backend
    /// [may be bad](Self::is_bad). If it returns false, `is_bad` is false whatever the others do,
    /// and the caller need not compute their figures.
    pub(crate) fn failed(&mut self, now: Instant, sent_at: Instant, is_seldom: bool) -> bool {
        self.failed_at = now;
        // Requests need not end in the order in which they were sent.
        self.erred_at = self.erred_at.max(sent_at);
        self.errors_in_row = self.errors_in_row.saturating_add(1);
        self.recent.observe(true, RECENT);
        is_seldom || self.errors_in_row >= ERRORS_IN_ROW_CALM || self.recent.errors >= ERRORS_RECENT
    }

    /// Whether, after a failure, the backend's own figures call for an ejection. `others` are the
    /// failures of the other backends; `None` if none of them has had enough requests.
    pub(crate) fn is_bad(&self, others: Option<Others>, is_seldom: bool) -> bool {
        let Some(others) = others else {
            return self.errors_in_row >= ERRORS_IN_ROW_ALONE;
        };
        // Waiting for a second failure would cost a request. Ejecting a backend with so few
        // requests diverts hardly any.
        if is_seldom && others.have_no_failures() {
            return true;
        }
        // The others may have had too few requests for a comparison.
        if self.errors_in_row >= ERRORS_IN_ROW_ALONE && others.share == 0.0 {
            return true;
        }
        // With failures this rare, two in a row are not chance, whatever succeeded before.
        others.are_calm() && self.errors_in_row >= ERRORS_IN_ROW_CALM
            || self.is_worse_than(others)
                && (self.errors_in_row >= ERRORS_IN_ROW || self.recent.errors >= ERRORS_RECENT)
    }

    /// Whether its last responses were failures, less than [`FAILING_TIME`] ago.
    pub(crate) fn is_failing(&self, now: Instant) -> bool {
        self.errors_in_row > 0 && now.since(self.failed_at) < FAILING_TIME
    }

    /// Whether its failures are well above those of the others.
    pub(crate) fn is_worse_than(&self, others: Others) -> bool {
        self.recent.share() > 3.0 * (others.share + 1.0 / (others.requests + 1.0)) + 0.1
    }

    /// Whether the others also fail, and it does not fail much more. If so, it need not stay out.
    pub(crate) fn is_excused_by(&self, others: Others) -> bool {
        others.share > 0.0 && !self.is_worse_than(others)
    }

    /// The failures of the others, with which this backend is compared. `None` if they would excuse
    /// it although a backup with unknown results stands by (`has_unknown_spare`).
    pub(crate) fn measure(
        &self,
        others: Option<Others>,
        has_unknown_spare: impl FnOnce() -> bool,
    ) -> Option<Others> {
        others.filter(|others| !(self.is_excused_by(*others) && has_unknown_spare()))
    }

    /// Whether a backup with these results fails clearly less. Unlike
    /// [`is_worse_than`](Self::is_worse_than), this makes no allowance for a small number of
    /// requests: a backup has had few, and after a wrong ejection the requests go to a backend with
    /// spare capacity.
    pub(crate) fn is_worse_than_spare(&self, spare: Errors) -> bool {
        Others::know(spare) && self.recent.share() > 3.0 * spare.share() + 0.1
    }

    /// Whether a backend that serves, with the results `errors`, should get the requests of this
    /// one, however many of the others fail. One of two reasons is enough. It certainly fails less,
    /// and its latest results agree, so it has not just begun to fail as well. Or this backend has
    /// failed [`ERRORS_IN_ROW_ALONE`] requests in a row, and that one has had no recent failure.
    pub(crate) fn gives_way_to(&self, better: &Self, errors: Errors) -> bool {
        let share = self.recent.share();
        let has_none = errors.errors < FORGOTTEN && better.recent.errors < FORGOTTEN;
        share > 3.0 * errors.bound() + 0.1 && self.is_worse_than_spare(better.recent)
            || self.errors_in_row >= ERRORS_IN_ROW_ALONE && has_none
    }

    /// Whether its run of failures is long enough for another backend that fails less to take over:
    /// [a backup](Self::is_worse_than_spare), or [one that serves](Self::gives_way_to).
    pub(crate) const fn has_failed_in_row(&self) -> bool {
        self.errors_in_row >= ERRORS_IN_ROW
    }

    /// Ejects the backend, which starts the back-off.
    pub(crate) fn eject(&mut self, now: Instant) {
        let is_relapse = self.troubled_at.is_some_and(|at| now.since(at) < CALM);
        self.relapses = if is_relapse { (self.relapses + 1).min(RELAPSES_MAX) } else { 0 };
        if !is_relapse {
            self.since = now;
        }
        self.ejections += 1;
        let wait = if self.relapses < RELAPSES_MAX {
            // A factor of eight each time: short faults end after the first, and long ones cost few
            // trials.
            (BACK_OFF * (1 << (3 * self.relapses))).min(BACK_OFF_MAX)
        } else {
            (now.since(self.since) / BACK_OFF_SHARE).clamp(BACK_OFF_MAX, BACK_OFF_LONG)
        };
        let until = now + wait;
        // The time without an ejection is counted from the end of the back-off: an ejected backend
        // cannot fail.
        self.troubled_at = Some(until);
        self.standing = Standing::Ejected { until };
    }

    /// Ends the back-off early, because the backend is needed.
    pub(crate) const fn call_back(&mut self, now: Instant) {
        if let Standing::Ejected { until } = &mut self.standing
            && until.as_nanos() > now.as_nanos()
        {
            *until = now;
        }
    }

    /// Records a good ping. Returns whether it ended the ejection, after the back-off.
    pub(crate) fn ping_answered(&mut self, now: Instant) -> bool {
        match &mut self.standing {
            Standing::Ejected { until } if now >= *until => {
                let needed = (PROBATION << self.relapses).min(PROBATION_MAX);
                let (good, served, bad) = (0, 0, 0);
                self.standing =
                    Standing::Probation { good, needed, served, bad, is_out: false, since: now };
                true
            }
            // With few requests the probation would take long, so pings count for all steps but the
            // last.
            Standing::Probation { good, needed, is_out: false, .. } => {
                *good = (*good + 1).min(*needed - 1);
                false
            }
            // With few requests, good responses alone would take long to open the window.
            Standing::In if self.window < WINDOW_OPEN && self.troubled_at.is_some() => {
                self.widen(2 * self.window);
                false
            }
            _ => false,
        }
    }

    /// Records that time has passed for a backend whose pings are off: it may return without one.
    /// Returns whether this ended the ejection, after the back-off.
    pub(crate) fn waited(&mut self, now: Instant) -> bool {
        matches!(self.standing, Standing::Ejected { .. }) && self.ping_answered(now)
    }

    /// Whether it should be pinged more often because pings are a part of its return.
    pub(crate) const fn wants_pings(&self) -> bool {
        !self.is_in() || self.window < WINDOW_OPEN && self.troubled_at.is_some()
    }

    /// Whether it may get one request on probation now.
    pub(crate) const fn wants_trial(&self) -> bool {
        matches!(self.standing, Standing::Probation { is_out: false, .. })
    }

    /// Records that its one request on probation is sent.
    pub(crate) const fn try_out(&mut self) {
        if let Standing::Probation { is_out, .. } = &mut self.standing {
            *is_out = true;
        }
    }

    /// Records the end of a request on probation; `None` if it shows nothing about the backend.
    /// Once it has served a request, failures that are as common at the other backends are
    /// tolerated: if 5 % of all requests fail, only one in five probations of 32 requests would
    /// succeed otherwise.
    pub(crate) fn probation_ended(
        &mut self,
        now: Instant,
        is_good: Option<bool>,
        others: Option<Others>,
    ) {
        let Standing::Probation { good, needed, served, bad, since, .. } = self.standing else {
            return;
        };
        // The time bounds probations at low rates, where 32 requests would take minutes.
        let is_over = good + 1 >= needed || now.since(since) >= PROBATION_TIME;
        let common = others.map_or(0.0, |others| others.share);
        // Three times as many failures as the others had in as many requests, and one by chance.
        let usual = 1.0 + 3.0 * common * f64::from(served + bad);
        let is_usual = common >= COMMON_SHARE && served > 0 && f64::from(bad) < usual;
        let (good, served, bad) = match is_good {
            Some(false) if !is_usual => return self.eject(now),
            Some(true) if is_over => return self.come_back(now),
            Some(false) => (good, served, bad + 1),
            Some(true) => (good + 1, served + 1, bad),
            // The client left, or the like: the next request decides.
            None => (good, served, bad),
        };
        self.standing = Standing::Probation { good, needed, served, bad, is_out: false, since };
    }

    /// Lets the backend return: its failures are forgotten, and slow start begins.
    pub(crate) fn come_back(&mut self, now: Instant) {
        self.standing = Standing::In;
        self.troubled_at = Some(now);
        self.recent = Errors::NONE;
        self.errors_in_row = 0;
        self.window = self.slow;
    }

    /// Records that the backend came up after it was down: earlier failures are forgotten, and
    /// slow start begins.
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

/// The standing of a backend according to the results of its requests.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum StandingView {
    /// It gets requests.
    In,
    /// Its requests in flight are limited. Each good response raises the limit by one.
    SlowStart {
        /// The number of requests that it may have in flight.
        window: u32,
    },
    /// It gets no requests for at least the given time.
    Ejected {
        /// Time until a good ping leads to probation.
        left: Duration,
    },
    /// It gets one request at a time.
    Probation {
        /// Good requests and pings in a row.
        good: u32,
        /// Good requests that are needed to return.
        needed: u32,
    },
}

/// The failures of the other backends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Others {
    /// The median of their shares of failures, the lower one of an even number. A median, so that
    /// one backend that fails everything does not make failures look usual.
    pub(crate) share: f64,
    /// The total number of their requests, which shows how reliable the share is.
    pub(crate) requests: f64,
}

impl Others {
    /// The figures of a single backend.
    pub(crate) fn one(errors: Errors) -> Self {
        Self { share: errors.share(), requests: errors.requests }
    }

    /// Builds the figures from the requests and failures of each; `None` if none of them has had
    /// [`KNOWN_REQUESTS`].
    pub(crate) fn new(each: impl Iterator<Item = Errors>, scratch: &mut Vec<f64>) -> Option<Self> {
        scratch.clear();
        let mut requests = 0.0;
        for errors in each.filter(|errors| Self::know(*errors)) {
            requests += errors.requests;
            scratch.push(errors.share());
        }
        let middle = scratch.len().checked_sub(1)? / 2;
        let share = *scratch.select_nth_unstable_by(middle, f64::total_cmp).1;
        Some(Self { share, requests })
    }

    /// Whether a backend with these results has had enough requests to be one of the others.
    pub(crate) fn know(errors: Errors) -> bool {
        errors.requests >= KNOWN_REQUESTS
    }

    /// Whether at least half of them have no failure, and all of them together have had enough
    /// requests.
    pub(crate) const fn have_no_failures(&self) -> bool {
        self.share == 0.0 && self.requests >= GOOD_REQUESTS
    }

    /// Whether failures are rare among them.
    pub(crate) const fn are_calm(&self) -> bool {
        self.share < CALM_SHARE && self.requests >= CALM_REQUESTS
    }
}

/// Whether `ejected` of `of` backends are within the cap: half of them.
pub(crate) const fn is_within_cap(ejected: usize, of: usize) -> bool {
    2 * ejected <= of
}

/// The window at which slow start ends. Chosen; halving or doubling it hardly changes results.
pub(crate) const WINDOW_OPEN: u32 = 64;
/// The window at which slow start begins. Chosen; halving or doubling it hardly changes results.
pub(crate) const WINDOW_START: u32 = 2;
/// The interval of pings while a backend is ejected, on probation or in slow start after that.
/// Chosen; halving or doubling it hardly changes results.
pub(crate) const PING_EVERY: Duration = Duration::from_millis(250);
/// Requests after which an earlier one has lost most of its weight in the recent figures. Chosen:
/// twice as many change 0.1 %, half as many cost 3.2 %.
const RECENT: f64 = 20.0;
/// Decayed failures below this are treated as 0. Chosen; halving or doubling it changes no result.
const FORGOTTEN: f64 = 1e-3;
/// Failures in a row that eject a backend that is worse than the others. Chosen; halving or
/// doubling it hardly changes results.
const ERRORS_IN_ROW: u32 = 3;
/// Failures in a row that eject a backend if the others have no failures. Chosen; values from 1 to
/// 4 hardly change results.
const ERRORS_IN_ROW_CALM: u32 = 2;
/// Failures in a row that eject a backend if nothing is known of the others (Envoy's
/// `consecutive_5xx`).
const ERRORS_IN_ROW_ALONE: u32 = 5;
/// Recent failures, not in a row, that eject a backend that is worse than the others. Chosen: half
/// of it saves 1.1 %, twice as much costs 1.5 %. Half of it would eject for a second failure in 20
/// requests, which may be chance.
const ERRORS_RECENT: f64 = 2.5;
/// The minimum number of requests for which a backend's share is used. Chosen; halving or doubling
/// it changes no result.
const KNOWN_REQUESTS: f64 = 2.0;
/// Below this share, failures of the others are treated as none. Chosen; halving or doubling it
/// changes no result.
const CALM_SHARE: f64 = 0.001;
/// Requests of the others, all good, after which a single failure ejects a backend that gets few
/// requests. Two requests at each of two backends are enough.
const GOOD_REQUESTS: f64 = 4.0;
/// With fewer requests of the others a share of 0 does not show that failures are rare. Chosen;
/// halving or doubling it hardly changes results.
const CALM_REQUESTS: f64 = 50.0;
/// Time for which a single failure ranks a backend behind the others. Chosen; halving or doubling
/// it changes no result.
const FAILING_TIME: Duration = Duration::from_secs(1);
/// The first back-off, one ping interval. Chosen; halving or doubling it hardly changes results.
const BACK_OFF: Duration = Duration::from_millis(250);
/// The longest back-off that grows by the factor of eight. Chosen; halving or doubling it hardly
/// changes results.
const BACK_OFF_MAX: Duration = Duration::from_secs(8);
/// The longest back-off of a backend that has failed for a long time. (Envoy's `max_ejection_time`
/// is 300 s.)
const BACK_OFF_LONG: Duration = Duration::from_secs(120);
/// The back-off of such a backend is the time since its first ejection divided by this: a backend
/// that recovers within a minute is tried within 15 s.
const BACK_OFF_SHARE: u32 = 4;
/// Relapses that are counted. Chosen; halving or doubling it changes no result.
const RELAPSES_MAX: u32 = 3;
/// Time after which an ejection no longer counts as a relapse. Chosen; halving or doubling it
/// changes no result.
const CALM: Duration = Duration::from_secs(30);
/// Good requests that a first probation needs; each relapse doubles them. Chosen; halving or
/// doubling it hardly changes results.
const PROBATION: u32 = 4;
/// The maximum number of good requests that a probation needs. Chosen; halving or doubling it
/// changes no result.
const PROBATION_MAX: u32 = 32;
/// At this share and above, failures of the others count as usual. Chosen; halving or doubling it
/// changes no result.
const COMMON_SHARE: f64 = 0.01;
/// A probation without a failure ends after this time at the latest. Chosen; halving or doubling it
/// changes no result.
const PROBATION_TIME: Duration = Duration::from_secs(8);
#[cfg(test)]
mod tests;
