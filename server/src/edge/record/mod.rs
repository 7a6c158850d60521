//! Recordings: the router's journal on its way to a file, by a thread of its own.
//!
//! The router's thread fills blocks of 32 KiB and puts them into a bounded queue; it never waits.
//! When the queue is full, because the disk does not keep up, the block is lost and counted: the
//! file tells of it before the next block, /stats in a field, the log once for each time. Buffers
//! go back and forth, so that nothing is allocated in steady state.
//!
//! A block that cannot be written, because the disk is full, is lost and reported in the same way;
//! the next one is tried.
//!
//! A recording ends when its router does; [`RecordGuard`] waits until it is written.
mod files;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::Receiver;
use intelliproxy_core::Instant;
use intelliproxy_core::journal::{Header, JournalSink};
use log::{Level, info, log, warn};

use self::files::Files;
use super::worker::{Ended, Queue, Worker};
use crate::config::RecordingRules;

/// The router's end of the queue.
#[derive(Debug)]
pub(crate) struct Recorder {
    messages: Queue<Message>,
    spares: Receiver<Vec<u8>>,
    unwritten: Arc<AtomicU64>,
    /// Whether the last block was lost: logged once.
    is_losing: bool,
}

/// Waits, when it is dropped, for the end of a recording whose router has gone; five seconds at
/// most.
#[derive(Debug)]
#[must_use = "queued records are lost unless the guard is finished"]
pub(crate) struct RecordGuard {
    ended: Ended,
}

/// A message to the writing thread.
#[derive(Debug)]
enum Message {
    Begin(Box<Header>),
    Block { payload: Vec<u8>, at: Instant, records: u64 },
}

/// Opens the file and starts the writer; `None` when nothing is to be recorded.
///
/// # Errors
/// Why the file cannot be made, in one line.
pub(crate) fn start(rules: &RecordingRules) -> Result<Option<(Recorder, RecordGuard)>, String> {
    let Some(path) = &rules.file else {
        return Ok(None);
    };
    let fail = |error: io::Error| {
        format!("cannot record into {path}: {}", crate::plain::os_error_text(&error))
    };
    let files = Files::create(path.into(), rules.bytes_max, rules.files).map_err(fail)?;
    info!("recording the router's inputs into {}", files.path().display());
    spawn(files, BLOCKS_MAX).map(Some).map_err(fail)
}

/// Starts a writer behind a queue of `blocks_max` blocks.
fn spawn(mut files: Files, blocks_max: usize) -> io::Result<(Recorder, RecordGuard)> {
    let (spare, spares) = crossbeam_channel::bounded(blocks_max);
    let unwritten = Arc::new(AtomicU64::new(0));
    let lost = Arc::clone(&unwritten);
    let Worker { queue, ended } = Worker::start("record", blocks_max, move |queued| {
        let mut failure = Failure::default();
        for message in queued {
            let (result, records) = match message {
                Message::Begin(header) => (files.begin(*header), 0),
                Message::Block { mut payload, at, records } => {
                    let result = files.write(&payload, at, records);
                    payload.clear();
                    // A spare too many is let go.
                    let _ = spare.try_send(payload);
                    (result, records)
                }
            };
            if result.is_err() {
                lost.fetch_add(records, Ordering::Relaxed);
            }
            if let Some((level, line)) = failure.note(files.path(), &result, records) {
                log!(level, "{line}");
            }
        }
    })?;
    let recorder = Recorder { messages: queue, spares, unwritten, is_losing: false };
    Ok((recorder, RecordGuard { ended }))
}

/// A time in which blocks could not be written.
#[derive(Debug, Default)]
struct Failure {
    is_on: bool,
    /// Records lost in it.
    records: u64,
}

impl Failure {
    /// Takes the outcome of one write; returns the line of the log when a failure begins or ends.
    fn note(
        &mut self,
        path: &Path,
        result: &io::Result<()>,
        records: u64,
    ) -> Option<(Level, String)> {
        let path = path.display();
        let had_failed = std::mem::replace(&mut self.is_on, result.is_err());
        match result {
            Err(wrong) => {
                self.records += records;
                let wrong = crate::plain::os_error_text(wrong);
                let then = "dropping records until writing succeeds";
                (!had_failed).then(|| (Level::Error, format!("recording {path}: {wrong}: {then}")))
            }
            Ok(()) if had_failed => {
                let lost = std::mem::take(&mut self.records);
                let line = format!("recording {path}: written again, {lost} records lost");
                Some((Level::Warn, line))
            }
            Ok(()) => None,
        }
    }
}

impl JournalSink for Recorder {
    fn begin(&mut self, header: &Header) {
        // Without its new header a file is still readable: a record configures it again.
        let _ = self.messages.offer(Message::Begin(Box::new(header.clone())));
    }

    fn put(&mut self, block: &mut Vec<u8>, at: Instant, records: u64, is_last: bool) -> bool {
        let spare = self.spares.try_recv().unwrap_or_default();
        let payload = std::mem::replace(block, spare);
        let message = Message::Block { payload, at, records };
        let sent = if is_last {
            self.messages.insist(message, FINISH_TIME)
        } else {
            self.messages.offer(message).map_err(|refused| refused.message)
        };
        match sent {
            Ok(()) => self.is_losing = false,
            Err(message) => {
                if let Message::Block { mut payload, .. } = message {
                    payload.clear();
                    *block = payload;
                }
                if !self.is_losing {
                    warn!("recording: disk too slow, {records} or more records lost");
                }
                self.is_losing = true;
            }
        }
        !self.is_losing
    }

    fn unwritten(&self) -> u64 {
        self.unwritten.load(Ordering::Relaxed)
    }
}

impl Drop for RecordGuard {
    fn drop(&mut self) {
        let _ = self.ended.wait(FINISH_TIME);
    }
}

/// Blocks that wait to be written: 2 MiB, about a second of 100 000 requests.
const BLOCKS_MAX: usize = 64;
/// Longest wait for the disk at the program's end, spent twice at worst.
const FINISH_TIME: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
