//! Replaces the reactor in a world: drives the real `Proxy` by the same calls in the same order,
//! with virtual sockets that report each change once.
//!
//! It follows the reactor's rules: an event is passed to its connection at once, effects are
//! carried out after every step, a blocked write waits until its socket reports room, a connection
//! reads at most `reads_max` times in a row. After every call the proxy checks its own tables.
use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use intelliproxy::proxy::{Action, ConnId, Notice, Proxy};

use crate::kinds;
use crate::net::{Moved, Net};

/// Maximum delay between a client's last bytes and its end for a half-close.
const HALF_CLOSE_WITHIN: Duration = Duration::from_millis(2);
/// Maximum delay for a half-close once the response has begun.
const HALF_CLOSE_ANYWAY_WITHIN: Duration = Duration::from_micros(50);

/// The proxy and its sockets.
#[derive(Debug)]
pub struct Driver {
    /// The proxy under test.
    pub proxy: Proxy,
    /// Its notices, oldest first.
    pub notices: Vec<Notice>,
    /// The kinds of actions that the proxy requested, and of its notices.
    pub kinds: BTreeSet<&'static str>,
    socks: Vec<Option<Sock>>,
    unread: VecDeque<ConnId>,
    /// Closed connections, for late events.
    gone: Vec<ConnId>,
    reads_max: usize,
}

/// The known readiness of a socket.
#[derive(Clone, Copy, Debug)]
struct Sock {
    conn: ConnId,
    link: usize,
    is_connecting: bool,
    is_readable: bool,
    is_writable: bool,
    is_ending: bool,
    is_queued: bool,
}

/// An event of a socket.
#[derive(Clone, Copy, Debug, Default)]
pub struct Edge {
    /// Bytes have arrived.
    pub is_readable: bool,
    /// There is room to write again.
    pub is_writable: bool,
    /// The peer has ended or reset the connection.
    pub is_ending: bool,
}

impl Driver {
    /// Returns a driver that reads a connection at most `reads_max` times in a row.
    pub const fn new(proxy: Proxy, reads_max: usize) -> Self {
        Self {
            proxy,
            notices: Vec::new(),
            kinds: BTreeSet::new(),
            socks: Vec::new(),
            unread: VecDeque::new(),
            gone: Vec::new(),
            reads_max,
        }
    }

    /// Returns whether connections have bytes left to read now.
    pub fn has_unread(&self) -> bool {
        !self.unread.is_empty()
    }

    /// Accepts a client's connection.
    pub fn accept(&mut self, net: &mut Net, link: usize, peer: std::net::SocketAddr) {
        let conn = self.proxy.handle_accept(net.now, peer);
        net.trace.note(net.now, format_args!("accept link {link}"));
        self.insert(conn, link, false);
        self.carry_out(net);
        // Bytes that arrived before it was accepted are readable at once.
        let inward = &net.links[link].inward;
        let edge = Edge {
            is_readable: inward.waiting() > 0 || inward.has_end(),
            is_writable: false,
            is_ending: inward.has_end(),
        };
        if edge.is_readable {
            self.take_edge(net, link, edge);
        }
    }

    /// Reports to the proxy that a requested connection was made, or failed. Returns whether it was
    /// made.
    pub fn take_connected(&mut self, net: &mut Net, link: usize) -> bool {
        let Some(result) = net.links[link].connecting.take() else { return false };
        let Some(sock) = self.sock_of(link).filter(|sock| sock.is_connecting) else {
            return false;
        };
        sock.is_connecting = false;
        sock.is_writable = true;
        let conn = sock.conn;
        net.trace.note(net.now, format_args!("connected link {link}: {result:?}"));
        self.proxy.handle_connected(net.now, conn, result);
        self.carry_out(net);
        result.is_ok()
    }

    /// Passes on an event of a socket.
    pub fn take_edge(&mut self, net: &mut Net, link: usize, edge: Edge) {
        let Some(sock) = self.sock_of(link) else { return };
        sock.is_readable |= edge.is_readable || edge.is_ending;
        sock.is_writable |= edge.is_writable;
        sock.is_ending |= edge.is_ending;
        let conn = sock.conn;
        if !sock.is_connecting {
            self.write(net, conn);
            self.read(net, conn);
        }
        self.carry_out(net);
    }

    /// Continues the reads of connections that had more bytes than their share.
    pub fn read_on(&mut self, net: &mut Net) {
        for _ in 0..self.unread.len() {
            if let Some(conn) = self.unread.pop_front() {
                if let Some(sock) = self.sock(conn) {
                    sock.is_queued = false;
                }
                self.proxy.handle_unread(conn, false);
                self.read(net, conn);
                self.carry_out(net);
            }
        }
    }

    /// Handles the timeouts that have expired.
    pub fn handle_timeout(&mut self, net: &mut Net) {
        self.proxy.handle_timeout(net.now);
        self.carry_out(net);
    }

