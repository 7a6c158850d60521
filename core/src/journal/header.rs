//! The header of a journal: everything needed to build its router.
use serde::{Deserialize, Serialize};

use super::VERSION;
use super::crc::crc32;
use super::error::{Fault, JournalError};
use crate::config::{BackendLimits, RouterConfig, Rules};
use crate::time::Instant;

/// The first bytes of a journal. Like PNG's they contain a byte outside of ASCII, both kinds of
/// line ends and an end-of-file character, so that a copy with changed line ends is recognised.
pub(super) const MAGIC: [u8; 8] = *b"\x89IPJ\r\n\x1a\n";
/// The largest header or block; more is treated as damage. Ten thousand backends need a megabyte.
pub(super) const BYTES_MAX: u32 = 64 * 1024 * 1024;

/// The maximum number of backends in a configuration. A backend takes a kilobyte or more in a
/// router but only a few bytes here, so a small file could otherwise exhaust the memory.
const BACKENDS_MAX: usize = 10_000;

/// The header of a journal.
#[derive(Clone, Debug, PartialEq)]
pub struct Header {
    /// The router's configuration when this file began.
    pub config: RouterConfig,
    /// The seed of the router's random choices.
    pub seed: u64,
    /// The time at which the router was made, or at which a recording of an older router began.
    pub started: Instant,
    /// The wall clock at that time, nanoseconds since 1970; 0 if unknown.
    pub wall_clock_nanos: u64,
    /// The number of the file in its recording, from 0. The records before a later file are in
    /// other files, which may be missing. Decisions can be checked only if the first file is
    /// present.
    pub part: u32,
}

/// The header as JSON. Durations are whole milliseconds there, as in the configuration file.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct HeaderJson {
    backends: Vec<String>,
    routing: Rules,
    #[serde(default)]
    limits: BackendLimits,
    seed: u64,
    started: Instant,
    wall_clock_nanos: u64,
    part: u32,
}

/// A router's configuration as JSON.
#[derive(Deserialize, Serialize)]
struct ConfigJson {
    backends: Vec<String>,
    routing: Rules,
    #[serde(default)]
    limits: BackendLimits,
}

impl Header {
    /// Encodes the bytes at the beginning of a file.
    pub fn encode(&self) -> Vec<u8> {
        let json = HeaderJson {
            backends: self.config.backends.clone(),
            routing: self.config.rules.clone(),
            limits: self.config.rules.limits.clone(),
            seed: self.seed,
            started: self.started,
            wall_clock_nanos: self.wall_clock_nanos,
            part: self.part,
        };
        // Plain data with string keys can always be written as JSON.
        let json = serde_json::to_vec(&json).unwrap_or_default();
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&frame(&json));
        bytes.extend_from_slice(&json);
        bytes
    }

    /// Reads the header of `bytes`. Also returns the offset where it ends.
    pub(super) fn decode(bytes: &[u8]) -> Result<(Self, usize), JournalError> {
        let magic = bytes.get(..MAGIC.len()).unwrap_or(bytes);
        if !MAGIC.starts_with(magic) {
            return Err(JournalError::new(0, Fault::NotAJournal));
        }
        let at = MAGIC.len();
        let Some(version) = bytes.get(at..at + 2) else {
            return Err(JournalError::new(bytes.len(), Fault::CutOff));
        };
        let version = u16::from_le_bytes([version[0], version[1]]);
        if version != VERSION {
            return Err(JournalError::new(at, Fault::Version(version)));
        }
        let json =
            payload(bytes, at + 2)?.ok_or_else(|| JournalError::new(at + 2, Fault::CutOff))?;
        let wrong = |text: String| JournalError::new(at + 2 + FRAME_BYTES, Fault::Config(text));
        let json_read: HeaderJson =
            serde_json::from_str(text_of(json)).map_err(|error| wrong(error.to_string()))?;
        // The limits are not a part of the `routing` object, so they are stored next to it.
        let rules = Rules { limits: json_read.limits, ..json_read.routing };
        let config = RouterConfig { backends: json_read.backends, rules };
        if config.backends.len() > BACKENDS_MAX {
            return Err(wrong(format!("more than {BACKENDS_MAX} backends")));
        }
        config.validate().map_err(|error| wrong(error.to_string()))?;
        let header = Self {
            config,
            seed: json_read.seed,
            started: json_read.started,
            wall_clock_nanos: json_read.wall_clock_nanos,
            part: json_read.part,
        };
        Ok((header, at + 2 + FRAME_BYTES + json.len()))
    }
}

/// Bytes before every header and block: its length and checksum.
pub(super) const FRAME_BYTES: usize = 8;

/// Returns the frame before a payload: its length, and the checksum of length and payload.
pub fn frame(payload: &[u8]) -> [u8; FRAME_BYTES] {
    // Payloads stay far below 4 GiB: blocks are handed over at 32 KiB.
    let len = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes();
    let crc = crc32([&len, payload]).to_le_bytes();
    [len[0], len[1], len[2], len[3], crc[0], crc[1], crc[2], crc[3]]
}

/// The payload framed at `at`; `None` if the bytes end before the payload does.
pub(super) fn payload(bytes: &[u8], at: usize) -> Result<Option<&[u8]>, JournalError> {
    let word = |at: usize| {
        let bytes = bytes.get(at..at + 4)?;
        Some(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    };
    let Some(len) = word(at) else {
        return Ok(None);
    };
    if len > BYTES_MAX {
        return Err(JournalError::new(at, Fault::Checksum));
    }
    let begin = at + FRAME_BYTES;
    let (Some(crc), Some(payload)) = (word(at + 4), bytes.get(begin..begin + len as usize)) else {
        return Ok(None);
    };
    if crc32([&len.to_le_bytes(), payload]) != crc {
        return Err(JournalError::new(at, Fault::Checksum));
    }
    Ok(Some(payload))
}

/// Returns the text of a record, empty if it is not UTF-8, which then is not JSON either. All JSON
/// is read from text: to read it from bytes would be a second copy of that code.
pub(super) fn text_of(record: &[u8]) -> &str {
    str::from_utf8(record).unwrap_or_default()
}

/// A configuration as the JSON of a record.
pub(super) fn config_to_json(config: &RouterConfig) -> Vec<u8> {
    let json = ConfigJson {
        backends: config.backends.clone(),
        routing: config.rules.clone(),
        limits: config.rules.limits.clone(),
    };
    serde_json::to_vec(&json).unwrap_or_default()
}

/// The configuration that [`config_to_json`] wrote.
pub(super) fn config_from_json(json: &[u8]) -> Result<RouterConfig, &'static str> {
    let json: ConfigJson =
        serde_json::from_str(text_of(json)).map_err(|_| "a configuration of another version")?;
    if json.backends.len() > BACKENDS_MAX {
        return Err("more backends than there can be");
    }
    let rules = Rules { limits: json.limits, ..json.routing };
    Ok(RouterConfig { backends: json.backends, rules })
}
