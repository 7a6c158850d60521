//! Records of a journal as they are read back.
use std::time::Duration;

use crate::blame::Asker;
use crate::config::RouterConfig;
use crate::event::{LoadReport, NoRoute, Outcome, ProbeKind, ProbeResult};
use crate::id::{BackendId, LeaseId, ProbeId};
use crate::policy::state::PolicyState;
use crate::time::Instant;

/// One record: when it happened, and where it stands in the file.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The `now` of the call.
    pub at: Instant,
    /// Bytes before it in the file.
    pub offset: u64,
    /// The record.
    pub record: Record,
}

/// An input of the router, or a result of one.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// `handle_timeout` was called.
    TimedOut,
    /// `route` was called, and answered.
    Routed {
        /// Groups of client and path; unknown for a request that was not admitted.
        asker: Asker,
        /// The backends that were named as tried.
        tried: Vec<BackendId>,
        /// Lease and backend that were given out.
        result: Result<Admission, NoRoute>,
    },
    /// The router started a probe. An effect, not an input: it is checked, and it tells which
    /// backend a probe's result belongs to.
    ProbeStarted {
        /// Its number.
        probe: ProbeId,
        /// The probed backend.
        backend: BackendId,
        /// For what.
        kind: ProbeKind,
    },
    /// [`Event::ProbeFinished`](crate::Event::ProbeFinished).
    ProbeFinished {
        /// Its number.
        probe: ProbeId,
        /// Its result.
        result: ProbeResult,
    },
    /// [`Event::RequestFinished`](crate::Event::RequestFinished).
    RequestFinished {
        /// The lease that ended.
        lease: LeaseId,
        /// Its outcome.
        outcome: Outcome,
    },
    /// [`Event::StreamOpened`](crate::Event::StreamOpened).
    StreamOpened {
        /// The lease, which stays out.
        lease: LeaseId,
        /// The request's backend.
        backend: BackendId,
        /// The answer's status.
        status: u16,
        /// From the dispatch to the answer's head.
        latency: Duration,
    },
    /// [`Event::LeasePaused`](crate::Event::LeasePaused).
    LeasePaused {
        /// The lease, which stays out.
        lease: LeaseId,
        /// The request's backend.
        backend: BackendId,
    },
    /// [`Event::LeaseResumed`](crate::Event::LeaseResumed).
    LeaseResumed {
        /// The lease, which stays out.
        lease: LeaseId,
        /// The request's backend.
        backend: BackendId,
    },
    /// [`Event::LoadReported`](crate::Event::LoadReported).
    LoadReported {
        /// The reporting backend.
        backend: BackendId,
        /// The figures.
        report: LoadReport,
    },
    /// [`Event::Reconfigured`](crate::Event::Reconfigured).
    Reconfigured(Box<RouterConfig>),
    /// `restore` was called, and took this.
    Restored(Box<PolicyState>),
    /// The writer could not keep up: this many records are not there.
    Lost {
        /// Their number.
        records: u64,
    },
    /// The recording ends here as it should.
    Ended {
        /// Whether it goes on in another file.
        is_continued: bool,
    },
}

/// The answer to a request that was admitted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Admission {
    /// The lease's number.
    pub lease: LeaseId,
    /// The request's backend.
    pub backend: BackendId,
}

/// The kinds of records as bytes. The highest bit of the byte says that no time has passed.
pub(super) mod tag {
    pub(in crate::journal) const NO_TIME: u8 = 0x80;
    pub(in crate::journal) const TIMED_OUT: u8 = 1;
    /// A first attempt whose lease follows the one before.
    pub(in crate::journal) const ROUTED_NEXT: u8 = 2;
    pub(in crate::journal) const ROUTED: u8 = 3;
    pub(in crate::journal) const NOT_ROUTED: u8 = 4;
    pub(in crate::journal) const PROBE_STARTED: u8 = 5;
    pub(in crate::journal) const PROBE_ANSWERED: u8 = 6;
    pub(in crate::journal) const PROBE_FAILED: u8 = 7;
    /// A request answered with status 200.
    pub(in crate::journal) const FINISHED_OK: u8 = 8;
    pub(in crate::journal) const FINISHED_ANSWERED: u8 = 9;
    pub(in crate::journal) const FINISHED_FAILED: u8 = 10;
    pub(in crate::journal) const FINISHED_ABANDONED: u8 = 11;
    pub(in crate::journal) const LOAD_REPORTED: u8 = 12;
    pub(in crate::journal) const RECONFIGURED: u8 = 13;
    pub(in crate::journal) const ENDED: u8 = 14;
    pub(in crate::journal) const STREAM_OPENED: u8 = 15;
    pub(in crate::journal) const RESTORED: u8 = 16;
    pub(in crate::journal) const FINISHED_REFUSED: u8 = 17;
    pub(in crate::journal) const LEASE_PAUSED: u8 = 18;
    pub(in crate::journal) const LEASE_RESUMED: u8 = 19;
    /// A first attempt of which it is known who asked.
    pub(in crate::journal) const ROUTED_NEXT_FOR: u8 = 20;
}
