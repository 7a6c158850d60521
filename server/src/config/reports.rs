//! Load reports: how the backends report their load, and the names of their figures. Each key of a
//! backend's own `reports` overrides that key of the top-level `reports`.
use std::collections::BTreeMap;
use std::time::Duration;

use intelliproxy_core::{CheckRules, ConfigError};
use serde::{Deserialize, Serialize};

use super::forms::{PATH_ALLOWED, is_path};
use super::{Config, optional_millis};

/// The load reports of all backends, or of one. For one backend, `null` means the value for all.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct ReportRules {
    /// The form of a report (null: `prometheus` with a preset, otherwise `json`).
    pub kind: Option<ReportKind>,
    /// The server product whose metric names are used with the kind `prometheus` (null: none).
    pub preset: Option<ReportPreset>,
    /// The path that is requested for a report (null: `probePaths.report`).
    pub path: Option<String>,
    /// The port from which reports are requested (null: the backend's); 1 to 65 535.
    pub port: Option<u16>,
    /// The names of figures in a report (null: those of the preset, or `queueLen`, `cpuBusyMs`,
    /// `heapUsed` and `memRss`).
    pub fields: Option<BTreeMap<String, String>>,
    /// Time between two reports (null: `routing.probes.reportIntervalMs`, which also gives the
    /// range).
    #[serde(rename = "intervalMs", with = "optional_millis")]
    pub interval: Option<Duration>,
    /// Maximum time of a report (null: `routing.probes.reportTimeoutMs`, which also gives the
    /// range).
    #[serde(rename = "timeoutMs", with = "optional_millis")]
    pub timeout: Option<Duration>,
    /// The treatment of load figures in responses (null: `off`).
    pub orca: Option<Orca>,
}

/// The form of a report.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ReportKind {
    /// A JSON object.
    Json,
    /// The text format of Prometheus.
    Prometheus,
    /// A line of HAProxy's agent check.
    Agent,
    /// No reports are requested.
    None,
}

/// A server product with known metrics.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ReportPreset {
    /// vLLM.
    Vllm,
    /// SGLang.
    Sglang,
    /// NVIDIA Triton, with the TensorRT-LLM backend for running requests.
    Triton,
    /// Hugging Face Text Generation Inference.
    Tgi,
}

/// The treatment of the response fields `endpoint-load-metrics` (ORCA).
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Orca {
    /// Forwarded like any field, and not read.
    #[default]
    Off,
    /// Read and removed.
    Take,
    /// Read and forwarded.
    Keep,
}

/// The resulting report settings of one backend.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Reporting {
    pub(crate) kind: ReportKind,
    pub(crate) path: String,
    pub(crate) port: Option<u16>,
    pub(crate) names: FigureNames,
    /// Maximum time of a report, and the key that sets it.
    pub(crate) timeout: (Duration, &'static str),
    pub(crate) orca: Orca,
    /// The names of the figures in responses.
    pub(crate) orca_names: FigureNames,
}

/// The names of the figures in a report. Of several names, the first that the report contains is
/// used.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct FigureNames {
    pub(crate) queue: Vec<String>,
    pub(crate) running: Vec<String>,
    pub(crate) pressure: Vec<String>,
    pub(crate) cpu_busy_ms: Vec<String>,
    pub(crate) memory_bytes: Vec<String>,
}

/// The keys of `fields`, each with the default names in a JSON report.
const FIGURES: [(&str, &str); 5] = [
    ("queue", "queueLen"),
    ("running", ""),
    ("pressure", ""),
    ("cpuBusyMs", "cpuBusyMs"),
    ("memoryBytes", "heapUsed|memRss"),
];

