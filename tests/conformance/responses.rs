//! Responses of backends: those that are forwarded, replaced by 502, or cut.
use intelliproxy::config::Config;
use intelliproxy::proxy::{ConnId, Notice};
use intelliproxy_driver::{Dialling, Driver};

use crate::bodies::dechunk;

const GET: &str = "GET /1 HTTP/1.1\r\nHost: h\r\n\r\n";
const NEXT: &str = "GET /2 HTTP/1.1\r\nHost: h\r\n\r\n";
const OWN: &str = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nown";
/// The proxy's own response on a connection that stays open.
const BAD_GATEWAY: &str = "HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/plain; charset=utf-8\r\n\
                           Content-Length: 16\r\n\r\n502 Bad Gateway\n";

/// Sends one more request on the same client connection. It gets a new upstream, and the client
/// gets that one's response.
#[track_caller]
fn assert_next_is_own(name: &str, driver: &mut Driver, client: ConnId) {
    driver.drain(client);
    let before = driver.upstreams().to_vec();
    driver.send(client, NEXT.as_bytes());
    let upstream = driver.upstream();
    assert!(!before.contains(&upstream), "{name}: the connection is not used again");
    driver.send(upstream, OWN.as_bytes());
    assert_eq!(driver.text(client), OWN, "{name}: the next response is its own");
}

