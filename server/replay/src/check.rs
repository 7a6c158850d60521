//! Checks whether the replayed router makes every recorded decision again.
use std::collections::BTreeMap;
use std::fmt::Write;
use std::ops::ControlFlow;
use std::time::Duration;

use intelliproxy_core::journal::{Record, Replay, Step};
use intelliproxy_core::{BackendId, LeaseId, Notice, Outcome};
use intelliproxy_look::Tone;

use super::course::Course;
use super::recording::Recording;
use super::text::{percent, quantile};
use super::words::difference;
use crate::Answer;

/// Runs the recording through the router and compares the decisions. Requests and events are added
/// to `course`, for a report.
pub(crate) fn check(
    recording: &Recording<'_>,
    mut course: Option<&mut Course>,
) -> Result<Answer, String> {
    let header = recording.header();
    let mut replay = Replay::new(header).map_err(|error| error.to_string())?;
    let mut tally = Tally::default();
    let mut end = header.started;
    let mut open: BTreeMap<LeaseId, (Duration, BackendId)> = BTreeMap::new();
    let damage = recording.each(|entry| {
        let at = entry.at.since(header.started);
        let step = replay.apply_with(entry, |router, notice| {
            let Some(course) = &mut course else { return };
            let name = |id| router.name(id).unwrap_or("(unknown)");
            let (label, tone) = match notice {
                Notice::Switched { from: Some(_), to, .. } => {
                    (format!("to {}", name(*to)), Tone::Neutral)
                }
                Notice::HealthChanged { backend, is_up: false, .. } => {
                    (format!("{} down", name(*backend)), Tone::Bad)
                }
                // The first pings of a start are no event.
                Notice::HealthChanged { backend, .. } if at > START => {
                    (format!("{} up", name(*backend)), Tone::Good)
                }
                Notice::Ejected { backend, .. } => {
                    (format!("{} ejected", name(*backend)), Tone::Bad)
                }
                Notice::Returned { backend, .. } => {
                    (format!("{} back", name(*backend)), Tone::Good)
                }
                _ => return,
            };
            course.mark(at, label, tone);
        });
        tally.records += 1;
        end = end.max(entry.at);
        let is_probe = matches!(entry.record, Record::ProbeStarted { .. });
        match step {
            Step::Same if is_probe => tally.probes += 1,
            Step::Same => tally.same += 1,
            Step::OtherRoute { .. } | Step::OtherProbe { .. } => {
                tally.differ += 1;
                if tally.first_difference.is_none() {
                    let at = recording.moment(entry.at);
                    let what = difference(&step, |id| replay.router().name(id));
                    let text = format!("at {at}, offset {}: {what}", entry.offset);
                    tally.first_difference = Some(text);
                }
            }
            Step::Unknown if is_probe || matches!(entry.record, Record::Routed { .. }) => {
                tally.unchecked += 1;
            }
            Step::Fact | Step::Unknown => {}
        }
        match &entry.record {
            Record::Routed { result: Ok(admission), .. } => {
                let backend = admission.backend;
                let share = tally.shares.entry(backend).or_insert_with(|| {
                    let known = replay.router().name(backend);
                    (known.unwrap_or("(unknown)").to_owned(), 0)
                });
                share.1 += 1;
                if let Some(course) = &mut course {
                    course.name(backend, &share.0);
                    course.decided(at, Some(backend), None);
                    open.insert(admission.lease, (at, backend));
                }
            }
            Record::Routed { result: Err(_), .. } => tally.unrouted += 1,
            Record::RequestFinished { lease, outcome } => {
                tally.finish(outcome);
                if let Some(course) = &mut course
                    && let Some((at, backend)) = open.remove(lease)
                    && let Some(is_error) = outcome.is_error()
                {
                    course.ended(at, backend, time_ms(outcome).filter(|_| !is_error));
                }
            }
            Record::Lost { records } => {
                tally.lost += records;
                open.clear();
            }
            _ => {}
        }
        ControlFlow::Continue(())
    });
    let mut answer = tally.report(recording, end.since(header.started).as_secs_f64());
    answer.wrong.extend(damage);
    Ok(answer)
}

