//! Encodes records. A record is appended to the buffer of a block, which is reused: only
//! configurations and restored states allocate.
use std::time::Duration;

use super::header::config_to_json;
use super::record::tag;
use super::wire::{put_f64, put_varint, put_varint_wide};
use crate::affinity::AffinityKey;
use crate::blame::Asker;
use crate::event::{
    AgentState, Event, Lease, LoadReport, NoRoute, Outcome, ProbeFailure, ProbeKind, RequestFailure,
};
use crate::id::{BackendId, ProbeId};
use crate::policy::state::PolicyState;
use crate::time::Instant;

/// Encodes one block: its base time and lease, then its records.
#[derive(Debug)]
pub(super) struct Encoder {
    pub(super) block: Vec<u8>,
    last_at: u64,
    last_lease: u64,
}

impl Encoder {
    pub(super) const fn new(block: Vec<u8>) -> Self {
        Self { block, last_at: 0, last_lease: 0 }
    }

    /// Begins a block in an empty buffer. A block can be read without the blocks before it.
    pub(super) fn begin(&mut self, now: Instant, lost: u64) {
        debug_assert!(self.block.is_empty(), "a block begins in an empty buffer");
        self.last_at = now.as_nanos();
        put_varint(&mut self.block, self.last_at);
        put_varint(&mut self.block, self.last_lease);
        put_varint(&mut self.block, lost);
    }

    pub(super) fn timed_out(&mut self, now: Instant) {
        self.tag(now, tag::TIMED_OUT);
    }

    pub(super) fn restored(&mut self, now: Instant, state: &PolicyState) {
        self.tag(now, tag::RESTORED);
        // A router accepts finite numbers only, which JSON can represent.
        let json = serde_json::to_vec(state).unwrap_or_default();
        put_varint(&mut self.block, json.len() as u64);
        self.block.extend_from_slice(&json);
    }

    pub(super) fn ended(&mut self, now: Instant, is_continued: bool) {
        self.tag(now, tag::ENDED);
        self.block.push(u8::from(is_continued));
    }

    pub(super) fn routed(
        &mut self,
        now: Instant,
        tried: &[BackendId],
        key: Option<AffinityKey>,
        result: Result<&Lease, NoRoute>,
    ) {
        match result {
            Ok(lease) if let Some(key) = key => {
                self.tag(now, tag::ROUTED_KEYED);
                self.asker(lease.asker);
                self.key(key);
                self.routed_to(tried, lease);
            }
            // By far the most frequent record, so its lease takes no bytes.
            Ok(lease) if tried.is_empty() && lease.id.0 == self.last_lease.wrapping_add(1) => {
                if lease.asker == Asker::default() {
                    self.tag(now, tag::ROUTED_NEXT);
                } else {
                    self.tag(now, tag::ROUTED_NEXT_FOR);
                    self.asker(lease.asker);
                }
                self.backend(lease.backend);
                self.last_lease = lease.id.0;
            }
            Ok(lease) => {
                self.tag(now, tag::ROUTED);
                self.asker(lease.asker);
                self.routed_to(tried, lease);
            }
            Err(reason) => {
                self.tag(now, tag::NOT_ROUTED);
                self.tried(tried);
                self.block.push(match reason {
                    NoRoute::NoBackends => 0,
                    NoRoute::AllTried => 1,
                    NoRoute::Full => 2,
                });
            }
        }
    }

    pub(super) fn probe_started(
        &mut self,
        now: Instant,
        probe: ProbeId,
        backend: BackendId,
        kind: ProbeKind,
    ) {
        self.tag(now, tag::PROBE_STARTED);
        put_varint(&mut self.block, probe.0);
        self.backend(backend);
        self.block.push(match kind {
            ProbeKind::Ping => 0,
            ProbeKind::Report => 1,
        });
    }

    /// Encodes an event. The match is exhaustive, so that a new event cannot be forgotten.
    pub(super) fn event(&mut self, now: Instant, event: &Event) {
        match event {
            Event::ProbeFinished { probe, result: Ok(answer) } => {
                self.tag(now, tag::PROBE_ANSWERED);
                put_varint(&mut self.block, probe.0);
                self.span(answer.latency);
                self.block.push(u8::from(answer.report.is_some()));
                if let Some(report) = &answer.report {
                    self.report(report);
                }
            }
            Event::ProbeFinished { probe, result: Err(failure) } => {
                self.tag(now, tag::PROBE_FAILED);
                put_varint(&mut self.block, probe.0);
                match failure {
                    ProbeFailure::Refused => self.block.push(0),
                    ProbeFailure::Unreachable => self.block.push(1),
                    ProbeFailure::TimedOut => self.block.push(2),
                    ProbeFailure::Cut => self.block.push(3),
                    ProbeFailure::Malformed => self.block.push(4),
                    ProbeFailure::Status(status) => {
                        self.block.push(5);
                        put_varint(&mut self.block, u64::from(*status));
                    }
                    ProbeFailure::Abandoned => self.block.push(6),
                    ProbeFailure::TooLarge => self.block.push(7),
                    ProbeFailure::Body => self.block.push(8),
                }
            }
            Event::RequestFinished { lease, outcome } => self.finished(now, lease, outcome),
            Event::StreamOpened { lease, backend, status, latency } => {
                self.tag(now, tag::STREAM_OPENED);
                put_varint(&mut self.block, self.last_lease.wrapping_sub(lease.0));
                self.backend(*backend);
                put_varint(&mut self.block, u64::from(*status));
                self.span(*latency);
            }
            Event::LeasePaused { lease, backend } => {
                self.tag(now, tag::LEASE_PAUSED);
                put_varint(&mut self.block, self.last_lease.wrapping_sub(lease.0));
                self.backend(*backend);
            }
            Event::LeaseResumed { lease, backend } => {
                self.tag(now, tag::LEASE_RESUMED);
                put_varint(&mut self.block, self.last_lease.wrapping_sub(lease.0));
                self.backend(*backend);
            }
            Event::LoadReported { backend, report } => {
                self.tag(now, tag::LOAD_REPORTED);
                self.backend(*backend);
                self.report(report);
            }
            Event::Reconfigured(config) => {
                self.tag(now, tag::RECONFIGURED);
                let json = config_to_json(config);
                put_varint(&mut self.block, json.len() as u64);
                self.block.extend_from_slice(&json);
            }
        }
    }

