//! The whole proxy in memory: connections, sessions, router, pool and timers, without a socket or
//! a clock.
//!
//! A driver (the reactor, or a simulator) reports events with their times, and carries out actions.
//! It reads bytes into [`read_space`](Proxy::read_space) and writes them from
//! [`write_ready`](Proxy::write_ready). It makes and closes connections as
//! [`poll_action`](Proxy::poll_action) requests, and calls
//! [`handle_timeout`](Proxy::handle_timeout) at [`poll_timeout`](Proxy::poll_timeout). The same
//! calls with the same times have the same effects.
mod askers;
mod conn;
mod counters;
mod dispatch;
mod excerpt;
mod give_way;
mod id;
mod invariants;
mod notice;
mod probe;
mod probing;
mod queue;
mod reconfigure;
mod retries;
mod room;
mod serving;
mod session;
mod shared;
mod stats;
mod stopping;
mod timers;
mod trust;
mod upstreams;

use std::collections::VecDeque;
use std::hint::cold_path;
use std::net::SocketAddr;

use intelliproxy_core::journal::JournalSink;
use intelliproxy_core::{
    Action as RouterAction, BackendId, ConfigError, Instant, PolicyState, PolicyStateError,
    ProbeFailure, Snapshot,
};

use self::conn::{Conn, ConnTable, Upstream};
use self::counters::Counters;
use self::dispatch::connect_error;
use self::give_way::GiveWay;
pub use self::id::ConnId;
pub use self::notice::{ConfigChange, Full, Notice, RemedyTaken, ReportFault};
pub(crate) use self::probe::{HEAD_BYTES_MAX as PROBE_HEAD_BYTES_MAX, REPORT_BYTES_MAX};
use self::queue::Queue;
use self::room::Room;
use self::serving::watch;
use self::session::{ClientHalf, Hop, Session, Side};
use self::shared::Shared;
use self::stats::Stats;
use self::timers::{Timers, earlier, earliest};
use self::upstreams::Upstreams;
use crate::config::{BackendTarget, Config};
pub(crate) use crate::http::field::FIELDS_MAX;
use crate::pages::{LogCounts, ReloadCounts};

/// An action that the proxy requests from its driver.
#[derive(Debug, PartialEq)]
pub enum Action {
    /// Make a connection; the driver reports the result by [`Proxy::handle_connected`].
    Connect {
        /// Its id in the proxy.
        conn: ConnId,
        /// Destination.
        address: SocketAddr,
    },
    /// Read all that the connection has received, including its end, before writing to it: the next
    /// request on it would be lost if it is closed.
    Look {
        /// The connection.
        conn: ConnId,
    },
    /// Report how many bytes written to a connection its peer has not acknowledged, by
    /// [`Proxy::handle_measured`].
    Measure {
        /// The connection.
        conn: ConnId,
    },
    /// Send the end of the stream; reading continues.
    Shutdown {
        /// The connection; all its waiting bytes are written.
        conn: ConnId,
    },
    /// Close a connection; its id is no longer valid.
    Close {
        /// The connection.
        conn: ConnId,
        /// Whether to reset it, so that the peer does not take the end for a clean one.
        with_reset: bool,
    },
    /// A fact for observers.
    Notify(Notice),
}

/// The reason for a failed connection attempt.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ConnectFailure {
    /// The address has no listener.
    Refused,
    /// The proxy's own system had no descriptor, port or memory for it. No backend is to blame.
    Exhausted,
    /// Any other reason.
    Unreachable,
}

