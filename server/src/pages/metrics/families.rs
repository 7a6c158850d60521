//! The families of metrics: names, kinds, help texts, and the sources of their values.
//!
//! Names follow the conventions of Prometheus: base units, `_total` for counters, a common prefix;
//! those of the process itself (`process_*`) are the names that its client libraries use.
use intelliproxy_core::{BackendSnapshot, Health, Mode, StandingView};

use super::POOL;
use super::counts::{BackendFigures, Overall, ProcessFigures, REASONS, ReasonCounts, StatusCounts};
use super::writer::{Family, Kind, Samples, label};

/// A function that writes the samples of one backend.
type Write = fn(&mut Samples<'_>, &BackendFigures);

const fn counter(name: &'static str, help: &'static str) -> Family {
    Family { name, kind: Kind::Counter, help }
}

const fn gauge(name: &'static str, help: &'static str) -> Family {
    Family { name, kind: Kind::Gauge, help }
}

const fn histogram(name: &'static str, help: &'static str) -> Family {
    Family { name, kind: Kind::Histogram, help }
}

/// The classes of status in the order of [`StatusCounts::classes`].
const CLASSES: [&str; 6] = ["1xx", "2xx", "3xx", "4xx", "5xx", "other"];

fn put_classes(samples: &mut Samples<'_>, counts: StatusCounts) {
    for (class, count) in CLASSES.iter().zip(counts.classes()) {
        samples.put_by("code", class, count);
    }
}

fn put_known(samples: &mut Samples<'_>, value: Option<f64>) {
    if let Some(value) = value {
        samples.put(value);
    }
}

fn seconds(millis: Option<f64>) -> Option<f64> {
    millis.map(|millis| millis / 1000.0)
}

/// The families with samples for every backend.
pub(super) const OF_BACKENDS: [(Family, Write); 41] = [
    (
        counter(
            "intelliproxy_backend_requests_total",
            "Ended requests by status class of the response; failed: no complete response; abandoned: given up for another reason, mostly by the client.",
        ),
        |to, of| {
            put_classes(to, of.counts.responses);
            to.put_by("code", "failed", of.counts.failed);
            to.put_by("code", "abandoned", of.counts.abandoned);
        },
    ),
    (
        histogram(
            "intelliproxy_backend_request_duration_seconds",
            "Time from the dispatch of a request to the end of its response; without refused requests.",
        ),
        |to, of| to.put_histogram(&of.counts.duration),
    ),
    (
        histogram(
            "intelliproxy_backend_first_byte_seconds",
            "Time from the dispatch of a request to the head of its response, without waits for the client; without refused requests.",
        ),
        |to, of| to.put_histogram(&of.counts.first_byte),
    ),
    (
        histogram("intelliproxy_backend_connect_duration_seconds", "Time to make a connection."),
        |to, of| to.put_histogram(&of.counts.connect),
    ),
    (
        counter(
            "intelliproxy_backend_connect_failures_total",
            "Connections that could not be made, without probes.",
        ),
        |to, of| to.put(of.counts.connect_failures),
    ),
    (
        counter(
            "intelliproxy_backend_received_bytes_total",
            "Bytes read from the backend, without probes.",
        ),
        |to, of| to.put(of.counts.received),
    ),
    (
        counter(
            "intelliproxy_backend_sent_bytes_total",
            "Bytes written to the backend, without probes.",
        ),
        |to, of| to.put(of.counts.sent),
    ),
    (gauge("intelliproxy_backend_requests_in_flight", "Requests in flight."), |to, of| {
        to.put(of.snapshot.in_flight)
    }),
    (
        gauge(
            "intelliproxy_backend_requests_working",
            "Requests in flight that the backend works on, without tunnels, silent streams and requests that wait for their client.",
        ),
        |to, of| to.put(of.snapshot.at_work),
    ),
    (
        gauge(
            "intelliproxy_backend_idle_connections",
            "Idle connections kept for further requests.",
        ),
        |to, of| to.put(of.idle),
    ),
    (
        counter("intelliproxy_backend_refused_requests_total", "Requests refused by 429 or 503."),
        |to, of| to.put(of.snapshot.refused),
    ),
    (
        counter(
            "intelliproxy_backend_ejections_total",
            "Times that the backend was ejected because of failed requests.",
        ),
        |to, of| to.put(of.snapshot.ejections),
    ),
    (gauge("intelliproxy_backend_ejected", "Whether the backend is ejected."), |to, of| {
        to.put(matches!(of.snapshot.standing, StandingView::Ejected { .. }))
    }),
    (
        gauge(
            "intelliproxy_backend_in_service",
            "Whether the backend is neither drained nor maintained, and has a weight above 0.",
        ),
        |to, of| {
            to.put(of.snapshot.is_in_service());
        },
    ),
    (
        gauge(
            "intelliproxy_backend_maintained",
            "Whether the backend is maintained: drained and not probed.",
        ),
        |to, of| {
            to.put(of.snapshot.mode == Mode::Maintain);
        },
    ),
    (
        gauge(
            "intelliproxy_backend_weight_ratio",
            "Capacity relative to the usual one, as configured or by command.",
        ),
        |to, of| {
            to.put(f64::from(of.snapshot.weight) / 100.0);
        },
    ),
    (
        gauge(
            "intelliproxy_backend_up",
            "Whether the backend is up by its pings; no sample before the first verdict.",
        ),
        |to, of| match of.snapshot.health {
            Health::Unknown => {}
            health => to.put(health == Health::Up),
        },
    ),
    (gauge("intelliproxy_backend_current", "Whether requests go to the backend now."), |to, of| {
        to.put(of.snapshot.is_current)
    }),
    (
        gauge(
            "intelliproxy_backend_held_seconds",
            "Remaining pause that the backend asked for by Retry-After.",
        ),
        |to, of| to.put(of.snapshot.held.unwrap_or_default().as_secs_f64()),
    ),
    (counter("intelliproxy_backend_probes_total", "Probes by kind and result."), |to, of| {
        put_probes(to, &of.snapshot)
    }),
    (
        gauge(
            "intelliproxy_backend_score_points",
            "The score that the policy score ranks by; the lowest is best.",
        ),
        |to, of| to.put(of.snapshot.score.total),
    ),
    (
        gauge(
            "intelliproxy_backend_score_part_points",
            "The points of each factor, which add up to the score.",
        ),
        |to, of| {
            for (factor, points) in of.snapshot.score.parts() {
                to.put_by("factor", factor.name(), points);
            }
        },
    ),
    (
        gauge("intelliproxy_backend_error_ratio", "Share of errors among recent requests, 0 to 1."),
        |to, of| to.put(of.snapshot.error_rate),
    ),
    (
        gauge(
            "intelliproxy_backend_response_average_seconds",
            "Moving average of the time to a response's head.",
        ),
        |to, of| put_known(to, seconds(of.snapshot.response_ewma_ms)),
    ),
    (
        gauge("intelliproxy_backend_request_age_seconds", "Age of the last request that ended."),
        |to, of| put_known(to, of.snapshot.request_age.map(|age| age.as_secs_f64())),
    ),
    (
        gauge("intelliproxy_backend_ping_seconds", "Duration of the last successful ping."),
        |to, of| put_known(to, of.snapshot.latency.map(|latency| latency.as_secs_f64())),
    ),
    (
        gauge(
            "intelliproxy_backend_ping_average_seconds",
            "Moving average of the time that pings take.",
        ),
        |to, of| put_known(to, seconds(of.snapshot.latency_ewma_ms)),
    ),
    (
        gauge("intelliproxy_backend_ping_loss_ratio", "Moving average of lost pings, 0 to 1."),
        |to, of| put_known(to, of.snapshot.loss_ewma),
    ),
    (
        gauge("intelliproxy_backend_ping_age_seconds", "Age of the last ping that ended."),
        |to, of| put_known(to, of.snapshot.ping_age.map(|age| age.as_secs_f64())),
    ),
    (
        gauge(
            "intelliproxy_backend_reported_queue_length",
            "The queue that the backend last reported.",
        ),
        |to, of| put_known(to, of.snapshot.queue),
    ),
    (
        gauge(
            "intelliproxy_backend_reported_queue_average",
            "Moving average of the reported queue.",
        ),
        |to, of| put_known(to, of.snapshot.queue_ewma),
    ),
    (
        gauge(
            "intelliproxy_backend_reported_cpu_busy_seconds",
            "The CPU busy time that the backend last reported.",
        ),
        |to, of| put_known(to, seconds(of.snapshot.cpu_busy_ms)),
    ),
    (
        gauge(
            "intelliproxy_backend_reported_memory_bytes",
            "The memory that the backend last reported.",
        ),
        |to, of| put_known(to, of.snapshot.memory_bytes),
    ),
    (
        gauge(
            "intelliproxy_backend_reported_running_requests",
            "The requests that the backend last reported as running, of all its clients.",
        ),
        |to, of| put_known(to, of.snapshot.running),
    ),
    (
        gauge(
            "intelliproxy_backend_reported_pressure_ratio",
            "The use of its scarcest resource that the backend last reported, 0 to 1.",
        ),
        |to, of| put_known(to, of.snapshot.pressure),
    ),
    (
        gauge(
            "intelliproxy_backend_others_requests",
            "Requests of other proxies and clients at the backend, estimated from its reports.",
        ),
        |to, of| put_known(to, of.snapshot.others),
    ),
    (
        counter(
            "intelliproxy_backend_bad_reports_total",
            "Load reports that could not be read, or had a figure that could not be used.",
        ),
        |to, of| to.put(of.counts.bad_reports),
    ),
    (
        gauge("intelliproxy_backend_report_age_seconds", "Age of the last report with a figure."),
        |to, of| put_known(to, of.snapshot.report_age.map(|age| age.as_secs_f64())),
    ),
    (
        counter(
            "intelliproxy_backend_router_requests_total",
            "Requests that the router counts: all but abandoned ones.",
        ),
        |to, of| to.put(of.snapshot.requests),
    ),
    (
        counter(
            "intelliproxy_backend_router_errors_total",
            "Of these, those that failed or got a 5xx response.",
        ),
        |to, of| to.put(of.snapshot.errors),
    ),
    (
        gauge(
            "intelliproxy_backend_slow_start",
            "Whether the backend is new or back, and gets fewer requests for now.",
        ),
        |to, of| to.put(matches!(of.snapshot.standing, StandingView::SlowStart { .. })),
    ),
];

fn put_probes(to: &mut Samples<'_>, of: &BackendSnapshot) {
    for (kind, result, count) in [
        ("ping", "ok", of.pings_answered),
        ("ping", "failed", of.pings_failed),
        ("report", "ok", of.reports_read),
        ("report", "failed", of.reports_failed),
    ] {
        to.put_with(&format!("kind=\"{kind}\",result=\"{result}\""), count);
    }
}

/// Writes the families that do not belong to a single backend.
pub(super) fn write_overall(text: &mut Vec<u8>, overall: &Overall, process: &ProcessFigures) {
    let mut to = Families { text, labels: String::new() };
    let version = label("version", env!("CARGO_PKG_VERSION"));
    to.family(gauge("intelliproxy_build_info", "The version of the program."), |to| {
        to.put_with(&version, 1_u64);
    });
    write_process(&mut to, process);
    write_clients(&mut to, overall);
    write_edge(&mut to, overall);
    to.labels = label("pool", POOL);
    write_router(&mut to, overall);
    write_attempts(&mut to, overall);
}

/// Writes families one by one.
struct Families<'t> {
    text: &'t mut Vec<u8>,
    /// The labels of all samples.
    labels: String,
}

