//! One backend of the oracle: its whole history, and the figures computed from it.
use std::collections::BTreeMap;

use intelliproxy_core::{BackendId, Health, LoadReport, ProbeFailure, ProbeKind, Rules};

pub(crate) struct Backend {
    pub(crate) id: BackendId,
    pub(crate) is_configured: bool,
    pub(crate) in_flight: u32,
    /// Pings that have ended, and requests that got a response or failed without one, since it
    /// joined.
    pub(crate) facts: Vec<(u64, Fact)>,
    pub(crate) reports: Vec<(u64, LoadReport)>,
    /// The time at which its reported figures were last evaluated for the score.
    pub(crate) heard_at: u64,
    pub(crate) reports_failed: u64,
    /// Requests that have ended.
    pub(crate) requests: Vec<Ended>,
    /// Requests refused without a time: the time, and the part of a request that each counts.
    pub(crate) turned_away: Vec<(u64, f64)>,
    /// The number of refused requests.
    pub(crate) refused: u64,
    /// The end of its hold.
    pub(crate) held_until: u64,
    /// Whether it was down after the last event.
    pub(crate) was_down: bool,
    /// Requests in flight that are not work for it.
    pub(crate) aside: u32,
    pub(crate) responses: Vec<f64>,
    /// The time at which its error rate was last evaluated for the score.
    pub(crate) touched_at: u64,
    pub(crate) lines: BTreeMap<ProbeKind, Line>,
}

/// A request that has ended.
pub(crate) struct Ended {
    pub(crate) at: u64,
    pub(crate) is_error: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fact {
    Answered {
        ms: f64,
    },
    Failed(ProbeFailure),
    RequestRefused,
    /// Another failure without a response.
    RequestFailed,
    /// A response to a request that was sent at this time.
    Responded {
        sent: u64,
    },
}

/// One backend's pings or reports.
pub(crate) struct Line {
    pub(crate) due: Option<u64>,
    pub(crate) outstanding: Option<Outstanding>,
    pub(crate) first_wait: Option<u64>,
    /// The start of the last probe.
    pub(crate) started: Option<u64>,
}

#[derive(Clone, Copy)]
pub(crate) struct Outstanding {
    pub(crate) probe: u64,
    pub(crate) started: u64,
    pub(crate) deadline: u64,
}

/// The result of a successful probe.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer {
    pub(crate) ms: u64,
    pub(crate) report: Option<LoadReport>,
}

impl Backend {
    pub(super) fn unknown(now: u64) -> Self {
        Self {
            id: BackendId::from_index(0),
            is_configured: true,
            in_flight: 0,
            facts: Vec::new(),
            reports: Vec::new(),
            reports_failed: 0,
            requests: Vec::new(),
            turned_away: Vec::new(),
            refused: 0,
            held_until: 0,
            was_down: false,
            aside: 0,
            responses: Vec::new(),
            touched_at: now,
            heard_at: now,
            lines: BTreeMap::new(),
        }
    }

    pub(super) fn learn(
        &mut self,
        now: u64,
        kind: ProbeKind,
        timeout: u64,
        result: Result<Answer, ProbeFailure>,
    ) {
        self.touched_at = now;
        self.heard_at = now;
        match (kind, result) {
            (ProbeKind::Ping, Ok(answer)) => {
                let ms = answer.ms.min(timeout) as f64;
                self.facts.push((now, Fact::Answered { ms }));
            }
            (ProbeKind::Ping, Err(cause)) => {
                self.facts.push((now, Fact::Failed(cause)));
            }
            (ProbeKind::Report, Ok(Answer { report: Some(report), .. })) => {
                self.reports.push((now, report));
            }
            (ProbeKind::Report, _) => self.reports_failed += 1,
        }
    }

