use std::net::SocketAddr;

use super::*;
use crate::access::{Access, Ending};
use crate::config::{AccessLogRules, Config};
use crate::http::{ClientError, UpstreamError};

/// Returns the line of a request that begins with these bytes and gets a 400.
fn line(format: AccessLogFormat, query: bool, client: SocketAddr, request: &[u8]) -> String {
    let access_log = AccessLogRules { file: Some("f".to_owned()), format, query };
    let mut access = Access::new(&Config { access_log, ..Config::default() }, 1);
    let started = Instant::from_millis(1000);
    let mut visit = access.begin(started);
    visit.take_fragment(started + Duration::from_micros(1500), request, b"i");
    visit.end_by_client(ClientError::MissingHost);
    visit.answer_itself(started + Duration::from_millis(2), 400, 100);
    visit.send(115);
    visit.finish(started + Duration::from_millis(3), client);
    access.end(visit);
    let mut out = Vec::new();
    // 2024-03-01 00:00:00, one second after the start: the line has 2024-02-29 23:59:59.
    let time_of_day = SystemTime::UNIX_EPOCH + Duration::from_millis(1_709_251_200_000);
    let records = access.take(Records::default());
    Formatter::new(format).write(&records, Instant::from_millis(2000), time_of_day, &mut out);
    let line = String::from_utf8(out).expect("UTF-8");
    line.strip_suffix('\n').expect("a line end").to_owned()
}

const CLIENT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 9)), 5000);

/// A line of each format for an invalid request with all fields.
#[test]
fn lines_are_exact() {
    let request = b"GET /a?b HTTP/1.1\r\n\r\n";
    assert_eq!(
        line(AccessLogFormat::Json, true, CLIENT, request),
        "{\"time\":\"2024-02-29T23:59:59.000Z\",\"client\":\"10.0.0.9\",\"port\":5000,\
         \"requestId\":\"i\",\"traceparent\":null,\"method\":\"GET\",\"target\":\"/a?b\",\
         \"version\":\"HTTP/1.1\",\"status\":400,\"received\":21,\"sent\":115,\"headMs\":1.500,\
         \"queueMs\":null,\"connectMs\":null,\"backendMs\":null,\"firstByteMs\":2.000,\
         \"totalMs\":3.000,\"backend\":null,\"tries\":0,\"why\":null,\"end\":\"client_error\",\
         \"error\":\"no Host\",\"referer\":null,\"userAgent\":null}"
    );
    assert_eq!(
        line(AccessLogFormat::Combined, true, CLIENT, request),
        "10.0.0.9 - - [29/Feb/2024:23:59:59 +0000] \"GET /a?b HTTP/1.1\" 400 15 \"-\" \"-\""
    );
}

/// Without queries a target ends at its first question mark.
#[test]
fn queries_are_cut() {
    for (request, target) in [(&b"GET /a?b?c HTTP/1.1"[..], "/a"), (b"GET ?x y", ""), (b"GET", "")]
    {
        let line = line(AccessLogFormat::Json, false, CLIENT, request);
        let json: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(json["target"].as_str().unwrap_or_default(), target);
    }
}

/// The unknown port of a client behind a trusted hop is null. IPv4 clients of an IPv6 listener have
/// an IPv4 address.
#[test]
fn clients_have_their_addresses() {
    for (client, ip, port) in [
        ("10.0.0.9:0", "10.0.0.9", "null"),
        ("[2001:db8::1]:80", "2001:db8::1", "80"),
        ("[::ffff:10.0.0.1]:9", "10.0.0.1", "9"),
    ] {
        let client = client.parse().expect("an address");
        let json = line(AccessLogFormat::Json, true, client, b"GET / HTTP/1.1");
        assert!(json.contains(&format!("\"client\":\"{ip}\",\"port\":{port},")), "{json}");
        let combined = line(AccessLogFormat::Combined, true, client, b"GET / HTTP/1.1");
        assert!(combined.starts_with(&format!("{ip} - - [")), "{combined}");
    }
}

