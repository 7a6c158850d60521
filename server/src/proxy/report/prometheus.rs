//! A report in the text format of Prometheus (version 0.0.4; OpenMetrics has the same samples):
//!
//! ```text
//! # HELP and TYPE lines and other comments are ignored
//! vllm:num_requests_running{engine="0",model_name="m"} 3.0
//! name{label="escaped \" value"} 1.5 1700000000000
//! ```
//! The configured name of a figure may have labels, which a sample must then have:
//! `name{label="value"}`. Samples of one name with different labels are added, because they are
//! parts of one server, such as its models. For a pressure the highest sample is used.
use super::{Found, Reading, collect, excerpt};
use crate::config::FigureNames;

/// Reads all samples whose names are those of figures.
pub(super) fn read(text: &[u8], names: &FigureNames) -> Reading {
    let FigureNames { queue, running, pressure, cpu_busy_ms, memory_bytes } = names;
    let added = [queue, running, cpu_busy_ms, memory_bytes].into_iter().flatten();
    let added = added.map(|name| Series::new(name, false));
    let highest = pressure.iter().map(|name| Series::new(name, true));
    let mut series: Vec<Series<'_>> = added.chain(highest).collect();
    for line in text.split(|byte| *byte == b'\n') {
        let line = line.trim_ascii();
        if line.is_empty() || line[0] == b'#' {
            continue;
        }
        let end = line.iter().position(|byte| b"{ \t".contains(byte)).unwrap_or(line.len());
        let (name, rest) = line.split_at(end);
        for one in series.iter_mut().filter(|one| one.metric == name) {
            one.take(rest);
        }
    }
    collect(names, |name| {
        // If two figures use one name, both series are equal, so the first one will do.
        series.iter().find(|one| one.name == name)?.value.clone()
    })
}

/// The samples of one name.
struct Series<'a> {
    name: &'a str,
    metric: &'a [u8],
    /// The text of the labels that a sample must have, with its braces; empty for any.
    labels: &'a [u8],
    is_highest: bool,
    value: Option<Found>,
}

impl<'a> Series<'a> {
    fn new(name: &'a str, is_highest: bool) -> Self {
        let (metric, labels) = name.split_at(name.find('{').unwrap_or(name.len()));
        let (metric, labels) = (metric.as_bytes(), labels.as_bytes());
        Self { name, metric, labels, is_highest, value: None }
    }

    /// Applies a sample: labels, value, and optionally a time. An unreadable value becomes the
    /// result and stays.
    fn take(&mut self, sample: &[u8]) {
        let Some(labels_len) = labels_len(sample) else {
            self.value = Some(Found::Other(excerpt::of_backend(sample)));
            return;
        };
        let (labels, rest) = sample.split_at(labels_len);
        let wanted = Labels(self.labels);
        let mut wanted = wanted.map(|(name, value)| Labels(labels).any(|own| own == (name, value)));
        if !wanted.all(|has| has) {
            return;
        }
        let rest = rest.trim_ascii_start();
        let end = rest.iter().position(u8::is_ascii_whitespace).unwrap_or(rest.len());
        let number = std::str::from_utf8(&rest[..end]).ok().and_then(|text| text.parse().ok());
        self.value = Some(match (number, self.value.take()) {
            (Some(number), None) => Found::Number(number),
            (Some(number), Some(Found::Number(old))) if old >= 0.0 && number >= 0.0 => {
                Found::Number(if self.is_highest { old.max(number) } else { old + number })
            }
            // One unreadable part makes the whole sum unreadable: without that part it would be too
            // low.
            (Some(number), Some(Found::Number(old))) => {
                Found::Number(if old >= 0.0 { number } else { old })
            }
            (_, Some(bad @ Found::Other(_))) => bad,
            (None, _) => Found::Other(excerpt::of_backend(rest)),
        });
    }
}

/// The labels of a sample: names and values as written, with escapes.
struct Labels<'a>(&'a [u8]);

impl<'a> Iterator for Labels<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let text = self.0.strip_prefix(b"{").unwrap_or(self.0).trim_ascii_start();
        let text = text.strip_prefix(b",").unwrap_or(text).trim_ascii_start();
        let equals = text.iter().position(|byte| *byte == b'=')?;
        let (name, rest) = (text[..equals].trim_ascii(), text[equals + 1..].trim_ascii_start());
        let inner = rest.strip_prefix(b"\"")?;
        let end = quoted_len(inner)?;
        self.0 = &inner[end + 1..];
        Some((name, &inner[..end]))
    }
}

/// Returns the length of the labels at the beginning of a text, with their braces. 0 without
/// labels, `None` if they do not end.
fn labels_len(text: &[u8]) -> Option<usize> {
    if text.first() != Some(&b'{') {
        return Some(0);
    }
    let mut at = 1;
    loop {
        match text.get(at)? {
            b'}' => return Some(at + 1),
            b'"' => at += quoted_len(&text[at + 1..])? + 2,
            _ => at += 1,
        }
    }
}

/// Returns the length of a text up to its closing quote.
fn quoted_len(text: &[u8]) -> Option<usize> {
    let mut is_escaped = false;
    text.iter().position(|byte| {
        let is_end = *byte == b'"' && !is_escaped;
        is_escaped = *byte == b'\\' && !is_escaped;
        is_end
    })
}
