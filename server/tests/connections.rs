//! Connections: opened, reused, ended.
use std::net::SocketAddr;

use intelliproxy::config::{BackendTarget, Config};
use intelliproxy::proxy::{Action, ConnId, ConnectFailure, Proxy};
use intelliproxy_core::{Health, Instant};

const START: Instant = Instant::from_millis(1);

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Returns a proxy whose only backend has these addresses.
fn proxy(ports: &[u16]) -> Proxy {
    let target = BackendTarget {
        name: "A".to_owned(),
        url: "http://a".to_owned(),
        authority: "a".to_owned(),
        addresses: ports.iter().map(|&port| address(port)).collect(),
    };
    Proxy::new(Config::default(), vec![target], 1, START).expect("good defaults")
}

fn hand_over(proxy: &mut Proxy, now: Instant, conn: ConnId, bytes: &[u8]) {
    let space = proxy.read_space(conn);
    space[..bytes.len()].copy_from_slice(bytes);
    proxy.handle_read(now, conn, bytes.len());
}

/// Writes all waiting bytes. Returns the connections requested and those closed meanwhile.
fn settle(proxy: &mut Proxy, now: Instant) -> (Vec<(ConnId, SocketAddr)>, Vec<ConnId>) {
    let (mut asked, mut closed) = (Vec::new(), Vec::new());
    loop {
        while let Some(action) = proxy.poll_action() {
            match action {
                Action::Connect { conn, address } => asked.push((conn, address)),
                Action::Close { conn, .. } => closed.push(conn),
                Action::Measure { conn } => proxy.handle_measured(now, conn, None),
                Action::Look { .. } | Action::Shutdown { .. } | Action::Notify(_) => {}
            }
        }
        let Some(conn) = proxy.poll_dirty() else { return (asked, closed) };
        let count = proxy.write_ready(conn).len();
        if count > 0 {
            proxy.handle_written(now, conn, count);
        }
    }
}

