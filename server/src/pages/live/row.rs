//! The figures of one backend at one moment, as the live page shows them.
use std::fmt::Write as _;

use intelliproxy_core::{BackendSnapshot, Instant, PolicyView};

use super::write_number;
use crate::pages::state::Condition;

/// A row: one number for each name in [`FIELDS`], NaN if it is unknown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row(pub(super) [f64; FIELDS.len()]);

/// The names of the numbers. Times are in ms, `…At` are times since the proxy's start, rates are
/// per second, and the parts of the score follow it in the order of the formula.
pub(crate) const FIELDS: [&str; 40] = [
    "state",
    "detail",
    "needed",
    "current",
    "weight",
    "rps",
    "errors",
    "refused",
    "p50",
    "p99",
    "inFlight",
    "working",
    "score",
    "latency",
    "loss",
    "errorPoints",
    "inFlightPoints",
    "queuePoints",
    "cpuPoints",
    "memoryPoints",
    "ping",
    "lossShare",
    "errorShare",
    "queue",
    "cpu",
    "memory",
    "pingAt",
    "reportAt",
    "requestAt",
    "requests",
    "errorsAll",
    "refusedAll",
    "ejections",
    "cost",
    "speed",
    "width",
    "expected",
    "cap",
    "excess",
    "limit",
];

const RPS: usize = 5;
const P99: usize = 9;

/// The traffic of a backend in the last second.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Traffic {
    pub(crate) requests: f64,
    pub(crate) errors: f64,
    pub(crate) refused: f64,
    /// Times to the head of the response in the last seconds, ms.
    pub(crate) p50: Option<f32>,
    pub(crate) p99: Option<f32>,
}

impl Row {
    /// A row without numbers.
    pub(crate) const EMPTY: Self = Self([f64::NAN; FIELDS.len()]);

    /// Returns the row of a backend.
    pub(crate) fn new(now: Instant, backend: &BackendSnapshot, traffic: &Traffic) -> Self {
        let none = f64::NAN;
        let at = |age: Option<std::time::Duration>| {
            age.map_or(none, |age| (now.as_nanos() as f64 / 1e6 - age.as_secs_f64() * 1e3).round())
        };
        let Condition { state, detail, needed } = Condition::of(backend);
        let [speed, width, expected, cap, excess] = match &backend.policy {
            PolicyView::Learned(view) => [
                view.speed,
                f64::from(view.width),
                view.latency_ms,
                view.cap.unwrap_or(none),
                100.0 * view.error_excess,
            ],
            _ => [none; 5],
        };
        let score = &backend.score;
        let points = score.parts().map(|(_, points)| points);
        let [latency, loss, errors, in_flight, queue, cpu, memory] = points;
        let numbers = [
            f64::from(state.number()),
            detail,
            needed,
            f64::from(u8::from(backend.is_current)),
            f64::from(backend.weight),
            traffic.requests,
            traffic.errors,
            traffic.refused,
            traffic.p50.map_or(none, f64::from),
            traffic.p99.map_or(none, f64::from),
            f64::from(backend.in_flight),
            f64::from(backend.at_work),
            score.total,
            latency,
            loss,
            errors,
            in_flight,
            queue,
            cpu,
            memory,
            backend.latency_ewma_ms.unwrap_or(none),
            backend.loss_ewma.map_or(none, |loss| 100.0 * loss),
            if backend.requests > 0 { 100.0 * backend.error_rate } else { none },
            backend.queue.unwrap_or(none),
            backend.cpu_busy_ms.unwrap_or(none),
            backend.memory_bytes.unwrap_or(none),
            at(backend.ping_age),
            at(backend.report_age),
            at(backend.request_age),
            backend.requests as f64,
            backend.errors as f64,
            backend.refused as f64,
            backend.ejections as f64,
            cost(&backend.policy),
            speed,
            width,
            expected,
            cap,
            excess,
            backend.limit.map_or(none, f64::from),
        ];
        Self(numbers.map(rounded))
    }

