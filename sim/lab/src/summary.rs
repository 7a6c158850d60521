//! Summaries of runs: means over seeds, ratios to the oracle, geometric means over scenarios.
use serde::Serialize;

use super::scenario::Scenario;
use super::tally::Figures;
use super::world::Run;

/// The results of a scenario for every contender.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ScenarioResult {
    /// Its name.
    pub name: String,
    /// Its subject.
    pub about: String,
    /// Each contender's results, the oracle's first.
    pub contenders: Vec<ContenderResult>,
}

/// The results of a contender in a scenario.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ContenderResult {
    /// Its name.
    pub policy: String,
    /// The mean of every figure over seeds.
    pub mean: Figures,
    /// The ratio of its p99 to the oracle's: geometric mean over seeds.
    pub p99_ratio: f64,
    /// The ratio of its cost to the oracle's: geometric mean over seeds.
    pub cost_ratio: f64,
    /// Its runs, by seed.
    pub runs: Vec<SeedRun>,
}

/// A run and its seed.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SeedRun {
    /// The seed.
    pub seed: u64,
    /// Its results.
    #[serde(flatten)]
    pub run: Run,
}

/// The results of a contender over all scenarios.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Overall {
    /// Its name.
    pub policy: String,
    /// The geometric mean of its p99 ratios.
    pub p99_ratio: f64,
    /// The geometric mean of its cost ratios.
    pub cost_ratio: f64,
    /// Its largest p99 ratio.
    pub worst_p99_ratio: f64,
    /// The scenario of that ratio.
    pub worst_p99_in: String,
    /// Its largest share of failed requests, minus the oracle's.
    pub worst_failed_share: f64,
    /// The scenario of that share.
    pub worst_failed_in: String,
    /// The share of scenarios in which its p99 is more than 5 % above that of the best simple
    /// policy; `None` if no simple policy ran.
    pub p99_losses: Option<f64>,
    /// The share of scenarios in which its cost is more than 5 % above that of the best simple
    /// policy.
    pub cost_losses: Option<f64>,
}

impl ScenarioResult {
    /// Combines the runs of a scenario. The oracle must be the first contender, and all contenders
    /// must have the same seeds in the same order.
    pub fn new(scenario: &Scenario, runs: Vec<(String, Vec<SeedRun>)>) -> Self {
        let reference: Vec<Figures> = runs
            .first()
            .map(|(_, runs)| runs.iter().map(|seed| seed.run.figures.clone()).collect())
            .unwrap_or_default();
        let contenders = runs.into_iter().map(|(policy, runs)| {
            let ratio = |of: fn(&Figures) -> f64| {
                let pairs = runs.iter().zip(&reference);
                geometric_mean(pairs.map(|(seed, by)| of(&seed.run.figures) / of(by)))
            };
            ContenderResult {
                policy,
                mean: mean(&runs),
                p99_ratio: ratio(|figures| figures.p99_ms),
                cost_ratio: ratio(|figures| figures.cost_ms),
                runs,
            }
        });
        Self {
            contenders: contenders.collect(),
            name: scenario.name.clone(),
            about: scenario.about.clone(),
        }
    }
}

impl Overall {
    /// Returns the results of every contender. All scenarios must have the same contenders.
    pub fn of(scenarios: &[ScenarioResult]) -> Vec<Self> {
        let count = scenarios.first().map_or(0, |scenario| scenario.contenders.len());
        (0..count).map(|index| Self::of_one(scenarios, index)).collect()
    }

    fn of_one(scenarios: &[ScenarioResult], index: usize) -> Self {
        let results = scenarios.iter().map(|scenario| (scenario, &scenario.contenders[index]));
        let p99 = results.clone().map(|(_, result)| result.p99_ratio);
        let cost = results.clone().map(|(_, result)| result.cost_ratio);
        let worst_p99 = results.clone().max_by(|a, b| a.1.p99_ratio.total_cmp(&b.1.p99_ratio));
        let excess = |(scenario, result): &(&ScenarioResult, &ContenderResult)| {
            result.mean.failed_share() - scenario.contenders[0].mean.failed_share()
        };
        let worst_failed = results.clone().max_by(|a, b| excess(a).total_cmp(&excess(b)));
        let name = |worst: &Option<(&ScenarioResult, _)>| {
            worst.as_ref().map_or_else(String::new, |(scenario, _)| scenario.name.clone())
        };
        Self {
            policy: results.clone().next().map_or_else(String::new, |r| r.1.policy.clone()),
            p99_ratio: geometric_mean(p99),
            cost_ratio: geometric_mean(cost),
            worst_p99_in: name(&worst_p99),
            worst_p99_ratio: worst_p99.map_or(f64::NAN, |(_, result)| result.p99_ratio),
            worst_failed_in: name(&worst_failed),
            worst_failed_share: worst_failed.as_ref().map_or(f64::NAN, excess),
            p99_losses: losses(scenarios, index, |result| result.p99_ratio),
            cost_losses: losses(scenarios, index, |result| result.cost_ratio),
        }
    }
}

/// Returns the share of scenarios in which a contender's ratio is more than 5 % above the lowest
/// ratio of a simple policy.
fn losses(
    scenarios: &[ScenarioResult],
    index: usize,
    ratio: fn(&ContenderResult) -> f64,
) -> Option<f64> {
    let lost = scenarios.iter().filter_map(|scenario| {
        let simple = scenario.contenders.iter().filter(|c| SIMPLE.contains(&c.policy.as_str()));
        let best = simple.map(ratio).min_by(f64::total_cmp)?;
        Some(f64::from(u8::from(ratio(&scenario.contenders[index]) > 1.05 * best)))
    });
    let (sum, count) = lost.fold((0.0, 0.0), |(sum, count), lost| (sum + lost, count + 1.0));
    (count > 0.0).then_some(sum / count)
}

