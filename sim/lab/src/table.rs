//! Results as readable text: a table for each scenario and a summary.
use std::fmt::Write;

use super::scenario::Scenario;
use super::summary::{ContenderResult, Overall, ScenarioResult};
use super::tally::Figures;

/// Formats a scenario's table.
pub fn scenario_table(scenario: &Scenario, result: &ScenarioResult) -> String {
    let mut text = format!("\n{}: {}\n", result.name, result.about);
    line(&mut text, COLUMNS);
    for contender in &result.contenders {
        line(&mut text, cells(scenario, contender).each_ref().map(String::as_str));
    }
    text
}

/// The columns of a scenario's table.
pub(super) const COLUMNS: [&str; 13] = [
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
    "cost x",
    "share of each backend, %",
];

fn line(text: &mut String, cells: [&str; 13]) {
    let [policy, mean, p50, p99, p999, cost, failed, back, unfair, switches, p99_x, cost_x, shares] =
        cells;
    let _ = writeln!(
        text,
        "{policy:14}{mean:>9}{p50:>9}{p99:>10}{p999:>10}{cost:>10}{failed:>9}{back:>8}{unfair:>9}\
         {switches:>10}{p99_x:>9}{cost_x:>10}  {shares}",
    );
}

/// Returns the row of a contender.
pub(super) fn cells(scenario: &Scenario, contender: &ContenderResult) -> [String; 13] {
    let mean = &contender.mean;
    [
        contender.policy.clone(),
        ms(mean.mean_ms),
        ms(mean.p50_ms),
        ms(mean.p99_ms),
        ms(mean.p999_ms),
        ms(mean.cost_ms),
        format!("{:.3}", 100.0 * mean.failed_share()),
        known(mean.recovery_s),
        known(mean.unfairness.map(|spread| 100.0 * spread)),
        format!("{:.2}", mean.switches_per_s),
        format!("{:.3}", contender.p99_ratio),
        format!("{:.3}", contender.cost_ratio),
        shares(scenario, mean),
    ]
}

/// Formats a scenario as one line: p99 and cost of each contender, relative to the oracle.
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
        "\nsummary: {scenarios} scenarios, {seeds} seeds, over the oracle, failures charged\n"
    );
    summary_line(&mut text, SUMMARY_COLUMNS);
    for one in overall {
        summary_line(&mut text, summary_cells(one).each_ref().map(String::as_str));
    }
    text
}

/// The columns of the summary.
pub(super) const SUMMARY_COLUMNS: [&str; 9] = [
    "policy",
    "p99 x",
    "cost x",
    "worst p99 x",
    "in",
    "worst failed +%",
    "in",
    "p99 >5%",
    "cost >5%",
];

fn summary_line(text: &mut String, cells: [&str; 9]) {
    let [policy, p99, cost, worst, worst_in, failed, failed_in, p99_losses, cost_losses] = cells;
    let _ = writeln!(
        text,
        "{policy:14}{p99:>10}{cost:>11}{worst:>12}  {worst_in:15}{failed:>16}  {failed_in:15}\
         {p99_losses:>10}{cost_losses:>10}",
    );
}

/// Returns the row of a contender in the summary.
pub(super) fn summary_cells(one: &Overall) -> [String; 9] {
    [
        one.policy.clone(),
        format!("{:.3}", one.p99_ratio),
        format!("{:.3}", one.cost_ratio),
        format!("{:.3}", one.worst_p99_ratio),
        one.worst_p99_in.clone(),
        format!("{:.3}", 100.0 * one.worst_failed_share),
        one.worst_failed_in.clone(),
        known(one.p99_losses.map(|share| 100.0 * share)),
        known(one.cost_losses.map(|share| 100.0 * share)),
    ]
}

/// Formats milliseconds: with two decimals below 1000, otherwise without decimals.
fn ms(value: f64) -> String {
    if value < 1000.0 { format!("{value:.2}") } else { format!("{value:.0}") }
}

/// Formats a figure that some scenarios lack.
fn known(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"))
}

/// Formats the shares of each group's backends: one share, or the smallest and the largest.
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