    /// Makes room for one more client. Returns whether there is room. `gone` gets the connections of
    /// clients that gave way.
    pub fn make_room(&mut self, net: &mut Net, gone: &mut Vec<usize>) -> bool {
        let before: Vec<usize> = self.socks.iter().flatten().map(|sock| sock.link).collect();
        let has_room = self.proxy.make_room(net.now);
        self.carry_out(net);
        let is_gone = |link: &usize| !self.socks.iter().flatten().any(|sock| sock.link == *link);
        gone.extend(before.into_iter().filter(is_gone));
        has_room
    }

    /// Returns all open connections if there are more than `most` clients, otherwise none. The
    /// proxy may then close some of them.
    pub fn links_in_excess(&self, most: usize) -> Vec<usize> {
        let has_excess = self.proxy.clients() > most;
        self.socks.iter().flatten().filter(|_| has_excess).map(|sock| sock.link).collect()
    }

    /// Stops the proxy: no new exchange begins.
    pub fn handle_stop(&mut self, net: &mut Net) {
        net.trace.note(net.now, format_args!("stop"));
        self.proxy.handle_stop(net.now);
        self.carry_out(net);
    }

    /// Passes an event of a closed connection to the proxy, which must ignore it.
    pub fn tell_late_news(&mut self, net: &mut Net) {
        let count = self.gone.len() as u64;
        let Some(&conn) = self.gone.get(net.rng.below(count) as usize) else { return };
        net.trace.note(net.now, format_args!("late news"));
        match net.rng.below(8) {
            0 => self.proxy.handle_eof(net.now, conn),
            1 => self.proxy.handle_failed(net.now, conn),
            2 => self.proxy.handle_read(net.now, conn, 0),
            3 => self.proxy.handle_written(net.now, conn, 1),
            4 => self.proxy.handle_connected(net.now, conn, Ok(())),
            5 => self.proxy.handle_end_seen(net.now, conn),
            6 => self.proxy.handle_measured(net.now, conn, Some(0)),
            _ => self.proxy.handle_write_failed(net.now, conn),
        }
        assert!(self.proxy.read_space(conn).is_empty(), "a closed connection reads nothing");
        assert!(self.proxy.write_ready(conn).is_empty(), "a closed connection writes nothing");
        self.carry_out(net);
    }

    fn read(&mut self, net: &mut Net, conn: ConnId) {
        for _ in 0..self.reads_max {
            let Some(Some(sock)) = self.socks.get_mut(conn.slot()) else { return };
            if sock.conn != conn || !sock.is_readable || sock.is_connecting {
                return;
            }
            let space = self.proxy.read_space(conn);
            if space.is_empty() {
                // A client's end is seen even without room for the bytes before it.
                let inward = &net.links[sock.link].inward;
                let is_client = net.links[sock.link].address.is_none();
                if is_client && inward.is_reset() {
                    sock.is_readable = false;
                    self.proxy.handle_failed(net.now, conn);
                } else if is_client && inward.has_end() {
                    see_end(net, sock.link, self.proxy.write_ready(conn));
                    self.proxy.handle_end_seen(net.now, conn);
                }
                return self.carry_out(net);
            }
            let (link, room) = (sock.link, space.len());
            let moved = net.proxy_read(link, space);
            net.trace.note(net.now, format_args!("link {link} read {moved:?}"));
            match moved {
                Moved::Bytes(count) => {
                    // If a read returns fewer bytes than requested, no more are available, and an
                    // edge reports the next ones.
                    sock.is_readable = count == room || sock.is_ending;
                    self.proxy.handle_read(net.now, conn, count);
                }
                Moved::Blocked => {
                    sock.is_readable = false;
                    self.proxy.handle_read(net.now, conn, 0);
                    return;
                }
                Moved::Ended => {
                    sock.is_readable = false;
                    see_end(net, link, self.proxy.write_ready(conn));
                    self.proxy.handle_eof(net.now, conn);
                    return;
                }
                Moved::Failed => {
                    sock.is_readable = false;
                    self.proxy.handle_failed(net.now, conn);
                    return;
                }
            }
            self.carry_out(net);
        }
        self.queue(conn);
    }

    /// Queues a connection to continue its reads later.
    fn queue(&mut self, conn: ConnId) {
        if let Some(sock) = self.sock(conn)
            && !sock.is_queued
        {
            sock.is_queued = true;
            self.proxy.handle_unread(conn, true);
            self.unread.push_back(conn);
        }
    }

    fn write(&mut self, net: &mut Net, conn: ConnId) {
        loop {
            let Some(Some(sock)) = self.socks.get_mut(conn.slot()) else { return };
            if sock.conn != conn || !sock.is_writable {
                return;
            }
            let bytes = self.proxy.write_ready(conn);
            if bytes.is_empty() {
                return;
            }
            let (link, offered) = (sock.link, bytes.len());
            if net.links[link].is_displaced {
                assert!(
                    !begins_request(bytes),
                    "a request begins at an address that its backend has left"
                );
            }
            let moved = net.proxy_write(link, bytes);
            net.trace.note(net.now, format_args!("link {link} write of {offered}: {moved:?}"));
            match moved {
                Moved::Bytes(count) => {
                    sock.is_writable = count == offered;
                    if net.links[link].address.is_none() {
                        net.links[link].written.push(&bytes[..count]);
                    }
                    self.proxy.handle_written(net.now, conn, count);
                }
                Moved::Blocked => {
                    sock.is_writable = false;
                    return;
                }
                Moved::Ended | Moved::Failed => {
                    sock.is_writable = false;
                    return self.proxy.handle_write_failed(net.now, conn);
                }
            }
        }
    }

