//! The log: lines go through a bounded queue to a thread, which writes them to stderr or a file.
//!
//! A caller that logs never waits. A line that finds the queue full, because stderr is not read
//! fast enough, is dropped and counted. A failed write, because the disk is full or the reader of
//! a pipe has left, is counted and repeated until it succeeds; lines wait in the queue meanwhile.
//! When writing succeeds again, a line reports the losses. [`LogWatch`] reads the counts.
//!
//! The log does not use the appender of a crate: it must never wait, must count dropped lines, and
//! must repeat failed writes. No such appender does all three.
use std::borrow::Cow;
use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use log::{Level, Log, Metadata, Record};

use super::worker::{Ended, Queue, Worker};
use super::{disk, json};
use crate::config::{Levels, LogFormat, LogRules};
use crate::pages::LogCounts;
use crate::plain::os_error_text;
use crate::plain::plain;
use crate::utc::Utc;

/// Installs this log for the program.
///
/// # Errors
/// The file cannot be opened, the thread cannot be started, or the process already has a log; in
/// one line.
pub(crate) fn start(rules: &LogRules) -> Result<LogGuard, String> {
    let Opened { levels, output } = Opened::new(rules)?;
    let lowest = levels.lowest();
    let fail = |error: io::Error| format!("cannot start the log: {}", os_error_text(&error));
    let (queue, guard) = spawn(levels, output, LINES_MAX).map_err(fail)?;
    log::set_boxed_logger(Box::new(queue)).map_err(|error| fail(io::Error::other(error)))?;
    log::set_max_level(lowest);
    Ok(guard)
}

/// The rules of a log with its open file.
#[derive(Debug)]
pub(crate) struct Opened {
    levels: Levels,
    output: Output,
}

/// The destination and the form of lines.
#[derive(Debug)]
struct Output {
    format: LogFormat,
    out: Box<dyn Target>,
}

impl Opened {
    /// Opens the file of these rules.
    ///
    /// # Errors
    /// The reason why it cannot be opened, in one line.
    pub(crate) fn new(rules: &LogRules) -> Result<Self, String> {
        let levels = Levels::parse(&rules.level).ok_or("log.level is invalid")?;
        let out: Box<dyn Target> = match &rules.file {
            None => Box::new(io::stderr()),
            Some(path) => Box::new(LogFile::open(path).map_err(|error| {
                format!("cannot write the log {path}: {}", os_error_text(&error))
            })?),
        };
        Ok(Self { levels, output: Output { format: rules.format, out } })
    }
}

/// A change of form and file.
#[derive(Debug)]
struct Next {
    output: Output,
    /// Whether a [`Message::Set`] is queued for it. Otherwise the queue was full, and the writer
    /// makes the change before its next line.
    is_queued: bool,
}

/// The destination of lines.
trait Target: Write + Send + fmt::Debug {
    /// Opens its file again; does nothing for a target without a file.
    fn reopen(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// The reason for lost lines, if it is too slow.
    fn slowness(&self) -> String {
        "stderr was not read fast enough".to_owned()
    }
}

impl Target for io::Stderr {}

/// A file of the log.
#[derive(Debug)]
struct LogFile {
    file: File,
    path: String,
}

impl LogFile {
    fn open(path: &str) -> io::Result<Self> {
        Ok(Self { file: disk::append(Path::new(path))?, path: path.to_owned() })
    }
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Target for LogFile {
    fn reopen(&mut self) -> io::Result<()> {
        self.file = disk::append(Path::new(&self.path))?;
        Ok(())
    }

    fn slowness(&self) -> String {
        format!("{} was not written fast enough", self.path)
    }
}

/// The running log. [`LogGuard::finish`] ends it.
#[derive(Debug)]
#[must_use = "lines that are still queued are lost unless the log is finished"]
pub(crate) struct LogGuard {
    messages: Queue<Message>,
    /// Dropped when the program ends. After that failed writes are not repeated.
    patience: Sender<()>,
    ended: Ended,
    watch: LogWatch,
}

impl LogGuard {
    /// Waits until the lines queued so far are written, but no longer than twice [`FINISH_TIME`].
    pub(crate) fn finish(self) {
        self.finish_within(FINISH_TIME);
    }

    fn finish_within(self, time: Duration) {
        let Self { messages, patience, ended, .. } = self;
        // First of all: a writer that repeats a failed write reads no messages.
        drop(patience);
        if messages.insist(Message::Finish, time).is_ok() {
            let _ = ended.wait(time);
        }
    }

