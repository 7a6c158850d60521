//! Recorded arrivals and work: a CSV file of seconds and work.
//!
//! Each row is one request: its arrival in seconds from any origin, and its work at speed 1 in ms.
//! A first row that is not two numbers is a heading. Empty rows and rows that begin with `#` are
//! skipped. Further columns are ignored. The order of rows does not matter.
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A recorded sequence of requests. In JSON it is the path of its file.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(from = "String", into = "String")]
pub struct Trace {
    /// The path of the file, relative to the scenario's.
    pub file: String,
    /// The requests in order of time: seconds from the first one, and work in ms. Empty before the
    /// file is read.
    rows: Arc<[(f64, f64)]>,
}

impl Trace {
    /// Reads the rows from the text of a file.
    ///
    /// # Errors
    /// The first invalid row, with its line.
    pub fn from_csv(file: &str, text: &str) -> Result<Self, TraceError> {
        let mut rows = Vec::new();
        let mut is_first = true;
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let is_heading = std::mem::take(&mut is_first);
            match row(line) {
                Ok(row) => rows.push(row),
                Err(_) if is_heading => {}
                Err(wrong) => return Err(TraceError { line: index + 1, wrong }),
            }
        }
        if rows.len() < 2 {
            return Err(TraceError { line: 1, wrong: "must have at least two requests" });
        }
        // A stable sort: requests of the same second keep their order.
        rows.sort_by(|a, b| a.0.total_cmp(&b.0));
        let start = rows[0].0;
        rows.iter_mut().for_each(|row| row.0 -= start);
        if rows[rows.len() - 1].0 <= 0.0 {
            return Err(TraceError { line: 1, wrong: "must span some time" });
        }
        Ok(Self { file: file.to_owned(), rows: rows.into() })
    }

    /// Returns the requests in order of time: seconds from the first one, and work in ms.
    pub fn rows(&self) -> &Arc<[(f64, f64)]> {
        &self.rows
    }

    /// Returns the requests per second over the span of the trace; 0 before the file is read.
    pub fn rate(&self) -> f64 {
        self.rows.last().map_or(0.0, |last| (self.rows.len() - 1) as f64 / last.0)
    }

    /// Returns the mean work, ms; 0 before the file is read.
    pub fn mean_ms(&self) -> f64 {
        self.rows.iter().map(|row| row.1).sum::<f64>() / self.rows.len().max(1) as f64
    }
}

impl From<String> for Trace {
    fn from(file: String) -> Self {
        Self { file, rows: Arc::default() }
    }
}

impl From<Trace> for String {
    fn from(trace: Trace) -> Self {
        trace.file
    }
}

/// Reads the seconds and the work of a row.
fn row(line: &str) -> Result<(f64, f64), &'static str> {
    const WRONG: &str = "must be seconds and work in ms, two numbers from 0 to 1e9";
    let mut cells = line.split([',', ';', '\t']).map(|cell| cell.trim().parse::<f64>());
    let (Some(Ok(seconds)), Some(Ok(work))) = (cells.next(), cells.next()) else {
        return Err(WRONG);
    };
    // Seconds may count from an epoch. Work stays far below the overflow of its nanoseconds.
    let is_allowed = (0.0..=SECONDS_MAX).contains(&seconds) && (0.0..=1e9).contains(&work);
    is_allowed.then_some((seconds, work)).ok_or(WRONG)
}

/// An invalid trace.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TraceError {
    /// The line, from 1.
    pub line: usize,
    /// The rule that it breaks.
    pub wrong: &'static str,
}

impl fmt::Display for TraceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.line, self.wrong)
    }
}

impl std::error::Error for TraceError {}

/// Well above the current seconds since 1970.
const SECONDS_MAX: f64 = 1e11;

#[cfg(test)]
mod tests {
    use super::*;

    /// A heading, comments, other separators and unordered rows are accepted. Times are relative to
    /// the first request.
    #[test]
    fn rows_are_read() {
        let text = "time,work\n# night\n\n1000.5, 20\n1000;10;GET /\n1002\t3.5\n";
        let trace = Trace::from_csv("t.csv", text).expect("it is valid");
        assert_eq!(**trace.rows(), [(0.0, 10.0), (0.5, 20.0), (2.0, 3.5)]);
        assert_eq!(trace.rate(), 1.0);
        assert!((trace.mean_ms() - 33.5 / 3.0).abs() < 1e-12);
    }

    /// Invalid rows are reported with their line.
    #[test]
    fn invalid_rows_are_located() {
        let cases = [
            ("0,1\nx,2\n", 2),
            ("a,b\nc,d\n", 2),
            ("0,1\n1\n", 2),
            ("0,1\n\n1,-2\n", 3),
            ("0,1\n1,NaN\n", 2),
            ("0,1\n", 1),
            ("5,1\n5,1\n", 1),
            ("", 1),
        ];
        for (text, line) in cases {
            let error = Trace::from_csv("t.csv", text).expect_err(text);
            assert_eq!(error.line, line, "{text:?}: {error}");
        }
    }
}
