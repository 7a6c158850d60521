//! Hops in front of the proxy: trusted fields, the client's address, access to /stats, and loops.
use std::time::Duration;

use intelliproxy::config::Config;
use intelliproxy::proxy::{ConnId, Notice};
use intelliproxy_driver::Driver;

use crate::expected::{VIA, refusal};

/// Builds a proxy that trusts 192.0.2.0/24 and 2001:db8::/32. It shows /stats to 198.51.100.0/24
/// and to 192.0.2.7.
fn trusting() -> Driver {
    let mut config = Config::default();
    let list = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
    config.forwarding.trusted = list(&["192.0.2.0/24", "2001:db8::/32"]);
    config.stats.allow = list(&["198.51.100.0/24", "192.0.2.7"]);
    Driver::new(config)
}

const SAID: &str = "X-Forwarded-For: 198.51.100.7\r\nX-Forwarded-Proto: https\r\n\
    X-Forwarded-Host: shop.example\r\nX-Forwarded-Port: 443\r\n\
    Forwarded: for=198.51.100.7;proto=https\r\n";

/// The forwarding fields of a trusted hop are forwarded unchanged, and missing ones are added. From
/// other peers only X-Forwarded-For is kept, with the peer's address appended. The other fields are
/// replaced or dropped.
#[test]
fn a_trusted_hops_word_goes_on() {
    let rows = [
        (
            "192.0.2.7:1",
            "/",
            SAID,
            "X-Forwarded-Proto: https\r\nX-Forwarded-Host: shop.example\r\nX-Forwarded-Port: 443\r\n\
             Forwarded: for=198.51.100.7;proto=https\r\nX-Forwarded-For: 198.51.100.7, 192.0.2.7",
        ),
        (
            "[2001:db8::9]:1",
            "/",
            "X-Forwarded-Proto: https\r\n",
            "X-Forwarded-Proto: https\r\nX-Forwarded-For: 2001:db8::9\r\nX-Forwarded-Host: h",
        ),
        (
            "192.0.2.7:1",
            "/",
            "",
            "X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: h",
        ),
        (
            "192.0.2.7:1",
            "https://h/",
            "",
            "X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: h",
        ),
        (
            "203.0.113.9:1",
            "/",
            SAID,
            "X-Forwarded-For: 198.51.100.7, 203.0.113.9\r\nX-Forwarded-Proto: http\r\n\
             X-Forwarded-Host: h",
        ),
        (
            "203.0.113.9:1",
            "https://h/",
            "X_Forwarded_Port: 1\r\n",
            "X-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: h",
        ),
    ];
    for (peer, target, said, expected) in rows {
        let mut driver = trusting();
        let client = driver.client_from(peer);
        let request = format!("GET {target} HTTP/1.1\r\nHost: h\r\n{said}\r\n");
        driver.send(client, request.as_bytes());
        let expected = format!("GET / HTTP/1.1\r\nHost: h\r\n{expected}\r\nVia: 1.1 {VIA}\r\n\r\n");
        assert_eq!(driver.text(driver.upstream()), expected, "{peer} {target} {said}");
    }
}

/// The client of a request from a trusted hop is the rightmost address that is not trusted. If all
/// are trusted it is the leftmost one, and an invalid entry ends the search. Notices name the
/// client for that request only.
#[test]
fn the_client_is_the_rightmost_untrusted_address() {
    let rows = [
        ("192.0.2.7:1", "X-Forwarded-For: 198.51.100.7", "198.51.100.7:0"),
        ("192.0.2.7:1", "X-Forwarded-For: 1.1.1.1, 198.51.100.7 , 192.0.2.8", "198.51.100.7:0"),
        (
            "192.0.2.7:1",
            "X-Forwarded-For: 1.1.1.1\r\nX-Forwarded-For: 198.51.100.7",
            "198.51.100.7:0",
        ),
        ("192.0.2.7:1", "X-Forwarded-For: 198.51.100.7:4711", "198.51.100.7:0"),
        ("192.0.2.7:1", "X-Forwarded-For: [2001:db9::1]:4711, [2001:db8::2]", "[2001:db9::1]:0"),
        ("192.0.2.7:1", "X-Forwarded-For: ::ffff:198.51.100.7", "198.51.100.7:0"),
        ("192.0.2.7:1", "X-Forwarded-For: 192.0.2.9, 192.0.2.8", "192.0.2.9:0"),
        ("192.0.2.7:1", "X-Forwarded-For: 1.1.1.1, unknown, 192.0.2.8", "192.0.2.8:0"),
        ("192.0.2.7:1", "X-Forwarded-For: nonsense", "192.0.2.7:1"),
        ("192.0.2.7:1", "X-Other: 1.1.1.1", "192.0.2.7:1"),
        ("203.0.113.9:1", "X-Forwarded-For: 198.51.100.7", "203.0.113.9:1"),
    ];
    for (peer, fields, expected) in rows {
        let mut driver = trusting();
        let client = driver.client_from(peer);
        driver.send(client, format!("GET / HTTP/1.1\r\nHost: h\r\n{fields}\r\n\r\n").as_bytes());
        driver.end(driver.upstream());
        let named = driver.notices.iter().find_map(|notice| match notice {
            Notice::UpstreamError { peer, .. } => Some(peer.to_string()),
            _ => None,
        });
        assert_eq!(named.as_deref(), Some(expected), "{peer} {fields}");
    }
}