    fn finished(&mut self, now: Instant, lease: &Lease, outcome: &Outcome) {
        match outcome {
            // The most frequent end has its own kind of record, without the status.
            Outcome::Answered { status: 200, latency } => {
                self.tag(now, tag::FINISHED_OK);
                self.lease(lease);
                self.span(*latency);
            }
            Outcome::Answered { status, latency } => {
                self.tag(now, tag::FINISHED_ANSWERED);
                self.lease(lease);
                put_varint(&mut self.block, u64::from(*status));
                self.span(*latency);
            }
            Outcome::Refused { status, hold } => {
                self.tag(now, tag::FINISHED_REFUSED);
                self.lease(lease);
                put_varint(&mut self.block, u64::from(*status));
                self.block.push(u8::from(hold.is_some()));
                if let Some(hold) = hold {
                    self.span(*hold);
                }
            }
            Outcome::Failed(failure) => {
                self.tag(now, tag::FINISHED_FAILED);
                self.lease(lease);
                self.block.push(match failure {
                    RequestFailure::Refused => 0,
                    RequestFailure::Unreachable => 1,
                    RequestFailure::Cut => 2,
                    RequestFailure::TimedOut => 3,
                    RequestFailure::Malformed => 4,
                    RequestFailure::Truncated => 5,
                });
            }
            Outcome::Abandoned => {
                self.tag(now, tag::FINISHED_ABANDONED);
                self.lease(lease);
            }
        }
    }

    /// Appends the kind of a record and the time since the last one. The difference wraps, so that
    /// a time that went backwards is restored exactly.
    fn tag(&mut self, now: Instant, tag: u8) {
        let passed = now.as_nanos().wrapping_sub(self.last_at);
        self.last_at = now.as_nanos();
        if passed == 0 {
            self.block.push(tag | tag::NO_TIME);
        } else {
            self.block.push(tag);
            put_varint(&mut self.block, passed);
        }
    }

    /// Appends a lease's number, counted back from the last one issued.
    fn lease(&mut self, lease: &Lease) {
        put_varint(&mut self.block, self.last_lease.wrapping_sub(lease.id.0));
    }

    fn asker(&mut self, asker: Asker) {
        self.block.extend([asker.client, asker.target]);
    }

    fn key(&mut self, key: AffinityKey) {
        self.block.extend(key.hash.to_le_bytes());
        self.block.push(u8::from(key.owner.is_some()));
        if let Some(owner) = key.owner {
            self.backend(owner);
        }
    }

    fn routed_to(&mut self, tried: &[BackendId], lease: &Lease) {
        self.tried(tried);
        self.backend(lease.backend);
        put_varint(&mut self.block, lease.id.0.wrapping_sub(self.last_lease));
        self.last_lease = lease.id.0;
    }

    fn backend(&mut self, backend: BackendId) {
        let (slot, generation) = (backend.index() as u64, backend.generation());
        // Most backends are the first in their slot. Their ids take one byte up to slot 63.
        put_varint(&mut self.block, 2 * slot + u64::from(generation > 0));
        if generation > 0 {
            put_varint(&mut self.block, u64::from(generation));
        }
    }

    fn tried(&mut self, tried: &[BackendId]) {
        put_varint(&mut self.block, tried.len() as u64);
        for backend in tried {
            self.backend(*backend);
        }
    }

    fn span(&mut self, span: Duration) {
        put_varint_wide(&mut self.block, span.as_nanos());
    }

    fn report(&mut self, report: &LoadReport) {
        // Older recordings have only the first three figures.
        let LoadReport { queue, running, pressure, cpu_busy_ms, memory_bytes, agent } = *report;
        let numbers = [queue, cpu_busy_ms, memory_bytes, running, pressure];
        // One byte of flags, since reports often lack figures.
        let said = numbers.iter().enumerate();
        let said = said.fold(0, |said, (bit, number)| said | u8::from(number.is_some()) << bit);
        self.block.push(said | u8::from(agent.is_some()) << numbers.len());
        for number in numbers.into_iter().flatten() {
            put_f64(&mut self.block, number);
        }
        if let Some(AgentState { percent, is_out, is_down }) = agent {
            let word = |word: Option<bool>| word.map_or(0, |word| 1 + u8::from(word));
            // 0 for no word, 1 for no, 2 for yes.
            self.block.push(word(is_out) | word(is_down) << 2);
            put_varint(&mut self.block, percent.map_or(0, |percent| 1 + u64::from(percent)));
        }
    }
}

/// The payload of the last block of a file.
pub fn end_block(at: Instant, is_continued: bool) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::new());
    encoder.begin(at, 0);
    encoder.ended(at, is_continued);
    encoder.block
}

/// A block without records. It reports `lost` records before the next block, for a sink that
/// failed to write them.
pub fn gap_block(at: Instant, lost: u64) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::new());
    encoder.begin(at, lost);
    encoder.block
}
