//! A proxy in memory. Its clients and backends are byte strings, its time is a number.
//!
//! The bench does what the reactor does, one connection after the other, and checks the proxy's
//! tables after every call. Backends accept every connection at once unless `dialling` says
//! otherwise. The bench responds to probes by itself.
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use intelliproxy::config::{BackendTarget, Config};
use intelliproxy::proxy::{Action, ConnId, ConnectFailure, Notice, Proxy};
use intelliproxy_core::Instant;

/// The proxy and its peers.
pub(crate) struct Bench {
    pub(crate) proxy: Proxy,
    pub(crate) now: Instant,
    /// Maximum of bytes that one read returns.
    pub(crate) step: usize,
    /// The fate of new connections to backends.
    pub(crate) dialling: Dialling,
    /// Bytes that a new connection to a backend accepts.
    pub(crate) backends_take: usize,
    /// The notices of the proxy.
    pub(crate) notices: Vec<Notice>,
    wires: BTreeMap<ConnId, Wire>,
    open: BTreeSet<ConnId>,
    /// Connections to backends without probes, in the order in which they were opened.
    upstreams: Vec<ConnId>,
}

/// The fate of new connections to backends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Dialling {
    Succeeds,
    IsRefused,
    Hangs,
}

/// A connection as seen by the proxy's peer.
#[derive(Debug)]
pub(crate) struct Wire {
    /// Bytes that the peer has sent and the proxy has not read.
    incoming: VecDeque<u8>,
    has_ended: bool,
    is_end_reported: bool,
    /// Bytes that the proxy has sent.
    pub(crate) received: Vec<u8>,
    /// Bytes that the peer still accepts.
    pub(crate) takes: usize,
    /// Bytes in the system's buffers that the peer has not acknowledged, if known.
    pub(crate) unacknowledged: Option<u64>,
    /// Whether the proxy has ended its side.
    pub(crate) is_shut: bool,
    /// Whether the proxy has closed it, and then whether by a reset.
    pub(crate) closed: Option<bool>,
}

impl Bench {
    /// A proxy with one backend, A at `a.test`.
    pub(crate) fn new(config: Config) -> Self {
        Self::with_backends(config, &["a"])
    }

    pub(crate) fn with_backends(config: Config, names: &[&str]) -> Self {
        let targets = names.iter().zip(1..).map(|(name, place)| BackendTarget {
            name: (*name).to_owned(),
            url: format!("http://{name}.test"),
            authority: format!("{name}.test"),
            addresses: vec![SocketAddr::from(([10, 0, 0, place], 80))],
        });
        let proxy = Proxy::new(config, targets.collect(), 1, Instant::ZERO).expect("valid");
        Self {
            proxy,
            now: Instant::ZERO,
            step: usize::MAX,
            dialling: Dialling::Succeeds,
            backends_take: usize::MAX,
            notices: Vec::new(),
            wires: BTreeMap::new(),
            open: BTreeSet::new(),
            upstreams: Vec::new(),
        }
    }

    /// Connects a client.
    pub(crate) fn client(&mut self) -> ConnId {
        self.client_from("192.0.2.7:4711")
    }

    pub(crate) fn client_from(&mut self, peer: &str) -> ConnId {
        let conn = self.proxy.handle_accept(self.now, peer.parse().expect("an address"));
        self.insert(conn);
        self.run();
        conn
    }

    /// Connects a client to a listener that speaks the PROXY protocol, and sends `bytes`.
    pub(crate) fn announced_client(&mut self, peer: &str, bytes: &[u8]) -> ConnId {
        let conn = self.client_from(peer);
        self.proxy.expect_proxy_header(conn);
        self.send(conn, bytes);
        conn
    }

    /// Connects a client, and sends `bytes`.
    pub(crate) fn client_with(&mut self, bytes: &[u8]) -> ConnId {
        let conn = self.client();
        self.send(conn, bytes);
        conn
    }

    /// Sends `bytes` from a peer.
    pub(crate) fn send(&mut self, conn: ConnId, bytes: &[u8]) {
        self.wire_mut(conn).incoming.extend(bytes);
        self.run();
    }

    /// Ends a peer's side after the bytes that it has sent.
    pub(crate) fn end(&mut self, conn: ConnId) {
        self.wire_mut(conn).has_ended = true;
        self.run();
    }

    /// Ends a peer's side without an event: the proxy sees it at its next read or check.
    pub(crate) fn end_unseen(&mut self, conn: ConnId) {
        self.wire_mut(conn).has_ended = true;
    }