/// An invalid or incomplete head is attributed to the peer, not to the client of the request before
/// it.
#[test]
fn a_head_that_fails_is_the_peers() {
    type End = fn(&mut Driver, ConnId);
    let ends: [(&[u8], End); 3] = [
        (b"GET / HTTP/1.1\r\n\r\n", |_, _| {}),
        (b"GET / HTTP/1.1\r\n", |driver, _| driver.pass(Duration::from_secs(10))),
        (b"GET / HTTP/1.1\r\n", |driver, client| driver.end(client)),
    ];
    for (head, end) in ends {
        let mut driver = trusting();
        let client = driver.client_from("192.0.2.7:1");
        driver.send(client, b"GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 198.51.100.7\r\n\r\n");
        driver.send(driver.upstream(), b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        driver.send(client, head);
        end(&mut driver, client);
        let is_peer = |notice: &Notice| matches!(notice, Notice::ClientError { peer, .. } if peer.to_string() == "192.0.2.7:1");
        assert!(driver.notices.iter().any(is_peer), "{head:?}: {:?}", driver.notices);
    }
}

/// /stats is shown to an allowed peer whose request was not forwarded, and to an allowed client
/// that a trusted hop names.
#[test]
fn stats_are_not_shown_to_forwarded_clients() {
    let rows = [
        ("198.51.100.1:1", "", true),
        ("198.51.100.1:1", "X-Forwarded-For: 198.51.100.7\r\n", false),
        ("198.51.100.1:1", "Forwarded: for=198.51.100.7\r\n", false),
        ("198.51.100.1:1", "Via: 1.1 front\r\n", false),
        ("198.51.100.1:1", "X-Real-IP: 198.51.100.7\r\n", false),
        ("198.51.100.1:1", "Connection: X-Real-IP\r\nX-Real-IP: 1.1.1.1\r\n", false),
        ("203.0.113.9:1", "", false),
        ("203.0.113.9:1", "X-Forwarded-For: 198.51.100.7\r\n", false),
        ("192.0.2.1:1", "X-Forwarded-For: 198.51.100.7\r\nVia: 1.1 front\r\n", true),
        ("192.0.2.1:1", "X-Forwarded-For: 198.51.100.7, 203.0.113.9\r\n", false),
        ("192.0.2.7:1", "X-Forwarded-For: 203.0.113.9\r\n", false),
        ("192.0.2.7:1", "", true),
        ("192.0.2.7:1", "Via: 1.1 front\r\n", false),
        ("192.0.2.1:1", "", false),
    ];
    for (peer, fields, is_shown) in rows {
        let mut driver = trusting();
        let client = driver.client_from(peer);
        driver.send(client, format!("GET /stats HTTP/1.1\r\nHost: h\r\n{fields}\r\n").as_bytes());
        assert_eq!(driver.upstreams().is_empty(), is_shown, "{peer} {fields}");
    }
}

/// A request that this instance has forwarded arrives again: the client gets 508, and a notice is
/// sent. A request from another instance with the same name is not a loop.
#[test]
fn a_loop_is_ended() {
    // The proxy is its own backend: each request that it sends returns to it.
    let mut driver = Driver::new(Config::default());
    let first = driver.client_with(b"GET /round HTTP/1.1\r\nHost: h\r\n\r\n");
    let sent = driver.text(driver.upstream());
    let own = driver.client_with(sent.as_bytes());
    assert_eq!(driver.text(own), refusal(508));
    let response = driver.drain(own);
    driver.send(driver.upstream(), &response);
    assert!(driver.text(first).starts_with("HTTP/1.1 508 "));
    for (via, is_loop) in [
        (format!("1.1 {VIA}"), true),
        (format!("1.0 front, HTTP/1.1 {} (comment)", VIA.to_uppercase()), true),
        (format!("1.1 front\r\nVia: 1.1  {VIA}"), true),
        ("1.1 intelliproxy-00000000, 1.1 intelliproxy".to_owned(), false),
        (format!("{VIA} other"), false),
        (format!("1.1 a{VIA}"), false),
    ] {
        let mut driver = Driver::new(Config::default());
        let request = format!("GET / HTTP/1.1\r\nHost: h\r\nVia: {via}\r\n\r\n");
        let client = driver.client_with(request.as_bytes());
        assert_eq!(driver.upstreams().is_empty(), is_loop, "{via}");
        if is_loop {
            assert_eq!(driver.text(client), refusal(508), "{via}");
            let is_reported = |notice: &Notice| format!("{notice:?}").contains("error: Loop");
            assert!(driver.notices.iter().any(is_reported));
        }
    }
}

/// The PROXY protocol header of a trusted hop names the client. The client's own forwarding fields
/// count only if the client is trusted itself. From other peers the header is an invalid request.
#[test]
fn a_proxy_header_names_the_client() {
    let binary = |family: u8, command: u8| {
        let start = b"\r\n\r\n\0\r\nQUIT\n";
        let addresses = [198, 51, 100, 7, 10, 0, 0, 1, 0x12, 0x34, 0, 80];
        [&start[..], &[0x20 | command, family, 0, 12], &addresses].concat()
    };
    let rows: [(&str, Vec<u8>, &str); 7] = [
        ("192.0.2.9:1", b"PROXY TCP4 198.51.100.7 10.0.0.1 4660 80\r\n".to_vec(), "198.51.100.7"),
        ("192.0.2.9:1", b"PROXY TCP6 2001:db9::7 ::1 4660 80\r\n".to_vec(), "2001:db9::7"),
        ("192.0.2.9:1", b"PROXY UNKNOWN\r\n".to_vec(), "192.0.2.9"),
        ("192.0.2.9:1", binary(0x11, 1), "198.51.100.7"),
        ("192.0.2.9:1", binary(0x11, 0), "192.0.2.9"),
        ("192.0.2.9:1", binary(0x00, 1), "192.0.2.9"),
        ("203.0.113.9:1", Vec::new(), "203.0.113.9"),
    ];
    for step in [usize::MAX, 1] {
        for (peer, header, client) in &rows {
            let mut driver = trusting();
            driver.step = step;
            let request = b"GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-Proto: https\r\n\r\n";
            let conn = driver.announced_client(peer, &[&header[..], request].concat());
            let text = driver.text(driver.upstream());
            let proto = if client.starts_with("192.0.2.") { "https" } else { "http" };
            assert!(text.contains(&format!("\r\nX-Forwarded-For: {client}\r\n")), "{text}");
            assert!(text.contains(&format!("\r\nX-Forwarded-Proto: {proto}\r\n")), "{text}");
            // The header is read once: no header precedes the next request.
            driver.send(driver.upstream(), b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
            driver.drain(conn);
            driver.send(conn, request);
            driver.send(driver.upstream(), b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
            assert!(driver.text(conn).starts_with("HTTP/1.1 200 "));
        }
        for (peer, bytes) in [
            ("192.0.2.9:1", &b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"[..]),
            ("192.0.2.9:1", b"PROXY TCP4 nonsense\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n"),
            (
                "203.0.113.9:1",
                b"PROXY TCP4 1.1.1.1 1.1.1.1 1 1\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n",
            ),
        ] {
            let mut driver = trusting();
            driver.step = step;
            let conn = driver.announced_client(peer, bytes);
            assert_eq!(driver.text(conn), refusal(400), "{peer}");
            assert!(driver.upstreams().is_empty());
        }
    }
    // An incomplete header has the same timeout as a head. If the connection ends inside it, that
    // is not an invalid request.
    let mut driver = trusting();
    let conn = driver.announced_client("192.0.2.9:1", b"PROXY TCP4 ");
    driver.pass(Duration::from_secs(10));
    assert_eq!(driver.text(conn), refusal(408));
    let mut driver = trusting();
    let conn = driver.announced_client("192.0.2.9:1", b"PROXY TCP4 ");
    driver.end(conn);
    assert_eq!((driver.text(conn).as_str(), driver.peer(conn).closed), ("", Some(false)));
}
