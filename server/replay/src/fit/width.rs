//! The width of a backend: the number of requests that it serves at a time.
//!
//! A request that finds n others at one of W workers with service time s waits for `n − W + 1` of
//! them to end, so its mean time is `s · max(1, (n + 1) / W)`: constant up to W, then a slope. The
//! fit takes the W whose curve is closest to the means by n, weighted by their standard errors.
//! (Counting ends while n are in flight would give the same in theory, but responses that come in
//! bunches distort it.)
use std::cmp::Ordering;

use intelliproxy_core::sorting::sort_by;

use super::history::Visit;

/// The result of the fit.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Width {
    /// Requests served at a time.
    pub(super) workers: u32,
    /// Requests that one worker finishes a second.
    pub(super) per_second: f64,
    /// Whether more requests than `workers` were in flight, so that the width was observed.
    pub(super) is_seen: bool,
}

/// The beginning or the end of a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change {
    pub(super) at_s: f64,
    pub(super) is_begin: bool,
    /// Whether it is the end of a good request.
    is_good: bool,
}

impl Change {
    /// Returns the beginning and the end of a request.
    pub(super) fn both(visit: &Visit) -> [Self; 2] {
        let begin = Self { at_s: visit.at_s, is_begin: true, is_good: false };
        [begin, Self { at_s: visit.end_s, is_begin: false, is_good: visit.is_good() }]
    }

    /// The order of time. At equal times ends come first.
    pub(super) fn order(&self, other: &Self) -> Ordering {
        self.at_s.total_cmp(&other.at_s).then(self.is_begin.cmp(&other.is_begin))
    }
}

/// For each number in flight: the seconds with this number, and the good requests that ended in
/// them.
#[derive(Clone, Debug, Default)]
pub(super) struct Exposure {
    pub(super) seconds: Vec<f64>,
    pub(super) ended: Vec<f64>,
}

impl Exposure {
    /// Collects the times for which `counts` returns true.
    pub(super) fn new(visits: &[Visit], counts: impl Fn(f64) -> bool) -> Self {
        // A request with no duration, such as a refused one, held no worker.
        let held = visits.iter().filter(|visit| visit.end_s > visit.at_s);
        let mut changes: Vec<Change> = held.flat_map(Change::both).collect();
        sort_by(&mut changes, Change::order);
        let (mut exposure, mut held, mut last) = (Self::default(), 0_usize, 0.0);
        for Change { at_s, is_begin, is_good } in changes {
            let slot = held.min(WIDTH_MAX);
            if exposure.seconds.len() <= slot {
                exposure.seconds.resize(slot + 1, 0.0);
                exposure.ended.resize(slot + 1, 0.0);
            }
            if counts(at_s) {
                exposure.seconds[slot] += at_s - last;
                exposure.ended[slot] += f64::from(u8::from(is_good));
            }
            last = at_s;
            held = if is_begin { held + 1 } else { held.saturating_sub(1) };
        }
        exposure
    }

    /// Returns the seconds of work done by `workers`, and the number of requests that ended.
    pub(super) fn work(&self, workers: u32) -> (f64, f64) {
        let busy = |n: usize| n.min(workers as usize) as f64;
        let work = self.seconds.iter().enumerate().map(|(n, seconds)| seconds * busy(n)).sum();
        (work, self.ended.iter().sum())
    }
}

/// Returns the width that fits best, or `None` if no request ended well.
pub(super) fn fit_width(visits: &[Visit], counts: impl Fn(f64) -> bool) -> Option<Width> {
    let levels = levels(visits, &counts);
    let most = levels.iter().rposition(|level| level.count > 0.0)? as u32 + 1;
    let mut best = (most, f64::INFINITY);
    for workers in (1..=most).rev() {
        let misfit = misfit(&levels, workers);
        // If several widths fit equally, the largest is used: with it no request has waited.
        if misfit < best.1 - 1e-9 {
            best = (workers, misfit);
        }
    }
    let width = Width { workers: best.0, per_second: 0.0, is_seen: best.0 < most };
    Some(width.with_pace_of(visits, counts))
}

impl Width {
    /// Sets the rate of one worker from the times for which `counts` returns true.
    pub(super) fn with_pace_of(self, visits: &[Visit], counts: impl Fn(f64) -> bool) -> Self {
        let (work, ended) = Exposure::new(visits, counts).work(self.workers);
        Self { per_second: if work > 0.0 { ended / work } else { 0.0 }, ..self }
    }
}

/// Times to the response of requests that found the same number of others in flight.
#[derive(Clone, Copy, Debug, Default)]
struct Level {
    count: f64,
    mean: f64,
    /// Sum of squared distances from the mean (Welford).
    squares: f64,
}

fn levels(visits: &[Visit], counts: impl Fn(f64) -> bool) -> Vec<Level> {
    let mut levels: Vec<Level> = Vec::new();
    for visit in visits.iter().filter(|visit| visit.is_good() && counts(visit.at_s)) {
        let slot = (visit.in_flight as usize).min(WIDTH_MAX);
        if levels.len() <= slot {
            levels.resize(slot + 1, Level::default());
        }
        let level = &mut levels[slot];
        level.count += 1.0;
        let away = visit.latency_ms - level.mean;
        level.mean += away / level.count;
        level.squares += away * (visit.latency_ms - level.mean);
    }
    levels
}

/// Returns the sum of squared distances, in standard errors, between the observed means and the
/// curve of `workers` workers with the service time that fits best.
fn misfit(levels: &[Level], workers: u32) -> f64 {
    let slower = |n: usize| ((n as f64 + 1.0) / f64::from(workers)).max(1.0);
    let large = || levels.iter().enumerate().filter(|(_, level)| level.count >= LEVEL_MIN);
    // Every level's error comes from the same relative spread: the spread within a small level is
    // unreliable.
    let spread: f64 = large().map(|(_, l)| l.squares / (l.mean * l.mean).max(1e-12)).sum::<f64>()
        / large().map(|(_, l)| l.count).sum::<f64>().max(1.0);
    let weight = |level: &Level| level.count / (spread * level.mean * level.mean).max(1e-12);
    let (mut top, mut bottom) = (0.0, 0.0);
    for (n, level) in large() {
        top += weight(level) * level.mean * slower(n);
        bottom += weight(level) * slower(n) * slower(n);
    }
    let service = if bottom > 0.0 { top / bottom } else { 0.0 };
    large()
        .map(|(n, l)| weight(l) * (l.mean - service * slower(n)) * (l.mean - service * slower(n)))
        .sum()
}

/// The largest width that is fitted: more requests in flight are counted as this many.
const WIDTH_MAX: usize = 512;
/// Levels with fewer responses than this are not used.
const LEVEL_MIN: f64 = 5.0;
