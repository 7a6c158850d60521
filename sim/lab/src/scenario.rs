//! A workload, the backends that serve it, and their faults: plain data, read from JSON.
//!
//! `SCENARIOS.md` in this package has an example of every setting.
use std::fmt;

use intelliproxy_core::Rules;
use serde::{Deserialize, Serialize};

use super::cache::Cache;
use super::check;
use super::class::RequestClass;
use super::fault::FaultKind;
use super::group::BackendGroup;
use super::service::Service;
use super::trace::Trace;

/// One scenario. Every key may be omitted. The defaults are ten equal backends at 70 %.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Scenario {
    /// Its name in tables.
    pub name: String,
    /// Its subject, in one line.
    pub about: String,
    /// Time in which requests arrive, s.
    #[serde(deserialize_with = "check::run_seconds")]
    pub duration_s: f64,
    /// Requests that arrive before this are served but not counted, s.
    #[serde(deserialize_with = "check::amount")]
    pub warmup_s: f64,
    /// Proxies that share the arrivals, each with its own router.
    #[serde(deserialize_with = "check::count")]
    pub proxies: u32,
    /// Round trip between a proxy and a backend, ms.
    #[serde(deserialize_with = "check::amount")]
    pub rtt_ms: f64,
    /// Time after which a proxy gives a request up, ms.
    #[serde(deserialize_with = "check::positive")]
    pub timeout_ms: f64,
    /// Charge for a failed request in percentiles and cost, ms.
    #[serde(deserialize_with = "check::amount")]
    pub charge_ms: f64,
    /// The arrival times of requests.
    pub arrivals: Arrivals,
    /// The work of a request, unless its class or backend has its own.
    pub service: Service,
    /// Classes of requests; empty: all requests are alike.
    pub classes: Vec<RequestClass>,
    /// The keys of requests and the caches of backends; null: requests have no keys.
    pub cache: Option<Cache>,
    /// Rule for repeating requests; null: never.
    pub retries: Option<Retries>,
    /// The backends.
    pub backends: Vec<BackendGroup>,
    /// The proxies' rules: the `routing` object of the proxy's configuration, without the policy.
    #[serde(deserialize_with = "check::rules")]
    pub routing: Rules,
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            name: "scenario".to_owned(),
            about: String::new(),
            duration_s: 60.0,
            warmup_s: 0.0,
            proxies: 1,
            rtt_ms: 0.5,
            timeout_ms: 5000.0,
            charge_ms: 5000.0,
            arrivals: Arrivals::default(),
            service: Service::Exponential(10.0),
            classes: Vec::new(),
            cache: None,
            retries: None,
            backends: vec![BackendGroup { count: 10, ..BackendGroup::default() }],
            routing: Rules::default(),
        }
    }
}

/// Rule for repeating requests that a backend did not serve, as in the real proxy:
/// - after a refused connection
/// - for an idempotent class: after a cut before any byte of the response
/// - for an idempotent class, with `refused`: after a 429 or 503, or a 5xx of a backend on trial
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Retries {
    /// Maximum number of backends to which one request is sent.
    #[serde(deserialize_with = "check::attempts")]
    pub attempts: u8,
    /// Whether a request that gets a refusal (429, 503), or a 5xx on a trial, is sent to another
    /// backend.
    pub refused: bool,
}

impl Default for Retries {
    fn default() -> Self {
        Self { attempts: 3, refused: true }
    }
}

/// The arrival times of requests: a Poisson process with a variable rate, or a recorded sequence.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(from = "ArrivalsText", rename_all = "camelCase")]
pub struct Arrivals {
    /// The rate outside bursts and surges.
    pub rate: Rate,
    /// Makes the process bursty (MMPP).
    pub bursts: Option<Bursts>,
    /// Periods with another rate. Factors of overlapping ones multiply.
    pub surges: Vec<Surge>,
    /// Recorded requests instead of a Poisson process.
    pub trace: Option<Trace>,
}

impl Default for Arrivals {
    fn default() -> Self {
        Self { rate: Rate::Load(0.7), bursts: None, surges: Vec::new(), trace: None }
    }
}

/// The JSON form of [`Arrivals`]. If the rate is omitted, a trace keeps its own.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct ArrivalsText {
    rate: Option<Rate>,
    bursts: Option<Bursts>,
    surges: Vec<Surge>,
    trace: Option<Trace>,
}

impl From<ArrivalsText> for Arrivals {
    fn from(text: ArrivalsText) -> Self {
        let ArrivalsText { rate, bursts, surges, trace } = text;
        let own = if trace.is_some() { Rate::Recorded } else { Rate::Load(0.7) };
        Self { rate: rate.unwrap_or(own), bursts, surges, trace }
    }
}

