//! The clients that give way when `limits.clients` are connected.
use intelliproxy::config::{BackendTarget, Config, Overflow};
use intelliproxy::proxy::{ConnId, Full as Bound, Notice};
use intelliproxy_core::Instant;
use intelliproxy_driver::{Driver, targets};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

const fn at(millis: u64) -> Instant {
    Instant::from_millis(1 + millis)
}

fn config(clients: usize, overflow: Overflow) -> Config {
    let mut config = Config { overflow, ..Config::default() };
    config.limits.clients = clients;
    config
}

fn target() -> BackendTarget {
    BackendTarget {
        name: "A".to_owned(),
        url: "http://a".to_owned(),
        authority: "a".to_owned(),
        tls: None,
        addresses: vec![([127, 0, 0, 1], 1).into()],
    }
}

/// A proxy with a maximum number of clients.
struct Full {
    driver: Driver,
    overflow: Overflow,
}

impl Full {
    fn new(clients: usize) -> Self {
        let overflow = Overflow::default();
        let mut driver = Driver::with_targets(config(clients, overflow), vec![target()]);
        driver.responds_to_probes = false;
        driver.now = at(0);
        Self { driver, overflow }
    }

    fn reconfigure(&mut self, now: Instant, clients: usize) {
        self.driver.now = now;
        let config = config(clients, self.overflow);
        self.driver.reconfigure(config, vec![target()]).expect("a good limit");
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.driver.now = now;
        self.driver.handle_timeout();
    }

    fn accept(&mut self, now: Instant) -> ConnId {
        self.driver.now = now;
        self.driver.client()
    }

    fn send(&mut self, now: Instant, conn: ConnId, bytes: &[u8]) {
        self.driver.now = now;
        self.driver.send(conn, bytes);
    }

    /// Runs a complete exchange: the backend responds at once, and closes.
    fn ask(&mut self, now: Instant, conn: ConnId) {
        // A read that finds no bytes is not activity of the client.
        self.driver.proxy.handle_read(now, conn, 0);
        self.send(now, conn, REQUEST);
        let upstream = self.driver.upstream();
        self.send(now, upstream, RESPONSE);
        self.driver.end(upstream);
    }

    /// Makes room. Returns the client that was closed for it.
    fn make_room(&mut self, now: Instant) -> Option<ConnId> {
        self.driver.now = now;
        self.driver.closed.clear();
        self.driver.make_room();
        assert!(self.driver.closed.len() <= 1);
        self.driver.closed.pop()
    }

    /// Returns the number of clients that gave way, by the notices.
    fn gave_way(&self) -> u64 {
        let count = |notice: &Notice| match notice {
            Notice::ClientsGaveWay { count, .. } => *count,
            _ => 0,
        };
        self.driver.notices.iter().map(count).sum()
    }
}

/// Silent clients are closed first, with half a head or without, then idle ones: each after its
/// time, and the longest waiting first. A client with an exchange is never closed, nor one whose
/// bytes wait to be read.
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
    full.driver.proxy.handle_unread(unread, true);
    assert_eq!(full.make_room(at(1019)), None, "no client's time is over");
    assert!(full.driver.proxy.makes_room_from() > at(1019));
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
    assert_eq!(full.gave_way(), 2, "at most one notice per second");
    assert!(full.make_room(at(20_000)).is_some());
    assert_eq!(full.make_room(at(20_000)), None, "room for one is enough");
    for _ in 0..10 {
        full.accept(at(20_000));
    }
    assert!(!full.driver.closed.contains(&busy) && !full.driver.closed.contains(&unread));
    assert!(full.gave_way() > 4, "and none is lost: {}", full.gave_way());
}

/// 1000 silent clients give way to 5000 others, one after the other. In the end 1000 are connected.
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
    assert_eq!(full.driver.proxy.clients(), 1000);
}