impl ReportPreset {
    /// Returns the names of a figure in the server's metrics; empty if the server does not export
    /// it.
    fn names(self, figure: &str) -> &'static str {
        match (self, figure) {
            (Self::Vllm, "queue") => "vllm:num_requests_waiting",
            (Self::Vllm, "running") => "vllm:num_requests_running",
            // Versions before 0.10 use the second name.
            (Self::Vllm, "pressure") => "vllm:kv_cache_usage_perc|vllm:gpu_cache_usage_perc",
            (Self::Sglang, "queue") => "sglang:num_queue_reqs",
            (Self::Sglang, "running") => "sglang:num_running_reqs",
            (Self::Sglang, "pressure") => "sglang:token_usage",
            (Self::Triton, "queue") => "nv_inference_pending_request_count",
            (Self::Triton, "running") => "nv_trt_llm_request_metrics{request_type=\"active\"}",
            (Self::Triton, "pressure") => {
                "nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=\"fraction\"}\
                 |nv_gpu_utilization"
            }
            (Self::Tgi, "queue") => "tgi_queue_size",
            (Self::Tgi, "running") => "tgi_batch_current_size",
            _ => "",
        }
    }
}

impl FigureNames {
    fn new(
        kind: ReportKind,
        preset: Option<ReportPreset>,
        fields: Option<&BTreeMap<String, String>>,
    ) -> Self {
        let names = |figure: &str| -> Vec<String> {
            let usual = FIGURES.iter().find(|(key, _)| *key == figure).map_or("", |(_, name)| name);
            let own = fields.and_then(|fields| fields.get(figure)).map(String::as_str);
            let text = match (own, preset) {
                (Some(own), _) => own,
                (None, Some(preset)) => preset.names(figure),
                (None, None) if kind == ReportKind::Json && fields.is_none() => usual,
                (None, None) => "",
            };
            text.split('|').filter(|name| !name.is_empty()).map(str::to_owned).collect()
        };
        Self {
            queue: names("queue"),
            running: names("running"),
            pressure: names("pressure"),
            cpu_busy_ms: names("cpuBusyMs"),
            memory_bytes: names("memoryBytes"),
        }
    }

    /// Returns the names of the figures in responses: vLLM's names and generic ones. The pressure
    /// is the application's utilization if present, otherwise that of its cache or of the CPU. JSON
    /// may have the names in camel case.
    fn of_responses() -> Self {
        let names = |text: &str| text.split_whitespace().map(str::to_owned).collect();
        Self {
            queue: names(
                "named_metrics.num_requests_waiting named_metrics.queue \
                 namedMetrics.num_requests_waiting namedMetrics.queue",
            ),
            running: names(
                "named_metrics.num_requests_running named_metrics.running \
                 namedMetrics.num_requests_running namedMetrics.running",
            ),
            pressure: names(
                "application_utilization applicationUtilization \
                 named_metrics.kv_cache_usage_perc namedMetrics.kv_cache_usage_perc \
                 cpu_utilization cpuUtilization",
            ),
            ..Self::default()
        }
    }

    /// Returns the names of all figures, for a log line.
    pub(crate) fn all(&self) -> String {
        let Self { queue, running, pressure, cpu_busy_ms, memory_bytes } = self;
        [queue, running, pressure, cpu_busy_ms, memory_bytes]
            .map(|names| &names[..])
            .concat()
            .join(", ")
    }
}

impl Default for Reporting {
    fn default() -> Self {
        Config::default().reporting_of(None)
    }
}

impl Config {
    /// Returns the report settings of a backend with these settings of its own.
    pub(crate) fn reporting_of(&self, own: Option<&ReportRules>) -> Reporting {
        let all = &self.reports;
        let usual = ReportRules::default();
        let own = own.unwrap_or(&usual);
        let preset = own.preset.or(all.preset);
        let kind = match own.kind.or(all.kind) {
            Some(kind) => kind,
            None if preset.is_some() => ReportKind::Prometheus,
            None => ReportKind::Json,
        };
        // A backend with a form of its own does not have the metrics of the others' server.
        let preset = preset.filter(|_| kind == ReportKind::Prometheus);
        let path = own.path.as_ref().or(all.path.as_ref()).unwrap_or(&self.probe_paths.report);
        let timeout = match own.timeout.or(all.timeout) {
            Some(timeout) => (timeout, "reports.timeoutMs"),
            None => (self.routing.probes.report_timeout, "routing.probes.reportTimeoutMs"),
        };
        Reporting {
            kind,
            path: path.clone(),
            port: own.port.or(all.port),
            names: FigureNames::new(kind, preset, own.fields.as_ref().or(all.fields.as_ref())),
            timeout,
            orca: own.orca.or(all.orca).unwrap_or_default(),
            orca_names: FigureNames::of_responses(),
        }
    }

