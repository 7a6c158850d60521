//! Rules of RFC 9110 and 9112 on the ends of messages and on the proxy's duties: responses without
//! a body, lists of lengths, blanks after chunk sizes, upgrades, interim responses.
use intelliproxy::config::Config;
use intelliproxy::proxy::Notice;
use intelliproxy_driver::Driver;

use crate::bodies::dechunk;
use crate::expected::forwarded;

const OWN: &str = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nown";

/// Responses to HEAD, and 204 and 304, end at the empty line, whatever their fields are (RFC 9112
/// section 6.3 rule 1), and their connection carries the next exchange.
#[test]
fn bodiless_responses_end_at_the_empty_line() {
    let fields = [
        ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", ""),
        ("Transfer-Encoding: gzip, chunked\r\n", ""),
        ("Content-Length: 5, 5\r\n", "Content-Length: 5\r\n"),
        ("Content-Length: 5\r\nContent-Length: 5\r\n", "Content-Length: 5\r\n"),
        ("Content-Length: 5, 6\r\n", ""),
        ("Content-Length: five\r\n", ""),
        ("Content-Length: 5\r\n", "Content-Length: 5\r\n"),
    ];
    for (method, status) in [("HEAD", 200), ("GET", 304), ("DELETE", 204)] {
        for (came, kept) in fields {
            for step in [usize::MAX, 1] {
                let name = format!("{method} {status} {came:?} by {step}");
                let mut driver = Driver::new(Config::default());
                driver.step = step;
                let request = format!("{method} /1 HTTP/1.1\r\nHost: h\r\n\r\n");
                let client = driver.client_with(request.as_bytes());
                let upstream = driver.upstream();
                let head = format!("HTTP/1.1 {status} R\r\nA: b\r\n");
                driver.send(upstream, format!("{head}{came}\r\n").as_bytes());
                let kept = if status == 204 { "" } else { kept };
                assert_eq!(driver.text(client), format!("{head}{kept}\r\n"), "{name}");
                driver.send(client, b"GET /2 HTTP/1.1\r\nHost: h\r\n\r\n");
                assert_eq!(driver.upstreams(), [upstream], "{name}: the connection is kept");
                driver.send(upstream, OWN.as_bytes());
                assert!(driver.text(client).ends_with(OWN), "{name}");
            }
        }
    }
}

/// Equal members of a list of lengths are one length (RFC 9110 section 5.3). A list with anything
/// but equal numbers is refused.
#[test]
fn equal_lengths_are_one_length() {
    for (lengths, is_one) in [
        ("Content-Length: 3, 3\r\n", true),
        ("Content-Length: 3,3 ,\t3\r\n", true),
        ("Content-Length: 3, 3\r\nContent-Length: 3\r\n", true),
        ("Content-Length: 3, 4\r\n", false),
        ("Content-Length: 3, \r\n", false),
        ("Content-Length: ,3\r\n", false),
        ("Content-Length: 3 3\r\n", false),
        ("Content-Length: 3, x\r\n", false),
        ("Content-Length: 3, 3\r\nContent-Length: 4\r\n", false),
    ] {
        for step in [usize::MAX, 1] {
            let mut driver = Driver::new(Config::default());
            driver.step = step;
            let client = driver.client_with(b"GET /1 HTTP/1.1\r\nHost: h\r\n\r\n");
            let upstream = driver.upstream();
            driver.send(upstream, format!("HTTP/1.1 200 OK\r\n{lengths}\r\nown").as_bytes());
            let text = driver.text(client);
            if is_one {
                assert_eq!(text, OWN, "{lengths:?} by {step}");
            } else {
                assert!(text.starts_with("HTTP/1.1 502 "), "{lengths:?} by {step}: {text}");
            }
            assert_eq!(driver.peer(upstream).closed.is_none(), is_one, "{lengths:?} by {step}");
        }
    }
}