/// Sends two requests to a backend whose first response has `fields`. Returns whether the second
/// one used the same connection.
fn is_reused(fields: &str) -> bool {
    let mut proxy = proxy(&[1]);
    let client = proxy.handle_accept(START, address(9));
    hand_over(&mut proxy, START, client, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let (asked, _) = settle(&mut proxy, START);
    let (upstream, _) = asked[0];
    proxy.handle_connected(START, upstream, Ok(()));
    settle(&mut proxy, START);
    let response = format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
    hand_over(&mut proxy, START, upstream, response.as_bytes());
    let (_, closed) = settle(&mut proxy, START);
    hand_over(&mut proxy, START, client, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let (asked, _) = settle(&mut proxy, START);
    assert_eq!(closed == [upstream], asked.len() == 1, "closed, or used again");
    asked.is_empty()
}

/// A backend that announces to close its connection is believed, although the connection stays
/// open.
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
    let mut proxy = proxy(&[1, 2]);
    proxy.handle_timeout(START);
    let (asked, _) = settle(&mut proxy, START);
    assert!(asked.iter().all(|&(_, to)| to == address(1)), "ping and report: {asked:?}");
    let (now, later) = loop {
        let now = proxy.poll_timeout().expect("probes go on");
        proxy.handle_timeout(now);
        let (asked, _) = settle(&mut proxy, now);
        if !asked.is_empty() {
            break (now, asked);
        }
    };
    assert_eq!(later[0].1, address(2));
    let client = proxy.handle_accept(now, address(9));
    hand_over(&mut proxy, now, client, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(settle(&mut proxy, now).0[0].1, address(2));
}

/// The end of a client's connection once the response is written: a client that announced its last
/// request is closed. One that learns it from the response may have sent another request. Its
/// arrival after a close would cause a reset that destroys the response (RFC 9112 section 9.6), so
/// the client only gets the end of the stream.
#[test]
fn a_client_that_did_not_ask_for_the_end_is_not_closed_at_once() {
    let rows = [("Connection: close\r\n", false, true), ("", true, false)];
    for (fields, stops, is_closed) in rows {
        let mut proxy = proxy(&[1]);
        let client = proxy.handle_accept(START, address(9));
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        hand_over(&mut proxy, START, client, request.as_bytes());
        let (asked, _) = settle(&mut proxy, START);
        proxy.handle_connected(START, asked[0].0, Ok(()));
        settle(&mut proxy, START);
        if stops {
            proxy.handle_stop(START);
        }
        let response = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        hand_over(&mut proxy, START, asked[0].0, response);
        let (_, closed) = settle(&mut proxy, START);
        assert_eq!(closed.contains(&client), is_closed, "{fields:?}");
        proxy.handle_eof(START, client);
        let (_, closed_then) = settle(&mut proxy, START);
        assert_eq!(closed_then.contains(&client), !is_closed, "closed with the client's own end");
    }
}

/// A client's idle time begins when its last response is written, also for a slow reader. (Found by
/// the fuzzer: the deadline was before the time of its check.)
#[test]
fn a_slow_reader_is_not_idle() {
    let at = |seconds: u64| Instant::from_millis(1 + seconds * 1000);
    let mut proxy = proxy(&[1]);
    let client = proxy.handle_accept(START, address(9));
    hand_over(&mut proxy, START, client, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let (asked, _) = settle(&mut proxy, START);
    proxy.handle_connected(START, asked[0].0, Ok(()));
    settle(&mut proxy, START);
    hand_over(&mut proxy, START, asked[0].0, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab");
    for now in [25, 50].map(at) {
        proxy.handle_timeout(now);
        proxy.handle_written(now, client, 1);
    }
    let written = at(70);
    proxy.handle_timeout(written);
    settle(&mut proxy, written);
    let mut last = None;
    while let Some(now) = proxy.poll_timeout().filter(|now| *now < at(140)) {
        proxy.handle_timeout(now);
        let (_, closed) = settle(&mut proxy, now);
        if closed.contains(&client) {
            last = Some(now);
            break;
        }
    }
    assert_eq!(last, Some(at(130)), "closed a minute after the response was written");
}

/// Only the last bytes of a connection may be held back until its end: those of a response that
/// closes it, once the response is complete.
#[test]
fn only_last_bytes_wait_for_the_end() {
    for (fields, closes) in [("Connection: close\r\n", true), ("", false)] {
        let mut proxy = proxy(&[1]);
        let client = proxy.handle_accept(START, address(9));
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        hand_over(&mut proxy, START, client, request.as_bytes());
        let (asked, _) = settle(&mut proxy, START);
        let upstream = asked[0].0;
        proxy.handle_connected(START, upstream, Ok(()));
        assert!(!proxy.is_last_write(upstream), "a request is never the last");
        settle(&mut proxy, START);
        hand_over(&mut proxy, START, upstream, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na");
        assert!(!proxy.write_ready(client).is_empty() && !proxy.is_last_write(client));
        settle(&mut proxy, START);
        hand_over(&mut proxy, START, upstream, b"b");
        assert_eq!(proxy.write_ready(client), b"b");
        assert_eq!(proxy.is_last_write(client), closes, "{fields:?}");
        let (_, closed) = settle(&mut proxy, START);
        assert_eq!(closed.contains(&client), closes, "its end follows at once");
    }
}

/// A response has arrived and is not read yet when its deadline passes: it is read, and the
/// postponed deadline does not fire. Bytes of the client postpone its deadlines as well.
#[test]
fn deadlines_wait_for_bytes_that_have_arrived() {
    let at = |seconds: u64| Instant::from_millis(1 + seconds * 1000);
    let mut proxy = proxy(&[1]);
    let client = proxy.handle_accept(START, address(9));
    hand_over(&mut proxy, START, client, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let (asked, _) = settle(&mut proxy, START);
    let upstream = asked[0].0;
    proxy.handle_connected(START, upstream, Ok(()));
    settle(&mut proxy, START);
    for (conn, now) in [(upstream, at(70)), (client, at(71))] {
        proxy.handle_unread(conn, true);
        proxy.handle_timeout(now);
        assert!(proxy.write_ready(client).is_empty(), "no 504 at {now:?}");
        proxy.handle_unread(conn, false);
    }
    hand_over(&mut proxy, at(72), upstream, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    assert!(proxy.write_ready(client).starts_with(b"HTTP/1.1 200 OK\r\n"));
    settle(&mut proxy, at(72));
    hand_over(&mut proxy, at(72), client, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    settle(&mut proxy, at(72));
    proxy.handle_timeout(at(140));
    proxy.handle_measured(at(140), upstream, Some(0));
    assert!(
        proxy.write_ready(client).starts_with(b"HTTP/1.1 504 "),
        "and with nothing unread, it is"
    );
}

/// Missing descriptors of the proxy are not a failure of a backend: the request gets 503 if no
/// backend is left to try, none is blamed, and a probe that could not be sent is not counted.
#[test]
fn a_lack_of_descriptors_blames_no_backend() {
    let mut proxy = proxy(&[1]);
    proxy.handle_timeout(START);
    let (probes, _) = settle(&mut proxy, START);
    assert_eq!(probes.len(), 2, "a ping and a report");
    for (conn, _) in probes {
        proxy.handle_connected(START, conn, Err(ConnectFailure::Exhausted));
    }
    let client = proxy.handle_accept(START, address(9));
    hand_over(&mut proxy, START, client, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let (asked, _) = settle(&mut proxy, START);
    proxy.handle_connected(START, asked[0].0, Err(ConnectFailure::Exhausted));
    assert!(proxy.write_ready(client).starts_with(b"HTTP/1.1 503 "));
    let backend = &proxy.snapshot(START).backends[0];
    let counts = (backend.pings_failed, backend.reports_failed, backend.errors, backend.in_flight);
    assert_eq!(counts, (0, 0, 0, 0));
    assert_eq!(backend.health, Health::Unknown);
}

/// An address that refuses is the backend's failure, even if the next address cannot be tried:
/// without IPv6 the system reports that for `[::1]`.
#[test]
fn a_refusal_counts_though_the_next_address_cannot_be_tried() {
    let mut proxy = proxy(&[1, 2]);
    let client = proxy.handle_accept(START, address(9));
    hand_over(&mut proxy, START, client, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    for failure in [ConnectFailure::Refused, ConnectFailure::Exhausted] {
        let (asked, _) = settle(&mut proxy, START);
        proxy.handle_connected(START, asked[0].0, Err(failure));
    }
    assert!(proxy.write_ready(client).starts_with(b"HTTP/1.1 502 "));
    assert_eq!(proxy.snapshot(START).backends[0].health, Health::Down);
}

/// Probes that were under way while the process was stopped count as neither good nor failed, and
/// are sent again.
#[test]
fn probes_under_way_in_a_pause_are_not_counted() {
    let now = Instant::from_millis(60_000);
    let mut proxy = proxy(&[1]);
    proxy.handle_timeout(START);
    let (probes, _) = settle(&mut proxy, START);
    proxy.handle_connected(START, probes[0].0, Ok(()));
    settle(&mut proxy, START);
    proxy.handle_pause(now);
    let (_, closed) = settle(&mut proxy, now);
    assert_eq!(closed.len(), 2, "both probes' connections are closed");
    proxy.handle_timeout(now);
    assert_eq!(settle(&mut proxy, now).0.len(), 2, "and both are asked again");
    let backend = &proxy.snapshot(now).backends[0];
    assert_eq!((backend.pings_failed, backend.reports_failed), (0, 0));
}

/// With room for 10 connections and one backend, 4 clients are admitted, each with room for an
/// upstream. An idle upstream gives way to a required connection.
#[test]
fn clients_leave_room_for_their_upstreams() {
    let mut proxy = proxy(&[1]);
    proxy.limit_connections(10);
    assert_eq!(proxy.clients_max(), 4);
    let clients: Vec<ConnId> = (0..4).map(|_| proxy.handle_accept(START, address(9))).collect();
    assert!(!proxy.accepts(), "a fifth waits");
    hand_over(&mut proxy, START, clients[0], b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let (asked, _) = settle(&mut proxy, START);
    let upstream = asked[0].0;
    proxy.handle_connected(START, upstream, Ok(()));
    settle(&mut proxy, START);
    hand_over(&mut proxy, START, upstream, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    settle(&mut proxy, START);
    proxy.limit_connections(5);
    proxy.handle_timeout(START);
    let (probes, closed) = settle(&mut proxy, START);
    assert_eq!((probes.len(), closed), (2, vec![upstream]), "a ping and a report");
}
