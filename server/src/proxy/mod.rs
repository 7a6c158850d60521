//! The whole proxy in memory: connections, sessions, router, pool and timers, without a socket or
//! a clock.
//!
//! A driver (the reactor, or a simulator) reports events with their times, and carries out actions.
//! It reads bytes into [`read_space`](Proxy::read_space) and writes them from
//! [`write_ready`](Proxy::write_ready). It makes and closes connections as
//! [`poll_action`](Proxy::poll_action) requests, and calls
//! [`handle_timeout`](Proxy::handle_timeout) at [`poll_timeout`](Proxy::poll_timeout). The same
//! calls with the same times have the same effects.
//!
//! | to follow | see |
//! |---|---|
//! | an event of a connection | `traffic.rs`, then `session/` |
//! | a need of a session | `serving.rs`; for a backend `dispatch.rs`, `queue.rs` and `upstreams/` |
//! | a failed or refused request | `session/remedy.rs`, `session/failure.rs`, `session/refused.rs`, `retry_budget.rs` |
//! | a probe | `probing.rs` and `probe.rs` |
//! | limits on clients | `room.rs`, `give_way.rs`, `per_client.rs` |
//! | a new configuration, a command, the stop | `reconfigure.rs`, `commands.rs`, `stopping.rs` |
//!
//! LIFECYCLE.md has the states of a session and the numbered rules that comments cite.
//!
//! # Layout hints
//! Those of `proxy`, `buffer` and `reactor` have these reasons:
//!
//! - `inline(always)`, also in the router: measured together on the release binary, by callgrind
//!   with one client. Without them an exchange on a kept connection costs 7731 instructions instead
//!   of 7546, one on a new connection 10 572 instead of 10 432.
//! - `cold` and `inline(never)`: the code of rare cases stays out of the cache lines that every
//!   exchange runs through. Together with needs as a set of bits this took an exchange of the
//!   running proxy from 7229 instructions and 536 lines of 64 bytes to 6483 and 471.
//! - `inline`: small functions that every exchange or every turn calls. A release inlines others only
//!   if they are tiny (`.cargo/config.toml`); without the hints of both packages an exchange makes 46
//!   more calls and takes 1.5 % more instructions.
mod action;
mod affinity;
mod askers;
mod commands;
mod conn;
mod counters;
pub(crate) mod describe;
mod dispatch;
mod excerpt;
mod give_way;
mod id;
mod invariants;
mod live;
mod notice;
mod orca;
mod per_client;
mod probe;
mod probing;
mod queue;
mod rate;
mod reconfigure;
pub(crate) mod report;
mod retry_budget;
mod room;
mod serving;
mod session;
mod shared;
mod stats;
mod stopping;
mod timers;
mod traffic;
mod trust;
mod upstreams;
mod visits;

use std::collections::VecDeque;
use std::net::SocketAddr;

use intelliproxy_core::journal::JournalSink;
use intelliproxy_core::{
    Action as RouterAction, BackendId, ConfigError, Instant, Notice as RouterNotice, PolicyState,
    PolicyStateError, Snapshot,
};

pub use self::action::{Action, ConnectFailure};
pub(crate) use self::commands::Overrides;
use self::conn::{Conn, ConnTable};
use self::counters::Counters;
use self::give_way::GiveWay;
pub use self::id::ConnId;
use self::live::LiveFeed;
pub use self::notice::{ConfigChange, Excess, Full, Notice, RemedyTaken, ReportFault};
use self::queue::Queue;
use self::room::Room;
pub use self::session::ClientIdentity;
use self::session::{ClientHalf, Hop, Session, Side};
use self::shared::Shared;
use self::stats::Stats;
use self::timers::Timers;
pub(crate) use self::timers::earliest;
pub use self::traffic::Output;
use self::upstreams::Upstreams;
use crate::config::{BackendTarget, Config, ListenTls};
use crate::pages::{LogCounts, ReloadCounts};
pub use crate::tls::TlsFault;

