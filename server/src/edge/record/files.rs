//! The file of a recording, or the ring of files that bounds its size.
use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use intelliproxy_core::Instant;
use intelliproxy_core::journal::{Header, end_block, frame, gap_block};

use super::Names;
use crate::edge::disk;

/// Writes blocks, and begins the next file when one is full.
///
/// If a write fails, the file keeps everything up to the last complete block, and the failed block
/// is lost. The next block is preceded by one with the number of lost records.
#[derive(Debug)]
pub(super) struct Files<F = File> {
    base: PathBuf,
    /// The maximum number of bytes per file; 0 for one file of any size.
    bytes_max: u64,
    /// The number of files in the ring.
    count: u32,
    path: PathBuf,
    /// Whether an older file was renamed to `.old`.
    has_old: bool,
    file: F,
    /// Bytes of the current file up to the end of its last complete block.
    written: u64,
    /// Whether a failed write may have left bytes after `written`.
    is_torn: bool,
    /// Whether the current file has its end mark, so that the next block begins a new file.
    has_ended: bool,
    header: Option<Header>,
    /// Records lost since the last block that was written.
    lost: u64,
    /// Whether this recording may still create files.
    names: Names,
    /// Reused: a block with its frame.
    buffer: Vec<u8>,
}

/// A file that can be cut back to its complete part.
pub(super) trait Target: Write {
    /// Cuts the file to `bytes` bytes and continues writing there.
    fn cut(&mut self, bytes: u64) -> io::Result<()>;
}

impl Target for File {
    fn cut(&mut self, bytes: u64) -> io::Result<()> {
        self.set_len(bytes)?;
        self.seek(SeekFrom::Start(bytes)).map(drop)
    }
}

impl Files {
    /// Creates the first file. An existing one is renamed to `.old`.
    ///
    /// # Errors
    /// The system's error, or the name belongs to something other than a regular file.
    pub(super) fn create(base: PathBuf, bytes_max: u64, count: u32) -> io::Result<Self> {
        let path = if bytes_max == 0 { base.clone() } else { numbered(&base, 0) };
        let has_old = disk::is_regular(&path)?;
        let old = disk::beside(&path, ".old");
        if has_old {
            fs::rename(&path, &old)?;
        }
        // A recording that cannot begin leaves the files as they were.
        let file = disk::create(&path).inspect_err(|_| {
            if has_old {
                let _ = fs::rename(&old, &path);
            }
        })?;
        Ok(Self { has_old, ..Self::new(base, bytes_max, count, path, file) })
    }

    /// Returns the shared flag with which the next recording stops this one from creating files.
    pub(super) fn names(&self) -> Names {
        self.names.clone()
    }

    /// Removes the first file, which is empty, and renames an older one back.
    pub(super) fn undo(&self) {
        // If the file cannot be removed, nothing can be undone.
        if fs::remove_file(&self.path).is_ok() && self.has_old {
            let _ = fs::rename(disk::beside(&self.path, ".old"), &self.path);
        }
    }

    /// Writes a block whose last record is of time `at`. If that fails, its `records` records are
    /// lost.
    pub(super) fn write(&mut self, payload: &[u8], at: Instant, records: u64) -> io::Result<()> {
        let size = self.written + payload.len() as u64;
        let is_full = self.bytes_max > 0 && size > self.bytes_max && self.header.is_some();
        let names = self.names.clone();
        // Held while a file is created, so that the next recording does not take the same name.
        let is_superseded = names.lock();
        let result = match (is_full || self.has_ended, *is_superseded) {
            (false, _) => Ok(()),
            (true, false) => self.begin_next(at),
            // The next recording owns the names, so the rest goes into the current file, beyond its
            // bound.
            (true, true) if !self.has_ended => Ok(()),
            (true, true) => Err(io::Error::other("the next recording has begun")),
        };
        drop(is_superseded);
        let result = result.and_then(|()| self.put_all(payload, at));
        if result.is_err() {
            self.lost += records;
        }
        result
    }

    /// Ends the current file and begins the next.
    fn begin_next(&mut self, at: Instant) -> io::Result<()> {
        // The end mark is written once, even if opening the next file fails and is retried.
        if !self.has_ended {
            self.put_block(&end_block(at, true))?;
            self.has_ended = true;
        }
        let Some(mut header) = self.header.clone() else { return Ok(()) };
        header.part += 1;
        let path = numbered(&self.base, header.part % self.count.max(1));
        let mut file = disk::replace(&path)?;
        let bytes = header.encode();
        file.write_all(&bytes)?;
        self.path = path;
        self.file = file;
        self.written = bytes.len() as u64;
        self.header = Some(header);
        (self.is_torn, self.has_ended) = (false, false);
        Ok(())
    }
}

