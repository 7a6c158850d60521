//! The file of a recording, or the ring of files that bounds it.
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use intelliproxy_core::Instant;
use intelliproxy_core::journal::{Header, end_block, frame};

/// Writes blocks, and begins the next file when one is full.
#[derive(Debug)]
pub(super) struct Files {
    base: PathBuf,
    /// Bytes of a file; 0 for any number, in one file.
    bytes_max: u64,
    /// Files of the ring.
    count: u32,
    path: PathBuf,
    file: File,
    /// Bytes of the file at hand.
    written: u64,
    header: Option<Header>,
    /// Reused: a block with its frame.
    buffer: Vec<u8>,
}

impl Files {
    /// Makes the first file. One that is there is kept under its name with `.old` behind it.
    pub(super) fn create(base: PathBuf, bytes_max: u64, count: u32) -> io::Result<Self> {
        let path = if bytes_max == 0 { base.clone() } else { numbered(&base, 0) };
        if fs::symlink_metadata(&path).is_ok_and(|found| found.is_file()) {
            fs::rename(&path, suffixed(&path, ".old"))?;
        }
        let file = File::create(&path)?;
        let (written, header, buffer) = (0, None, Vec::new());
        Ok(Self { base, bytes_max, count, path, file, written, header, buffer })
    }

    /// The file at hand.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The first header begins the file; a later one is for the files that come.
    pub(super) fn begin(&mut self, header: Header) -> io::Result<()> {
        let part = self.header.as_ref().map_or(0, |header| header.part);
        let is_first = self.header.is_none();
        let header = Header { part, ..header };
        if is_first {
            self.put(&header.encode())?;
        }
        self.header = Some(header);
        Ok(())
    }

    /// Writes a block whose last record is of the time `at`.
    pub(super) fn write(&mut self, payload: &[u8], at: Instant) -> io::Result<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let is_full = self.bytes_max > 0 && self.written + payload.len() as u64 > self.bytes_max;
        if is_full && let Some(mut header) = self.header.take() {
            let end = end_block(at, true);
            set_block(&mut buffer, &end);
            self.put(&buffer)?;
            header.part += 1;
            self.path = numbered(&self.base, header.part % self.count.max(1));
            self.file = File::create(&self.path)?;
            self.written = 0;
            self.put(&header.encode())?;
            self.header = Some(header);
        }
        set_block(&mut buffer, payload);
        self.put(&buffer)?;
        self.buffer = buffer;
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }
}

fn set_block(buffer: &mut Vec<u8>, payload: &[u8]) {
    buffer.clear();
    buffer.extend_from_slice(&frame(payload));
    buffer.extend_from_slice(payload);
}

fn numbered(base: &Path, number: u32) -> PathBuf {
    suffixed(base, &format!(".{number}"))
}

fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}
