//! Drives a proxy as the reactor would, with peers that keep all bytes that they sent and received.
use std::net::SocketAddr;
use std::time::Duration;

use intelliproxy_core::{Instant, PolicyKind};

use super::texts;
use intelliproxy::config::{BackendTarget, Config};
use intelliproxy::fuzzing::strict::{self, Verdict};
use intelliproxy::proxy::{Action, ConnId, ConnectFailure, Notice, Proxy};

/// Maximum of bytes that all peers send together.
const SAID_MAX: usize = 1 << 20;

pub(super) struct Driver {
    pub(super) proxy: Proxy,
    config: Config,
    /// Addresses that the proxy may connect to.
    targets: Vec<BackendTarget>,
    addresses: usize,
    pub(super) links: Vec<Link>,
    now: Instant,
    said: usize,
    /// Number of requests so far. Each has its own target.
    requests: usize,
}

/// A connection as seen by the proxy's peer.
pub(super) struct Link {
    pub(super) conn: ConnId,
    pub(super) is_client: bool,
    is_connected: bool,
    /// Bytes of the peer that the proxy has not read.
    inbox: Vec<u8>,
    /// Bytes of the peer that the proxy has read.
    pub(super) sent: Vec<u8>,
    /// Bytes that the peer received.
    pub(super) got: Vec<u8>,
    /// For each write to the peer: the bytes that it had received, and those of its own that had
    /// been read.
    pub(super) takes: Vec<(usize, usize)>,
    /// Whether the peer ended its side, and whether the proxy got that event.
    is_ending: bool,
    pub(super) is_ended: bool,
    pub(super) has_failed: bool,
    is_write_broken: bool,
    /// Whether the proxy has reported bytes to write since the last write of all.
    is_reported: bool,
    /// Whether the proxy has ended its side.
    pub(super) is_shut: bool,
    /// Whether the proxy has closed it, and then whether by a reset.
    pub(super) closed: Option<bool>,
    /// Whether the client was refused for lack of room.
    pub(super) is_refused: bool,
    /// Whether the peer sent something besides `texts`.
    pub(super) is_wild: bool,
}

impl Driver {
    pub(super) fn new(config: Config, backends: usize, addresses: usize) -> Self {
        let targets: Vec<_> = (0..backends).map(|index| target(index, 2, addresses)).collect();
        let proxy = Proxy::new(config.clone(), targets.clone(), 3, Instant::ZERO);
        let mut proxy = proxy.expect("a valid configuration");
        proxy.handle_date("Sun, 06 Nov 1994 08:49:37 GMT");
        let (links, now) = (Vec::new(), Instant::ZERO);
        Self { proxy, config, targets, addresses, links, now, said: 0, requests: 0 }
    }

    pub(super) fn accept(&mut self, may_see_stats: bool) {
        if !self.proxy.accepts() && !self.proxy.make_room(self.now) {
            self.carry_out();
            return;
        }
        let first = if may_see_stats { 127 } else { 198 };
        let conn = self.proxy.handle_accept(self.now, SocketAddr::from(([first, 0, 0, 1], 4000)));
        self.links.push(Link::new(conn, true));
        self.carry_out();
    }

    /// Returns an open connection, if there is one.
    pub(super) fn pick(&self, which: u8) -> Option<usize> {
        let open: Vec<usize> =
            (0..self.links.len()).filter(|&link| self.links[link].closed.is_none()).collect();
        (!open.is_empty()).then(|| open[usize::from(which) % open.len()])
    }

    /// Returns a text that suits the peer.
    pub(super) fn text(&mut self, link: Option<usize>, which: u8) -> Vec<u8> {
        let Some(link) = link else { return Vec::new() };
        if self.links[link].is_client {
            self.requests += 1;
            return texts::request(which, &format!("/{link}/{}", self.requests));
        }
        let target = last_target(&self.links[link].got);
        texts::response(which, &target.unwrap_or_else(|| "nothing".to_owned()))
    }

