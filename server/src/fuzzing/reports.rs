//! The fuzz target for load reports: any bytes yield figures in their range or a fault.
use super::Source;
use crate::config::{Config, ReportKind, ReportRules};
use crate::http::field::LOAD_FIELDS;
use crate::proxy::report::{orca, read_report};

/// The first byte of the input selects the form; the rest is the report.
///
/// # Panics
/// If a figure is out of its range, or a report without figures has no fault.
pub fn report(data: &[u8]) {
    let mut source = Source::new(data);
    let kind = match source.byte() % 3 {
        0 => ReportKind::Json,
        1 => ReportKind::Prometheus,
        _ => ReportKind::Agent,
    };
    let names = [("queue", "q|r{a=\"1\"}"), ("running", "r"), ("pressure", "q.r|p")];
    let fields = names.map(|(figure, name)| (figure.to_owned(), name.to_owned())).into();
    let rules = ReportRules {
        kind: Some(kind),
        port: Some(1),
        fields: Some(fields),
        ..ReportRules::default()
    };
    let config = Config { reports: rules, ..Config::default() };
    let reporting = config.reporting_named("A");
    let text = source.rest;
    let reading = read_report(text, &reporting);
    assert!(reading.report.is_some() || reading.fault.is_some());
    let of_field = |field| orca::read(field, text, &reporting.orca_names);
    for reading in [reading, of_field(LOAD_FIELDS[0]), of_field(LOAD_FIELDS[1])] {
        let report = reading.report.unwrap_or_default();
        for figure in [report.queue, report.running, report.pressure].into_iter().flatten() {
            assert!((0.0..=1e15).contains(&figure), "{figure}");
        }
    }
}