/// Returns the time to the head of a response, ms.
pub(crate) fn time_ms(outcome: &Outcome) -> Option<f64> {
    match outcome {
        Outcome::Answered { latency, .. } => Some(latency.as_secs_f64() * 1e3),
        _ => None,
    }
}

/// Time in which the first pings end.
const START: Duration = Duration::from_secs(2);

/// The counts of a check.
#[derive(Debug, Default)]
struct Tally {
    records: u64,
    same: u64,
    probes: u64,
    differ: u64,
    unchecked: u64,
    lost: u64,
    unrouted: u64,
    good: u64,
    errors: u64,
    refused: u64,
    abandoned: u64,
    first_difference: Option<String>,
    /// The name and the number of requests of each backend.
    shares: BTreeMap<BackendId, (String, u64)>,
    latencies_ms: Vec<f64>,
}

impl Tally {
    fn finish(&mut self, outcome: &Outcome) {
        match (outcome.is_error(), outcome) {
            (None, Outcome::Refused { .. }) => self.refused += 1,
            (None, _) => self.abandoned += 1,
            (Some(true), _) => self.errors += 1,
            (Some(false), Outcome::Answered { latency, .. }) => {
                self.good += 1;
                self.latencies_ms.push(latency.as_secs_f64() * 1e3);
            }
            (Some(false), _) => self.good += 1,
        }
    }

    fn report(&mut self, recording: &Recording<'_>, seconds: f64) -> Answer {
        let header = recording.header();
        let requests: u64 = self.shares.values().map(|(_, count)| count).sum();
        let mut text = String::new();
        let backends = header.config.backends.len();
        let policy = header.config.rules.policy.name();
        let _ = writeln!(
            text,
            "recording  {}, {seconds:.3} s, {backends} backends, policy {policy}, seed {}",
            recording.date(),
            header.seed
        );
        let bytes = recording.bytes();
        let each = bytes as f64 / requests.max(1) as f64;
        let _ = writeln!(
            text,
            "records    {} in {bytes} bytes, {each:.1} a request; {} lost",
            self.records, self.lost
        );
        let _ = writeln!(
            text,
            "decisions  {} the same, {} differ, {} could not be checked; {} probes the same",
            self.same, self.differ, self.unchecked, self.probes
        );
        self.latencies_ms.sort_by(f64::total_cmp);
        let at = |share| {
            quantile(&self.latencies_ms, share)
                .map_or_else(|| "-".to_owned(), |ms| format!("{ms:.2} ms"))
        };
        let _ = writeln!(
            text,
            "responses  {} good, {} errors, {} refused, {} abandoned, {} unrouted; to the head p50 {}, p99 {}",
            self.good,
            self.errors,
            self.refused,
            self.abandoned,
            self.unrouted,
            at(0.5),
            at(0.99)
        );
        for (name, count) in self.shares.values() {
            let _ = writeln!(
                text,
                "traffic    {name}: {count} requests, {}",
                percent(*count, requests)
            );
        }
        let mut wrong = Vec::new();
        if let Some(difference) = &self.first_difference {
            wrong.push(format!("{} differ; the first {difference}", self.differ));
        }
        if !recording.is_from_start() {
            wrong.push(
                "begins after the start of its router, as a later file of a ring does, or a \
                 recording begun by a reload: what the router knew before is gone, and no decision \
                 is compared; --request, --at, --policy and --fit use what is there"
                    .to_owned(),
            );
        } else if self.unchecked > 0 {
            wrong.push(format!(
                "{} records are missing, and {} decisions behind the gap cannot be checked",
                self.lost, self.unchecked
            ));
        }
        Answer { text, wrong }
    }
}
