//! The cost of other decisions, estimated from the recorded ones.
//!
//! Within a second the recorded choice of a backend is taken as random, because the state of the
//! backends hardly changes in that time. A request that the other rules would have sent to B is
//! therefore estimated at the mean cost of that second's requests at B. In other words, each
//! recorded request counts with the weight `share wanted / share recorded` of its backend in its
//! second (inverse propensity, with the recorded share as the propensity). A second without
//! recorded requests to B shows nothing about B: requests that would have gone to B in it are
//! omitted, and the share of the others is printed.
//!
//! The interval comes from a jackknife over consecutive blocks of seconds: 1.96 standard errors on
//! either side. Consecutive seconds are correlated; blocks of them hardly are.
use std::collections::BTreeMap;
use std::time::Duration;

use intelliproxy_core::BackendId;
use intelliproxy_core::sorting::sort_by;

/// One recorded request, decided again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// The time of its decision since the start.
    pub(crate) at: Duration,
    /// The recorded backend.
    pub(crate) recorded: BackendId,
    /// The backend chosen by the other rules.
    pub(crate) chosen: Option<BackendId>,
    /// Its cost, ms.
    pub(crate) cost_ms: f64,
}

/// Result of an estimate.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Estimate {
    /// Share of requests with evidence.
    pub(crate) supported: f64,
    /// Mean cost as recorded in the same seconds, ms.
    pub(crate) recorded_ms: f64,
    /// Mean cost under the other rules, ms.
    pub(crate) estimated_ms: f64,
    /// Half the width of the difference's interval; `None` with too few blocks.
    pub(crate) half_width_ms: Option<f64>,
    /// The median of the weighted costs, ms.
    pub(crate) p50_ms: f64,
    /// The 99th percentile of the weighted costs, ms.
    pub(crate) p99_ms: f64,
    /// The number of equally weighted requests with the same information.
    pub(crate) effective: f64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Cell {
    recorded: u64,
    wanted: u64,
    cost: f64,
}

/// Sums over a block of seconds.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    supported: f64,
    estimated: f64,
    recorded: f64,
}

/// Estimates the costs. Returns `None` without any evidence.
pub(crate) fn estimate(samples: &[Sample]) -> Option<Estimate> {
    let mut cells: BTreeMap<(u64, BackendId), Cell> = BTreeMap::new();
    for sample in samples {
        let second = sample.at.as_secs();
        let cell = cells.entry((second, sample.recorded)).or_default();
        cell.recorded += 1;
        cell.cost += sample.cost_ms;
        if let Some(chosen) = sample.chosen {
            cells.entry((second, chosen)).or_default().wanted += 1;
        }
    }
    let mut seconds: BTreeMap<u64, (Sums, u64, f64)> = BTreeMap::new();
    for ((second, _), cell) in &cells {
        let (sums, count, cost) = seconds.entry(*second).or_default();
        *count += cell.recorded;
        *cost += cell.cost;
        if cell.recorded > 0 {
            sums.supported += cell.wanted as f64;
            sums.estimated += cell.wanted as f64 * cell.cost / cell.recorded as f64;
        }
    }
    for (sums, count, cost) in seconds.values_mut() {
        sums.recorded = if *count > 0 { sums.supported * *cost / *count as f64 } else { 0.0 };
    }
    let all: Vec<Sums> = seconds.into_values().map(|(sums, ..)| sums).collect();
    let whole = total(all.iter());
    if whole.supported <= 0.0 {
        return None;
    }
    let weight = |sample: &Sample| {
        let cell = cells.get(&(sample.at.as_secs(), sample.recorded))?;
        Some(cell.wanted as f64 / cell.recorded as f64)
    };
    let mut weighted: Vec<(f64, f64)> =
        samples.iter().filter_map(|sample| Some((sample.cost_ms, weight(sample)?))).collect();
    sort_by(&mut weighted, |a, b| a.0.total_cmp(&b.0));
    let squares: f64 = weighted.iter().map(|(_, weight)| weight * weight).sum();
    Some(Estimate {
        supported: whole.supported / samples.len() as f64,
        recorded_ms: whole.recorded / whole.supported,
        estimated_ms: whole.estimated / whole.supported,
        half_width_ms: half_width(&all),
        p50_ms: weighted_quantile(&weighted, 0.5),
        p99_ms: weighted_quantile(&weighted, 0.99),
        effective: whole.supported * whole.supported / squares,
    })
}

