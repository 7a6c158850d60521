//! Reads the load figures that a backend reports: the body of a report in JSON or in the text
//! format of Prometheus, the fields of a response (ORCA), and the line of an agent. `probe.rs`
//! connects and exchanges the messages.
//!
//! A figure is a number from 0 to [`FIGURE_MAX`]. Any other value is ignored and is a fault of the
//! report; the other figures are used.
pub(crate) mod agent;
mod json;
pub(crate) mod orca;
mod prometheus;

use intelliproxy_core::LoadReport;

use super::excerpt;
use super::notice::ReportFault;
use crate::config::{FigureNames, ReportKind, Reporting};

/// The figures of a report, and its first fault.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Reading {
    /// The figures; `None` if the text does not have the form of a report.
    pub(crate) report: Option<LoadReport>,
    pub(crate) fault: Option<ReportFault>,
}

impl Reading {
    fn failed(fault: ReportFault) -> Self {
        Self { report: None, fault: Some(fault) }
    }
}

/// A value in a report.
#[derive(Clone, Debug, PartialEq)]
enum Found {
    /// A number, possibly not finite.
    Number(f64),
    /// Any other value: the beginning of its text, escaped.
    Other(String),
}

/// Reads the body of a report.
pub(crate) fn read_report(body: &[u8], reporting: &Reporting) -> Reading {
    let reading = match reporting.kind {
        ReportKind::Json => json::read(body, &reporting.names),
        ReportKind::Prometheus => prometheus::read(body, &reporting.names),
        ReportKind::Agent => agent::read(body),
        ReportKind::None => Reading { report: None, fault: None },
    };
    // An agent need not say anything.
    let must_say = reporting.kind != ReportKind::Agent;
    let has_none = must_say && reading.report == Some(LoadReport::default());
    let fault = reading.fault.or_else(|| has_none.then_some(ReportFault::NoFigures));
    Reading { report: reading.report, fault }
}

/// Collects the figures that `find` returns for the names. For each figure the first name with a
/// value is used.
fn collect(names: &FigureNames, mut find: impl FnMut(&str) -> Option<Found>) -> Reading {
    let mut fault = None;
    let mut figure = |names: &[String]| {
        names.iter().find_map(|name| {
            let wrong = match find(name)? {
                Found::Number(number) if (0.0..=FIGURE_MAX).contains(&number) => {
                    // Turns a negative zero into zero.
                    return Some(number.abs());
                }
                Found::Number(number) => {
                    let excerpt = format!("{number:e}");
                    ReportFault::OutOfRange { field: name.clone(), excerpt }
                }
                Found::Other(excerpt) => ReportFault::NoNumber { field: name.clone(), excerpt },
            };
            fault.get_or_insert(wrong);
            None
        })
    };
    let report = LoadReport {
        queue: figure(&names.queue),
        running: figure(&names.running),
        pressure: figure(&names.pressure),
        cpu_busy_ms: figure(&names.cpu_busy_ms),
        memory_bytes: figure(&names.memory_bytes),
        ..LoadReport::default()
    };
    Reading { report: Some(report), fault }
}

/// The highest figure: a petabyte. Up to this, floats represent whole numbers exactly.
const FIGURE_MAX: f64 = 1e15;

#[cfg(test)]
mod tests;
