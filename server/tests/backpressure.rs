//! A client that is not read for lack of room is read again once there is some.
use std::net::SocketAddr;

use intelliproxy::config::{BackendTarget, Config};
use intelliproxy::proxy::{Action, ConnId, Proxy};
use intelliproxy_core::Instant;

const NOW: Instant = Instant::from_millis(1);

/// Passes as many bytes as there is room for. Returns the rest.
fn hand_over<'b>(proxy: &mut Proxy, conn: ConnId, mut bytes: &'b [u8]) -> &'b [u8] {
    loop {
        let space = proxy.read_space(conn);
        let count = bytes.len().min(space.len());
        if count == 0 {
            return bytes;
        }
        space[..count].copy_from_slice(&bytes[..count]);
        bytes = &bytes[count..];
        proxy.handle_read(NOW, conn, count);
    }
}

/// Writes all waiting bytes. Returns the latest connection that the proxy opened, and whether
/// `client` is to be read again.
fn settle(proxy: &mut Proxy, client: ConnId) -> (Option<ConnId>, bool) {
    let (mut made, mut is_resumed) = (None, false);
    loop {
        while let Some(action) = proxy.poll_action() {
            if let Action::Connect { conn, .. } = action {
                proxy.handle_connected(NOW, conn, Ok(()));
                made = Some(conn);
            }
        }
        let Some(conn) = proxy.poll_dirty() else { return (made, is_resumed) };
        let count = proxy.write_ready(conn).len();
        if count > 0 {
            proxy.handle_written(NOW, conn, count);
        }
        is_resumed |= conn == client && count == 0;
    }
}

/// Requests wait behind the current one until the client's buffer is full in the middle of a head
/// of 30 KB. Once the earlier ones have their responses, the rest of that head is read. (It was
/// not, because the pause ended only below 2 KiB.)
#[test]
fn a_head_cut_by_a_full_buffer_is_read_on() {
    let address = SocketAddr::from(([127, 0, 0, 1], 9));
    let target = BackendTarget {
        name: "A".to_owned(),
        url: "http://127.0.0.1:9".to_owned(),
        authority: "127.0.0.1:9".to_owned(),
        addresses: vec![address],
    };
    let mut proxy = Proxy::new(Config::default(), vec![target], 1, NOW).expect("good defaults");
    let client = proxy.handle_accept(NOW, address);
    let long = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(30_000));
    let mut rest = &long.repeat(10).into_bytes()[..];
    let (mut upstream, mut is_readable) = (None, true);
    for served in 1..=10 {
        if is_readable {
            rest = hand_over(&mut proxy, client, rest);
        }
        let (made, is_resumed) = settle(&mut proxy, client);
        (upstream, is_readable) = (made.or(upstream), is_resumed);
        let response = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        assert!(hand_over(&mut proxy, upstream.expect("a connection"), response).is_empty());
        is_readable |= settle(&mut proxy, client).1;
        let requests = proxy.snapshot(NOW).backends[0].requests;
        assert_eq!(requests, served, "requests served with {} bytes unread", rest.len());
    }
}

/// Requests with a response of the proxy's own count for more than their bytes: many of them in one
/// read cost as much as many reads.
#[test]
fn own_responses_count_for_more() {
    let address = SocketAddr::from(([127, 0, 0, 1], 9));
    let mut proxy = Proxy::new(Config::default(), Vec::new(), 1, NOW).expect("good defaults");
    for head in [
        "OPTIONS * HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n",
        // Without a backend: 503.
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        let client = proxy.handle_accept(NOW, address);
        let requests = head.repeat(100);
        let before = proxy.work();
        assert!(hand_over(&mut proxy, client, requests.as_bytes()).is_empty());
        settle(&mut proxy, client);
        let work = proxy.work() - before;
        assert!(work > 100 * 10_000, "{head}: {work}");
    }
}

/// Shares are measured by work: tiny chunks of a request's body count for many times their bytes,
/// plain bytes count once. Probes are distinguished, because they do not wait for others.
#[test]
fn tiny_chunks_count_for_more() {
    let address = SocketAddr::from(([127, 0, 0, 1], 9));
    let target = BackendTarget {
        name: "A".to_owned(),
        url: "http://127.0.0.1:9".to_owned(),
        authority: "127.0.0.1:9".to_owned(),
        addresses: vec![address],
    };
    let mut proxy = Proxy::new(Config::default(), vec![target], 1, NOW).expect("good defaults");
    let mut work_of = |framing: &str, body: &[u8]| {
        let client = proxy.handle_accept(NOW, address);
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n");
        assert!(hand_over(&mut proxy, client, head.as_bytes()).is_empty());
        let (made, _) = settle(&mut proxy, client);
        assert!(!proxy.is_probe(client) && !proxy.is_probe(made.expect("an upstream")));
        let before = proxy.work();
        assert!(hand_over(&mut proxy, client, body).is_empty());
        proxy.work() - before
    };
    let body = b"1\r\nx\r\n".repeat(1000);
    assert_eq!(work_of("Content-Length: 6000", &body), 6000);
    assert!(work_of("Transfer-Encoding: chunked", &body) > 10 * 6000);
    proxy.handle_timeout(NOW);
    let probe = std::iter::from_fn(|| proxy.poll_action()).find_map(|action| match action {
        Action::Connect { conn, .. } => Some(conn),
        _ => None,
    });
    assert!(proxy.is_probe(probe.expect("a ping")));
}
