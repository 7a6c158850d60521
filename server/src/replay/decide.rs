//! What would other rules have decided?
use std::collections::BTreeMap;
use std::fmt::Write;
use std::ops::ControlFlow;

use intelliproxy_core::journal::{Record, Shadow};
use intelliproxy_core::{LeaseId, Outcome, RouterConfig, Rules};

use super::Answer;
use super::estimate::{Estimate, Sample, estimate};
use super::recording::Recording;
use super::text::{percent, policy_name};

/// Decides every recorded request again by `rules`.
pub(super) fn decide(recording: &Recording, rules: Rules) -> Result<Answer, String> {
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
            tally.agree += u64::from(recorded == chosen);
            count(&mut tally.recorded, recorded.map(|id| id.index()));
            count(&mut tally.chosen, chosen.map(|id| id.index()));
            if let Ok(to) = choice.recorded {
                let sample = Sample {
                    at: entry.at.since(header.started),
                    recorded: to.backend.index(),
                    chosen: chosen.map(|id| id.index()),
                    cost_ms: 0.0,
                };
                open.insert(to.lease, sample);
            }
        }
        ControlFlow::Continue(())
    });
    let mut text = String::new();
    let _ = writeln!(text, "recorded   policy {}", policy_name(header.config.rules.policy));
    let _ = writeln!(text, "again      policy {}", policy_name(policy));
    let _ = writeln!(
        text,
        "agreement  {} of {} decisions, {}",
        tally.agree,
        tally.decisions,
        percent(tally.agree, tally.decisions)
    );
    for index in 0..tally.recorded.len().max(tally.chosen.len()) {
        let of = |counts: &[u64]| {
            percent(counts.get(index).copied().unwrap_or_default(), tally.decisions)
        };
        let name = header.config.backends.get(index).map_or("?", String::as_str);
        let (recorded, chosen) = (of(&tally.recorded), of(&tally.chosen));
        let _ = writeln!(text, "traffic    {name}: recorded {recorded}, again {chosen}");
    }
    match estimate(&tally.samples) {
        Some(estimate) => tell(&mut text, &estimate, charge_ms),
        None => {
            text.push_str("cost       nothing to go by: no request went where these would go\n")
        }
    }
    if !recording.is_from_start() || tally.lost > 0 {
        let _ = writeln!(
            text,
            "gaps       {} records are missing, or the start: both sides were told the rest only",
            tally.lost
        );
    }
    text.push_str(UNKNOWN);
    Ok(Answer { text, wrong })
}

fn tell(text: &mut String, estimate: &Estimate, charge_ms: f64) {
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
        "cost       recorded {:.3} ms a request, again {:.3} ms ({change:+.1} %); {interval}",
        estimate.recorded_ms, estimate.estimated_ms
    );
    let _ = writeln!(
        text,
        "           again p50 {:.3} ms, p99 {:.3} ms; errors are charged {charge_ms:.0} ms",
        estimate.p50_ms, estimate.p99_ms
    );
    let _ = writeln!(
        text,
        "support    {:.2} % of the requests would have gone where others went in the same second; \
         worth {:.0} equally weighted ones",
        100.0 * estimate.supported,
        estimate.effective
    );
}

/// What the decisions were, and what came of the recorded ones.
#[derive(Debug, Default)]
struct Tally {
    decisions: u64,
    agree: u64,
    lost: u64,
    recorded: Vec<u64>,
    chosen: Vec<u64>,
    samples: Vec<Sample>,
}

fn count(counts: &mut Vec<u64>, index: Option<usize>) {
    if let Some(index) = index {
        if counts.len() <= index {
            counts.resize(index + 1, 0);
        }
        counts[index] += 1;
    }
}

/// What a request cost; `None` when its outcome says nothing about the backend.
fn cost_ms(outcome: &Outcome, charge_ms: f64) -> Option<f64> {
    match (outcome.is_error()?, outcome) {
        (false, Outcome::Answered { latency, .. }) => Some(latency.as_secs_f64() * 1e3),
        _ => Some(charge_ms),
    }
}

/// What no recording can tell.
const UNKNOWN: &str = "\
not known  What the other decisions would have done to the backends. Every estimate takes their
           queues as they were: a backend that would have got more requests would also have been
           slower, one with fewer faster. The other policy saw the recorded load and outcomes, not
           its own. So the estimate is good for small changes of traffic and too hopeful for large
           ones; --fit makes a scenario on which the lab answers with queues.
";
