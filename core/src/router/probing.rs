//! Applies the ends of probes and reports to the backends.
use super::Router;
use crate::config::{Mode, ProbeRules};
use crate::event::{LoadReport, Notice, ProbeFailure, ProbeKind, ProbeResult};
use crate::id::{BackendId, ProbeId};
use crate::probe::{EndedProbe, LineId};
use crate::time::Instant;

/// The effects of a ping's end at its backend.
#[derive(Default)]
struct PingEnd {
    /// Whether its health changed.
    has_changed: bool,
    /// Whether the next ping should come soon.
    is_open: bool,
}

impl Router {
    pub(super) fn probe_finished(&mut self, now: Instant, probe: ProbeId, result: &ProbeResult) {
        let Some(ended) = self.probes.finish(probe) else {
            self.late_probes += 1;
            return;
        };
        if *result == Err(ProbeFailure::Abandoned) {
            self.probe_abandoned(now, ended);
        } else if now > ended.deadline {
            // Handled as if `handle_timeout` had been called first, so that the order of the two
            // does not matter.
            self.late_probes += 1;
            self.probe_ended(now, ended, &Err(ProbeFailure::TimedOut));
        } else {
            self.probe_ended(now, ended, result);
        }
    }

    /// Schedules the next probe after one that shows nothing about the backend.
    fn probe_abandoned(&mut self, now: Instant, ended: EndedProbe) {
        let id = ended.line.backend;
        let is_open = ended.line.kind == ProbeKind::Ping
            && self.table.get(id).is_some_and(|backend| backend.wants_ping());
        let rules = self.probe_rules(id);
        self.probes.schedule(now, ended, is_open, &rules);
        self.hasten_pings(now, id);
        self.hasten_watch(now, id);
        self.tell_standing(id);
    }

    /// The rules of probes that apply to a backend.
    pub(super) fn probe_rules(&self, id: BackendId) -> ProbeRules {
        let usual = &self.rules.probes;
        self.table.get(id).map_or(*usual, |backend| backend.checks().of_probes(usual))
    }

    /// Whether a backend has no probes of this kind.
    pub(super) fn is_unchecked(&self, line: LineId) -> bool {
        self.table.get(line.backend).is_some_and(|backend| match line.kind {
            ProbeKind::Ping => backend.checks().is_off,
            ProbeKind::Report => backend.checks().is_report_off,
        })
    }

    /// Records the time that has passed for a backend whose pings show nothing, so that it can
    /// return from an ejection.
    pub(super) fn waited(&mut self, now: Instant, id: BackendId) {
        let rules = &self.rules;
        self.table.update(id, |backend| backend.waited(now, rules));
        self.watch_wait(now, id);
        self.hasten_pings(now, id);
        self.hasten_watch(now, id);
        self.tell_standing(id);
    }

    /// Passes the time to the part that ejects backends: router or policy.
    fn watch_wait(&mut self, now: Instant, id: BackendId) {
        let ejects = self.ejects();
        let done =
            self.table.update(id, |backend| ejects && backend.is_up() && backend.watch.waited(now));
        if done == Some(true) {
            self.count_out();
        }
        if let Some(facts) = self.table.get(id) {
            self.policy.on_wait(now, id, facts);
        }
    }

    pub(super) fn probe_ended(&mut self, now: Instant, ended: EndedProbe, result: &ProbeResult) {
        let mut result = result.clone();
        if let Ok(answer) = &mut result {
            // The sample must not exceed the longest duration of a probe, even if the driver
            // reports it late.
            answer.latency = answer.latency.min(ended.deadline.since(ended.started_at));
        }
        let id = ended.line.backend;
        let is_open = match ended.line.kind {
            _ if !self.table.is_configured(id) => false,
            ProbeKind::Ping if self.is_unchecked(ended.line) => false,
            ProbeKind::Ping if self.is_unserved(&result) => self.ping_unserved(now, id, &result),
            ProbeKind::Ping => self.ping_ended(now, id, &result),
            ProbeKind::Report => {
                self.report_ended(now, id, &result);
                false
            }
        };
        let rules = self.probe_rules(id);
        self.probes.schedule(now, ended, is_open, &rules);
        self.hasten_pings(now, id);
        self.hasten_watch(now, id);
        self.tell_standing(id);
    }