    /// Sends bytes from a peer. The proxy reads them as far as there is room, `step` at a time.
    pub(super) fn say(&mut self, link: Option<usize>, bytes: &[u8], step: usize) {
        let Some(at) = link else { return };
        let link = &mut self.links[at];
        if link.is_ending || link.has_failed || self.said + bytes.len() > SAID_MAX {
            return;
        }
        self.said += bytes.len();
        link.inbox.extend_from_slice(bytes);
        self.read(at, step);
    }

    /// Marks a peer that may have sent any target.
    pub(super) fn mark_wild(&mut self, link: Option<usize>) {
        if let Some(at) = link {
            self.links[at].is_wild = true;
        }
    }

    fn read(&mut self, at: usize, step: usize) {
        loop {
            let link = &mut self.links[at];
            if link.closed.is_some() || !link.is_connected || link.has_failed || link.is_ended {
                return;
            }
            if link.inbox.is_empty() {
                if link.is_ending {
                    link.is_ended = true;
                    let conn = link.conn;
                    self.proxy.handle_eof(self.now, conn);
                    self.carry_out();
                }
                return;
            }
            let space = self.proxy.read_space(link.conn);
            let count = step.min(space.len()).min(link.inbox.len());
            if count == 0 {
                if link.is_ending && link.is_client {
                    let conn = link.conn;
                    self.proxy.handle_end_seen(self.now, conn);
                    self.carry_out();
                }
                return;
            }
            space[..count].copy_from_slice(&link.inbox[..count]);
            link.sent.extend(link.inbox.drain(..count));
            let conn = link.conn;
            self.proxy.handle_read(self.now, conn, count);
            self.carry_out();
        }
    }

    /// Writes up to `count` of the waiting bytes to a peer.
    pub(super) fn write(&mut self, link: Option<usize>, count: usize) {
        let Some(at) = link else { return };
        let link = &mut self.links[at];
        if link.closed.is_some() || !link.is_connected || link.is_write_broken || link.has_failed {
            return;
        }
        let ready = self.proxy.write_ready(link.conn);
        let count = count.min(ready.len());
        if count == 0 {
            return;
        }
        assert!(!link.is_shut, "nothing follows the end");
        link.takes.push((link.got.len(), link.sent.len()));
        link.got.extend_from_slice(&ready[..count]);
        let conn = link.conn;
        self.proxy.handle_written(self.now, conn, count);
        self.carry_out();
    }

    /// Writes all waiting bytes to every peer, and reads all bytes that wait.
    pub(super) fn write_all(&mut self) {
        let mut at = 0;
        while at < self.links.len() {
            self.write(Some(at), usize::MAX);
            self.read(at, usize::MAX);
            at += 1;
        }
    }

    /// Ends a peer's side after the bytes that it sent before.
    pub(super) fn end(&mut self, link: Option<usize>) {
        let Some(at) = link else { return };
        self.links[at].is_ending = true;
        self.read(at, usize::MAX);
    }

    /// Breaks a connection.
    pub(super) fn fail(&mut self, link: Option<usize>) {
        let Some(at) = link else { return };
        let link = &mut self.links[at];
        if link.is_connected && !link.has_failed && !link.is_ended {
            link.has_failed = true;
            let conn = link.conn;
            self.proxy.handle_failed(self.now, conn);
            self.carry_out();
        }
    }

    pub(super) fn fail_writing(&mut self, link: Option<usize>) {
        let Some(at) = link else { return };
        let link = &mut self.links[at];
        let is_waiting = !self.proxy.write_ready(link.conn).is_empty();
        if link.is_connected && !link.is_write_broken && is_waiting {
            link.is_write_broken = true;
            let conn = link.conn;
            self.proxy.handle_write_failed(self.now, conn);
            self.carry_out();
        }
    }

    pub(super) fn connect(&mut self, link: Option<usize>, result: Result<(), ConnectFailure>) {
        let Some(at) = link else { return };
        let link = &mut self.links[at];
        if !link.is_connected && link.closed.is_none() {
            link.is_connected = true;
            let conn = link.conn;
            self.proxy.handle_connected(self.now, conn, result);
            self.carry_out();
        }
    }

    pub(super) fn connect_all(&mut self) {
        let mut at = 0;
        while at < self.links.len() {
            self.connect(Some(at), Ok(()));
            at += 1;
        }
    }

