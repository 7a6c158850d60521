//! Describes notices of the router, faults of load reports, and new configurations in one line
//! each, for the log and for the events of the live page.
use intelliproxy_core::{
    BackendId, EjectReason, HoldReason, Notice, ProbeFailure, ReturnReason, SwitchReason,
};

use super::notice::{ConfigChange, ReportFault};
use super::probe::{HEAD_BYTES_MAX, REPORT_BYTES_MAX};
use crate::config::{Check, CheckKind, Config, ReportKind, Reporting};
use crate::http::field::FIELDS_MAX;

/// The line for a notice; `name` returns the name of a backend.
pub(crate) fn describe<'a>(
    notice: &Notice,
    config: &Config,
    name: impl Fn(BackendId) -> &'a str,
) -> String {
    match *notice {
        Notice::Switched { from, to, reason } => {
            let change = from.map_or_else(
                || format!("start with {}", name(to)),
                |from| format!("switch {} -> {}", name(from), name(to)),
            );
            match reason {
                SwitchReason::First => change,
                SwitchReason::Better { by } => format!("{change}: better by {by:.1} points"),
                SwitchReason::Failover { cause } => {
                    let old = from.map_or("the current backend", name);
                    format!("{change}: failover, {old} {}", cause.text())
                }
                SwitchReason::FromBackup => format!("{change}: return from a backup"),
            }
        }
        Notice::Held { current, candidate, reason } => {
            let (current, candidate) = (name(current), name(candidate));
            match reason {
                HoldReason::BelowThreshold { missing } => format!(
                    "hold {current}: {candidate} is better, {missing:.1} points below the threshold"
                ),
                HoldReason::Cooldown { left } => format!(
                    "hold {current}: {candidate} is better, {} ms of the cooldown left",
                    left.as_micros().div_ceil(1000)
                ),
                HoldReason::LoadAlone => format!(
                    "hold {current}: load alone makes {candidate} better, single requests go there"
                ),
            }
        }
        Notice::Ejected { backend, reason } => {
            format!("{} is ejected: {}", name(backend), describe_ejection(reason))
        }
        Notice::Returned { backend, reason } => {
            let reason = match reason {
                ReturnReason::Probation => "its trial requests succeeded",
                ReturnReason::OthersFail => "the others fail as much",
                ReturnReason::Regretted => "the others failed more without it",
                ReturnReason::CameUp => "it came up after it was down",
            };
            format!("{} is back: {reason}", name(backend))
        }
        Notice::HealthChanged { backend, is_up, cause } => {
            let state = if is_up { "up" } else { "down" };
            let name = name(backend);
            let cause = cause.map_or_else(String::new, |cause| {
                format!(": {}", describe_failure(cause, &config.check_named(name)))
            });
            format!("{name} is {state}{cause}")
        }
        Notice::PingsUnserved { status } => format!(
            "no backend has the path of its health checks (status {status}): set health.path to one \
             that returns 2xx or 3xx, or health.kind to \"tcp\"; until then such responses bring \
             no backend down"
        ),
    }
}

/// Names the rule that ejected a backend, with its figures.
fn describe_ejection(reason: EjectReason) -> String {
    match reason {
        EjectReason::Failures { in_row, share, others } => {
            let others = others.map_or_else(String::new, |others| {
                format!(", the others fail {:.1} %", 100.0 * others)
            });
            let run = match in_row {
                1 => "1 failure".to_owned(),
                _ => format!("{in_row} failures in a row"),
            };
            format!("{run}, {:.0} % of its last requests{others}", 100.0 * share)
        }
        EjectReason::Refusals { in_row } => {
            format!("it refused {in_row} requests in a row, each the only one there")
        }
        EjectReason::Silence { lasted, due } => format!(
            "silent for {} ms although {due:.0} responses were due, and no request is left there",
            lasted.as_millis()
        ),
    }
}