impl Families<'_> {
    fn family(&mut self, family: Family, write: impl FnOnce(&mut Samples<'_>)) {
        family.begin(self.text);
        write(&mut family.samples(self.text, &self.labels));
    }

    fn count(&mut self, name: &'static str, help: &'static str, count: u64) {
        self.family(counter(name, help), |to| to.put(count));
    }

    fn level(&mut self, name: &'static str, help: &'static str, level: usize) {
        self.family(gauge(name, help), |to| to.put(level));
    }
}

fn write_process(to: &mut Families<'_>, process: &ProcessFigures) {
    let ProcessFigures { open_descriptors, descriptors_max, resident_bytes, .. } = *process;
    let whole = [
        ("process_open_fds", "Open file descriptors.", open_descriptors),
        ("process_max_fds", "The limit of open file descriptors.", descriptors_max),
        ("process_resident_memory_bytes", "Resident memory.", resident_bytes),
    ];
    for (name, help, value) in whole {
        if let Some(value) = value {
            to.family(gauge(name, help), |to| to.put(value));
        }
    }
    if let Some(value) = process.cpu_seconds {
        let help = "CPU time spent in user and system mode.";
        to.family(counter("process_cpu_seconds_total", help), |to| to.put(value));
    }
    if let Some(value) = process.start_seconds {
        let help = "Time of the process's start, seconds since 1970.";
        to.family(gauge("process_start_time_seconds", help), |to| to.put(value));
    }
}