    /// Appends the numbers as a JSON array.
    pub(crate) fn write(&self, text: &mut String) {
        for (at, number) in self.0.iter().enumerate() {
            text.push(if at == 0 { '[' } else { ',' });
            write_number(text, *number);
        }
        text.push(']');
    }

    /// Appends what differs from `old` as `[backend,field,number,field,number...]`, after a comma
    /// if the text is not at the beginning of an array. Appends nothing if nothing differs.
    pub(crate) fn write_changes(&self, old: &Self, backend: usize, text: &mut String) {
        let mut has_begun = false;
        for (field, (new, old)) in self.0.iter().zip(&old.0).enumerate() {
            if new == old || (new.is_nan() && old.is_nan()) {
                continue;
            }
            if !std::mem::replace(&mut has_begun, true) {
                let comma = if text.ends_with('[') { "" } else { "," };
                let _ = write!(text, "{comma}[{backend}");
            }
            let _ = write!(text, ",{field},");
            write_number(text, *new);
        }
        if has_begun {
            text.push(']');
        }
    }

    /// Returns the figures that the history keeps.
    pub(super) fn sample(&self) -> super::history::Sample {
        let [p50, p99] = [self.0[P99 - 1], self.0[P99]];
        super::history::Sample {
            requests: self.0[RPS] as f32,
            errors: self.0[RPS + 1] as f32,
            refused: self.0[RPS + 2] as f32,
            p50: p50 as f32,
            p99: p99 as f32,
            score: self.0[12] as f32,
            in_flight: self.0[10].min(65535.0) as u16,
            state: self.0[0] as u8,
        }
    }
}

/// Returns a number rounded to what is shown: three decimals, or four digits if it is large.
fn rounded(number: f64) -> f64 {
    if number.abs() < 1e6 { (number * 1000.0).round() / 1000.0 } else { number.round() }
}

/// Returns the figure by which the policy compares backends; the lowest is chosen.
fn cost(view: &PolicyView) -> f64 {
    match view {
        PolicyView::Score(view) => view.points,
        PolicyView::Learned(view) => view.cost_ms,
        PolicyView::LeastRequest(view) => f64::from(view.in_flight),
        PolicyView::P2c(view) => f64::from(view.in_flight),
        PolicyView::PeakEwma(view) => view.load,
        PolicyView::LinearRl(view) => view.value,
        _ => f64::NAN,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::pages::testing::unknown_backend;

    fn row(backend: &BackendSnapshot) -> Row {
        Row::new(Instant::from_millis(5000), backend, &Traffic::default())
    }

    /// Only changed fields are written, with their indices. Unknown numbers are null.
    #[test]
    fn changes_are_written() {
        let mut backend = unknown_backend(0, "A");
        let old = row(&backend);
        let mut text = "[".to_owned();
        old.write_changes(&old, 3, &mut text);
        assert_eq!(text, "[");
        backend.ping_age = Some(Duration::from_millis(1000));
        backend.requests = 7;
        let new = row(&backend);
        new.write_changes(&old, 3, &mut text);
        old.write_changes(&new, 4, &mut text);
        let [ping, requests, share] = ["pingAt", "requests", "errorShare"]
            .map(|name| FIELDS.iter().position(|field| *field == name).expect("a field"));
        assert_eq!(
            text,
            format!(
                "[[3,{share},0,{ping},4000,{requests},7],[4,{share},null,{ping},null,{requests},0]"
            )
        );
    }

    /// A row is an array of numbers with a place for every name.
    #[test]
    fn rows_are_json() {
        let mut text = String::new();
        row(&unknown_backend(0, "A")).write(&mut text);
        let numbers: Vec<Option<f64>> = serde_json::from_str(&text).expect("JSON");
        assert_eq!(numbers.len(), FIELDS.len());
        assert_eq!(numbers[12], Some(10_000.0));
        assert_eq!(numbers[RPS], Some(0.0));
        assert_eq!(
            [FIELDS[RPS], FIELDS[P99], FIELDS[12], FIELDS[10]],
            ["rps", "p99", "score", "inFlight"]
        );
    }
}