/// A rate of arrivals.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub enum Rate {
    /// As a share of the capacity of the backends present at the start, without their faults. A
    /// speed that is redrawn counts with its mean.
    Load(#[serde(deserialize_with = "check::amount")] f64),
    /// Requests a second.
    PerSecond(#[serde(deserialize_with = "check::amount")] f64),
    /// The rate of the trace. Any other rate stretches the times of the trace to match it.
    Recorded,
}

/// Two alternating states with exponential lengths: a Markov-modulated Poisson process.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Bursts {
    /// Factor of the rate in the low state, in which it starts.
    #[serde(deserialize_with = "check::amount")]
    pub low: f64,
    /// Factor of the rate in the high state.
    #[serde(deserialize_with = "check::amount")]
    pub high: f64,
    /// Mean length of either state, ms.
    #[serde(deserialize_with = "check::positive")]
    pub mean_ms: f64,
}

/// A period with another rate.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Surge {
    /// Start, s.
    #[serde(default, deserialize_with = "check::amount")]
    pub from_s: f64,
    /// Duration, s; null: to the end.
    #[serde(default, deserialize_with = "check::some_amount")]
    pub for_s: Option<f64>,
    /// Factor of the rate.
    #[serde(deserialize_with = "check::amount")]
    pub factor: f64,
}

impl Scenario {
    /// Reads a scenario.
    ///
    /// # Errors
    /// The first error, with its line and path: invalid JSON, an unknown key, a wrong type, a
    /// number out of its range.
    pub fn from_json(text: &str) -> Result<Self, ScenarioError> {
        let mut source = serde_json::Deserializer::from_str(text);
        let scenario: Self = serde_path_to_error::deserialize(&mut source).map_err(|error| {
            let path = error.path().to_string();
            let path = if path == "." { String::new() } else { path };
            ScenarioError::from_serde(path, error.inner())
        })?;
        source.end().map_err(|error| ScenarioError::from_serde(String::new(), &error))?;
        let located = |(path, wrong): (&str, &str)| {
            let key = format!("\"{path}\"");
            let line = text.lines().position(|line| line.contains(&key)).unwrap_or(0) + 1;
            ScenarioError { line, path: path.to_owned(), wrong: wrong.to_owned() }
        };
        scenario.check_whole().map_err(located)?;
        // The rate of a trace is known only after its file has been read.
        if scenario.arrivals.trace.is_none() {
            scenario.check_rate().map_err(located)?;
        }
        Ok(scenario)
    }

    /// Reads the trace's file, if there is one. `read` returns its text.
    ///
    /// # Errors
    /// An unreadable file, an invalid row, a rate out of its range.
    pub fn load_trace(
        &mut self,
        read: impl FnOnce(&str) -> std::io::Result<String>,
    ) -> Result<(), String> {
        let Some(trace) = &mut self.arrivals.trace else {
            return Ok(());
        };
        let file = trace.file.clone();
        let text = read(&file).map_err(|error| format!("{file}: {error}"))?;
        *trace = Trace::from_csv(&file, &text).map_err(|error| format!("{file}:{error}"))?;
        self.check_rate().map_err(|(path, wrong)| format!("{file}: {path}: {wrong}"))
    }

