//! Drives a `Proxy` in memory, for tests. Its peers are byte strings, and its time is a number.
//!
//! The driver makes the calls that the reactor makes, and no others: it reads a connection after
//! bytes have arrived or the proxy has reported room, and it writes after the proxy has reported
//! bytes. So a missing report stalls a test, as it would stall a client. After every call the proxy
//! checks its own tables, and the driver checks the calls:
//!
//! - only configured addresses are dialled, and ids are new;
//! - bytes to write are reported only on connected connections, and never after the end;
//! - only a backend's connection is read ahead of a write (`Action::Look`);
//! - a connection is closed once, and no later action refers to it.
//!
//! Bytes move at once, or [by hand](Moving::ByHand). The simulated world of `tests/harness` has its
//! own driver, because there every byte takes time.
mod peer;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use intelliproxy::config::{BackendConfig, BackendTarget, Config};
use intelliproxy::proxy::{Action, ConnId, ConnectFailure, Notice, Proxy};
use intelliproxy_core::{ConfigError, Instant};

pub use self::peer::Peer;

/// The proxy and its peers.
#[derive(Debug)]
pub struct Driver {
    /// The proxy under test.
    pub proxy: Proxy,
    /// The time. Only the test changes it.
    pub now: Instant,
    /// Whether bytes move at once.
    pub moving: Moving,
    /// Maximum number of bytes that one read or write moves.
    pub step: usize,
    /// The fate of new connections to backends.
    pub dialling: Dialling,
    /// Addresses that refuse connections.
    pub refusing: Vec<SocketAddr>,
    /// Whether probes get a response, as soon as they are written.
    pub responds_to_probes: bool,
    /// Bytes that a new connection to a backend accepts.
    pub backends_take: usize,
    /// The notices of the proxy, oldest first.
    pub notices: Vec<Notice>,
    /// The connections that the proxy has closed, in that order.
    pub closed: Vec<ConnId>,
    peers: Vec<Peer>,
    /// The place of each connection in `peers`.
    places: BTreeMap<ConnId, usize>,
    /// Peers whose bytes may move.
    active: BTreeSet<usize>,
    /// Connections to backends in the order of dialling, without probes that got a response.
    upstreams: Vec<ConnId>,
    /// The addresses to which the proxy may connect.
    addresses: Vec<SocketAddr>,
}

/// The moment at which bytes move.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Moving {
    /// At once, in both directions, as far as both sides accept them.
    AtOnce,
    /// By [`Driver::read`] and [`Driver::write`].
    ByHand,
}

/// The fate of new connections to backends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Dialling {
    /// The backend accepts them at once.
    Succeeds,
    /// The backend refuses them at once.
    IsRefused,
    /// Nothing happens until [`Driver::connect`].
    Hangs,
}

/// Returns a backend for each name, at `NAME.test` and an address of its own.
pub fn targets(names: &[&str]) -> Vec<BackendTarget> {
    let target = |(name, place): (&&str, u8)| BackendTarget {
        name: (*name).to_owned(),
        url: format!("http://{name}.test"),
        authority: format!("{name}.test"),
        tls: None,
        addresses: vec![SocketAddr::from(([10, 0, 0, place], 80))],
    };
    names.iter().zip(1..).map(target).collect()
}

impl Driver {
    /// Returns a driver with one backend, `a` at `a.test`.
    ///
    /// # Panics
    /// The configuration is invalid.
    pub fn new(config: Config) -> Self {
        Self::with_backends(config, &["a"])
    }

    /// Returns a driver with a backend of each name.
    ///
    /// # Panics
    /// The configuration is invalid.
    pub fn with_backends(config: Config, names: &[&str]) -> Self {
        Self::with_targets(config, targets(names))
    }