impl<F: Target> Files<F> {
    fn new(base: PathBuf, bytes_max: u64, count: u32, path: PathBuf, file: F) -> Self {
        Self {
            base,
            bytes_max,
            count,
            path,
            has_old: false,
            file,
            written: 0,
            is_torn: false,
            has_ended: false,
            header: None,
            lost: 0,
            names: Names::default(),
            buffer: Vec::new(),
        }
    }

    /// The current file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Sets the header. The first header is written to the current file, later ones to the files
    /// that follow.
    pub(super) fn begin(&mut self, header: Header) -> io::Result<()> {
        let part = self.header.as_ref().map_or(header.part, |header| header.part);
        self.header = Some(Header { part, ..header });
        self.put_header()
    }

    /// Writes the header if the file is empty.
    fn put_header(&mut self) -> io::Result<()> {
        match &self.header {
            Some(header) if self.written == 0 => {
                let bytes = header.encode();
                self.put(&bytes)
            }
            _ => Ok(()),
        }
    }

    /// Writes a block, preceded by the count of lost records if there are any.
    fn put_all(&mut self, payload: &[u8], at: Instant) -> io::Result<()> {
        self.put_header()?;
        if self.lost > 0 {
            self.put_block(&gap_block(at, self.lost))?;
            self.lost = 0;
        }
        self.put_block(payload)
    }

    fn put_block(&mut self, payload: &[u8]) -> io::Result<()> {
        // Frame and payload are written in one call.
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        buffer.extend_from_slice(&frame(payload));
        buffer.extend_from_slice(payload);
        let result = self.put(&buffer);
        self.buffer = buffer;
        result
    }

    /// Writes all of these bytes or none of them.
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.is_torn {
            self.file.cut(self.written)?;
            self.is_torn = false;
        }
        if let Err(error) = self.file.write_all(bytes) {
            // Cut back at once if possible, so that the file is readable at any time.
            self.is_torn = self.file.cut(self.written).is_err();
            return Err(error);
        }
        self.written += bytes.len() as u64;
        Ok(())
    }
}

fn numbered(base: &Path, number: u32) -> PathBuf {
    disk::beside(base, &format!(".{number}"))
}

#[cfg(test)]
mod tests {
    use intelliproxy_core::journal::{Entry, Reader, Record};
    use intelliproxy_core::{RouterConfig, Rules};

    use super::*;

    /// A disk with a limited number of free bytes.
    #[derive(Debug)]
    struct Disk {
        bytes: Vec<u8>,
        size: usize,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = bytes.len().min(self.size - self.bytes.len());
            self.bytes.extend_from_slice(&bytes[..count]);
            if count == 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(count) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Target for Disk {
        fn cut(&mut self, bytes: u64) -> io::Result<()> {
            self.bytes.truncate(bytes as usize);
            Ok(())
        }
    }

    /// While a disk is full, the blocks written in that time are lost and no others. The file stays
    /// readable and contains the number of missing records.
    #[test]
    fn a_full_disk_costs_the_blocks_of_that_time() {
        let backends = vec!["A".to_owned()];
        let header = Header {
            config: RouterConfig { backends, rules: Rules::default() },
            seed: 1,
            started: Instant::ZERO,
            wall_clock_nanos: 0,
            part: 0,
        };
        let at = Instant::from_millis(7);
        let block = |is_continued| end_block(at, is_continued);
        let disk = Disk { bytes: Vec::new(), size: 10 };
        let mut files = Files::new("r".into(), 0, 1, "r".into(), disk);
        files.begin(header.clone()).expect_err("no room for the header");
        assert!(files.file.bytes.is_empty(), "no half a header is left");
        files.put_all(&gap_block(at, 0), at).expect_err("nor for a block");
        files.file.size = header.encode().len() + 20;
        files.lost = 7;
        let whole = header.encode().len();
        files.put_all(&[0; 100], at).expect_err("not for this one");
        assert!(files.file.bytes.len() > whole, "the gap is counted before");
        files.lost += 5;
        files.file.size = 10_000;
        files.put_all(&block(false), at).expect("room");
        let (read, reader) = Reader::new(&files.file.bytes).expect("a header");
        assert_eq!(read, header);
        let entries: Vec<Entry> = reader.collect::<Result<_, _>>().expect("a whole recording");
        let records: Vec<Record> = entries.into_iter().map(|entry| entry.record).collect();
        let lost = |records| Record::Lost { records };
        assert_eq!(records, [lost(7), lost(5), Record::Ended { is_continued: false }]);
    }
}