    /// Returns the whole scenario as indented JSON for [`Scenario::from_json`].
    pub fn to_json(&self) -> String {
        // Plain data with string keys can always be written as JSON.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// Stretches the scenario's times by `factor`: duration, warm-up, faults and surges, but not
    /// the times of requests. Used for short runs.
    #[must_use]
    pub fn scaled(mut self, factor: f64) -> Self {
        let scale = |time: &mut f64| *time *= factor;
        scale(&mut self.duration_s);
        scale(&mut self.warmup_s);
        for surge in &mut self.arrivals.surges {
            scale(&mut surge.from_s);
            surge.for_s.as_mut().map(scale);
        }
        for group in &mut self.backends {
            scale(&mut group.joins_s);
            group.stays_s.as_mut().map(scale);
            for fault in &mut group.faults {
                scale(&mut fault.from_s);
                fault.for_s.as_mut().map(scale);
            }
        }
        self
    }

    /// Returns the requests per second outside bursts and surges.
    pub fn base_rate(&self) -> f64 {
        let load = match self.arrivals.rate {
            Rate::PerSecond(rate) => return rate,
            Rate::Recorded => return self.arrivals.trace.as_ref().map_or(0.0, Trace::rate),
            Rate::Load(load) => load,
        };
        let there = self.backends.iter().filter(|group| group.joins_s == 0.0);
        load * there.map(|group| f64::from(group.count) * self.capacity_of(group)).sum::<f64>()
    }

    /// Returns the work of a request at a backend of this group, unless its class has its own.
    pub fn service_of<'a>(&'a self, group: &'a BackendGroup) -> &'a Service {
        group.service.as_ref().unwrap_or(&self.service)
    }

    /// Returns the mean work of a request at a backend of this group, ms.
    pub fn mean_ms_at(&self, group: &BackendGroup) -> f64 {
        let usual = match &self.arrivals.trace {
            Some(trace) => trace.mean_ms(),
            None => self.service_of(group).mean_ms(),
        };
        if self.classes.is_empty() {
            return usual;
        }
        let shares: f64 = self.classes.iter().map(|class| class.share).sum();
        let mean = |class: &RequestClass| class.service.as_ref().map_or(usual, Service::mean_ms);
        self.classes.iter().map(|class| class.share / shares * mean(class)).sum()
    }

    /// Returns the number of a class by its name.
    pub(super) fn class_named(&self, name: &str) -> Option<usize> {
        self.classes.iter().position(|class| class.name == name)
    }

    /// Returns the requests per second that one backend of this group can serve.
    pub(super) fn capacity_of(&self, group: &BackendGroup) -> f64 {
        let workers = f64::from(group.workers);
        let slowed = 1.0 + group.sharing * (workers - 1.0);
        let redraws = group.faults.iter().filter_map(|fault| match fault.what {
            FaultKind::Redraw { between: [low, high], .. } => Some(low.midpoint(high)),
            _ => None,
        });
        let speed = group.speed * redraws.product::<f64>();
        1000.0 * speed * workers / (slowed * self.mean_ms_at(group))
    }

    /// Checks rules that involve several values. Returns the invalid key and the reason.
    fn check_whole(&self) -> Result<(), (&'static str, &'static str)> {
        if self.warmup_s >= self.duration_s {
            return Err(("warmupS", "must be less than durationS"));
        }
        if self.proxies > PROXIES_MAX {
            return Err(("proxies", "must be from 1 to 1000"));
        }
        let mut names = self.backend_names();
        let count = names.len();
        if count > BACKENDS_MAX {
            return Err(("backends", "must be at most 10000"));
        }
        if names.iter().any(String::is_empty) {
            return Err(("backends", "must have names"));
        }
        names.sort_unstable();
        names.dedup();
        if names.len() < count {
            return Err(("backends", "must have names that differ"));
        }
        if self.classes.len() > CLASSES_MAX {
            return Err(("classes", "must be at most 100"));
        }
        let faults = self.backends.iter().flat_map(|group| &group.faults);
        for fault in faults {
            if let FaultKind::Fails { class, .. } = &fault.what
                && self.class_named(class).is_none()
            {
                return Err(("class", "must be the name of a class"));
            }
        }
        let is_recorded = self.arrivals.rate == Rate::Recorded;
        if self.arrivals.trace.is_none() && is_recorded {
            return Err(("rate", "must be a load or requests a second without a trace"));
        }
        let changes = self.arrivals.bursts.is_some() || !self.arrivals.surges.is_empty();
        if self.arrivals.trace.is_some() && changes {
            return Err(("trace", "must be without bursts and surges"));
        }
        Ok(())
    }

    /// Checks the resulting rate.
    fn check_rate(&self) -> Result<(), (&'static str, &'static str)> {
        let rate = self.base_rate();
        if !(rate > 0.0 && rate <= RATE_MAX) {
            return Err(("arrivals", "must come to a rate above 0, at most 1e7 a second"));
        }
        Ok(())
    }

    /// Returns the backends' names in their order.
    pub fn backend_names(&self) -> Vec<String> {
        let names = self.backends.iter().flat_map(|group| {
            (1..=group.count).map(|number| match group.count {
                1 => group.name.clone(),
                _ => format!("{}{number}", group.name),
            })
        });
        names.collect()
    }
}

/// An error in a scenario's text, with its place.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ScenarioError {
    /// The line, from 1.
    pub line: usize,
    /// The path of the value, as keys joined by dots. Empty for invalid JSON.
    pub path: String,
    /// The description of the error.
    pub wrong: String,
}

impl ScenarioError {
    fn from_serde(path: String, error: &serde_json::Error) -> Self {
        let text = error.to_string();
        let place = format!(" at line {} column {}", error.line(), error.column());
        let wrong = text.strip_suffix(&place).unwrap_or(&text).to_owned();
        Self { line: error.line().max(1), path, wrong }
    }
}

impl fmt::Display for ScenarioError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            write!(f, "{}: {}", self.line, self.wrong)
        } else {
            write!(f, "{}: {}: {}", self.line, self.path, self.wrong)
        }
    }
}

impl std::error::Error for ScenarioError {}

const PROXIES_MAX: u32 = 1000;
/// Maximum number of backends of a router.
const BACKENDS_MAX: usize = 10_000;
const CLASSES_MAX: usize = 100;
/// The highest rate, requests per second. Simulating more would take too long.
const RATE_MAX: f64 = 1e7;

#[cfg(test)]
mod tests;
