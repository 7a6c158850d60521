//! The Prometheus text format, version 0.0.4: comments and samples.
use std::io::Write;

use super::histogram::{BOUNDS, Histogram};
use crate::digits::put_number;

/// The kind of a family.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// The name, kind and help of a family of samples.
#[derive(Clone, Copy, Debug)]
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) help: &'static str,
}

/// Writes the samples of one family with common labels.
pub(super) struct Samples<'t> {
    text: &'t mut Vec<u8>,
    name: &'static str,
    /// The formatted labels of all samples.
    labels: &'t str,
}

impl Family {
    /// Writes the lines with help and kind, which come before the samples.
    pub(super) fn begin(self, text: &mut Vec<u8>) {
        let Self { name, kind, help } = self;
        put(text, format_args!("# HELP {name} {help}\n# TYPE {name} {}\n", kind.name()));
    }

    /// Returns a writer of samples with these labels, formatted by [`label`] and separated by
    /// commas.
    pub(super) const fn samples<'t>(self, text: &'t mut Vec<u8>, labels: &'t str) -> Samples<'t> {
        Samples { text, name: self.name, labels }
    }
}

impl Samples<'_> {
    /// Writes a sample without further labels.
    pub(super) fn put(&mut self, value: impl Into<Number>) {
        self.line("", None, value.into());
    }

    /// Writes a sample with one more label, whose value contains nothing to escape.
    pub(super) fn put_by(&mut self, label: &str, of: &str, value: impl Into<Number>) {
        self.line("", Some((label, of)), value.into());
    }

    /// Writes a sample with further labels, formatted by [`label`].
    pub(super) fn put_with(&mut self, labels: &str, value: impl Into<Number>) {
        let name = self.name;
        let comma = if self.labels.is_empty() { "" } else { "," };
        let value = value.into();
        put(self.text, format_args!("{name}{{{}{comma}{labels}}} ", self.labels));
        value.put(self.text);
    }

    /// Writes the samples of a histogram.
    pub(super) fn put_histogram(&mut self, histogram: &Histogram) {
        let cumulated = histogram.cumulated();
        let labels = BOUNDS.iter().map(|(_, label)| *label).chain(["+Inf"]);
        for (label, count) in labels.zip(cumulated) {
            self.line("_bucket", Some(("le", label)), Number::Whole(count));
        }
        self.line("_sum", None, Number::Real(histogram.sum_seconds()));
        let count = cumulated.last().copied().unwrap_or_default();
        self.line("_count", None, Number::Whole(count));
    }

    fn line(&mut self, suffix: &str, further: Option<(&str, &str)>, value: Number) {
        self.text.extend_from_slice(self.name.as_bytes());
        self.text.extend_from_slice(suffix.as_bytes());
        if further.is_some() || !self.labels.is_empty() {
            self.text.push(b'{');
            self.text.extend_from_slice(self.labels.as_bytes());
            if let Some((label, of)) = further {
                if !self.labels.is_empty() {
                    self.text.push(b',');
                }
                for part in [label, "=\"", of, "\""] {
                    self.text.extend_from_slice(part.as_bytes());
                }
            }
            self.text.push(b'}');
        }
        self.text.push(b' ');
        value.put(self.text);
    }
}

/// The value of a sample.
#[derive(Clone, Copy)]
pub(super) enum Number {
    Whole(u64),
    Real(f64),
}

impl Number {
    fn put(self, text: &mut Vec<u8>) {
        match self {
            Self::Whole(number) => {
                put_number(text, number);
                text.push(b'\n');
            }
            Self::Real(f64::INFINITY) => put(text, format_args!("+Inf\n")),
            Self::Real(f64::NEG_INFINITY) => put(text, format_args!("-Inf\n")),
            Self::Real(number) => put(text, format_args!("{number}\n")),
        }
    }
}

impl From<u64> for Number {
    fn from(number: u64) -> Self {
        Self::Whole(number)
    }
}

impl From<u32> for Number {
    fn from(number: u32) -> Self {
        Self::Whole(number.into())
    }
}

impl From<usize> for Number {
    fn from(number: usize) -> Self {
        Self::Whole(number as u64)
    }
}

impl From<bool> for Number {
    fn from(is_so: bool) -> Self {
        Self::Whole(is_so.into())
    }
}

impl From<f64> for Number {
    fn from(number: f64) -> Self {
        Self::Real(number)
    }
}

/// Returns a label with its value escaped: `name="value"`.
pub(super) fn label(name: &str, value: &str) -> String {
    let mut text = format!("{name}=\"");
    for letter in value.chars() {
        match letter {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            other => text.push(other),
        }
    }
    text.push('"');
    text
}

fn put(text: &mut Vec<u8>, what: std::fmt::Arguments<'_>) {
    // Writing to a vector does not fail.
    let _ = text.write_fmt(what);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The three special characters of a label's value are escaped.
    #[test]
    fn labels_are_escaped() {
        for (value, expected) in [
            ("A", "x=\"A\""),
            ("a\"b", "x=\"a\\\"b\""),
            ("a\\b\nc", "x=\"a\\\\b\\nc\""),
            ("\"} 1\nevil 2", "x=\"\\\"} 1\\nevil 2\""),
            ("\u{e4}\u{202e}", "x=\"\u{e4}\u{202e}\""),
        ] {
            assert_eq!(label("x", value), expected);
        }
    }

    /// Samples are written with and without labels, and with every kind of number.
    #[test]
    fn samples_are_written() {
        let family = Family { name: "a_total", kind: Kind::Counter, help: "Things." };
        let mut text = Vec::new();
        family.begin(&mut text);
        family.samples(&mut text, "").put(1_u64);
        family.samples(&mut text, "").put_by("c", "d", true);
        family.samples(&mut text, "x=\"y\"").put(0.25);
        family.samples(&mut text, "x=\"y\"").put_by("c", "d", f64::NAN);
        family.samples(&mut text, "x=\"y\"").put_with("c=\"d\",e=\"f\"", f64::INFINITY);
        family.samples(&mut text, "").put(1e300);
        let expected = "# HELP a_total Things.\n# TYPE a_total counter\na_total 1\na_total{c=\"d\"} 1\n\
                        a_total{x=\"y\"} 0.25\na_total{x=\"y\",c=\"d\"} NaN\n\
                        a_total{x=\"y\",c=\"d\",e=\"f\"} +Inf\n";
        let text = String::from_utf8(text).expect("UTF-8");
        let (beginning, end) = text.split_at(expected.len());
        assert_eq!(beginning, expected);
        assert_eq!(end.trim_start_matches("a_total ").trim_end().parse(), Ok(1e300));
    }
}
