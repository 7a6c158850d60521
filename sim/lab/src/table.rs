//! Results as readable text: a table for each scenario and a summary.
use std::fmt::Write;

use super::scenario::Scenario;
use super::summary::{Overall, ScenarioResult};
use super::tally::Figures;

/// Formats a scenario's table.
pub fn scenario_table(scenario: &Scenario, result: &ScenarioResult) -> String {
    let mut text = format!("\n{}: {}\n", result.name, result.about);
    let _ = writeln!(
        text,
        "{:14}{:>9}{:>9}{:>10}{:>10}{:>10}{:>9}{:>8}{:>9}{:>10}{:>9}{:>10}  share of each backend, %",
        "policy",
        "mean",
        "p50",
        "p99",
        "p99.9",
        "cost",
        "failed%",
        "back s",
        "unfair%",
        "switch/s",
        "p99 x",
        "cost x"
    );
    for contender in &result.contenders {
        let mean = &contender.mean;
        let _ = writeln!(
            text,
            "{:14}{:>9}{:>9}{:>10}{:>10}{:>10}{:>9.3}{:>8}{:>9}{:>10.2}{:>9.3}{:>10.3}  {}",
            contender.policy,
            ms(mean.mean_ms),
            ms(mean.p50_ms),
            ms(mean.p99_ms),
            ms(mean.p999_ms),
            ms(mean.cost_ms),
            100.0 * mean.failed_share(),
            known(mean.recovery_s),
            known(mean.unfairness.map(|spread| 100.0 * spread)),
            mean.switches_per_s,
            contender.p99_ratio,
            contender.cost_ratio,
            shares(scenario, mean),
        );
    }
    text
}

/// Formats a scenario as a line: p99 and cost of each contender relative to the oracle's.
pub(super) fn scenario_line(result: &ScenarioResult, is_first: bool) -> String {
    let mut text = String::new();
    let others = result.contenders.iter().skip(1);
    if is_first {
        let _ = write!(text, "{:9}", "p99/cost");
        others.clone().for_each(|contender| {
            let _ = write!(text, "{:>15}", contender.policy);
        });
        text.push('\n');
    }
    let _ = write!(text, "{:9}", result.name);
    for contender in others {
        let ratios = format!("{:.2}/{:.2}", contender.p99_ratio, contender.cost_ratio);
        let _ = write!(text, "{ratios:>15}");
    }
    let _ = writeln!(text, "  {}", result.about);
    text
}

/// Formats the summary over scenarios.
pub fn summary_table(scenarios: usize, seeds: u64, overall: &[Overall]) -> String {
    let mut text = format!(
        "\nsummary: {scenarios} scenarios, {seeds} seeds, over the oracle, failures charged\n\
         {:14}{:>10}{:>11}{:>12}  {:15}{:>16}  {:15}{:>10}{:>10}\n",
        "policy",
        "p99 x",
        "cost x",
        "worst p99 x",
        "in",
        "worst failed +%",
        "in",
        "p99 >5%",
        "cost >5%"
    );
    for one in overall {
        let _ = writeln!(
            text,
            "{:14}{:>10.3}{:>11.3}{:>12.3}  {:15}{:>16.3}  {:15}{:>10}{:>10}",
            one.policy,
            one.p99_ratio,
            one.cost_ratio,
            one.worst_p99_ratio,
            one.worst_p99_in,
            100.0 * one.worst_failed_share,
            one.worst_failed_in,
            known(one.p99_losses.map(|share| 100.0 * share)),
            known(one.cost_losses.map(|share| 100.0 * share)),
        );
    }
    text
}

/// Formats milliseconds: with two decimals below 1000, without decimals from there on.
fn ms(value: f64) -> String {
    if value < 1000.0 { format!("{value:.2}") } else { format!("{value:.0}") }
}

/// Formats a figure that some scenarios lack.
fn known(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"))
}

/// Formats the shares of each group's backends: one share, or the least and the largest.
fn shares(scenario: &Scenario, figures: &Figures) -> String {
    let mut text = String::new();
    let mut rest = figures.shares.as_slice();
    for group in &scenario.backends {
        let (these, others) = rest.split_at(rest.len().min(group.count as usize));
        rest = others;
        let percent = |share: f64| 100.0 * share;
        let least = percent(these.iter().copied().fold(f64::INFINITY, f64::min));
        let most = percent(these.iter().copied().fold(0.0, f64::max));
        let separator = if text.is_empty() { "" } else { ", " };
        let _ = match these.len() {
            1 => write!(text, "{separator}{} {most:.1}", group.name),
            _ => write!(text, "{separator}{} {least:.1}..{most:.1}", group.name),
        };
    }
    text
}
