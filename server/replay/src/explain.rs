//! One decision in full: the candidates, their values with reasons, and the changes that would have
//! led to another decision.
//!
//! Such changes are tried, not estimated: a router replays the recording up to the same point and
//! decides with one changed input.
use std::fmt::Write;
use std::ops::ControlFlow;
use std::time::Duration;

use intelliproxy_core::journal::{Admission, Entry, Record, Replay, Shadow, Step};
use intelliproxy_core::{
    AffinityKey, Asker, BackendId, BackendSnapshot, Health, HoldReason, Instant, NoRoute,
    PolicyKind, PolicyView, RouteReason, Router, ScoreView, Snapshot, SwitchReason,
};

use super::recording::Recording;
use super::text::span;
use super::words;
use crate::Answer;
use crate::question::Which;

/// Explains the requested decision.
pub(crate) fn explain(recording: &Recording<'_>, which: Which) -> Result<Answer, String> {
    let started = recording.header().started;
    let is_it = |entry: &Entry| match (&entry.record, which) {
        (Record::Routed { .. }, Which::At(after)) => entry.at >= started + after,
        (Record::Routed { result: Ok(admission), .. }, Which::Request(number)) => {
            admission.lease.as_u64() == number
        }
        _ => false,
    };
    let mut found = None;
    let wrong = recording.each(|entry| {
        if is_it(entry) {
            found = Some(entry.clone());
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    });
    let Some(entry) = found else {
        let damage = wrong.first().map_or_else(String::new, |wrong| format!(" ({wrong})"));
        return Err(match which {
            Which::At(_) => format!("no decision at that time or later{damage}"),
            Which::Request(number) => format!("there is no request {number}{damage}"),
        });
    };
    let mut case = Case::new(recording, &entry)?;
    let Record::Routed { asker, key, tried, result } = entry.record.clone() else {
        return Err("the record is not a decision".to_owned());
    };
    let opinion_on = case.brain.router().second_opinion_on(entry.at, asker);
    let before = case.brain.router().snapshot(entry.at);
    let replayed = case.brain.decide(&entry);
    let after = case.brain.router().snapshot(entry.at);
    let told = Decision {
        recording,
        entry: &entry,
        asker,
        key,
        tried: &tried,
        result,
        opinion_on,
        before,
        after,
    };
    let mut text = String::new();
    told.head(&mut text, replayed, case.is_exact);
    told.candidates(&mut text);
    told.rule(&mut text)?;
    told.changes(&mut text)?;
    Ok(Answer { text, wrong: Vec::new() })
}

/// The router just before a decision.
struct Case {
    brain: Brain,
    /// Whether it is the recorded router, not an approximation.
    is_exact: bool,
}

enum Brain {
    Exact(Box<Replay>),
    /// An approximation if records are missing: a router with the other records.
    Near(Box<Shadow>),
}

impl Case {
    fn new(recording: &Recording<'_>, until: &Entry) -> Result<Self, String> {
        let header = recording.header();
        let mut replay = Replay::new(header).map_err(|error| error.to_string())?;
        let mut shadow = None;
        if !recording.is_from_start() {
            shadow = Some(near(recording)?);
        }
        let mut is_lost = false;
        let mut go = |shadow: &mut Option<Shadow>, replay: &mut Replay| {
            recording.each(|entry| {
                if entry.at == until.at && entry.offset == until.offset && entry == until {
                    return ControlFlow::Break(());
                }
                match shadow {
                    Some(shadow) => drop(shadow.apply(entry)),
                    None if replay.apply(entry) == Step::Unknown => {
                        is_lost = true;
                        return ControlFlow::Break(());
                    }
                    None => {}
                }
                ControlFlow::Continue(())
            })
        };
        go(&mut shadow, &mut replay);
        if is_lost {
            shadow = Some(near(recording)?);
            let mut again = |entry: &Entry| {
                if entry == until {
                    return ControlFlow::Break(());
                }
                if let Some(shadow) = &mut shadow {
                    shadow.apply(entry);
                }
                ControlFlow::Continue(())
            };
            recording.each(&mut again);
        }
        let is_exact = shadow.is_none();
        let brain = shadow
            .map_or_else(|| Brain::Exact(Box::new(replay)), |shadow| Brain::Near(Box::new(shadow)));
        Ok(Self { brain, is_exact })
    }
}

fn near(recording: &Recording<'_>) -> Result<Shadow, String> {
    let header = recording.header();
    Shadow::new(header.config.clone(), header.seed, header.started)
        .map_err(|error| error.to_string())
}

impl Brain {
    fn router(&self) -> &Router {
        match self {
            Self::Exact(replay) => replay.router(),
            Self::Near(shadow) => shadow.router(),
        }
    }

    fn into_router(self) -> Router {
        match self {
            Self::Exact(replay) => replay.into_router(),
            Self::Near(shadow) => shadow.into_router(),
        }
    }

    /// Makes the decision. Returns the chosen backend.
    fn decide(&mut self, entry: &Entry) -> Option<BackendId> {
        let Record::Routed { result, .. } = &entry.record else {
            return None;
        };
        match self {
            Self::Exact(replay) => match replay.apply(entry) {
                Step::OtherRoute { replayed, .. } => replayed.ok().map(|to| to.backend),
                _ => result.ok().map(|to| to.backend),
            },
            Self::Near(shadow) => shadow.apply(entry).and_then(|choice| choice.chosen.ok()),
        }
    }
}

/// The facts of a decision.
struct Decision<'a> {
    recording: &'a Recording<'a>,
    entry: &'a Entry,
    asker: Asker,
    key: Option<AffinityKey>,
    tried: &'a [BackendId],
    result: Result<Admission, NoRoute>,
    /// The backend that this request avoids, for a second opinion.
    opinion_on: Option<BackendId>,
    before: Snapshot,
    after: Snapshot,
}

