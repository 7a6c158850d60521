//! Decides recorded requests again by other rules.
use std::collections::BTreeMap;
use std::fmt::Write;
use std::ops::ControlFlow;

use intelliproxy_core::journal::{Record, Shadow};
use intelliproxy_core::{BackendId, LeaseId, Outcome, RouterConfig, Rules};

use super::check::time_ms;
use super::course::Course;
use super::estimate::{Estimate, Sample, estimate};
use super::recording::Recording;
use super::text::percent;
use crate::Answer;

/// Decides every recorded request again under `rules`. Both decisions are added to `course`, for a
/// report.
pub(crate) fn decide(
    recording: &Recording<'_>,
    rules: Rules,
    mut course: Option<&mut Course>,
) -> Result<Answer, String> {
    let header = recording.header();
    let charge_ms = rules.errors.charge.as_secs_f64() * 1e3;
    let policy = rules.policy;
    let config = RouterConfig { backends: header.config.backends.clone(), rules };
    let mut shadow =
        Shadow::new(config, header.seed, header.started).map_err(|error| error.to_string())?;
    let mut tally = Tally::default();
    let mut open: BTreeMap<LeaseId, Sample> = BTreeMap::new();
    let wrong = recording.each(|entry| {
        let choice = shadow.apply(entry);
        match &entry.record {
            Record::RequestFinished { lease, outcome } => {
                if let Some(mut sample) = open.remove(lease)
                    && let Some(cost_ms) = cost_ms(outcome, charge_ms)
                {
                    sample.cost_ms = cost_ms;
                    tally.samples.push(sample);
                    if let Some(course) = &mut course {
                        let is_error = outcome.is_error() == Some(true);
                        let ms = time_ms(outcome).filter(|_| !is_error);
                        course.ended(sample.at, sample.recorded, ms);
                    }
                }
            }
            Record::Lost { records } => {
                tally.lost += records;
                open.clear();
            }
            _ => {}
        }
        if let Some(choice) = choice {
            tally.decisions += 1;
            let recorded = choice.recorded.ok().map(|to| to.backend);
            let chosen = choice.chosen.ok();
            if let Some(course) = &mut course {
                course.decided(entry.at.since(header.started), recorded, chosen);
            }
            tally.agree += u64::from(recorded == chosen);
            for (id, is_chosen) in [(recorded, false), (chosen, true)] {
                let Some(id) = id else { continue };
                let counts = tally.counts.entry(id).or_insert_with(|| {
                    let known = shadow.router().name(id);
                    Counts { name: known.unwrap_or("(unknown)").to_owned(), ..Counts::default() }
                });
                if let Some(course) = &mut course {
                    course.name(id, &counts.name);
                }
                *if is_chosen { &mut counts.chosen } else { &mut counts.recorded } += 1;
            }
            if let Ok(to) = choice.recorded {
                let sample = Sample {
                    at: entry.at.since(header.started),
                    recorded: to.backend,
                    chosen,
                    cost_ms: 0.0,
                };
                open.insert(to.lease, sample);
            }
        }
        ControlFlow::Continue(())
    });
    let mut text = String::new();
    let _ = writeln!(text, "recorded   policy {}", header.config.rules.policy.name());
    let _ = writeln!(text, "again      policy {}", policy.name());
    let _ = writeln!(
        text,
        "agreement  {} of {} decisions, {}",
        tally.agree,
        tally.decisions,
        percent(tally.agree, tally.decisions)
    );
    for Counts { name, recorded, chosen } in tally.counts.values() {
        let recorded = percent(*recorded, tally.decisions);
        let chosen = percent(*chosen, tally.decisions);
        let _ = writeln!(text, "traffic    {name}: recorded {recorded}, again {chosen}");
    }
    match estimate(&tally.samples) {
        Some(estimate) => describe(&mut text, &estimate, charge_ms),
        None => text.push_str(
            "cost       no evidence: no request went to the backends that these rules choose\n",
        ),
    }
    if !recording.is_from_start() || tally.lost > 0 {
        let _ = writeln!(
            text,
            "gaps       {} records are missing, or the start: both sides used only the rest",
            tally.lost
        );
    }
    text.push_str(UNKNOWN);
    Ok(Answer { text, wrong })
}

fn describe(text: &mut String, estimate: &Estimate, charge_ms: f64) {
    let change = 100.0 * (estimate.estimated_ms / estimate.recorded_ms - 1.0);
    let interval = match estimate.half_width_ms {
        Some(half) => {
            let middle = estimate.estimated_ms - estimate.recorded_ms;
            format!(
                "difference {middle:+.3} ms, 95 % interval {:+.3} to {:+.3}",
                middle - half,
                middle + half
            )
        }
        None => "too short a recording for an interval".to_owned(),
    };
    let _ = writeln!(
        text,
        "cost       recorded {:.3} ms a request, again {:.3} ms ({change:+.1} %); {interval};",
        estimate.recorded_ms, estimate.estimated_ms
    );
    let _ = writeln!(
        text,
        "           again p50 {:.3} ms, p99 {:.3} ms; errors are charged {charge_ms:.0} ms",
        estimate.p50_ms, estimate.p99_ms
    );
    let _ = writeln!(
        text,
        "support    {:.2} % of the requests have evidence from the same second, as much as {:.0} equally \
         weighted requests",
        100.0 * estimate.supported,
        estimate.effective
    );
}

/// The decisions, and the outcomes of the recorded ones.
#[derive(Debug, Default)]
struct Tally {
    decisions: u64,
    agree: u64,
    lost: u64,
    counts: BTreeMap<BackendId, Counts>,
    samples: Vec<Sample>,
}

/// Requests that went, or would have gone, to one backend.
#[derive(Debug, Default)]
struct Counts {
    name: String,
    recorded: u64,
    chosen: u64,
}

/// Returns a request's cost, ms; `None` for a refused or abandoned request.
fn cost_ms(outcome: &Outcome, charge_ms: f64) -> Option<f64> {
    match (outcome.is_error()?, outcome) {
        (false, Outcome::Answered { latency, .. }) => Some(latency.as_secs_f64() * 1e3),
        _ => Some(charge_ms),
    }
}

/// The note on the limits of a recording.
const UNKNOWN: &str = "\
not known  The effect of the other decisions on the backends. Every estimate uses their recorded
           queues: a backend with more requests would also have been slower, one with fewer
           faster. The other policy saw the recorded load and outcomes, not its own. The estimate
           is good for small changes of traffic and too optimistic for large ones. --fit makes a
           scenario for the lab, which simulates the queues.
";