    /// Returns a driver with these backends.
    ///
    /// # Panics
    /// The configuration is invalid.
    pub fn with_targets(config: Config, targets: Vec<BackendTarget>) -> Self {
        let addresses = targets.iter().flat_map(|target| target.addresses.clone()).collect();
        let proxy = Proxy::new(config, targets, 1, Instant::ZERO).expect("a valid configuration");
        Self {
            proxy,
            now: Instant::ZERO,
            moving: Moving::AtOnce,
            step: usize::MAX,
            dialling: Dialling::Succeeds,
            refusing: Vec::new(),
            responds_to_probes: true,
            backends_take: usize::MAX,
            notices: Vec::new(),
            closed: Vec::new(),
            peers: Vec::new(),
            places: BTreeMap::new(),
            active: BTreeSet::new(),
            upstreams: Vec::new(),
            addresses,
        }
    }

    /// Connects a client.
    pub fn client(&mut self) -> ConnId {
        self.client_from("192.0.2.7:4711")
    }

    /// Connects a client with this address.
    pub fn client_from(&mut self, peer: &str) -> ConnId {
        let conn = self.proxy.handle_accept(self.now, peer.parse().expect("an address"));
        self.insert(Peer::new(conn, None, usize::MAX));
        self.run();
        conn
    }

    /// Connects a client to a listener that speaks the PROXY protocol, and sends `bytes`.
    pub fn announced_client(&mut self, peer: &str, bytes: &[u8]) -> ConnId {
        let conn = self.client_from(peer);
        self.proxy.expect_proxy_header(conn);
        self.send(conn, bytes);
        conn
    }

    /// Connects a client, and sends `bytes`.
    pub fn client_with(&mut self, bytes: &[u8]) -> ConnId {
        let conn = self.client();
        self.send(conn, bytes);
        conn
    }

    /// Makes room for one more client. Returns whether there is room.
    pub fn make_room(&mut self) -> bool {
        let has_room = self.proxy.make_room(self.now);
        self.run();
        assert_eq!(has_room, self.proxy.accepts(), "room that was made can be used");
        has_room
    }

    /// Sends `bytes` from a peer.
    pub fn send(&mut self, conn: ConnId, bytes: &[u8]) {
        let peer = self.peer_mut(conn);
        peer.sent.extend_from_slice(bytes);
        peer.is_paused = false;
        self.run();
    }

    /// Ends a peer's side after the bytes that it has sent.
    pub fn end(&mut self, conn: ConnId) {
        let peer = self.peer_mut(conn);
        peer.has_ended = true;
        peer.is_paused = false;
        self.run();
    }

    /// Ends a peer's side without an event: the proxy sees it at its next read.
    pub fn end_unseen(&mut self, conn: ConnId) {
        let at = self.place(conn);
        self.peers[at].has_ended = true;
    }

    /// Ends a peer's side unless the proxy has closed the connection.
    pub fn end_if_open(&mut self, conn: ConnId) {
        if self.peer(conn).is_open() {
            self.end(conn);
        }
    }

    /// Drops the bytes of a peer that the proxy has not read.
    pub fn forget_unread(&mut self, conn: ConnId) {
        let peer = self.peer_mut(conn);
        peer.sent.truncate(peer.read_to);
    }

    /// Makes a peer refuse all further writes. Bytes that it has sent can still be read.
    pub fn break_writes(&mut self, conn: ConnId) {
        let peer = self.peer_mut(conn);
        if peer.is_usable() && !peer.is_write_broken {
            peer.is_write_broken = true;
            self.proxy.handle_write_failed(self.now, conn);
            self.run();
        }
    }

    /// Resets a peer's connection.
    pub fn reset(&mut self, conn: ConnId) {
        let peer = self.peer_mut(conn);
        if peer.is_usable() {
            peer.has_failed = true;
            self.proxy.handle_failed(self.now, conn);
            self.run();
        }
    }

    /// Lets a peer accept `takes` more bytes.
    pub fn take(&mut self, conn: ConnId, takes: usize) {
        self.peer_mut(conn).takes = takes;
        self.run();
    }

    /// Sets the number of bytes that the system holds for a peer without an acknowledgement.
    pub fn hold(&mut self, conn: ConnId, unacknowledged: Option<u64>) {
        self.peer_mut(conn).unacknowledged = unacknowledged;
    }

    /// Reports the fate of a connection that hangs.
    pub fn connect(&mut self, conn: ConnId, result: Result<(), ConnectFailure>) {
        let peer = self.peer_mut(conn);
        if peer.is_open() && !peer.is_connected {
            peer.is_connected = true;
            self.proxy.handle_connected(self.now, conn, result);
            self.run();
        }
    }

