//! The records of a journal, as the reader returns them.
use std::time::Duration;

use crate::affinity::AffinityKey;
use crate::blame::Asker;
use crate::config::RouterConfig;
use crate::event::{LoadReport, NoRoute, Outcome, ProbeKind, ProbeResult};
use crate::id::{BackendId, LeaseId, ProbeId};
use crate::policy::state::PolicyState;
use crate::time::Instant;

/// One record with its time and its place in the file.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The `now` of the call.
    pub at: Instant,
    /// The offset of the record in the file.
    pub offset: u64,
    /// The record.
    pub record: Record,
}

/// An input of the router, or a result of one.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// `handle_timeout` was called.
    TimedOut,
    /// `route` was called and returned.
    Routed {
        /// The groups of client and path; unknown if the request was not admitted.
        asker: Asker,
        /// The key of the request, if it has one; unknown if the request was not admitted.
        key: Option<AffinityKey>,
        /// The backends passed as tried.
        tried: Vec<BackendId>,
        /// The lease and its backend, or the reason for not admitting the request.
        result: Result<Admission, NoRoute>,
    },
    /// The router started a probe. This is an effect, not an input. It is recorded so that it can
    /// be checked, and because it shows the backend of a later result.
    ProbeStarted {
        /// The number of the probe.
        probe: ProbeId,
        /// The probed backend.
        backend: BackendId,
        /// The requested resource.
        kind: ProbeKind,
    },
    /// [`Event::ProbeFinished`](crate::Event::ProbeFinished).
    ProbeFinished {
        /// The number of the probe.
        probe: ProbeId,
        /// The result.
        result: ProbeResult,
    },
    /// [`Event::RequestFinished`](crate::Event::RequestFinished).
    RequestFinished {
        /// The lease that ended.
        lease: LeaseId,
        /// The outcome.
        outcome: Outcome,
    },
    /// [`Event::StreamOpened`](crate::Event::StreamOpened).
    StreamOpened {
        /// The lease, which stays out.
        lease: LeaseId,
        /// The request's backend.
        backend: BackendId,
        /// The final status of the response.
        status: u16,
        /// Time from the dispatch until the head of the response.
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
    /// `restore` was called and accepted this state.
    Restored(Box<PolicyState>),
    /// Records are missing because the writer was too slow or failed.
    Lost {
        /// The number of missing records.
        records: u64,
    },
    /// The recording ends here regularly.
    Ended {
        /// Whether it continues in another file.
        is_continued: bool,
    },
}

/// The result of admitting a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Admission {
    /// The number of the lease.
    pub lease: LeaseId,
    /// The backend of the request.
    pub backend: BackendId,
}

/// The kinds of records as bytes. The highest bit of the byte means that no time has passed.
pub(super) mod tag {
    pub(in crate::journal) const NO_TIME: u8 = 0x80;
    pub(in crate::journal) const TIMED_OUT: u8 = 1;
    /// A first attempt whose asker has no groups and whose lease has the next number.
    pub(in crate::journal) const ROUTED_NEXT: u8 = 2;
    pub(in crate::journal) const ROUTED: u8 = 3;
    pub(in crate::journal) const NOT_ROUTED: u8 = 4;
    pub(in crate::journal) const PROBE_STARTED: u8 = 5;
    pub(in crate::journal) const PROBE_ANSWERED: u8 = 6;
    pub(in crate::journal) const PROBE_FAILED: u8 = 7;
    /// A request that ended with status 200.
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
    /// The same as [`ROUTED_NEXT`] with the groups of its asker.
    pub(in crate::journal) const ROUTED_NEXT_FOR: u8 = 20;
    /// Like [`ROUTED`], with a key.
    pub(in crate::journal) const ROUTED_KEYED: u8 = 21;
}
