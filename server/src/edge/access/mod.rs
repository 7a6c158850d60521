//! The access log: one line for each exchange, written by a separate thread.
//!
//! The proxy makes records (`crate::access`). The reactor's thread passes them to the writer in
//! blocks and never waits. The writer (`writer.rs`) formats them (`format.rs`) and writes each
//! block at once.
//!
//! If the queue is full, a block is lost and its lines are counted. The reactor's thread reports
//! the loss in the program's log, at most once a second. If a write fails, because the disk is full
//! or the reader of a pipe has left, the failure is counted and the write is repeated until it
//! succeeds. Meanwhile blocks wait in the queue. One line in the program's log reports the failure.
//! Another one reports the first success and the number of lost lines.
//!
//! SIGUSR1 makes the writer reopen its file, so that a renamed file is closed.
mod format;
mod part;
mod writer;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use crossbeam_channel::{Receiver, Sender};
use intelliproxy_core::Instant;
use log::{info, warn};

use self::writer::{Sink, Writer};
use super::worker::{Ended, Queue, Worker};
use crate::access::Records;
use crate::config::{AccessLogFormat, AccessLogRules};
use crate::pages::AccessCounts;
use crate::plain::os_error_text;
use crate::proxy::Proxy;

/// The reactor's side of an access log.
#[derive(Debug)]
pub(crate) struct AccessLog {
    messages: Queue<Message>,
    /// Emptied blocks.
    spares: Receiver<Records>,
    /// The time at which the waiting records are passed on.
    flush_at: Option<Instant>,
    /// The time from which the reactor may report lost lines again.
    tell_at: Option<Instant>,
    /// The file, for the program's log.
    name: String,
    state: Arc<State>,
    /// Dropped when the log ends. After that, failed writes are not repeated.
    patience: Sender<()>,
    ended: Ended,
}

/// The losses of all access logs since the program's start.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    dropped: AtomicU64,
    failed_writes: AtomicU64,
}

impl Totals {
    /// Returns the counts of lost lines and failed writes.
    pub(crate) fn counts(&self) -> AccessCounts {
        AccessCounts {
            lines: 0,
            dropped: self.dropped.load(Ordering::Relaxed),
            failed_writes: self.failed_writes.load(Ordering::Relaxed),
        }
    }
}

/// The state that the reactor and the writer share.
#[derive(Debug, Default)]
pub(crate) struct State {
    totals: Arc<Totals>,
    /// Whether the writer must reopen the file.
    is_reopen_asked: AtomicBool,
    /// Whether the last write failed. While it is set, lost lines are reported by the writer, after
    /// its next success.
    is_failing: AtomicBool,
    /// The number of lines lost so far. `reported` is the number that the program's log has
    /// reported.
    dropped: AtomicU64,
    reported: AtomicU64,
}

impl State {
    /// Returns the number of lost lines that the program's log has not reported, and marks them as
    /// reported.
    fn report(&self) -> u64 {
        let lost = self.dropped();
        lost.saturating_sub(self.reported.fetch_max(lost, Ordering::Relaxed))
    }

    /// Counts lost lines.
    fn lose(&self, lines: u64) {
        self.dropped.fetch_add(lines, Ordering::Relaxed);
        self.totals.dropped.fetch_add(lines, Ordering::Relaxed);
    }

    fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Whether some lost lines have not been reported.
    fn has_news(&self) -> bool {
        self.reported.load(Ordering::Relaxed) < self.dropped()
    }
}

/// A message to the writer.
#[derive(Debug)]
pub(crate) enum Message {
    /// Records. `now` and `time_of_day` are the same moment.
    Block { records: Records, now: Instant, time_of_day: SystemTime },
    /// Wakes the writer, which then opens its file again.
    Reopen,
}

/// An access log that is ready to replace the current one.
#[derive(Debug)]
pub(crate) struct Opened {
    format: AccessLogFormat,
    sink: Option<Sink>,
}

impl Opened {
    /// Opens the file of these rules without writing to it.
    ///
    /// # Errors
    /// The reason why it cannot be opened, in one line.
    pub(crate) fn new(rules: &AccessLogRules) -> Result<Self, String> {
        let sink = match &rules.file {
            None => None,
            Some(path) => Some(Sink::open(path).map_err(|error| {
                format!("cannot write the access log {path}: {}", os_error_text(&error))
            })?),
        };
        Ok(Self { format: rules.format, sink })
    }

    /// Starts the writer; `None` if no file is configured.
    ///
    /// # Errors
    /// The thread cannot be started.
    fn start(self, totals: &Arc<Totals>) -> Result<Option<AccessLog>, String> {
        let Self { format, sink } = self;
        let Some(sink) = sink else { return Ok(None) };
        info!("writing the access log to {}", sink.name());
        AccessLog::spawn(format, sink, BLOCKS_MAX, totals)
            .map(Some)
            .map_err(|error| format!("cannot start the access log: {}", os_error_text(&error)))
    }
}