    /// Lets time pass and handles every deadline on the way.
    pub fn pass(&mut self, span: Duration) {
        let end = self.now + span;
        while let Some(at) = self.proxy.poll_timeout().filter(|at| *at <= end) {
            self.now = at.max(self.now);
            self.handle_timeout();
        }
        self.now = end;
    }

    /// Lets time pass during which the process is stopped.
    pub fn pause(&mut self, span: Duration) {
        self.now += span;
        self.proxy.handle_pause(self.now);
        self.run();
    }

    /// Handles the deadlines that have passed by now.
    pub fn handle_timeout(&mut self) {
        self.proxy.handle_timeout(self.now);
        self.run();
    }

    /// Applies a configuration.
    ///
    /// # Errors
    /// The first invalid value. In that case nothing has changed.
    pub fn reconfigure(
        &mut self,
        config: Config,
        targets: Vec<BackendTarget>,
    ) -> Result<(), ConfigError> {
        let addresses = targets.iter().flat_map(|target| target.addresses.clone()).collect();
        self.proxy.handle_reconfigured(self.now, config, targets)?;
        self.addresses = addresses;
        self.run();
        Ok(())
    }

    /// Applies discovered backends with the settings of the current configuration.
    ///
    /// # Errors
    /// The first invalid value. In that case nothing has changed.
    pub fn discover(&mut self, targets: Vec<BackendTarget>) -> Result<(), ConfigError> {
        self.addresses = targets.iter().flat_map(|target| target.addresses.clone()).collect();
        let one = |target: &BackendTarget| BackendConfig::new(&target.name, &target.url);
        let backends = targets.iter().map(one).collect();
        self.proxy.handle_discovered(self.now, backends, targets)?;
        self.run();
        Ok(())
    }

    /// Applies a configuration in which `name` is the only backend, at a new address.
    pub fn move_backend(&mut self, name: &str) {
        let moved = BackendTarget {
            name: name.to_owned(),
            url: format!("http://{name}.moved.test"),
            authority: format!("{name}.moved.test"),
            tls: None,
            addresses: vec![SocketAddr::from(([10, 0, 1, 1], 80))],
        };
        self.reconfigure(Config::default(), vec![moved]).expect("valid");
    }

    /// Stops the proxy: no new exchange begins.
    pub fn stop(&mut self) {
        self.proxy.handle_stop(self.now);
        self.run();
    }

    /// Passes every event of a closed connection to the proxy, which must ignore it.
    pub fn repeat_events(&mut self, conn: ConnId) {
        assert!(!self.peer(conn).is_open(), "its events are late");
        assert!(self.proxy.read_space(conn).is_empty(), "a closed connection has no room");
        let waiting = self.proxy.write_ready(conn);
        assert!(waiting.is_empty(), "a closed connection has no bytes to write");
        self.proxy.handle_connected(self.now, conn, Ok(()));
        self.proxy.handle_read(self.now, conn, 0);
        self.proxy.handle_written(self.now, conn, 0);
        self.proxy.handle_eof(self.now, conn);
        self.proxy.handle_end_seen(self.now, conn);
        self.proxy.handle_measured(self.now, conn, Some(0));
        self.proxy.handle_failed(self.now, conn);
        self.proxy.handle_write_failed(self.now, conn);
        assert_eq!(self.proxy.poll_action(), None, "a late event changes nothing");
    }

    /// Returns all peers so far, closed ones too, in the order of their connections.
    pub fn peers(&self) -> &[Peer] {
        &self.peers
    }

    /// Returns the peer of a connection, open or closed.
    #[track_caller]
    pub fn peer(&self, conn: ConnId) -> &Peer {
        &self.peers[self.place(conn)]
    }

    /// Returns all that a peer has received since the last `drain`, as text.
    pub fn text(&self, conn: ConnId) -> String {
        String::from_utf8_lossy(&self.peer(conn).received).into_owned()
    }

    /// Takes all that a peer has received since the last call.
    pub fn drain(&mut self, conn: ConnId) -> Vec<u8> {
        let at = self.place(conn);
        std::mem::take(&mut self.peers[at].received)
    }

