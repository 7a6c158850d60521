//! Recordings: the router's journal, written to a file by a separate thread.
//!
//! The router's thread fills blocks of 32 KiB and puts them into a bounded queue; it never waits.
//! If the disk is too slow and the queue is full, the block is lost and counted. The loss is
//! reported in the file before the next block, in a field of /stats, and in one log line per
//! outage. Buffers are returned to the router's thread, so nothing is allocated in steady state.
//!
//! A block that cannot be written, for example to a full disk, is lost and reported in the same
//! way. Writing continues with the next block.
//!
//! A recording ends when its router is dropped or a reload replaces it. [`RecordGuard`] waits until
//! it is written. `files.rs` writes the files.
mod files;

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam_channel::Receiver;
use intelliproxy_core::Instant;
use intelliproxy_core::journal::{Header, JournalSink};
use log::{Level, info, log, warn};

use self::files::Files;
use super::worker::{Ended, Queue, Worker};
use crate::config::RecordingRules;

/// The router's side of the queue.
#[derive(Debug)]
pub(crate) struct Recorder {
    messages: Queue<Message>,
    blocks_max: usize,
    spares: Receiver<Vec<u8>>,
    unwritten: Arc<AtomicU64>,
    /// Whether the last block was lost. Only the first loss of an outage is logged.
    is_losing: bool,
}

/// Waits, when dropped, until the recording is written, for at most [`FINISH_TIME`]. The recorder
/// must be dropped first.
#[derive(Debug)]
#[must_use = "queued records are lost unless the guard is finished"]
pub(crate) struct RecordGuard {
    ended: Ended,
    names: Names,
}

impl RecordGuard {
    /// The names of its files.
    pub(crate) fn names(&self) -> Names {
        self.names.clone()
    }

    /// Whether everything is written.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.wait(Duration::ZERO)
    }
}

/// A message to the writing thread.
#[derive(Debug)]
enum Message {
    Begin(Box<Header>),
    Block { payload: Vec<u8>, at: Instant, records: u64 },
}

/// A recording with an open file that has not begun. Dropping it removes the file.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) recorder: Recorder,
    pub(crate) guard: RecordGuard,
}

/// Whether a recording may still create files. Once the next recording is open it may not, because
/// both may use the same names. Locked while files are created.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    is_superseded: Arc<Mutex<bool>>,
}

impl Names {
    fn lock(&self) -> MutexGuard<'_, bool> {
        self.is_superseded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens the file and starts the writer; `None` if no recording is configured. From now on the
/// recording that owns `before`, if any, creates no more files.
///
/// # Errors
/// The reason why the file cannot be created, in one line.
pub(crate) fn open(
    rules: &RecordingRules,
    before: Option<Names>,
) -> Result<Option<Opened>, String> {
    let Some(path) = &rules.file else {
        return Ok(None);
    };
    let fail = |error: io::Error| {
        format!("cannot record into {path}: {}", crate::plain::os_error_text(&error))
    };
    let before = before.unwrap_or_default();
    let mut is_superseded = before.lock();
    let files = Files::create(path.into(), rules.bytes_max, rules.files).map_err(fail)?;
    let opened = spawn(files, BLOCKS_MAX, before.clone()).map_err(fail)?;
    *is_superseded = true;
    Ok(Some(opened))
}

/// Starts a writer behind a queue of `blocks_max` blocks.
fn spawn(mut files: Files, blocks_max: usize, before: Names) -> io::Result<Opened> {
    let (spare, spares) = crossbeam_channel::bounded(blocks_max);
    let unwritten = Arc::new(AtomicU64::new(0));
    let lost = Arc::clone(&unwritten);
    let names = files.names();
    let room = blocks_max + RESERVED;
    let Worker { queue, ended } = Worker::start("record", room, move |queued| {
        let mut failure = Failure::default();
        let mut has_begun = false;
        for message in queued {
            let (result, records) = match message {
                Message::Begin(header) => {
                    if !std::mem::replace(&mut has_begun, true) {
                        info!("recording the router's inputs into {}", files.path().display());
                    }
                    (files.begin(*header), 0)
                }
                Message::Block { mut payload, at, records } => {
                    let result = files.write(&payload, at, records);
                    payload.clear();
                    // Surplus buffers are freed.
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
        if !has_begun {
            let mut is_superseded = before.lock();
            files.undo();
            *is_superseded = false;
        }
    })?;
    let recorder = Recorder { messages: queue, blocks_max, spares, unwritten, is_losing: false };
    Ok(Opened { recorder, guard: RecordGuard { ended, names } })
}

/// An outage: a period in which blocks could not be written.
#[derive(Debug, Default)]
struct Failure {
    is_on: bool,
    /// Records lost in the outage.
    records: u64,
}

impl Failure {
    /// Records the result of a write. Returns a log line when an outage begins or ends.
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
        // If a later header is lost, the file is still readable: a record also contains the new
        // configuration.
        let _ = self.messages.offer(Message::Begin(Box::new(header.clone())));
    }

    fn put(&mut self, block: &mut Vec<u8>, at: Instant, records: u64, is_last: bool) -> bool {
        let spare = self.spares.try_recv().unwrap_or_default();
        let payload = std::mem::replace(block, spare);
        let message = Message::Block { payload, at, records };
        // Room in the queue is reserved for the last block, so that a recording always has its end
        // mark.
        let sent = if is_last || self.messages.len() < self.blocks_max {
            self.messages.offer(message)
        } else {
            Err(message)
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

/// The maximum number of blocks that wait to be written: 2 MiB, about a second at 100 000 requests
/// per second.
const BLOCKS_MAX: usize = 64;
/// Room in the queue in addition to [`BLOCKS_MAX`], for the last block and for headers.
const RESERVED: usize = 4;
/// The longest wait for the disk when the program ends.
const FINISH_TIME: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