/// The proxy. Its methods are of the four kinds of [`Router`](intelliproxy_core::Router): facts
/// (`handle_*`), immediate results (`read_space`, `write_ready`, `handle_accept`), effects
/// (`poll_*`) and getters.
#[derive(Debug)]
pub struct Proxy {
    table: ConnTable,
    shared: Shared,
    upstreams: Upstreams,
    timers: Timers,
    /// Connections with bytes to write or room to read again, each one once.
    dirty: VecDeque<ConnId>,
    clients: usize,
    /// Refused clients whose connections have not ended yet.
    refused: usize,
    room: Room,
    give_way: GiveWay,
    /// Space for unexpected bytes, which are dropped.
    sink: [u8; 64],
    stop_deadline: Option<Instant>,
    reload_counts: ReloadCounts,
    overrides: Overrides,
    stats: Stats,
    queue: Queue,
    log_counts: LogCounts,
    counters: Counters,
    live: LiveFeed,
}

impl Proxy {
    /// Returns a proxy for `targets`: the backends of `config` in their order, with their
    /// addresses.
    ///
    /// # Errors
    /// The first invalid value of the configuration.
    pub fn new(
        config: Config,
        targets: Vec<BackendTarget>,
        seed: u64,
        now: Instant,
    ) -> Result<Self, ConfigError> {
        config.validate()?;
        let upstreams = Upstreams::new(&config, targets, seed, now)?;
        let mut proxy = Self {
            table: ConnTable::default(),
            upstreams,
            timers: Timers::default(),
            room: Room::new(config.limits.clients),
            shared: Shared::new(config, seed, now),
            dirty: VecDeque::new(),
            clients: 0,
            refused: 0,
            give_way: GiveWay::default(),
            sink: [0; 64],
            stop_deadline: None,
            reload_counts: ReloadCounts::default(),
            overrides: Overrides::default(),
            stats: Stats::default(),
            queue: Queue::default(),
            log_counts: LogCounts::default(),
            counters: Counters::default(),
            live: LiveFeed::new(),
        };
        proxy.shared.loads.set(proxy.upstreams.response_loads());
        proxy.adopt_live(now);
        Ok(proxy)
    }

    /// Restores the state that the router's policy learned, from the text of
    /// [`policy_state`](Self::policy_state). Should be called before the first request.
    ///
    /// # Errors
    /// The text is invalid, or is the state of another policy. In that case nothing has changed.
    pub fn restore(&mut self, text: &str) -> Result<(), PolicyStateError> {
        self.upstreams.restore(text)
    }

    /// Returns the state that the router's policy has learned; `None` for a policy that does not
    /// learn.
    pub fn policy_state(&self) -> Option<PolicyState> {
        self.upstreams.policy_state()
    }

    /// Records every input of the router from its start. Must be called before any other method.
    /// `wall_clock_nanos` is the time of day, nanoseconds since 1970.
    pub fn record_into(&mut self, sink: Box<dyn JournalSink>, wall_clock_nanos: u64) {
        self.upstreams.record_into(sink, wall_clock_nanos);
    }

    /// Begins to record every input of the router. An earlier recording ends.
    pub fn record_from_now(
        &mut self,
        now: Instant,
        sink: Box<dyn JournalSink>,
        wall_clock_nanos: u64,
    ) {
        self.upstreams.record_from_now(now, sink, wall_clock_nanos);
    }

    /// Ends the recording, if there is one.
    pub fn stop_recording(&mut self) {
        self.upstreams.stop_recording();
    }

    /// Takes the time of day as an HTTP date (RFC 9110 section 5.6.7), for responses without Date.
    /// Should be called about once a second. If it is never called, no Date is added.
    #[cold]
    pub fn handle_date(&mut self, http_date: &str) {
        self.shared.set_date(http_date);
    }

    /// Accepts a new client. If there is no room for it, or if it has too many connections already,
    /// it gets 503 or 429, or a reset if many refused clients have not left yet.
    pub fn handle_accept(&mut self, now: Instant, peer: SocketAddr) -> ConnId {
        let id = self.table.insert(|_| {
            let client = ClientHalf::new(Hop::new(peer, &mut self.shared), now);
            Conn::Client(Box::new(Session::new(client, now)))
        });
        self.admit(now, id, peer);
        self.serve(now, id);
        id
    }

    /// Expects a PROXY protocol header from this client if it is a trusted hop: its listener speaks
    /// that protocol. Must be called right after [`handle_accept`](Self::handle_accept).
    #[cold]
    pub fn expect_proxy_header(&mut self, conn: ConnId) {
        if let Some(session) = self.table.session_mut(conn) {
            session.expect_proxy_header();
        }
    }