fn write_clients(to: &mut Families<'_>, overall: &Overall) {
    let Overall { exchanges, incidents, .. } = overall;
    to.count("intelliproxy_requests_total", "Request heads accepted.", exchanges.requests);
    let help =
        "Final responses begun, by class of their status, from a backend or from the proxy itself.";
    to.family(counter("intelliproxy_responses_total", help), |to| {
        for (source, counts) in [("backend", exchanges.passed), ("proxy", exchanges.own)] {
            for (class, count) in CLASSES.iter().zip(counts.classes()) {
                to.put_with(&format!("code=\"{class}\",source=\"{source}\""), count);
            }
        }
    });
    let help = "Requests that broke a rule and got an error response.";
    to.count("intelliproxy_client_errors_total", help, incidents.client_errors);
    to.level("intelliproxy_client_connections", "Client connections.", overall.clients);
    let help = "Client connections that may be open at the same time.";
    to.level("intelliproxy_client_connections_max", help, overall.clients_max);
    let help = "Client connections accepted.";
    to.count("intelliproxy_client_connections_accepted_total", help, incidents.accepted);
    let help = "Client connections refused with 503 or a reset because the limit was reached, or while stopping.";
    to.count("intelliproxy_client_connections_refused_total", help, incidents.clients_refused);
    let help =
        "Requests and client connections that got 429 because their client exceeds its own limit.";
    to.family(counter("intelliproxy_clients_limited_total", help), |to| {
        to.put_by("limit", "requests", incidents.limited.requests);
        to.put_by("limit", "connections", incidents.limited.connections);
    });
    let help = "Idle client connections closed to make room for new ones.";
    to.count("intelliproxy_client_connections_gave_way_total", help, incidents.clients_gave_way);
    let help = "TLS handshakes of clients that failed or took too long.";
    to.count("intelliproxy_client_handshakes_failed_total", help, incidents.handshakes_failed);
    let help = "Connections of all kinds: clients, backends, idle ones and probes.";
    to.level("intelliproxy_connections", help, overall.connections);
    to.level("intelliproxy_buffers", "Buffers in use.", overall.buffers);
}