/// The proxy. Its methods are of the four kinds of [`Router`](intelliproxy_core::Router): facts
/// (`handle_*`), immediate results (`read_space`, `write_ready`, `handle_accept`), effects
/// (`poll_*`) and getters.
#[derive(Debug)]
pub struct Proxy {
    table: ConnTable,
    shared: Shared,
    upstreams: Upstreams,
    timers: Timers,
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
    stats: Stats,
    queue: Queue,
    log_counts: LogCounts,
    counters: Counters,
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
        Ok(Self {
            table: ConnTable::default(),
            upstreams,
            timers: Timers::default(),
            room: Room::new(config.limits.clients),
            shared: Shared::new(config, seed),
            dirty: VecDeque::new(),
            clients: 0,
            refused: 0,
            give_way: GiveWay::default(),
            sink: [0; 64],
            stop_deadline: None,
            reload_counts: ReloadCounts::default(),
            stats: Stats::default(),
            queue: Queue::default(),
            log_counts: LogCounts::default(),
            counters: Counters::default(),
        })
    }

    /// Restores what the router's policy learned, from the text of
    /// [`policy_state`](Self::policy_state). Must be called before any other method.
    ///
    /// # Errors
    /// The text is invalid, or the state of another policy. Nothing has changed then.
    pub fn restore(&mut self, text: &str) -> Result<(), PolicyStateError> {
        self.upstreams.restore(text)
    }

    /// Returns what the router's policy has learned; `None` for a policy that does not learn.
    pub fn policy_state(&self) -> Option<PolicyState> {
        self.upstreams.policy_state()
    }

    /// Records every input of the router from its start. Must be called before any other method.
    /// `wall_clock_nanos` is the time of day, nanoseconds since 1970.
    pub fn record_into(&mut self, sink: Box<dyn JournalSink>, wall_clock_nanos: u64) {
        self.upstreams.record_into(sink, wall_clock_nanos);
    }

    /// Takes the time of day as an HTTP date (RFC 9110 section 5.6.7), for responses without Date.
    /// Should be called about once a second. Without any call no Date is added.
    #[cold]
    pub fn handle_date(&mut self, http_date: &str) {
        self.shared.set_date(http_date);
    }

    /// Accepts a new client. It is served, or gets 503 if there is no room.
    pub fn handle_accept(&mut self, now: Instant, peer: SocketAddr) -> ConnId {
        let id = self.table.insert(|_| {
            let client = ClientHalf::new(Hop::new(peer, &mut self.shared), now);
            Conn::Client(Box::new(Session::new(client, now)))
        });
        let is_full = self.admitted() >= self.room.clients_max && !self.make_room(now);
        self.clients += 1;
        self.counters.incidents.accepted += 1;
        if is_full || self.shared.is_stopping {
            let full = self.full();
            self.notify(Notice::ClientRefused { peer, full });
            if let Some(session) = self.table.session_mut(id) {
                session.handle_refused(now, &mut self.shared);
                self.refused += 1;
            }
        } else {
            self.give_way.add(now, id, self.clients, &self.table);
        }
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

    /// Handles the result of a requested connection.
    pub fn handle_connected(
        &mut self,
        now: Instant,
        conn: ConnId,
        result: Result<(), ConnectFailure>,
    ) {
        match (self.owner(conn), result) {
            (Owner::Session(id, Side::Upstream), Ok(())) => {
                self.prefer(conn);
                self.count_connected(now, conn);
                if let Some(session) = self.table.session_mut(id) {
                    session.handle_linked(now, conn, false);
                }
                self.serve(now, id);
            }
            (Owner::Session(id, Side::Upstream), Err(failure)) => {
                cold_path();
                self.count_unconnected(conn);
                self.redirect(now, id, conn, connect_error(failure));
                self.serve(now, id);
            }
            (Owner::Probe, Ok(())) => {
                if let Some(probe) = self.probe_mut(conn) {
                    probe.handle_connected();
                }
                self.mark_dirty(conn);
            }
            (Owner::Probe, Err(failure)) => self.redirect_probe(now, conn, failure),
            (Owner::Session(_, Side::Client) | Owner::Idle(_) | Owner::Gone, _) => {}
        }
    }

    /// Returns room for bytes of a connection; empty if they have to wait.
    #[inline(always)]
    pub fn read_space(&mut self, conn: ConnId) -> &mut [u8] {
        match self.owner(conn) {
            Owner::Session(id, side) => match self.table.session_mut(id) {
                Some(session) => session.read_space(side, &mut self.shared),
                None => &mut [],
            },
            Owner::Probe => self.probe_space(conn),
            Owner::Idle(_) => &mut self.sink,
            Owner::Gone => &mut [],
        }
    }

    /// Handles `count` bytes that were put into [`read_space`](Self::read_space); 0 if none had
    /// arrived.
    #[inline(always)]
    pub fn handle_read(&mut self, now: Instant, conn: ConnId, count: usize) {
        match self.owner(conn) {
            Owner::Session(id, side) => {
                if side == Side::Upstream {
                    self.count_received(conn, count);
                }
                if let Some(session) = self.table.session_mut(id) {
                    session.handle_read(now, side, count, &mut self.shared);
                }
                if count > 0 {
                    self.serve(now, id);
                }
            }
            Owner::Probe => self.read_probe(now, conn, count),
            Owner::Idle(backend) if count > 0 => {
                self.notify(Notice::UnsolicitedBytes { backend });
                self.discard_idle(backend, conn);
            }
            Owner::Idle(_) | Owner::Gone => {}
        }
    }

    /// Returns the work done so far, in bytes read; expensive bytes count several times. A driver
    /// with many connections limits each one by it.
    #[inline]
    pub const fn work(&self) -> u64 {
        self.shared.work
    }

    /// Handles the end of a peer's side: no more bytes arrive.
    pub fn handle_eof(&mut self, now: Instant, conn: ConnId) {
        match self.owner(conn) {
            Owner::Session(id, side) => {
                if let Some(session) = self.table.session_mut(id) {
                    session.handle_eof(now, side, &mut self.shared);
                }
                self.serve(now, id);
            }
            Owner::Probe => {
                if let Some(result) = self.probe_mut(conn).map(|probe| probe.handle_eof(now)) {
                    self.finish_probe(now, conn, result);
                }
            }
            Owner::Idle(backend) => self.discard_idle(backend, conn),
            Owner::Gone => {}
        }
    }

    /// Handles a reset or another break of a connection.
    pub fn handle_failed(&mut self, now: Instant, conn: ConnId) {
        match self.owner(conn) {
            Owner::Session(id, side) => {
                if let Some(session) = self.table.session_mut(id) {
                    session.handle_failed(now, side, &mut self.shared);
                }
                self.serve(now, id);
            }
            Owner::Probe => self.finish_probe(now, conn, Err(ProbeFailure::Cut)),
            Owner::Idle(backend) => self.discard_idle(backend, conn),
            Owner::Gone => {}
        }
    }

    /// Returns the bytes that wait for a connection.
    pub fn write_ready(&self, conn: ConnId) -> &[u8] {
        match self.table.get(conn).map(|entry| &entry.conn) {
            Some(Conn::Client(session)) => session.write_ready(Side::Client),
            Some(Conn::Upstream(Upstream { session: Some(id), .. })) => {
                match self.table.get(*id).map(|entry| &entry.conn) {
                    Some(Conn::Client(session)) => session.write_ready(Side::Upstream),
                    _ => &[],
                }
            }
            Some(Conn::Probe(probe)) => {
                cold_path();
                probe.write_ready()
            }
            Some(Conn::Upstream(_)) | None => &[],
        }
    }

    /// Whether the connection's end follows its waiting bytes in the same turn. The driver may hold
    /// the bytes back until then, so that both leave together.
    pub fn is_last_write(&self, conn: ConnId) -> bool {
        match self.table.get(conn).map(|entry| &entry.conn) {
            Some(Conn::Client(session)) => session.is_closing(),
            Some(Conn::Upstream(_) | Conn::Probe(_)) | None => false,
        }
    }

    /// Handles that a connection took the first `count` bytes of
    /// [`write_ready`](Self::write_ready).
    pub fn handle_written(&mut self, now: Instant, conn: ConnId, count: usize) {
        match self.owner(conn) {
            Owner::Session(id, side) => {
                if side == Side::Upstream {
                    self.count_sent(conn, count);
                }
                let Some(entry) = self.table.get_mut(id) else { return };
                let Conn::Client(session) = &mut entry.conn else { return };
                if session.handle_written(now, side, count, &mut self.shared) {
                    cold_path();
                    self.serve(now, id);
                } else {
                    let horizon = self.shared.horizon(now);
                    watch(entry, id, horizon, &mut self.timers, &self.shared);
                }
            }
            Owner::Probe => {
                if let Some(probe) = self.probe_mut(conn) {
                    probe.handle_written(count);
                }
            }
            Owner::Idle(_) | Owner::Gone => {}
        }
    }

    /// Handles a connection that takes no more bytes. Bytes that it sent may still be unread.
    pub fn handle_write_failed(&mut self, now: Instant, conn: ConnId) {
        match self.owner(conn) {
            Owner::Session(id, side) => {
                if let Some(session) = self.table.session_mut(id) {
                    session.handle_write_failed(now, side, &mut self.shared);
                }
                self.serve(now, id);
            }
            Owner::Probe => self.finish_probe(now, conn, Err(ProbeFailure::Cut)),
            Owner::Idle(backend) => self.discard_idle(backend, conn),
            Owner::Gone => {}
        }
    }

    /// Handles deadlines up to `now`, and begins probes. Early or repeated calls are harmless;
    /// afterwards there is no deadline at or before `now`.
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
        self.expire_queue(now);
        debug_assert!(
            self.poll_timeout().is_none_or(|next| next > now),
            "after a timeout was handled, the next one is later"
        );
    }

    /// Whether there is anything to poll: an action, or a connection with output or room.
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
        let rare = [
            self.stop_deadline,
            self.stats.poll_timeout(),
            self.queue.poll_timeout(),
            self.excess_timeout(),
        ];
        earliest(earlier(router, self.timers.next()), rare)
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

    /// Returns the name of a backend, or a fixed text if another backend uses its slot.
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
                RouterAction::Notify(notice) => self.notify(Notice::Router(notice)),
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
                None => {
                    cold_path();
                    Owner::Idle(upstream.backend)
                }
            },
            Some(Conn::Probe(_)) => {
                cold_path();
                Owner::Probe
            }
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

/// The recipient of an event of a connection.
#[derive(Clone, Copy)]
enum Owner {
    Session(ConnId, Side),
    Probe,
    /// The pool, which keeps it for this backend.
    Idle(BackendId),
    /// None: a late event.
    Gone,
}