    /// Handles the end of a client's TLS handshake. The driver does not pass bytes of this client
    /// before.
    #[cold]
    pub fn handle_secured(
        &mut self,
        now: Instant,
        conn: ConnId,
        tls: &ListenTls,
        identity: Option<&ClientIdentity>,
    ) {
        if let Some(session) = self.table.session_mut(conn) {
            session.handle_secured(now, tls, identity);
        }
    }

    /// Handles a client whose TLS handshake failed for the reason `wrong`.
    #[cold]
    pub fn handle_unsecured(&mut self, now: Instant, conn: ConnId, wrong: String) {
        if let Some(session) = self.table.session_mut(conn) {
            let peer = session.peer();
            self.notify(Notice::HandshakeFailed { peer, wrong });
        }
        self.handle_failed(now, conn);
    }

    /// Whether this client's connection must begin with a PROXY protocol header.
    #[cold]
    pub fn awaits_proxy_header(&mut self, conn: ConnId) -> bool {
        self.table.session_mut(conn).is_some_and(|session| session.awaits_proxy_header())
    }

    /// Handles the client named in a PROXY protocol header, if it names one. The driver reads the
    /// header itself if TLS follows it.
    #[cold]
    pub fn handle_proxy_header(&mut self, now: Instant, conn: ConnId, source: Option<SocketAddr>) {
        if let Some(session) = self.table.session_mut(conn) {
            session.adopt_source(now, source, &mut self.shared);
        }
        self.serve(now, conn);
    }

    /// Redirects all requests of this client to an HTTPS port, as its listener is configured. Must
    /// be called right after [`handle_accept`](Self::handle_accept).
    #[cold]
    pub fn expect_redirect(&mut self, conn: ConnId, port: u16) {
        if let Some(session) = self.table.session_mut(conn) {
            session.expect_redirect(port);
        }
    }

    /// Returns the work done so far. A byte that is read counts as 1. A byte that is parsed
    /// individually, and a response of the proxy itself, count more. The driver bounds the work of
    /// one connection in one turn.
    #[inline]
    pub const fn work(&self) -> u64 {
        self.shared.work
    }

