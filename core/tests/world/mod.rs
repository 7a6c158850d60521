//! A router, its oracle, and the driver of both. Each step applies one operation to both and
//! compares everything visible.
use std::collections::BTreeMap;
use std::time::Duration;

use intelliproxy_core::{
    Action, BackendId, Event, Instant, Lease, LoadReport, NoRoute, Notice, Outcome, PolicyView,
    ProbeAnswer, ProbeFailure, ProbeId, ProbeKind, RequestFailure, Router, RouterConfig, Rules,
    ScoreParts, Snapshot, SwitchReason,
};

use crate::model::{self, Answer, Decision, Ended, Fact, Model, Outstanding, Routed};

/// One step. Indices are taken modulo the number of choices.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Time passes, and every deadline is handled.
    Wait {
        ms: u64,
    },
    /// Time passes, and deadlines in it are not handled, as if the driver was delayed.
    Sleep {
        ms: u64,
    },
    Route,
    Retry {
        tried: u8,
    },
    Finish {
        which: usize,
        outcome: Outcome,
    },
    /// Requests arrive one after another, and the connection of each is refused.
    Outage {
        requests: usize,
    },
    /// A request begins to wait for its client, waits for its backend again, or becomes a stream.
    SetAside {
        which: usize,
        to: Aside,
    },
    EndProbe {
        which: usize,
        result: Result<Answer, ProbeFailure>,
    },
    /// A result for a probe that has ended or never existed.
    Noise {
        which: u64,
        result: Result<Answer, ProbeFailure>,
    },
    Load {
        which: usize,
        report: LoadReport,
    },
    Configure {
        names: u8,
        rules: Box<Rules>,
    },
}

/// The state of an outstanding lease.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Aside {
    Paused,
    Resumed,
    Stream,
}

/// The router, its oracle, and the state of their driver.
struct World {
    router: Router,
    model: Model,
    now: u64,
    leases: Vec<Lease>,
    /// The reported states of leases, by number.
    asides: BTreeMap<u64, Aside>,
    /// Probes whose end was not reported yet.
    untold: Vec<u64>,
    /// Every backend that ever existed.
    seen: Vec<BackendId>,
    started: u64,
    last_switch: Option<u64>,
    /// Whether router and model diverged over equal scores: later steps cannot be compared.
    is_tied: bool,
    trace: Vec<String>,
}

const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

impl World {
    fn new(rules: &Rules) -> Self {
        let now = 50;
        let names = names_of(0b0111);
        let router = Router::new(config(&names, rules.clone()), 7, Instant::from_millis(now));
        let mut model = Model::new(rules.clone());
        model.configure(now, &names, rules.clone());
        let mut world = Self {
            router: router.expect("a valid configuration"),
            model,
            now,
            leases: Vec::new(),
            asides: BTreeMap::new(),
            untold: Vec::new(),
            seen: Vec::new(),
            started: 0,
            last_switch: None,
            is_tied: false,
            trace: Vec::new(),
        };
        world.see_backends();
        world
    }