    pub(crate) fn health(&self, rules: &Rules) -> Health {
        let mut health = Health::Unknown;
        for ended in 1..=self.facts.len() {
            let facts = &self.facts[..ended];
            health = match facts[ended - 1].1 {
                Fact::RequestRefused | Fact::Failed(ProbeFailure::Refused) => Health::Down,
                Fact::Failed(_) if failures_in_row(facts) >= rules.health.fall => Health::Down,
                Fact::Failed(_) => health,
                Fact::Answered { .. } if health != Health::Down => Health::Up,
                Fact::Answered { .. } if answers_in_row(facts) >= rules.health.rise => Health::Up,
                Fact::Answered { .. } => Health::Down,
                Fact::RequestFailed | Fact::Responded { .. } => health,
            };
        }
        health
    }

    /// Present if the last contact found that no process listens: the times of the last refused
    /// connection and of the last failure.
    pub(crate) fn refusal(&self) -> Option<(u64, u64)> {
        let mut refusal = None;
        for (at, fact) in &self.facts {
            refusal = match fact {
                Fact::RequestRefused | Fact::Failed(ProbeFailure::Refused) => Some((*at, *at)),
                Fact::RequestFailed => refusal.map(|(refused, _)| (refused, *at)),
                Fact::Responded { sent } => refusal.filter(|(refused, _)| refused > sent),
                Fact::Answered { .. } | Fact::Failed(_) => None,
            };
        }
        refusal
    }

    pub(crate) fn is_verdict_open(&self, rules: &Rules) -> bool {
        if self.health(rules) == Health::Down {
            answers_in_row(&self.facts) > 0
        } else {
            failures_in_row(&self.facts) > 0
        }
    }

    pub(crate) fn latencies(&self) -> Vec<f64> {
        let latency = |fact: &(u64, Fact)| match fact.1 {
            Fact::Answered { ms } => Some(ms),
            _ => None,
        };
        self.facts.iter().filter_map(latency).collect()
    }

    pub(crate) fn losses(&self) -> Vec<f64> {
        let loss = |fact: &(u64, Fact)| match fact.1 {
            Fact::Answered { .. } => Some(0.0),
            Fact::Failed(_) => Some(1.0),
            _ => None,
        };
        self.facts.iter().filter_map(loss).collect()
    }

    /// The reported values of one figure with their times, without invalid ones.
    fn said(&self, figure: impl Fn(&LoadReport) -> Option<f64>) -> Vec<(u64, f64)> {
        let said = self.reports.iter().filter_map(|(at, report)| Some((*at, figure(report)?)));
        said.filter(|(_, number)| number.is_finite() && *number >= 0.0).collect()
    }

    /// The reported queues that are averaged: those since the last gap of more than three report
    /// intervals.
    pub(crate) fn queues(&self, rules: &Rules) -> Vec<f64> {
        let said = self.said(|report| report.queue);
        let longest = 3 * rules.probes.report_interval.as_millis() as u64;
        let begin = (1..said.len()).rev().find(|at| said[*at].0 - said[*at - 1].0 >= longest);
        said[begin.unwrap_or(0)..].iter().map(|(_, queue)| queue.min(250.0)).collect()
    }

    /// The weight of a figure by its last report: 1 within a report interval, 0 after three or
    /// more.
    fn weight(&self, said: &[(u64, f64)], rules: &Rules) -> f64 {
        let Some((at, _)) = said.last() else { return 0.0 };
        let age = (self.heard_at - at) as f64 / rules.probes.report_interval.as_millis() as f64;
        (1.5 - 0.5 * age).clamp(0.0, 1.0)
    }

    /// Whether its next ping should come soon.
    pub(super) fn wants_ping(&self, rules: &Rules) -> bool {
        let is_ping = |fact: &Fact| matches!(fact, Fact::Answered { .. } | Fact::Failed(_));
        let last = self.facts.iter().rfind(|(_, fact)| is_ping(fact));
        let was_answered = matches!(last, Some((_, Fact::Answered { .. })));
        let is_new = self.latencies().len() < 5 && (was_answered || self.losses().len() < 5);
        self.is_verdict_open(rules) || is_new
    }