fn write_edge(to: &mut Families<'_>, overall: &Overall) {
    let log = overall.log;
    let help =
        "Log lines lost, because stderr was not read fast enough or there were too many of a kind.";
    to.family(counter("intelliproxy_log_lines_dropped_total", help), |to| {
        to.put_by("reason", "slow_reader", log.dropped);
        to.put_by("reason", "limited", log.limited);
    });
    let help = "Writes to stderr that failed and were repeated.";
    to.count("intelliproxy_log_write_failures_total", help, log.failed_writes);
    let access = overall.access;
    let help = "Exchanges for which the access log has a line, written or dropped.";
    to.count("intelliproxy_access_log_lines_total", help, access.lines);
    let help = "Lines of the access log dropped because they were not written fast enough.";
    to.count("intelliproxy_access_log_lines_dropped_total", help, access.dropped);
    let help = "Writes of the access log that failed and were repeated.";
    to.count("intelliproxy_access_log_write_failures_total", help, access.failed_writes);
    let help = "Configurations reloaded at run time, by result.";
    to.family(counter("intelliproxy_reloads_total", help), |to| {
        to.put_by("result", "done", overall.reloads_done);
        to.put_by("result", "refused", overall.reloads_refused);
    });
    if let Some(recording) = overall.recording {
        let help = "Records made of the router's inputs.";
        to.count("intelliproxy_recording_records_total", help, recording.records);
        let help = "Records that the file does not have.";
        to.count("intelliproxy_recording_records_lost_total", help, recording.lost);
    }
    let help = "Whether a backend is usable and the proxy is not stopping, as /readyz says.";
    to.family(gauge("intelliproxy_ready", help), |to| to.put(overall.is_ready));
}