impl Decision<'_> {
    fn name(&self, id: BackendId) -> &str {
        let backend = self.before.backends.iter().find(|backend| backend.id == id);
        backend.map_or("?", |backend| &backend.name)
    }

    fn head(&self, text: &mut String, replayed: Option<BackendId>, is_exact: bool) {
        let at = self.recording.moment(self.entry.at);
        let request = self.result.map_or_else(
            |_| "a request that was not admitted".to_owned(),
            |to| format!("request {}", to.lease.as_u64()),
        );
        let _ = writeln!(text, "decision   {request}, at {at}, offset {}", self.entry.offset);
        let went = match self.result {
            Ok(to) => format!("to {}", self.name(to.backend)),
            Err(NoRoute::NoBackends) => "nowhere: no backend is in service".to_owned(),
            Err(NoRoute::Full) => "nowhere: every backend was full".to_owned(),
            Err(NoRoute::AllTried) => "nowhere: every backend had been tried".to_owned(),
        };
        let same = match (is_exact, replayed == self.result.ok().map(|to| to.backend)) {
            (true, true) => "; the replay decides the same",
            (true, false) => "; THE REPLAY DECIDES OTHERWISE",
            (false, _) => "; records are missing: the text below is an approximation",
        };
        let _ = writeln!(text, "went       {went}{same}");
        if !self.tried.is_empty() {
            let tried: Vec<&str> = self.tried.iter().map(|id| self.name(*id)).collect();
            let _ = writeln!(text, "tried      {} before, without success", tried.join(", "));
        }
        let current = self.before.current.map_or("none", |id| self.name(id));
        let _ = write!(text, "policy     {}, current backend {current}", self.before.policy.name());
        if let Some((at, reason)) = self.before.last_switch {
            let ago = span(self.entry.at.since(at));
            let _ = write!(text, " since {ago} ({})", why_switched(reason));
        }
        text.push('\n');
        if let Some(guard) = &self.before.guard {
            let _ = writeln!(text, "guard      {}", words::guard(guard));
        }
    }

    fn candidates(&self, text: &mut String) {
        for backend in &self.before.backends {
            let health = match backend.health {
                Health::Unknown => "not known yet",
                Health::Up => "up",
                Health::Down => "down",
            };
            let went = self.result.is_ok_and(|to| to.backend == backend.id);
            let held = backend.held.map_or_else(String::new, |left| {
                format!(", no requests for {}, as it asked", span(left))
            });
            let mark = if went { "*" } else { " " };
            let _ = writeln!(
                text,
                "\n{mark} {} {health}{held}, {} in flight ({} at work), score {:.3}",
                backend.name, backend.in_flight, backend.at_work, backend.score.total
            );
            let points: Vec<String> = backend
                .score
                .parts()
                .iter()
                .map(|(factor, points)| format!("{} {points:.3}", factor.name()))
                .collect();
            let _ = writeln!(text, "    points  {}", points.join(" + "));
            let _ = writeln!(text, "    known   {}", known(backend));
            let _ = writeln!(text, "    policy  {}", words::reason(&backend.policy));
        }
        text.push('\n');
    }

    /// The rule that decided.
    fn rule(&self, text: &mut String) -> Result<(), String> {
        let by_key = self.key_text()?;
        let _ = writeln!(text, "rule       {}", by_key.unwrap_or_else(|| self.rule_text()));
        Ok(())
    }

    /// Describes the decision if the request's key made it.
    fn key_text(&self) -> Result<Option<String>, String> {
        let (Ok(to), Some(_)) = (self.result, self.key) else { return Ok(None) };
        let mut router = Case::new(self.recording, self.entry)?.brain.into_router();
        let routed = router.route_keyed(self.entry.at, self.tried, self.asker, self.key);
        let chosen = self.name(to.backend);
        Ok(match routed.map(|lease| router.reason(&lease)) {
            Ok(RouteReason::Owner) => Some(format!("{chosen} owns the key of the request")),
            Ok(RouteReason::NextOwner) => Some(format!(
                "{chosen} is the next for the key of the request, whose owner is unusable, full or \
                 too slow"
            )),
            _ => None,
        })
    }

    fn rule_text(&self) -> String {
        let Ok(to) = self.result else {
            return "no candidate was left".to_owned();
        };
        let chosen = self.name(to.backend);
        if let Some(not) = self.opinion_on.filter(|_| self.tried.is_empty()) {
            let not = self.name(not);
            return format!("a second opinion: its target fails at {not}, so it goes to {chosen}");
        }
        let usable: Vec<&BackendSnapshot> = self
            .before
            .backends
            .iter()
            .filter(|backend| backend.health != Health::Down && !self.tried.contains(&backend.id))
            .collect();
        let open =
            if usable.is_empty() { "no usable backend was left, so all count; " } else { "" };
        if self.before.policy != PolicyKind::Score {
            let candidates = usable.len();
            return format!("{open}the policy chose {chosen} of {candidates} usable candidates");
        }
        if !self.tried.is_empty() {
            return format!("{open}a retry goes to the lowest score of those not tried: {chosen}");
        }
        if usable.is_empty() {
            return format!("{open}{chosen} has the lowest score");
        }
        if self.after.switches > self.before.switches {
            let reason = self.after.last_switch.map(|(_, reason)| why_switched(reason));
            let reason = reason.unwrap_or_default();
            return format!("switch to {chosen}: {reason}");
        }
        if self.before.current.is_none() {
            return format!("the first request chooses the lowest score: {chosen}");
        }
        if self.after.spills > self.before.spills {
            return self.spill_text(chosen);
        }
        let hold = self.after.last_hold.filter(|(at, ..)| *at == self.entry.at);
        let Some((_, candidate, reason)) = hold else {
            return format!("keep {chosen}: no other score is lower");
        };
        let candidate = self.name(candidate);
        let why = match reason {
            HoldReason::BelowThreshold { missing } => {
                format!("{missing:.3} points are missing to the threshold")
            }
            HoldReason::Cooldown { left } => format!("{} of the cooldown is left", span(left)),
            HoldReason::LoadAlone => "the gap is load alone".to_owned(),
        };
        format!("hold {chosen} although {candidate} is better: {why}")
    }

    /// Returns why a single request was not sent to the current backend.
    fn spill_text(&self, chosen: &str) -> String {
        let current = self.after.backends.iter().find(|backend| backend.is_current);
        let Some(current) = current else {
            return format!("{chosen} has the least expected delay");
        };
        let full_at = match current.policy {
            PolicyView::Score(ScoreView { full_at: Some(0), .. }) => {
                "completions are overdue".to_owned()
            }
            PolicyView::Score(ScoreView { full_at: Some(full_at), .. }) => {
                format!("{} in flight, works on {full_at} at once", current.in_flight)
            }
            _ => format!("{} in flight", current.in_flight),
        };
        format!(
            "{} is full ({full_at}); this single request goes to {chosen}, which has the least \
             expected delay",
            current.name
        )
    }

    /// Appends the changes that would have led to another decision.
    fn changes(&self, text: &mut String) -> Result<(), String> {
        let Ok(to) = self.result else {
            let _ = writeln!(text, "changes    any backend that was not tried");
            return Ok(());
        };
        let mut lines = Vec::new();
        if self.before.policy == PolicyKind::Score && self.key.is_none() {
            self.gaps(to.backend, &mut lines);
        }
        let mut without = self.tried.to_vec();
        without.push(to.backend);
        let next = self.ask(self.entry.at, &without, None)?;
        let next = next.map_or("nowhere", |id| self.name(id));
        lines.push(format!("without {} it would have gone to {next}", self.name(to.backend)));
        lines.push(self.load_that_changes(to.backend)?);
        for later in [1, 10, 100, 1000, 5000].map(Duration::from_millis) {
            let other = self.ask(self.entry.at + later, self.tried, None)?;
            if let Some(other) = other.filter(|id| *id != to.backend) {
                let name = self.name(other);
                lines.push(format!("{} later, nothing else having changed: {name}", span(later)));
                break;
            }
        }
        for (index, line) in lines.iter().enumerate() {
            let label = if index == 0 { "changes" } else { "" };
            let _ = writeln!(text, "{label:<10} {line}");
        }
        Ok(())
    }

    /// Appends the points that each other backend lacked under the rule of `score`.
    fn gaps(&self, chosen: BackendId, lines: &mut Vec<String>) {
        let Some(to) = self.before.backends.iter().find(|backend| backend.id == chosen) else {
            return;
        };
        let rules = &self.recording.header().config.rules;
        let is_gated = self.tried.is_empty() && self.before.current == Some(chosen);
        let threshold = if is_gated { rules.switch.threshold } else { 0.0 };
        for other in self.before.backends.iter().filter(|other| other.id != chosen) {
            if self.tried.contains(&other.id) {
                continue;
            }
            if other.health == Health::Down && to.health != Health::Down {
                lines.push(format!("{}: had it not been down", other.name));
                continue;
            }
            let missing = other.score.total - to.score.total + threshold;
            if missing > 0.0 {
                let gate = if is_gated { ", the threshold included" } else { "" };
                lines.push(format!("{}: {missing:.3} points fewer{gate}", other.name));
            }
        }
    }

    /// Returns how many more requests in flight at the chosen backend would send this one
    /// elsewhere.
    fn load_that_changes(&self, chosen: BackendId) -> Result<String, String> {
        let other = |more| self.ask(self.entry.at, self.tried, Some((chosen, more)));
        let is_other = |to: Option<BackendId>| to.is_some_and(|to| to != chosen);
        let name = self.name(chosen);
        let (mut few, mut many) = (0, 1);
        while !is_other(other(many)?) {
            if many >= LOAD_MAX {
                return Ok(format!("none up to {LOAD_MAX} more in flight at {name}"));
            }
            (few, many) = (many, many * 2);
        }
        while many - few > 1 {
            let middle = few.midpoint(many);
            if is_other(other(middle)?) {
                many = middle;
            } else {
                few = middle;
            }
        }
        let to = other(many)?.map_or("nowhere", |id| self.name(id));
        Ok(format!("{many} more in flight at {name}: {to}"))
    }

    /// Replays a router up to this point and lets it decide with changes: at a later time, with
    /// other backends tried, or with more requests in flight at one.
    fn ask(
        &self,
        now: Instant,
        tried: &[BackendId],
        load: Option<(BackendId, u32)>,
    ) -> Result<Option<BackendId>, String> {
        let mut router = Case::new(self.recording, self.entry)?.brain.into_router();
        if let Some((busy, more)) = load {
            let ids = self.before.backends.iter().map(|backend| backend.id);
            let others: Vec<BackendId> = ids.filter(|id| *id != busy).collect();
            for _ in 0..more {
                // With all others tried the request can only go to this backend, where it stays in
                // flight.
                let _ = router.route_for(now, &others, self.asker);
            }
        }
        let routed = router.route_keyed(now, tried, self.asker, self.key);
        Ok(routed.ok().map(|lease| lease.backend()))
    }
}