    /// Returns the number of bytes that a peer has sent and the proxy has not read.
    pub fn unread(&self, conn: ConnId) -> usize {
        self.peer(conn).unread().len()
    }

    /// Returns the connections to backends so far, without probes that got a response.
    pub fn upstreams(&self) -> &[ConnId] {
        &self.upstreams
    }

    /// Returns the latest of [`upstreams`](Self::upstreams).
    #[track_caller]
    pub fn upstream(&self) -> ConnId {
        *self.upstreams.last().expect("a connection to a backend")
    }

    /// Carries out actions until nothing changes, and moves bytes unless they move by hand.
    pub fn run(&mut self) {
        self.carry_out();
        while self.moving == Moving::AtOnce && !self.active.is_empty() {
            for at in self.active.clone() {
                let has_written = self.write_some(at, self.step);
                let has_read = self.read_some(at, self.step);
                if has_written || has_read {
                    self.carry_out();
                } else {
                    self.active.remove(&at);
                }
            }
        }
        if self.moving == Moving::AtOnce {
            self.check();
        }
    }

    /// Reads what a peer has sent, `step` bytes at a time, as far as there is room.
    pub fn read(&mut self, conn: ConnId, step: usize) {
        let at = self.place(conn);
        while self.read_some(at, step) {
            self.carry_out();
        }
    }

    /// Writes up to `count` of the waiting bytes to a peer.
    pub fn write(&mut self, conn: ConnId, count: usize) {
        let at = self.place(conn);
        if self.write_some(at, count) {
            self.carry_out();
        }
    }

    /// Checks the rules that hold after each operation. A driver that moves bytes at once calls
    /// this itself.
    pub fn check(&mut self) {
        self.proxy.check_invariants();
        for peer in self.peers.iter_mut().filter(|peer| peer.is_open()) {
            let is_waiting = !self.proxy.write_ready(peer.conn).is_empty();
            assert!(!is_waiting || peer.is_reported, "the driver gets notice of bytes to write");
            assert!(!is_waiting || peer.is_connected, "only open connections are written to");
            assert!(!is_waiting || !peer.is_shut, "nothing follows the end");
            peer.is_reported &= is_waiting;
        }
    }

    fn insert(&mut self, peer: Peer) {
        let conn = peer.conn;
        // In the order of ids the earlier connections of a slot come first.
        let last = self.places.range(..conn).next_back();
        let last = last.filter(|(last, _)| last.slot() == conn.slot());
        let is_free = last.is_none_or(|(_, at)| !self.peers[*at].is_open());
        assert!(is_free, "a slot is used by one connection at a time");
        let earlier = self.places.insert(conn, self.peers.len());
        assert_eq!(earlier, None, "ids are new");
        self.peers.push(peer);
    }

    /// Returns the place of a connection in `peers`.
    #[track_caller]
    fn place(&self, conn: ConnId) -> usize {
        *self.places.get(&conn).expect("a connection of this proxy")
    }

    /// Returns a peer and lets its bytes move.
    fn peer_mut(&mut self, conn: ConnId) -> &mut Peer {
        let at = self.place(conn);
        if self.moving == Moving::AtOnce {
            self.active.insert(at);
        }
        &mut self.peers[at]
    }

    /// Returns the peer of an open connection.
    fn open(&mut self, conn: ConnId) -> &mut Peer {
        let peer = self.peer_mut(conn);
        assert!(peer.is_open(), "the proxy refers to open connections only");
        peer
    }

    /// Reads up to `step` bytes, or an end. Returns whether the proxy got an event.
    fn read_some(&mut self, at: usize, step: usize) -> bool {
        let peer = &mut self.peers[at];
        let conn = peer.conn;
        if !peer.is_usable() || peer.is_end_read || peer.is_paused {
            return false;
        }
        if peer.unread().is_empty() {
            if peer.has_ended {
                peer.is_end_read = true;
                self.proxy.handle_eof(self.now, conn);
            }
            return peer.is_end_read;
        }
        let space = self.proxy.read_space(conn);
        if space.is_empty() {
            peer.is_paused = true;
            // A client's end is seen even without room for the bytes before it.
            let is_seen = peer.has_ended && peer.is_client();
            if is_seen {
                self.proxy.handle_end_seen(self.now, conn);
            }
            return is_seen;
        }
        let count = space.len().min(step).min(peer.unread().len());
        space[..count].copy_from_slice(&peer.unread()[..count]);
        peer.read_to += count;
        self.proxy.handle_read(self.now, conn, count);
        true
    }