/// A peer's bytes cannot break a line. Valid UTF-8 is read back unchanged from JSON.
#[test]
fn hostile_bytes_are_escaped() {
    let rows: [(&[u8], &str, &str); 10] = [
        (b"/plain~", "/plain~", "/plain~"),
        (b"/\"}\\", "/\"}\\", "/\\x22}\\x5C"),
        (b"/\x1b[31m\x07", "/\u{1b}[31m\u{7}", "/\\x1B[31m\\x07"),
        (b"/\x00\x7f", "/\u{0}\u{7f}", "/\\x00\\x7F"),
        ("/größe".as_bytes(), "/größe", "/gr\\xC3\\xB6\\xC3\\x9Fe"),
        ("/\u{202e}\u{9b}".as_bytes(), "/\u{202e}\u{9b}", "/\\xE2\\x80\\xAE\\xC2\\x9B"),
        ("/😀\"".as_bytes(), "/😀\"", "/\\xF0\\x9F\\x98\\x80\\x22"),
        (b"/\xff\xc3", "/\\xff\\xc3", "/\\xFF\\xC3"),
        (b"/\xc3\"\x01", "/\\xc3\"\u{1}", "/\\xC3\\x22\\x01"),
        (
            "/\u{e000}\u{10ffff}".as_bytes(),
            "/\u{e000}\u{10ffff}",
            "/\\xEE\\x80\\x80\\xF4\\x8F\\xBF\\xBF",
        ),
    ];
    for (bytes, text, escaped) in rows {
        let request = [b"GET ", bytes, b" HTTP/1.1"].concat();
        let json = line(AccessLogFormat::Json, true, CLIENT, &request);
        let parsed: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(parsed["target"], text, "{json}");
        assert!(json.chars().all(|character| !character.is_control()), "{json:?}");
        let combined = line(AccessLogFormat::Combined, true, CLIENT, &request);
        assert!(combined.contains(&format!("\"GET {escaped} HTTP/1.1\"")), "{combined}");
        assert!(combined.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{combined}");
    }
}

/// Every byte except space, CR and LF leaves valid lines: alone, first, in the middle and last.
#[test]
fn every_byte_is_harmless() {
    for byte in (0..=u8::MAX).filter(|byte| !b" \r\n".contains(byte)) {
        for target in [vec![byte], vec![byte, b'a'], vec![b'a', byte, b'"'], vec![0xe2, byte]] {
            let request = [b"GET ", &target[..], b" HTTP/1.1"].concat();
            let json = line(AccessLogFormat::Json, true, CLIENT, &request);
            serde_json::from_str::<serde_json::Value>(&json).expect("JSON");
            let combined = line(AccessLogFormat::Combined, true, CLIENT, &request);
            assert_eq!(combined.matches('"').count(), 6, "{combined}");
        }
    }
}

/// A client that sent only an empty line also gets a log line.
#[test]
fn a_request_without_words_has_a_line() {
    let combined = line(AccessLogFormat::Combined, true, CLIENT, b"\r\n\r\n");
    assert!(combined.contains("] \"-\" 400 15 "), "{combined}");
}

/// The version of an invalid request is the last word of its first line, if that is a version.
#[test]
fn versions_are_those_that_were_sent() {
    for (request, version, combined) in [
        ("GET / HTTP/2.0\r\nHost: h\r\n\r\n", "HTTP/2.0", "\"GET / HTTP/2.0\""),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/2.0", "\"PRI * HTTP/2.0\""),
        ("GET /a b HTTP/1.0\r\n\r\n", "HTTP/1.0", "\"GET /a HTTP/1.0\""),
        ("GET / http/1.1\"\r\n\r\n", "http/1.1\"", "\"GET / http/1.1\\x22\""),
        ("GET /\r\n\r\n", "", "\"GET /\""),
        ("GET / HTT", "", "\"GET /\""),
        ("", "", "\"-\""),
    ] {
        let json = line(AccessLogFormat::Json, true, CLIENT, request.as_bytes());
        let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(json["version"].as_str().unwrap_or_default(), version, "{request}");
        let line = line(AccessLogFormat::Combined, true, CLIENT, request.as_bytes());
        assert!(line.contains(&format!("] {combined} 400 ")), "{line}");
    }
}