    fn see_backends(&mut self) {
        let new = self.model.backends.values().map(|backend| backend.id);
        let new: Vec<_> = new.filter(|id| !self.seen.contains(id)).collect();
        self.seen.extend(new);
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Wait { ms } => self.wait(*ms),
            Step::Sleep { ms } => self.now += ms,
            Step::Route => self.route(&[]),
            Step::Retry { tried } => {
                // `seen` includes backends that left long ago, whose slots may belong to others
                // now.
                let bit = |id: &&BackendId| tried >> ((id.index() + id.generation() as usize) % 8);
                let tried: Vec<_> =
                    self.seen.iter().filter(|id| bit(id) & 1 == 1).copied().collect();
                self.route(&tried);
            }
            Step::Finish { which, outcome } => self.finish(*which, *outcome),
            Step::Outage { requests } => {
                for _ in 0..*requests {
                    let before = self.leases.len();
                    self.route(&[]);
                    if self.leases.len() > before {
                        self.finish(before, Outcome::Failed(RequestFailure::Refused));
                    }
                    if self.is_tied {
                        return;
                    }
                }
            }
            Step::SetAside { which, to } => self.set_aside(*which, *to),
            Step::EndProbe { which, result } if !self.untold.is_empty() => {
                let probe = self.untold.remove(which % self.untold.len());
                self.model.probe_ended(self.now, probe, *result);
                self.tell(Event::ProbeFinished {
                    probe: ProbeId::from_u64(probe),
                    result: told(result),
                });
            }
            Step::EndProbe { .. } => {}
            Step::Noise { which, result } => self.make_noise(*which, result),
            Step::Load { which, report } => {
                let id = self.seen[which % self.seen.len()];
                let now = self.now;
                let backend = self.model.by_id_mut(id);
                if let Some(backend) = backend.filter(|backend| backend.is_configured) {
                    backend.reports.push((now, *report));
                    backend.touched_at = now;
                    backend.heard_at = now;
                }
                self.tell(Event::LoadReported { backend: id, report: *report });
            }
            Step::Configure { names, rules } => {
                let names = names_of(*names);
                self.model.configure(self.now, &names, (**rules).clone());
                self.tell(Event::Reconfigured(Box::new(config(&names, (**rules).clone()))));
                self.see_backends();
            }
        }
        self.check();
    }

    fn wait(&mut self, ms: u64) {
        let end = self.now + ms;
        while let Some(deadline) = self.router.poll_timeout().filter(|_| !self.is_tied) {
            let at = self.now.max(deadline.as_nanos() / 1_000_000);
            if at > end {
                break;
            }
            self.now = at;
            self.mind_deadlines();
        }
        self.now = end;
    }

    /// Lets router and model do the work that is due, and compares the probes that they started.
    fn mind_deadlines(&mut self) {
        let now = Instant::from_millis(self.now);
        self.router.handle_timeout(now);
        assert!(self.router.poll_timeout().is_none_or(|next| next > now), "the next lies ahead");
        self.give_up();
        let mut started = Vec::new();
        self.drain(&mut started);
        for (probe, backend, kind, deadline) in started {
            self.started += 1;
            assert_eq!(probe, self.started, "each probe has its own number");
            let expected = self.now + self.model.timeout(kind);
            assert_eq!(deadline, Instant::from_millis(expected));
            let now = self.now;
            let backend = self.model.by_id_mut(backend).expect("a known backend");
            assert!(backend.is_configured, "a removed backend is not probed");
            let line = backend.lines.get_mut(&kind).expect("two lines for each backend");
            assert!(line.outstanding.is_none(), "never two outstanding for the same backend");
            assert!(line.due.is_some_and(|due| due <= now), "a probe is started when it is due");
            line.due = None;
            line.started = Some(now);
            line.outstanding = Some(Outstanding { probe, started: now, deadline: expected });
            self.untold.push(probe);
        }
        self.check();
        self.router.handle_timeout(now);
        assert_eq!(self.router.poll_action(), None, "a second call finds nothing to do");
    }

    fn give_up(&mut self) {
        let overdue = |model: &Model, now| {
            let lines = model.backends.values().flat_map(|backend| {
                let lines = backend.lines.iter();
                lines.filter_map(|(kind, line)| Some((line.outstanding?, backend.id, *kind)))
            });
            let overdue = lines.filter(|(probe, ..)| probe.deadline <= now);
            overdue.min_by_key(|(probe, id, kind)| (probe.deadline, *id, *kind))
        };
        while let Some((probe, ..)) = overdue(&self.model, self.now) {
            // The model counts a result past its deadline as late, which this one is not.
            let late = self.model.late;
            self.model.probe_ended(self.now, probe.probe, Err(ProbeFailure::TimedOut));
            self.model.late = late;
        }
    }

    fn set_aside(&mut self, which: usize, to: Aside) {
        if self.leases.is_empty() {
            return;
        }
        let lease = &self.leases[which % self.leases.len()];
        let (id, backend) = (lease.id(), lease.backend());
        let was = self.asides.get(&id.as_u64()).copied();
        let is_news = match to {
            Aside::Paused => matches!(was, None | Some(Aside::Resumed)),
            Aside::Resumed => was == Some(Aside::Paused),
            Aside::Stream => was != Some(Aside::Stream),
        };
        if is_news {
            self.asides.insert(id.as_u64(), to);
            let was_work = !matches!(was, Some(Aside::Paused | Aside::Stream));
            // `None` if another backend has the slot.
            if let Some(of) = self.model.by_id_mut(backend) {
                of.aside += u32::from(was_work);
                of.aside -= u32::from(to == Aside::Resumed);
            }
        }
        let latency = Duration::from_millis(3);
        self.tell(match to {
            Aside::Paused => Event::LeasePaused { lease: id, backend },
            Aside::Resumed => Event::LeaseResumed { lease: id, backend },
            Aside::Stream => Event::StreamOpened { lease: id, backend, status: 101, latency },
        });
    }

    fn route(&mut self, tried: &[BackendId]) {
        self.model.release(self.now);
        let scores = self.scores();
        let usable = |id: &BackendId| self.model.is_usable(*id);
        let was_usable_left = scores.keys().any(|id| usable(id) && !tried.contains(id));
        let Routed { decision, may_spill } =
            self.model.route(self.now, tried, &scores, &self.full_at());
        let now = Instant::from_millis(self.now);
        let result = self.router.route(now, tried);
        self.trace.push(format!("{} {decision:?} {result:?}", self.now));
        let expected = match decision {
            Decision::Nowhere => None,
            Decision::Keep(to) | Decision::Switch(to, _) | Decision::Aside(to) => Some(to),
            Decision::Hold { candidate, reason } => {
                let hold = self.router.snapshot(now).last_hold;
                assert_eq!(hold, Some((now, candidate, reason)));
                self.model.current
            }
        };
        let chosen = result.as_ref().ok().map(Lease::backend);
        if !may_spill {
            assert_eq!(chosen, expected, "below its width the rule alone decides: {decision:?}");
        }
        match result {
            Ok(lease) => {
                let id = lease.backend();
                self.model.sent(id, Some(id) != expected);
                assert!(!tried.contains(&id), "a retry goes elsewhere");
                assert!(
                    self.model.is_usable(id) || !was_usable_left,
                    "never a down backend while a usable one is left"
                );
                self.leases.push(lease);
            }
            Err(reason) => {
                let is_empty = self.model.names.is_empty();
                assert_eq!(reason == NoRoute::NoBackends, is_empty);
            }
        }
        if let Decision::Switch(to, reason) = decision {
            let actions: Vec<_> = std::iter::from_fn(|| self.router.poll_action()).collect();
            let [Action::Notify(Notice::Switched { to: told, reason: why, .. })] = &actions[..]
            else {
                panic!("a switch is reported, and nothing else: {actions:?}");
            };
            assert_eq!((*told, *why), (to, reason));
            self.judge_switch(*why);
        }
        let mut started = Vec::new();
        self.drain(&mut started);
        assert_eq!(started, [], "a decision starts no probe");
    }

    fn finish(&mut self, which: usize, outcome: Outcome) {
        if self.leases.is_empty() {
            return;
        }
        let lease = self.leases.swap_remove(which % self.leases.len());
        let now = self.now;
        let was = self.asides.remove(&lease.id().as_u64());
        let others = self.model.work_beside(lease.backend());
        let Some(backend) = self.model.by_id_mut(lease.backend()) else {
            // Another backend has the slot: the end has no effect.
            return self.tell(Event::RequestFinished { lease, outcome });
        };
        backend.aside -= u32::from(matches!(was, Some(Aside::Paused | Aside::Stream)));
        backend.in_flight -= 1;
        backend.touched_at = now;
        let was_refusing = backend.refusal().is_some();
        let sent = lease.routed_at().as_nanos() / 1_000_000;
        match outcome {
            Outcome::Answered { .. }
            | Outcome::Refused { .. }
            | Outcome::Failed(RequestFailure::Truncated) => {
                backend.facts.push((now, Fact::Responded { sent }));
            }
            Outcome::Failed(RequestFailure::Refused) => {
                backend.facts.push((now, Fact::RequestRefused));
            }
            Outcome::Failed(_) => backend.facts.push((now, Fact::RequestFailed)),
            Outcome::Abandoned => {}
        }
        let is_back = was_refusing && backend.refusal().is_none();
        match outcome {
            Outcome::Abandoned => {}
            Outcome::Answered { status: 429 | 503, .. } | Outcome::Refused { hold: None, .. } => {
                backend.refused += 1;
                // A refusal counts as ((1 + others - own) / (1 + others))³ of a request: as a whole
                // one where the backend looks idle compared with the others.
                let own = f64::from(backend.at_work());
                let idle = ((1.0 + others - own) / (1.0 + others)).clamp(0.0, 1.0);
                backend.turned_away.push((now, idle * idle * idle));
            }
            Outcome::Refused { hold: Some(hold), .. } => {
                backend.refused += 1;
                let until = now + hold.as_millis().min(60_000) as u64;
                backend.held_until = backend.held_until.max(until);
            }
            Outcome::Answered { status, latency } => {
                backend.requests.push(Ended { at: now, is_error: status >= 500 });
                if status < 500 {
                    backend.responses.push(latency.as_secs_f64() * 1e3);
                }
            }
            Outcome::Failed(_) => backend.requests.push(Ended { at: now, is_error: true }),
        }
        self.model.settle(now);
        if is_back {
            self.model.hasten_pings(now, None);
        }
        self.tell(Event::RequestFinished { lease, outcome });
    }

    /// Passes a result that the router does not expect.
    fn make_noise(&mut self, which: u64, result: &Result<Answer, ProbeFailure>) {
        let lines = self.model.backends.values().flat_map(|backend| backend.lines.values());
        let outstanding: Vec<_> = lines.filter_map(|line| line.outstanding).collect();
        let probe = which % (self.started + 3);
        if outstanding.iter().all(|out| out.probe != probe) {
            assert!(!self.model.probe_ended(self.now, probe, *result));
            self.tell(Event::ProbeFinished {
                probe: ProbeId::from_u64(probe),
                result: told(result),
            });
        }
    }

    fn tell(&mut self, event: Event) {
        self.router.handle_event(Instant::from_millis(self.now), event);
        let mut started = Vec::new();
        self.drain(&mut started);
        assert_eq!(started, [], "probes are started by time alone");
    }

    /// Takes the router's actions: collects the probes to start and checks the notices.
    fn drain(&mut self, started: &mut Vec<(u64, BackendId, ProbeKind, Instant)>) {
        let mut failovers = Vec::new();
        while let Some(action) = self.router.poll_action() {
            self.trace.push(format!("{} {action:?}", self.now));
            match action {
                Action::StartProbe { probe, backend, kind, deadline } => {
                    started.push((probe.as_u64(), backend, kind, deadline));
                }
                Action::Notify(Notice::Switched { to, reason, .. }) => {
                    let is_failover = matches!(reason, SwitchReason::Failover { .. });
                    assert!(is_failover, "others are made by requests: {reason:?}");
                    self.judge_switch(reason);
                    failovers.push(to);
                }
                Action::Notify(Notice::Held { .. } | Notice::HealthChanged { .. }) => {}
                Action::Notify(Notice::PingsUnserved { .. }) => {
                    panic!("no ping has a status that means a missing path")
                }
                Action::Notify(Notice::Ejected { .. } | Notice::Returned { .. }) => {
                    panic!("the oracle knows no ejection: the rules turn it off")
                }
            }
        }
        let expected = std::mem::take(&mut self.model.failovers);
        for (to, (expected_to, scores)) in failovers.iter().zip(&expected) {
            if to != expected_to {
                // The model's sums are rounded differently.
                assert!(is_near(scores[to], scores[expected_to]), "failover to the best one");
                self.is_tied = true;
                return;
            }
        }
        assert_eq!(
            failovers.len(),
            expected.len(),
            "an unusable current backend is replaced at once"
        );
    }

    /// Checks that a switch for a better score comes after the cooldown and reaches the threshold.
    fn judge_switch(&mut self, reason: SwitchReason) {
        if let SwitchReason::Better { by } = reason {
            let cooldown = self.model.rules.switch.cooldown.as_millis() as u64;
            let passed = self.last_switch.map(|at| self.now - at);
            assert!(passed.is_none_or(|passed| passed >= cooldown), "no switch in the cooldown");
            assert!(by >= self.model.rules.switch.threshold, "a switch gains the threshold");
        }
        if reason != SwitchReason::First {
            self.last_switch = Some(self.now);
        }
    }

    /// The number of requests in flight at which each backend is full.
    fn full_at(&self) -> BTreeMap<BackendId, Option<u32>> {
        let snapshot = self.router.snapshot(Instant::from_millis(self.now));
        let full_at = |policy: &PolicyView| match policy {
            PolicyView::Score(view) => view.full_at,
            other => panic!("the policy is score, not {other:?}"),
        };
        snapshot.backends.iter().map(|backend| (backend.id, full_at(&backend.policy))).collect()
    }

    fn scores(&self) -> BTreeMap<BackendId, ScoreParts> {
        let snapshot = self.router.snapshot(Instant::from_millis(self.now));
        snapshot.backends.iter().map(|backend| (backend.id, backend.score)).collect()
    }

    /// Checks that everything that the router shows agrees with the model.
    fn check(&self) {
        if self.is_tied {
            return;
        }
        let snapshot = self.router.snapshot(Instant::from_millis(self.now));
        let (model, rules) = (&self.model, &self.model.rules);
        assert_eq!(snapshot.current, model.current);
        assert_eq!(snapshot.switches, model.switches);
        assert_eq!(snapshot.spills, model.spills);
        assert_eq!(snapshot.late_probes, model.late);
        assert_eq!(self.router.poll_timeout(), model.deadline().map(Instant::from_millis));
        let names: Vec<_> = snapshot.backends.iter().map(|backend| &backend.name).collect();
        assert_eq!(names, model.names.iter().collect::<Vec<_>>());
        for seen in &snapshot.backends {
            let backend = model.by_id(seen.id);
            let alpha = rules.smoothing.alpha;
            assert_eq!(seen.health, backend.health(rules), "health of {}", seen.name);
            assert_eq!(seen.pings_answered, backend.latencies().len() as u64);
            let pings = backend.losses().len() as u64;
            assert_eq!(seen.pings_answered + seen.pings_failed, pings);
            assert_eq!(seen.reports_read, backend.reports.len() as u64);
            assert_eq!(seen.reports_failed, backend.reports_failed);
            assert_eq!(seen.requests, backend.requests.len() as u64 + backend.refused);
            assert_eq!(seen.refused, backend.refused);
            assert_eq!(seen.at_work, backend.at_work(), "work of {}", seen.name);
            let out = self.leases.iter().filter(|lease| lease.backend() == seen.id).count();
            assert_eq!(seen.in_flight as usize, out, "in flight is the leases out");
            check_average(
                "latency",
                seen.latency_ewma_ms,
                model::seeded(alpha, &backend.latencies()),
                &backend.latencies(),
            );
            check_average(
                "loss",
                seen.loss_ewma,
                model::average(alpha, &backend.losses()),
                &backend.losses(),
            );
            check_average(
                "response",
                seen.response_ewma_ms,
                model::average(alpha, &backend.responses),
                &backend.responses,
            );
            check_average(
                "queue",
                seen.queue_ewma,
                model::average(alpha, &backend.queues(rules)),
                &backend.queues(rules),
            );
            let rate = backend.error_rate(self.now, rules);
            assert!(is_near(seen.error_rate, rate), "error rate {} {rate}", seen.error_rate);
            assert!((0.0..=1.0).contains(&seen.error_rate));
            let mut sum = 0.0;
            for ((factor, points), expected) in
                seen.score.parts().into_iter().zip(backend.points(rules))
            {
                let name = factor.name();
                assert!(points.is_finite(), "{name} points are finite");
                assert!(is_near(points, expected), "{name}: {points} instead of {expected}");
                sum += points;
            }
            assert!(seen.score.total.is_finite(), "scores are finite");
            assert_eq!(seen.score.total, sum, "the breakdown sums to the score");
        }
    }
}