fn total<'a>(sums: impl Iterator<Item = &'a Sums>) -> Sums {
    sums.fold(Sums::default(), |all, one| Sums {
        supported: all.supported + one.supported,
        estimated: all.estimated + one.estimated,
        recorded: all.recorded + one.recorded,
    })
}

/// Returns half the width of the interval of the difference between the estimated and the recorded
/// mean, by leaving out one block at a time.
fn half_width(seconds: &[Sums]) -> Option<f64> {
    let blocks = BLOCKS.min(seconds.len() / 2);
    if blocks < BLOCKS_MIN {
        return None;
    }
    let difference = |sums: Sums| (sums.estimated - sums.recorded) / sums.supported;
    let whole = total(seconds.iter());
    let bound = |block: usize| block * seconds.len() / blocks;
    let left_out: Vec<f64> = (0..blocks)
        .filter_map(|block| {
            let part = total(seconds[bound(block)..bound(block + 1)].iter());
            let rest = Sums {
                supported: whole.supported - part.supported,
                estimated: whole.estimated - part.estimated,
                recorded: whole.recorded - part.recorded,
            };
            (rest.supported > 0.0).then(|| difference(rest))
        })
        .collect();
    let count = left_out.len() as f64;
    let mean = left_out.iter().sum::<f64>() / count;
    let squares: f64 = left_out.iter().map(|one| (one - mean) * (one - mean)).sum();
    Some(1.96 * ((count - 1.0) / count * squares).sqrt())
}

fn weighted_quantile(sorted: &[(f64, f64)], share: f64) -> f64 {
    let whole: f64 = sorted.iter().map(|(_, weight)| weight).sum();
    let mut sum = 0.0;
    for (cost, weight) in sorted {
        sum += weight;
        if sum >= share * whole && *weight > 0.0 {
            return *cost;
        }
    }
    sorted.last().map_or(0.0, |(cost, _)| *cost)
}

/// Maximum number of blocks, which are left out one by one.
const BLOCKS: usize = 40;
/// Minimum number of blocks for an interval.
const BLOCKS_MIN: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(seconds: u64, chosen: impl Fn(u64) -> u32) -> Vec<Sample> {
        let sample = |number: u64| Sample {
            at: Duration::from_millis(number * 50),
            recorded: BackendId::from_index((number % 2) as u32),
            chosen: Some(BackendId::from_index(chosen(number))),
            // Backend 0 costs 10 or 12 ms, backend 1 costs 30 ms.
            cost_ms: if number.is_multiple_of(2) {
                10.0 + (number / 2 % 2 * 2) as f64
            } else {
                30.0
            },
        };
        (0..20 * seconds).map(sample).collect()
    }

    /// With half of the requests at each backend the cost is 20.5 ms. With all requests at backend
    /// 0 the cost would have been 11 ms, as recorded there.
    #[test]
    fn costs_by_hand() {
        let all = estimate(&samples(60, |_| 0)).expect("an estimate");
        assert!((all.recorded_ms - 20.5).abs() < 1e-9, "{all:?}");
        assert!((all.estimated_ms - 11.0).abs() < 1e-9, "{all:?}");
        assert_eq!(all.supported, 1.0);
        assert!((all.effective - 600.0).abs() < 1e-6, "{all:?}");
        assert!(all.half_width_ms.is_some_and(|half| half < 0.01), "{all:?}");
        assert_eq!((all.p50_ms, all.p99_ms), (10.0, 12.0));
    }

    /// The estimate for the recorded choices is exactly their cost.
    #[test]
    fn the_same_choices_cost_the_same() {
        let same = estimate(&samples(30, |number| (number % 2) as u32)).expect("an estimate");
        assert!((same.estimated_ms - same.recorded_ms).abs() < 1e-9, "{same:?}");
        assert!((same.effective - 600.0).abs() < 1e-6, "{same:?}");
    }

    /// A backend without requests provides no evidence, and this is printed. A short recording has
    /// no interval.
    #[test]
    fn requests_without_evidence_are_omitted() {
        let half = samples(4, |number| if number % 4 == 0 { 0 } else { 9 });
        let half = estimate(&half).expect("an estimate");
        assert!((half.supported - 0.25).abs() < 1e-9, "{half:?}");
        assert_eq!(half.half_width_ms, None);
        assert_eq!(estimate(&samples(4, |_| 9)), None);
        assert_eq!(estimate(&[]), None);
    }
}
