//! A backend's reported figures and their weight by age.
use std::time::Duration;

use crate::time::Instant;

/// A reported number. It has full weight for one report interval, none after three, and falls in a
/// straight line in between.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figure {
    pub(crate) value: f64,
    pub(crate) said_at: Instant,
}

impl Figure {
    /// The weight at `now`, from 0 to 1.
    fn weight(&self, now: Instant, interval: Duration) -> f64 {
        let age = now.since(self.said_at);
        if age <= interval {
            return 1.0;
        }
        let age = age.as_secs_f64() / interval.as_secs_f64();
        ((FORGOTTEN_AT - age) / (FORGOTTEN_AT - 1.0)).clamp(0.0, 1.0)
    }

    /// The time until which the weight stays as it is at `now`.
    pub(super) fn holds_until(&self, now: Instant, interval: Duration) -> Instant {
        match self.weight(now, interval) {
            1.0 => self.said_at + interval,
            0.0 => Instant::FAR_FUTURE,
            _ => now,
        }
    }
}

/// The age, in report intervals, at which a figure has lost all its weight. Two lost reports in a
/// row are tolerated.
const FORGOTTEN_AT: f64 = 3.0;

/// The weight of a figure for reports at this interval; 0 without one.
pub(super) fn weight_of(figure: Option<Figure>, now: Instant, interval: Duration) -> f64 {
    figure.map_or(0.0, |figure| figure.weight(now, interval))
}