    /// Returns the report settings of the backend with this name. If the name is unknown, returns
    /// the common settings.
    pub(crate) fn reporting_named(&self, name: &str) -> Reporting {
        let known = self.backends.iter().find(|backend| backend.name == name);
        self.reporting_of(known.and_then(|backend| backend.reports.as_ref()))
    }

    /// Returns the rules of a backend's probes that the router needs. `check` has those of its pings.
    pub(super) fn report_rules(&self, own: Option<&ReportRules>, check: CheckRules) -> CheckRules {
        let kind = self.reporting_of(own).kind;
        let usual = ReportRules::default();
        let own = own.unwrap_or(&usual);
        let millis = |span: Duration| u32::try_from(span.as_millis()).unwrap_or(u32::MAX);
        CheckRules {
            is_report_off: kind == ReportKind::None,
            has_agent: kind == ReportKind::Agent,
            report_interval_ms: own.interval.or(self.reports.interval).map(millis),
            report_timeout_ms: own.timeout.or(self.reports.timeout).map(millis),
            ..check
        }
    }

    /// Checks the common report settings and those of each backend.
    pub(super) fn check_reports(&self) -> Result<(), ConfigError> {
        self.reports.validate("reports")?;
        self.check_agent("reports", None)?;
        for (index, backend) in self.backends.iter().enumerate() {
            if let Some(own) = &backend.reports {
                let path = format!("backends[{index}].reports");
                own.validate(&path)?;
                self.check_agent(&path, Some(own))?;
            }
        }
        Ok(())
    }

    fn check_agent(&self, path: &str, own: Option<&ReportRules>) -> Result<(), ConfigError> {
        let reporting = self.reporting_of(own);
        if reporting.kind == ReportKind::Agent && reporting.port.is_none() {
            let allowed = "the port of the agent, as reports.kind is agent";
            return Err(ConfigError::new(&format!("{path}.port"), allowed));
        }
        Ok(())
    }
}

impl ReportRules {
    /// Checks every value that is there. `at` is the path of the object.
    fn validate(&self, at: &str) -> Result<(), ConfigError> {
        let key = |key: &str| format!("{at}.{key}");
        if self.path.as_ref().is_some_and(|path| !is_path(path)) {
            return Err(ConfigError::new(&key("path"), PATH_ALLOWED));
        }
        if self.port == Some(0) {
            return Err(ConfigError::new(&key("port"), "a whole number from 1 to 65535, or null"));
        }
        for (figure, names) in self.fields.iter().flatten() {
            let path = format!("{at}.fields.{figure}");
            if !FIGURES.iter().any(|(known, _)| known == figure) {
                let known = FIGURES.map(|(known, _)| known).join(", ");
                return Err(ConfigError::new(&path, &format!("one of {known}")));
            }
            let is_name = |name: &str| (1..=NAME_BYTES_MAX).contains(&name.len());
            if !names.split('|').all(is_name) || names.split('|').count() > NAMES_MAX {
                let allowed = format!(
                    "1 to {NAMES_MAX} names of 1 to {NAME_BYTES_MAX} bytes, with | between"
                );
                return Err(ConfigError::new(&path, &allowed));
            }
        }
        for (name, span) in [("intervalMs", self.interval), ("timeoutMs", self.timeout)] {
            if span.is_some_and(|span| !(SPAN_MIN..=SPAN_MAX).contains(&span)) {
                let (least, most) = (SPAN_MIN.as_millis(), SPAN_MAX.as_millis());
                let allowed = format!("milliseconds from {least} to {most}");
                return Err(ConfigError::new(&key(name), &allowed));
            }
        }
        Ok(())
    }
}

/// Maximum number of names of one figure.
const NAMES_MAX: usize = 8;
/// Maximum length of a name, bytes.
const NAME_BYTES_MAX: usize = 256;
/// The minimum and maximum time of reports, as in `routing.probes`.
const SPAN_MIN: Duration = Duration::from_millis(1);
const SPAN_MAX: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests;
