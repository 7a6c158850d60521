//! Records every input of a router with its time in a compact file, and replays such a file with
//! the same results, bit for bit.
//!
//! [`RecordedRouter`] writes, [`Reader`] reads, [`Replay`] checks, [`Shadow`] decides again under
//! other rules. This module does not open files: blocks are passed to a [`JournalSink`] and read as
//! bytes.
//!
//! # Format, version 2
//! Numbers are LEB128 varints unless a size is given. Numbers with a size are little-endian.
//!
//! ```text
//! file     magic(8) version(u16) frame header-as-JSON, then blocks
//! frame    length(u32) crc32(u32: of length and what follows)
//! block    frame base-time base-lease lost, then records
//! record   tag(u8; bit 7: no time has passed) [ns since the record before] fields
//! ```
//! Times are exact, in nanoseconds. The first time of a block is relative to its base time, and a
//! lease is relative to the last one issued, so each block can be read by itself. `lost` is the
//! number of records that are missing before a block because the writer was too slow or failed. A
//! backend is twice its slot, plus 1 if a generation above 0 follows.
//!
//! Version 1 is not supported: it had slots without generations, no refusals and no pauses, and its
//! routers decided differently.
//!
//! The format does not use a serialization crate, because old recordings must stay readable and
//! frequent records must be appended without an allocation.
//!
//! | record | fields | bytes at 1000 requests a second |
//! |---|---|---|
//! | timed out | | 1–5 |
//! | routed, first attempt | groups of the asker, backend | 5–7 |
//! | routed | groups of the asker, tried, backend, lease | 9 |
//! | routed with a key | groups of the asker, key (u64), its owner, tried, backend, lease | 18 |
//! | not routed | tried, reason | 6 |
//! | probe started | probe, backend, kind | 4 |
//! | probe answered | probe, ns, report | 10–35 |
//! | probe failed | probe, failure | 7 |
//! | finished with 200 | lease, ns | 9 |
//! | finished otherwise | lease, status and ns, or failure | 7–11 |
//! | refused | lease, status, hold | 6–11 |
//! | stream opened | lease, backend, status, ns | 11 |
//! | lease paused, lease resumed | lease, backend | 6 |
//! | load reported | backend, figures | 6–30 |
//! | reconfigured | JSON | its length |
//! | restored | JSON | its length |
//! | end | whether the recording continues in another file | 3 |
//!
//! Together, the records for the start and the end of a request take about 16 bytes. A file ends
//! with its end mark; a file without one was cut off.
mod crc;
mod encode;
mod error;
mod header;
mod read;
mod record;
mod recorded;
mod replay;
mod shadow;
mod wire;

pub use encode::{end_block, gap_block};
pub use error::{Fault, JournalError};
pub use header::{Header, frame};
pub use read::Reader;
pub use record::{Admission, Entry, Record};
pub use recorded::{JournalSink, RecordedRouter, RecordingCounts};
pub use replay::{Replay, Step};
pub use shadow::{Choice, Shadow};

/// The version of the format that is written and read.
pub const VERSION: u16 = 2;
