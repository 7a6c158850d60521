//! How many requests does a backend serve at a time?
//!
//! With n in flight, one of W workers finishes `min(n, W)` times as many requests a second as with
//! one. From how long it held n requests (exposure) and how many ended then, the likelihood of
//! each W is known, exactly so for exponential service times and well enough for others.
use super::history::Visit;

/// What was found.
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
        for visit in visits {
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

    fn log_likelihood(&self, workers: u32) -> f64 {
        let (work, ended) = self.work(workers);
        let busy = |n: usize| (n.min(workers as usize) as f64).max(1.0);
        let each: f64 = self.ended.iter().enumerate().map(|(n, ended)| ended * busy(n).ln()).sum();
        each - ended * work.ln()
    }
}

/// The likeliest width; `None` when nothing ended well.
pub(super) fn fit_width(visits: &[Visit], counts: impl Fn(f64) -> bool) -> Option<Width> {
    let exposure = Exposure::new(visits, counts);
    let (work, ended) = exposure.work(1);
    if ended < 1.0 || work <= 0.0 {
        return None;
    }
    let most = exposure.seconds.len().saturating_sub(1).max(1) as u32;
    let mut best = (1, f64::NEG_INFINITY);
    for workers in 1..=most {
        let likelihood = exposure.log_likelihood(workers);
        // A wider one has to be better by more than rounding.
        if likelihood > best.1 + 1e-9 {
            best = (workers, likelihood);
        }
    }
    let workers = best.0;
    let (work, ended) = exposure.work(workers);
    Some(Width { workers, per_second: ended / work, is_seen: workers < most })
}

/// Widths beyond this are all the same.
const WIDTH_MAX: usize = 512;
