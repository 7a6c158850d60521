//! The watched file: read once a second and compared by its content. A ConfigMap swaps links, so
//! neither the times of the file nor a notice of the system would do.
use std::path::Path;
use std::time::{Duration, Instant};

use log::{info, warn};

use crate::config::{BackendConfig, FileError, backends_from_file};
use crate::edge::disk::read_named;
use crate::plain::os_error_text;

/// A file and its last good content.
pub(super) struct Watched {
    pub(super) path: String,
    /// The backends of the last good content.
    pub(super) backends: Vec<BackendConfig>,
    /// The last content or error, good or bad.
    last: Option<Result<Vec<u8>, String>>,
    /// Whether the log tells of a fault that is still there.
    is_bad: bool,
    /// The time of the next reading; `None` while one is under way.
    due: Option<Instant>,
    /// Whether a result is awaited that was asked for.
    is_asked: bool,
}

impl Watched {
    pub(super) fn new(path: String) -> Self {
        let due = Some(Instant::now());
        Self { path, backends: Vec::new(), last: None, is_bad: false, due, is_asked: true }
    }

    /// Asks for a reading at once, or for the one that is under way.
    pub(super) fn ask(&mut self) {
        self.is_asked = true;
        self.due = self.due.map(|_| Instant::now());
    }

    /// Whether a result is awaited that was asked for.
    pub(super) fn is_pending(&self) -> bool {
        self.is_asked
    }

    /// The time of the next reading.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.due.is_some_and(|at| at <= now)
    }

    /// Notes that a reading begins.
    pub(super) fn begin(&mut self, _now: Instant) {
        self.due = None;
    }

    /// Takes the result of a reading. Returns whether the backends have changed.
    pub(super) fn handle_read(&mut self, content: Result<Vec<u8>, String>) -> bool {
        self.due = Some(Instant::now() + EVERY);
        self.is_asked = false;
        if self.last.as_ref() == Some(&content) {
            return false;
        }
        let backends = content.clone().and_then(|bytes| parse(&self.path, bytes));
        self.last = Some(content);
        match backends {
            Ok(backends) => {
                if std::mem::take(&mut self.is_bad) {
                    info!("discovery: {} can be used again", self.path);
                }
                let is_news = backends != self.backends;
                self.backends = backends;
                is_news
            }
            Err(wrong) => {
                self.is_bad = true;
                let count = self.backends.len();
                warn!("discovery: {wrong}: keeping the last {count} backends from it");
                false
            }
        }
    }
}

/// Reads the backends of a file at once.
///
/// # Errors
/// One line with the file, and with the place of a fault in it.
pub(crate) fn read_backends(path: &str) -> Result<Vec<BackendConfig>, String> {
    read(path).and_then(|bytes| parse(path, bytes))
}

/// Reads a regular file of at most [`FILE_BYTES_MAX`] bytes. May block, but not on a pipe.
pub(super) fn read(path: &str) -> Result<Vec<u8>, String> {
    read_named(Path::new(path), FILE_BYTES_MAX)
        .map_err(|error| format!("{path}: cannot be read: {}", os_error_text(&error)))
}

fn parse(path: &str, bytes: Vec<u8>) -> Result<Vec<BackendConfig>, String> {
    let text = String::from_utf8(bytes).map_err(|error| FileError::not_utf8(&error));
    let backends = text.and_then(|text| backends_from_file(&text));
    backends.map_err(|error| format!("{path}:{error}"))
}

/// Time between two readings.
const EVERY: Duration = Duration::from_secs(1);
/// The maximum size of a watched file, in bytes. A thousand backends take a fifth of it.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
