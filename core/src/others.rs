//! Estimates how many requests others, such as a second proxy, have in flight at each backend.
//!
//! A report counts the running and waiting requests at a backend. Subtracting the proxy's own
//! requests in flight at that time gives the requests of others. Requests that the proxy sends
//! later are in its own count, so they take effect at once.
//!
//! - others = max(0, running + queue − own), at the report
//! - usual: their average over reports
//! - estimate = usual + (others − usual)·w + ratio·(own − own then)/2; `w = 1/(1 + x + x²/2)`,
//!   close to e^−x. x is the age of the report divided by the mean time of a request there: after
//!   that time the counted requests have ended. The last term assumes that the others, who see the
//!   same reports, do half of what the proxy does.
//! - A report older than three intervals has no weight. Without a report, the others are assumed to
//!   use the backend like the proxy: `ratio·own`. The ratio is the median of others per own request
//!   over the backends with reports; without any it is 0.
//!
//! A report is never trusted alone: the estimate is at least `ratio·own/2 − 4`. If the median
//! backend has T requests from all parties, a backend that always reports no work gets at most
//! `(T + 4)/(1 + ratio/2) + 1` of the proxy's requests in flight under `least_request`. That is
//! less than twice the honest share, `T/(1 + ratio)`, plus five. `learned` also observes that
//! requests to such a backend take longer than its reports suggest, so it rates the backend as
//! slower.
use std::time::Duration;

use crate::id::BackendId;
use crate::time::{Instant, millis};

/// The estimates of all backends.
#[derive(Debug, Default)]
pub(crate) struct Others {
    rows: Vec<Row>,
    /// Requests of others per own request, the median over backends.
    ratio: f64,
    /// The time at which the last report loses its weight.
    ends_at: Instant,
    /// Number of reports since the ratio was computed.
    reports: usize,
    ratios: Vec<f64>,
}

/// The reports of one backend.
#[derive(Clone, Copy, Debug, Default)]
struct Row {
    generation: u32,
    /// Requests of others at the last report.
    last: f64,
    /// Their average.
    usual: f64,
    /// The proxy's own requests in flight at the last report.
    own_last: f64,
    /// Their average.
    own: f64,
    said_at: Instant,
    /// The time at which the report loses its weight; zero without a report.
    ends_at: Instant,
    /// The average time of a request, ms; 0 before the first.
    span_ms: f64,
}

impl Others {
    /// Whether any report with a count of requests still has weight. Otherwise callers can skip the
    /// scan over the backends.
    pub(crate) fn is_known(&self, now: Instant) -> bool {
        now < self.ends_at
    }

    /// Applies a reported count of the running and waiting requests at a backend, of which `own`
    /// are the proxy's. The count must be finite and not negative.
    pub(crate) fn reported(
        &mut self,
        now: Instant,
        id: BackendId,
        all: f64,
        own: u32,
        interval: Duration,
    ) {
        if id.index() >= self.rows.len() {
            self.rows.resize(id.index() + 1, Row::default());
        }
        let row = &mut self.rows[id.index()];
        let own = f64::from(own);
        let others = (all.min(REPORTED_MAX) - own).max(0.0);
        // Averages of another backend, or from before a silence, are out of date.
        if row.generation != id.generation() || now >= row.ends_at {
            // The time of a request does not come from reports, so it outlasts a silence.
            let span_ms = if row.generation == id.generation() { row.span_ms } else { 0.0 };
            *row = Row {
                generation: id.generation(),
                usual: others,
                own,
                own_last: own,
                said_at: now,
                span_ms,
                ..Row::default()
            };
        }
        let dt = millis(now.since(row.said_at));
        let share = (dt / (dt + AVERAGED_SPANS * row.span_ms.max(SPAN_MIN_MS))).min(SHARE_MAX);
        row.usual += share * (others - row.usual);
        row.own += share * (own - row.own);
        row.last = others;
        row.own_last = own;
        row.said_at = now;
        row.ends_at = now + interval.saturating_mul(INTERVALS);
        self.ends_at = self.ends_at.max(row.ends_at);
        self.reports += 1;
        // The median is over all backends, so it is computed about once for each round of reports.
        if self.reports >= self.rows.len() {
            self.compare(now);
        }
    }