/// Blanks between a chunk's size and its extension or line end are skipped in both directions. The
/// other side gets plain chunks.
#[test]
fn blanks_after_chunk_sizes_are_skipped() {
    let body = "5  \r\nhello\r\n1\t\r\n \r\n5 ;a=b\r\nworld\r\n1 \t ; c\r\n!\r\n0 \r\n\r\n";
    for step in [usize::MAX, 1] {
        let mut driver = Driver::new(Config::default());
        driver.step = step;
        let head = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
        let client = driver.client_with(format!("{head}{body}").as_bytes());
        let upstream = driver.upstream();
        let expected = forwarded("POST /", "Transfer-Encoding: chunked\r\n");
        let (_, sent) = driver.text(upstream).split_once("\r\n\r\n").map_or_else(
            || panic!("no head by {step}"),
            |(head, sent)| (head.to_owned(), sent.to_owned()),
        );
        assert_eq!(driver.text(upstream).len() - sent.len(), expected.len(), "by {step}");
        assert_eq!(dechunk(&sent).0, "hello world!", "request by {step}");
        let response = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
        driver.send(upstream, response.as_bytes());
        let text = driver.text(client);
        let (_, got) = text.split_once("\r\n\r\n").expect("a head");
        assert_eq!(dechunk(got).0, "hello world!", "response by {step}");
    }
}

