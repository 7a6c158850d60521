//! The results as an HTML report: the tables of the text output, and curves of the first seed.
use intelliproxy_look::{Chart, ChartId, LINES_MAX, Mark, Report, Series, Tone};

use super::detail::{Line, OverTime};
use super::fault::FaultKind;
use super::scenario::Scenario;
use super::summary::{Overall, ScenarioResult};
use super::table::{COLUMNS, SUMMARY_COLUMNS, cells, summary_cells};

/// A scenario with its results, and the run over time of each contender.
pub(super) struct Part<'a> {
    pub(super) scenario: &'a Scenario,
    pub(super) result: &'a ScenarioResult,
    pub(super) over_time: Vec<&'a OverTime>,
}

/// Returns the report.
pub(super) fn report(parts: &[Part<'_>], overall: &[Overall], seeds: u64, first: u64) -> String {
    let mut report = Report::new("IntelliProxy: the lab");
    report.paragraph(&format!(
        "Virtual time. Scenarios: {}; seeds: {seeds}. Tables: means over the seeds, times in ms, failed \
         requests charged; x: divided by the oracle's. Curves: seed {first}, requests by their arrival. In \
         the first chart N = 2 is p50, 100 is p99, 1000 is p99.9.",
        parts.len()
    ));
    report.panel("Summary over the scenarios");
    let rows: Vec<Vec<String>> = overall.iter().map(|one| summary_cells(one).to_vec()).collect();
    report.table(&SUMMARY_COLUMNS, &rows, |at| matches!(at, 4 | 6));
    report.end_panel();
    for part in parts {
        scenario(&mut report, part);
    }
    report.finish()
}

fn scenario(report: &mut Report, Part { scenario, result, over_time }: &Part<'_>) {
    report.panel(&result.name);
    report.paragraph(&result.about);
    let rows: Vec<Vec<String>> =
        result.contenders.iter().map(|contender| cells(scenario, contender).to_vec()).collect();
    report.table(&COLUMNS, &rows, |at| at + 1 == COLUMNS.len());
    let marks = faults(scenario);
    let names: Vec<&str> =
        result.contenders.iter().map(|contender| contender.policy.as_str()).collect();
    let each = |of: fn(&OverTime) -> &Vec<Option<f64>>| -> Vec<Series> {
        let lines = names.iter().zip(over_time);
        lines
            .map(|(name, run)| Series { label: (*name).to_owned(), values: of(run).clone() })
            .collect()
    };
    let (width, bins) = over_time.first().map_or((0.0, 0), |run| (run.width, run.parts));
    let chart = |title: &str, unit, series| Chart {
        series,
        marks: marks.clone(),
        ..Chart::over_time(title, unit, width, bins)
    };
    let overlays = [
        distribution(&names, over_time),
        chart("p99 over time", "ms", each(|run| &run.all.p99_ms)),
        chart("p50 over time", "ms", each(|run| &run.all.p50_ms)),
        chart("failed over time", "%", each(|run| &run.all.failed)),
    ];
    let overlays = overlays.map(|chart| report.chart(&chart));
    report.charts(&overlays);
    let mut of_contenders: Vec<[ChartId; 4]> = Vec::new();
    for (name, run) in names.iter().zip(over_time) {
        let of_groups = |title: &str, unit, of: fn(&Line) -> &Vec<Option<f64>>| {
            let title = format!("{name}: {title}");
            let mut one = chart(&title, unit, groups(scenario, run, of));
            one.marks.extend(switches(run));
            one.marks.sort_by(|a, b| a.at.total_cmp(&b.at));
            one
        };
        let charts = [
            of_groups("share of the requests", "%", |line| &line.share),
            of_groups("p99", "ms", |line| &line.p99_ms),
            of_groups("p50", "ms", |line| &line.p50_ms),
            of_groups("failed", "%", |line| &line.failed),
        ];
        of_contenders.push(charts.map(|chart| report.chart(&chart)));
    }
    // Each chart has the oracle, which comes first, and one policy.
    let sets = names.iter().zip(&of_contenders).enumerate().map(|(at, (name, own))| {
        let [share, p99, p50, failed] = *own;
        let charts = match of_contenders.first() {
            Some([oracle_share, oracle_p99, ..]) if at > 0 => {
                vec![share, *oracle_share, p99, *oracle_p99, p50, failed]
            }
            _ => vec![share, p99, p50, failed],
        };
        ((*name).to_owned(), charts)
    });
    let mut sets: Vec<_> = sets.collect();
    // With a single policy the chart needs no selection.
    if sets.len() > 1 {
        sets.rotate_left(1);
    }
    report.choice("By backend, under", &sets);
    report.end_panel();
}

/// Returns the distribution of times: the time that one of n requests exceeds.
fn distribution(names: &[&str], over_time: &[&OverTime]) -> Chart {
    let series = names.iter().zip(over_time).map(|(name, run)| Series {
        label: (*name).to_owned(),
        values: run.exceeded.iter().copied().map(Some).collect(),
    });
    Chart::exceeded("time that one of N requests exceeds", series.collect())
}

/// Returns a line for each of the first [`LINES_MAX`] groups.
fn groups(scenario: &Scenario, run: &OverTime, of: fn(&Line) -> &Vec<Option<f64>>) -> Vec<Series> {
    let named = scenario.backends.iter().zip(&run.groups).take(LINES_MAX);
    named
        .map(|(group, line)| {
            let label = match group.count {
                1 => group.name.clone(),
                count => format!("{} ({count})", group.name),
            };
            Series { label, values: of(line).clone() }
        })
        .collect()
}

/// Returns the scripted events of a scenario.
fn faults(scenario: &Scenario) -> Vec<Mark> {
    let mut marks = Vec::new();
    let ends = scenario.duration_s;
    let mut mark = |at: f64, label: String, tone| {
        if at > 0.0 && at < ends {
            marks.push(Mark { at, label, tone });
        }
    };
    for group in &scenario.backends {
        let name = &group.name;
        mark(group.joins_s, format!("{name} joins"), Tone::Good);
        if let Some(span) = group.stays_s {
            mark(group.joins_s + span, format!("{name} leaves"), Tone::Bad);
        }
        for fault in &group.faults {
            // A fault that begins with the run has no start time.
            mark(fault.from_s, format!("{name}: {}", kind(&fault.what)), Tone::Bad);
            if let Some(span) = fault.for_s {
                mark(fault.from_s + span, format!("{name}: well"), Tone::Good);
            }
        }
    }
    for surge in &scenario.arrivals.surges {
        mark(surge.from_s, format!("load x{}", surge.factor), Tone::Neutral);
        if let Some(span) = surge.for_s {
            mark(surge.from_s + span, "load x1".to_owned(), Tone::Neutral);
        }
    }
    marks.sort_by(|a, b| a.at.total_cmp(&b.at));
    marks
}

/// Returns the name of a fault, as scenarios write it.
fn kind(fault: &FaultKind) -> String {
    match serde_json::to_value(fault) {
        Ok(serde_json::Value::String(name)) => name,
        Ok(serde_json::Value::Object(map)) => {
            map.into_iter().next().map_or_else(String::new, |(name, _)| name)
        }
        _ => String::new(),
    }
}

/// Returns the changes of the current backend, at most one for each part of time.
fn switches(run: &OverTime) -> Vec<Mark> {
    let part = |at: &f64| (at / run.width) as u64;
    let mut at = run.switches.clone();
    at.dedup_by_key(|at| part(at));
    let label = if at.len() > NAMED_MAX { "" } else { "switch" };
    let mark = |at| Mark { at, label: label.to_owned(), tone: Tone::Neutral };
    at.into_iter().map(mark).collect()
}

/// Returns the number of parts of time for this many runs, chosen so that a report stays below a
/// megabyte.
pub(super) fn bins(scenarios: &[Scenario], contenders: usize) -> usize {
    let lines = |scenario: &Scenario| 3 + 4 * scenario.backends.len().min(LINES_MAX);
    let all: usize = scenarios.iter().map(lines).sum();
    (NUMBERS_MAX / (all * contenders).max(1)).clamp(BINS_MIN, BINS_MAX)
}

/// Switches are named in a chart only up to this number.
const NAMED_MAX: usize = 6;
/// Numbers in all curves, at about six bytes each.
const NUMBERS_MAX: usize = 80_000;
const BINS_MIN: usize = 10;
const BINS_MAX: usize = 120;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Fault;
    use crate::group::BackendGroup;
    use crate::{Contender, catalogue};

    /// Faults, joins and leaves are marked by name, in order of time.
    #[test]
    fn scripted_events_are_marked() {
        let slow = FaultKind::Slow { share: 1.0, ms: 1.0 };
        let fault = |from_s, for_s, what| Fault { from_s, for_s, what };
        let group = BackendGroup {
            name: "<b>".to_owned(),
            joins_s: 1.0,
            faults: vec![fault(5.0, Some(2.0), FaultKind::Crash), fault(3.0, None, slow)],
            ..BackendGroup::default()
        };
        let scenario = Scenario { backends: vec![group], ..Scenario::default() };
        let marks = faults(&scenario);
        let marks: Vec<_> = marks.iter().map(|mark| (mark.at, mark.label.as_str())).collect();
        let expected =
            [(1.0, "<b> joins"), (3.0, "<b>: slow"), (5.0, "<b>: crash"), (7.0, "<b>: well")];
        assert_eq!(marks, expected);
    }

    /// Switches of several proxies in one part of time become one mark. Many marks have no names.
    #[test]
    fn switches_are_marked() {
        let of = |switches: Vec<f64>| {
            let run = OverTime {
                width: 1.0,
                parts: 2,
                all: Line::default(),
                groups: Vec::new(),
                exceeded: Vec::new(),
                switches,
            };
            let marks = super::switches(&run);
            marks.into_iter().map(|mark| (mark.at, mark.label)).collect::<Vec<_>>()
        };
        let named = |at: f64| (at, "switch".to_owned());
        assert_eq!(of(vec![0.1, 0.2, 1.1, 1.9, 4.0]), [named(0.1), named(1.1), named(4.0)]);
        let many = of((0..20).map(f64::from).collect());
        assert!(many.len() == 20 && many.iter().all(|(_, label)| label.is_empty()));
    }

    /// Usual runs get enough parts of time, and the sum over all runs is bounded.
    #[test]
    fn reports_are_bounded() {
        let all = catalogue();
        let contenders = Contender::all().len();
        assert!(bins(&all, contenders) >= 30, "{}", bins(&all, contenders));
        assert_eq!(bins(&all[..1], 2), BINS_MAX);
        assert_eq!(bins(&vec![Scenario::default(); 5000], contenders), BINS_MIN);
    }
}
