//! The log: lines go through a bounded queue to a thread, which writes them to stderr.
//!
//! A caller that logs never waits. A line that finds the queue full, because stderr is not read
//! fast enough, is dropped and counted. A failed write, because the disk is full or the reader of
//! a pipe has left, is counted and repeated until it succeeds; lines wait in the queue meanwhile.
//! When writing succeeds again, a line reports the losses. [`LogWatch`] reads the counts.
//!
//! Own code: it never waits, counts what it drops, and repeats a failed write. The appenders of log
//! crates do not do all three.
use std::borrow::Cow;
use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use log::{Level, LevelFilter, Log, Metadata, Record};

use super::worker::{Ended, Queue, Worker};
use crate::pages::LogCounts;
use crate::plain::os_error_text;
use crate::plain::plain;
use crate::utc::Utc;

/// Installs this log for the program, with lines from `level` up.
///
/// # Errors
/// The thread cannot be started, or the process already has a log.
pub(crate) fn start(level: LevelFilter) -> io::Result<LogGuard> {
    let (queue, guard) = spawn(level, LINES_MAX, io::stderr())?;
    log::set_boxed_logger(Box::new(queue)).map_err(io::Error::other)?;
    log::set_max_level(level);
    Ok(guard)
}

/// The running log. [`LogGuard::finish`] ends it.
#[derive(Debug)]
#[must_use = "lines that are still queued are lost unless the log is finished"]
pub(crate) struct LogGuard {
    messages: Queue<Message>,
    /// Dropped when the program ends. From then on failed writes are not repeated.
    patience: Sender<()>,
    ended: Ended,
    watch: LogWatch,
}

impl LogGuard {
    /// Waits until the lines queued so far are written, but no longer than [`FINISH_TIME`].
    pub(crate) fn finish(self) {
        let Self { messages, patience, ended, .. } = self;
        drop(patience);
        if messages.insist(Message::Finish, FINISH_TIME).is_ok() {
            let _ = ended.wait(FINISH_TIME);
        }
    }

    /// Returns a reader of the log's counts.
    pub(crate) fn watch(&self) -> LogWatch {
        self.watch.clone()
    }
}

/// Reads the counts of lost lines.
#[derive(Clone, Debug, Default)]
pub(crate) struct LogWatch {
    dropped: Arc<AtomicU64>,
    failed_writes: Arc<AtomicU64>,
}

impl LogWatch {
    /// The counts since the program's start.
    pub(crate) fn counts(&self) -> LogCounts {
        LogCounts {
            dropped: self.dropped.load(Ordering::Relaxed),
            failed_writes: self.failed_writes.load(Ordering::Relaxed),
            limited: 0,
        }
    }
}

/// The log's side that the program writes to.
struct LineQueue {
    level: LevelFilter,
    messages: Queue<Message>,
}

impl Log for LineQueue {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= self.level
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let target = match record.module_path_static() {
            Some(module) if module == record.target() => Cow::Borrowed(module),
            _ => Cow::Owned(record.target().to_owned()),
        };
        let line = Line::new(record.level(), target, record.args().to_string());
        // A line that finds no room is counted by the queue.
        let _ = self.messages.offer(Message::Line(line));
    }

    /// Does nothing, because it would have to wait. [`LogGuard::finish`] waits at the end.
    fn flush(&self) {}
}

/// A message of the queue.
#[derive(Debug)]
enum Message {
    Line(Line),
    Finish,
}

/// One line of the log, with the time at which it was logged.
#[derive(Debug)]
struct Line {
    at: SystemTime,
    level: Level,
    target: Cow<'static, str>,
    text: String,
}

impl Line {
    fn new(level: Level, target: Cow<'static, str>, text: String) -> Self {
        Self { at: SystemTime::now(), level, target, text }
    }

    /// A line of the log's own, about itself.
    fn own(text: String) -> Self {
        Self::new(Level::Warn, Cow::Borrowed(module_path!()), text)
    }
}

/// Time, level, module and text, without invisible characters so that it stays one line.
impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = self.at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let Utc { year, month, day, hour, minute, second } = Utc::from_seconds(since.as_secs());
        let (millis, level) = (since.subsec_millis(), self.level);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z ")?;
        write!(f, "{level:<5} [{}] {}", self.target, plain(&self.text))
    }
}

