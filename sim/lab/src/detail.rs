//! A run over time, for reports: every counted request by its arrival, and the switches.
//!
//! It takes 12 bytes per request, so it is collected only if needed.
use intelliproxy_look::EXCEEDED;
use serde::Serialize;

/// Collects the requests of a run.
#[derive(Debug, Default)]
pub(super) struct Details {
    requests: Vec<Counted>,
    /// Times of changes of a current backend, s.
    switches: Vec<f32>,
}

/// A counted request.
#[derive(Clone, Copy, Debug)]
struct Counted {
    /// Its arrival, s.
    at: f32,
    /// Its time, ms, with the charge if it failed.
    ms: f32,
    /// Its last backend; [`NOWHERE`] if no backend was found.
    backend: u16,
    has_failed: bool,
}

const NOWHERE: u16 = u16::MAX;

impl Details {
    /// Adds a request: its arrival and its time in ns, and its backend.
    pub(super) fn add(&mut self, at: u64, time: u64, backend: Option<usize>, has_failed: bool) {
        let backend = backend.and_then(|backend| u16::try_from(backend).ok()).unwrap_or(NOWHERE);
        let (at, ms) = ((at as f64 / 1e9) as f32, (time as f64 / 1e6) as f32);
        self.requests.push(Counted { at, ms, backend, has_failed });
    }

    /// Adds a change of a current backend.
    pub(super) fn switched(&mut self, at: u64) {
        self.switches.push((at as f64 / 1e9) as f32);
    }

    /// Returns the run over time in `bins` equal parts of `seconds`. `groups` has the number of
    /// backends of each group, in their order.
    pub(super) fn over_time(self, seconds: f64, bins: usize, groups: &[u32]) -> OverTime {
        let bins = bins.max(1);
        let width = seconds / bins as f64;
        let group_of: Vec<usize> = groups
            .iter()
            .enumerate()
            .flat_map(|(group, count)| (0..*count).map(move |_| group))
            .collect();
        let mut all: Vec<Part> = vec![Part::default(); bins];
        let mut of_groups: Vec<Vec<Part>> = vec![vec![Part::default(); bins]; groups.len()];
        let mut times = Vec::with_capacity(self.requests.len());
        for request in &self.requests {
            let bin = ((f64::from(request.at) / width) as usize).min(bins - 1);
            all[bin].add(request);
            if let Some(group) = group_of.get(usize::from(request.backend)) {
                of_groups[*group][bin].add(request);
            }
            times.push(request.ms);
        }
        times.sort_by(f32::total_cmp);
        let exceeded = EXCEEDED.map(|n| quantile(&times, 1.0 - 1.0 / n)).to_vec();
        let counts: Vec<usize> = all.iter().map(|part| part.times.len()).collect();
        let all = Line::new(all, &counts);
        let groups = of_groups.into_iter().map(|parts| Line::new(parts, &counts)).collect();
        let switches = self.switches.into_iter().map(f64::from).collect();
        OverTime { width, parts: bins, all, groups, exceeded, switches }
    }
}

/// A run over time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct OverTime {
    /// The length of a bin, s.
    pub(super) width: f64,
    /// The number of bins.
    pub(super) parts: usize,
    /// All requests.
    pub(super) all: Line,
    /// The requests of each group.
    pub(super) groups: Vec<Line>,
    /// The time that one of n requests exceeds, ms, for each n of [`EXCEEDED`].
    pub(super) exceeded: Vec<f64>,
    /// Changes of current backends, s.
    pub(super) switches: Vec<f64>,
}

/// Figures of each bin; `None` without requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Line {
    pub(super) p50_ms: Vec<Option<f64>>,
    pub(super) p99_ms: Vec<Option<f64>>,
    /// Failed requests in percent.
    pub(super) failed: Vec<Option<f64>>,
    /// Its share of all requests in percent.
    pub(super) share: Vec<Option<f64>>,
}

/// The requests of a bin.
#[derive(Clone, Debug, Default)]
struct Part {
    times: Vec<f32>,
    failed: u32,
}

impl Part {
    fn add(&mut self, request: &Counted) {
        self.times.push(request.ms);
        self.failed += u32::from(request.has_failed);
    }
}

impl Line {
    fn new(parts: Vec<Part>, all: &[usize]) -> Self {
        let mut line = Self::default();
        for (mut part, all) in parts.into_iter().zip(all) {
            part.times.sort_by(f32::total_cmp);
            let count = part.times.len();
            let percent = |of: f64, whole: usize| (whole > 0).then(|| 100.0 * of / whole as f64);
            let at = |share| (count > 0).then(|| quantile(&part.times, share));
            line.p50_ms.push(at(0.5));
            line.p99_ms.push(at(0.99));
            line.failed.push(percent(f64::from(part.failed), count));
            line.share.push(percent(count as f64, *all));
        }
        line
    }
}

/// Returns the `q`-quantile of the times; 0 for an empty list.
fn quantile(sorted: &[f32], q: f64) -> f64 {
    let rank = (q * sorted.len() as f64 - 1e-9).ceil().max(1.0) as usize;
    sorted.get(rank - 1).or_else(|| sorted.last()).map_or(0.0, |ms| f64::from(*ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two bins by hand: ten requests of 1 to 10 ms at one group, then one failure at the other
    /// group and a request that found no backend.
    #[test]
    fn bins_by_hand() {
        let mut details = Details::default();
        for ms in 1..=10 {
            details.add(500_000_000, ms * 1_000_000, Some(0), false);
        }
        details.add(1_500_000_000, 5_000_000_000, Some(2), true);
        details.add(1_500_000_000, 5_000_000_000, None, true);
        details.switched(1_250_000_000);
        let run = details.over_time(2.0, 2, &[2, 1]);
        assert_eq!((run.width, run.parts, run.switches), (1.0, 2, vec![1.25]));
        assert_eq!(run.all.p50_ms, [Some(5.0), Some(5000.0)]);
        assert_eq!(run.all.p99_ms[0], Some(10.0));
        assert_eq!(run.all.failed, [Some(0.0), Some(100.0)]);
        assert_eq!(run.groups[0].share, [Some(100.0), Some(0.0)]);
        assert_eq!(run.groups[1].share, [Some(0.0), Some(50.0)]);
        assert_eq!(run.groups[0].p50_ms, [Some(5.0), None]);
        assert_eq!(run.exceeded[2], 6.0, "the median of all twelve");
    }

    /// The times exceeded by one of 2, 100 and 1000 requests are the percentiles of the table.
    #[test]
    fn the_distribution_has_the_percentiles() {
        let times: Vec<f32> = (1..=1000).map(|ms| ms as f32).collect();
        let exceeded = |n: f64| quantile(&times, 1.0 - 1.0 / n);
        assert_eq!([2.0, 100.0, 1000.0].map(exceeded), [500.0, 990.0, 999.0]);
        assert_eq!(quantile(&[], 0.5), 0.0);
    }
}