    /// Records the time of a request at a backend.
    pub(crate) fn ended(&mut self, id: BackendId, span: Duration) {
        if let Some(row) = self.rows.get_mut(id.index())
            && row.generation == id.generation()
        {
            let span_ms = millis(span);
            let share = if row.span_ms > 0.0 { SPAN_ALPHA } else { 1.0 };
            row.span_ms += share * (span_ms - row.span_ms);
        }
    }

    /// Returns the requests of others at a backend, where the proxy has `own` requests in flight.
    /// Returns 0 unless [`is_known`](Self::is_known).
    pub(crate) fn at(&self, now: Instant, id: BackendId, own: u32) -> f64 {
        if !self.is_known(now) {
            return 0.0;
        }
        let own = f64::from(own);
        let row = self.rows.get(id.index());
        let row = row.filter(|row| row.generation == id.generation() && now < row.ends_at);
        let Some(row) = row else {
            return self.ratio * own;
        };
        let age = millis(now.since(row.said_at)) / row.span_ms.max(SPAN_MIN_MS);
        let weight = 1.0 / (1.0 + age + 0.5 * age * age);
        let said = row.usual + (row.last - row.usual) * weight;
        let own_then = row.own + (row.own_last - row.own) * weight;
        let said = (said + ALIKE * self.ratio * (own - own_then)).max(0.0);
        said.max(0.5 * self.ratio * own - BELOW_RATIO)
    }

    /// Requests of others per own request, the median over backends.
    #[cfg(test)]
    pub(crate) const fn ratio(&self) -> f64 {
        self.ratio
    }

    /// Computes the median of the requests of others per own request.
    fn compare(&mut self, now: Instant) {
        self.reports = 0;
        self.ratios.clear();
        let known = self.rows.iter().filter(|row| now < row.ends_at);
        self.ratios.extend(known.map(|row| row.usual / row.own.max(OWN_MIN)));
        // If two ratios are in the middle, the higher one is used. Otherwise one of two backends
        // could hide the others' requests by reporting nothing.
        let middle = self.ratios.len() / 2;
        if middle < self.ratios.len() {
            let (_, ratio, _) = self.ratios.select_nth_unstable_by(middle, f64::total_cmp);
            self.ratio = ratio.min(RATIO_MAX);
        }
    }
}

/// The highest count that is believed. A server with more requests than this is overloaded anyway.
const REPORTED_MAX: f64 = 1e6;
/// The number of intervals after which a report has no weight: two lost reports in a row are
/// tolerated, as for all reported figures.
const INTERVALS: u32 = 3;
/// The length of the averages, in mean times of a request. Chosen.
const AVERAGED_SPANS: f64 = 8.0;
/// The highest share of one report in the averages. Chosen.
const SHARE_MAX: f64 = 0.2;
/// Share of a new sample in the mean time of a request. Chosen.
const SPAN_ALPHA: f64 = 0.05;
/// The time of a request before the first one has ended, and its minimum, ms. Chosen.
const SPAN_MIN_MS: f64 = 1.0;
/// Keeps a ratio finite while the proxy has no request. Chosen.
const OWN_MIN: f64 = 0.25;
/// The highest ratio, a bound on the number of proxies. Chosen.
const RATIO_MAX: f64 = 1000.0;
/// A report may be lower than half of the ratio's prediction by this number of requests. Chosen.
const BELOW_RATIO: f64 = 4.0;
/// The share of the proxy's own surplus that it also expects from others, which see the same
/// reports and react alike. Chosen in the lab: with 0, six proxies that poll at the same time all
/// send to the same backends (p99 1.23 times the oracle's); with 1, they avoid each other although
/// fresh reports make this unnecessary.
const ALIKE: f64 = 0.5;

#[cfg(test)]
mod tests;
