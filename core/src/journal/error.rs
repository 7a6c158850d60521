//! Errors of reading a journal.
use std::fmt;

use super::VERSION;

/// Place at which a journal stops being readable, and the reason.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct JournalError {
    /// Bytes before the damage; what ended before it was read.
    pub offset: u64,
    /// The fault.
    pub fault: Fault,
}

/// A fault of a journal.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Fault {
    /// It does not begin as a journal does.
    NotAJournal,
    /// It is of a version that is not known here.
    Version(u16),
    /// It ends without its end.
    CutOff,
    /// The checksum of the block that begins here does not fit it.
    Checksum,
    /// The checksum fits, but the record is invalid.
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