/// A proxy that stops makes no room, and idle clients within the limit stay.
#[test]
fn no_client_gives_way_without_need() {
    let mut full = Full::new(2);
    full.accept(at(0));
    full.accept(at(0));
    full.handle_timeout(at(9000));
    assert_eq!(
        (full.driver.proxy.clients(), full.driver.proxy.poll_timeout()),
        (2, Some(at(10_000)))
    );
    full.driver.stop();
    assert_eq!(full.make_room(at(9000)), None);
    assert_eq!(
        full.driver.proxy.makes_room_from(),
        Instant::FAR_FUTURE,
        "the driver is not to ask again"
    );
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
        full.driver.closed.clear();
        if is_by_files {
            full.driver.proxy.limit_connections(2 * 6 + 2);
            full.handle_timeout(at(6000));
        } else {
            full.reconfigure(at(6000), 6);
            let excess = Notice::ClientsInExcess { clients: 297, clients_max: 6 };
            assert!(full.driver.notices.contains(&excess));
        }
        for turn in 0..10 {
            full.handle_timeout(at(6000 + 10 * turn));
        }
        assert_eq!(full.driver.closed.len(), 291);
        assert!(silent.iter().all(|conn| full.driver.closed.contains(conn)));
        assert_eq!(full.driver.closed.last(), Some(&kept[0]), "the longest idle of those");
        assert!(!full.driver.proxy.accepts() && full.driver.proxy.clients() == 6);
        assert_eq!(full.make_room(at(6100)), Some(kept[1]));
        full.accept(at(6100));
        full.reconfigure(at(6100), 1);
        assert!(full.driver.closed.contains(&kept[3]) && !full.driver.closed.contains(&young));
        assert_eq!(full.make_room(at(6499)), None, "the rest is not idle for long enough");
        full.handle_timeout(at(6500));
        assert!(full.driver.closed.contains(&young), "though no client waits");
        full.handle_timeout(at(20_000));
        assert_eq!(full.make_room(at(20_000)), None, "only the busy ones are left");
        assert_eq!(full.driver.proxy.clients(), 2);
        full.driver.reset(busy[0]);
        assert_eq!(full.driver.proxy.clients(), 1);
        full.driver.reset(busy[1]);
        assert!(full.driver.proxy.accepts());
    }
}

/// A client that is turned away does not count while its connection lasts, so no idle client gives
/// way for it. One does for the next client that is admitted.
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
    assert_eq!(full.driver.proxy.clients(), 5);
    full.driver.closed.clear();
    let admitted = full.accept(at(5000));
    assert_eq!(full.driver.closed, [first]);
    assert!(full.driver.text(admitted).is_empty(), "not turned away");
}

/// The notice names the limit that is reached: `limits.clients`, or the limit of open files if that
/// is lower.
#[test]
fn the_limit_that_is_reached_is_named() {
    for (connections, expected) in
        [(usize::MAX, Bound::Clients), (7, Bound::OpenFiles { clients_max: 3 })]
    {
        let mut full = Full::new(4);
        full.driver.proxy.limit_connections(connections);
        while full.driver.proxy.accepts() {
            full.accept(at(0));
        }
        assert!(full.make_room(at(5000)).is_some());
        let mut bounds = full.driver.notices.iter().filter_map(|notice| match notice {
            Notice::ClientsGaveWay { full, .. } => Some(*full),
            _ => None,
        });
        assert_eq!(bounds.next_back(), Some(expected));
    }
}

/// A limit caused by open files is not reported again for each discovered backend, although each
/// needs room for its probes.
#[test]
fn a_limit_by_files_is_not_repeated_for_backends() {
    let mut full = Full::new(300);
    full.driver.proxy.limit_connections(100);
    let mut admitted = Vec::new();
    for count in [1, 2, 9, 1] {
        let names: Vec<String> = (0..count).map(|number| format!("b{number}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        full.driver.discover(targets(&names)).expect("valid");
        admitted.push(full.driver.proxy.clients_max());
    }
    assert_eq!(admitted, [49, 48, 41, 49]);
    let is_limit = |notice: &&Notice| matches!(notice, Notice::ClientsLimited { .. });
    assert_eq!(full.driver.notices.iter().filter(is_limit).count(), 1, "at the start");
}

/// A limit by open files is reported at startup and when it has changed, not with every new
/// configuration.
#[test]
fn a_limit_by_files_is_reported_when_it_changes() {
    let mut full = Full::new(300);
    full.driver.proxy.limit_connections(100);
    for clients in [300, 301, 10, 300, 300] {
        full.reconfigure(at(1), clients);
    }
    let limits = full.driver.notices.iter().filter_map(|notice| match notice {
        Notice::ClientsLimited { clients_max, .. } => Some(*clients_max),
        _ => None,
    });
    assert_eq!(
        limits.collect::<Vec<_>>(),
        [49, 49],
        "at the start, and after a lower limit was raised again"
    );
}
