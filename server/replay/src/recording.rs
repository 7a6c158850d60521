//! The files of one recording, in their order.
use std::ops::ControlFlow;

use intelliproxy_core::Instant;
use intelliproxy_core::journal::{Entry, Header, Reader, Record};
use intelliproxy_core::sorting::sort_by;

use crate::Host;

/// One recording: a file, or the remaining files of a ring.
pub(crate) struct Recording<'h> {
    host: &'h dyn Host,
    parts: Vec<Part>,
}

#[derive(Debug)]
struct Part {
    file: String,
    bytes: Vec<u8>,
    header: Header,
}

impl<'h> Recording<'h> {
    /// Reads the files.
    pub(crate) fn load(files: &[String], host: &'h dyn Host) -> Result<Self, String> {
        let mut parts = Vec::with_capacity(files.len());
        for file in files {
            let bytes = host.read(file).map_err(|error| format!("{file}: {error}"))?;
            let (header, _) = Reader::new(&bytes).map_err(|error| format!("{file}: {error}"))?;
            parts.push(Part { file: file.clone(), bytes, header });
        }
        sort_by(&mut parts, |one, other| one.header.part.cmp(&other.header.part));
        let recording = Self { host, parts };
        let first = recording.header();
        for part in recording.parts.iter().skip(1) {
            let (seed, clock) = (part.header.seed, part.header.wall_clock_nanos);
            if (seed, clock) != (first.seed, first.wall_clock_nanos) {
                let other = &recording.parts[0].file;
                return Err(format!("{} is of another recording than {other}", part.file));
            }
        }
        Ok(recording)
    }

    /// The header of the first file.
    pub(crate) fn header(&self) -> &Header {
        &self.parts[0].header
    }

    pub(crate) const fn host(&self) -> &dyn Host {
        self.host
    }

    /// Returns the time of its beginning as a date.
    pub(crate) fn date(&self) -> String {
        self.host.date(self.header().wall_clock_nanos / NANOS)
    }

    /// Returns a time as seconds since the start, and as a date if the start's date is known.
    pub(crate) fn moment(&self, at: Instant) -> String {
        let since = at.since(self.header().started);
        let seconds = format!("{}.{:09} s", since.as_secs(), since.subsec_nanos());
        match self.header().wall_clock_nanos {
            0 => seconds,
            start => {
                let nanos = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
                format!("{seconds} ({})", self.host.date(start.saturating_add(nanos) / NANOS))
            }
        }
    }

    /// Returns whether it begins at the start of its router.
    pub(crate) fn is_from_start(&self) -> bool {
        self.header().part == 0
    }

    /// Returns the bytes of all files.
    pub(crate) fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes.len() as u64).sum()
    }

    /// Passes the records to `take` until it breaks. Returns the damage of the files: reading ends
    /// there, or continues after a gap where a file is missing.
    pub(crate) fn each(&self, mut take: impl FnMut(&Entry) -> ControlFlow<()>) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut next = self.header().part;
        let (bytes, mut before) = (self.bytes(), 0);
        let mut entries = 0_u64;
        for part in &self.parts {
            let Ok((header, reader)) = Reader::new(&part.bytes) else {
                continue;
            };
            if header.part < next {
                wrong.push(format!("{}: given twice", part.file));
                continue;
            }
            let mut is_behind_gap = header.part > next;
            if is_behind_gap {
                wrong.push(format!("part {next} is missing before {}", part.file));
            }
            next = header.part + 1;
            let start = before;
            before += part.bytes.len() as u64;
            for entry in reader {
                match entry {
                    Ok(entry) => {
                        entries += 1;
                        if entries.is_multiple_of(PROGRESS_EVERY) {
                            self.host.progress(start + entry.offset, bytes);
                        }
                        if std::mem::take(&mut is_behind_gap) {
                            let record = Record::Lost { records: 0 };
                            let gap = Entry { record, ..entry.clone() };
                            if take(&gap).is_break() {
                                return wrong;
                            }
                        }
                        if take(&entry).is_break() {
                            return wrong;
                        }
                    }
                    Err(error) => {
                        wrong.push(format!("{}: {error}", part.file));
                        return wrong;
                    }
                }
            }
        }
        wrong
    }
}

/// Records between two reports of the progress: a few milliseconds.
const PROGRESS_EVERY: u64 = 4096;
/// Nanoseconds in a second.
const NANOS: u64 = 1_000_000_000;
