//! The operations of the target: each moves some bytes, breaks something, or lets time pass.
use std::net::SocketAddr;
use std::time::Duration;

use intelliproxy::config::{
    BackendConfig, BackendTarget, CheckKind, Config, InitialHealth, OwnHealthChecks,
};
use intelliproxy::fuzzing::strict::{self, Verdict};
use intelliproxy::proxy::{ConnId, ConnectFailure, Notice};
use intelliproxy_core::PolicyKind;
use intelliproxy_driver::{Dialling, Driver, Moving, Peer};

use super::texts;

/// Maximum number of bytes that all peers send together.
const SAID_MAX: usize = 1 << 20;

/// The proxy and its peers, with the facts about each peer that the checks at the end need.
pub(super) struct Operations {
    driver: Driver,
    config: Config,
    addresses: usize,
    said: usize,
    /// Number of requests so far. Each has its own target.
    requests: usize,
    /// Clients that were refused for lack of room.
    refused: Vec<ConnId>,
    /// Peers that sent something besides `texts`.
    wild: Vec<ConnId>,
}

/// A peer at the end.
#[derive(Clone, Copy)]
pub(super) struct Link<'d> {
    pub(super) peer: &'d Peer,
    /// Whether the client was refused for lack of room.
    pub(super) is_refused: bool,
    /// Whether the peer sent something besides `texts`.
    pub(super) is_wild: bool,
}

impl Operations {
    pub(super) fn new(config: Config, backends: usize, addresses: usize) -> Self {
        let targets: Vec<_> = (0..backends).map(|index| target(index, 2, addresses)).collect();
        let mut driver = Driver::with_targets(config.clone(), targets);
        driver.moving = Moving::ByHand;
        driver.dialling = Dialling::Hangs;
        driver.responds_to_probes = false;
        driver.proxy.handle_date("Sun, 06 Nov 1994 08:49:37 GMT");
        let (refused, wild) = (Vec::new(), Vec::new());
        Self { driver, config, addresses, said: 0, requests: 0, refused, wild }
    }

