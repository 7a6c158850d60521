//! The clients that give way when `limits.clients` are connected.
use std::net::SocketAddr;

use intelliproxy::config::{BackendTarget, Config, Overflow};
use intelliproxy::proxy::{Action, ConnId, Full as Bound, Notice, Proxy};
use intelliproxy_core::Instant;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

const fn at(millis: u64) -> Instant {
    Instant::from_millis(1 + millis)
}

fn target() -> BackendTarget {
    BackendTarget {
        name: "A".to_owned(),
        url: "http://a".to_owned(),
        authority: "a".to_owned(),
        addresses: vec![SocketAddr::from(([127, 0, 0, 1], 1))],
    }
}

/// A proxy with a maximum of clients, the connections that it closed, and its notices.
struct Full {
    proxy: Proxy,
    closed: Vec<ConnId>,
    gave_way: u64,
    /// Clients that were connected and that may be, by the last notice of an excess.
    excess: Option<(usize, usize)>,
    overflow: Overflow,
    /// The limits by open files that were reported.
    limited: Vec<usize>,
    /// The limit in the last notice about clients that gave way.
    bound: Option<Bound>,
}

impl Full {
    fn new(clients: usize) -> Self {
        let mut config = Config::default();
        config.limits.clients = clients;
        let proxy = Proxy::new(config, vec![target()], 1, at(0)).expect("good defaults");
        let overflow = Overflow::default();
        let (closed, limited) = (Vec::new(), Vec::new());
        Self { proxy, closed, gave_way: 0, bound: None, excess: None, overflow, limited }
    }

    fn reconfigure(&mut self, now: Instant, clients: usize) {
        let mut config = Config { overflow: self.overflow, ..Config::default() };
        config.limits.clients = clients;
        self.proxy.handle_reconfigured(now, config, vec![target()]).expect("a good limit");
        self.settle(now);
        self.proxy.check_invariants();
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.proxy.handle_timeout(now);
        self.settle(now);
        self.proxy.check_invariants();
    }

    fn accept(&mut self, now: Instant) -> ConnId {
        let conn = self.proxy.handle_accept(now, SocketAddr::from(([127, 0, 0, 1], 9)));
        self.settle(now);
        conn
    }

    fn send(&mut self, now: Instant, conn: ConnId, bytes: &[u8]) {
        self.proxy.read_space(conn)[..bytes.len()].copy_from_slice(bytes);
        self.proxy.handle_read(now, conn, bytes.len());
        self.settle(now);
    }

    /// Runs a complete exchange: the backend responds at once.
    fn ask(&mut self, now: Instant, conn: ConnId) {
        self.proxy.handle_read(now, conn, 0);
        self.proxy.read_space(conn)[..REQUEST.len()].copy_from_slice(REQUEST);
        self.proxy.handle_read(now, conn, REQUEST.len());
        let upstream = self.settle(now).expect("a connection is made");
        self.send(now, upstream, RESPONSE);
        self.proxy.handle_eof(now, upstream);
        self.settle(now);
    }

    /// Writes all waiting bytes. Returns the last connection that was requested.
    fn settle(&mut self, now: Instant) -> Option<ConnId> {
        let mut made = None;
        loop {
            while let Some(action) = self.proxy.poll_action() {
                match action {
                    Action::Connect { conn, .. } => {
                        self.proxy.handle_connected(now, conn, Ok(()));
                        made = Some(conn);
                    }
                    Action::Close { conn, .. } => self.closed.push(conn),
                    Action::Notify(Notice::ClientsGaveWay { count, full }) => {
                        self.gave_way += count;
                        self.bound = Some(full);
                    }
                    Action::Notify(Notice::ClientsInExcess { clients, clients_max }) => {
                        self.excess = Some((clients, clients_max));
                    }
                    Action::Notify(Notice::ClientsLimited { clients_max, .. }) => {
                        self.limited.push(clients_max);
                    }
                    _ => {}
                }
            }
            let Some(conn) = self.proxy.poll_dirty() else { return made };
            let count = self.proxy.write_ready(conn).len();
            if count > 0 {
                self.proxy.handle_written(now, conn, count);
            }
        }
    }

    /// Makes room. Returns the client that was closed for it.
    fn make_room(&mut self, now: Instant) -> Option<ConnId> {
        self.closed.clear();
        let has_room = self.proxy.make_room(now);
        self.settle(now);
        self.proxy.check_invariants();
        assert!(self.closed.len() <= 1);
        assert_eq!(has_room, self.proxy.accepts());
        self.closed.pop()
    }
}

/// Silent clients go first, with half a head or without, then idle ones: each after its time, and
/// the longest waiting first. A client with an exchange never goes, nor one whose bytes wait to be
/// read.
#[test]
fn the_longest_idle_gives_way() {
    let mut full = Full::new(6);
    let [idle_long, idle, busy, half, silent, unread] =
        [0, 1, 2, 3, 4, 5].map(at).map(|now| full.accept(now));
    full.ask(at(10), idle);
    full.ask(at(20), idle_long);
    full.ask(at(30), idle);
    full.send(at(40), busy, REQUEST);
    full.send(at(50), half, b"GET / HT");
    full.proxy.handle_unread(unread, true);
    assert_eq!(full.make_room(at(1019)), None, "no client's time is over");
    assert!(full.proxy.makes_room_from() > at(1019));
    assert_eq!(full.make_room(at(1020)), Some(idle_long));
    full.accept(at(1025));
    assert_eq!(full.make_room(at(1029)), None);
    assert_eq!(full.make_room(at(5030)), Some(silent), "before the idle one");
    full.accept(at(5030));
    assert_eq!(full.make_room(at(5049)), Some(idle), "a client with half a head has its own time");
    let later = full.accept(at(5049));
    full.ask(at(5050), later);
    assert_eq!(full.make_room(at(5050)), Some(half));
    full.accept(at(5050));
    assert_eq!(full.gave_way, 2, "at most one notice per second");
    assert!(full.make_room(at(20_000)).is_some());
    assert_eq!(full.make_room(at(20_000)), None, "room for one is enough");
    for _ in 0..10 {
        full.accept(at(20_000));
    }
    assert!(!full.closed.contains(&busy) && !full.closed.contains(&unread));
    assert!(full.gave_way > 4, "and none is lost: {}", full.gave_way);
}