    /// Writes up to `most` bytes. Returns whether there were any.
    fn write_some(&mut self, at: usize, most: usize) -> bool {
        let peer = &mut self.peers[at];
        let conn = peer.conn;
        if !peer.is_usable() || peer.is_write_broken {
            return false;
        }
        let waiting = self.proxy.write_ready(conn);
        let count = waiting.len().min(most).min(peer.takes);
        if count == 0 {
            return false;
        }
        assert!(peer.is_reported, "the driver gets notice of bytes to write");
        assert!(!peer.is_shut, "nothing follows the end");
        peer.writes.push((peer.received.len(), peer.read_to));
        peer.received.extend_from_slice(&waiting[..count]);
        peer.takes -= count;
        peer.is_reported = count < waiting.len();
        if self.responds_to_probes {
            self.respond_to_probe(at);
        }
        self.proxy.handle_written(self.now, conn, count);
        true
    }

    /// Responds 200 to a probe, and removes its connection from the upstreams.
    fn respond_to_probe(&mut self, at: usize) {
        let peer = &mut self.peers[at];
        let is_probe = [&b"GET /health "[..], b"GET /metrics "]
            .iter()
            .any(|start| peer.received.starts_with(start) && peer.received.ends_with(b"\r\n\r\n"));
        if is_probe && self.upstreams.contains(&peer.conn) {
            self.upstreams.retain(|upstream| *upstream != peer.conn);
            peer.sent.extend_from_slice(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}");
        }
    }

    /// Carries out the proxy's actions until none are left.
    fn carry_out(&mut self) {
        loop {
            while let Some(action) = self.proxy.poll_action() {
                self.act(action);
            }
            let Some(conn) = self.proxy.poll_dirty() else { break };
            let has_output = !self.proxy.write_ready(conn).is_empty();
            let peer = self.open(conn);
            // A report without output is a report of room.
            peer.is_reported |= has_output;
            peer.is_paused &= has_output;
            if self.moving == Moving::AtOnce {
                let at = self.place(conn);
                self.write_some(at, self.step);
            }
        }
        if self.moving == Moving::AtOnce {
            self.proxy.check_invariants();
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Connect { conn, address } => {
                assert!(self.addresses.contains(&address), "{address} is dialled, not configured");
                self.insert(Peer::new(conn, Some(address), self.backends_take));
                self.upstreams.push(conn);
                let result = match self.dialling {
                    _ if self.refusing.contains(&address) => Err(ConnectFailure::Refused),
                    Dialling::Succeeds => Ok(()),
                    Dialling::IsRefused => Err(ConnectFailure::Refused),
                    Dialling::Hangs => return,
                };
                self.open(conn).is_connected = true;
                self.proxy.handle_connected(self.now, conn, result);
            }
            Action::Measure { conn } => {
                let unacknowledged = self.open(conn).unacknowledged;
                self.proxy.handle_measured(self.now, conn, unacknowledged);
            }
            Action::Look { conn } => {
                let peer = self.open(conn);
                assert!(!peer.is_client(), "only a backend's connection is read ahead of a write");
                peer.is_paused = false;
                let at = self.place(conn);
                while self.read_some(at, self.step) {}
            }
            Action::Shutdown { conn } => {
                let is_all_written = self.proxy.write_ready(conn).is_empty();
                assert!(is_all_written, "all bytes are written before the end");
                self.open(conn).is_shut = true;
            }
            Action::Close { conn, with_reset } => {
                self.open(conn).closed = Some(with_reset);
                let at = self.place(conn);
                self.active.remove(&at);
                self.closed.push(conn);
            }
            Action::Notify(notice) => self.notices.push(notice),
        }
    }
}
