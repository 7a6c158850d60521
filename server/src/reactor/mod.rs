//! Sockets, clock and signals of the proxy: one thread, one poll, one clock reading per turn. Files
//! and names belong to [`edge`](crate::edge), whose threads may block.
//!
//! A turn waits for readiness, reads the clock, and takes each event to its connection at once.
//! Then it continues with connections that had more bytes than their share, accepts new ones, and
//! handles timeouts. After each step the proxy's effects are carried out, so bytes are written in
//! the turn that read them, and only a write that blocked waits for an edge. The reactor does not
//! interpret the bytes.
//!
//! The layout hints are explained in `proxy/mod.rs`.
mod accept;
mod admin;
mod budget;
mod bytes;
mod clock;
mod control;
mod descriptors;
mod effects;
mod figures;
mod handshakes;
mod listeners;
mod reload;
mod signal;
mod socket;
mod succession;
mod token;
mod transfer;
mod unacknowledged;
mod upkeep;

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use intelliproxy_core::Instant;
use log::{info, warn};
use mio::event::Event;
use mio::{Events, Poll, Waker};

use self::admin::AdminPort;
use self::budget::Budget;
use self::clock::{Clock, seed, wall_clock_nanos};
use self::control::ControlPort;
use self::descriptors::connections_max;
use self::handshakes::Handshakes;
use self::listeners::Listeners;
use self::signal::Watched;
use self::socket::{Scratch, Socket};
use self::token::{LISTENERS_MAX, Source};
use self::unacknowledged::Diagnosis;
use self::upkeep::Upkeep;
use crate::config::Found;
use crate::edge::Edge;
use crate::edge::record::Opened;
use crate::edge::service::Service;
use crate::edge::setup::Setup;
use crate::edge::state::Keeper;
use crate::edge::tls::{Clients, Servers, unverified};
use crate::edge::{access, record};
use crate::proxy::{ConnId, Proxy, earliest};

/// The maximum number of events that one poll takes from the system.
const EVENTS_MAX: usize = 1024;
/// If a deadline is handled later than this, the process may have been paused. Bytes that arrived
/// in the pause are then read first. Ordinary turns are late by the poll's 1 ms granularity.
const LATE: Duration = Duration::from_millis(5);
/// If a turn is this late, the process was suspended or starved of CPU time. The latencies of its
/// probes are then meaningless.
const PAUSED: Duration = Duration::from_millis(100);
/// The maximum number of consecutive polls that read what arrived during a pause. Each takes up to
/// [`EVENTS_MAX`] events.
const CATCH_UPS_MAX: usize = 64;

/// Serves until a signal ends the process, or until a successor has taken over and no client is
/// left.
///
/// # Errors
/// The reason why serving cannot begin or continue, in one line.
pub fn serve(mut setup: Setup) -> Result<(), String> {
    let announcement = setup.announcement();
    let warnings: Vec<String> = unverified(&setup.backends).collect();
    let (predecessor, early) = (setup.predecessor.take(), setup.early.take());
    let mut reactor = Reactor::new(setup)?;
    // Nothing was accepted so far, so the predecessor could still continue alone.
    if let Some(predecessor) = predecessor {
        predecessor.report_ready()?;
        if let Err(wrong) = reactor.open_control(true) {
            warn!("{wrong}: accepting no commands");
        }
    } else {
        reactor.open_control(false)?;
    }
    // Once, when everything that needs descriptors is open, so that a limit is reported once.
    reactor.reserve();
    // From here on, only the reactor's handlers catch signals, so that each signal counts once.
    let has_hung_up = early.is_some_and(|early| early.has_hung_up());
    // Logged after the listeners accept: a script that waits for these lines may connect or send a
    // signal at once.
    for line in announcement {
        info!("{line}");
    }
    for line in warnings {
        warn!("{line}");
    }
    reactor.service.handle_ready();
    if has_hung_up {
        // The reactor's handler may have caught the same signal.
        reactor.signals.hangups.take();
        let _ = reactor.reload();
    }
    let mut events = Events::with_capacity(EVENTS_MAX);
    while !reactor.is_over() {
        reactor.turn(&mut events).map_err(|error| format!("cannot wait for events: {error}"))?;
    }
    reactor.edge.finish(reactor.now, &mut reactor.proxy);
    reactor.service.finish();
    Ok(())
}