/// Returns the measured values behind a backend's points, with their ages.
fn known(backend: &BackendSnapshot) -> String {
    let number = |value: Option<f64>, unit: &str| {
        value.map_or_else(|| "unknown".to_owned(), |value| format!("{value:.3}{unit}"))
    };
    let age = |age: Option<Duration>| {
        age.map_or_else(|| "never".to_owned(), |age| format!("{} ago", span(age)))
    };
    format!(
        "latency {} (ping {}), loss {}, error rate {:.3} % ({} of {} requests, last {}), \
         queue {}, cpu {}, memory {} (report {})",
        number(backend.latency_ewma_ms, " ms"),
        age(backend.ping_age),
        number(backend.loss_ewma, ""),
        100.0 * backend.error_rate,
        backend.errors,
        backend.requests,
        age(backend.request_age),
        number(backend.queue_ewma, ""),
        number(backend.cpu_busy_ms, " ms"),
        number(backend.memory_bytes.map(|bytes| bytes / (1024.0 * 1024.0)), " MiB"),
        age(backend.report_age),
    )
}

fn why_switched(reason: SwitchReason) -> String {
    let text = match reason {
        SwitchReason::First => "the first choice",
        SwitchReason::Better { .. } => "better by the threshold or more, cooldown over",
        SwitchReason::Failover { cause } => {
            return format!("failover: the one before {}", cause.text());
        }
        SwitchReason::FromBackup => "the one before is a backup, which is not needed any more",
    };
    text.to_owned()
}

/// The maximum number of additional requests in flight that is tried.
const LOAD_MAX: u32 = 256;