/// Heads that break a rule become 502. Their connection is closed, and the client's next request
/// uses another one.
#[test]
fn bad_heads_become_502() {
    for (name, response) in [
        ("garbage", "hello\r\n\r\n"),
        ("another protocol", "SSH-2.0-OpenSSH_9.2\r\n"),
        ("status that is not a number", "HTTP/1.1 abc OK\r\n\r\n"),
        ("status of two digits", "HTTP/1.1 20 OK\r\n\r\n"),
        ("status of four digits", "HTTP/1.1 2000 OK\r\n\r\n"),
        ("status below 100", "HTTP/1.1 099 OK\r\nContent-Length: 0\r\n\r\n"),
        ("no version", "200 OK\r\n\r\n"),
        ("version 2", "HTTP/2 200 OK\r\n\r\n"),
        ("version 1.2", "HTTP/1.2 200 OK\r\n\r\n"),
        ("space before it", " HTTP/1.1 200 OK\r\n\r\n"),
        ("empty line before it", "\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        ("two empty lines before it", "\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        ("two spaces", "HTTP/1.1  200 OK\r\n\r\n"),
        ("control byte in the reason", "HTTP/1.1 200 O\u{1}K\r\nContent-Length: 0\r\n\r\n"),
        ("status line ends in LF", "HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n"),
        ("field ends in LF", "HTTP/1.1 200 OK\r\nContent-Length: 0\nA: b\r\n\r\n"),
        ("head ends in LF", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\n"),
        ("bare CR", "HTTP/1.1 200 OK\r\nA: b\rc\r\nContent-Length: 0\r\n\r\n"),
        ("folded", "HTTP/1.1 200 OK\r\nA: b\r\n c\r\nContent-Length: 0\r\n\r\n"),
        ("space before a colon", "HTTP/1.1 200 OK\r\nContent-Length : 0\r\n\r\n"),
        ("empty name", "HTTP/1.1 200 OK\r\n: b\r\nContent-Length: 0\r\n\r\n"),
        ("no colon", "HTTP/1.1 200 OK\r\nAbc\r\nContent-Length: 0\r\n\r\n"),
        ("NUL", "HTTP/1.1 200 OK\r\nA: \0\r\nContent-Length: 0\r\n\r\n"),
        (
            "both framings",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        ),
        (
            "lengths that differ",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        ),
        ("list of lengths", "HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\n"),
        ("not a length", "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"),
        ("negative length", "HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n"),
        ("huge length", "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n"),
        ("other coding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n"),
        ("chunked not last", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\n"),
        ("chunked twice", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n"),
        ("chunked in HTTP/1.0", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        (
            "101 not asked for",
            "HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        ),
    ] {
        for step in [usize::MAX, 1] {
            let mut driver = Driver::new(Config::default());
            driver.step = step;
            let client = driver.client_with(GET.as_bytes());
            let upstream = driver.upstream();
            driver.send(upstream, response.as_bytes());
            assert_eq!(driver.text(client), BAD_GATEWAY, "{name} by {step}");
            assert!(driver.peer(upstream).closed.is_some(), "{name} by {step}");
            assert_next_is_own(name, &mut driver, client);
        }
    }
}

/// Responses as the client gets them, and whether their connection carries another exchange.
#[test]
fn good_responses_pass() {
    let rows: [(&str, &str, &str, &str, bool); 16] = [
        ("length", "GET", OWN, OWN, true),
        ("empty", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "", true),
        ("no reason", "GET", "HTTP/1.1 299 \r\nContent-Length: 1\r\n\r\nx", "", true),
        (
            "neither reason nor its space",
            "GET",
            "HTTP/1.1 200\r\nContent-Length: 1\r\n\r\nx",
            "HTTP/1.1 200 \r\nContent-Length: 1\r\n\r\nx",
            true,
        ),
        ("404", "GET", "HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno", "", true),
        (
            "fields in order",
            "GET",
            "HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nB:2\r\nSet-Cookie: c=3\r\nContent-Length: 1\r\n\r\nx",
            "",
            true,
        ),
        (
            "hop-by-hop fields",
            "GET",
            "HTTP/1.1 200 OK\r\nKeep-Alive: timeout=5\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\n\
             Proxy-Connection: x\r\nStays: 1\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nStays: 1\r\nContent-Length: 0\r\n\r\n",
            true,
        ),
        (
            "close is the backend's own affair",
            "GET",
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx",
            false,
        ),
        (
            "HTTP/1.0 closes",
            "GET",
            "HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx",
            false,
        ),
        (
            "HTTP/1.0 with keep-alive",
            "GET",
            "HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 1\r\n\r\nx",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx",
            true,
        ),
        (
            "equal lengths are one",
            "GET",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx",
            true,
        ),
        ("204", "GET", "HTTP/1.1 204 No Content\r\nA: b\r\n\r\n", "", true),
        ("304 with a length", "GET", "HTTP/1.1 304 N\r\nContent-Length: 9\r\n\r\n", "", true),
        ("HEAD with a length", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", "", true),
        (
            "HEAD with chunks announced",
            "HEAD",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\n",
            true,
        ),
        (
            "early hints",
            "GET",
            "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx",
            "",
            true,
        ),
    ];
    for (name, method, response, expected, is_kept) in rows {
        // An empty `expected` means that every byte passes.
        let expected = if expected.is_empty() { response } else { expected };
        for step in [usize::MAX, 1] {
            let mut driver = Driver::new(Config::default());
            driver.step = step;
            let client = driver.client_with(GET.replace("GET", method).as_bytes());
            let upstream = driver.upstream();
            driver.send(upstream, response.as_bytes());
            assert_eq!(driver.text(client), expected, "{name} by {step}");
            assert_eq!(driver.peer(upstream).closed.is_none(), is_kept, "{name} by {step}");
            driver.end(client);
            assert!(driver.proxy.is_at_rest(), "{name} by {step}");
        }
    }
}

/// Chunks are encoded again for HTTP/1.1 and decoded for HTTP/1.0, without extensions. Trailers are
/// forwarded to clients with `TE: trailers`.
#[test]
fn chunked_responses_are_encoded_again() {
    let body = "5;a=b\r\nhello\r\n001\r\n!\r\n0\r\nX-Sum: 1\r\nContent-Length: 3\r\n\r\n";
    let response = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
    for step in [usize::MAX, 1] {
        for (fields, trailer) in [("", ""), ("TE: trailers\r\nConnection: te\r\n", "X-Sum: 1\r\n")]
        {
            let mut driver = Driver::new(Config::default());
            driver.step = step;
            let request = format!("GET / HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
            let client = driver.client_with(request.as_bytes());
            let upstream = driver.upstream();
            driver.send(upstream, response.as_bytes());
            let text = driver.text(client);
            let (head, body) = text.split_once("\r\n\r\n").expect("a head");
            assert_eq!(head, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked");
            assert_eq!(dechunk(body), ("hello!".to_owned(), trailer.to_owned()));
            assert_eq!(driver.peer(upstream).closed, None);
        }
        for connection in ["", "Connection: keep-alive\r\n"] {
            let mut driver = Driver::new(Config::default());
            driver.step = step;
            let request = format!("GET / HTTP/1.0\r\n{connection}\r\n");
            let client = driver.client_with(request.as_bytes());
            driver.send(driver.upstream(), response.as_bytes());
            assert_eq!(driver.text(client), "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello!");
            assert!(driver.peer(client).is_over(), "its end is the end of the connection");
        }
    }
}

/// A response that ends with the backend's connection gets an end that the client can see: chunks
/// in HTTP/1.1, the end of the connection in HTTP/1.0.
#[test]
fn responses_until_close_are_framed() {
    for step in [usize::MAX, 1] {
        for (version, head, is_kept) in [
            ("1.1", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked", true),
            ("1.0", "HTTP/1.1 200 OK\r\nConnection: close", false),
        ] {
            let mut driver = Driver::new(Config::default());
            driver.step = step;
            let request = format!("GET / HTTP/{version}\r\nHost: h\r\n\r\n");
            let client = driver.client_with(request.as_bytes());
            let upstream = driver.upstream();
            driver.send(upstream, b"HTTP/1.1 200 OK\r\n\r\nhello");
            driver.send(upstream, b"!");
            assert!(!driver.peer(client).is_over() && !driver.text(client).ends_with("0\r\n\r\n"));
            driver.end(upstream);
            let text = driver.text(client);
            let (got, body) = text.split_once("\r\n\r\n").expect("a head");
            assert_eq!(got, head);
            let data = if is_kept { dechunk(body).0 } else { body.to_owned() };
            assert_eq!(data, "hello!");
            assert_eq!(driver.peer(client).is_over(), !is_kept);
            assert!(driver.peer(upstream).closed.is_some());
        }
    }
}

/// The client can see that a body was cut: it gets the received bytes, then the connection ends
/// without the body's end. It is reset only where a clean end would look complete.
#[test]
fn cut_responses_are_seen_as_cut() {
    for (name, response, is_reset) in [
        ("length", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello", false),
        ("length, no body", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", false),
        ("length, by reset", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello", true),
        ("in a chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhello", false),
        (
            "between chunks",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
            false,
        ),
        (
            "in the last chunk",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
            false,
        ),
        (
            "bad chunk",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nx\r\n",
            false,
        ),
        (
            "no CRLF",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello!\r\n0\r\n\r\n",
            false,
        ),
        ("until close, by reset", "HTTP/1.1 200 OK\r\n\r\nhello", true),
        ("until close, by reset, HTTP/1.0", "HTTP/1.1 200 OK\r\n\r\nhello", true),
        (
            "in a chunk, HTTP/1.0",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhello",
            false,
        ),
        ("length, HTTP/1.0", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello", false),
    ] {
        for step in [usize::MAX, 1] {
            let mut driver = Driver::new(Config::default());
            driver.step = step;
            let is_old = name.ends_with("HTTP/1.0");
            let version = if is_old { "1.0" } else { "1.1" };
            let client = driver.client_with(GET.replace("1.1", version).as_bytes());
            let upstream = driver.upstream();
            driver.send(upstream, response.as_bytes());
            if is_reset {
                driver.reset(upstream);
            } else {
                driver.end(upstream);
            }
            let text = driver.text(client);
            assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{name} by {step}: {text}");
            assert!(!text.ends_with("0\r\n\r\n"), "{name} by {step}: {text}");
            let is_passed_on = step == 1 || text.contains("hello") == response.contains("hello");
            assert!(is_passed_on, "{name}: {text}");
            let looks_whole = is_old && !name.starts_with("length");
            let closed = driver.peer(client).closed;
            assert_eq!(closed == Some(true), looks_whole, "{name} by {step}: reset");
            assert!(looks_whole || driver.peer(client).is_over(), "{name} by {step}");
            driver.end_if_open(client);
            assert!(driver.peer(upstream).closed.is_some(), "{name} by {step}");
            assert!(driver.proxy.is_at_rest(), "{name} by {step}");
        }
    }
}

/// Bytes outside every response end their connection. The client's next request uses another
/// connection and gets its own response.
#[test]
fn bytes_after_a_response_are_dropped() {
    let smuggled = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    for (name, method, response) in [
        ("length", "GET", OWN),
        ("204", "GET", "HTTP/1.1 204 No Content\r\n\r\n"),
        ("304", "GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\n"),
        ("HEAD", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"),
        ("chunks", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ] {
        for step in [usize::MAX, 1] {
            // The bytes arrive directly behind the response, or when the connection is idle.
            for is_late in [false, true] {
                let mut driver = Driver::new(Config::default());
                driver.step = step;
                let client = driver.client_with(GET.replace("GET", method).as_bytes());
                let upstream = driver.upstream();
                if is_late {
                    driver.send(upstream, response.as_bytes());
                    driver.send(upstream, smuggled.as_bytes());
                    let reported = |n: &Notice| matches!(n, Notice::UnsolicitedBytes { .. });
                    assert!(driver.notices.iter().any(reported), "{name}: a notice reports it");
                } else {
                    driver.send(upstream, format!("{response}{smuggled}").as_bytes());
                }
                assert!(driver.peer(upstream).closed.is_some(), "{name} by {step}");
                assert!(!driver.text(client).contains("evil"), "{name} by {step}");
                assert_next_is_own(name, &mut driver, client);
            }
        }
    }
}

/// A response before the request's end is forwarded, and neither connection is used again.
#[test]
fn early_responses_end_both_connections() {
    let mut driver = Driver::new(Config::default());
    let client = driver.client_with(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nhel");
    let upstream = driver.upstream();
    driver.send(upstream, b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno");
    driver.end(upstream);
    assert_eq!(
        driver.text(client),
        "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno"
    );
    assert!(driver.peer(client).is_shut);
    assert!(driver.peer(upstream).closed.is_some());
    driver.send(client, b"lo GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(driver.upstreams().len(), 1, "the bytes that follow are not a request");
}

/// Interim responses pass to HTTP/1.1 clients only, up to a limit.
#[test]
fn interim_responses() {
    let interim = "HTTP/1.1 102 Processing\r\n\r\n";
    let mut driver = Driver::new(Config::default());
    let client = driver.client_with(b"GET / HTTP/1.0\r\n\r\n");
    driver.send(driver.upstream(), format!("{interim}{OWN}").as_bytes());
    assert!(driver.text(client).starts_with("HTTP/1.1 200 OK\r\n"), "{}", driver.text(client));

    let mut driver = Driver::new(Config::default());
    let client = driver.client_with(GET.as_bytes());
    let upstream = driver.upstream();
    driver.send(upstream, interim.repeat(10_000).as_bytes());
    assert!(driver.peer(upstream).closed.is_some(), "a flood ends");
    assert!(driver.text(client).ends_with(BAD_GATEWAY), "{}", driver.text(client));
}

/// A tunnel opens only after a 101 to a request that named the protocol. Then bytes pass in both
/// directions, early ones included, and each side's end is passed on.
#[test]
fn tunnels_open_after_a_101() {
    let request =
        "GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let switch =
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n";
    for step in [usize::MAX, 1] {
        let mut driver = Driver::new(Config::default());
        driver.step = step;
        let client = driver.client_with(format!("{request}early").as_bytes());
        let upstream = driver.upstream();
        assert!(driver.text(upstream).ends_with("\r\n\r\n"), "early bytes wait");
        driver.drain(upstream);
        driver.send(upstream, format!("{switch}first").as_bytes());
        assert_eq!(driver.text(client), format!("{switch}first"));
        assert_eq!(driver.text(upstream), "early");
        driver.send(client, b"GET / HTTP/1.1\r\n\r\n\0\xff");
        driver.send(upstream, b"HTTP/1.1 x\0");
        assert_eq!(driver.peer(upstream).received, b"earlyGET / HTTP/1.1\r\n\r\n\0\xff");
        assert!(driver.text(client).ends_with("HTTP/1.1 x\0"));
        driver.end(client);
        assert!(driver.peer(upstream).is_shut, "one side's end is passed on");
        driver.send(upstream, b"last");
        assert!(driver.text(client).ends_with("last"), "the other side goes on");
        driver.end(upstream);
        assert_eq!(driver.peer(client).closed, Some(false));
        assert!(driver.proxy.is_at_rest());
    }
    // A protocol that was not requested, several, none, or no `Connection: upgrade`.
    for refused in [
        switch.replace("websocket", "h2c"),
        switch.replace("websocket", "websocket, other"),
        switch.replace("Upgrade: websocket\r\n", ""),
        switch.replace("Connection: upgrade\r\n", ""),
    ] {
        let mut driver = Driver::new(Config::default());
        let client = driver.client_with(request.as_bytes());
        driver.send(driver.upstream(), refused.as_bytes());
        assert_eq!(driver.text(client), BAD_GATEWAY, "{refused}");
    }
    // A refused upgrade is a response like any other.
    let mut driver = Driver::new(Config::default());
    let client = driver.client_with(format!("{request}{NEXT}").as_bytes());
    let upstream = driver.upstream();
    driver.send(upstream, OWN.as_bytes());
    assert_eq!(driver.drain(client), OWN.as_bytes());
    assert!(driver.text(upstream).ends_with("Via: 1.1 intelliproxy-910a2dec\r\n\r\n"));
    assert!(driver.text(upstream).contains("GET /2 HTTP/1.1\r\n"), "the next one is served");
}

/// A request is retried only if it may be repeated and no byte of its response has arrived.
#[test]
fn failures_are_retried_where_it_is_safe() {
    let is_served = |text: &str| text.starts_with("HTTP/1.1 200 OK\r\n");
    for (name, request, is_retried) in [
        ("GET", GET.to_owned(), true),
        ("PUT", "PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nab".to_owned(), true),
        ("REPORT", "REPORT / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nab".to_owned(), true),
        ("UNLOCK", "UNLOCK / HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), true),
        ("LOCK", "LOCK / HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), false),
        ("a method that is not registered", "GOT / HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), false),
        ("POST", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nab".to_owned(), false),
    ] {
        // The backends get their own Host, so that the second request shows that it was rewritten.
        let mut config = Config::default();
        config.forwarding.keep_host = false;
        let mut driver = Driver::with_backends(config, &["a", "b"]);
        let client = driver.client_with(request.as_bytes());
        let first = driver.upstream();
        let sent = driver.text(first);
        driver.end(first);
        assert_eq!(driver.upstreams().len(), if is_retried { 2 } else { 1 }, "{name}");
        if is_retried {
            let second = driver.upstream();
            let again = sent.replace("Host: a.test", "Host: b.test");
            assert_eq!(driver.text(second), again, "{name}: the same, to the other one");
            driver.send(second, OWN.as_bytes());
            assert!(is_served(&driver.text(client)), "{name}");
        } else {
            assert_eq!(driver.text(client), BAD_GATEWAY, "{name}");
        }
        // After one byte of the response nothing is sent again.
        let mut driver = Driver::with_backends(Config::default(), &["a", "b"]);
        let client = driver.client_with(request.as_bytes());
        driver.send(driver.upstream(), b"H");
        driver.end(driver.upstream());
        assert_eq!(driver.upstreams().len(), 1, "{name}");
        assert_eq!(driver.text(client), BAD_GATEWAY, "{name}");
    }
    // A POST that could not be sent at all goes to another backend.
    let mut driver = Driver::with_backends(Config::default(), &["a", "b"]);
    driver.dialling = Dialling::IsRefused;
    let client = driver.client_with(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nab");
    assert_eq!(driver.upstreams().len(), 2);
    assert_eq!(driver.text(client), BAD_GATEWAY, "both refuse");
}

/// An idle connection that turns out to be closed is replaced, and its backend is not blamed.
#[test]
fn dead_pooled_connections_are_replaced() {
    let mut driver = Driver::with_backends(Config::default(), &["a", "b"]);
    let client = driver.client_with(GET.as_bytes());
    let pooled = driver.upstream();
    driver.send(pooled, OWN.as_bytes());
    driver.drain(client);
    driver.send(client, NEXT.as_bytes());
    assert_eq!(driver.upstreams(), [pooled], "the pooled one is used");
    driver.end(pooled);
    let fresh = driver.upstream();
    assert_ne!(fresh, pooled);
    assert!(driver.text(fresh).starts_with("GET /2 HTTP/1.1\r\nHost: h\r\n"));
    driver.send(fresh, OWN.as_bytes());
    assert_eq!(driver.text(client), OWN);
    let snapshot = driver.proxy.snapshot(driver.now);
    assert_eq!((snapshot.backends[0].requests, snapshot.backends[0].errors), (2, 0));
    // A connection that closes while it is idle is not used at all.
    driver.end(fresh);
    assert_eq!(driver.peer(fresh).closed, Some(false));
    driver.send(client, NEXT.as_bytes());
    assert_eq!(driver.upstreams().len(), 3);
}

/// The bytes that one side of a tunnel sent are forwarded completely, even if that side accepts no
/// more because it ended cleanly and reset a late ping, or because it broke. Only then does the
/// tunnel end.
#[test]
fn tunnel_sides_that_take_no_more() {
    let request = "GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
    let switch = "HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
    for (ends_cleanly, is_of_client) in [(true, false), (false, false), (true, true), (false, true)]
    {
        let name = format!("clean {ends_cleanly}, client {is_of_client}");
        let mut driver = Driver::new(Config::default());
        let client = driver.client_with(request.as_bytes());
        let upstream = driver.upstream();
        driver.send(upstream, switch.as_bytes());
        driver.drain(client);
        driver.drain(upstream);
        let (leaver, other) = if is_of_client { (client, upstream) } else { (upstream, client) };
        driver.take(other, 10);
        driver.send(leaver, &[b'x'; 50_000]);
        if ends_cleanly {
            driver.end(leaver);
            driver.send(other, b"ping");
            driver.break_writes(leaver);
        } else {
            driver.reset(leaver);
        }
        assert_eq!(driver.peer(other).closed, None, "{name}: the bytes that came wait");
        driver.send(other, b"another ping");
        driver.take(other, usize::MAX);
        assert_eq!(driver.peer(other).received.len(), 50_000, "{name}");
        let is_reset = !ends_cleanly && !is_of_client;
        if ends_cleanly && !is_of_client {
            // If the client's connection were closed now, its next ping would cause a reset, which
            // destroys the bytes that the client has not read.
            assert!(driver.peer(other).is_shut && driver.peer(other).closed.is_none(), "{name}");
            driver.send(other, b"one more ping");
            driver.pass(Config::default().timeouts.linger);
        }
        assert_eq!(driver.peer(other).closed, Some(is_reset), "{name}");
        assert!(driver.peer(leaver).closed.is_some(), "{name}");
        assert!(driver.proxy.is_at_rest(), "{name}");
    }
}
