//! A router whose inputs can be recorded.
//!
//! The layout hints are explained in `router.rs`.
use std::fmt;
use std::ops::Deref;
use std::time::Duration;

use super::encode::Encoder;
use super::header::Header;
use crate::affinity::AffinityKey;
use crate::blame::Asker;
use crate::config::{ConfigError, RouterConfig};
use crate::event::{Action, Event, Lease, NoRoute, Outcome};
use crate::id::BackendId;
use crate::policy::state::{PolicyState, PolicyStateError};
use crate::router::Router;
use crate::time::Instant;

/// A [`Router`] that writes a journal of its inputs into a [`JournalSink`]. Without a sink it
/// costs one branch more than the router.
///
/// Its methods that change the router record the call. Those that only read are available through
/// [`Deref`].
#[derive(Debug)]
pub struct RecordedRouter {
    router: Router,
    journal: Option<Box<Journal>>,
    /// The current configuration and the seed, for later recordings.
    header: Box<Header>,
    /// The initial state, kept until the first input.
    origin: Option<Box<Origin>>,
}

/// The initial state of a router.
#[derive(Debug)]
struct Origin {
    header: Header,
    state: Option<PolicyState>,
}

/// Receives the blocks of a journal. It does not block the caller, except briefly for the last
/// block: blocks that it cannot take are lost and counted.
pub trait JournalSink: fmt::Debug + Send {
    /// Sets the header of the files that begin after this. The sink numbers the files (`part`).
    fn begin(&mut self, header: &Header);

    /// Takes a block. Returns `true` if it was taken, with an empty buffer in `block`, and `false`
    /// if it is lost. If `is_last` is set, no block follows, and a short wait is acceptable.
    fn put(&mut self, block: &mut Vec<u8>, at: Instant, records: u64, is_last: bool) -> bool;

    /// The number of records that were taken but could not be written.
    fn unwritten(&self) -> u64;
}

/// Counts of a recording.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct RecordingCounts {
    /// Records made, including lost ones.
    pub records: u64,
    /// Records that are missing in the file.
    pub lost: u64,
}

impl RecordedRouter {
    /// Builds the same router as [`Router::new`]. Nothing is recorded yet.
    ///
    /// # Errors
    /// The first invalid value of the configuration.
    pub fn new(config: RouterConfig, seed: u64, now: Instant) -> Result<Self, ConfigError> {
        let header =
            Header { config: config.clone(), seed, started: now, wall_clock_nanos: 0, part: 0 };
        let router = Router::new(config, seed, now)?;
        let origin = Origin { header: header.clone(), state: None };
        let (header, origin) = (Box::new(header), Some(Box::new(origin)));
        Ok(Self { router, journal: None, header, origin })
    }

    /// Begins to record all inputs. `wall_clock_nanos` is the time of day, nanoseconds since
    /// 1970. Does nothing after the first input, because a journal must begin with its router.
    pub fn record_into(&mut self, mut sink: Box<dyn JournalSink>, wall_clock_nanos: u64) {
        let Some(origin) = self.origin.take() else {
            debug_assert!(false, "a journal begins before the router's first input");
            return;
        };
        let Origin { header, state } = *origin;
        let header = Header { wall_clock_nanos, ..header };
        sink.begin(&header);
        let started = header.started;
        let mut journal = Journal::new(Box::new(header), sink);
        if let Some(state) = &state {
            journal.write(started, |encoder| encoder.restored(started, state));
        }
        self.journal = Some(Box::new(journal));
    }

    /// Begins to record all inputs. Any earlier recording ends. Unless this is the router's first
    /// input, the recording begins like the second file of a longer one: its decisions can be read
    /// and explained, but not compared.
    pub fn record_from_now(
        &mut self,
        now: Instant,
        mut sink: Box<dyn JournalSink>,
        wall_clock_nanos: u64,
    ) {
        if self.origin.is_some() {
            return self.record_into(sink, wall_clock_nanos);
        }
        self.stop_recording();
        let header = Header { started: now, wall_clock_nanos, part: 1, ..(*self.header).clone() };
        sink.begin(&header);
        self.journal = Some(Box::new(Journal::new(Box::new(header), sink)));
    }

