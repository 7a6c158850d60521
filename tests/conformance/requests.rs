//! Request heads: those that are refused, with the status, and the forwarded form of the others.
use std::time::Duration;

use intelliproxy::config::Config;
use intelliproxy_driver::Driver;

use crate::expected::{forwarded, refusal};

/// A request after a bad one on the same connection. It must not be served.
const NEXT: &[u8] = b"GET /next HTTP/1.1\r\nHost: h\r\n\r\n";

/// Sends `request` and one more behind it. The first gets `status`, the second gets no response,
/// and no backend receives either.
#[track_caller]
fn assert_refused(name: &str, request: &[u8], status: u16) {
    for step in [usize::MAX, 1] {
        let mut driver = Driver::new(Config::default());
        driver.step = step;
        let client = driver.client_with(&[request, NEXT].concat());
        assert_eq!(driver.text(client), refusal(status), "{name} by {step}");
        assert!(driver.upstreams().is_empty(), "{name} by {step}: nothing is forwarded");
        assert!(driver.peer(client).is_shut, "{name} by {step}: the client's connection is ended");
        driver.end(client);
        assert_eq!(driver.peer(client).closed, Some(false), "{name} by {step}");
        assert!(driver.proxy.is_at_rest(), "{name} by {step}");
    }
}

/// Sends `request`: a backend gets `expected`, its response goes back, and the connection stays
/// open.
#[track_caller]
fn assert_forwarded(name: &str, request: &[u8], expected: &str) {
    for step in [usize::MAX, 1] {
        let mut driver = Driver::new(Config::default());
        driver.step = step;
        let client = driver.client_with(request);
        assert_eq!(driver.text(client), "", "{name} by {step}");
        let upstream = driver.upstream();
        assert_eq!(driver.text(upstream), expected, "{name} by {step}");
        driver.send(upstream, b"HTTP/1.1 204 No Content\r\n\r\n");
        assert!(driver.text(client).starts_with("HTTP/1.1 204 No Content\r\n"), "{name} by {step}");
        driver.end(client);
        assert_eq!(driver.peer(client).closed, Some(false), "{name} by {step}");
        assert!(driver.proxy.is_at_rest(), "{name} by {step}");
    }
}

/// A HEAD request with an invalid head gets an error without a body, like every response to HEAD.
/// If the method is not certainly HEAD, the error has a body.
#[test]
fn refusals_of_head_requests_have_no_body() {
    let rows: [(&str, &[u8], u16, bool); 9] = [
        ("no Host", b"HEAD /a HTTP/1.1\r\n\r\n", 400, false),
        ("no Host, after an empty line", b"\r\nHEAD /a HTTP/1.1\r\n\r\n", 400, false),
        ("folded", b"HEAD /a HTTP/1.1\r\nHost: h\r\nA: b\r\n c\r\n\r\n", 400, false),
        ("coding", b"HEAD /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: x\r\n\r\n", 501, false),
        ("expectation", b"HEAD /a HTTP/1.1\r\nHost: h\r\nExpect: x\r\n\r\n", 417, false),
        ("version 2.0", b"HEAD /a HTTP/2.0\r\nHost: h\r\n\r\n", 505, false),
        ("HEAD in lower case is another method", b"head /a HTTP/1.1\r\n\r\n", 400, true),
        ("a method that begins like it", b"HEADER /a HTTP/1.1\r\n\r\n", 400, true),
        ("no space behind it", b"HEAD\t/a HTTP/1.1\r\nHost: h\r\n\r\n", 400, true),
    ];
    for (name, request, status, has_body) in rows {
        for step in [usize::MAX, 1] {
            let mut driver = Driver::new(Config::default());
            driver.step = step;
            let client = driver.client_with(request);
            let whole = refusal(status);
            let end =
                if has_body { whole.len() } else { whole.find("\r\n\r\n").map_or(0, |at| at + 4) };
            assert_eq!(driver.text(client), &whole[..end], "{name} by {step}");
        }
    }
}