struct Reactor {
    poll: Poll,
    clock: Clock,
    now: Instant,
    proxy: Proxy,
    signals: Watched,
    listeners: Listeners,
    admin: Option<AdminPort>,
    control: Option<ControlPort>,
    /// Connections and listeners that the limit of open files has room for.
    room: usize,
    /// Sockets by the slot of the connection's id.
    sockets: Vec<Option<Socket>>,
    /// The proxy's next deadline at the end of the last turn.
    deadline: Option<Instant>,
    /// Connections with bytes left to read.
    unread: VecDeque<ConnId>,
    handshakes: Handshakes,
    /// TLS of the listeners.
    tls: Servers,
    /// TLS towards the backends.
    backend_tls: Clients,
    /// Space and work for the TLS connections.
    scratch: Scratch,
    /// The bound of this turn's work.
    budget: Budget,
    /// The time from which accepting continues after the system ran out of sockets.
    accepts_from: Instant,
    /// The time from which a failed accept is logged again.
    accept_warns_from: Instant,
    /// Whether a signal requested a stop. Clients in the backlog are accepted before the stop.
    is_stop_asked: bool,
    /// The time at which the proxy stops, if it continues for a while after a signal or an upgrade.
    stops_at: Option<Instant>,
    /// Whether a second signal requested an immediate end.
    is_aborted: bool,
    /// Reads how much peers have acknowledged.
    diagnosis: Diagnosis,
    /// The service manager and the start of a successor.
    service: Service,
    /// Whether another process serves new clients.
    has_successor: bool,
    upkeep: Upkeep,
    /// Dropped after the proxy.
    edge: Edge,
}

impl Reactor {
    fn new(setup: Setup) -> Result<Self, String> {
        let fail = |error: std::io::Error| format!("cannot set up polling: {error}");
        // Files are opened before the signal handlers are installed: opening may hang, and signals
        // must still end the process then.
        let clock = Clock::new();
        let now = clock.now();
        let recording = record::open(&setup.config.recording, None)?;
        let access_log = access::Opened::new(&setup.config.access_log)?;
        let config = setup.config.clone();
        let found = Found {
            backends: config.backends.clone(),
            targets: setup.backends.clone(),
            unused: Vec::new(),
        };
        let mut proxy = Proxy::new(setup.config, setup.backends, seed(), now)
            .map_err(|error| error.to_string())?;
        let is_restored = setup.learned.is_some_and(|text| match proxy.restore(&text) {
            Ok(()) => {
                info!("learned state taken over");
                true
            }
            Err(wrong) => {
                warn!("learned state not taken over: {wrong}");
                false
            }
        });
        let keeper = Keeper::start(&config, &mut proxy, now, is_restored)?;
        let recording = recording.map(|Opened { recorder, guard }| {
            proxy.record_into(Box::new(recorder), wall_clock_nanos());
            guard
        });
        let poll = Poll::new().map_err(fail)?;
        let registry = poll.registry();
        let signals = Watched::new(registry).map_err(fail)?;
        let waker = Arc::new(Waker::new(registry, Source::Waker.to_token()).map_err(fail)?);
        let mut listeners = Listeners::new(LISTENERS_MAX, Source::Listener);
        listeners.open(setup.listeners, registry).map_err(fail)?;
        listeners.secure(&setup.tls);
        let service = Service::new(&setup.manager, setup.program, Arc::clone(&waker), now);
        let handshakes = Handshakes::new(Arc::clone(&waker));
        let mut edge =
            Edge::new(setup.log, keeper, setup.reload, setup.discovery, waker, recording);
        edge.set_access_log(now, access_log, &mut proxy)?;
        edge.follow(&setup.wanted, found);
        edge.watch_certificates(&setup.tls, &setup.backend_tls);
        let mut admin = AdminPort::new();
        admin.listeners.open(setup.admin_listeners, registry).map_err(fail)?;
        // Called after everything that opens files for the life of the process, because it counts
        // the open files.
        let room = connections_max() + listeners.count() + admin.listeners.count();
        Ok(Self {
            poll,
            clock,
            now,
            proxy,
            signals,
            listeners,
            admin: Some(admin).filter(AdminPort::is_used),
            control: None,
            room,
            sockets: Vec::new(),
            deadline: Some(now),
            unread: VecDeque::new(),
            handshakes,
            tls: setup.tls,
            backend_tls: setup.backend_tls,
            scratch: Scratch::default(),
            budget: Budget::default(),
            accepts_from: now,
            accept_warns_from: now,
            is_stop_asked: false,
            stops_at: None,
            is_aborted: false,
            diagnosis: Diagnosis::default(),
            service,
            has_successor: false,
            upkeep: Upkeep::new(),
            edge,
        })
    }

