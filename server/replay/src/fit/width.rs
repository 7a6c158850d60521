//! How many requests does a backend serve at a time?
//!
//! A request that finds n others at one of W workers with service time s waits for `n − W + 1` of
//! them to end, so its mean time is `s · max(1, (n + 1) / W)`: flat up to W, then a slope. The W
//! that fits the means by n best is taken, weighed by their standard errors. (Counting ends while
//! n are in flight would show the same in theory; responses that come in bunches spoil it.)
use super::history::Visit;

/// Result of the fit.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Width {
    /// Requests served at a time.
    pub(super) workers: u32,
    /// Requests that one worker finishes a second.
    pub(super) per_second: f64,
    /// Whether more than that were in flight, so that the width could be seen.
    pub(super) is_seen: bool,
}

/// By number in flight: time it held them, and requests that ended well then.
#[derive(Clone, Debug, Default)]
pub(super) struct Exposure {
    pub(super) seconds: Vec<f64>,
    pub(super) ended: Vec<f64>,
}

impl Exposure {
    /// Of the times for which `counts` says so.
    pub(super) fn new(visits: &[Visit], counts: impl Fn(f64) -> bool) -> Self {
        // Beginnings and ends in order of time; of equal times ends come first.
        let mut events: Vec<(f64, bool, bool)> = Vec::with_capacity(2 * visits.len());
        // One that ended as it began, as a refused one does, held no worker.
        for visit in visits.iter().filter(|visit| visit.end_s > visit.at_s) {
            events.push((visit.at_s, true, false));
            events.push((visit.end_s, false, visit.is_good()));
        }
        events.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let (mut exposure, mut held, mut last) = (Self::default(), 0_usize, 0.0);
        for (at, is_begin, is_good) in events {
            let slot = held.min(WIDTH_MAX);
            if exposure.seconds.len() <= slot {
                exposure.seconds.resize(slot + 1, 0.0);
                exposure.ended.resize(slot + 1, 0.0);
            }
            if counts(at) {
                exposure.seconds[slot] += at - last;
                exposure.ended[slot] += f64::from(u8::from(is_good));
            }
            last = at;
            held = if is_begin { held + 1 } else { held.saturating_sub(1) };
        }
        exposure
    }

    /// Seconds of work done by `workers`, and requests that ended.
    pub(super) fn work(&self, workers: u32) -> (f64, f64) {
        let busy = |n: usize| n.min(workers as usize) as f64;
        let work = self.seconds.iter().enumerate().map(|(n, seconds)| seconds * busy(n)).sum();
        (work, self.ended.iter().sum())
    }
}

/// The width that fits best; `None` when nothing ended well.
pub(super) fn fit_width(visits: &[Visit], counts: impl Fn(f64) -> bool) -> Option<Width> {
    let levels = levels(visits, &counts);
    let most = levels.iter().rposition(|level| level.count > 0.0)? as u32 + 1;
    let mut best = (most, f64::INFINITY);
    for workers in (1..=most).rev() {
        let misfit = misfit(&levels, workers);
        // Of widths that fit the same, the widest: no request has waited then.
        if misfit < best.1 - 1e-9 {
            best = (workers, misfit);
        }
    }
    let width = Width { workers: best.0, per_second: 0.0, is_seen: best.0 < most };
    Some(width.with_pace_of(visits, counts))
}

impl Width {
    /// Limits the width to the workers whose rate of requests was finished.
    pub(super) fn with_pace_of(self, visits: &[Visit], counts: impl Fn(f64) -> bool) -> Self {
        let (work, ended) = Exposure::new(visits, counts).work(self.workers);
        Self { per_second: if work > 0.0 { ended / work } else { 0.0 }, ..self }
    }
}

/// Times to the response of requests that found as many others in flight.
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

/// Returns the distance of the means from those of `workers` workers, in squares of their standard
/// errors, with the service time that fits best.
fn misfit(levels: &[Level], workers: u32) -> f64 {
    let slower = |n: usize| ((n as f64 + 1.0) / f64::from(workers)).max(1.0);
    let told = || levels.iter().enumerate().filter(|(_, level)| level.count >= LEVEL_MIN);
    // Every level's error from the same relative spread: a small level's own says little.
    let spread: f64 = told().map(|(_, l)| l.squares / (l.mean * l.mean).max(1e-12)).sum::<f64>()
        / told().map(|(_, l)| l.count).sum::<f64>().max(1.0);
    let weight = |level: &Level| level.count / (spread * level.mean * level.mean).max(1e-12);
    let (mut top, mut bottom) = (0.0, 0.0);
    for (n, level) in told() {
        top += weight(level) * level.mean * slower(n);
        bottom += weight(level) * slower(n) * slower(n);
    }
    let service = if bottom > 0.0 { top / bottom } else { 0.0 };
    told()
        .map(|(n, l)| weight(l) * (l.mean - service * slower(n)) * (l.mean - service * slower(n)))
        .sum()
}

/// Widths beyond this are all the same.
const WIDTH_MAX: usize = 512;
/// Fewer responses than this say nothing about their level.
const LEVEL_MIN: f64 = 5.0;