    /// Returns a reader of the log's counts.
    pub(crate) fn watch(&self) -> LogWatch {
        self.watch.clone()
    }
}

/// The reactor's access to the log: its counts, and requests to open or change its file.
#[derive(Clone, Debug, Default)]
pub(crate) struct LogWatch {
    dropped: Arc<AtomicU64>,
    failed_writes: Arc<AtomicU64>,
    /// Whether the writer is to open its file again.
    is_reopen_asked: Arc<AtomicBool>,
    /// The change that the writer is to make.
    next: Arc<Mutex<Option<Next>>>,
    levels: Arc<RwLock<Levels>>,
    messages: Option<Queue<Message>>,
}

impl LogWatch {
    /// Requests that the writer open its file again, so that a renamed one is closed.
    pub(crate) fn reopen(&self) {
        self.is_reopen_asked.store(true, Ordering::Release);
        if let Some(messages) = &self.messages {
            // The writer of a full queue checks the flag without a message.
            let _ = messages.nudge(Message::Reopen);
        }
    }

    /// Changes the levels, and requests that the writer change form and file. Earlier lines go to
    /// the old file, unless writing fails or the queue is full.
    pub(crate) fn set(&self, opened: Opened) {
        let Some(messages) = &self.messages else { return };
        let Opened { levels, output } = opened;
        let lowest = levels.lowest();
        if let Ok(mut current) = self.levels.write() {
            *current = levels;
        }
        log::set_max_level(lowest);
        // Locked first: otherwise the writer could get the message before the change is there.
        let mut next = self.next();
        *next = Some(Next { output, is_queued: messages.nudge(Message::Set) });
    }

    fn next(&self) -> MutexGuard<'_, Option<Next>> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The counts since the program's start.
    pub(crate) fn counts(&self) -> LogCounts {
        LogCounts {
            dropped: self.dropped.load(Ordering::Relaxed),
            failed_writes: self.failed_writes.load(Ordering::Relaxed),
            limited: 0,
        }
    }
}

/// The logger of the `log` crate. It queues lines for the writer.
struct LineQueue {
    levels: Arc<RwLock<Levels>>,
    messages: Queue<Message>,
}

impl Log for LineQueue {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.levels.read().is_ok_and(|levels| metadata.level() <= levels.of(metadata.target()))
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        // Nearly all lines name their own module, whose path needs no copy.
        let target = match record.module_path_static() {
            Some(module) if module == record.target() => Cow::Borrowed(module),
            _ => Cow::Owned(record.target().to_owned()),
        };
        let line = Line::new(record.level(), target, record.args().to_string());
        // If there is no room, the queue counts the line as dropped.
        let _ = self.messages.offer(Message::Line(line));
    }

    /// Does nothing, because flushing would have to wait. [`LogGuard::finish`] waits at the end.
    fn flush(&self) {}
}

/// A message of the queue.
#[derive(Debug)]
enum Message {
    Line(Line),
    /// Wakes the writer, which then opens its file again.
    Reopen,
    /// Later lines use the form and the file of [`LogWatch::next`].
    Set,
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

    /// A line about the log itself.
    fn own(text: String) -> Self {
        Self::new(Level::Warn, Cow::Borrowed(module_path!()), text)
    }
}

impl Line {
    /// Appends the line as a JSON object.
    fn write_json(&self, out: &mut Vec<u8>) -> io::Result<()> {
        let level = self.level.as_str().to_ascii_lowercase();
        write!(out, "{{\"time\":\"{}\",\"level\":\"{level}\",\"module\":", Stamp(self.at))?;
        json::put_string(out, self.target.as_bytes());
        out.extend_from_slice(b",\"text\":");
        json::put_string(out, self.text.as_bytes());
        out.extend_from_slice(b"}\n");
        Ok(())
    }
}

/// A time in UTC, to the millisecond.
struct Stamp(SystemTime);

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = self.0.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let Utc { year, month, day, hour, minute, second } = Utc::from_seconds(since.as_secs());
        let millis = since.subsec_millis();
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
    }
}

/// Formats time, level, module and text. Invisible characters are escaped, so it stays one line.
impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = self.level;
        write!(f, "{} {level:<5} [{}] {}", Stamp(self.at), self.target, plain(&self.text))
    }
}

