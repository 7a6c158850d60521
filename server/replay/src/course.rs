//! A recording over time, in bounded memory: counts and times by part of time and backend.
use std::collections::BTreeMap;
use std::time::Duration;

use intelliproxy_core::BackendId;
use intelliproxy_core::sorting::sort_by;
use intelliproxy_look::{Chart, EXCEEDED, LINES_MAX, Mark, Series, Tone};

/// The parts of time so far. When there are too many, pairs of them become one.
#[derive(Debug)]
pub(crate) struct Course {
    width: Duration,
    parts: Vec<Part>,
    /// The names of the backends with requests.
    names: BTreeMap<BackendId, String>,
    pub(crate) marks: Vec<Mark>,
}

#[derive(Debug, Default)]
struct Part {
    decisions: u64,
    agree: u64,
    cells: BTreeMap<BackendId, Cell>,
}

/// The requests of a backend in a part of time.
#[derive(Debug, Default)]
struct Cell {
    recorded: u64,
    /// Requests that other rules would have sent to it.
    chosen: u64,
    ended: u64,
    failed: u64,
    times: Times,
}

/// Times by bucket. Each bucket is 4.4 % wider than the previous one.
#[derive(Clone, Debug, Default)]
struct Times(BTreeMap<u16, u64>);

impl Default for Course {
    fn default() -> Self {
        Self { width: WIDTH, parts: Vec::new(), names: BTreeMap::new(), marks: Vec::new() }
    }
}

impl Course {
    /// Adds a decision. `chosen` is the backend that other rules would have taken.
    pub(crate) fn decided(
        &mut self,
        at: Duration,
        recorded: Option<BackendId>,
        chosen: Option<BackendId>,
    ) {
        let part = self.part(at);
        part.decisions += 1;
        part.agree += u64::from(recorded == chosen);
        if let Some(id) = recorded {
            part.cells.entry(id).or_default().recorded += 1;
        }
        if let Some(id) = chosen {
            part.cells.entry(id).or_default().chosen += 1;
        }
    }

    /// Adds the end of a request that was sent at `at`: the time to its head, ms, or a failure.
    pub(crate) fn ended(&mut self, at: Duration, backend: BackendId, ms: Option<f64>) {
        let cell = self.part(at).cells.entry(backend).or_default();
        cell.ended += 1;
        match ms {
            Some(ms) => cell.times.add(ms),
            None => cell.failed += 1,
        }
    }

    /// Sets the name of a backend.
    pub(crate) fn name(&mut self, id: BackendId, name: &str) {
        self.names.entry(id).or_insert_with(|| name.to_owned());
    }

    /// Adds a mark, unless there are very many.
    pub(crate) fn mark(&mut self, at: Duration, label: String, tone: Tone) {
        if self.marks.len() < MARKS_MAX {
            self.marks.push(Mark { at: at.as_secs_f64(), label, tone });
        }
    }

    fn part(&mut self, at: Duration) -> &mut Part {
        let mut index = at.div_duration_f64(self.width) as usize;
        while index >= PARTS_MAX {
            let mut merged = Vec::with_capacity(PARTS_MAX);
            let mut parts = std::mem::take(&mut self.parts).into_iter();
            while let Some(mut part) = parts.next() {
                if let Some(next) = parts.next() {
                    part.add(next);
                }
                merged.push(part);
            }
            self.parts = merged;
            self.width *= 2;
            index = at.div_duration_f64(self.width) as usize;
        }
        if index >= self.parts.len() {
            self.parts.resize_with(index + 1, Part::default);
        }
        &mut self.parts[index]
    }

    /// Returns the backends that get their own line: those with the most requests.
    fn shown(&self) -> Vec<(&BackendId, &String)> {
        let requests = |id: BackendId| -> u64 {
            let cells = self.parts.iter().filter_map(|part| part.cells.get(&id));
            cells.map(|cell| cell.recorded.max(cell.chosen)).sum()
        };
        let mut shown: Vec<_> = self.names.iter().collect();
        // In the order of their numbers, so that a backend has the same colour in each report.
        if shown.len() > LINES_MAX {
            sort_by(&mut shown, |one, other| requests(*other.0).cmp(&requests(*one.0)));
            shown.truncate(LINES_MAX);
            sort_by(&mut shown, |one, other| one.0.cmp(other.0));
        }
        shown
    }

    fn chart(
        &self,
        title: &str,
        unit: &'static str,
        figure: impl Fn(&Part, &Cell) -> Option<f64>,
    ) -> Chart {
        let none = Cell::default();
        let series = self.shown().into_iter().map(|(id, name)| Series {
            label: name.clone(),
            values: self
                .parts
                .iter()
                .map(|part| figure(part, part.cells.get(id).unwrap_or(&none)))
                .collect(),
        });
        Chart { series: series.collect(), ..self.frame(title, unit) }
    }

    /// Returns a chart over time without lines.
    fn frame(&self, title: &str, unit: &'static str) -> Chart {
        let (width, parts) = (self.width.as_secs_f64(), self.parts.len());
        Chart { marks: self.marks.clone(), ..Chart::over_time(title, unit, width, parts) }
    }

    /// Returns the charts of the recorded requests.
    pub(crate) fn recorded(&self) -> Vec<Chart> {
        let width = self.width.as_secs_f64();
        vec![
            self.distribution(),
            self.shares("share of the requests", |cell| cell.recorded),
            self.chart("requests per second", "/s", |_, cell| Some(cell.recorded as f64 / width)),
            self.chart("p50 to the head of good responses", "ms", |_, cell| {
                cell.times.quantile(0.5)
            }),
            self.chart("p99 to the head of good responses", "ms", |_, cell| {
                cell.times.quantile(0.99)
            }),
            self.chart("failed", "%", |_, cell| percent(cell.failed, cell.ended)),
        ]
    }