    /// Ends a peer's side unless the proxy has closed the connection.
    pub(crate) fn end_if_open(&mut self, conn: ConnId) {
        if self.wire(conn).closed.is_none() {
            self.end(conn);
        }
    }

    /// Makes a peer refuse all further writes. Bytes that it has sent can still be read.
    pub(crate) fn break_writes(&mut self, conn: ConnId) {
        self.wire_mut(conn).takes = 0;
        self.proxy.handle_write_failed(self.now, conn);
        self.run();
    }

    /// Applies a configuration in which `name` is the only backend, at a new address.
    pub(crate) fn move_backend(&mut self, name: &str) {
        let moved = BackendTarget {
            name: name.to_owned(),
            url: format!("http://{name}.moved.test"),
            authority: format!("{name}.moved.test"),
            addresses: vec![SocketAddr::from(([10, 0, 1, 1], 80))],
        };
        let result = self.proxy.handle_reconfigured(self.now, Config::default(), vec![moved]);
        result.expect("valid");
        self.run();
    }

    /// Resets a peer's connection.
    pub(crate) fn reset(&mut self, conn: ConnId) {
        self.proxy.handle_failed(self.now, conn);
        self.run();
    }

    /// Lets a peer accept `takes` bytes more.
    pub(crate) fn take(&mut self, conn: ConnId, takes: usize) {
        self.wire_mut(conn).takes = takes;
        self.run();
    }

    /// Sets the number of bytes that the system holds for a peer without an acknowledgement.
    pub(crate) fn hold(&mut self, conn: ConnId, unacknowledged: u64) {
        self.wire_mut(conn).unacknowledged = Some(unacknowledged);
    }

    /// Lets time pass and handles every deadline on the way.
    pub(crate) fn pass(&mut self, span: Duration) {
        let end = self.now + span;
        while let Some(at) = self.proxy.poll_timeout().filter(|at| *at <= end) {
            self.now = at.max(self.now);
            self.proxy.handle_timeout(self.now);
            self.run();
        }
        self.now = end;
    }

    pub(crate) fn wire(&self, conn: ConnId) -> &Wire {
        self.wires.get(&conn).expect("a connection of this proxy")
    }

    /// Returns all that a peer has received since the last `drain`, as text.
    pub(crate) fn text(&self, conn: ConnId) -> String {
        String::from_utf8_lossy(&self.wire(conn).received).into_owned()
    }

    /// Takes all that a peer has received since the last call.
    pub(crate) fn drain(&mut self, conn: ConnId) -> Vec<u8> {
        std::mem::take(&mut self.wire_mut(conn).received)
    }

    /// Returns the number of bytes that a peer has sent and the proxy has not read.
    pub(crate) fn unread(&self, conn: ConnId) -> usize {
        self.wire(conn).incoming.len()
    }

    /// Returns the connections to backends so far.
    pub(crate) fn upstreams(&self) -> &[ConnId] {
        &self.upstreams
    }

    /// Returns the latest connection to a backend.
    #[track_caller]
    pub(crate) fn upstream(&self) -> ConnId {
        *self.upstreams.last().expect("a connection to a backend")
    }

    fn insert(&mut self, conn: ConnId) {
        self.wires.insert(conn, Wire::new());
        self.open.insert(conn);
    }

    fn wire_mut(&mut self, conn: ConnId) -> &mut Wire {
        self.wires.get_mut(&conn).expect("a connection of this proxy")
    }

    /// Moves bytes and carries out actions until nothing changes.
    pub(crate) fn run(&mut self) {
        self.carry_out();
        loop {
            let has_moved =
                self.open.clone().into_iter().fold(false, |moved, conn| self.move_on(conn) | moved);
            if !has_moved {
                return;
            }
        }
    }

    fn move_on(&mut self, conn: ConnId) -> bool {
        let has_written = self.write(conn);
        let has_read = self.read(conn);
        self.carry_out();
        has_written || has_read
    }

    fn read(&mut self, conn: ConnId) -> bool {
        let Some(wire) = self.wires.get_mut(&conn).filter(|wire| wire.closed.is_none()) else {
            return false;
        };
        if wire.incoming.is_empty() {
            let is_news = wire.has_ended && !wire.is_end_reported;
            if is_news {
                wire.is_end_reported = true;
                self.proxy.handle_eof(self.now, conn);
            }
            return is_news;
        }
        let space = self.proxy.read_space(conn);
        let count = space.len().min(self.step).min(wire.incoming.len());
        for (room, byte) in space.iter_mut().zip(wire.incoming.drain(..count)) {
            *room = byte;
        }
        if count > 0 {
            self.proxy.handle_read(self.now, conn, count);
        } else if wire.has_ended && !self.upstreams.contains(&conn) {
            self.proxy.handle_end_seen(self.now, conn);
        }
        count > 0
    }