    /// Handles deadlines up to `now`, and begins probes. Early or repeated calls are harmless;
    /// after the call no deadline is at or before `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        let is_router_due = self.upstreams.poll_timeout().is_some_and(|at| at <= now);
        // A stopping proxy begins no probes: they would delay its end.
        if is_router_due && !self.shared.is_stopping {
            self.upstreams.handle_timeout(now);
            self.drain_router(now);
        }
        self.shared.trim(now);
        if self.excess_timeout().is_some_and(|at| at <= now) {
            self.close_excess(now);
        }
        while let Some(conn) = self.timers.due(&mut self.table, now) {
            self.handle_conn_timeout(now, conn);
        }
        if self.stop_deadline.is_some_and(|at| at <= now) {
            self.stop_deadline = None;
            for id in self.client_ids() {
                if let Some(session) = self.table.session_mut(id) {
                    session.handle_cut(now, &mut self.shared);
                }
                self.serve(now, id);
            }
        }
        self.step_stats(now);
        self.step_live(now);
        self.expire_queue(now);
        debug_assert!(
            self.poll_timeout().is_none_or(|next| next > now),
            "after a timeout was handled, the next one is later"
        );
    }

    /// Whether there is anything to poll: an action, or a connection with bytes to write or room to
    /// read.
    #[inline]
    pub fn has_effects(&self) -> bool {
        self.has_actions() || !self.dirty.is_empty()
    }

    /// Whether [`poll_action`](Self::poll_action) would return an action.
    #[inline]
    pub fn has_actions(&self) -> bool {
        !self.shared.actions.is_empty()
    }

    /// Returns the next action.
    pub fn poll_action(&mut self) -> Option<Action> {
        let action = self.shared.actions.pop_front()?;
        if let Action::Notify(notice) = &action {
            self.counters.note(notice);
        }
        Some(action)
    }

    /// Returns the next connection that has bytes to write, or room to read again.
    pub fn poll_dirty(&mut self) -> Option<ConnId> {
        while let Some(conn) = self.dirty.pop_front() {
            if let Some(entry) = self.table.get_mut(conn) {
                entry.is_dirty = false;
                return Some(conn);
            }
        }
        None
    }

    /// Returns the time at which [`handle_timeout`](Self::handle_timeout) is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let router = if self.shared.is_stopping { None } else { self.upstreams.poll_timeout() };
        earliest([
            router,
            self.timers.next(),
            self.shared.trim_timeout(),
            self.stop_deadline,
            self.stats.poll_timeout(),
            // After the stop, the history is not needed.
            if self.is_stopped() { None } else { self.live.poll_timeout() },
            self.queue.poll_timeout(),
            self.excess_timeout(),
        ])
    }

    /// Returns the number of connected clients.
    pub fn clients(&self) -> usize {
        self.clients
    }

    /// Returns the number of exchanges in progress at backends.
    pub const fn in_flight(&self) -> usize {
        self.upstreams.leases()
    }

    /// Returns the router's state as plain data.
    pub fn snapshot(&self, now: Instant) -> Snapshot {
        self.upstreams.snapshot(now)
    }

    /// Returns the name of a backend, or `(removed)` if another backend uses its slot.
    pub fn backend_name(&self, backend: BackendId) -> &str {
        self.upstreams.target(backend).map_or("(removed)", |target| &target.name)
    }

    /// Whether no client, lease or lent buffer is left.
    pub fn is_at_rest(&self) -> bool {
        self.clients == 0 && self.upstreams.leases() == 0 && self.shared.buffers.lent() == 0
    }

    /// Returns the number of buffers in use: at most four for each client.
    pub fn buffers_lent(&self) -> usize {
        self.shared.buffers.lent()
    }

    /// Returns the number of connections of all kinds, including probes and idle upstreams.
    pub fn connections(&self) -> usize {
        self.table.len()
    }

    /// Carries out the router's actions.
    #[inline]
    fn drain_router(&mut self, now: Instant) {
        if self.upstreams.has_actions() {
            self.do_as_the_router_wants(now);
        }
    }

    #[cold]
    fn do_as_the_router_wants(&mut self, now: Instant) {
        while let Some(action) = self.upstreams.poll_action() {
            match action {
                RouterAction::StartProbe { probe, backend, kind, deadline } => {
                    self.start_probe(now, probe, backend, kind, deadline);
                }
                RouterAction::Notify(RouterNotice::PingsUnserved { status })
                    if !self.upstreams.is_news_unserved(status) => {}
                RouterAction::Notify(notice) => {
                    self.show_notice(now, &notice);
                    self.notify(Notice::Router(notice));
                }
            }
        }
    }

    /// Ensures that a connection is checked no later than `at`.
    fn arm(&mut self, conn: ConnId, at: Instant) {
        if let Some(entry) = self.table.get_mut(conn) {
            self.timers.arm(&mut entry.armed, conn, at);
        }
    }

    #[inline]
    fn owner(&self, conn: ConnId) -> Owner {
        match self.table.get(conn).map(|entry| &entry.conn) {
            Some(Conn::Client(_)) => Owner::Session(conn, Side::Client),
            Some(Conn::Upstream(upstream)) => match upstream.session {
                Some(id) => Owner::Session(id, Side::Upstream),
                None => Owner::Idle(upstream.backend),
            },
            Some(Conn::Probe(_)) => Owner::Probe,
            None => Owner::Gone,
        }
    }

    #[inline]
    fn mark_dirty(&mut self, conn: ConnId) {
        if let Some(entry) = self.table.get_mut(conn)
            && !entry.is_dirty
        {
            entry.is_dirty = true;
            self.dirty.push_back(conn);
        }
    }

    fn notify(&mut self, notice: Notice) {
        self.shared.actions.push_back(Action::Notify(notice));
    }

    fn client_ids(&self) -> Vec<ConnId> {
        let clients = self.table.iter().filter(|(_, conn)| matches!(conn, Conn::Client(_)));
        clients.map(|(id, _)| id).collect()
    }
}

/// The part of the proxy that gets the events of a connection.
#[derive(Clone, Copy)]
enum Owner {
    Session(ConnId, Side),
    Probe,
    /// The pool: the connection is idle, to this backend.
    Idle(BackendId),
    /// None: the connection has been closed, and the event is late.
    Gone,
}
