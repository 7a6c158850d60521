//! Opening, reuse and end of connections, both of clients and to backends. Idle connections to
//! backends are tested in `kept.rs`.
use std::net::SocketAddr;
use std::time::Duration;

use intelliproxy::config::{BackendTarget, Config};
use intelliproxy::http::UpstreamError;
use intelliproxy::proxy::{ConnId, ConnectFailure, Notice, TlsFault};
use intelliproxy_core::{Health, Instant};
use intelliproxy_driver::{Dialling, Driver};

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const EMPTY: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

const fn at(seconds: u64) -> Instant {
    Instant::from_millis(seconds * 1000)
}

/// Returns a driver whose only backend has these addresses, and whose connections hang.
fn hanging(ports: &[u16]) -> Driver {
    let target = BackendTarget {
        name: "A".to_owned(),
        url: "http://a".to_owned(),
        authority: "a".to_owned(),
        tls: None,
        addresses: ports.iter().map(|&port| address(port)).collect(),
    };
    let mut driver = Driver::with_targets(Config::default(), vec![target]);
    driver.dialling = Dialling::Hangs;
    driver
}

/// Returns the connections to backends and their addresses, probes included.
fn dialled(driver: &Driver) -> Vec<(ConnId, SocketAddr)> {
    let dialled = driver.peers().iter().filter_map(|peer| Some((peer.conn, peer.address?)));
    dialled.collect()
}

/// Sends two requests to a backend whose first response has `fields`. Returns whether the second
/// one used the same connection.
fn is_reused(fields: &str) -> bool {
    let mut driver = Driver::new(Config::default());
    let client = driver.client_with(GET);
    let upstream = driver.upstream();
    driver.send(upstream, format!("HTTP/1.1 200 OK\r\n{fields}\r\n").as_bytes());
    let is_kept = driver.peer(upstream).is_open();
    driver.send(client, GET);
    assert_eq!(is_kept, driver.upstreams().len() == 1, "closed, or used again");
    is_kept
}

/// If a backend announces that it will close its connection, the proxy does not use it again, even
/// while it is still open.
#[test]
fn a_connection_is_reused_only_where_the_backend_keeps_it() {
    let rows = [
        ("Content-Length: 0\r\n", true),
        ("Content-Length: 0\r\nConnection: keep-alive\r\n", true),
        ("Content-Length: 0\r\nConnection: close\r\n", false),
        ("Content-Length: 0\r\nConnection: x, Close\r\n", false),
    ];
    for (fields, expected) in rows {
        assert_eq!(is_reused(fields), expected, "{fields:?}");
    }
}

/// An address that never responds does not hide the next one: if a ping got no connection in time,
/// the next ping and the next request begin at another address.
#[test]
fn a_silent_address_is_left_by_the_probes() {
    let mut driver = hanging(&[1, 2]);
    driver.handle_timeout();
    let first = dialled(&driver);
    assert_eq!(first.len(), 2, "ping and report");
    assert!(first.iter().all(|&(_, to)| to == address(1)), "{first:?}");
    while dialled(&driver).len() == first.len() {
        driver.now = driver.proxy.poll_timeout().expect("probes go on");
        driver.handle_timeout();
    }
    let second = dialled(&driver);
    assert_eq!(second[first.len()].1, address(2));
    driver.client_with(GET);
    assert_eq!(dialled(&driver)[second.len()].1, address(2));
}

/// The end of a client's connection once the response is written: a client that announced its last
/// request is closed. A client that learns of the end only from the response may have sent another
/// request. That request would arrive after the close and cause a reset that destroys the response
/// (RFC 9112 section 9.6), so the client only gets the end of the stream.
#[test]
fn a_client_that_did_not_ask_for_the_end_is_not_closed_at_once() {
    let rows = [("Connection: close\r\n", false, true), ("", true, false)];
    for (fields, stops, is_closed) in rows {
        let mut driver = Driver::new(Config::default());
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        let client = driver.client_with(request.as_bytes());
        if stops {
            driver.stop();
        }
        driver.send(driver.upstream(), EMPTY);
        assert!(driver.peer(client).is_over());
        assert_eq!(!driver.peer(client).is_open(), is_closed, "{fields:?}");
        driver.end_if_open(client);
        assert_eq!(driver.peer(client).closed, Some(false), "closed with the client's own end");
    }
}