    /// Whether a ping shows only that the backend does not have the path: its status says so, and
    /// no backend has ever passed a ping.
    fn is_unserved(&self, result: &ProbeResult) -> bool {
        let is_served =
            |id: &BackendId| self.table.get(*id).is_some_and(|b| b.pings().answered > 0);
        matches!(result, Err(ProbeFailure::Status(404 | 405))) && !self.order.iter().any(is_served)
    }

    /// Applies a ping whose path the backend does not have. Returns whether the next ping should
    /// come soon.
    fn ping_unserved(&mut self, now: Instant, id: BackendId, result: &ProbeResult) -> bool {
        let rules = &self.rules;
        let done = self.table.update(id, |backend| {
            backend.ping_unserved(now, rules);
            let has_changed = backend.health.ping_unserved(&rules.health);
            PingEnd { has_changed, is_open: backend.wants_ping() }
        });
        let PingEnd { has_changed, is_open } = done.unwrap_or_default();
        if has_changed {
            self.health_changed(now, id, None);
        }
        self.watch_wait(now, id);
        let is_pinged = |id: &BackendId| {
            self.table.get(*id).is_some_and(|backend| {
                backend.checks().is_off
                    || backend.mode() == Mode::Maintain
                    || backend.pings().failed > 0
            })
        };
        if let Err(ProbeFailure::Status(status)) = *result
            && !self.is_told_unserved
            && self.order.iter().all(is_pinged)
        {
            self.is_told_unserved = true;
            self.notify(Notice::PingsUnserved { status });
        }
        is_open
    }

    /// Applies the end of a ping. Returns whether the next ping should come soon.
    fn ping_ended(&mut self, now: Instant, id: BackendId, result: &ProbeResult) -> bool {
        let rules = &self.rules;
        let is_lost = matches!(
            result,
            Err(ProbeFailure::TimedOut | ProbeFailure::Cut | ProbeFailure::Unreachable)
        );
        // Live traffic can excuse only lost pings. After any other failure, a reply has shown the
        // fault.
        let learner = self.policy.learner().filter(|_| is_lost);
        let is_vouched = learner.is_some_and(|learner| learner.vouches_for(now, id));
        let done = self.table.update(id, |backend| {
            backend.ping_ended(now, result, rules);
            let has_changed = match result {
                Err(_) if is_vouched => false,
                Ok(_) => backend.health.ping_answered(&rules.health),
                Err(cause) => {
                    let is_elsewhere = backend.checks().is_elsewhere;
                    backend.health.ping_failed(now, *cause, is_elsewhere, &rules.health)
                }
            };
            PingEnd { has_changed, is_open: backend.wants_ping() }
        });
        let PingEnd { has_changed, is_open } = done.unwrap_or_default();
        if let Some(facts) = self.table.get(id) {
            self.policy.on_ping(now, id, result.is_ok(), facts);
        }
        if result.is_ok() && self.ejects() {
            self.watch_ping(now, id);
        }
        if has_changed {
            self.health_changed(now, id, result.as_ref().err().copied());
        }
        is_open
    }

    fn report_ended(&mut self, now: Instant, id: BackendId, result: &ProbeResult) {
        let rules = &self.rules;
        let report = result.as_ref().ok().and_then(|answer| answer.report);
        self.table.update(id, |backend| match report {
            Some(report) => backend.report_read(now, &report, rules),
            None => backend.report_failed(now, rules),
        });
        if let Some(report) = report {
            self.count_others(now, id, &report);
            if let Some(said) = report.agent {
                self.agent_said(now, id, said);
            }
        }
    }

    pub(super) fn load_reported(&mut self, now: Instant, id: BackendId, report: &LoadReport) {
        let rules = &self.rules;
        if self.table.is_configured(id) {
            self.table.update(id, |backend| backend.report_read(now, report, rules));
            self.count_others(now, id, report);
            if let Some(said) = report.agent {
                self.agent_said(now, id, said);
            }
        }
    }

    /// Applies a backend's reported numbers of running and waiting requests. Without the number of
    /// running requests, a report does not show requests of others: all waiting requests may be the
    /// proxy's own.
    fn count_others(&mut self, now: Instant, id: BackendId, report: &LoadReport) {
        let said = |number: Option<f64>| number.filter(|x| x.is_finite() && *x >= 0.0);
        let (Some(running), Some(facts)) = (said(report.running), self.table.get(id)) else {
            return;
        };
        let all = running + said(report.queue).unwrap_or(0.0);
        let interval = self.probe_rules(id).report_interval;
        let own = facts.at_work();
        self.others.reported(now, id, all, own, interval);
        self.policy.on_others(now, id, self.others.at(now, id, own));
    }
}
