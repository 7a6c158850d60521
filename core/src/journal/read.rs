//! Reads a journal, up to the first damage.
use std::time::Duration;

use super::error::{Fault, JournalError};
use super::header::{FRAME_BYTES, Header, config_from_json, payload, text_of};
use super::record::{Admission, Entry, Record, tag};
use super::wire::Cursor;
use crate::affinity::AffinityKey;
use crate::blame::Asker;
use crate::event::{
    AgentState, LoadReport, NoRoute, Outcome, ProbeAnswer, ProbeFailure, ProbeKind, RequestFailure,
};
use crate::id::{BackendId, LeaseId, ProbeId};
use crate::policy::PolicyState;
use crate::time::Instant;

/// The records of a journal in their order. The iterator ends after the first error.
///
/// A complete journal ends with [`Record::Ended`]. Any other yields its readable records, then an
/// error with the offset of the damage.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    /// The offset of the next block.
    at: usize,
    block: Option<Block<'a>>,
    is_over: bool,
    has_ended: bool,
}

/// The unread rest of a block.
#[derive(Clone, Debug)]
struct Block<'a> {
    cursor: Cursor<'a>,
    /// The offset of its payload in the file.
    begin: usize,
    last_at: u64,
    last_lease: u64,
}

impl<'a> Reader<'a> {
    /// Reads the header of a journal. Returns it with a reader of the records.
    ///
    /// # Errors
    /// The bytes do not begin like a journal, or the header is incomplete.
    pub fn new(bytes: &'a [u8]) -> Result<(Header, Self), JournalError> {
        let (header, at) = Header::decode(bytes)?;
        Ok((header, Self { bytes, at, block: None, is_over: false, has_ended: false }))
    }

    fn next_entry(&mut self) -> Result<Option<Entry>, JournalError> {
        loop {
            if let Some(block) = self.block.as_mut().filter(|block| !block.cursor.is_at_end()) {
                let offset = block.begin + block.cursor.position();
                let entry = block
                    .entry(offset as u64)
                    .map_err(|wrong| JournalError::new(offset, Fault::Malformed(wrong)))?;
                self.has_ended = matches!(entry.record, Record::Ended { .. });
                return Ok(Some(entry));
            }
            // Only an end mark as the last record shows that nothing is missing.
            if self.at == self.bytes.len() && self.has_ended {
                return Ok(None);
            }
            // A file that continues after its end mark was not written by this program.
            if self.has_ended {
                return Err(JournalError::new(self.at, Fault::Malformed("bytes after the end")));
            }
            let begin = self.at + FRAME_BYTES;
            let Some(payload) = payload(self.bytes, self.at)? else {
                return Err(JournalError::new(self.at, Fault::CutOff));
            };
            let head = |wrong| JournalError::new(begin, Fault::Malformed(wrong));
            let mut cursor = Cursor::new(payload);
            let last_at = cursor.varint().map_err(head)?;
            let last_lease = cursor.varint().map_err(head)?;
            let lost = cursor.varint().map_err(head)?;
            self.at = begin + payload.len();
            // The loss is reported before the records of the block, where it happened.
            self.block = Some(Block { cursor, begin, last_at, last_lease });
            if lost > 0 {
                let at = Instant::from_nanos(last_at);
                let record = Record::Lost { records: lost };
                return Ok(Some(Entry { at, offset: begin as u64, record }));
            }
        }
    }
}

impl Iterator for Reader<'_> {
    type Item = Result<Entry, JournalError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        let next = self.next_entry().transpose();
        self.is_over = !matches!(next, Some(Ok(_)));
        next
    }
}

