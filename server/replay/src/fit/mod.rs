//! A scenario for the lab, fitted from a recording.
//!
//! | property of a backend | fitted from |
//! |---|---|
//! | width | the number in flight above which responses take longer: `max(1, (n + 1) / workers)` |
//! | service time | quantiles of the responses that found a free worker |
//! | speed | the mean service time of all backends, divided by its own |
//! | faults | periods with a much lower or higher speed, with errors, refusals, or no responses |
//!
//! The network's part of a response's time counts as service, so the scenario has no round trip. A
//! width above the maximum in flight cannot be observed: the fit reports that.
mod history;
mod spells;
mod width;

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Value, json};

use self::history::{History, Visit};
use self::spells::{Spell, spells};
use self::width::{Width, fit_width};
use super::Answer;
use super::recording::Recording;
use super::text::quantile;

/// Fits a scenario. Returns its JSON and a summary.
pub(super) fn fit(recording: &Recording<'_>) -> Result<(String, Answer), String> {
    let (history, wrong) = History::read(recording);
    let header = recording.header();
    let host = recording.host();
    // A backend takes time for each of its responses.
    let all = history.backends.iter().map(|backend| backend.visits.len() as u64).sum();
    let mut done = 0;
    host.progress(done, all);
    let mut fitted: Vec<Fitted<'_>> = Vec::with_capacity(history.backends.len());
    for (backend, name) in history.backends.iter().zip(&header.config.backends) {
        fitted.push(Fitted::new(name, backend, &history));
        done += backend.visits.len() as u64;
        host.progress(done, all);
    }
    let means: Vec<f64> = fitted.iter().filter_map(Fitted::mean_ms).collect();
    if means.is_empty() {
        return Err("the recording has no good response to fit a backend to".to_owned());
    }
    let mean_ms = means.iter().sum::<f64>() / means.len() as f64;
    let mut text = String::new();
    // The width of a backend that was never full is not known. It is at least the number in flight,
    // and is set to that of the other backends.
    let seen = fitted.iter().filter_map(|backend| backend.width.as_ref());
    let widest = seen.filter(|width| width.is_seen).map(|width| width.workers).max();
    let backends: Vec<Value> = fitted
        .iter()
        .map(|backend| backend.to_json(mean_ms, widest.unwrap_or(1), &mut text))
        .collect();
    let rate = history.arrivals.len() as f64 / history.seconds;
    let charge_ms = header.config.rules.errors.charge.as_secs_f64() * 1e3;
    // Through text, as `Config::to_value` does it.
    let routing = serde_json::to_string(&header.config.rules).unwrap_or_default();
    let mut routing: Value = serde_json::from_str(&routing).unwrap_or_default();
    if let Some(rules) = routing.as_object_mut() {
        // The lab compares policies, so it sets the policy itself.
        rules.remove("policy");
    }
    let scenario = json!({
        "name": "recorded",
        "about": format!("fitted from a recording of {} requests", history.arrivals.len()),
        "durationS": rounded(history.seconds),
        "rttMs": 0.0,
        "timeoutMs": rounded(history.timeout_ms().unwrap_or(TIMEOUT_MS)),
        "chargeMs": charge_ms,
        "arrivals": { "rate": { "perSecond": rounded(rate) }, "surges": surges(&history, rate) },
        "backends": backends,
        "routing": routing,
    });
    let _ = writeln!(text, "arrivals   {rate:.2} a second for {:.1} s", history.seconds);
    let mut good: Vec<f64> = history.good().map(|visit| visit.latency_ms).collect();
    good.sort_by(f64::total_cmp);
    if let (Some(p50), Some(p99)) = (quantile(&good, 0.5), quantile(&good, 0.99)) {
        let _ = writeln!(text, "recorded   p50 {p50:.2} ms, p99 {p99:.2} ms of good responses");
    }
    text.push_str(
        "not known  retries (the lab has none), clients that wait for their responses before they \
         ask again,\n           and service times that depend on the request\n",
    );
    let json = serde_json::to_string_pretty(&scenario).unwrap_or_default();
    Ok((json + "\n", Answer { text, wrong }))
}

/// The fit of one backend.
struct Fitted<'a> {
    name: &'a str,
    visits: &'a [Visit],
    width: Option<Width>,
    spells: Vec<Spell>,
    /// Service times, ms, sorted.
    service_ms: Vec<f64>,
    ping_ms: Option<f64>,
    duration_s: f64,
}

impl<'a> Fitted<'a> {
    fn new(name: &'a str, backend: &'a history::BackendHistory, history: &History) -> Self {
        let visits = &backend.visits[..];
        let mut width = fit_width(visits, |_| true);
        let mut found = spells(backend, width.as_ref(), history.seconds);
        // Fit again without the times of its faults.
        let is_calm = |spells: &[Spell], at: f64| !spells.iter().any(|spell| spell.contains(at));
        if !found.is_empty() {
            let calm = |at: f64| is_calm(&found, at);
            let again = fit_width(visits, calm);
            if let (Some(again), Some(first)) = (again, &width) {
                // A width that was reached only during faults can be observed only there.
                let is_first = !again.is_seen && first.workers > again.workers;
                let workers = if is_first { first.workers } else { again.workers };
                width = Some(Width { workers, ..again }.with_pace_of(visits, calm));
                found = spells(backend, width.as_ref(), history.seconds);
            }
        }
        let workers = width.as_ref().map_or(1, |width| width.workers);
        let calm = || visits.iter().filter(|visit| visit.is_good() && is_calm(&found, visit.at_s));
        let unhindered = calm().filter(|visit| visit.in_flight < workers);
        let mut service_ms: Vec<f64> = unhindered.map(|visit| visit.latency_ms).collect();
        if service_ms.len() < SERVICE_MIN {
            service_ms = calm().map(|visit| visit.latency_ms).collect();
        }
        if service_ms.is_empty() {
            service_ms =
                visits.iter().filter(|visit| visit.is_good()).map(|v| v.latency_ms).collect();
        }
        service_ms.sort_by(f64::total_cmp);
        let mut pings: Vec<f64> = backend.pings_ms.clone();
        pings.sort_by(f64::total_cmp);
        let ping_ms = quantile(&pings, 0.5);
        Self {
            name,
            visits,
            width,
            spells: found,
            service_ms,
            ping_ms,
            duration_s: history.seconds,
        }
    }