/// A 426 keeps the Upgrade that it requires (RFC 9110 section 15.5.22), and Connection names it. In
/// other responses Upgrade is the backend's own offer and is removed.
#[test]
fn a_426_names_its_protocol() {
    let fields = "Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n";
    for (request, connection) in [
        ("GET / HTTP/1.1\r\nHost: h\r\n\r\n", "upgrade"),
        ("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", "close, upgrade"),
        ("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "keep-alive, upgrade"),
    ] {
        let mut driver = Driver::new(Config::default());
        let client = driver.client_with(request.as_bytes());
        driver.send(driver.upstream(), format!("HTTP/1.1 426 U\r\n{fields}\r\n").as_bytes());
        let expected = format!(
            "HTTP/1.1 426 U\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\
             Connection: {connection}\r\n\r\n"
        );
        assert_eq!(driver.text(client), expected);
    }
    let mut driver = Driver::new(Config::default());
    let client = driver.client_with(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    driver.send(driver.upstream(), format!("HTTP/1.1 200 OK\r\n{fields}\r\n").as_bytes());
    assert_eq!(driver.text(client), "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
}

/// An upgrade by POST becomes a tunnel, with or without a body, even if the 101 arrives before the
/// body is complete. The client's bytes in the tunnel begin behind its request.
#[test]
fn an_upgrade_by_post_becomes_a_tunnel() {
    let switch = "HTTP/1.1 101 UPGRADED\r\nUpgrade: tcp\r\nConnection: upgrade\r\n\r\n";
    let head = "POST /exec/1/start HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n";
    let bodies = [
        ("", ""),
        ("Content-Length: 0\r\n", ""),
        ("Content-Length: 14\r\n", "{\"Tty\": false}"),
        ("Transfer-Encoding: chunked\r\n", "2\r\n{}\r\n0\r\n\r\n"),
    ];
    for (field, body) in bodies {
        for is_early in [false, true] {
            for step in [usize::MAX, 1] {
                let name = format!("{field:?}, early {is_early}, by {step}");
                let mut driver = Driver::new(Config::default());
                driver.step = step;
                let cut = if is_early { body.len() / 2 } else { body.len() };
                let begun = format!("{head}{field}\r\n{}", &body[..cut]);
                let client = driver.client_with(begun.as_bytes());
                let upstream = driver.upstream();
                let sent = driver.text(upstream);
                assert!(sent.contains("Upgrade: tcp\r\n"), "{name}: {sent}");
                assert!(sent.contains("Connection: upgrade\r\n"), "{name}: {sent}");
                driver.send(upstream, switch.as_bytes());
                assert_eq!(driver.text(client), switch, "{name}");
                driver.send(client, format!("{}stdin", &body[cut..]).as_bytes());
                driver.send(upstream, b"stdout");
                assert_eq!(driver.text(client), format!("{switch}stdout"), "{name}");
                let text = driver.text(upstream);
                assert!(text.ends_with("stdin"), "{name}: {text}");
                if field.starts_with("Content-Length: 1") {
                    assert!(text.ends_with(&format!("{body}stdin")), "{name}: {text}");
                } else if !body.is_empty() {
                    assert!(text.ends_with("\r\n0\r\n\r\nstdin"), "{name}: {text}");
                }
                driver.end(client);
                driver.end(upstream);
                assert_eq!(driver.peer(client).closed, Some(false), "{name}");
                assert!(driver.proxy.is_at_rest(), "{name}");
            }
        }
    }
}

/// A backend that resets its connection after an early 101 ends the session, even if the client's
/// body is not complete.
#[test]
fn a_tunnel_that_breaks_before_the_body_is_whole_ends() {
    let mut driver = Driver::new(Config::default());
    let client = driver.client_with(
        b"POST / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 9\r\n\r\nab",
    );
    let upstream = driver.upstream();
    driver.send(upstream, b"HTTP/1.1 101 S\r\nUpgrade: tcp\r\nConnection: upgrade\r\n\r\n");
    driver.reset(upstream);
    driver.send(client, b"c");
    assert_eq!(driver.peer(client).closed, Some(true));
    assert!(driver.proxy.is_at_rest());
}

/// Any number of interim responses is forwarded, up to a limit on their bytes. A flood ends with an
/// error that names the limit.
#[test]
fn interim_responses_are_bounded_by_their_bytes() {
    let interim = "HTTP/1.1 102 Processing\r\n\r\n";
    let max = 8 * Config::default().limits.head_bytes_max / interim.len();
    for (count, passes) in [(33, true), (1000, true), (max, true), (max + 1, false)] {
        let mut driver = Driver::new(Config::default());
        let client = driver.client_with(b"COPY /a HTTP/1.1\r\nHost: h\r\n\r\n");
        let upstream = driver.upstream();
        for _ in 0..count {
            driver.send(upstream, interim.as_bytes());
        }
        driver.send(upstream, OWN.as_bytes());
        let text = driver.text(client);
        assert_eq!(text == interim.repeat(count) + OWN, passes, "{count} interim responses");
        if !passes {
            let names_limit = driver.notices.iter().any(|notice| match notice {
                Notice::UpstreamError { error, .. } => {
                    error.to_string().contains("limits.headBytesMax")
                }
                _ => false,
            });
            assert!(names_limit, "{:?}", driver.notices);
        }
    }
}

/// OPTIONS is forwarded only as often as Max-Forwards allows (RFC 9110 section 7.6.2): at 0 the
/// proxy responds itself, otherwise the backend gets one less. A value that is not a single number
/// is forwarded unchanged, and so is that of any other method.
#[test]
fn max_forwards_limits_options() {
    for (request, forwarded_field) in [
        ("OPTIONS /a HTTP/1.1\r\nHost: h\r\nMax-Forwards: 1\r\n", "Max-Forwards: 0\r\n"),
        ("OPTIONS * HTTP/1.1\r\nHost: h\r\nmax-forwards:010\r\n", "Max-Forwards: 9\r\n"),
        (
            "OPTIONS /a HTTP/1.1\r\nHost: h\r\nMax-Forwards: 99999999999999999999999\r\n",
            "Max-Forwards: 999999998\r\n",
        ),
        ("OPTIONS /a HTTP/1.1\r\nHost: h\r\nMax-Forwards: x\r\n", "Max-Forwards: x\r\n"),
        ("OPTIONS /a HTTP/1.1\r\nHost: h\r\nMax-Forwards:\r\n", "Max-Forwards:\r\n"),
        (
            "OPTIONS /a HTTP/1.1\r\nHost: h\r\nMax-Forwards: 0\r\nMax-Forwards: 0\r\n",
            "Max-Forwards: 0\r\nMax-Forwards: 0\r\n",
        ),
        ("GET /a HTTP/1.1\r\nHost: h\r\nMax-Forwards: 0\r\n", "Max-Forwards: 0\r\n"),
    ] {
        for step in [usize::MAX, 1] {
            let mut driver = Driver::new(Config::default());
            driver.step = step;
            driver.client_with(format!("{request}\r\n").as_bytes());
            let text = driver.text(driver.upstream());
            assert!(text.contains(&format!("\r\n{forwarded_field}")), "{request:?}: {text}");
            let count = text.to_ascii_lowercase().matches("max-forwards").count();
            assert_eq!(count, forwarded_field.matches("Max").count(), "{request:?}: {text}");
        }
    }
    let own = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    for target in ["*", "/a"] {
        let mut driver = Driver::new(Config::default());
        let request = format!("OPTIONS {target} HTTP/1.1\r\nHost: h\r\nMax-Forwards: 0\r\n\r\n");
        let client = driver.client_with(request.repeat(2).as_bytes());
        assert_eq!(driver.text(client), own.repeat(2), "{target}");
        assert!(driver.upstreams().is_empty(), "{target}: nothing is forwarded");
        driver.end(client);
        assert!(driver.proxy.is_at_rest(), "{target}");
    }
    // An unread body ends the connection, and is not taken for a next request.
    let mut driver = Driver::new(Config::default());
    let client = driver.client_with(
        b"OPTIONS /a HTTP/1.1\r\nHost: h\r\nMax-Forwards: 0\r\nContent-Length: 27\r\n\r\n\
          GET / HTTP/1.1\r\nHost: h\r\n\r\n",
    );
    assert_eq!(driver.text(client), own.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n"));
    assert!(driver.upstreams().is_empty());
    assert!(driver.peer(client).is_shut);
}

/// A final response without Date gets one (RFC 9110 section 6.6.1), whether its head is forwarded
/// unchanged or rewritten. An existing Date is kept. The proxy's own responses have a Date.
#[test]
fn a_response_without_date_gets_one() {
    const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    let line = format!("Date: {DATE}\r\n");
    for (came, expected) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nown".to_owned(), true),
        ("HTTP/1.1 200\r\nContent-Length: 3\r\n\r\nown".to_owned(), true),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(), true),
        ("HTTP/1.1 204 No\r\n\r\n".to_owned(), true),
        ("HTTP/1.1 200 OK\r\nKeep-Alive: x\r\nContent-Length: 0\r\n\r\n".to_owned(), true),
        (format!("HTTP/1.1 200 OK\r\nContent-Length: 90000\r\n\r\n{}", "x".repeat(90_000)), true),
        ("HTTP/1.1 200 OK\r\ndate: x\r\nContent-Length: 0\r\n\r\n".to_owned(), false),
    ] {
        for step in [usize::MAX, 1] {
            let mut driver = Driver::new(Config::default());
            driver.step = step;
            driver.proxy.handle_date("Thu, 01 Jan 1970 00:00:00 GMT");
            driver.proxy.handle_date(DATE);
            let client = driver.client_with(b"GET /1 HTTP/1.1\r\nHost: h\r\n\r\n");
            let upstream = driver.upstream();
            let hints = "HTTP/1.1 103 H\r\nLink: </a>\r\n\r\n";
            driver.send(upstream, format!("{hints}{came}").as_bytes());
            let text = driver.text(client);
            let text = text.strip_prefix(hints).expect("an interim response gets no Date");
            assert_eq!(
                text.matches(&line).count(),
                usize::from(expected),
                "{came:.40}: {text:.200}"
            );
            if !expected {
                assert_eq!(text, came);
            }
            let (head, body) = text.split_once("\r\n\r\n").expect("a head");
            assert!(head.starts_with("HTTP/1.1 20"), "{head}");
            assert_eq!(body, came.split_once("\r\n\r\n").expect("a head").1, "{came:.40}");
        }
    }
    let mut driver = Driver::new(Config::default());
    driver.proxy.handle_date(DATE);
    for request in ["GET\r\n\r\n", "OPTIONS * HTTP/1.1\r\nHost: h\r\nMax-Forwards: 0\r\n\r\n"] {
        let client = driver.client_with(request.as_bytes());
        assert!(driver.text(client).contains(&line), "{}", driver.text(client));
    }
}

/// A tunnel stays at its address when its backend moves in the configuration, even if that backend
/// accepts no more bytes (rule R3 of LIFECYCLE.md). The client's bytes go to no other connection.
#[test]
fn a_tunnel_does_not_move_with_its_backend() {
    for takes_no_more in [false, true] {
        let mut driver = Driver::with_backends(Config::default(), &["a", "b"]);
        let request = "GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
        let client = driver.client_with(request.as_bytes());
        let upstream = driver.upstream();
        driver.send(upstream, b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n");
        let before = driver.text(upstream);
        if takes_no_more {
            driver.send(client, b"ping");
            driver.break_writes(upstream);
            driver.send(client, b"lost");
        }
        driver.move_backend("a");
        driver.send(client, b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n");
        driver.send(upstream, b"pong");
        assert!(driver.text(client).ends_with("pong"), "{takes_no_more}");
        assert_eq!(driver.upstreams(), [upstream], "{takes_no_more}: no other connection is made");
        if !takes_no_more {
            assert!(driver.text(upstream).len() > before.len());
        }
        driver.end(client);
        driver.end(upstream);
        assert!(driver.proxy.is_at_rest());
    }
}
