//! The watched file: read once a second and compared by its content. A ConfigMap swaps links, so
//! file times and system notifications are not reliable.
use std::path::Path;
use std::time::{Duration, Instant};

use log::Level;

use crate::config::{BackendConfig, FileError, backends_from_file};
use crate::edge::disk::read_named;
use crate::plain::os_error_text;

/// A file and its last good content.
pub(super) struct Watched {
    path: String,
    /// The backends of the last valid content, or inherited backends before the first valid
    /// content.
    backends: Vec<BackendConfig>,
    /// Whether any content of the file was valid.
    is_good: bool,
    /// The last content or error, good or bad.
    last: Option<Result<Vec<u8>, String>>,
    /// Whether the current fault has been logged.
    is_bad: bool,
    /// The time of the next reading; `None` while a reading is in progress.
    due: Option<Instant>,
    /// Whether a requested result is still awaited.
    is_asked: bool,
}

impl Watched {
    pub(super) fn new(path: &str) -> Self {
        Self {
            path: path.to_owned(),
            backends: Vec::new(),
            is_good: false,
            last: None,
            is_bad: false,
            due: Some(Instant::now()),
            is_asked: true,
        }
    }

    /// Requests a reading now, or the result of the reading in progress.
    pub(super) fn ask(&mut self) {
        self.is_asked = true;
        self.due = self.due.map(|_| Instant::now());
    }

    /// Sets the backends that stay until the content of this file has been valid once.
    pub(super) fn inherit(&mut self, backends: Vec<BackendConfig>) {
        if !self.is_good {
            self.backends = backends;
        }
    }

    /// Whether a requested result is still awaited.
    pub(super) fn is_pending(&self) -> bool {
        self.is_asked
    }

    /// Whether any content of the file was valid.
    pub(super) fn is_good(&self) -> bool {
        self.is_good
    }

    pub(super) fn backends(&self) -> &[BackendConfig] {
        &self.backends
    }

    /// Returns the time of the next reading. A file that is not followed is read only on request.
    pub(super) fn due(&self, is_followed: bool) -> Option<Instant> {
        self.due.filter(|_| is_followed || self.is_asked)
    }

    /// Records that a reading begins.
    pub(super) fn begin(&mut self) {
        self.due = None;
    }

    /// Handles the result of a reading. `in_use` is the number of backends of the file in use,
    /// which stay until the content of this file is valid.
    pub(super) fn handle_read(
        &mut self,
        content: Result<Vec<u8>, String>,
        in_use: usize,
    ) -> Reading {
        self.due = Some(Instant::now() + EVERY);
        self.is_asked = false;
        if self.last.as_ref() == Some(&content) {
            return Reading { is_news: false, line: None };
        }
        let parsed = match &content {
            Ok(bytes) => parse(&self.path, bytes),
            Err(wrong) => Err(wrong.clone()),
        };
        self.last = Some(content);
        match parsed {
            Ok(backends) => {
                let was_bad = std::mem::take(&mut self.is_bad);
                let line = format!("{} can be used again", self.path);
                let is_news =
                    !std::mem::replace(&mut self.is_good, true) || backends != self.backends;
                self.backends = backends;
                Reading { is_news, line: was_bad.then_some((Level::Info, line)) }
            }
            Err(wrong) => {
                self.is_bad = true;
                let line = match (self.is_good, in_use) {
                    // The line omits their number, since the proxy may not use all of them.
                    (true, _) if !self.backends.is_empty() => {
                        format!("{wrong}: keeping the last backends from it")
                    }
                    (true, _) => format!("{wrong}: still no backends from it"),
                    (false, 0) => format!("{wrong}: no backends from it yet"),
                    (false, _) => format!("{wrong}: keeping the backends of the last file"),
                };
                Reading { is_news: false, line: Some((Level::Warn, line)) }
            }
        }
    }
}

/// The result of a reading of the file.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Reading {
    /// Whether the backends have changed.
    pub(super) is_news: bool,
    /// A line for the log; `None` for a fault that the last reading has logged already.
    pub(super) line: Option<(Level, String)>,
}

/// Reads the backends of a file at once.
///
/// # Errors
/// One line with the file, and with the place of a fault in it.
pub(crate) fn read_backends(path: &str) -> Result<Vec<BackendConfig>, String> {
    read(path).and_then(|bytes| parse(path, &bytes))
}

/// Reads a regular file of at most [`FILE_BYTES_MAX`] bytes. May block, but not on a pipe.
pub(super) fn read(path: &str) -> Result<Vec<u8>, String> {
    read_named(Path::new(path), FILE_BYTES_MAX)
        .map_err(|error| format!("{path}: cannot be read: {}", os_error_text(&error)))
}

fn parse(path: &str, bytes: &[u8]) -> Result<Vec<BackendConfig>, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| FileError::not_utf8(bytes, error));
    let backends = text.and_then(backends_from_file);
    backends.map_err(|error| format!("{path}:{error}"))
}

/// Time between two readings.
const EVERY: Duration = Duration::from_secs(1);
/// The maximum size of a watched file, in bytes. A thousand backends, each with a name and a URL of
/// 25 characters, take 75 kB.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    /// Each fault causes one line, however often the file is read, and so does its end. The
    /// backends in use stay: the last ones of this file, or those of the previous file.
    #[test]
    fn faults_have_one_line() {
        let good = |name: &str| Ok(format!(r#"[{{"name": {name:?}, "url": "http://h"}}]"#).into());
        let bad = |wrong: &str| Err(wrong.to_owned());
        let (is_news, warn) = (true, |line: &str| Some((Level::Warn, line.to_owned())));
        let again = Some((Level::Info, "f can be used again".to_owned()));
        type Row = (Result<Vec<u8>, String>, usize, bool, Option<(Level, String)>);
        let rows: [Row; 13] = [
            (bad("f: x"), 0, false, warn("f: x: no backends from it yet")),
            (bad("f: x"), 0, false, None),
            (bad("f: y"), 2, false, warn("f: y: keeping the backends of the last file")),
            (bad("f: y"), 2, false, None),
            (good("a"), 2, is_news, again.clone()),
            (good("a"), 1, false, None),
            (good("b"), 1, is_news, None),
            (bad("f: y"), 1, false, warn("f: y: keeping the last backends from it")),
            (bad("f: y"), 1, false, None),
            (
                Ok(b"\"".to_vec()),
                1,
                false,
                warn("f:1:1: unterminated string literal: keeping the last backends from it"),
            ),
            (good("b"), 1, false, again),
            (Ok(b"[]".to_vec()), 1, is_news, None),
            (bad("f: y"), 0, false, warn("f: y: still no backends from it")),
        ];
        let mut file = Watched::new("f");
        for (row, (content, in_use, is_news, line)) in rows.into_iter().enumerate() {
            file.begin();
            assert_eq!(file.handle_read(content, in_use), Reading { is_news, line }, "{row}");
        }
    }
}