    fn is_over(&self) -> bool {
        let is_left = self.has_successor && self.proxy.clients() == 0;
        self.is_aborted || self.proxy.is_stopped() || is_left
    }

    fn turn(&mut self, events: &mut Events) -> std::io::Result<()> {
        let is_interrupted = self.wait(events, self.patience())?;
        self.now = self.clock.now();
        self.signals.handle_turn();
        if let Some(date) = self.clock.new_date(self.now) {
            self.take_date(&date);
        }
        if self.deadline.is_some_and(|at| self.now > at + PAUSED) {
            self.proxy.handle_pause(self.now);
            self.flush();
        }
        self.budget.begin(self.work());
        self.take_events(events);
        if !self.unread.is_empty() {
            self.read_on();
        }
        if self.handshakes.are_due(self.now) {
            self.shake();
        }
        if self.listeners.is_any_ready() {
            self.accept();
        }
        self.deadline = self.proxy.poll_timeout();
        if let Some(at) = self.deadline.filter(|at| *at <= self.now) {
            if is_interrupted || self.now.since(at) > LATE || is_full(events) {
                self.catch_up(events)?;
            }
            self.proxy.handle_timeout(self.now);
            self.flush();
            self.deadline = self.proxy.poll_timeout();
        }
        // Last, so that it sees the lines of the log and of the access log that the turn has
        // caused.
        if self.is_upkeep_due() {
            self.keep_up(events)?;
            self.deadline = self.proxy.poll_timeout();
        }
        Ok(())
    }

    /// Takes the date of a new second.
    #[cold]
    fn take_date(&mut self, date: &str) {
        self.proxy.handle_date(date);
        self.admin.iter_mut().for_each(|admin| admin.handle_date(date));
        self.upkeep.call();
    }

