//! Time travel: every input of a router with its time, in a compact file; and the router run
//! through them again, which comes out the same bit for bit.
//!
//! [`RecordedRouter`] writes, [`Reader`] reads, [`Replay`] checks, [`Shadow`] decides again by
//! other rules. No file is opened here: blocks go to a [`JournalSink`], and come as bytes.
//!
//! # Format, version 2
//! Numbers are LEB128 varints unless a size is said; whatever has a size is little-endian.
//!
//! ```text
//! file     magic(8) version(u16) frame header-as-JSON, then blocks
//! frame    length(u32) crc32(u32: of length and what follows)
//! block    frame base-time base-lease lost, then records
//! record   tag(u8; bit 7: no time has passed) [ns since the record before] fields
//! ```
//! Times are nanoseconds and exact; a block's first is relative to its base time, a lease counts
//! from the last one given out, so each block is read by itself. `lost` counts the records that
//! are missing before a block because the writer could not keep up. A backend is twice its slot,
//! plus 1 where a generation above 0 follows.
//!
//! Version 1, which had slots without generations, is refused by name.
//!
//! Own code, not a serialization crate: the bytes are a promise to old recordings, and a record is
//! appended without an allocation.
//!
//! | record | fields | bytes at 1000 requests a second |
//! |---|---|---|
//! | timed out | | 1–5 |
//! | routed, first attempt | who asks, backend | 5–7 |
//! | routed | who asks, tried, backend, lease | 9 |
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
//! | reconfigured | JSON | as long as it is |
//! | restored | JSON | as long as it is |
//! | end | whether another file goes on | 3 |
//!
//! Routing a request and its end take about 16 bytes together. What the file ends with is its end
//! mark; one that is missing was cut off.
//!
//! Version 1 had no refusals and no pauses, and its routers decided otherwise: it is not read.
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

/// The format that is written and read.
pub const VERSION: u16 = 2;