    /// Returns all peers.
    pub(super) fn links(&self) -> Vec<Link<'_>> {
        let peers = self.driver.peers().iter();
        peers
            .map(|peer| Link {
                peer,
                is_refused: self.refused.contains(&peer.conn),
                is_wild: self.wild.contains(&peer.conn),
            })
            .collect()
    }

    pub(super) fn accept(&mut self, may_see_stats: bool) {
        if !self.driver.proxy.accepts() && !self.driver.make_room() {
            return;
        }
        let first = if may_see_stats { 127 } else { 198 };
        let conn = self.driver.client_from(&format!("{first}.0.0.1:4000"));
        let is_refusal = |notice: &Notice| matches!(notice, Notice::ClientRefused { .. });
        if self.driver.notices.iter().any(is_refusal) {
            self.refused.push(conn);
        }
    }

    /// Returns an open connection, if there is one.
    pub(super) fn pick(&self, which: u8) -> Option<ConnId> {
        let open: Vec<ConnId> = self.conns(Peer::is_open);
        (!open.is_empty()).then(|| open[usize::from(which) % open.len()])
    }

    /// Returns a text that suits the peer.
    pub(super) fn text(&mut self, conn: Option<ConnId>, which: u8) -> Vec<u8> {
        let Some(conn) = conn else { return Vec::new() };
        if self.driver.peer(conn).is_client() {
            self.requests += 1;
            let all = self.driver.peers();
            let place = all.iter().position(|peer| peer.conn == conn).unwrap_or_default();
            return texts::request(which, &format!("/{place}/{}", self.requests));
        }
        let target = last_target(&self.driver.peer(conn).received);
        texts::response(which, &target.unwrap_or_else(|| "nothing".to_owned()))
    }

    /// Sends bytes from a peer. The proxy reads them `step` at a time while it has room.
    pub(super) fn say(&mut self, conn: Option<ConnId>, bytes: &[u8], step: usize) {
        let Some(conn) = conn else { return };
        if !self.driver.peer(conn).may_send() || self.said + bytes.len() > SAID_MAX {
            return;
        }
        self.said += bytes.len();
        self.driver.send(conn, bytes);
        self.driver.read(conn, step);
    }

    /// Marks a peer that may have sent any target.
    pub(super) fn mark_wild(&mut self, conn: Option<ConnId>) {
        self.wild.extend(conn);
    }

    /// Writes up to `count` of the waiting bytes to a peer.
    pub(super) fn write(&mut self, conn: Option<ConnId>, count: usize) {
        let Some(conn) = conn else { return };
        self.driver.write(conn, count);
        // The received bytes count as acknowledged. If their number is a multiple of 3, the system
        // does not report it.
        let received = self.driver.peer(conn).received.len() as u64;
        let unacknowledged = (!received.is_multiple_of(3)).then(|| u64::MAX - received);
        self.driver.hold(conn, unacknowledged);
    }

    /// Writes all waiting bytes to every peer, and reads all bytes that wait.
    pub(super) fn write_all(&mut self) {
        let mut at = 0;
        while let Some(conn) = self.driver.peers().get(at).map(|peer| peer.conn) {
            self.write(Some(conn), usize::MAX);
            self.driver.read(conn, usize::MAX);
            at += 1;
        }
    }

    /// Ends a peer's side after the bytes that it sent before.
    pub(super) fn end(&mut self, conn: Option<ConnId>) {
        let Some(conn) = conn else { return };
        self.driver.end(conn);
        self.driver.read(conn, usize::MAX);
    }

    /// Breaks a connection.
    pub(super) fn fail(&mut self, conn: Option<ConnId>) {
        if let Some(conn) = conn {
            self.driver.reset(conn);
        }
    }

    /// Makes a peer refuse the bytes that wait for it.
    pub(super) fn fail_writing(&mut self, conn: Option<ConnId>) {
        let Some(conn) = conn else { return };
        if !self.driver.proxy.write_ready(conn).is_empty() {
            self.driver.break_writes(conn);
        }
    }

    pub(super) fn connect(&mut self, conn: Option<ConnId>, result: Result<(), ConnectFailure>) {
        if let Some(conn) = conn {
            self.driver.connect(conn, result);
        }
    }

    pub(super) fn connect_all(&mut self) {
        let mut at = 0;
        while let Some(conn) = self.driver.peers().get(at).map(|peer| peer.conn) {
            self.driver.connect(conn, Ok(()));
            at += 1;
        }
    }

    /// Lets time pass. Due timeouts are handled, or wait as they do if a driver is late.
    pub(super) fn pass(&mut self, span: Duration, is_late: bool) {
        self.driver.now += span;
        if !is_late {
            self.driver.handle_timeout();
        }
    }

    /// Lets time pass until the next deadline.
    pub(super) fn wait(&mut self) {
        if let Some(at) = self.driver.proxy.poll_timeout() {
            self.driver.now = self.driver.now.max(at);
            self.driver.handle_timeout();
        }
    }

    /// Sends the proxy the events of a closed connection.
    pub(super) fn send_late_event(&mut self, which: u8) {
        let closed = self.conns(|peer| !peer.is_open());
        if !closed.is_empty() {
            self.driver.repeat_events(closed[usize::from(which) % closed.len()]);
        }
    }

    /// Applies another configuration: bits 0 to 2 select its backends, bit 3 the place of the first
    /// one. Bits 4 and 5 change the policy, limits and timeouts. Bit 6 makes b0 a backup, bit 7
    /// gives the backends other health checks. Both bits together make the configuration invalid.
    pub(super) fn reconfigure(&mut self, which: u8) {
        let mut config = self.config.clone();
        let backends = (0..3).filter(|index| which >> index & 1 == 1);
        let place = |index: usize| if index == 0 { 2 + (which >> 3 & 1) } else { 2 };
        let targets = backends.map(|index| target(index, place(index), self.addresses)).collect();
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
        let check = |kind| OwnHealthChecks { kind: Some(kind), ..OwnHealthChecks::default() };
        let own = |index: usize| BackendConfig::new(&format!("b{index}"), "http://b");
        match which >> 6 {
            1 => config.backends = vec![BackendConfig { backup: true, ..own(0) }],
            2 => {
                let awaited =
                    OwnHealthChecks { initial: Some(InitialHealth::Down), ..check(CheckKind::Tcp) };
                config.backends = vec![
                    BackendConfig { health: Some(check(CheckKind::None)), ..own(0) },
                    BackendConfig { health: Some(awaited), ..own(1) },
                ];
            }
            _ => {}
        }
        let is_bad = which >> 6 == 3;
        if is_bad {
            config.limits.attempts = 0;
        }
        let result = self.driver.reconfigure(config, targets);
        assert_eq!(result.is_err(), is_bad, "exactly the valid configurations are accepted");
        if is_bad {
            let now = self.driver.now;
            self.driver.proxy.handle_config_refused(now, "attempts".to_owned());
            self.driver.run();
        }
    }

    pub(super) fn stop(&mut self) {
        self.driver.stop();
    }

    /// Checks the rules that hold after each operation.
    pub(super) fn check(&mut self) {
        self.driver.check();
        for notice in self.driver.notices.drain(..) {
            if let Notice::ClientError { excerpt, .. } = notice {
                assert!(excerpt.is_ascii() && excerpt.len() <= 4 * 80, "escaped and cut");
            }
        }
    }

    /// Ends the misbehaviour of peers: clients leave, all bytes are read, time passes. Nothing must
    /// be left.
    pub(super) fn finish(&mut self, ends_by_stop: bool) {
        let deadline = self.driver.now + Duration::from_secs(1800);
        for conn in self.conns(|peer| peer.is_client() && peer.is_open()) {
            self.driver.forget_unread(conn);
            self.end(Some(conn));
        }
        if ends_by_stop {
            self.stop();
        }
        while self.driver.proxy.clients() > 0 && self.driver.now < deadline {
            self.write_all();
            self.wait();
        }
        let proxy = &self.driver.proxy;
        assert_eq!(proxy.clients(), 0, "every client is served or given up in time");
        assert!(proxy.is_at_rest(), "without clients nothing is held");
        self.stop();
        let mut waits = 0;
        while self.driver.proxy.poll_timeout().is_some() && waits < 1000 {
            self.wait();
            waits += 1;
        }
        let proxy = &self.driver.proxy;
        assert!(proxy.is_stopped(), "it has stopped");
        assert_eq!(proxy.poll_timeout(), None, "no timeout is left");
        assert_eq!(proxy.connections(), 0, "no connection is left");
        let open = self.conns(Peer::is_open);
        assert!(open.is_empty(), "the driver has no connection left: {open:?}");
        self.check();
    }

    /// Returns the connections of some peers.
    fn conns(&self, is_wanted: impl Fn(&Peer) -> bool) -> Vec<ConnId> {
        let wanted = self.driver.peers().iter().filter(|peer| is_wanted(peer));
        wanted.map(|peer| peer.conn).collect()
    }
}

/// Returns a backend at one of two places.
fn target(index: usize, place: u8, addresses: usize) -> BackendTarget {
    let name = if place == 2 { format!("b{index}") } else { format!("b{index}-{place}") };
    BackendTarget {
        name: format!("b{index}"),
        url: format!("http://{name}"),
        authority: name,
        tls: None,
        addresses: (0..addresses)
            .map(|port| SocketAddr::from(([192, 0, place, index as u8], 80 + port as u16)))
            .collect(),
    }
}

/// Returns the target of the last request whose head a backend received; `None` while another head
/// is arriving.
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
