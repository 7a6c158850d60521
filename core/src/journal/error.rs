//! Errors of reading a journal.
use std::fmt;

use super::VERSION;

/// The place where a journal stops being readable, and the reason.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct JournalError {
    /// The offset of the damage, bytes. Records that end before it were read.
    pub offset: u64,
    /// The fault.
    pub fault: Fault,
}

/// The reason why a journal stops being readable.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Fault {
    /// The file does not begin like a journal.
    NotAJournal,
    /// The format has an unknown version.
    Version(u16),
    /// The file ends without an end mark.
    CutOff,
    /// The checksum of the block does not match its bytes.
    Checksum,
    /// The checksum matches, but the record is invalid.
    Malformed(&'static str),
    /// The configuration in its header is invalid.
    Config(String),
}

impl JournalError {
    pub(super) const fn new(offset: usize, fault: Fault) -> Self {
        Self { offset: offset as u64, fault }
    }
}

impl fmt::Display for JournalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "offset {}: ", self.offset)?;
        match &self.fault {
            Fault::NotAJournal => write!(f, "not a recording of IntelliProxy"),
            Fault::Version(version) => {
                write!(f, "recorded in format {version}; this version reads format {VERSION} only")
            }
            Fault::CutOff => write!(f, "cut off: the recording ends without its end mark"),
            Fault::Checksum => write!(f, "corrupt: the checksum of this block does not fit"),
            Fault::Malformed(wrong) => write!(f, "malformed: {wrong}"),
            Fault::Config(wrong) => write!(f, "invalid configuration: {wrong}"),
        }
    }
}

impl std::error::Error for JournalError {}