/// 1000 silent clients give way to 1000 others, one for one. The records of clients that left do
/// not accumulate.
#[test]
fn silent_clients_keep_no_other_out() {
    let mut full = Full::new(1000);
    for _ in 0..1000 {
        full.accept(at(0));
    }
    assert_eq!(full.make_room(at(4999)), None);
    for millis in 0..5000 {
        let now = at(5000 + 5 * millis);
        assert!(full.make_room(now).is_some(), "at {now:?}");
        full.accept(now);
    }
    assert_eq!(full.proxy.clients(), 1000);
}

/// A proxy that stops makes no room, and idle clients within the limit stay.
#[test]
fn no_client_gives_way_without_need() {
    let mut full = Full::new(2);
    full.accept(at(0));
    full.accept(at(0));
    full.handle_timeout(at(9000));
    assert_eq!((full.proxy.clients(), full.proxy.poll_timeout()), (2, Some(at(10_000))));
    full.proxy.handle_stop(at(9000));
    assert!(!full.proxy.make_room(at(9000)));
    assert_eq!(full.proxy.makes_room_from(), Instant::FAR_FUTURE, "the driver is not to ask again");
}

/// A lowered limit: idle clients in excess are closed at once or when their time is over, silent
/// ones first, and busy ones stay. New ones are accepted as soon as there is room.
#[test]
fn clients_beyond_a_lowered_limit_give_way() {
    for is_by_files in [false, true] {
        let mut full = Full::new(300);
        let busy = [full.accept(at(0)), full.accept(at(0))];
        busy.iter().for_each(|&conn| full.send(at(0), conn, REQUEST));
        let silent: Vec<ConnId> = (0..290).map(|_| full.accept(at(0))).collect();
        let kept = [1, 2, 3, 4].map(|millis| {
            let conn = full.accept(at(millis));
            full.ask(at(millis), conn);
            conn
        });
        let young = full.accept(at(5500));
        full.ask(at(5500), young);
        full.closed.clear();
        if is_by_files {
            full.proxy.limit_connections(2 * 6 + 2);
            full.handle_timeout(at(6000));
        } else {
            full.reconfigure(at(6000), 6);
            assert_eq!(full.excess, Some((297, 6)));
        }
        for turn in 0..10 {
            full.handle_timeout(at(6000 + 10 * turn));
        }
        assert_eq!(full.closed.len(), 291);
        assert!(silent.iter().all(|conn| full.closed.contains(conn)));
        assert_eq!(full.closed.last(), Some(&kept[0]), "the longest idle of those");
        assert!(!full.proxy.accepts() && full.proxy.clients() == 6);
        assert_eq!(full.make_room(at(6100)), Some(kept[1]));
        full.accept(at(6100));
        full.reconfigure(at(6100), 1);
        assert!(full.closed.contains(&kept[3]) && !full.closed.contains(&young));
        assert!(!full.proxy.make_room(at(6499)), "the rest is not idle for long enough");
        full.handle_timeout(at(6500));
        assert!(full.closed.contains(&young), "though no client waits");
        full.handle_timeout(at(20_000));
        assert!(!full.proxy.make_room(at(20_000)), "only the busy ones are left");
        assert_eq!(full.proxy.clients(), 2);
        full.proxy.handle_failed(at(20_000), busy[0]);
        full.settle(at(20_000));
        assert_eq!(full.proxy.clients(), 1);
        full.proxy.handle_failed(at(20_000), busy[1]);
        full.settle(at(20_000));
        assert!(full.proxy.accepts());
    }
}

/// A client that is turned away takes no place while its connection lasts: idle ones need not give
/// way for it, and still do for the next one.
#[test]
fn one_turned_away_takes_no_place() {
    let mut full = Full::new(2);
    full.overflow = Overflow::Reject;
    full.reconfigure(at(0), 2);
    let first = full.accept(at(0));
    full.accept(at(1));
    for _ in 0..3 {
        full.accept(at(4000));
    }
    assert_eq!(full.proxy.clients(), 5);
    full.closed.clear();
    full.accept(at(5000));
    assert_eq!(full.closed, [first]);
    full.proxy.check_invariants();
}

/// The notice names the limit that is reached: `limits.clients`, or open files if those suffice for
/// fewer.
#[test]
fn the_limit_that_is_reached_is_named() {
    for (connections, expected) in
        [(usize::MAX, Bound::Clients), (7, Bound::OpenFiles { clients_max: 3 })]
    {
        let mut full = Full::new(4);
        full.proxy.limit_connections(connections);
        while full.proxy.accepts() {
            full.accept(at(0));
        }
        assert!(full.make_room(at(5000)).is_some());
        assert_eq!(full.bound, Some(expected));
    }
}

/// A limit by open files is reported at the start and when it has changed, not with every new
/// configuration.
#[test]
fn a_limit_by_files_is_reported_when_it_changes() {
    let mut full = Full::new(300);
    full.proxy.limit_connections(100);
    for clients in [300, 301, 10, 300, 300] {
        full.reconfigure(at(1), clients);
    }
    assert_eq!(full.limited, [49, 49], "at the start, and after a lower limit was raised again");
}