    fn write(&mut self, conn: ConnId) -> bool {
        let Some(wire) = self.wires.get_mut(&conn).filter(|wire| wire.closed.is_none()) else {
            return false;
        };
        let waiting = self.proxy.write_ready(conn);
        let count = waiting.len().min(self.step).min(wire.takes);
        if count == 0 {
            return false;
        }
        wire.received.extend_from_slice(&waiting[..count]);
        wire.takes -= count;
        self.respond_to_probe(conn);
        self.proxy.handle_written(self.now, conn, count);
        true
    }

    /// Responds 200 to a probe, and removes its connection from the upstreams.
    fn respond_to_probe(&mut self, conn: ConnId) {
        let wire = self.wires.get_mut(&conn).expect("it was written to");
        let is_probe = [&b"GET /health "[..], b"GET /metrics "]
            .iter()
            .any(|start| wire.received.starts_with(start) && wire.received.ends_with(b"\r\n\r\n"));
        if is_probe && self.upstreams.contains(&conn) {
            self.upstreams.retain(|upstream| *upstream != conn);
            wire.incoming.extend(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}");
        }
    }

    fn carry_out(&mut self) {
        loop {
            while let Some(action) = self.proxy.poll_action() {
                self.act(action);
            }
            let Some(conn) = self.proxy.poll_dirty() else { break };
            self.write(conn);
        }
        self.proxy.check_invariants();
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Connect { conn, .. } => {
                self.insert(conn);
                self.wire_mut(conn).takes = self.backends_take;
                self.upstreams.push(conn);
                let result = match self.dialling {
                    Dialling::Succeeds => Ok(()),
                    Dialling::IsRefused => Err(ConnectFailure::Refused),
                    Dialling::Hangs => return,
                };
                self.proxy.handle_connected(self.now, conn, result);
            }
            Action::Measure { conn } => {
                let unacknowledged = self.wire(conn).unacknowledged;
                self.proxy.handle_measured(self.now, conn, unacknowledged);
            }
            Action::Look { conn } => {
                self.read(conn);
            }
            Action::Shutdown { conn } => self.wire_mut(conn).is_shut = true,
            Action::Close { conn, with_reset } => {
                let wire = self.wire_mut(conn);
                assert_eq!(wire.closed, None, "a connection is closed once");
                wire.closed = Some(with_reset);
                self.open.remove(&conn);
            }
            Action::Notify(notice) => self.notices.push(notice),
        }
    }
}

impl Wire {
    /// Returns whether the proxy has ended the connection in a way that its peer reads as a clean
    /// end.
    pub(crate) fn is_over(&self) -> bool {
        self.closed == Some(false) || (self.is_shut && self.closed.is_none())
    }

    const fn new() -> Self {
        Self {
            incoming: VecDeque::new(),
            has_ended: false,
            is_end_reported: false,
            received: Vec::new(),
            takes: usize::MAX,
            unacknowledged: None,
            is_shut: false,
            closed: None,
        }
    }
}

/// The proxy's name in Via, with the suffix of the bench's seed.
pub(crate) const VIA: &str = "intelliproxy-910a2dec";

/// Returns the head that a backend gets for a request of the bench's client with `Host: h`.
pub(crate) fn forwarded(line: &str, fields: &str) -> String {
    format!(
        "{line} HTTP/1.1\r\nHost: h\r\n{fields}X-Forwarded-For: 192.0.2.7\r\n\
         X-Forwarded-Proto: http\r\nX-Forwarded-Host: h\r\nVia: 1.1 intelliproxy-910a2dec\r\n\r\n"
    )
}

/// Returns the response that the proxy itself sends before it closes the connection.
pub(crate) fn refusal(status: u16) -> String {
    let reason = match status {
        400 => "Bad Request",
        408 => "Request Timeout",
        413 => "Content Too Large",
        414 => "URI Too Long",
        417 => "Expectation Failed",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        508 => "Loop Detected",
        _ => panic!("the proxy does not send {status} by itself"),
    };
    let length = format!("{status} {reason}\n").len();
    format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Length: {length}\r\nConnection: close\r\n\r\n{status} {reason}\n"
    )
}
