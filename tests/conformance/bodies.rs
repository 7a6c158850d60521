//! Request bodies, `Expect: 100-continue`, and pipelined requests.
use intelliproxy::config::Config;
use intelliproxy_driver::Driver;

use crate::expected::{forwarded, refusal};

const HEAD: &str = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
const NEXT: &str = "GET /next HTTP/1.1\r\nHost: h\r\n\r\n";
const EMPTY_RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

/// Decodes a chunked body as the proxy writes it: plain sizes, no extensions. Returns the data and
/// the trailer lines.
#[track_caller]
pub(crate) fn dechunk(mut text: &str) -> (String, String) {
    let mut data = String::new();
    loop {
        let (size, rest) = text.split_once("\r\n").expect("a size line");
        let is_plain = size.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        assert!(is_plain && !size.is_empty() && !size.starts_with("00"), "size {size:?}");
        let size = usize::from_str_radix(size, 16).expect("hexadecimal");
        if size == 0 {
            let trailer = rest.strip_suffix("\r\n").expect("an empty line at the end");
            assert!(!trailer.contains("\r\n\r\n"), "nothing follows the end");
            return (data, trailer.to_owned());
        }
        data.push_str(&rest[..size]);
        text = rest[size..].strip_prefix("\r\n").expect("CRLF behind the data");
    }
}

/// Bodies that break the grammar: the client gets an error, the backend's request is never
/// complete, and the bytes that follow are not served.
#[test]
fn bad_chunks_are_refused() {
    for (name, body) in [
        ("prefix", "0x5\r\nhello\r\n0\r\n\r\n"),
        ("sign", "+5\r\nhello\r\n0\r\n\r\n"),
        ("negative", "-5\r\nhello\r\n0\r\n\r\n"),
        ("not hexadecimal", "G\r\nhello\r\n0\r\n\r\n"),
        ("empty size", "\r\nhello\r\n0\r\n\r\n"),
        ("space before the size", " 5\r\nhello\r\n0\r\n\r\n"),
        ("space inside the size", "0 5\r\nhello\r\n0\r\n\r\n"),
        ("vertical tab after the size", "5\x0b\r\nhello\r\n0\r\n\r\n"),
        ("underscore", "1_0\r\nhello\r\n0\r\n\r\n"),
        ("2^64 and 5", "10000000000000005\r\nhello\r\n0\r\n\r\n"),
        ("2^60", "1000000000000000\r\nhello\r\n0\r\n\r\n"),
        ("17 digits", "00000000000000005\r\nhello\r\n0\r\n\r\n"),
        ("size line ends in LF", "5\nhello\r\n0\r\n\r\n"),
        ("size line ends in CR", "5\rhello\r\n0\r\n\r\n"),
        ("extension ends in LF", "5;a=b\nhello\r\n0\r\n\r\n"),
        ("CR inside an extension", "5;a\rb\r\nhello\r\n0\r\n\r\n"),
        ("NUL in an extension", "5;a\0b\r\nhello\r\n0\r\n\r\n"),
        ("extension without semicolon", "5 a\r\nhello\r\n0\r\n\r\n"),
        ("nothing after the data", "5\r\nhello0\r\n\r\n"),
        ("LF after the data", "5\r\nhello\n0\r\n\r\n"),
        ("CR after the data", "5\r\nhello\r0\r\n\r\n"),
        ("data too long", "5\r\nhello!\r\n0\r\n\r\n"),
        ("trailer line ends in LF", "5\r\nhello\r\n0\r\nA: b\n\r\n"),
        ("trailer ends in LF", "5\r\nhello\r\n0\r\n\n"),
        ("bare CR in the trailer", "5\r\nhello\r\n0\r\nA: b\rc\r\n\r\n"),
        ("folded trailer", "5\r\nhello\r\n0\r\nA: b\r\n c\r\n\r\n"),
        ("no colon in the trailer", "5\r\nhello\r\n0\r\nAbc\r\n\r\n"),
        ("space before a trailer's colon", "5\r\nhello\r\n0\r\nA : b\r\n\r\n"),
        ("empty trailer name", "5\r\nhello\r\n0\r\n: b\r\n\r\n"),
        ("trailer name that is not a token", "5\r\nhello\r\n0\r\nA@: b\r\n\r\n"),
        ("NUL in the trailer", "5\r\nhello\r\n0\r\nA: \0\r\n\r\n"),
    ] {
        for step in [usize::MAX, 1] {
            let mut driver = Driver::new(Config::default());
            driver.step = step;
            let client = driver.client_with(format!("{HEAD}{body}{NEXT}").as_bytes());
            assert_eq!(driver.text(client), refusal(400), "{name} by {step}");
            for &upstream in driver.upstreams() {
                let text = driver.text(upstream);
                let is_last = text.ends_with("0\r\n\r\n") || text.contains("/next");
                assert!(!is_last, "{name} by {step}: never whole: {text}");
                assert!(driver.peer(upstream).closed.is_some(), "{name} by {step}: cut");
            }
            assert!(driver.upstreams().len() <= 1, "{name} by {step}");
            driver.end(client);
            assert!(driver.proxy.is_at_rest(), "{name} by {step}");
        }
    }
}