/// A client's idle time begins when its last response is written, even for a slow reader. (The
/// fuzzer found a deadline before its check.)
#[test]
fn a_slow_reader_is_not_idle() {
    let mut driver = Driver::new(Config::default());
    let client = driver.client_with(GET);
    driver.take(client, 0);
    driver.send(driver.upstream(), b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab");
    for (time, takes) in [(25, 1), (50, 1), (70, usize::MAX)] {
        driver.now = at(time);
        driver.handle_timeout();
        driver.take(client, takes);
    }
    driver.pass(Duration::from_millis(59_999));
    assert!(driver.peer(client).is_open());
    driver.pass(Duration::from_millis(1));
    assert!(!driver.peer(client).is_open(), "a minute after the response was written");
}

/// Only the last bytes of a connection may be held back until its end: those of a response that
/// closes it, once the response is complete.
#[test]
fn only_last_bytes_wait_for_the_end() {
    for (fields, closes) in [("Connection: close\r\n", true), ("", false)] {
        let mut driver = Driver::new(Config::default());
        driver.backends_take = 0;
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        let client = driver.client_with(request.as_bytes());
        let upstream = driver.upstream();
        assert!(!driver.proxy.write_ready(upstream).is_empty());
        assert!(!driver.proxy.output(upstream).is_last, "a request is never the last");
        driver.take(upstream, usize::MAX);
        driver.take(client, 0);
        driver.send(upstream, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na");
        assert!(!driver.proxy.write_ready(client).is_empty());
        assert!(!driver.proxy.output(client).is_last);
        driver.take(client, usize::MAX);
        driver.take(client, 0);
        driver.send(upstream, b"b");
        assert_eq!(driver.proxy.write_ready(client), b"b");
        assert_eq!(driver.proxy.output(client).is_last, closes, "{fields:?}");
        driver.take(client, usize::MAX);
        assert_eq!(!driver.peer(client).is_open(), closes, "its end follows at once");
    }
}

/// If a response arrives before its deadline, but is read after it, the deadline is postponed and
/// does not fire. A client's bytes postpone its deadlines as well.
#[test]
fn deadlines_wait_for_bytes_that_have_arrived() {
    let mut driver = Driver::new(Config::default());
    let client = driver.client_with(GET);
    let upstream = driver.upstream();
    for (conn, time) in [(upstream, 70), (client, 71)] {
        driver.proxy.handle_unread(conn, true);
        driver.now = at(time);
        driver.handle_timeout();
        assert!(driver.text(client).is_empty(), "no 504 after {time} s");
        driver.proxy.handle_unread(conn, false);
    }
    driver.now = at(72);
    driver.send(upstream, EMPTY);
    assert!(driver.drain(client).starts_with(b"HTTP/1.1 200 OK\r\n"));
    driver.hold(upstream, Some(0));
    driver.send(client, GET);
    driver.now = at(140);
    driver.handle_timeout();
    let text = driver.text(client);
    assert!(text.starts_with("HTTP/1.1 504 "), "and with nothing unread, it does: {text}");
}

/// If the proxy has no free descriptor, that is not a failure of a backend: the request gets 503 if
/// no backend is left to try, no backend is blamed, and a probe that could not be sent is not
/// counted.
#[test]
fn a_lack_of_descriptors_blames_no_backend() {
    let mut driver = hanging(&[1]);
    driver.handle_timeout();
    let probes = dialled(&driver);
    assert_eq!(probes.len(), 2, "a ping and a report");
    for (conn, _) in probes {
        driver.connect(conn, Err(ConnectFailure::Exhausted));
    }
    let client = driver.client_with(GET);
    driver.connect(driver.upstream(), Err(ConnectFailure::Exhausted));
    assert!(driver.text(client).starts_with("HTTP/1.1 503 "));
    let backend = &driver.proxy.snapshot(driver.now).backends[0];
    let counts = (backend.pings_failed, backend.reports_failed, backend.errors, backend.in_flight);
    assert_eq!(counts, (0, 0, 0, 0));
    assert_eq!(backend.health, Health::Unknown);
}

/// A failed TLS handshake is the backend's failure. It is reported once with its reason, and again
/// only after the backend has passed a probe or has another fault. The request first tries another
/// address.
#[test]
fn a_failed_handshake_is_the_backends_failure() {
    let mut driver = hanging(&[1, 2]);
    driver.responds_to_probes = false;
    let mut faults = Vec::new();
    for (fault, rounds) in [(TlsFault::Expired, 2), (TlsFault::WrongName, 1)] {
        for _ in 0..rounds {
            driver.pass(Duration::from_secs(5));
            for _ in 0..2 {
                let open = driver.peers().iter().filter(|peer| peer.is_open());
                let dialled: Vec<ConnId> = open.map(|peer| peer.conn).collect();
                for conn in dialled {
                    driver.connect(conn, Err(ConnectFailure::Handshake(fault)));
                }
            }
            faults.extend(driver.notices.drain(..).filter_map(|notice| match notice {
                Notice::InsecureBackend { fault, .. } => Some(fault),
                _ => None,
            }));
        }
    }
    assert_eq!(faults, [TlsFault::Expired, TlsFault::WrongName]);
    assert_eq!(driver.proxy.snapshot(driver.now).backends[0].health, Health::Down);
    let client = driver.client_with(GET);
    for _ in 0..2 {
        let failure = ConnectFailure::Handshake(TlsFault::UnknownIssuer);
        driver.connect(driver.upstream(), Err(failure));
    }
    assert!(driver.text(client).starts_with("HTTP/1.1 502 "));
    let expected = UpstreamError::Handshake(TlsFault::UnknownIssuer);
    let is_told = |notice: &Notice| matches!(notice, Notice::UpstreamError { error, .. } if *error == expected);
    assert!(driver.notices.iter().any(is_told), "{:?}", driver.notices);
}

/// An address that refuses is the backend's failure, even if the next address cannot be tried.
/// Without IPv6, dialling `[::1]` fails in the same way as without a free descriptor.
#[test]
fn a_refusal_counts_though_the_next_address_cannot_be_tried() {
    let mut driver = hanging(&[1, 2]);
    let client = driver.client_with(GET);
    for failure in [ConnectFailure::Refused, ConnectFailure::Exhausted] {
        driver.connect(driver.upstream(), Err(failure));
    }
    assert_eq!(dialled(&driver).len(), 2, "each address was tried");
    assert!(driver.text(client).starts_with("HTTP/1.1 502 "));
    assert_eq!(driver.proxy.snapshot(driver.now).backends[0].health, Health::Down);
}

/// Probes in progress while the process was stopped count as neither good nor failed, and are sent
/// again.
#[test]
fn probes_under_way_in_a_pause_are_not_counted() {
    let mut driver = hanging(&[1]);
    driver.responds_to_probes = false;
    driver.handle_timeout();
    let probes = dialled(&driver);
    driver.connect(probes[0].0, Ok(()));
    assert!(!driver.text(probes[0].0).is_empty(), "the first one is sent, the other is not");
    driver.pause(Duration::from_secs(60));
    assert_eq!(driver.closed.len(), 2, "both probes' connections are closed");
    driver.handle_timeout();
    assert_eq!(dialled(&driver).len(), 4, "and both are asked again");
    let backend = &driver.proxy.snapshot(driver.now).backends[0];
    assert_eq!((backend.pings_failed, backend.reports_failed), (0, 0));
}

/// With room for 10 connections and one backend, 4 clients are admitted, each with room for an
/// upstream. An idle upstream gives way to a required connection.
#[test]
fn clients_leave_room_for_their_upstreams() {
    let mut driver = Driver::new(Config::default());
    driver.proxy.limit_connections(10);
    assert_eq!(driver.proxy.clients_max(), 4);
    let clients: Vec<ConnId> = (0..4).map(|_| driver.client()).collect();
    assert!(!driver.proxy.accepts(), "a fifth waits");
    driver.send(clients[0], GET);
    let upstream = driver.upstream();
    driver.send(upstream, EMPTY);
    driver.proxy.limit_connections(5);
    driver.dialling = Dialling::Hangs;
    driver.handle_timeout();
    assert_eq!(dialled(&driver).len(), 3, "a ping and a report");
    assert_eq!(driver.closed, [upstream]);
}