/// Describes the failure of a ping, with its request and the limit that it broke.
fn describe_failure(failure: ProbeFailure, check: &Check) -> String {
    match failure {
        ProbeFailure::Refused => "refused".to_owned(),
        ProbeFailure::Unreachable => "unreachable".to_owned(),
        ProbeFailure::TimedOut => {
            let (limit, key) = (check.timeout.0.as_millis(), check.timeout.1);
            let what = match check.kind {
                CheckKind::Tcp => "no connection".to_owned(),
                CheckKind::Http | CheckKind::None => format!("no response to {check}"),
            };
            format!("timed out: {what} within {limit} ms ({key})")
        }
        ProbeFailure::Cut => format!("connection cut before the response to {check}"),
        ProbeFailure::Malformed => format!("response to {check} is not HTTP"),
        ProbeFailure::TooLarge => format!(
            "head of the response to {check} exceeds {HEAD_BYTES_MAX} bytes or {FIELDS_MAX} fields"
        ),
        ProbeFailure::Status(status) => format!("status {status} to {check}"),
        ProbeFailure::Body => format!("response to {check} lacks the text of health.body"),
        ProbeFailure::Abandoned => "not probed".to_owned(),
    }
}

/// Describes the fault of a report, with its path and the limit that it broke.
pub(crate) fn describe_fault(fault: &ReportFault, reporting: &Reporting) -> String {
    let path = match (reporting.kind, reporting.port) {
        (ReportKind::Agent, Some(port)) => &format!("the agent at port {port}"),
        _ => &reporting.path,
    };
    match fault {
        ReportFault::NoObject { excerpt } => {
            format!("report from {path} is not a JSON object: \"{excerpt}\"")
        }
        ReportFault::NoNumber { field, excerpt } => {
            format!("report from {path}: {field} is not a number: \"{excerpt}\"")
        }
        ReportFault::OutOfRange { field, excerpt } => {
            format!("report from {path}: {field} is not from 0 to 1e15: {excerpt}")
        }
        ReportFault::Unreadable { excerpt } => {
            format!("report from {path} or in a response cannot be read: \"{excerpt}\"")
        }
        ReportFault::Encoded => {
            format!("report from {path} is compressed, which was not requested: ignored")
        }
        ReportFault::NoFigures => {
            format!("report from {path} lacks numbers for {}", reporting.names.all())
        }
        ReportFault::TooLong => {
            format!("report from {path} exceeds {REPORT_BYTES_MAX} bytes: ignored")
        }
        ReportFault::HeadTooLarge => format!(
            "report from {path}: its head exceeds {HEAD_BYTES_MAX} bytes or {FIELDS_MAX} fields"
        ),
        ReportFault::TimedOut => {
            let (limit, key) = (reporting.timeout.0.as_millis(), reporting.timeout.1);
            format!("report from {path} timed out: incomplete after {limit} ms ({key})")
        }
        ReportFault::Cut => format!("report from {path} was cut"),
        ReportFault::Malformed => format!("report from {path}: the response is not HTTP"),
        ReportFault::Status(status) => format!("report from {path}: status {status}"),
    }
}

