//! The log: lines are put into a bounded queue and written to stderr by a thread of their own.
//!
//! Whoever logs never waits. When the queue is full, because nobody reads stderr fast enough, the
//! line is dropped and counted, and the count is logged once the writer has caught up.
use std::borrow::Cow;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use log::{Level, LevelFilter, Log, Metadata, Record};
use simple_logger::SimpleLogger;

/// Makes this the program's log, down to a level.
///
/// # Errors
/// The thread cannot be started, or the process has a log already.
pub(crate) fn start(level: LevelFilter) -> io::Result<LogGuard> {
    let stderr = SimpleLogger::new().with_level(level).with_utc_timestamps();
    let (queue, guard) = spawn(level, LINES_MAX, move |line| line.write_to(&stderr))?;
    log::set_boxed_logger(Box::new(queue)).map_err(io::Error::other)?;
    log::set_max_level(level);
    Ok(guard)
}

/// The running log; [`LogGuard::finish`] ends it.
#[derive(Debug)]
#[must_use = "lines that are still queued are lost unless the log is finished"]
pub(crate) struct LogGuard {
    messages: Sender<Message>,
    ended: Receiver<()>,
}

impl LogGuard {
    /// Waits until the lines queued so far are written, but no longer than [`FINISH_TIME`].
    pub(crate) fn finish(self) {
        if self.messages.send_timeout(Message::Finish, FINISH_TIME).is_ok() {
            // Nothing is ever sent: the writer ends by dropping its side.
            let _ = self.ended.recv_timeout(FINISH_TIME);
        }
    }
}

/// The end of the queue that the program logs into.
struct LineQueue {
    level: LevelFilter,
    messages: Sender<Message>,
    dropped: Arc<AtomicU64>,
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
        let line = Line { level: record.level(), target, text: record.args().to_string() };
        if self.messages.try_send(Message::Line(line)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Does nothing: it would have to wait. [`LogGuard::finish`] does it at the end.
    fn flush(&self) {}
}

/// What goes through the queue.
#[derive(Debug)]
enum Message {
    Line(Line),
    Finish,
}

/// One line of the log, formatted where it was logged.
#[derive(Debug)]
struct Line {
    level: Level,
    target: Cow<'static, str>,
    text: String,
}

impl Line {
    /// Writes it, control characters escaped so that it stays one line.
    fn write_to(&self, log: &SimpleLogger) {
        let mut record = Record::builder();
        record.level(self.level).target(&self.target);
        if self.text.contains(char::is_control) {
            log.log(&record.args(format_args!("{}", self.text.escape_debug())).build());
        } else {
            log.log(&record.args(format_args!("{}", self.text)).build());
        }
    }
}

/// Starts a writer behind a queue of `lines_max` lines.
fn spawn(
    level: LevelFilter,
    lines_max: usize,
    mut write: impl FnMut(&Line) + Send + 'static,
) -> io::Result<(LineQueue, LogGuard)> {
    let (messages, queued) = crossbeam_channel::bounded(lines_max);
    let (ending, ended) = crossbeam_channel::bounded(0);
    let dropped = Arc::new(AtomicU64::new(0));
    let queue = LineQueue { level, messages: messages.clone(), dropped: Arc::clone(&dropped) };
    thread::Builder::new().name("log".to_owned()).spawn(move || {
        // Dropped after the queue, whatever ends this thread: who sees the end sends in vain.
        let _ending: Sender<()> = ending;
        let queued = queued;
        while let Ok(message) = queued.recv() {
            let is_last = matches!(message, Message::Finish);
            if let Message::Line(line) = message {
                write(&line);
            }
            if is_last || queued.is_empty() {
                let count = dropped.swap(0, Ordering::Relaxed);
                if count > 0 {
                    write(&dropped_line(count));
                }
            }
            if is_last {
                break;
            }
        }
    })?;
    Ok((queue, LogGuard { messages, ended }))
}

/// The line about lines that are not there.
fn dropped_line(count: u64) -> Line {
    Line {
        level: Level::Warn,
        target: Cow::Borrowed(module_path!()),
        text: format!("{count} log lines dropped: stderr was not read fast enough"),
    }
}

/// Lines that wait to be written, one second of a busy access log; then they are dropped.
const LINES_MAX: usize = 16 * 1024;
/// How long the program's end waits for the log, twice at worst: to queue the end, and to see it.
const FINISH_TIME: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    /// Logs one line through a queue.
    fn log(queue: &LineQueue, level: Level, text: &str) {
        queue.log(&Record::builder().level(level).target("t").args(format_args!("{text}")).build());
    }

    /// Lines are written in order, those below the level are not, and the end waits for them.
    #[test]
    fn lines_are_written_in_order() {
        let (written, lines) = crossbeam_channel::unbounded();
        let write = move |line: &Line| written.send(line.text.clone()).expect("a reader");
        let (queue, guard) = spawn(LevelFilter::Info, 8, write).expect("a thread");
        log(&queue, Level::Info, "one");
        log(&queue, Level::Debug, "hidden");
        log(&queue, Level::Error, "two");
        guard.finish();
        assert_eq!(lines.try_iter().collect::<Vec<_>>(), ["one", "two"]);
    }

    /// With the writer held up, lines beyond the queue are dropped at once; their count is told
    /// after the lines that were queued.
    #[test]
    fn lines_beyond_the_queue_are_counted() {
        let (written, lines) = crossbeam_channel::unbounded();
        let (gate, opened) = crossbeam_channel::bounded::<()>(0);
        let write = move |line: &Line| {
            written.send(line.text.clone()).expect("a reader");
            // Held up until the gate is gone.
            let _ = opened.recv();
        };
        let (queue, guard) = spawn(LevelFilter::Info, 2, write).expect("a thread");
        log(&queue, Level::Info, "0");
        let first = lines.recv().expect("the first line, then the writer is held up");
        for text in ["1", "2", "3", "4", "5"] {
            log(&queue, Level::Info, text);
        }
        drop(gate);
        guard.finish();
        let rest: Vec<String> = lines.try_iter().collect();
        assert_eq!(first, "0");
        let told = "3 log lines dropped: stderr was not read fast enough";
        assert_eq!(rest, ["1", "2", told]);
    }

    /// A writer that is gone costs lines and nothing else: neither logging nor the end waits.
    #[test]
    fn dead_writer_is_harmless() {
        let write = |_: &Line| std::panic::resume_unwind(Box::new("stderr is closed"));
        let (queue, guard) = spawn(LevelFilter::Info, 1, write).expect("a thread");
        log(&queue, Level::Info, "its end");
        guard.ended.recv().expect_err("the writer has ended");
        for _ in 0..3 {
            log(&queue, Level::Info, "lost");
        }
        assert_eq!(queue.dropped.load(Ordering::Relaxed), 3);
        guard.finish();
    }
}