/// Chunked bodies are encoded again: plain sizes, no extensions, and only the permitted trailer
/// fields.
#[test]
fn good_chunks_are_encoded_again() {
    let trailer = "X-Sum: 1\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\nHost: evil\r\n\
                   Authorization: x\r\nConnection: close\r\nTE: x\r\nContent-Type: x\r\n\
                   Content_Length: 9\r\nX-Forwarded-For: x\r\nX-Other:\r\n";
    for (name, body, data, passed) in [
        ("empty", "0\r\n\r\n", "", ""),
        ("one", "5\r\nhello\r\n0\r\n\r\n", "hello", ""),
        ("two", "5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n", "hello!", ""),
        ("upper case and zeros", "00A\r\n0123456789\r\n000\r\n\r\n", "0123456789", ""),
        ("extensions", "5;a;b=\"c d\"\r\nhello\r\n0;x=y\r\n\r\n", "hello", ""),
        ("extension above ASCII", "5;\u{e9}\r\nhello\r\n0\r\n\r\n", "hello", ""),
        ("data like chunks", "7\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n", "\r\n0\r\n\r\n", ""),
        ("trailer", &format!("1\r\nx\r\n0\r\n{trailer}\r\n"), "x", "X-Sum: 1\r\nX-Other:\r\n"),
    ] {
        for step in [usize::MAX, 1] {
            let mut driver = Driver::new(Config::default());
            driver.step = step;
            let client = driver.client_with(format!("{HEAD}{body}").as_bytes());
            let upstream = driver.upstream();
            let text = driver.text(upstream);
            let head = forwarded("POST /", "Transfer-Encoding: chunked\r\n");
            let (fields, forwarded_body) = text.split_once("\r\n\r\n").expect("a head");
            let mut expected: Vec<&str> = head.trim_end().lines().collect();
            let mut got: Vec<&str> = fields.lines().collect();
            expected.sort_unstable();
            got.sort_unstable();
            assert_eq!(got, expected, "{name} by {step}");
            assert_eq!(dechunk(forwarded_body), (data.to_owned(), passed.to_owned()), "{name}");
            driver.send(upstream, EMPTY_RESPONSE);
            assert!(driver.text(client).starts_with("HTTP/1.1 200 OK\r\n"), "{name} by {step}");
            assert_eq!(
                driver.peer(upstream).closed,
                None,
                "{name} by {step}: the connection is kept"
            );
        }
    }
}

/// A trailer section that does not fit into the buffer behind other bytes is forwarded once the
/// backend accepts those bytes, whether or not the client ends its side meanwhile. No timeout
/// expires because of it.
#[test]
fn a_long_trailer_section_waits_for_room() {
    for (data, len) in [(1, 1990), (1, 8000), (1900, 500), (3000, 2500), (100_000, 8000)] {
        for (takes, half_close) in [(usize::MAX, false), (0, false), (0, true)] {
            let mut config = Config::default();
            config.forwarding.half_close = half_close;
            let wait = config.timeouts.response_body / 2;
            config.timeouts.request_body = wait / 2;
            let mut driver = Driver::new(config);
            driver.backends_take = takes;
            let trailer = format!("T: {}\r\n", "t".repeat(len));
            let body = format!("{data:x}\r\n{}\r\n0\r\n{trailer}\r\n", "x".repeat(data));
            let client = driver.client_with(format!("{HEAD}{body}").as_bytes());
            let upstream = driver.upstream();
            if takes == 0 {
                if half_close {
                    driver.end(client);
                }
                driver.pass(wait);
                driver.take(upstream, usize::MAX);
            }
            let text = driver.text(upstream);
            let (_, forwarded_body) = text.split_once("\r\n\r\n").expect("a head");
            assert_eq!(dechunk(forwarded_body), ("x".repeat(data), trailer), "{data} and {len}");
            driver.send(upstream, EMPTY_RESPONSE);
            assert!(driver.text(client).starts_with("HTTP/1.1 200 OK\r\n"), "{data} and {len}");
            assert_eq!(
                driver.peer(upstream).closed,
                None,
                "{data} and {len}: the connection is kept"
            );
        }
    }
}