/// Describes the changes of a new configuration: backends by name, other settings by key.
pub(crate) fn describe_change(change: &ConfigChange) -> String {
    let ConfigChange { added, removed, moved, changed, settings } = change;
    let settings: Vec<String> = settings.iter().map(|&key| key.to_owned()).collect();
    let parts = [
        ("added", added),
        ("removed", removed),
        ("moved", moved),
        ("changed", changed),
        ("other", &settings),
    ];
    let parts: Vec<String> = parts
        .iter()
        .filter(|(_, names)| !names.is_empty())
        .map(|(what, names)| format!("{what} {}", names.join(", ")))
        .collect();
    if parts.is_empty() { "nothing changed".to_owned() } else { parts.join("; ") }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use intelliproxy_core::OutCause;

    use super::*;

    const fn id(number: u32) -> BackendId {
        BackendId::from_index(number)
    }

    /// Each kind of notice has its line.
    #[test]
    fn notices_have_their_lines() {
        let (a, b) = (id(0), id(1));
        let switched = |from, reason| Notice::Switched { from, to: b, reason };
        let failed_over = |cause| switched(Some(a), SwitchReason::Failover { cause });
        let held = |reason| Notice::Held { current: a, candidate: b, reason };
        let changed = |is_up, cause| Notice::HealthChanged { backend: b, is_up, cause };
        let ejected = |reason| Notice::Ejected { backend: b, reason };
        let returned = |reason| Notice::Returned { backend: b, reason };
        let left = Duration::from_micros(730_001);
        let rows = [
            (switched(None, SwitchReason::First), "start with B"),
            (
                switched(Some(a), SwitchReason::Better { by: 312.44 }),
                "switch A -> B: better by 312.4 points",
            ),
            (failed_over(OutCause::Down), "switch A -> B: failover, A is down"),
            (failed_over(OutCause::Held), "switch A -> B: failover, A requested a pause"),
            (failed_over(OutCause::Ejected), "switch A -> B: failover, A is ejected"),
            (failed_over(OutCause::OutOfService), "switch A -> B: failover, A is out of service"),
            (failed_over(OutCause::Removed), "switch A -> B: failover, A is no longer configured"),
            (switched(Some(a), SwitchReason::FromBackup), "switch A -> B: return from a backup"),
            (
                held(HoldReason::BelowThreshold { missing: 18.0 }),
                "hold A: B is better, 18.0 points below the threshold",
            ),
            (
                held(HoldReason::Cooldown { left }),
                "hold A: B is better, 731 ms of the cooldown left",
            ),
            (
                held(HoldReason::LoadAlone),
                "hold A: load alone makes B better, single requests go there",
            ),
            (
                ejected(EjectReason::Failures { in_row: 3, share: 0.6, others: Some(0.01) }),
                "B is ejected: 3 failures in a row, 60 % of its last requests, the others fail 1.0 %",
            ),
            (
                ejected(EjectReason::Failures { in_row: 1, share: 0.5, others: Some(0.0) }),
                "B is ejected: 1 failure, 50 % of its last requests, the others fail 0.0 %",
            ),
            (
                ejected(EjectReason::Failures { in_row: 5, share: 1.0, others: None }),
                "B is ejected: 5 failures in a row, 100 % of its last requests",
            ),
            (
                ejected(EjectReason::Refusals { in_row: 3 }),
                "B is ejected: it refused 3 requests in a row, each the only one there",
            ),
            (
                ejected(EjectReason::Silence { lasted: Duration::from_millis(740), due: 12.4 }),
                "B is ejected: silent for 740 ms although 12 responses were due, \
                 and no request is left there",
            ),
            (returned(ReturnReason::Probation), "B is back: its trial requests succeeded"),
            (returned(ReturnReason::OthersFail), "B is back: the others fail as much"),
            (returned(ReturnReason::Regretted), "B is back: the others failed more without it"),
            (returned(ReturnReason::CameUp), "B is back: it came up after it was down"),
            (changed(true, None), "B is up"),
            (changed(false, None), "B is down"),
            (changed(false, Some(ProbeFailure::Refused)), "B is down: refused"),
            (changed(false, Some(ProbeFailure::Unreachable)), "B is down: unreachable"),
            (
                changed(false, Some(ProbeFailure::TimedOut)),
                "B is down: timed out: no response to GET /health within 1000 ms \
                 (routing.probes.pingTimeoutMs)",
            ),
            (
                changed(false, Some(ProbeFailure::Cut)),
                "B is down: connection cut before the response to GET /health",
            ),
            (
                changed(false, Some(ProbeFailure::Malformed)),
                "B is down: response to GET /health is not HTTP",
            ),
            (
                changed(false, Some(ProbeFailure::TooLarge)),
                "B is down: head of the response to GET /health exceeds 32768 bytes or 1000 fields",
            ),
            (
                changed(false, Some(ProbeFailure::Status(503))),
                "B is down: status 503 to GET /health",
            ),
            (changed(false, Some(ProbeFailure::Abandoned)), "B is down: not probed"),
            (
                changed(false, Some(ProbeFailure::Body)),
                "B is down: response to GET /health lacks the text of health.body",
            ),
            (
                Notice::PingsUnserved { status: 404 },
                "no backend has the path of its health checks (status 404): set health.path to one \
                 that returns 2xx or 3xx, or health.kind to \"tcp\"; until then such responses \
                 bring no backend down",
            ),
        ];
        for (notice, expected) in rows {
            let config = Config::default();
            let line = describe(&notice, &config, |backend| if backend == a { "A" } else { "B" });
            assert_eq!(line, expected);
        }
    }

    /// Each kind of change has its words.
    #[test]
    fn changes_are_told_in_one_line() {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let nothing = ConfigChange::default();
        assert_eq!(describe_change(&nothing), "nothing changed");
        let all = ConfigChange {
            added: names(&["C", "D"]),
            removed: names(&["A"]),
            moved: names(&["B"]),
            changed: names(&["E"]),
            settings: vec!["limits", "timeouts"],
        };
        let line = "added C, D; removed A; moved B; changed E; other limits, timeouts";
        assert_eq!(describe_change(&all), line);
    }
}
