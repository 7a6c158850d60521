//! A backend's own figures, and their weight by age.
use std::time::Duration;

use crate::config::Rules;
use crate::time::Instant;

/// A number that a backend said of itself. It loses its weight with its age: all of it counts for
/// one report interval, nothing after three, and between them a straight part.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figure {
    pub(crate) value: f64,
    pub(crate) said_at: Instant,
}

impl Figure {
    /// Returns its weight at `now`, from 0 to 1.
    fn weight(&self, now: Instant, interval: Duration) -> f64 {
        let age = now.since(self.said_at);
        if age <= interval {
            return 1.0;
        }
        let age = age.as_secs_f64() / interval.as_secs_f64();
        ((FORGOTTEN_AT - age) / (FORGOTTEN_AT - 1.0)).clamp(0.0, 1.0)
    }
}

/// Report intervals after which a figure counts for nothing.
const FORGOTTEN_AT: f64 = 3.0;

/// The weight of a figure; 0 without one.
pub(super) fn weight_of(figure: Option<Figure>, now: Instant, rules: &Rules) -> f64 {
    figure.map_or(0.0, |figure| figure.weight(now, rules.probes.report_interval))
}