/// The line of an exchange with a backend has its times, the backend's name, and the failure of an
/// earlier attempt.
#[test]
fn a_retried_exchange_has_all_its_parts() {
    let access_log = AccessLogRules { file: Some("f".to_owned()), ..AccessLogRules::default() };
    let mut access = Access::new(&Config { access_log, ..Config::default() }, 1);
    let at = Instant::from_millis;
    let mut visit = access.begin(at(0));
    visit.take_fragment(at(1), b"GET / HTTP/1.0", b"i");
    visit.wait(at(1));
    visit.route(at(3), crate::access::Why::Bound, "first");
    visit.dial(at(3));
    visit.give_up(at(5), Duration::from_millis(2));
    visit.fail(UpstreamError::Refused, false);
    visit.route(at(5), crate::access::Why::Route(intelliproxy_core::RouteReason::Retry), "B");
    visit.dial(at(5));
    visit.link(at(6));
    visit.interim(25);
    visit.answer(at(9), 200, Some(Duration::from_millis(4)), 40);
    visit.receive(1000);
    visit.end(Ending::Complete);
    visit.finish(at(10), CLIENT);
    access.end(visit);
    let mut out = Vec::new();
    let records = access.take(Records::default());
    let format = AccessLogFormat::Json;
    Formatter::new(format).write(&records, at(10), SystemTime::UNIX_EPOCH, &mut out);
    let json: serde_json::Value = serde_json::from_slice(&out).expect("JSON");
    let expected = serde_json::json!({
        "time": "1970-01-01T00:00:00.000Z", "client": "10.0.0.9", "port": 5000,
        "requestId": "i", "traceparent": null, "method": "GET", "target": "/",
        "version": "HTTP/1.0", "status": 200, "received": 1014, "sent": 0, "headMs": 1.0,
        "queueMs": 2.0, "connectMs": 1.0, "backendMs": 4.0, "firstByteMs": 9.0, "totalMs": 10.0,
        "backend": "B", "tries": 2, "why": "retry", "end": "complete",
        "error": "connect_refused", "referer": null, "userAgent": null,
    });
    assert_eq!(json, expected);
}

/// Spans are cut to microseconds.
#[test]
fn spans_are_exact() {
    for (nanos, text) in
        [(0, "0.000"), (999, "0.000"), (1_234_567, "1.234"), (60_000_000_000, "60000.000")]
    {
        let mut part = Part::new();
        put_span(&mut part, b"", Span::of(Duration::from_nanos(nanos)));
        assert_eq!(part.bytes(), text.as_bytes());
    }
}

/// A line with the largest numbers is complete: each part has room for them.
#[test]
fn the_largest_numbers_fit() {
    let last = Instant::from_nanos(u64::MAX - 1);
    let largest = usize::MAX.to_string();
    for format in [AccessLogFormat::Json, AccessLogFormat::Combined] {
        let access_log = AccessLogRules { file: Some("f".to_owned()), format, query: true };
        let mut access = Access::new(&Config { access_log, ..Config::default() }, 1);
        let mut visit = access.begin(Instant::ZERO);
        let head = b"GET / HTTP/1.1";
        visit.take_fragment(last, head, b"i");
        visit.receive(usize::MAX - head.len());
        visit.send(usize::MAX);
        visit.dial(Instant::ZERO);
        visit.link(last);
        visit.wait(Instant::ZERO);
        visit.answer(last, 999, Some(Duration::from_nanos(u64::MAX - 1)), 0);
        visit.finish(last, SocketAddr::new(CLIENT.ip(), u16::MAX));
        access.end(visit);
        let records = access.take(Records::default());
        let mut out = Vec::new();
        Formatter::new(format).write(&records, last, SystemTime::UNIX_EPOCH, &mut out);
        let line = String::from_utf8(out).expect("UTF-8");
        if format == AccessLogFormat::Combined {
            assert!(line.contains(&format!("\" 999 {largest} \"")), "{line}");
            continue;
        }
        let json: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(json["received"].to_string(), largest);
        assert_eq!(json["sent"].to_string(), largest);
        assert_eq!(json["port"], 65_535);
        let times = line.matches("Ms\":18446744073709.551").count();
        assert_eq!(times, 6, "{line}");
    }
}