    pub(crate) fn error_rate(&self, now: u64, rules: &Rules) -> f64 {
        let half_life = rules.errors.half_life.as_millis() as f64;
        let weight = |at: u64| libm::pow(0.5, now.saturating_sub(at) as f64 / half_life);
        let requests: f64 = self.requests.iter().map(|ended| weight(ended.at)).sum();
        let errors: f64 =
            self.requests.iter().filter(|ended| ended.is_error).map(|ended| weight(ended.at)).sum();
        if errors == 0.0 { 0.0 } else { errors / (requests + rules.errors.prior) }
    }

    pub(crate) fn at_work(&self) -> u32 {
        self.in_flight - self.aside
    }

    /// Its load: requests in flight, and recent refusals.
    pub(super) fn load(&self, rules: &Rules) -> u32 {
        let half_life = rules.errors.half_life.as_millis() as f64;
        let weight = |(at, amount): &(u64, f64)| {
            amount * libm::pow(0.5, (self.touched_at - at) as f64 / half_life)
        };
        let counts = self.turned_away.last().is_some_and(|(at, _)| self.touched_at - at < 8000);
        let refused = self.turned_away.iter().filter(|_| counts).map(weight).sum::<f64>();
        self.at_work() + refused.round() as u32
    }

    /// The points in the order of [`ScoreParts::parts`].
    pub(crate) fn points(&self, rules: &Rules) -> [f64; 7] {
        let (weights, alpha) = (&rules.weights, rules.smoothing.alpha);
        let losses = self.losses();
        let counts = losses.len() >= rules.smoothing.loss_pings as usize;
        let loss = average(alpha, &losses).filter(|_| counts).unwrap_or(0.0);
        let last = |figures: &[(u64, f64)]| figures.last().map_or(0.0, |(_, number)| *number);
        let queue = average(alpha, &self.queues(rules)).unwrap_or(0.0);
        let queues = self.said(|report| report.queue);
        let cpu = self.said(|report| report.cpu_busy_ms);
        let memory = self.said(|report| report.memory_bytes);
        [
            weights.latency * seeded(alpha, &self.latencies()).unwrap_or(10_000.0),
            weights.loss * if loss > 0.98 { 0.98 } else { loss },
            weights.errors * self.error_rate(self.touched_at, rules) * 100.0,
            weights.in_flight * f64::from(self.load(rules)),
            weights.queue * libm::tanh(queue / 50.0) * self.weight(&queues, rules),
            weights.cpu * libm::tanh(last(&cpu) / 100.0) * self.weight(&cpu, rules),
            weights.memory
                * libm::tanh(last(&memory) / (200.0 * 1024.0 * 1024.0))
                * self.weight(&memory, rules),
        ]
    }
}

/// The moving average that starts with the (lower) median of the first five samples.
pub(crate) fn seeded(alpha: f64, samples: &[f64]) -> Option<f64> {
    let (first, rest) = samples.split_at(samples.len().min(5));
    let mut first = first.to_vec();
    first.sort_by(f64::total_cmp);
    let median = *first.get(first.len().checked_sub(1)? / 2)?;
    average(alpha, &[&[median], rest].concat())
}

/// The moving average, written as shares of the old and the new value.
pub(crate) fn average(alpha: f64, samples: &[f64]) -> Option<f64> {
    let (first, rest) = samples.split_first()?;
    Some(rest.iter().fold(*first, |old, new| (1.0 - alpha) * old + alpha * new))
}

fn failures_in_row(facts: &[(u64, Fact)]) -> u32 {
    let since = facts.iter().rev().take_while(|(_, fact)| !matches!(fact, Fact::Answered { .. }));
    since.filter(|(_, fact)| matches!(fact, Fact::Failed(_))).count() as u32
}

fn answers_in_row(facts: &[(u64, Fact)]) -> u32 {
    let is_answer = |(_, fact): &&(u64, Fact)| matches!(fact, Fact::Answered { .. });
    let is_about_health =
        |(_, fact): &&(u64, Fact)| !matches!(fact, Fact::RequestFailed | Fact::Responded { .. });
    facts.iter().rev().filter(is_about_health).take_while(is_answer).count() as u32
}