fn write_router(to: &mut Families<'_>, overall: &Overall) {
    let policy = overall.policy;
    to.family(gauge("intelliproxy_policy_info", "The policy that ranks the backends."), |to| {
        to.put_by("policy", policy, 1_u64);
    });
    let router = overall.router;
    to.count("intelliproxy_switches_total", "Changes of the current backend.", router.switches);
    let help = "Requests sent past a full current backend.";
    to.count("intelliproxy_spills_total", help, router.spills);
    let help = "Requests that stayed with the current backend although another one scored lower.";
    to.count("intelliproxy_holds_total", help, router.holds);
    let help = "Results of probes that were no longer outstanding.";
    to.count("intelliproxy_late_probes_total", help, router.late_probes);
    let Some(guard) = overall.guard else { return };
    let help = "Whether the learned policy ranks the backends, not least_request.";
    to.family(gauge("intelliproxy_learned_in_charge", help), |to| {
        to.put(guard.is_learner_in_charge);
    });
    let help = "Times that the learned policy was demoted.";
    to.family(counter("intelliproxy_learned_demotions_total", help), |to| to.put(guard.demotions));
    let help = "Requests that went by least_request for comparison.";
    to.family(counter("intelliproxy_learned_controls_total", help), |to| to.put(guard.controls));
    let help = "Cost of the learned policy over that of least_request; below 1 is a gain.";
    to.family(gauge("intelliproxy_learned_cost_ratio", help), |to| put_known(to, guard.ratio));
    let help = "Nearness of a demotion, 0 to 1.";
    to.family(gauge("intelliproxy_learned_alarm_ratio", help), |to| to.put(guard.alarm));
}

fn write_attempts(to: &mut Families<'_>, overall: &Overall) {
    let Overall { incidents, queue, .. } = overall;
    let help = "Failed attempts, by reason.";
    to.family(counter("intelliproxy_upstream_errors_total", help), |to| {
        put_reasons(to, incidents.errors);
    });
    let help = "Requests sent again, to another backend or on a fresh connection, by reason.";
    to.family(counter("intelliproxy_retries_total", help), |to| {
        put_reasons(to, incidents.retries);
    });
    let help = "Requests not sent again because limits.retryPercent was used up.";
    to.count("intelliproxy_retries_denied_total", help, overall.retries.spared);
    let help = "Requests that wait because every backend is at its limit.";
    to.level("intelliproxy_queue_length", help, overall.queue_length);
    let help = "Time that requests waited, until a backend had room or their time was over.";
    to.family(histogram("intelliproxy_queue_wait_seconds", help), |to| {
        to.put_histogram(&overall.queue_wait);
    });
    to.count("intelliproxy_queue_waited_total", "Requests that waited.", queue.waited);
    let help = "Requests that got no backend within limits.queueMs.";
    to.count("intelliproxy_queue_timeouts_total", help, queue.timed_out);
    let help = "Requests refused because the queue was full.";
    to.count("intelliproxy_queue_refused_total", help, queue.refused);
}

fn put_reasons(to: &mut Samples<'_>, counts: ReasonCounts) {
    for (reason, count) in REASONS.iter().zip(counts.0) {
        to.put_by("reason", reason, count);
    }
}
