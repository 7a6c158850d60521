//! The writer of the access log, which runs in its own thread: its file, and its retries when
//! writing fails.
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use intelliproxy_core::Instant;
use log::{error, info, warn};

use super::State;
use super::format::Formatter;
use crate::access::Records;
use crate::config::AccessLogFormat;
use crate::edge::disk;
use crate::plain::os_error_text;

/// The file or standard output that lines are written to.
#[derive(Debug)]
pub(super) struct Sink {
    file: File,
    /// The path that is opened again; `None` for stdout.
    path: Option<String>,
}

impl Sink {
    /// Opens a regular file, or standard output if the path is `stdout`.
    pub(super) fn open(path: &str) -> io::Result<Self> {
        if path == STDOUT {
            let file = File::from(io::stdout().as_fd().try_clone_to_owned()?);
            return Ok(Self { file, path: None });
        }
        let file = disk::append(Path::new(path))?;
        Ok(Self { file, path: Some(path.to_owned()) })
    }

    /// A file that was opened before, under its path.
    #[cfg(test)]
    pub(super) fn of(file: File, path: &str) -> Self {
        Self { file, path: Some(path.to_owned()) }
    }

    pub(super) fn name(&self) -> &str {
        self.path.as_deref().unwrap_or(STDOUT)
    }

    /// Opens the file again. Keeps the open one if that fails.
    fn reopen(&mut self) -> io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        self.file = disk::append(Path::new(path))?;
        Ok(())
    }
}

/// Formats blocks and writes them.
#[derive(Debug)]
pub(super) struct Writer {
    sink: Sink,
    formatter: Formatter,
    state: Arc<State>,
    /// Disconnected once the log ends.
    impatient: Receiver<()>,
    /// Reused: the lines of a block.
    lines: Vec<u8>,
    /// Failed writes since the last success.
    failures: u64,
    /// Whether the log ended before all lines were written.
    has_given_up: bool,
}

impl Writer {
    pub(super) fn new(
        sink: Sink,
        format: AccessLogFormat,
        state: Arc<State>,
        impatient: Receiver<()>,
    ) -> Self {
        Self {
            sink,
            formatter: Formatter::new(format),
            state,
            impatient,
            lines: Vec::new(),
            failures: 0,
            has_given_up: false,
        }
    }

    /// Writes the lines of a block. Abandoned lines are counted as lost.
    pub(super) fn write(&mut self, records: &Records, now: Instant, time_of_day: SystemTime) {
        self.lines.clear();
        self.formatter.write(records, now, time_of_day, &mut self.lines);
        // After a line that was cut, no further line is written.
        let written = if self.has_given_up { 0 } else { self.put() };
        let lost = self.lines[written..].iter().filter(|byte| **byte == b'\n').count() as u64;
        if lost > 0 {
            self.has_given_up = true;
            self.state.lose(lost);
        } else if self.failures > 0 && !self.has_given_up {
            self.tell();
        }
    }

    /// Writes all lines, continuing where a failed write stopped. Gives up when the log ends.
    /// Returns the number of bytes that are written.
    fn put(&mut self) -> usize {
        let mut written = 0;
        while let Some(rest) = self.lines.get(written..).filter(|rest| !rest.is_empty()) {
            let wrong = match self.sink.file.write(rest) {
                Ok(0) => io::Error::from(ErrorKind::WriteZero),
                Ok(count) => {
                    written += count;
                    continue;
                }
                Err(wrong) if wrong.kind() == ErrorKind::Interrupted => continue,
                Err(wrong) => wrong,
            };
            self.state.totals.failed_writes.fetch_add(1, Ordering::Relaxed);
            self.failures += 1;
            self.state.is_failing.store(true, Ordering::Relaxed);
            if self.failures == 1 {
                let (name, wrong) = (self.sink.name(), os_error_text(&wrong));
                error!("access log {name}: {wrong}: lines wait, and are dropped beyond the queue");
            }
            // The channel carries no messages: the other end is dropped when the log ends.
            if self.impatient.recv_timeout(RETRY_TIME) == Err(RecvTimeoutError::Disconnected) {
                return written;
            }
            if self.reopen_if_asked() {
                // A line that was cut is written completely into the new file.
                let whole = self.lines[..written].iter().rposition(|byte| *byte == b'\n');
                written = whole.map_or(0, |end| end + 1);
            }
        }
        written
    }

    /// Reports the lines that were lost at the end.
    pub(super) fn finish(self) {
        let count = self.state.report();
        if count > 0 {
            warn!("access log {}: ended, {count} lines lost", self.sink.name());
        }
    }

    /// Reports the end of failures, with the lines that were lost meanwhile.
    fn tell(&mut self) {
        let count = self.state.report();
        let (name, failures) = (self.sink.name(), self.failures);
        warn!(
            "access log {name}: written again after {failures} failed writes, {count} lines lost"
        );
        self.failures = 0;
        self.state.is_failing.store(false, Ordering::Relaxed);
    }

    /// Opens the file again if that was requested. Returns whether it was opened.
    pub(super) fn reopen_if_asked(&mut self) -> bool {
        if !self.state.is_reopen_asked.swap(false, Ordering::Acquire) {
            return false;
        }
        if self.sink.path.is_none() {
            // Stdout has no name that could be opened again.
            return false;
        }
        let result = self.sink.reopen();
        let name = self.sink.name();
        match &result {
            Ok(()) => info!("access log {name}: opened again"),
            Err(wrong) => {
                let wrong = os_error_text(wrong);
                error!("access log {name}: cannot be opened again: {wrong}: keeping the open file");
            }
        }
        result.is_ok()
    }
}

/// The word for standard output.
const STDOUT: &str = "stdout";
/// Time between a failed write and the next attempt.
const RETRY_TIME: Duration = Duration::from_millis(100);