    /// Ends the recording, if there is one.
    pub fn stop_recording(&mut self) {
        self.journal = None;
    }

    /// Restores a learned state; see [`Router::restore`].
    ///
    /// # Errors
    /// The state is invalid or belongs to another policy.
    pub fn restore(&mut self, state: &PolicyState) -> Result<(), PolicyStateError> {
        self.router.restore(state)?;
        match (&mut self.journal, &mut self.origin) {
            (Some(journal), _) => {
                let now = journal.last_at;
                journal.write(now, |encoder| encoder.restored(now, state));
            }
            (None, Some(origin)) => origin.state = Some(state.clone()),
            (None, None) => {}
        }
        Ok(())
    }

    /// Applies a fact; see [`Router::handle_event`].
    #[inline(always)]
    pub fn handle_event(&mut self, now: Instant, event: Event) {
        if let Some(journal) = &mut self.journal {
            journal.event(now, &event);
        }
        self.begun();
        if let Event::Reconfigured(config) = &event {
            self.note(config);
        }
        self.router.handle_event(now, event);
    }

    /// Ends a request; see [`Router::finish`].
    pub fn finish(&mut self, now: Instant, lease: Lease, outcome: Outcome) {
        if self.journal.is_some() || self.origin.is_some() {
            return self.handle_event(now, Event::RequestFinished { lease, outcome });
        }
        self.router.finish(now, lease, outcome);
    }

    /// Does the work that is due; see [`Router::handle_timeout`].
    pub fn handle_timeout(&mut self, now: Instant) {
        if let Some(journal) = &mut self.journal {
            journal.write(now, |encoder| encoder.timed_out(now));
        }
        self.begun();
        self.router.handle_timeout(now);
    }

    /// Admits a request; see [`Router::route`].
    ///
    /// # Errors
    /// The reason why no backend can take the request.
    pub fn route(&mut self, now: Instant, tried: &[BackendId]) -> Result<Lease, NoRoute> {
        self.route_for(now, tried, Asker::default())
    }

    /// Admits a request whose groups are known; see [`Router::route_for`].
    ///
    /// # Errors
    /// The reason why no backend can take the request.
    #[inline(always)]
    pub fn route_for(
        &mut self,
        now: Instant,
        tried: &[BackendId],
        asker: Asker,
    ) -> Result<Lease, NoRoute> {
        self.route_keyed(now, tried, asker, None)
    }

    /// Admits a request that may have a key; see [`Router::route_keyed`].
    ///
    /// # Errors
    /// The reason why no backend can take the request.
    #[inline(always)]
    pub fn route_keyed(
        &mut self,
        now: Instant,
        tried: &[BackendId],
        asker: Asker,
        key: Option<AffinityKey>,
    ) -> Result<Lease, NoRoute> {
        self.begun();
        let result = self.router.route_keyed(now, tried, asker, key);
        if let Some(journal) = &mut self.journal {
            journal.routed(now, tried, key, &result);
        }
        result
    }

    /// The next piece of work for the driver; see [`Router::poll_action`].
    pub fn poll_action(&mut self) -> Option<Action> {
        let action = self.router.poll_action()?;
        if let Some(journal) = &mut self.journal
            && let Action::StartProbe { probe, backend, kind, .. } = action
        {
            // A probe starts in the call that was recorded last.
            let now = journal.last_at;
            journal.write(now, |encoder| encoder.probe_started(now, probe, backend, kind));
        }
        Some(action)
    }

    /// Returns the counts of the recording; `None` without a recording.
    pub fn recording(&self) -> Option<RecordingCounts> {
        self.journal.as_ref().map(|journal| journal.counts())
    }

