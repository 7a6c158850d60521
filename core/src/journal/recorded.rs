//! A router whose inputs are recorded, if anybody wants them.
use std::fmt;
use std::hint::cold_path;
use std::ops::Deref;
use std::time::Duration;

use super::encode::Encoder;
use super::header::Header;
use crate::blame::Asker;
use crate::config::{ConfigError, RouterConfig};
use crate::event::{Action, Event, Lease, NoRoute};
use crate::id::BackendId;
use crate::policy::state::{PolicyState, PolicyStateError};
use crate::router::Router;
use crate::time::Instant;

/// A [`Router`] that writes a journal of its inputs into a [`JournalSink`]; without one it is the
/// router and a branch.
///
/// It has the router's methods that change it, each recorded, and by [`Deref`] those that do not.
#[derive(Debug)]
pub struct RecordedRouter {
    router: Router,
    journal: Option<Box<Journal>>,
    /// The router's start, until its first input.
    origin: Option<Box<Origin>>,
}

/// Start of a router.
#[derive(Debug)]
struct Origin {
    header: Header,
    state: Option<PolicyState>,
}

/// Receiver of a journal's blocks. It never waits: blocks that it cannot take are lost, and
/// counted.
pub trait JournalSink: fmt::Debug + Send {
    /// Files that begin from now on begin with this header, their own number put into it.
    fn begin(&mut self, header: &Header);

    /// Takes a block: on `true` it is taken and `block` is an empty buffer, on `false` it is lost.
    /// `is_last` tells that no other one follows: this one is worth a little patience.
    fn put(&mut self, block: &mut Vec<u8>, at: Instant, records: u64, is_last: bool) -> bool;

    /// Records that were taken and could not be written after all.
    fn unwritten(&self) -> u64;
}

/// Counts of a recording.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct RecordingCounts {
    /// Records made, those lost included.
    pub records: u64,
    /// Records that the file does not have.
    pub lost: u64,
}

impl RecordedRouter {
    /// A router as [`Router::new`] makes it; nothing is recorded yet.
    ///
    /// # Errors
    /// The first invalid value of the configuration.
    pub fn new(config: RouterConfig, seed: u64, now: Instant) -> Result<Self, ConfigError> {
        let header =
            Header { config: config.clone(), seed, started: now, wall_clock_nanos: 0, part: 0 };
        let router = Router::new(config, seed, now)?;
        let origin = Origin { header, state: None };
        Ok(Self { router, journal: None, origin: Some(Box::new(origin)) })
    }

    /// Records everything from now on; `wall_clock_nanos` is what the clock on the wall says,
    /// nanoseconds since 1970. Does nothing after the first input: a journal begins where its
    /// router does.
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

    /// Takes in what was learned before; see [`Router::restore`].
    ///
    /// # Errors
    /// When it is invalid, or belongs to another policy.
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

    /// Takes a fact in; see [`Router::handle_event`].
    #[inline(always)]
    pub fn handle_event(&mut self, now: Instant, event: Event) {
        if let Some(journal) = &mut self.journal {
            cold_path();
            journal.event(now, &event);
        }
        self.begun();
        self.router.handle_event(now, event);
    }

    /// Does what is due; see [`Router::handle_timeout`].
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
    /// When there is no backend to name.
    pub fn route(&mut self, now: Instant, tried: &[BackendId]) -> Result<Lease, NoRoute> {
        self.route_for(now, tried, Asker::default())
    }

    /// Admits a request of which it is known who asks; see [`Router::route_for`].
    ///
    /// # Errors
    /// When there is no backend to name.
    #[inline(always)]
    pub fn route_for(
        &mut self,
        now: Instant,
        tried: &[BackendId],
        asker: Asker,
    ) -> Result<Lease, NoRoute> {
        self.begun();
        let result = self.router.route_for(now, tried, asker);
        if let Some(journal) = &mut self.journal {
            cold_path();
            journal.routed(now, tried, &result);
        }
        result
    }

    /// The next thing that the driver is to do; see [`Router::poll_action`].
    pub fn poll_action(&mut self) -> Option<Action> {
        let action = self.router.poll_action()?;
        if let Some(journal) = &mut self.journal
            && let Action::StartProbe { probe, backend, kind, .. } = action
        {
            // Probes start in the call that was recorded last.
            let now = journal.last_at;
            journal.write(now, |encoder| encoder.probe_started(now, probe, backend, kind));
        }
        Some(action)
    }

    /// Returns the counts of the recording; `None` without one.
    pub fn recording(&self) -> Option<RecordingCounts> {
        self.journal.as_ref().map(|journal| journal.counts())
    }

    /// From the first input on there is no way back to the start.
    #[inline]
    fn begun(&mut self) {
        if self.origin.is_some() {
            self.forget_origin();
        }
    }

    #[cold]
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
    /// Lost since the last block that was taken.
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

    #[inline(never)]
    fn routed(&mut self, now: Instant, tried: &[BackendId], result: &Result<Lease, NoRoute>) {
        let told = result.as_ref().map_err(|reason| *reason);
        self.write(now, |encoder| encoder.routed(now, tried, told));
    }

    #[inline(never)]
    fn event(&mut self, now: Instant, event: &Event) {
        self.write(now, |encoder| encoder.event(now, event));
        if let Event::Reconfigured(config) = event
            && config.validate().is_ok()
        {
            self.header.config = (**config).clone();
            self.sink.begin(&self.header);
        }
    }

    fn write(&mut self, now: Instant, write: impl FnOnce(&mut Encoder)) {
        let is_old = self.pending > 0 && now.since(self.begun_at) >= BLOCK_TIME;
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

    /// Passes the current block to the sink; records that it does not take become the next block's
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

/// The end of the router is the end of its recording.
impl Drop for Journal {
    fn drop(&mut self) {
        let at = self.last_at;
        self.write(at, |encoder| encoder.ended(at, false));
        self.hand_over(true);
    }
}

/// Bytes at which a block is handed over: some thousand requests.
const BLOCK_BYTES: usize = 32 * 1024;
/// Room beyond that for the record that fills it.
const BLOCK_BYTES_SPARE: usize = 1024;
/// Age at which a block is handed over when something more comes, so that a crash costs little.
const BLOCK_TIME: Duration = Duration::from_secs(1);