/// Invalid request lines.
#[test]
fn bad_request_lines_are_refused() {
    let rows: [(&str, &[u8], u16); 41] = [
        ("space inside the target", b"GET /a b HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("two spaces before the target", b"GET  /a HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("two spaces before the version", b"GET /a  HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("tab for a space", b"GET\t/a HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("tab inside the target", b"GET /a\tb HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("space after the version", b"GET /a HTTP/1.1 \r\nHost: h\r\n\r\n", 400),
        ("space before the method", b" GET /a HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("fragment", b"GET /a#b HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("NUL in the target", b"GET /a\0b HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("control byte in the target", b"GET /a\x01b HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("DEL in the target", b"GET /a\x7fb HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("control byte beside one above ASCII", b"GET /\xe4\x01 HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("byte above ASCII in the method", b"G\xe4T / HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("byte above ASCII in a host", b"GET http://\xe4/ HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("version 2.0 behind one", b"GET /\xe4 HTTP/2.0\r\nHost: h\r\n\r\n", 505),
        ("fragment behind one", b"GET /\xe4#a HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("no version behind one", b"GET /\xe4\r\nHost: h\r\n\r\n", 400),
        ("LF behind one", b"GET /\xe4 HTTP/1.1\nHost: h\r\n\r\n", 400),
        ("bad field behind one", b"GET /\xe4 HTTP/1.1\r\nHost : h\r\n\r\n", 400),
        ("bare CR in the target", b"GET /a\rb HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("no target", b"GET HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("relative target", b"GET a HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("asterisk for GET", b"GET * HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("authority for GET", b"GET h:80 HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("absolute without authority", b"GET http:///a HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("absolute with a user", b"GET http://u@h/a HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("absolute of another scheme", b"GET ftp://h/a HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("absolute with a bad port", b"GET http://h:x/a HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("method that is not a token", b"G(T /a HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("empty method", b" /a HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("HTTP/0.9", b"GET /a\r\n", 400),
        ("version in lower case", b"GET /a http/1.1\r\nHost: h\r\n\r\n", 400),
        ("version without a minor", b"GET /a HTTP/1\r\nHost: h\r\n\r\n", 400),
        ("version 1.2", b"GET /a HTTP/1.2\r\nHost: h\r\n\r\n", 505),
        ("version 2.0", b"GET /a HTTP/2.0\r\nHost: h\r\n\r\n", 505),
        ("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        ("CONNECT", b"CONNECT h:80 HTTP/1.1\r\nHost: h:80\r\n\r\n", 501),
        ("TRACE", b"TRACE / HTTP/1.1\r\nHost: h\r\n\r\n", 501),
        ("binary garbage", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        ("bare CR before it", b"\r\n\rGET / HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("bare LF before it", b"\r\n\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ];
    for (name, request, status) in rows {
        assert_refused(name, request, status);
    }
}

/// Line ends and folded lines that two readers could read differently, and invalid fields.
#[test]
fn bad_fields_are_refused() {
    let rows: [(&str, &[u8]); 27] = [
        ("all lines end in LF", b"GET / HTTP/1.1\nHost: h\n\n"),
        ("request line ends in LF", b"GET / HTTP/1.1\nHost: h\r\n\r\n"),
        ("a field ends in LF", b"GET / HTTP/1.1\r\nHost: h\nA: b\r\n\r\n"),
        ("last field ends in LF", b"GET / HTTP/1.1\r\nHost: h\n\r\n"),
        ("head ends in LF", b"GET / HTTP/1.1\r\nHost: h\r\n\n"),
        ("empty line is LF", b"\nGET / HTTP/1.1\r\nHost: h\r\n\r\n"),
        ("empty line is CR", b"\rGET / HTTP/1.1\r\nHost: h\r\n\r\n"),
        ("bare CR in a value", b"GET / HTTP/1.1\r\nHost: h\r\nA: b\rc\r\n\r\n"),
        ("bare CR in a name", b"GET / HTTP/1.1\r\nHost: h\r\nA\rb: c\r\n\r\n"),
        ("CR twice", b"GET / HTTP/1.1\r\nHost: h\r\r\n\r\n"),
        ("folded by a space", b"GET / HTTP/1.1\r\nHost: h\r\nA: b\r\n c\r\n\r\n"),
        ("folded by a tab", b"GET / HTTP/1.1\r\nHost: h\r\nA: b\r\n\tc\r\n\r\n"),
        ("first field folded", b"GET / HTTP/1.1\r\n Host: h\r\n\r\n"),
        ("empty first field folded", b"GET / HTTP/1.1\r\n \r\nHost: h\r\n\r\n"),
        ("space before the colon", b"GET / HTTP/1.1\r\nHost : h\r\n\r\n"),
        ("tab before the colon", b"GET / HTTP/1.1\r\nHost: h\r\nA\t: b\r\n\r\n"),
        ("space in a name", b"GET / HTTP/1.1\r\nHost: h\r\nA b: c\r\n\r\n"),
        ("empty name", b"GET / HTTP/1.1\r\nHost: h\r\n: b\r\n\r\n"),
        ("name that is not a token", b"GET / HTTP/1.1\r\nHost: h\r\nA@b: c\r\n\r\n"),
        ("name with a parenthesis", b"GET / HTTP/1.1\r\nHost: h\r\nA(b): c\r\n\r\n"),
        ("name above ASCII", b"GET / HTTP/1.1\r\nHost: h\r\n\xc3\xa9: c\r\n\r\n"),
        ("no colon", b"GET / HTTP/1.1\r\nHost: h\r\nAbc\r\n\r\n"),
        ("NUL in a value", b"GET / HTTP/1.1\r\nHost: h\r\nA: b\0c\r\n\r\n"),
        ("control byte in a value", b"GET / HTTP/1.1\r\nHost: h\r\nA: b\x01c\r\n\r\n"),
        ("vertical tab in a value", b"GET / HTTP/1.1\r\nHost: h\r\nA: b\x0bc\r\n\r\n"),
        ("DEL in a value", b"GET / HTTP/1.1\r\nHost: h\r\nA: b\x7fc\r\n\r\n"),
        ("escape in a name", b"GET / HTTP/1.1\r\nHost: h\r\nA\x1b: c\r\n\r\n"),
    ];
    for (name, request) in rows {
        assert_refused(name, request, 400);
    }
}

/// Missing, repeated and invalid Host fields.
#[test]
fn bad_hosts_are_refused() {
    for (name, fields) in [
        ("none", ""),
        ("two", "Host: h\r\nHost: i\r\n"),
        ("two that are equal", "Host: h\r\nhost: h\r\n"),
        ("empty", "Host:\r\n"),
        ("empty but for a port", "Host: :80\r\n"),
        ("space inside", "Host: a b\r\n"),
        ("two in one", "Host: a, b\r\n"),
        ("user", "Host: u@h\r\n"),
        ("path", "Host: h/p\r\n"),
        ("scheme", "Host: http://h\r\n"),
        ("fragment", "Host: h#f\r\n"),
        ("invalid port", "Host: h:8x\r\n"),
        ("two ports", "Host: h:80:80\r\n"),
        ("IPv6 without brackets", "Host: ::1\r\n"),
        ("open bracket", "Host: [::1\r\n"),
        ("bracketed name", "Host: [h]\r\n"),
        ("quotation mark", "Host: \"h\"\r\n"),
        ("backslash", "Host: h\\i\r\n"),
        ("above ASCII", "Host: h\u{e9}\r\n"),
    ] {
        assert_refused(name, format!("GET / HTTP/1.1\r\n{fields}\r\n").as_bytes(), 400);
    }
    let absolute = b"GET http://i/ HTTP/1.1\r\nHost: h\r\nHost: i\r\n\r\n";
    assert_refused("two under an absolute target", absolute, 400);
    let absolute = b"GET http://i/ HTTP/1.1\r\n\r\n";
    assert_refused("none under an absolute target", absolute, 400);
    assert_refused("two in HTTP/1.0", b"GET / HTTP/1.0\r\nHost: h\r\nHost: h\r\n\r\n", 400);
}

/// Requests whose framing is ambiguous, invalid or not supported are refused (RFC 9112 section
/// 6.3).
#[test]
fn ambiguous_framing_is_refused() {
    for (name, fields, status) in [
        ("both", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", 400),
        ("both, the other way round", "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", 400),
        ("both, length of zero", "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n", 400),
        ("both, and neither good", "Content-Length: x\r\nTransfer-Encoding: y\r\n", 400),
        ("lengths that differ", "Content-Length: 5\r\nContent-Length: 6\r\n", 400),
        ("lengths that agree", "Content-Length: 5\r\nContent-Length: 5\r\n", 400),
        ("list of lengths", "Content-Length: 5, 6\r\n", 400),
        ("list of equal lengths", "Content-Length: 5, 5\r\n", 400),
        ("not a number", "Content-Length: five\r\n", 400),
        ("empty length", "Content-Length:\r\n", 400),
        ("negative length", "Content-Length: -5\r\n", 400),
        ("sign", "Content-Length: +5\r\n", 400),
        ("hexadecimal length", "Content-Length: 0x5\r\n", 400),
        ("fraction", "Content-Length: 5.0\r\n", 400),
        ("space inside", "Content-Length: 5 5\r\n", 400),
        ("19 digits", "Content-Length: 1000000000000000000\r\n", 400),
        ("2^64 and 5", "Content-Length: 18446744073709551621\r\n", 400),
        ("30 digits", "Content-Length: 100000000000000000000000000005\r\n", 400),
        ("other coding", "Transfer-Encoding: xchunked\r\n", 501),
        ("identity", "Transfer-Encoding: identity\r\n", 501),
        ("chunked not last", "Transfer-Encoding: chunked, identity\r\n", 501),
        ("chunked not alone", "Transfer-Encoding: gzip, chunked\r\n", 501),
        ("chunked twice", "Transfer-Encoding: chunked, chunked\r\n", 501),
        ("two lines", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", 501),
        ("empty coding", "Transfer-Encoding:\r\n", 501),
        ("comma", "Transfer-Encoding: ,chunked\r\n", 501),
        ("parameter", "Transfer-Encoding: chunked;q=1\r\n", 501),
        ("quotes", "Transfer-Encoding: \"chunked\"\r\n", 501),
        ("vertical tab", "Transfer-Encoding: \u{b}chunked\r\n", 400),
        ("space before the colon", "Transfer-Encoding : chunked\r\n", 400),
        ("folded", "Transfer-Encoding:\r\n chunked\r\n", 400),
        ("expectation of something else", "Expect: 200-ok\r\nContent-Length: 5\r\n", 417),
    ] {
        let request = format!("POST / HTTP/1.1\r\nHost: h\r\n{fields}\r\nhello");
        assert_refused(name, request.as_bytes(), status);
    }
    let old = b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    assert_refused("chunked in HTTP/1.0", old, 400);
}

/// Valid requests, odd ones included, reach the backend as one unambiguous message.
#[test]
fn good_requests_are_forwarded() {
    let get = forwarded("GET /", "");
    let rows = [
        ("plain", "GET / HTTP/1.1\r\nHost: h\r\n\r\n", get.clone()),
        ("empty line before", "\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", get.clone()),
        ("five empty lines", "\r\n\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", get.clone()),
        ("case of a name", "GET / HTTP/1.1\r\nhOsT: h\r\n\r\n", get.clone()),
        ("space around a value", "GET / HTTP/1.1\r\nHost: \t h \t\r\n\r\n", get.clone()),
        ("absolute target", "GET http://h/ HTTP/1.1\r\nHost: other\r\n\r\n", get.clone()),
        ("absolute without path", "GET HTTP://h HTTP/1.1\r\nHost: other\r\n\r\n", get.clone()),
        ("absolute https target", "GET https://h/ HTTP/1.1\r\nHost: other\r\n\r\n", get),
        (
            "absolute with a query only",
            "GET http://h?a=b HTTP/1.1\r\nHost: h\r\n\r\n",
            forwarded("GET /?a=b", ""),
        ),
        ("asterisk", "OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", forwarded("OPTIONS *", "")),
        (
            "absolute OPTIONS",
            "OPTIONS http://h HTTP/1.1\r\nHost: h\r\n\r\n",
            forwarded("OPTIONS *", ""),
        ),
        ("unknown method", "get /a HTTP/1.1\r\nHost: h\r\n\r\n", forwarded("get /a", "")),
        (
            "path and query byte for byte",
            "GET /a//../%2e%2F?x=[1]&y=a|b'\" HTTP/1.1\r\nHost: h\r\n\r\n",
            forwarded("GET /a//../%2e%2F?x=[1]&y=a|b'\"", ""),
        ),
        (
            "hop-by-hop fields",
            "GET / HTTP/1.1\r\nHost: h\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\n\
             Proxy-Connection: x\r\nTE: gzip\r\nUpgrade: h2c\r\nStays: 1\r\n\r\n",
            forwarded("GET /", "Stays: 1\r\n"),
        ),
        (
            "fields that cannot be named away",
            "GET / HTTP/1.1\r\nHost: h\r\nConnection: host, content-length\r\nContent-Length: 0\r\n\r\n",
            forwarded("GET /", "Content-Length: 0\r\n"),
        ),
        (
            "lookalikes of framing fields",
            "GET / HTTP/1.1\r\nHost: h\r\nContent_Length: 9\r\nTransfer_Encoding: chunked\r\n\r\n",
            forwarded("GET /", ""),
        ),
        (
            "trailers are announced by the proxy itself",
            "GET / HTTP/1.1\r\nHost: h\r\nTE: trailers, deflate\r\nConnection: TE\r\n\r\n",
            forwarded("GET /", "Connection: te\r\nTE: trailers\r\n"),
        ),
        (
            "upgrade to HTTP/2 is not passed on",
            "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
             HTTP2-Settings: AAMAAABkAAQ\r\n\r\n",
            forwarded("GET /", ""),
        ),
        (
            "upgrade with a body",
            "GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
             Content-Length: 1\r\n\r\nx",
            forwarded(
                "GET /",
                "Upgrade: websocket\r\nContent-Length: 1\r\nConnection: upgrade\r\n",
            ) + "x",
        ),
        (
            "upgrade",
            "GET / HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n",
            forwarded("GET /", "Upgrade: websocket\r\nConnection: upgrade\r\n"),
        ),
        (
            "body of a GET",
            "GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nGET /",
            forwarded("GET /", "Content-Length: 5\r\n") + "GET /",
        ),
        ("no body", "POST / HTTP/1.1\r\nHost: h\r\n\r\n", forwarded("POST /", "")),
        (
            "zeros before a length",
            "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 005\r\n\r\nhello",
            forwarded("POST /", "Content-Length: 005\r\n") + "hello",
        ),
    ];
    for (name, request, expected) in rows {
        assert_forwarded(name, request.as_bytes(), &expected);
    }
}

/// Bytes above ASCII in a target are forwarded unchanged, UTF-8 or not, as other proxies do.
#[test]
fn targets_of_any_bytes_pass() {
    for target in [&b"/\xc3\xa4?q=\xc3\xa4"[..], b"/\xe4?q=\xff\x80", b"http://h/\xe4"] {
        for version in ["1.0", "1.1"] {
            for step in [usize::MAX, 1] {
                let mut driver = Driver::new(Config::default());
                driver.step = step;
                let rest = format!(" HTTP/{version}\r\nHost: h\r\nA: b\r\n\r\n");
                driver.client_with(&[b"GET ", target, rest.as_bytes()].concat());
                let path = target.strip_prefix(b"http://h").unwrap_or(target);
                let expected = [b"GET ", path, b" HTTP/1.1\r\n"].concat();
                let received = &driver.peer(driver.upstream()).received;
                assert!(
                    received.starts_with(&expected),
                    "{:?}",
                    received.escape_ascii().to_string()
                );
            }
        }
    }
}

/// Fields are forwarded in their order with unchanged bytes, including those above ASCII.
#[test]
fn fields_pass_untouched() {
    let lines: [&[u8]; 6] =
        [b"A:1", b"b:  2 \t", b"A: \"3, 4\": 5", b"Empty:", b"Latin: \xe9", b"Tab: a\tb"];
    let mut request = b"GET / HTTP/1.1\r\nHost: h\r\n".to_vec();
    for line in lines {
        request.extend_from_slice(line);
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    let mut driver = Driver::new(Config::default());
    driver.client_with(&request);
    let received = &driver.peer(driver.upstream()).received;
    let joined = lines.join(&b"\r\n"[..]);
    assert!(received.windows(joined.len()).any(|window| window == joined));
}

/// The client's address is the last one in X-Forwarded-For, behind the addresses that it sent
/// itself. Via gets one entry more, with the version that the client spoke.
#[test]
fn the_client_is_named() {
    let mut driver = Driver::new(Config::default());
    driver.client_with(
        b"GET / HTTP/1.0\r\nX-Forwarded-For: 1.1.1.1\r\nX-Forwarded-Proto: https\r\n\
          X-Forwarded-Host: evil\r\nX_Forwarded_For: 2.2.2.2\r\nVia: 1.1 before\r\n\r\n",
    );
    assert_eq!(
        driver.text(driver.upstream()),
        "GET / HTTP/1.1\r\nHost: a.test\r\nVia: 1.1 before\r\nX-Forwarded-For: 1.1.1.1, 192.0.2.7\r\n\
         X-Forwarded-Proto: http\r\nVia: 1.0 intelliproxy-910a2dec\r\n\r\n"
    );
    let mut config = Config::default();
    config.forwarding.via = "edge".to_owned();
    let mut driver = Driver::new(config);
    let client = driver.client_from("[2001:db8::1]:5");
    driver.send(client, b"GET http://Real:81/ HTTP/1.1\r\nHost: other\r\n\r\n");
    assert_eq!(
        driver.text(driver.upstream()),
        "GET / HTTP/1.1\r\nHost: Real:81\r\nX-Forwarded-For: 2001:db8::1\r\n\
         X-Forwarded-Proto: http\r\nX-Forwarded-Host: Real:81\r\nVia: 1.1 edge-910a2dec\r\n\r\n"
    );
}

/// The client's Host is forwarded. With `forwarding.keepHost` off, or without a Host, the backend
/// gets its own.
#[test]
fn host_is_kept_unless_turned_off() {
    for (keeps_host, request, expected) in [
        (true, "GET / HTTP/1.1\r\nHost: Shop.Example:81\r\n\r\n", "Shop.Example:81"),
        (false, "GET / HTTP/1.1\r\nHost: Shop.Example:81\r\n\r\n", "a.test"),
        (true, "GET / HTTP/1.0\r\n\r\n", "a.test"),
    ] {
        let mut config = Config::default();
        assert!(config.forwarding.keep_host, "by default");
        config.forwarding.keep_host = keeps_host;
        let mut driver = Driver::new(config);
        driver.client_with(request.as_bytes());
        let start = format!("GET / HTTP/1.1\r\nHost: {expected}\r\n");
        let text = driver.text(driver.upstream());
        assert!(text.starts_with(&start), "{keeps_host}: {text}");
    }
}

/// A client that ends its side inside a head gets 400. If no request has begun, it gets no
/// response.
#[test]
fn ends_of_clients() {
    for (sent, expected) in [
        (&b""[..], String::new()),
        (b"\r\n", String::new()),
        (b"GET", refusal(400)),
        (b"GET / HTTP/1.1\r\nHost: h\r\n", refusal(400)),
        (b"GET / HTTP/1.1\r\nHost: h\r\n\r", refusal(400)),
    ] {
        let mut driver = Driver::new(Config::default());
        let client = driver.client_with(sent);
        driver.end(client);
        assert_eq!(driver.text(client), expected, "{:?}", sent.escape_ascii().to_string());
        assert_eq!(driver.peer(client).closed, Some(false));
        assert!(driver.upstreams().is_empty());
        assert!(driver.proxy.is_at_rest());
    }
}

/// A client that ends its side before its response is complete counts as gone: the backend is
/// released at once and not blamed, and no pipelined request is begun (rule J8 of LIFECYCLE.md). A
/// client that ends its side together with its requests is served. With `forwarding.halfClose`, a
/// client that ends its side later is also served.
#[test]
fn client_that_ends_before_its_response() {
    let get = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
    let post = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nab";
    let old = "GET / HTTP/1.0\r\nHost: h\r\n\r\n";
    let upgrade = "GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
    let part = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n";
    let interim = "HTTP/1.1 103 Early Hints\r\n\r\n";
    // The last column says whether the end must be a reset, because the bytes before it would look
    // complete otherwise.
    let rows = [
        ("awaited", get, "", false),
        ("awaited, with a body", post, "", false),
        ("a tunnel that is not open yet", upgrade, "", false),
        ("only interim", get, interim, false),
        ("a silent stream", get, part, false),
        ("a part with a length", get, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab", false),
        ("a part until close", old, part, true),
        ("with another request behind", &format!("{get}{get}"), "", false),
    ];
    for (name, request, response, with_reset) in rows {
        for step in [usize::MAX, 1] {
            let mut driver = Driver::new(Config::default());
            driver.step = step;
            let client = driver.client_with(request.as_bytes());
            let upstream = driver.upstream();
            driver.send(upstream, response.as_bytes());
            assert_eq!(driver.proxy.in_flight(), 1, "{name} by {step}");
            let has_begun = response.starts_with("HTTP/1.1 200 ");
            driver.pass(Duration::from_micros(if has_begun { 50 } else { 2000 }));
            driver.end(client);
            assert!(driver.peer(upstream).closed.is_some(), "{name} by {step}: at once");
            assert_eq!(driver.proxy.in_flight(), 0, "{name} by {step}");
            assert_eq!(driver.peer(client).closed, Some(with_reset), "{name} by {step}");
            assert_eq!(driver.upstreams().len(), 1, "{name} by {step}");
            let snapshot = driver.proxy.snapshot(driver.now);
            assert_eq!(snapshot.backends[0].errors, 0, "{name} by {step}");
            assert!(driver.proxy.is_at_rest(), "{name} by {step}");
        }
    }
    // An end directly after the request is not caused by the response that has begun meanwhile.
    for (wait, is_served) in [(0, true), (49, true), (50, false), (1999, false)] {
        for rest in ["3\r\ncde\r\n", "3\r\ncde\r\n0\r\n\r\n"] {
            let mut driver = Driver::new(Config::default());
            let client = driver.client_with(get.as_bytes());
            let upstream = driver.upstream();
            driver.send(upstream, part.as_bytes());
            driver.pass(Duration::from_micros(wait));
            driver.end(client);
            assert_eq!(driver.peer(upstream).closed.is_none(), is_served, "after {wait} us");
            if is_served {
                driver.pass(Duration::from_secs(1));
                driver.send(upstream, rest.as_bytes());
                assert!(driver.text(client).ends_with(rest), "after {wait} us");
            }
        }
    }
    for (half_close, wait) in [(true, 1000), (false, 0), (false, 1)] {
        let mut config = Config::default();
        config.forwarding.half_close = half_close;
        let mut driver = Driver::new(config);
        let client = driver.client_with(format!("{get}{get}").as_bytes());
        driver.pass(Duration::from_millis(wait));
        driver.end(client);
        for _ in 0..2 {
            driver.pass(Duration::from_secs(1));
            driver.send(driver.upstream(), b"HTTP/1.1 204 No Content\r\n\r\n");
        }
        assert_eq!(driver.text(client).matches("HTTP/1.1 204 ").count(), 2, "{half_close}, {wait}");
        assert_eq!(driver.peer(client).closed, Some(false), "{half_close}, {wait}");
    }
}

/// A reset never counts as a half-close: the backend is released at once, before and after the end
/// of the client's side.
#[test]
fn client_that_resets_has_left() {
    for ends_before in [false, true] {
        let mut driver = Driver::new(Config::default());
        let client = driver.client_with(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        if ends_before {
            driver.end(client);
        }
        assert_eq!(driver.peer(driver.upstream()).closed, None, "{ends_before}");
        driver.reset(client);
        assert!(driver.peer(driver.upstream()).closed.is_some(), "{ends_before}");
        assert_eq!(driver.proxy.in_flight(), 0, "{ends_before}");
    }
}

/// A client's end is seen even behind bytes that cannot be read yet: those of a next request, or of
/// a body that the backend does not accept.
#[test]
fn end_behind_bytes_that_wait() {
    let next = "GET / HTTP/1.1\r\nHost: h\r\n\r\n".repeat(10_000);
    let upload = format!(
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 300000\r\n\r\n{}",
        "x".repeat(300_000)
    );
    for (name, sent) in [("requests", &next), ("a body", &upload)] {
        for half_close in [false, true] {
            let mut config = Config::default();
            config.forwarding.half_close = half_close;
            let mut driver = Driver::new(config);
            driver.backends_take = 0;
            let client = driver.client_with(sent.as_bytes());
            assert!(driver.unread(client) > 0, "{name} wait");
            let upstream = driver.upstream();
            driver.pass(Duration::from_millis(2));
            driver.end(client);
            let is_gone = driver.peer(client).closed.is_some();
            assert_eq!(is_gone, !half_close, "{name}, {half_close}");
            assert_eq!(driver.peer(upstream).closed.is_some(), !half_close, "{name}");
        }
    }
}
