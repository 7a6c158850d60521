//! The load figures in a response's fields, as in Open Request Cost Aggregation (ORCA):
//!
//! ```text
//! endpoint-load-metrics: TEXT cpu_utilization=0.3, named_metrics.num_requests_waiting=2
//! endpoint-load-metrics: JSON {"named_metrics": {"num_requests_running": 5}}
//! endpoint-load-metrics-json: {"application_utilization": 0.7}
//! ```
//! The word for the form may be missing: then an object is JSON, and any other text is pairs. The
//! binary forms are not supported.
use intelliproxy_core::LoadReport;

use super::{Found, Reading, ReportFault, collect, excerpt, json};
use crate::config::FigureNames;
use crate::http::field::LOAD_FIELDS;

/// Reads the value of a field. The report is `None` if the value has no known figure.
pub(crate) fn read(name: &str, value: &[u8], names: &FigureNames) -> Reading {
    let value = value.trim_ascii();
    let is_json = name.len() == LOAD_FIELDS[1].len() && name.eq_ignore_ascii_case(LOAD_FIELDS[1]);
    let (form, text) = form_of(value);
    let reading = match form {
        Form::Json => json::read(text, names),
        Form::Text if !is_json => read_pairs(text, names),
        Form::Text | Form::Binary => {
            return Reading::failed(ReportFault::Unreadable {
                excerpt: excerpt::of_backend(value),
            });
        }
    };
    Reading { report: reading.report.filter(|report| *report != LoadReport::default()), ..reading }
}

enum Form {
    Text,
    Json,
    Binary,
}

/// Separates the word for the form from the text.
fn form_of(value: &[u8]) -> (Form, &[u8]) {
    let words = [("TEXT", Form::Text), ("JSON", Form::Json), ("BIN", Form::Binary)];
    for (word, form) in words {
        if let Some((first, rest)) = value.split_at_checked(word.len())
            && first.eq_ignore_ascii_case(word.as_bytes())
            && rest.first().is_none_or(|byte| b" \t".contains(byte))
        {
            return (form, rest.trim_ascii());
        }
    }
    let form = if value.starts_with(b"{") { Form::Json } else { Form::Text };
    (form, value)
}

/// Reads pairs separated by commas. A colon may separate name and number, as in older versions.
fn read_pairs(text: &[u8], names: &FigureNames) -> Reading {
    let pairs = || {
        text.split(|byte| *byte == b',').filter(|pair| !pair.trim_ascii().is_empty()).map(|pair| {
            let at = pair.iter().position(|byte| b"=:".contains(byte)).unwrap_or(pair.len());
            let (name, rest) = pair.split_at(at);
            (name.trim_ascii(), rest.get(1..).map(<[u8]>::trim_ascii))
        })
    };
    if pairs().any(|(name, value)| name.is_empty() || value.is_none()) {
        return Reading::failed(ReportFault::Unreadable { excerpt: excerpt::of_backend(text) });
    }
    collect(names, |wanted| {
        let value = pairs().find(|(name, _)| *name == wanted.as_bytes())?.1?;
        let number = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
        Some(number.map_or_else(|| Found::Other(excerpt::of_backend(value)), Found::Number))
    })
}