    /// Lets time pass. Due timeouts are handled, or wait, as with a driver that is late.
    pub(super) fn pass(&mut self, span: Duration, is_late: bool) {
        self.now += span;
        if !is_late {
            self.proxy.handle_timeout(self.now);
            self.carry_out();
        }
    }

    /// Lets time pass until the next deadline.
    pub(super) fn wait(&mut self) {
        if let Some(at) = self.proxy.poll_timeout() {
            self.now = self.now.max(at);
            self.pass(Duration::ZERO, false);
        }
    }

    /// Sends the proxy events of a closed connection.
    pub(super) fn send_late_event(&mut self, which: u8) {
        let closed: Vec<ConnId> =
            self.links.iter().filter(|link| link.closed.is_some()).map(|link| link.conn).collect();
        if closed.is_empty() {
            return;
        }
        let conn = closed[usize::from(which) % closed.len()];
        assert!(self.proxy.read_space(conn).is_empty(), "a closed connection has no room");
        assert!(
            self.proxy.write_ready(conn).is_empty(),
            "a closed connection has no bytes to write"
        );
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

    /// Applies another configuration: bits 0 to 2 select its backends, bit 3 the place of the first
    /// one. Bits 4 and 5 change the policy, limits and timeouts. Bits 6 and 7 make it invalid.
    pub(super) fn reconfigure(&mut self, which: u8) {
        let mut config = self.config.clone();
        let backends = (0..3).filter(|index| which >> index & 1 == 1);
        let place = |index: usize| if index == 0 { 2 + (which >> 3 & 1) } else { 2 };
        let targets: Vec<_> =
            backends.map(|index| target(index, place(index), self.addresses)).collect();
        if which & 0x10 != 0 {
            config.routing.policy = PolicyKind::Learned;
            config.pool.idle_per_backend = 1;
            config.limits.clients = 1;
        }
        if which & 0x20 != 0 {
            config.limits.head_bytes_max = 1024;
            config.limits.target_bytes_max = 64;
            config.limits.body_bytes_max = 64;
            config.timeouts.response_head = Duration::from_secs(1);
            config.timeouts.client_idle = Duration::from_secs(1);
            config.stats.allow = vec!["198.0.0.0/8".to_owned()];
        }
        let is_bad = which >> 6 == 3;
        if is_bad {
            config.limits.attempts = 0;
        }
        let result = self.proxy.handle_reconfigured(self.now, config, targets.clone());
        assert_eq!(result.is_err(), is_bad, "exactly the valid configurations are accepted");
        if is_bad {
            self.proxy.handle_config_refused("attempts".to_owned());
        } else {
            self.targets = targets;
        }
        self.carry_out();
    }

    pub(super) fn stop(&mut self) {
        self.proxy.handle_stop(self.now);
        self.carry_out();
    }

    /// Checks the rules that hold after each operation.
    pub(super) fn check(&mut self) {
        self.proxy.check_invariants();
        for link in self.links.iter_mut().filter(|link| link.closed.is_none()) {
            let is_waiting = !self.proxy.write_ready(link.conn).is_empty();
            assert!(!is_waiting || link.is_reported, "the driver gets notice of bytes to write");
            assert!(!is_waiting || link.is_connected, "only open connections are written to");
            assert!(!is_waiting || !link.is_shut, "nothing follows the end");
            link.is_reported &= is_waiting;
        }
    }

    /// Ends the misbehaviour of peers: clients leave, all bytes are read, time passes. Nothing must
    /// be left.
    pub(super) fn finish(&mut self, ends_by_stop: bool) {
        let deadline = self.now + Duration::from_secs(1800);
        for at in 0..self.links.len() {
            if self.links[at].is_client && self.links[at].closed.is_none() {
                self.links[at].inbox.clear();
                self.end(Some(at));
            }
        }
        if ends_by_stop {
            self.stop();
        }
        while self.proxy.clients() > 0 && self.now < deadline {
            self.write_all();
            self.wait();
        }
        assert_eq!(self.proxy.clients(), 0, "every client is served or given up in time");
        assert!(self.proxy.is_at_rest(), "without clients nothing is held");
        self.stop();
        let mut waits = 0;
        while self.proxy.poll_timeout().is_some() && waits < 1000 {
            self.wait();
            waits += 1;
        }
        assert!(self.proxy.is_stopped(), "it has stopped");
        assert_eq!(self.proxy.poll_timeout(), None, "no timeout is left");
        assert_eq!(self.proxy.connections(), 0, "no connection is left");
        assert!(
            self.links.iter().all(|link| link.closed.is_some()),
            "the driver has no connection left"
        );
        self.check();
    }

    fn carry_out(&mut self) {
        while let Some(action) = self.proxy.poll_action() {
            match action {
                Action::Measure { conn } => {
                    // The received bytes count as acknowledged. Some peers never report that.
                    let got = self.link(conn).got.len() as u64;
                    let unacknowledged = (!got.is_multiple_of(3)).then(|| u64::MAX - got);
                    self.proxy.handle_measured(self.now, conn, unacknowledged);
                }
                // Bytes and ends of peers are read at once here, so a look finds no others.
                Action::Look { conn } => {
                    assert!(!self.link(conn).is_client, "only a backend's connection is checked")
                }
                Action::Connect { conn, address } => {
                    let is_place = |target: &BackendTarget| target.addresses.contains(&address);
                    assert!(
                        self.targets.iter().any(is_place),
                        "only configured addresses are dialled"
                    );
                    assert!(self.links.iter().all(|link| link.conn != conn), "ids are new");
                    self.links.push(Link::new(conn, false));
                }
                Action::Shutdown { conn } => {
                    assert!(
                        self.proxy.write_ready(conn).is_empty(),
                        "all bytes are written before the end"
                    );
                    self.link(conn).is_shut = true;
                }
                Action::Close { conn, with_reset } => self.link(conn).closed = Some(with_reset),
                Action::Notify(Notice::ClientRefused { .. }) => {
                    if let Some(link) = self.links.last_mut() {
                        link.is_refused = true;
                    }
                }
                Action::Notify(Notice::ClientError { excerpt, .. }) => {
                    assert!(excerpt.is_ascii() && excerpt.len() <= 4 * 80, "escaped and cut");
                }
                Action::Notify(_) => {}
            }
        }
        while let Some(conn) = self.proxy.poll_dirty() {
            self.link(conn).is_reported = true;
        }
    }

    /// Returns an open connection.
    fn link(&mut self, conn: ConnId) -> &mut Link {
        let link = self.links.iter_mut().find(|link| link.conn == conn && link.closed.is_none());
        link.expect("the proxy refers to open connections only")
    }
}

impl Link {
    fn new(conn: ConnId, is_client: bool) -> Self {
        Self {
            conn,
            is_client,
            is_connected: is_client,
            inbox: Vec::new(),
            sent: Vec::new(),
            got: Vec::new(),
            takes: Vec::new(),
            is_ending: false,
            is_ended: false,
            has_failed: false,
            is_write_broken: false,
            is_reported: false,
            is_shut: false,
            closed: None,
            is_refused: false,
            is_wild: false,
        }
    }
}

/// Returns a backend at one of two places.
fn target(index: usize, place: u8, addresses: usize) -> BackendTarget {
    let name = if place == 2 { format!("b{index}") } else { format!("b{index}-{place}") };
    BackendTarget {
        name: format!("b{index}"),
        url: format!("http://{name}"),
        authority: name,
        addresses: (0..addresses)
            .map(|port| SocketAddr::from(([192, 0, place, index as u8], 80 + port as u16)))
            .collect(),
    }
}

/// Returns the target of the last request whose head a backend received; `None` while another head
/// is coming.
fn last_target(got: &[u8]) -> Option<String> {
    let (mut rest, mut target) = (got, None);
    while !rest.is_empty() {
        let Verdict::Whole(head) = strict::request(rest) else { return None };
        target = Some(String::from_utf8_lossy(&head.line[1]).into_owned());
        let extent = head.request_extent().ok()?;
        let Verdict::Whole(body) = strict::body(&rest[head.len..], extent, false) else { break };
        rest = &rest[head.len + body.len..];
    }
    target
}