/// If a client leaves inside its body, the backend never gets a complete request.
#[test]
fn cut_uploads_are_seen_as_cut() {
    for request in [
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhell".to_owned(),
        format!("{HEAD}5\r\nhell"),
        format!("{HEAD}5\r\nhello\r\n0\r\n"),
    ] {
        for is_reset in [false, true] {
            let mut driver = Driver::new(Config::default());
            let client = driver.client_with(request.as_bytes());
            let upstream = driver.upstream();
            if is_reset {
                driver.reset(client);
                assert_eq!(driver.text(client), "");
            } else {
                driver.end(client);
                assert_eq!(driver.text(client), refusal(400));
            }
            assert!(!driver.text(upstream).ends_with("0\r\n\r\n"), "{request}");
            assert!(!driver.text(upstream).ends_with("hello"), "{request}");
            assert!(driver.peer(upstream).closed.is_some(), "{request}");
            assert!(driver.proxy.is_at_rest(), "{request}");
        }
    }
}

/// Pipelined requests: one at a time goes to the backend, responses are returned in order, and each
/// message is framed on its own.
#[test]
fn pipelined_requests_are_served_in_order() {
    let requests = [
        "GET /1 HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(),
        "POST /2 HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc".to_owned(),
        "HEAD /3 HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(),
        HEAD.replace("POST /", "POST /4") + "3\r\ndef\r\n0\r\n\r\n",
        "GET /5 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n".to_owned(),
        "GET /never HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(),
    ];
    for step in [usize::MAX, 1] {
        let mut driver = Driver::new(Config::default());
        driver.step = step;
        let client = driver.client_with(requests.concat().as_bytes());
        let upstream = driver.upstream();
        for number in 1..=5 {
            let text = String::from_utf8(driver.drain(upstream)).expect("text");
            let paths: Vec<&str> = text.matches(" HTTP/1.1\r\n").collect();
            assert_eq!(paths.len(), 1, "one at a time: {text}");
            assert!(text.contains(&format!("/{number} HTTP/1.1\r\n")), "{number}: {text}");
            let response = format!("HTTP/1.1 200 OK\r\nN: {number}\r\nContent-Length: 1\r\n\r\n");
            let body = if number == 3 { "" } else { &number.to_string() };
            driver.send(upstream, format!("{response}{body}").as_bytes());
        }
        let text = driver.text(client);
        let order: Vec<char> = text
            .match_indices("\r\nN: ")
            .filter_map(|(at, start)| text[at + start.len()..].chars().next())
            .collect();
        assert_eq!(order, ['1', '2', '3', '4', '5'], "{text}");
        assert!(
            text.ends_with("N: 5\r\nContent-Length: 1\r\nConnection: close\r\n\r\n5"),
            "{text}"
        );
        assert_eq!(driver.upstreams().len(), 1, "one connection carried them all");
        assert_eq!(driver.drain(upstream), b"", "what follows close is not served");
    }
}

/// `Expect: 100-continue` is forwarded: the backend's 100 goes to the client, which then sends its
/// body. A final response instead of the 100 ends the connection, because the body may still
/// arrive.
#[test]
fn expectations_are_passed_on() {
    let request =
        b"POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-Continue\r\nContent-Length: 5\r\n\r\n";
    let mut driver = Driver::new(Config::default());
    let client = driver.client_with(request);
    let upstream = driver.upstream();
    assert!(driver.text(upstream).contains("Expect: 100-Continue\r\n"));
    assert_eq!(driver.text(client), "", "the proxy sends no 100 by itself");
    driver.send(upstream, b"HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(driver.drain(client), b"HTTP/1.1 100 Continue\r\n\r\n");
    driver.send(client, b"hello");
    assert!(driver.text(upstream).ends_with("\r\n\r\nhello"));
    driver.send(upstream, EMPTY_RESPONSE);
    assert_eq!(driver.drain(client), EMPTY_RESPONSE);
    assert_eq!(driver.peer(upstream).closed, None);

    driver.send(client, request);
    driver.send(upstream, b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
    let refused = "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    assert_eq!(driver.text(client), refused);
    assert!(driver.peer(client).is_shut);
    assert!(
        driver.peer(upstream).closed.is_some(),
        "the backend waits for a body that never comes"
    );

    let mut driver = Driver::new(Config::default());
    driver.client_with(b"POST / HTTP/1.0\r\nExpect: x\r\nContent-Length: 1\r\n\r\nx");
    let text = driver.text(driver.upstream());
    assert!(!text.contains("Expect"), "HTTP/1.0 has no expectations: {text}");
}

/// A slow backend slows its client down: the proxy reads a bounded part of the upload and loses
/// nothing.
#[test]
fn uploads_are_held_back() {
    let mut driver = Driver::new(Config::default());
    let length = 4 << 20;
    let head = format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n");
    let client = driver.client_with(head.as_bytes());
    let upstream = driver.upstream();
    let head_length = driver.drain(upstream).len();
    assert!(head_length > 0);
    driver.take(upstream, 0);
    driver.send(client, &vec![b'x'; length]);
    let held = length - driver.unread(client);
    assert!(held <= 512 * 1024, "{held} bytes are held for one connection");
    driver.take(upstream, usize::MAX);
    assert_eq!(driver.unread(client), 0);
    assert_eq!(driver.peer(upstream).received.len(), length);
}
