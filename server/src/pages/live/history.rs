//! The last ten minutes of one backend, in a ring of samples.
//!
//! | backends | interval | samples | maximum bytes per backend |
//! |---|---|---|---|
//! | up to 64 | 2 s | 300 | 8400 |
//! | up to 256 | 5 s | 120 | 3360 |
//! | more | 10 s | 60 | 1680 |
//!
//! When the number of backends moves to another row of the table, the samples are distributed over
//! the new intervals.
use std::collections::VecDeque;

use super::write_number;

/// Seconds that the history covers.
pub(crate) const COVERED: usize = 600;

/// The figures of one interval: rates are averages of its seconds, other figures are those of its
/// end.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sample {
    pub(crate) requests: f32,
    pub(crate) errors: f32,
    pub(crate) refused: f32,
    pub(crate) p50: f32,
    pub(crate) p99: f32,
    pub(crate) score: f32,
    pub(crate) in_flight: u16,
    pub(crate) state: u8,
}

const _: () = assert!(size_of::<Sample>() == 28, "the table above has the bytes of a sample");

/// A figure of a sample.
type Figure = fn(&Sample) -> f32;

/// Returns the seconds of an interval for a number of backends.
pub(crate) const fn interval(backends: usize) -> usize {
    match backends {
        0..=64 => 2,
        65..=256 => 5,
        _ => 10,
    }
}

/// The samples of one backend, the oldest one first.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    samples: VecDeque<Sample>,
    /// The sum of the rates of the current interval, and its seconds so far.
    current: Sample,
    seconds: usize,
}

impl History {
    /// Adds the figures of a second.
    pub(crate) fn add(&mut self, second: Sample, interval: usize) {
        let sum = self.current;
        self.current = Sample {
            requests: sum.requests + second.requests,
            errors: sum.errors + second.errors,
            refused: sum.refused + second.refused,
            ..second
        };
        self.seconds += 1;
        if self.seconds < interval {
            return;
        }
        let sample = average(self.current, self.seconds);
        let most = COVERED / interval;
        if self.samples.capacity() < most {
            self.samples.reserve_exact(most - self.samples.len());
        }
        if self.samples.len() == most {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
        (self.current, self.seconds) = (Sample::default(), 0);
    }

    /// Distributes the samples, which are `old` seconds apart, over intervals of `new` seconds.
    /// Each sample counts as `old` equal seconds.
    pub(crate) fn set_interval(&mut self, old: usize, new: usize) {
        if old == new {
            return;
        }
        let Self { samples, current, seconds } = std::mem::take(self);
        let begun = (seconds > 0).then(|| (average(current, seconds), seconds));
        let whole = samples.into_iter().map(|sample| (sample, old));
        for (sample, seconds) in whole.chain(begun) {
            (0..seconds).for_each(|_| self.add(sample, new));
        }
    }

    /// Appends the samples as a JSON object of arrays, the oldest number first.
    pub(crate) fn write(&self, text: &mut String) {
        let columns: [(&str, Figure); 8] = [
            ("rps", |one| one.requests),
            ("errors", |one| one.errors),
            ("refused", |one| one.refused),
            ("p50", |one| one.p50),
            ("p99", |one| one.p99),
            ("score", |one| one.score),
            ("inFlight", |one| f32::from(one.in_flight)),
            ("state", |one| f32::from(one.state)),
        ];
        for (at, (name, figure)) in columns.iter().enumerate() {
            text.push_str(if at == 0 { "{\"" } else { ",\"" });
            text.push_str(name);
            text.push_str("\":[");
            for (at, sample) in self.samples.iter().enumerate() {
                if at > 0 {
                    text.push(',');
                }
                write_number(text, coarse(figure(sample)));
            }
            text.push(']');
        }
        text.push('}');
    }
}

/// Returns the sample of an interval, from the sum of the rates of its seconds.
fn average(sum: Sample, seconds: usize) -> Sample {
    let share = 1.0 / seconds as f32;
    Sample {
        requests: sum.requests * share,
        errors: sum.errors * share,
        refused: sum.refused * share,
        ..sum
    }
}

/// Returns a number with the digits that a chart shows: one decimal for 10 and above, otherwise
/// two.
fn coarse(number: f32) -> f64 {
    let digits = if number.abs() < 10.0 { 100.0 } else { 10.0 };
    (f64::from(number) * digits).round() / digits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(history: &History) -> serde_json::Value {
        let mut text = String::new();
        history.write(&mut text);
        serde_json::from_str(&text).expect("JSON")
    }

    /// Rates are averaged over an interval, other figures are the last ones, unknown ones are null.
    #[test]
    fn seconds_become_samples() {
        let mut history = History::default();
        for (requests, p99) in [(10.0, 5.0), (21.0, f32::NAN), (4.0, 7.0)] {
            history.add(Sample { requests, p99, score: 12.34, ..Sample::default() }, 2);
        }
        let json = written(&history);
        assert_eq!(json["rps"], serde_json::json!([15.5]));
        assert_eq!(json["p99"], serde_json::json!([null]));
        assert_eq!(json["score"], serde_json::json!([12.3]));
    }

    /// Ten minutes are kept for every number of backends, and no more.
    #[test]
    fn ten_minutes_are_kept() {
        for backends in [1, 64, 65, 256, 257, 1000] {
            let interval = interval(backends);
            let mut history = History::default();
            for second in 0..COVERED + 3 * interval {
                let requests = second as f32;
                history.add(Sample { requests, ..Sample::default() }, interval);
            }
            let most = COVERED / interval;
            assert_eq!((history.samples.len(), most * interval), (most, COVERED));
            assert!(history.samples.capacity() <= most, "{backends}");
            assert!(history.samples[0].requests >= 2.0 * interval as f32, "{backends}");
        }
    }

    /// A change of the interval keeps the sums of the history: 290 s of 7 requests a second, then
    /// 10 s of 28.
    #[test]
    fn another_interval_keeps_the_past() {
        for (old, new) in [(2, 5), (5, 10), (2, 10), (10, 5), (10, 2), (5, 2), (2, 2)] {
            let mut history = History::default();
            for second in 0..300 {
                let requests = if second < 290 { 7.0 } else { 28.0 };
                history.add(Sample { requests, p99: requests, ..Sample::default() }, old);
            }
            history.add(Sample { requests: 28.0, ..Sample::default() }, old);
            history.set_interval(old, new);
            assert_eq!((history.samples.len(), history.seconds), (300 / new, 1), "{old} to {new}");
            let sum: f32 = history.samples.iter().map(|sample| sample.requests).sum();
            assert_eq!(sum * new as f32, 290.0 * 7.0 + 10.0 * 28.0, "{old} to {new}");
            let ends = [history.samples.front(), history.samples.back()];
            assert_eq!(ends.map(|one| one.map(|one| one.p99)), [Some(7.0), Some(28.0)]);
            assert_eq!(history.current.requests, 28.0, "{old} to {new}");
        }
    }
}