    /// Returns the charts of recorded and other decisions.
    pub(crate) fn decided_again(&self) -> Vec<Chart> {
        let agreement = Series {
            label: "the same backend".to_owned(),
            values: self.parts.iter().map(|part| percent(part.agree, part.decisions)).collect(),
        };
        vec![
            self.shares("recorded: share of the requests", |cell| cell.recorded),
            self.shares("again: share of the requests", |cell| cell.chosen),
            self.chart("recorded: p99 to the head of good responses", "ms", |_, cell| {
                cell.times.quantile(0.99)
            }),
            Chart { series: vec![agreement], ..self.frame("agreement", "%") },
        ]
    }

    fn shares(&self, title: &str, of: fn(&Cell) -> u64) -> Chart {
        self.chart(title, "%", move |part, cell| {
            percent(of(cell), part.cells.values().map(of).sum())
        })
    }

    /// Returns the time that one of n requests exceeds, by backend.
    fn distribution(&self) -> Chart {
        let series = self.shown().into_iter().map(|(id, name)| {
            let mut all = Times::default();
            self.parts.iter().filter_map(|part| part.cells.get(id)).for_each(|cell| {
                all.merge(&cell.times);
            });
            let values = EXCEEDED.iter().map(|n| all.quantile(1.0 - 1.0 / n));
            Series { label: name.clone(), values: values.collect() }
        });
        Chart::exceeded("time that one of N good responses exceeds", series.collect())
    }
}

impl Part {
    fn add(&mut self, other: Self) {
        self.decisions += other.decisions;
        self.agree += other.agree;
        for (id, cell) in other.cells {
            let own = self.cells.entry(id).or_default();
            own.recorded += cell.recorded;
            own.chosen += cell.chosen;
            own.ended += cell.ended;
            own.failed += cell.failed;
            own.times.merge(&cell.times);
        }
    }
}

impl Times {
    fn add(&mut self, ms: f64) {
        let octaves = (1e3 * ms.max(1e-3)).log2();
        *self.0.entry((octaves * STEPS).round() as u16).or_default() += 1;
    }

    fn merge(&mut self, other: &Self) {
        for (bucket, count) in &other.0 {
            *self.0.entry(*bucket).or_default() += count;
        }
    }

    /// Returns the least time that at least this share does not exceed, ms, to 2.2 %.
    fn quantile(&self, share: f64) -> Option<f64> {
        let whole: u64 = self.0.values().sum();
        let rank = (share * whole as f64 - 1e-9).ceil().max(1.0);
        let mut sum = 0.0;
        for (bucket, count) in &self.0 {
            sum += *count as f64;
            if sum >= rank {
                return Some((f64::from(*bucket) / STEPS).exp2() / 1e3);
            }
        }
        None
    }
}

fn percent(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| 100.0 * part as f64 / whole as f64)
}

/// The first width of a part of time.
const WIDTH: Duration = Duration::from_millis(100);
/// A report has half to all of these.
const PARTS_MAX: usize = 240;
const MARKS_MAX: usize = 200;
/// Buckets per doubling of the time.
const STEPS: f64 = 16.0;

#[cfg(test)]
mod tests {
    use super::*;

    /// An hour of requests has at most as many parts as allowed, and no request is lost in merging
    /// them.
    #[test]
    fn long_recordings_are_bounded() {
        let mut course = Course::default();
        let ids = [0, 1].map(BackendId::from_index);
        for second in 0..3600 {
            let at = Duration::from_secs(second);
            let id = ids[(second % 2) as usize];
            course.name(id, if id == ids[0] { "A" } else { "B" });
            course.decided(at, Some(id), Some(ids[0]));
            course.ended(at, id, (second % 4 > 0).then_some(10.0));
        }
        assert!((PARTS_MAX / 2..=PARTS_MAX).contains(&course.parts.len()));
        let cells = || course.parts.iter().flat_map(|part| part.cells.values());
        assert_eq!(cells().map(|cell| cell.recorded).sum::<u64>(), 3600);
        assert_eq!(cells().map(|cell| cell.ended).sum::<u64>(), 3600);
        assert_eq!(cells().map(|cell| cell.failed).sum::<u64>(), 900);
        assert_eq!(course.parts.iter().map(|part| part.agree).sum::<u64>(), 1800);
        let charts = course.recorded();
        assert_eq!(charts[1].series.len(), 2);
        assert!(
            charts[1].series[0].values.iter().flatten().all(|share| (*share - 50.0).abs() < 20.0)
        );
        let again = course.decided_again();
        assert!(again[1].series[0].values.iter().flatten().all(|share| *share == 100.0));
    }

    /// Quantiles of a few times, within the width of a bucket.
    #[test]
    fn quantiles_by_hand() {
        let mut times = Times::default();
        (1..=100).for_each(|ms| times.add(f64::from(ms)));
        for (share, expected) in [(0.5, 50.0), (0.99, 99.0), (1.0, 100.0), (0.0, 1.0)] {
            let seen = times.quantile(share).expect("there are times");
            assert!((seen / expected - 1.0).abs() < 0.023, "{share}: {seen}");
        }
        assert_eq!(Times::default().quantile(0.5), None);
    }
}