    fn mean_ms(&self) -> Option<f64> {
        let count = self.service_ms.len() as f64;
        (count > 0.0).then(|| (self.service_ms.iter().sum::<f64>() / count).max(1e-6))
    }

    fn to_json(&self, mean_ms: f64, widest: u32, text: &mut String) -> Value {
        let own_ms = self.mean_ms();
        let speed = own_ms.map_or(1.0, |own| mean_ms / own);
        let is_seen = self.width.as_ref().is_some_and(|width| width.is_seen);
        let own = self.width.as_ref().map_or(1, |width| width.workers);
        let workers = if is_seen { own } else { own.max(widest) };
        let most = self.visits.iter().map(|visit| visit.in_flight + 1).max().unwrap_or(1);
        let at_least = if !is_seen { " (a guess: no request ever waited)" } else { "" };
        let quantiles = quantiles(&self.service_ms, speed, mean_ms);
        let mut faults: Vec<Value> = self.spells.iter().map(Spell::to_json).collect();
        if let Some(share) = self.errors() {
            faults.push(json!({ "what": { "errors": rounded(share) } }));
        }
        let own = own_ms.map_or_else(|| "-".to_owned(), |own| format!("{own:.2} ms"));
        let _ = writeln!(
            text,
            "{:<10} speed {speed:.2}, {workers} workers{at_least}, mean service {own}, {} faults",
            self.name,
            faults.len()
        );
        for spell in &self.spells {
            let _ = writeln!(text, "           {spell}");
        }
        json!({
            "name": self.name,
            "workers": workers,
            "queue": most.max(QUEUE),
            "speed": rounded(speed),
            "service": { "empirical": quantiles },
            "probes": { "workMs": rounded(self.ping_ms.unwrap_or(1.0)) },
            "faults": faults,
        })
    }

    /// Returns the share of errors outside the spells, if it is large enough to report.
    fn errors(&self) -> Option<f64> {
        let calm = |at: f64| at <= self.duration_s && !self.spells.iter().any(|s| s.contains(at));
        let (mut all, mut errors) = (0.0, 0.0);
        for visit in self.visits.iter().filter(|visit| calm(visit.at_s)) {
            all += f64::from(u8::from(visit.is_good() || visit.is_error()));
            errors += f64::from(u8::from(visit.is_error()));
        }
        (errors / f64::max(all, 1.0) >= ERRORS_MIN).then(|| errors / all)
    }
}

/// Returns points of the quantile function of the work, ms at speed 1.
fn quantiles(sorted_ms: &[f64], speed: f64, mean_ms: f64) -> Vec<[f64; 2]> {
    let of = |share: f64| quantile(sorted_ms, share).map_or(mean_ms, |ms| ms * speed);
    SHARES.iter().map(|share| [*share, rounded(of(*share))]).collect()
}

/// Returns the periods in which many more or many fewer requests arrived.
fn surges(history: &History, rate: f64) -> Vec<Value> {
    let windows = (history.seconds / SURGE_S).floor() as u64;
    let mut counts: BTreeMap<u64, u32> = BTreeMap::new();
    for at in &history.arrivals {
        *counts.entry((at / SURGE_S) as u64).or_default() += 1;
    }
    // More than the random variation of a Poisson count, and large enough to matter.
    let least = f64::max(0.25, 4.0 / (rate * SURGE_S).sqrt());
    if least < 1.0 {
        // Windows without requests count only where more than 16 are expected in each. Fewer could
        // be missing by chance.
        for window in 0..windows {
            counts.entry(window).or_default();
        }
    }
    let mut surges = Vec::new();
    for (window, count) in counts.range(..windows) {
        let factor = f64::from(*count) / (rate * SURGE_S);
        if (factor - 1.0).abs() > least {
            let (from, factor) = (*window as f64 * SURGE_S, rounded(factor));
            surges.push(json!({ "fromS": from, "forS": SURGE_S, "factor": factor }));
        }
    }
    surges
}

/// Rounds a finite number to a thousandth.
fn rounded(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}

/// Shares at which the quantile function is taken.
const SHARES: [f64; 19] = [
    0.0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.97, 0.99, 0.995, 0.999,
    0.9999, 1.0,
];
/// If fewer responses than this found a free worker, the service time is fitted from all responses.
const SERVICE_MIN: usize = 50;
/// Requests that may wait at a backend, unless more were observed.
const QUEUE: u32 = 128;
/// The lab's timeout if the recording shows none, ms.
const TIMEOUT_MS: f64 = 5000.0;
/// Shares of errors below this are omitted.
const ERRORS_MIN: f64 = 0.001;
/// The length of the windows in which arrivals are counted, s.
const SURGE_S: f64 = 5.0;

#[cfg(test)]
mod tests;
