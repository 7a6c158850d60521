//! Listeners, limits on clients, and access to /stats.
use std::io::{BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use intelliproxy::config::{Listen, Overflow};
use serde_json::Value;

use crate::parties::{
    Script, config, connect, echo, get, proxy, read_head, read_response, refuse, respond, serve,
    wait_until,
};

/// /stats has every field that `operations.md` lists, each with a permitted type of value.
#[test]
fn stats_are_shown_to_permitted_peers() {
    let backend = Script::start(|stream, _| respond(stream, b"own"));
    let address = proxy(&[&backend.url, &backend.url]);
    get(address, "/");
    let parsed = |text: &str| serde_json::from_str::<Value>(text).expect("JSON");
    let (status, text) = get(address, "/stats");
    assert_eq!(status, "HTTP/1.1 200 OK");
    let stats = parsed(&text);
    assert_eq!(stats.as_array().map(Vec::len), Some(2));
    let names = [
        "ejections",
        "latency",
        "latencyEwma",
        "latencyAgeMs",
        "lossPercent",
        "lossEwma",
        "successPings",
        "failPings",
        "totalPings",
        "pingAgeMs",
        "totalRequests",
        "errorRequests",
        "errorRate",
        "activeRequests",
        "workingRequests",
        "limit",
        "p50Ms",
        "p99Ms",
        "responseEwma",
        "requestAgeMs",
        "refusedRequests",
        "heldForMs",
        "queue",
        "queueEwma",
        "running",
        "pressure",
        "others",
        "cpu",
        "memory",
        "reportAgeMs",
        "reportsRead",
        "reportsFailed",
        "score",
    ];
    for backend in stats.as_array().expect("an array") {
        assert!(backend["name"].is_string() && backend["url"].is_string());
        assert!(backend["current"].is_boolean() && backend["scoreParts"].is_object());
        assert!(backend["state"].is_string());
        assert!(backend["health"].is_string() && backend["standing"] == "in");
        assert!(backend["policy"].is_object());
        let is_up = backend.get("alive").expect("alive");
        assert!(is_up.is_boolean() || is_up.is_null(), "alive: {is_up}");
        for name in names {
            let value = backend.get(name).expect(name);
            assert!(value.is_number() || value.is_null(), "{name}: {value}");
        }
    }
    assert_eq!(stats[0]["name"], "A");
    let requests: u64 =
        stats.as_array().into_iter().flatten().filter_map(|b| b["totalRequests"].as_u64()).sum();
    assert_eq!(requests, 1, "reading /stats is not a request");
    wait_until("both have responded to a ping", || {
        let stats = parsed(&get(address, "/stats?again").1);
        stats
            .as_array()
            .into_iter()
            .flatten()
            .all(|b| b["alive"] == true && b["latency"].is_number())
    });
    // For other peers the path is like any other.
    let mut closed = config(&[&backend.url]);
    closed.stats.allow = vec!["203.0.113.0/24".to_owned()];
    assert_eq!(get(serve(closed)[0], "/stats").1, "own");
    assert_eq!(get(address, "/stats/x").1, "own");
}

/// With `overflow: reject` a client above the limit gets 503 at once, and is served once there is
/// room. Clients in service are not disturbed.
#[test]
fn overflow_is_rejected() {
    let backend = Script::start(echo);
    let mut config = config(&[&backend.url]);
    config.limits.clients = 1;
    config.overflow = Overflow::Reject;
    let address = serve(config)[0];
    let mut first = begin(address, &backend);
    let mut second = connect(address);
    let mut text = String::new();
    second.read_to_string(&mut text).expect("a response and an end");
    assert!(text.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{text}");
    finish(&mut first);
    drop(second);
    drop(first);
    wait_until("there is room again", || {
        let mut stream = BufReader::new(connect(address));
        let request = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n";
        let is_sent = stream.get_mut().write_all(request).is_ok();
        is_sent && read_head(&mut stream).is_some_and(|head| head[0] == "HTTP/1.1 200 OK")
    });
}

/// With `overflow: wait` a client above the limit is served when another one leaves.
#[test]
fn overflow_waits() {
    let backend = Script::start(echo);
    let mut config = config(&[&backend.url]);
    config.limits.clients = 1;
    let address = serve(config)[0];
    let mut first = begin(address, &backend);
    let mut second = BufReader::new(connect(address));
    second.get_mut().write_all(b"GET /2 HTTP/1.1\r\nHost: h\r\n\r\n").expect("sent");
    finish(&mut first);
    assert_eq!(backend.connections(), 1, "the second one's request was not read");
    drop(first);
    assert!(String::from_utf8_lossy(&read_response(&mut second).1).starts_with("GET /2 "));
}

/// An idle client that has had a response gives way to a new one above the limit.
#[test]
fn an_idle_client_gives_way() {
    let backend = Script::start(echo);
    let mut config = config(&[&backend.url]);
    config.limits.clients = 1;
    let address = serve(config)[0];
    let mut first = BufReader::new(connect(address));
    ask(&mut first);
    let mut second = BufReader::new(connect(address));
    ask(&mut second);
    assert!(read_head(&mut first).is_none(), "the first one's connection has ended");
}

/// Begins a request: its client is in service until [`finish`].
fn begin(address: SocketAddr, backend: &Script) -> BufReader<std::net::TcpStream> {
    let mut stream = BufReader::new(connect(address));
    let head = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nab";
    stream.get_mut().write_all(head).expect("sent");
    wait_until("the request is under way", || backend.connections() == 1);
    stream
}

fn finish(stream: &mut BufReader<std::net::TcpStream>) {
    stream.get_mut().write_all(b"cd").expect("sent");
    assert_eq!(read_response(stream).0[0], "HTTP/1.1 200 OK");
}

fn ask(stream: &mut BufReader<std::net::TcpStream>) {
    stream.get_mut().write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").expect("sent");
    assert_eq!(read_response(stream).0[0], "HTTP/1.1 200 OK");
}

/// A listener that speaks the PROXY protocol takes the client's address from the header. Another
/// listener refuses the header.
#[test]
fn a_listener_speaks_the_proxy_protocol() {
    let backend = Script::start(echo);
    let mut config = config(&[&backend.url]);
    config.forwarding.trusted = vec!["127.0.0.0/8".to_owned()];
    let announced = Listen { proxy_protocol: true, .."127.0.0.1:0".into() };
    config.listen = vec![announced, "127.0.0.1:0".into()];
    let addresses = serve(config);
    let header = b"PROXY TCP4 198.51.100.7 10.0.0.1 4660 80\r\n";
    let mut stream = BufReader::new(connect(addresses[0]));
    stream.get_mut().write_all(header).expect("sent");
    stream.get_mut().write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").expect("sent");
    let text = String::from_utf8(read_response(&mut stream).1).expect("text");
    assert!(text.contains("\nX-Forwarded-For: 198.51.100.7\n"), "{text}");
    let mut stream = BufReader::new(connect(addresses[1]));
    stream.get_mut().write_all(header).expect("sent");
    assert_eq!(read_response(&mut stream).0[0], "HTTP/1.1 400 Bad Request");
}

/// `localhost` means both loopback addresses, for listeners and for a backend that has only one.
#[test]
fn localhost_is_both_loopbacks() {
    if TcpListener::bind("[::1]:0").is_err() {
        // Without IPv6 there is only one.
        return;
    }
    let loopbacks = [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)];
    for (own, other) in [(loopbacks[0], loopbacks[1]), (loopbacks[1], loopbacks[0])] {
        // The port at the other address must have no listener.
        let (port, _refusing, _backend) = loop {
            let (refusing, refused) = refuse(SocketAddr::new(other, 0));
            let port = refused.port();
            let own = SocketAddr::new(own, port).to_string();
            if let Ok(backend) = Script::start_at(&own, echo) {
                break (port, refusing, backend);
            }
        };
        let mut config = config(&[&format!("http://localhost:{port}")]);
        config.listen = vec!["localhost:0".into()];
        config.forwarding.keep_host = false;
        let addresses = serve(config);
        assert_eq!(addresses.len(), 2);
        assert!(
            addresses.iter().any(SocketAddr::is_ipv4) && addresses.iter().any(SocketAddr::is_ipv6)
        );
        for address in addresses {
            let text = get(address, "/").1;
            assert!(text.contains(&format!("\nHost: localhost:{port}\n")), "{text}");
            let ip = address.ip();
            assert!(text.contains(&format!("\nX-Forwarded-For: {ip}\n")), "{text}");
        }
    }
}

/// A bad request gets an error and its connection is closed. Another client is not affected.
#[test]
fn bad_requests_disturb_no_other_client() {
    let backend = Script::start(echo);
    let address = proxy(&[&backend.url]);
    let mut good = BufReader::new(connect(address));
    ask(&mut good);
    for (bytes, status) in [
        (&b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"[..], 400),
        (b"GET / HTTP/1.1\nHost: h\n\n", 400),
        (b"CONNECT h:1 HTTP/1.1\r\nHost: h:1\r\n\r\n", 501),
        (b"GET / HTTP/3.0\r\nHost: h\r\n\r\n", 505),
        (&[b'A'; 100_000], 414),
    ] {
        let mut bad = connect(address);
        bad.write_all(bytes).expect("sent");
        let mut text = String::new();
        bad.read_to_string(&mut text).expect("a response and an end");
        assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{text}");
        ask(&mut good);
    }
    assert_eq!(backend.connections(), 1);
}