impl AccessLog {
    /// Starts a writer behind a queue of `blocks_max` blocks.
    fn spawn(
        format: AccessLogFormat,
        sink: Sink,
        blocks_max: usize,
        totals: &Arc<Totals>,
    ) -> std::io::Result<Self> {
        let (spare, spares) = crossbeam_channel::bounded(SPARES_MAX);
        let (patience, impatient) = crossbeam_channel::bounded(0);
        let state = Arc::new(State { totals: Arc::clone(totals), ..State::default() });
        let shared = Arc::clone(&state);
        let name = sink.name().to_owned();
        let Worker { queue, ended } = Worker::start("access", blocks_max, move |queued| {
            let mut writer = Writer::new(sink, format, shared, impatient);
            for message in queued {
                writer.reopen_if_asked();
                if let Message::Block { mut records, now, time_of_day } = message {
                    writer.write(&records, now, time_of_day);
                    records.clear();
                    // A surplus block is freed.
                    let _ = spare.try_send(records);
                }
            }
            writer.finish();
        })?;
        Ok(Self {
            messages: queue,
            spares,
            flush_at: None,
            tell_at: None,
            name,
            state,
            patience,
            ended,
        })
    }

    /// Replaces the log in `slot`, or removes it. Exchanges that have already ended are written to
    /// the old log, whose thread then ends. Returns a handle to the end of that thread.
    ///
    /// # Errors
    /// The new log cannot be started. In that case the old one continues.
    pub(crate) fn replace(
        slot: &mut Option<Self>,
        opened: Opened,
        totals: &Arc<Totals>,
        now: Instant,
        proxy: &mut Proxy,
    ) -> Result<Option<Ended>, String> {
        let new = opened.start(totals)?;
        if let Some(old) = slot {
            old.flush(now, proxy);
            old.warn();
        }
        Ok(std::mem::replace(slot, new).map(|old| old.ended))
    }

    /// Passes the waiting records to the writer if they are many or have waited long enough.
    pub(crate) fn handle_turn(&mut self, now: Instant, proxy: &mut Proxy) {
        if self.state.has_news() {
            self.tell(now);
        }
        let waiting = proxy.access_waiting();
        if waiting == 0 {
            return;
        }
        // Counted from the first waiting record, so none waits longer.
        let at = *self.flush_at.get_or_insert(now + FLUSH_EVERY);
        if waiting >= BLOCK_BYTES || at <= now {
            self.flush(now, proxy);
        }
    }

    /// The number of waiting bytes at which [`handle_turn`](Self::handle_turn) is due.
    pub(crate) const fn records_max(&self) -> usize {
        if self.flush_at.is_some() { BLOCK_BYTES } else { 1 }
    }

    /// Passes all waiting records to the writer.
    pub(crate) fn flush(&mut self, now: Instant, proxy: &mut Proxy) {
        self.flush_at = None;
        let records = proxy.take_access(self.spares.try_recv().unwrap_or_default());
        let lines = records.len() as u64;
        // The proxy's clock has no dates. This pair of times converts those of the records.
        let time_of_day = SystemTime::now();
        if self.messages.offer(Message::Block { records, now, time_of_day }).is_err() {
            self.state.lose(lines);
            self.tell(now);
        }
    }

    /// Reports lost lines, but at most once in [`REPORTS_APART`]. The writer cannot do this: it is
    /// blocked while the reader of a pipe reads nothing.
    fn tell(&mut self, now: Instant) {
        if self.tell_at.is_some_and(|at| now < at) {
            return;
        }
        self.tell_at = Some(now + REPORTS_APART);
        if !self.state.is_failing.load(Ordering::Relaxed) {
            self.warn();
        }
    }

    /// Reports the lost lines that have not been reported.
    fn warn(&self) {
        let count = self.state.report();
        if count > 0 {
            warn!("access log {}: not written fast enough, {count} lines lost", self.name);
        }
    }

    /// The time at which a turn is due even if nothing happens.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let tell_at = self.tell_at.filter(|_| self.state.has_news());
        self.flush_at.into_iter().chain(tell_at).min()
    }

    /// Requests that the writer reopen its file, so that a renamed file is closed. Records of
    /// earlier exchanges may go to either file.
    pub(crate) fn reopen(&self) {
        self.state.is_reopen_asked.store(true, Ordering::Release);
        // If the queue is full, no message is needed: the writer checks the flag with each block.
        let _ = self.messages.nudge(Message::Reopen);
    }

    /// Writes the remaining records, and ends the writer. Takes at most twice [`FINISH_TIME`].
    pub(crate) fn finish(self, now: Instant, proxy: &mut Proxy) {
        self.warn();
        // First, so that a writer that repeats a failed write takes the last block.
        drop(self.patience);
        let records = proxy.take_access(Records::default());
        if !records.is_empty() {
            let time_of_day = SystemTime::now();
            let lines = records.len() as u64;
            let block = Message::Block { records, now, time_of_day };
            if self.messages.insist(block, FINISH_TIME).is_err() {
                self.state.lose(lines);
            }
        }
        // The writer ends when it has taken all blocks and no sender is left.
        drop(self.messages);
        if !self.ended.wait(FINISH_TIME) {
            warn!("access log {}: the last lines were not written in time", self.name);
        }
    }
}

/// The number of waiting bytes at which a block is passed to the writer at once; about 200 lines.
/// Smaller blocks would wake the writer more often. Larger ones leave the cache before they are
/// written.
pub(crate) const BLOCK_BYTES: usize = 64 * 1024;
/// The maximum time for which records wait before they are passed to the writer.
const FLUSH_EVERY: Duration = Duration::from_millis(100);
/// The maximum number of blocks that wait to be written: 8 MiB, half a second at 50 000 requests a
/// second.
const BLOCKS_MAX: usize = 128;
/// The minimum time between two reports of lost lines.
const REPORTS_APART: Duration = Duration::from_secs(1);
/// The maximum number of emptied blocks that wait to be filled again.
const SPARES_MAX: usize = 8;
/// The maximum wait for the disk when the program ends. There may be two such waits.
const FINISH_TIME: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
