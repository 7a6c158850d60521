//! Measures the time until returning backends are used again, and the unfairness among equal
//! backends.
//!
//! A backend **returns** when its last fault ends, or when it joins. Its fair share is its share of
//! the capacity of the backends configured then. It has recovered at the start of the first window
//! in which it gets at least 0.8 of that share. A window has enough whole seconds for 20 requests
//! at that share; with fewer the result would be random.
//!
//! The **unfairness** of a group is the difference between its backends' largest and smallest
//! number of requests, divided by their mean. Only groups without faults count. The figure is that
//! of the worst group.
use super::fault::FaultKind;
use super::group::BackendGroup;
use super::scenario::Scenario;

/// Returns the longest time to a recovery, s, and the worst unfairness. They are `None` if no
/// backend returns, or if no group has two backends without faults.
///
/// A backend that does not recover counts with the time until the end of the run.
pub(super) fn figures(
    scenario: &Scenario,
    routed_by_second: &[Vec<u32>],
) -> (Option<f64>, Option<f64>) {
    let mut first = 0;
    let mut recovery: Option<f64> = None;
    let mut unfairness: Option<f64> = None;
    for group in &scenario.backends {
        let backends = first..first + group.count as usize;
        first = backends.end;
        if let Some(at) = returns_at(group).filter(|at| *at < scenario.duration_s) {
            for backend in backends.clone() {
                let took = recovery_of(scenario, group, routed_by_second, backend, at);
                recovery = Some(recovery.map_or(took, |most| most.max(took)));
            }
        }
        if group.count > 1 && group.faults.is_empty() {
            let count = |backend| -> f64 {
                routed_by_second.iter().map(|second: &Vec<u32>| f64::from(second[backend])).sum()
            };
            let counts = backends.map(count);
            let (least, most, sum) = counts
                .fold((f64::MAX, 0.0_f64, 0.0), |(least, most, sum), n| {
                    (least.min(n), most.max(n), sum + n)
                });
            if sum > 0.0 {
                let spread = (most - least) * f64::from(group.count) / sum;
                unfairness = Some(unfairness.map_or(spread, |most| most.max(spread)));
            }
        }
    }
    (recovery, unfairness)
}

/// Returns the time at which the backends of a group are normal again, s; `None` if they always
/// were or never are.
fn returns_at(group: &BackendGroup) -> Option<f64> {
    let mut at = (group.joins_s > 0.0).then_some(group.joins_s);
    for fault in &group.faults {
        match (&fault.what, fault.for_s) {
            // These faults do not take a backend out of use.
            (FaultKind::Slow { .. } | FaultKind::Redraw { .. }, _) => {}
            (_, Some(span)) => at = Some(at.unwrap_or(0.0).max(fault.from_s + span)),
            (_, None) => return None,
        }
    }
    let leaves_at = group.stays_s.map_or(f64::INFINITY, |span| group.joins_s + span);
    at.filter(|at| *at < leaves_at)
}

/// Returns the time from `at` until this backend has its share again, s.
fn recovery_of(
    scenario: &Scenario,
    group: &BackendGroup,
    routed_by_second: &[Vec<u32>],
    backend: usize,
    at: f64,
) -> f64 {
    let is_there = |group: &BackendGroup| {
        let leaves_at = group.stays_s.map_or(f64::INFINITY, |span| group.joins_s + span);
        (group.joins_s..leaves_at).contains(&at)
    };
    let capacity = |group: &BackendGroup| scenario.capacity_of(group);
    let there = scenario.backends.iter().filter(|group| is_there(group));
    let all: f64 = there.map(|group| f64::from(group.count) * capacity(group)).sum();
    let fair = capacity(group) / all;
    let expected = fair * scenario.base_rate();
    let width = (REQUESTS / expected).ceil().max(1.0) as usize;
    let leaves_at = group.stays_s.map_or(f64::INFINITY, |span| group.joins_s + span);
    let end = (scenario.duration_s.min(leaves_at).floor() as usize).min(routed_by_second.len());
    let start = at.ceil() as usize;
    let has_share = |from: &usize| {
        let seconds = &routed_by_second[*from..from + width];
        let own: f64 = seconds.iter().map(|second| f64::from(second[backend])).sum();
        let sum = |second: &Vec<u32>| f64::from(second.iter().sum::<u32>());
        own > 0.0 && own >= ENOUGH * fair * seconds.iter().map(sum).sum::<f64>()
    };
    let last = (end + 1).saturating_sub(width);
    let back = (start..last).find(has_share).unwrap_or_else(|| end.max(start));
    (back as f64 - at).max(0.0)
}

/// The share of its fair share at which a backend counts as recovered.
const ENOUGH: f64 = 0.8;
/// Requests at the fair share that a measurement needs.
const REQUESTS: f64 = 20.0;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Fault;
    use crate::scenario::{Arrivals, Rate};

    fn three_equal(rate: f64) -> Scenario {
        let fault = Fault { from_s: 2.0, for_s: Some(2.0), what: FaultKind::Crash };
        let faulty = BackendGroup { faults: vec![fault], ..BackendGroup::default() };
        let others = BackendGroup { name: "o".to_owned(), count: 2, ..BackendGroup::default() };
        Scenario {
            duration_s: 10.0,
            arrivals: Arrivals { rate: Rate::PerSecond(rate), ..Arrivals::default() },
            backends: vec![faulty, others],
            ..Scenario::default()
        }
    }

    /// By hand: the fair share is 100, so 80 is enough. The fault ends at 4 s, and second 6 is the
    /// first with 80, so the recovery takes 2 s. The others had 1100 and 900 requests: 200 over
    /// 1000.
    #[test]
    fn by_hand() {
        let scenario = three_equal(300.0);
        let mut seconds = vec![vec![100, 110, 90]; 10];
        for (second, own) in [(4, 0), (5, 70), (6, 100)] {
            seconds[second][0] = own;
        }
        let (recovery, unfairness) = figures(&scenario, &seconds);
        assert_eq!(recovery, Some(2.0));
        assert!((unfairness.expect("two are equal") - 0.2).abs() < 1e-12);
        // Without a recovery, the time to the end of the run counts.
        seconds.iter_mut().skip(4).for_each(|second| second[0] = 10);
        assert_eq!(figures(&scenario, &seconds).0, Some(6.0));
    }

    /// At 5 requests a second a window lasts 4 s, so that chance has less influence. If no fault
    /// ends, there is no recovery.
    #[test]
    fn low_rates_take_longer_looks() {
        let mut scenario = three_equal(15.0);
        let mut seconds = vec![vec![5, 5, 5]; 10];
        seconds[4] = vec![0, 8, 7];
        // Seconds 4 to 7 have 15 of 60 requests, but 16 are needed. Seconds 5 to 8 have 20.
        assert_eq!(figures(&scenario, &seconds).0, Some(1.0));
        scenario.backends[0].faults[0].for_s = None;
        assert_eq!(figures(&scenario, &seconds).0, None);
        scenario.backends.truncate(1);
        assert_eq!(figures(&scenario, &seconds), (None, None));
    }
}