    /// Drops the initial state at the first input: a recording can no longer begin with the router.
    #[inline]
    fn begun(&mut self) {
        if self.origin.is_some() {
            self.forget_origin();
        }
    }

    /// Keeps a valid configuration for the header of a later recording.
    fn note(&mut self, config: &RouterConfig) {
        if config.validate().is_ok() {
            self.header.config = config.clone();
        }
    }

    fn forget_origin(&mut self) {
        self.origin = None;
    }
}

impl Deref for RecordedRouter {
    type Target = Router;

    fn deref(&self) -> &Router {
        &self.router
    }
}

/// The journal of a router: the current block, and the receiver of full ones.
#[derive(Debug)]
struct Journal {
    encoder: Encoder,
    sink: Box<dyn JournalSink>,
    header: Box<Header>,
    begun_at: Instant,
    last_at: Instant,
    /// Records in the current block.
    pending: u64,
    /// Records lost since the last block that was taken.
    gap: u64,
    records: u64,
    lost: u64,
}

impl Journal {
    fn new(header: Box<Header>, sink: Box<dyn JournalSink>) -> Self {
        Self {
            encoder: Encoder::new(Vec::with_capacity(BLOCK_BYTES + BLOCK_BYTES_SPARE)),
            sink,
            begun_at: header.started,
            last_at: header.started,
            header,
            pending: 0,
            gap: 0,
            records: 0,
            lost: 0,
        }
    }

    fn routed(
        &mut self,
        now: Instant,
        tried: &[BackendId],
        key: Option<AffinityKey>,
        result: &Result<Lease, NoRoute>,
    ) {
        let told = result.as_ref().map_err(|reason| *reason);
        self.write(now, |encoder| encoder.routed(now, tried, key, told));
    }

    fn event(&mut self, now: Instant, event: &Event) {
        self.write(now, |encoder| encoder.event(now, event));
        if let Event::Reconfigured(config) = event
            && config.validate().is_ok()
        {
            // Files that begin later must begin with the configuration in force then.
            self.header.config = (**config).clone();
            self.sink.begin(&self.header);
        }
    }

    fn write(&mut self, now: Instant, write: impl FnOnce(&mut Encoder)) {
        let is_old = self.pending > 0 && now.since(self.begun_at) >= BLOCK_TIME;
        // Handed over before the new record, which then begins the next block.
        if is_old || self.encoder.block.len() >= BLOCK_BYTES {
            self.hand_over(false);
        }
        if self.pending == 0 {
            self.encoder.block.clear();
            self.encoder.begin(now, self.gap);
            self.begun_at = now;
        }
        write(&mut self.encoder);
        self.last_at = now;
        self.pending += 1;
        self.records += 1;
    }

    /// Passes the current block to the sink. Records that the sink rejects become the next block's
    /// gap.
    fn hand_over(&mut self, is_last: bool) {
        let pending = std::mem::take(&mut self.pending);
        if self.sink.put(&mut self.encoder.block, self.last_at, pending, is_last) {
            self.gap = 0;
        } else {
            self.gap += pending;
            self.lost += pending;
        }
    }

    fn counts(&self) -> RecordingCounts {
        RecordingCounts { records: self.records, lost: self.lost + self.sink.unwritten() }
    }
}

/// Ends the recording with its router.
impl Drop for Journal {
    fn drop(&mut self) {
        let at = self.last_at;
        self.write(at, |encoder| encoder.ended(at, false));
        self.hand_over(true);
    }
}

/// The size at which a block is handed over, about two thousand requests.
const BLOCK_BYTES: usize = 32 * 1024;
/// Room for the last record of a block.
const BLOCK_BYTES_SPARE: usize = 1024;
/// The age at which a block is handed over with the next record. A crash loses about that much.
const BLOCK_TIME: Duration = Duration::from_secs(1);