    /// Waits for events. Returns whether a signal or a pause of the process interrupted the wait.
    fn wait(&mut self, events: &mut Events, patience: Option<Duration>) -> std::io::Result<bool> {
        match self.poll.poll(events, patience) {
            Ok(()) => Ok(false),
            Err(error) if error.kind() == ErrorKind::Interrupted => {
                events.clear();
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }

    #[inline(always)]
    fn take_events(&mut self, events: &Events) {
        // Responses are taken before requests. Connections to backends are then free for requests
        // of the same turn, and unsolicited bytes are seen before a connection is reused.
        let is_of_backend = |event: &&Event| Source::is_backend(event.token());
        events.iter().filter(is_of_backend).for_each(|event| self.take_event(event));
        let others = events.iter().filter(|event| !is_of_backend(event));
        others.for_each(|event| self.take_event(event));
    }

    /// Reads all bytes that have arrived, so that no deadline expires although its bytes are
    /// already here. Connections with more bytes than their share stay in the list of unread ones,
    /// and their deadlines wait.
    #[cold]
    fn catch_up(&mut self, events: &mut Events) -> std::io::Result<()> {
        for _ in 0..CATCH_UPS_MAX {
            let is_interrupted = self.wait(events, Some(Duration::ZERO))?;
            self.take_events(events);
            if !is_interrupted && !is_full(events) {
                break;
            }
        }
        Ok(())
    }

    /// Returns the time to wait for events.
    fn patience(&self) -> Option<Duration> {
        if !self.unread.is_empty() || self.handshakes.are_ready() {
            return Some(Duration::ZERO);
        }
        let mut next = earliest([self.deadline, self.upkeep.poll_timeout()]);
        // This is separate from the other deadlines, because a third one there costs 50
        // instructions in each turn.
        if let Some(at) = self.handshakes.poll_timeout() {
            next = Some(next.map_or(at, |next| next.min(at)));
        }
        if self.listeners.is_any_ready() {
            let mut at = self.accepts_from.max(self.listeners.waits_until());
            if !self.proxy.accepts() {
                at = at.max(self.proxy.makes_room_from());
            }
            next = Some(next.map_or(at, |next| next.min(at)));
        }
        next.map(|at| at.since(self.now))
    }

    fn take_event(&mut self, event: &Event) {
        match Source::from_token(event.token()) {
            Source::Client(conn) | Source::Backend(conn) => self.take_readiness(conn, event),
            Source::Listener(slot) => self.listeners.take_readiness(slot),
            seldom => self.take_seldom(seldom),
        }
    }

    fn take_readiness(&mut self, conn: ConnId, event: &Event) {
        // A stale token belongs to a connection that was closed earlier in this turn.
        let Some(socket) = self.socket(conn) else {
            return;
        };
        let is_broken = event.is_error();
        let has_room_again = event.is_writable() && !socket.is_writable;
        socket.is_readable |= event.is_readable() || event.is_read_closed() || is_broken;
        socket.is_writable |= has_room_again;
        socket.is_ending |= event.is_read_closed() || is_broken;
        socket.is_broken |= is_broken;
        if socket.is_connecting {
            self.take_connected(conn);
        } else {
            if has_room_again {
                self.write(conn);
            }
            // Probes do not wait, because the wait would count as latency of the backend.
            if self.budget.is_spent(self.work()) && !self.proxy.is_probe(conn) {
                self.queue(conn);
            } else {
                self.read(conn);
            }
        }
        self.flush();
    }

    #[inline(never)]
    fn take_connected(&mut self, conn: ConnId) {
        let Some(socket) = self.socket(conn) else {
            return;
        };
        if socket.is_handshaking() {
            return self.queue_handshake(conn);
        }
        let Some(result) = socket.connected() else {
            return;
        };
        if result.is_ok() && socket.begin_handshake() {
            socket.is_writable = true;
            return self.queue_handshake(conn);
        }
        socket.is_connecting = false;
        socket.is_writable = true;
        self.proxy.handle_connected(self.now, conn, result);
    }

    /// The work done so far, of the proxy and of the TLS layers.
    #[inline]
    const fn work(&self) -> u64 {
        self.proxy.work() + self.scratch.work
    }

    fn insert(&mut self, socket: Socket) {
        let slot = socket.conn.slot();
        if self.sockets.len() <= slot {
            self.sockets.resize_with(slot + 1, || None);
        }
        self.sockets[slot] = Some(socket);
    }

    fn socket(&mut self, conn: ConnId) -> Option<&mut Socket> {
        match self.sockets.get_mut(conn.slot()) {
            Some(Some(socket)) if socket.conn == conn => Some(socket),
            _ => None,
        }
    }
}

/// Whether a poll may have left events in the system.
fn is_full(events: &Events) -> bool {
    events.iter().count() >= EVENTS_MAX
}