/// Starts a writer behind a queue of `lines_max` lines.
fn spawn(
    level: LevelFilter,
    lines_max: usize,
    out: impl Write + Send + 'static,
) -> io::Result<(LineQueue, LogGuard)> {
    let (patience, impatient) = crossbeam_channel::bounded(0);
    let failed_writes = Arc::<AtomicU64>::default();
    let counted = Arc::clone(&failed_writes);
    let Worker { queue, ended } = Worker::start("log", lines_max, move |mut queued| {
        let watch = LogWatch { dropped: queued.dropped(), failed_writes: counted };
        let buffer = Vec::new();
        let mut writer = Writer { out, watch, impatient, buffer, told_dropped: 0, failure: None };
        while let Some(message) = queued.next() {
            let is_last = matches!(message, Message::Finish);
            if let Message::Line(line) = message {
                writer.write(&line);
            }
            // Reported when the queue is empty, so that the count covers a whole burst.
            if is_last || queued.is_empty() {
                writer.tell_dropped();
            }
            if is_last {
                break;
            }
        }
    })?;
    let watch = LogWatch { dropped: queue.dropped(), failed_writes };
    let guard = LogGuard { messages: queue.clone(), patience, ended, watch };
    Ok((LineQueue { level, messages: queue }, guard))
}

/// Writes lines and counts those that it could not write.
struct Writer<W> {
    out: W,
    watch: LogWatch,
    /// Disconnected once the program ends.
    impatient: Receiver<()>,
    /// Reused: the bytes of one line.
    buffer: Vec<u8>,
    /// Dropped lines that a log line has already reported.
    told_dropped: u64,
    /// The number of failed writes since the last success, and the error of the first one.
    failure: Option<(u64, String)>,
}

impl<W: Write> Writer<W> {
    /// Writes a line, and another one about failed writes that preceded it.
    fn write(&mut self, line: &Line) {
        self.put(line);
        if self.buffer.is_empty()
            && let Some((count, wrong)) = self.failure.take()
        {
            let text = format!("log: written again after {count} failed writes: {wrong}");
            self.put(&Line::own(text));
        }
    }

    /// Writes how many lines were dropped since the last such line.
    fn tell_dropped(&mut self) {
        let dropped = self.watch.dropped.load(Ordering::Relaxed);
        let count = dropped - self.told_dropped;
        if count > 0 {
            self.told_dropped = dropped;
            let why = "stderr was not read fast enough";
            self.write(&Line::own(format!("{count} log lines dropped: {why}")));
        }
    }

    /// Writes one line, continuing where a failed write stopped. Empties the buffer unless the
    /// line was given up because the program ends.
    fn put(&mut self, line: &Line) {
        self.buffer.clear();
        // Writing into a vector does not fail.
        let _ = writeln!(self.buffer, "{line}");
        let mut written = 0;
        while let Some(rest) = self.buffer.get(written..).filter(|rest| !rest.is_empty()) {
            let error = match self.out.write(rest) {
                Ok(0) => io::Error::from(ErrorKind::WriteZero),
                Ok(count) => {
                    written += count;
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => error,
            };
            self.watch.failed_writes.fetch_add(1, Ordering::Relaxed);
            self.failure.get_or_insert_with(|| (0, os_error_text(&error))).0 += 1;
            // The channel carries no messages: the other end is dropped when the program ends.
            if self.impatient.recv_timeout(RETRY_TIME) == Err(RecvTimeoutError::Disconnected) {
                self.watch.dropped.fetch_add(1, Ordering::Relaxed);
                return;
            }
        }
        self.buffer.clear();
    }
}

/// Lines that wait to be written; later ones are dropped. At 300 bytes a line this is 5 MB of
/// memory.
const LINES_MAX: usize = 16 * 1024;
/// Time between a failed write and the next attempt.
const RETRY_TIME: Duration = Duration::from_millis(100);
/// The longest wait for the log at the program's end. It may occur twice: to queue the end and to
/// see it.
const FINISH_TIME: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