/// Starts a writer behind a queue of `lines_max` lines.
fn spawn(levels: Levels, output: Output, lines_max: usize) -> io::Result<(LineQueue, LogGuard)> {
    let (patience, impatient) = crossbeam_channel::bounded(0);
    let failed_writes = Arc::<AtomicU64>::default();
    let is_reopen_asked = Arc::<AtomicBool>::default();
    let (counted, reopens) = (Arc::clone(&failed_writes), Arc::clone(&is_reopen_asked));
    let next = Arc::<Mutex<Option<Next>>>::default();
    let following = Arc::clone(&next);
    let Worker { queue, ended } = Worker::start("log", lines_max, move |mut queued| {
        let watch = LogWatch {
            dropped: queued.dropped(),
            failed_writes: counted,
            is_reopen_asked: reopens,
            next: following,
            ..LogWatch::default()
        };
        let buffer = Vec::new();
        let mut writer = Writer {
            output,
            watch,
            impatient,
            buffer,
            told_dropped: 0,
            unwritten: None,
            failure: None,
        };
        while let Some(message) = queued.next() {
            // A change that found the queue full has no message of its own.
            writer.change(|next| !next.is_queued);
            writer.reopen_if_asked();
            // A failed reopening is reported before later lines, in the file that is kept.
            if let Some(line) = writer.unwritten.take() {
                writer.write(&line);
            }
            let is_last = matches!(message, Message::Finish);
            match message {
                Message::Line(line) => writer.write(&line),
                Message::Set => {
                    writer.change(|_| true);
                }
                Message::Reopen | Message::Finish => {}
            }
            // Dropped lines are reported when the queue is empty, so that the count covers a whole
            // burst.
            if is_last || queued.is_empty() {
                writer.tell_dropped();
            }
            if is_last {
                break;
            }
        }
    })?;
    let messages = Some(queue.clone());
    let levels = Arc::new(RwLock::new(levels));
    let watch = LogWatch {
        dropped: queue.dropped(),
        failed_writes,
        is_reopen_asked,
        next,
        levels: Arc::clone(&levels),
        messages,
    };
    let guard = LogGuard { messages: queue.clone(), patience, ended, watch };
    Ok((LineQueue { levels, messages: queue }, guard))
}

/// Writes lines and counts failures.
struct Writer {
    output: Output,
    watch: LogWatch,
    /// Disconnected once the program ends.
    impatient: Receiver<()>,
    /// Reused: the bytes of one line.
    buffer: Vec<u8>,
    /// The number of dropped lines that a log line has already reported.
    told_dropped: u64,
    /// A line about a file that could not be opened again.
    unwritten: Option<Line>,
    /// The number of failed writes since the last success, and the error of the first one.
    failure: Option<(u64, String)>,
}

impl Writer {
    /// Writes a line. If writes had failed, a second line reports them.
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
            let why = self.output.out.slowness();
            self.write(&Line::own(format!("{count} log lines dropped: {why}")));
        }
    }

    /// Reopens the file if that was requested. If that fails, logs the failure and keeps the open
    /// file.
    fn reopen_if_asked(&mut self) {
        if self.watch.is_reopen_asked.load(Ordering::Acquire) {
            self.reopen();
        }
    }

    /// Opens the file again. Returns whether it was opened.
    fn reopen(&mut self) -> bool {
        self.watch.is_reopen_asked.store(false, Ordering::Release);
        let Err(error) = self.output.out.reopen() else { return true };
        let wrong = os_error_text(&error);
        let text = format!("log: cannot be opened again: {wrong}: keeping the open file");
        self.unwritten = Some(Line::own(text));
        false
    }

    /// Makes the requested change, if it is due. Returns whether there was one.
    fn change(&mut self, is_due: impl FnOnce(&Next) -> bool) -> bool {
        let next = self.watch.next().take_if(|next| is_due(next));
        next.map(|next| self.output = next.output).is_some()
    }

    /// Fills the buffer with one line.
    fn encode(&mut self, line: &Line) {
        self.buffer.clear();
        // Writing into a vector does not fail.
        let _ = match self.output.format {
            LogFormat::Text => writeln!(self.buffer, "{line}"),
            LogFormat::Json => line.write_json(&mut self.buffer),
        };
    }

    /// Writes one line, continuing where a failed write stopped. Empties the buffer unless the line
    /// was abandoned because the program ends.
    fn put(&mut self, line: &Line) {
        self.encode(line);
        let mut written = 0;
        while let Some(rest) = self.buffer.get(written..).filter(|rest| !rest.is_empty()) {
            let error = match self.output.out.write(rest) {
                // Counts as a failure: repeating it at once could go on for ever.
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
            let is_reopen_asked = self.watch.is_reopen_asked.load(Ordering::Acquire);
            // Another file may be what ends the failure, so it is not left for the next message.
            if self.change(|_| true) || (is_reopen_asked && self.reopen()) {
                // The line is written completely into the new file.
                self.encode(line);
                written = 0;
            }
        }
        self.buffer.clear();
    }
}

/// The maximum number of lines that wait to be written; later ones are dropped. At 300 bytes a line
/// this is 5 MB of memory.
const LINES_MAX: usize = 16 * 1024;
/// Time between a failed write and the next attempt.
const RETRY_TIME: Duration = Duration::from_millis(100);
/// The longest wait for the log when the program ends. It may be needed twice: to queue the end and
/// to wait for it.
const FINISH_TIME: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