/// Checks that an average agrees with the model and lies in the range of its samples.
#[track_caller]
fn check_average(name: &str, seen: Option<f64>, expected: Option<f64>, samples: &[f64]) {
    let Some(seen) = seen else {
        assert!(samples.is_empty(), "samples of {name} have an average");
        return;
    };
    let least = samples.iter().copied().fold(f64::INFINITY, f64::min);
    let most = samples.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    assert!((least..=most).contains(&seen), "{name} {seen} lies within {least} and {most}");
    let expected = expected.expect("there are samples");
    assert!(is_near(seen, expected), "{name} is {seen} instead of {expected}");
}

/// Whether two numbers are equal except for rounding and for errors too old to count.
fn is_near(left: f64, right: f64) -> bool {
    (left - right).abs() <= 1e-6 + 1e-9 * left.abs().max(right.abs())
}

pub(crate) fn config(names: &[&str], rules: Rules) -> RouterConfig {
    RouterConfig { backends: names.iter().map(|name| (*name).to_owned()).collect(), rules }
}

fn names_of(mask: u8) -> Vec<&'static str> {
    let chosen = NAMES.iter().enumerate().filter(|(bit, _)| mask >> bit & 1 == 1);
    let names = chosen.map(|(_, name)| *name);
    // The order varies as well, because the id of a backend is not its place in the configuration.
    if mask & 0b100_0000 == 0 { names.collect() } else { names.rev().collect() }
}

fn told(result: &Result<Answer, ProbeFailure>) -> Result<ProbeAnswer, ProbeFailure> {
    result.map(|answer| ProbeAnswer {
        latency: Duration::from_millis(answer.ms),
        report: answer.report,
    })
}

pub(crate) fn run(rules: &Rules, steps: &[Step]) -> (Vec<String>, Snapshot) {
    let mut world = World::new(rules);
    world.mind_deadlines();
    for step in steps {
        world.take(step);
        if world.is_tied {
            break;
        }
    }
    let snapshot = world.router.snapshot(Instant::from_millis(world.now));
    (world.trace, snapshot)
}
