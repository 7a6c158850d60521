//! The proxy reads a client again once its full buffer has room. A connection's share of the
//! proxy's time is measured in units of work, not in bytes.
use std::time::Duration;

use intelliproxy::config::Config;
use intelliproxy_driver::Driver;

/// Requests wait behind the current one until the client's buffer is full in the middle of a head
/// of 30 KB. Once the earlier ones have their responses, the rest of that head is read. (The pause
/// once ended only below 2 KiB.)
#[test]
fn a_head_cut_by_a_full_buffer_is_read_on() {
    let mut driver = Driver::new(Config::default());
    let long = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(30_000));
    let client = driver.client_with(long.repeat(10).as_bytes());
    assert!(driver.unread(client) > 0, "the buffer is full");
    for served in 1..=10 {
        let upstream = driver.upstream();
        driver.send(upstream, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        let requests = driver.proxy.snapshot(driver.now).backends[0].requests;
        let unread = driver.unread(client);
        assert_eq!(requests, served, "requests served with {unread} bytes unread");
    }
    assert_eq!(driver.unread(client), 0);
}

/// A request to which the proxy itself responds counts as more than 10 000 units of work, however
/// short it is. A plain byte counts as one.
#[test]
fn own_responses_count_for_more() {
    let mut driver = Driver::with_backends(Config::default(), &[]);
    for head in [
        "OPTIONS * HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n",
        // Without a backend: 503.
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        let before = driver.proxy.work();
        let client = driver.client_with(head.repeat(100).as_bytes());
        assert_eq!(driver.unread(client), 0);
        let work = driver.proxy.work() - before;
        assert!(work > 100 * 10_000, "{head}: {work}");
    }
}

/// Tiny chunks of a request's body count for more than ten times their bytes, and plain bytes count
/// as one each. `is_probe` recognises the connections of probes, which do not wait for others.
#[test]
fn tiny_chunks_count_for_more() {
    let mut driver = Driver::new(Config::default());
    let mut work_of = |framing: &str, body: &[u8]| {
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n");
        let client = driver.client_with(head.as_bytes());
        assert!(!driver.proxy.is_probe(client) && !driver.proxy.is_probe(driver.upstream()));
        let before = driver.proxy.work();
        driver.send(client, body);
        assert_eq!(driver.unread(client), 0);
        driver.proxy.work() - before
    };
    let body = b"1\r\nx\r\n".repeat(1000);
    assert_eq!(work_of("Content-Length: 6000", &body), 6000);
    assert!(work_of("Transfer-Encoding: chunked", &body) > 10 * 6000);
    driver.responds_to_probes = false;
    driver.pass(Duration::ZERO);
    let ping = driver.peers().iter().find(|peer| peer.received.starts_with(b"GET /health "));
    assert!(driver.proxy.is_probe(ping.expect("a ping").conn));
}