impl Block<'_> {
    fn entry(&mut self, offset: u64) -> Result<Entry, &'static str> {
        let byte = self.cursor.byte()?;
        if byte & tag::NO_TIME == 0 {
            self.last_at = self.last_at.wrapping_add(self.cursor.varint()?);
        }
        let record = self.record(byte & !tag::NO_TIME)?;
        Ok(Entry { at: Instant::from_nanos(self.last_at), offset, record })
    }

    fn record(&mut self, kind: u8) -> Result<Record, &'static str> {
        Ok(match kind {
            tag::TIMED_OUT => Record::TimedOut,
            tag::ROUTED_NEXT | tag::ROUTED_NEXT_FOR => {
                let is_known = kind == tag::ROUTED_NEXT_FOR;
                let asker = if is_known { self.asker()? } else { Asker::default() };
                let backend = self.backend()?;
                self.last_lease = self.last_lease.wrapping_add(1);
                let lease = LeaseId(self.last_lease);
                let result = Ok(Admission { lease, backend });
                Record::Routed { asker, key: None, tried: Vec::new(), result }
            }
            tag::ROUTED | tag::ROUTED_KEYED => {
                let asker = self.asker()?;
                let key = if kind == tag::ROUTED_KEYED { Some(self.key()?) } else { None };
                let tried = self.tried()?;
                let backend = self.backend()?;
                self.last_lease = self.last_lease.wrapping_add(self.cursor.varint()?);
                let lease = LeaseId(self.last_lease);
                Record::Routed { asker, key, tried, result: Ok(Admission { lease, backend }) }
            }
            tag::NOT_ROUTED => {
                let tried = self.tried()?;
                let reason = match self.cursor.byte()? {
                    0 => NoRoute::NoBackends,
                    1 => NoRoute::AllTried,
                    2 => NoRoute::Full,
                    _ => return Err("an unknown reason for no route"),
                };
                let asker = Asker::default();
                Record::Routed { asker, key: None, tried, result: Err(reason) }
            }
            tag::PROBE_STARTED => {
                let (probe, backend) = (self.probe()?, self.backend()?);
                let kind = match self.cursor.byte()? {
                    0 => ProbeKind::Ping,
                    1 => ProbeKind::Report,
                    _ => return Err("an unknown kind of probe"),
                };
                Record::ProbeStarted { probe, backend, kind }
            }
            tag::PROBE_ANSWERED => {
                let (probe, latency) = (self.probe()?, self.span()?);
                let report = match self.cursor.byte()? {
                    0 => None,
                    1 => Some(self.report()?),
                    _ => return Err("an unknown kind of report"),
                };
                Record::ProbeFinished { probe, result: Ok(ProbeAnswer { latency, report }) }
            }
            tag::PROBE_FAILED => {
                let probe = self.probe()?;
                let failure = match self.cursor.byte()? {
                    0 => ProbeFailure::Refused,
                    1 => ProbeFailure::Unreachable,
                    2 => ProbeFailure::TimedOut,
                    3 => ProbeFailure::Cut,
                    4 => ProbeFailure::Malformed,
                    5 => ProbeFailure::Status(self.cursor.small()?),
                    6 => ProbeFailure::Abandoned,
                    7 => ProbeFailure::TooLarge,
                    8 => ProbeFailure::Body,
                    _ => return Err("an unknown failure of a probe"),
                };
                Record::ProbeFinished { probe, result: Err(failure) }
            }
            tag::FINISHED_OK => {
                let (lease, latency) = (self.lease()?, self.span()?);
                let outcome = Outcome::Answered { status: 200, latency };
                Record::RequestFinished { lease, outcome }
            }
            tag::FINISHED_ANSWERED => {
                let (lease, status) = (self.lease()?, self.cursor.small()?);
                let outcome = Outcome::Answered { status, latency: self.span()? };
                Record::RequestFinished { lease, outcome }
            }
            tag::FINISHED_REFUSED => {
                let (lease, status) = (self.lease()?, self.cursor.small()?);
                let hold = match self.cursor.byte()? {
                    0 => None,
                    1 => Some(self.span()?),
                    _ => return Err("an unknown kind of hold"),
                };
                Record::RequestFinished { lease, outcome: Outcome::Refused { status, hold } }
            }
            tag::FINISHED_FAILED => {
                let lease = self.lease()?;
                let failure = match self.cursor.byte()? {
                    0 => RequestFailure::Refused,
                    1 => RequestFailure::Unreachable,
                    2 => RequestFailure::Cut,
                    3 => RequestFailure::TimedOut,
                    4 => RequestFailure::Malformed,
                    5 => RequestFailure::Truncated,
                    _ => return Err("an unknown failure of a request"),
                };
                Record::RequestFinished { lease, outcome: Outcome::Failed(failure) }
            }
            tag::FINISHED_ABANDONED => {
                Record::RequestFinished { lease: self.lease()?, outcome: Outcome::Abandoned }
            }
            tag::STREAM_OPENED => Record::StreamOpened {
                lease: self.lease()?,
                backend: self.backend()?,
                status: self.cursor.small()?,
                latency: self.span()?,
            },
            tag::LEASE_PAUSED => {
                Record::LeasePaused { lease: self.lease()?, backend: self.backend()? }
            }
            tag::LEASE_RESUMED => {
                Record::LeaseResumed { lease: self.lease()?, backend: self.backend()? }
            }
            tag::LOAD_REPORTED => {
                Record::LoadReported { backend: self.backend()?, report: self.report()? }
            }
            tag::RECONFIGURED => {
                let len = self.cursor.small()?;
                let config = config_from_json(self.cursor.take(len)?)?;
                Record::Reconfigured(Box::new(config))
            }
            tag::RESTORED => {
                let len = self.cursor.small()?;
                let state = PolicyState::from_json(text_of(self.cursor.take(len)?))
                    .map_err(|_| "a state of another version")?;
                Record::Restored(Box::new(state))
            }
            tag::ENDED => Record::Ended { is_continued: self.cursor.byte()? != 0 },
            _ => return Err("an unknown kind of record"),
        })
    }

    fn asker(&mut self) -> Result<Asker, &'static str> {
        let (client, target) = (self.cursor.byte()?, self.cursor.byte()?);
        if usize::from(client.max(target)) >= Asker::GROUPS {
            return Err("an unknown group");
        }
        Ok(Asker { client, target })
    }

    fn key(&mut self) -> Result<AffinityKey, &'static str> {
        let bytes = self.cursor.take(8)?.try_into().map_err(|_| "a key has eight bytes")?;
        let owner = match self.cursor.byte()? {
            0 => None,
            1 => Some(self.backend()?),
            _ => return Err("an unknown kind of key"),
        };
        Ok(AffinityKey { hash: u64::from_le_bytes(bytes), owner })
    }

    fn probe(&mut self) -> Result<ProbeId, &'static str> {
        self.cursor.varint().map(ProbeId)
    }

    fn backend(&mut self) -> Result<BackendId, &'static str> {
        let number = self.cursor.varint()?;
        let slot = u32::try_from(number / 2).map_err(|_| "too large a slot")?;
        let generation = if number % 2 == 1 { self.cursor.small()? } else { 0 };
        Ok(BackendId::new(slot, generation))
    }

    fn lease(&mut self) -> Result<LeaseId, &'static str> {
        Ok(LeaseId(self.last_lease.wrapping_sub(self.cursor.varint()?)))
    }

    fn tried(&mut self) -> Result<Vec<BackendId>, &'static str> {
        let count = self.cursor.varint()?;
        // The vector grows as ids are read, so a false count cannot allocate memory.
        (0..count).map(|_| self.backend()).collect()
    }

    fn span(&mut self) -> Result<Duration, &'static str> {
        let nanos = self.cursor.varint_wide()?;
        let seconds = u64::try_from(nanos / 1_000_000_000).map_err(|_| "too long a time")?;
        Ok(Duration::new(seconds, (nanos % 1_000_000_000) as u32))
    }

    fn report(&mut self) -> Result<LoadReport, &'static str> {
        let said = self.cursor.byte()?;
        if said > 0b11_1111 {
            return Err("an unknown figure in a report");
        }
        let mut number = |bit: u8| (said >> bit & 1 == 1).then(|| self.cursor.f64()).transpose();
        let (queue, cpu_busy_ms, memory_bytes) = (number(0)?, number(1)?, number(2)?);
        let (running, pressure) = (number(3)?, number(4)?);
        let agent = if said >> 5 & 1 == 1 { Some(self.agent()?) } else { None };
        Ok(LoadReport { queue, running, pressure, cpu_busy_ms, memory_bytes, agent })
    }

    fn agent(&mut self) -> Result<AgentState, &'static str> {
        let word = |bits: u8| match bits & 0b11 {
            0 => Ok(None),
            1 => Ok(Some(false)),
            2 => Ok(Some(true)),
            _ => Err("an unknown word of an agent"),
        };
        let words = self.cursor.byte()?;
        if words > 0b1111 {
            return Err("an unknown word of an agent");
        }
        let percent: u32 = self.cursor.small()?;
        let percent = percent.checked_sub(1).map(u16::try_from).transpose();
        let percent = percent.map_err(|_| "a number out of its range")?;
        Ok(AgentState { percent, is_out: word(words)?, is_down: word(words >> 2)? })
    }
}