    /// Carries out the proxy's actions until none are left.
    pub(crate) fn carry_out(&mut self, net: &mut Net) {
        loop {
            while let Some(action) = self.proxy.poll_action() {
                self.act(net, action);
            }
            let Some(conn) = self.proxy.poll_dirty() else { break };
            self.write(net, conn);
            if self.sock(conn).is_some_and(|sock| sock.is_readable) {
                self.queue(conn);
            }
        }
        self.proxy.check_invariants();
    }

    fn act(&mut self, net: &mut Net, action: Action) {
        self.kinds.insert(kinds::of_action(&action));
        match action {
            Action::Connect { conn, address } => match net.dial(address) {
                Ok(link) => {
                    net.trace.note(net.now, format_args!("dial {address} as link {link}"));
                    self.insert(conn, link, true);
                }
                Err(failure) => {
                    net.trace.note(net.now, format_args!("dial {address}: {failure:?}"));
                    self.proxy.handle_connected(net.now, conn, Err(failure));
                }
            },
            Action::Measure { conn } => {
                let link = self.sock(conn).map(|sock| sock.link);
                let held = link.map(|link| net.links[link].outward.held());
                net.trace.note(net.now, format_args!("measure {link:?}: {held:?}"));
                self.proxy.handle_measured(net.now, conn, held.map(|held| held as u64));
            }
            Action::Look { conn } => {
                if let Some(sock) = self.sock(conn) {
                    sock.is_readable = true;
                    self.read(net, conn);
                }
            }
            Action::Shutdown { conn } => {
                if let Some(sock) = self.sock(conn) {
                    let link = sock.link;
                    net.trace.note(net.now, format_args!("link {link} shutdown"));
                    net.proxy_shutdown(link);
                }
            }
            Action::Close { conn, with_reset } => {
                let slot = self.socks.get_mut(conn.slot());
                if let Some(sock) = slot.and_then(|slot| slot.take_if(|s| s.conn == conn)) {
                    net.trace.note(
                        net.now,
                        format_args!("link {} close, reset {with_reset}", sock.link),
                    );
                    net.proxy_close(sock.link, with_reset);
                    self.gone.push(conn);
                }
            }
            Action::Notify(notice) => {
                self.kinds.insert(kinds::of_notice(&notice));
                net.trace.note(net.now, format_args!("notice {notice:?}"));
                self.notices.push(notice);
            }
        }
    }

    fn insert(&mut self, conn: ConnId, link: usize, is_connecting: bool) {
        let slot = conn.slot();
        if self.socks.len() <= slot {
            self.socks.resize_with(slot + 1, || None);
        }
        assert!(self.socks[slot].is_none(), "a slot is used by one connection at a time");
        self.socks[slot] = Some(Sock {
            conn,
            link,
            is_connecting,
            is_readable: false,
            is_writable: !is_connecting,
            is_ending: false,
            is_queued: false,
        });
    }

    fn sock(&mut self, conn: ConnId) -> Option<&mut Sock> {
        self.socks.get_mut(conn.slot())?.as_mut().filter(|sock| sock.conn == conn)
    }

    fn sock_of(&mut self, link: usize) -> Option<&mut Sock> {
        self.socks.iter_mut().flatten().find(|sock| sock.link == link)
    }
}

/// Returns whether these bytes begin a request with a complete first line.
fn begins_request(bytes: &[u8]) -> bool {
    let line = bytes.split(|&byte| byte == b'\r').next().unwrap_or_default();
    let is_method = |word: &[u8]| !word.is_empty() && word.iter().all(u8::is_ascii_uppercase);
    line.ends_with(b" HTTP/1.1") && line.split(|&byte| byte == b' ').next().is_some_and(is_method)
}

/// Records the time at which the proxy first sees a peer's end, and whether it is a half-close. A
/// half-close arrives within 2 ms after the last bytes that the proxy read. Once a final response
/// has begun, the limit is 50 us. `waiting` holds the bytes that the proxy is about to write to the
/// peer.
fn see_end(net: &mut Net, link: usize, waiting: &[u8]) {
    let link = &mut net.links[link];
    if link.is_half_closed.is_none() {
        let has_begun = link.written.is_inside_with(waiting);
        let within = if has_begun { HALF_CLOSE_ANYWAY_WITHIN } else { HALF_CLOSE_WITHIN };
        link.is_half_closed = Some(net.now.since(link.last_read) < within);
    }
}