/// Policies that only count or time requests.
const SIMPLE: [&str; 3] = ["least_request", "p2c", "peak_ewma"];

/// Returns the mean of every figure. Counts are rounded.
fn mean(runs: &[SeedRun]) -> Figures {
    let count = runs.len().max(1) as f64;
    let of = |figure: &dyn Fn(&Figures) -> f64| {
        runs.iter().map(|seed| figure(&seed.run.figures)).sum::<f64>() / count
    };
    let some = |figure: &dyn Fn(&Figures) -> Option<f64>| {
        let values = runs.iter().filter_map(|seed| figure(&seed.run.figures));
        let (sum, count) = values.fold((0.0, 0.0), |(sum, count), v| (sum + v, count + 1.0));
        (count > 0.0).then_some(sum / count)
    };
    let backends = runs.first().map_or(0, |seed| seed.run.figures.shares.len());
    Figures {
        requests: of(&|figures| figures.requests as f64).round() as u64,
        failed: of(&|figures| figures.failed as f64).round() as u64,
        mean_ms: of(&|figures| figures.mean_ms),
        p50_ms: of(&|figures| figures.p50_ms),
        p99_ms: of(&|figures| figures.p99_ms),
        p999_ms: of(&|figures| figures.p999_ms),
        cost_ms: of(&|figures| figures.cost_ms),
        shares: (0..backends).map(|index| of(&|figures| figures.shares[index])).collect(),
        switches_per_s: of(&|figures| figures.switches_per_s),
        gave_up: of(&|figures| figures.gave_up as f64).round() as u64,
        recovery_s: some(&|figures| figures.recovery_s),
        unfairness: some(&|figures| figures.unfairness),
    }
}

/// Returns the geometric mean; NaN for no values.
fn geometric_mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) =
        values.fold((0.0, 0.0), |(sum, count), value: f64| (sum + libm::log(value), count + 1.0));
    libm::exp(sum / count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(seed: u64, p99_ms: f64, failed: u64) -> SeedRun {
        let figures = Figures {
            requests: 1000,
            failed,
            mean_ms: 1.0,
            p50_ms: 1.0,
            p99_ms,
            p999_ms: 1.0,
            cost_ms: 2.0 * p99_ms,
            shares: vec![1.0],
            switches_per_s: 0.0,
            gave_up: 0,
            recovery_s: None,
            unfairness: None,
        };
        let run = Run {
            figures,
            arrivals_hash: 0,
            trace_hash: 0,
            routed_by_second: vec![],
            arrived: 1000,
        };
        SeedRun { seed, run }
    }

    /// Two scenarios by hand. Ratios are taken for each seed: the geometric mean of 20/10 and 40/5
    /// is 4, that of 1 and 1 is 1. Over both scenarios it is 2, the worst ratio is 4, and failures
    /// exceed the oracle's by 0.2 %.
    #[test]
    fn ratios_by_hand() {
        let scenario = |name: &str| Scenario { name: name.to_owned(), ..Scenario::default() };
        let runs = |a: [SeedRun; 2], b: [SeedRun; 2]| {
            vec![("oracle".to_owned(), a.to_vec()), ("p".to_owned(), b.to_vec())]
        };
        let oracle = [run(1, 10.0, 1), run(2, 5.0, 1)];
        let first = runs(oracle.clone(), [run(1, 20.0, 3), run(2, 40.0, 3)]);
        let second = runs(oracle.clone(), oracle);
        let results = [
            ScenarioResult::new(&scenario("x"), first),
            ScenarioResult::new(&scenario("y"), second),
        ];
        assert!((results[0].contenders[1].p99_ratio - 4.0).abs() < 1e-12);
        assert_eq!(results[0].contenders[1].mean.p99_ms, 30.0);
        let [oracle, policy] = Overall::of(&results).try_into().expect("two contenders");
        assert_eq!((oracle.p99_ratio, oracle.worst_failed_share), (1.0, 0.0));
        assert!((policy.p99_ratio - 2.0).abs() < 1e-12);
        assert!((policy.worst_p99_ratio - 4.0).abs() < 1e-12);
        assert!((policy.worst_failed_share - 0.002).abs() < 1e-12);
        assert_eq!((policy.worst_p99_in.as_str(), policy.worst_failed_in.as_str()), ("x", "x"));
    }

    /// By hand: the best simple policy has 10 and 20. 10.4 is within 5 % of 10, but 22 is not
    /// within 5 % of 20, so half of the scenarios are lost. Without simple policies the share is
    /// unknown.
    #[test]
    fn losses_by_hand() {
        let results = |simple: &str| {
            [(10.0, 10.4), (20.0, 22.0)].map(|(best, own)| {
                let policies = ["oracle", simple, "p2c", "own"];
                let p99 = [10.0, best, 30.0, own];
                let runs = policies.iter().zip(p99);
                let runs = runs.map(|(name, p99)| ((*name).to_owned(), vec![run(1, p99, 0)]));
                ScenarioResult::new(&Scenario::default(), runs.collect())
            })
        };
        let overall = Overall::of(&results("least_request"));
        let losses: Vec<_> = overall.iter().map(|one| one.p99_losses).collect();
        assert_eq!(losses, [Some(0.0), Some(0.0), Some(1.0), Some(0.5)]);
        assert_eq!(overall[3].cost_losses, Some(0.5));
        let mut alone = results("score");
        alone.iter_mut().for_each(|result| result.contenders.retain(|c| c.policy != "p2c"));
        assert!(Overall::of(&alone).iter().all(|one| one.p99_losses.is_none()));
    }
}
