//! Limits for each client: connections at the same time, and requests per second.
use std::time::Duration;

use intelliproxy::config::Config;
use intelliproxy::proxy::{ConnId, Excess, Notice};
use intelliproxy_driver::{Driver, targets};

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n";
const OWN: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nown";

/// Returns the response to a client beyond its limit. `connection` is the line of its Connection
/// field, or empty.
fn limited(connection: &str) -> String {
    format!(
        "HTTP/1.1 429 Too Many Requests\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Length: 22\r\nRetry-After: 1\r\n{connection}\r\n429 Too Many Requests\n"
    )
}

fn config(connections: u32, requests: u32) -> Config {
    let mut config = Config::default();
    config.limits.client_connections = connections;
    config.limits.client_requests_per_second = requests;
    config
}

/// Sends a request. Returns the response; the backend responds at once if it gets the request.
fn ask(driver: &mut Driver, client: ConnId, request: &[u8]) -> String {
    driver.drain(client);
    driver.send(client, request);
    if driver.text(client).is_empty() {
        driver.send(driver.upstream(), OWN);
    }
    driver.text(client)
}

fn status(response: &str) -> &str {
    response.get(9..12).unwrap_or("none")
}

fn excesses(driver: &Driver) -> Vec<(String, Excess)> {
    let of = |notice: &Notice| match notice {
        Notice::ClientLimited { peer, excess } => Some((peer.ip().to_string(), *excess)),
        _ => None,
    };
    driver.notices.iter().filter_map(of).collect()
}

/// Applies a configuration with the same backend.
fn reconfigure(driver: &mut Driver, config: Config) {
    driver.reconfigure(config, targets(&["a"])).expect("valid");
}

fn stats_field(driver: &mut Driver) -> String {
    let reader = driver.client_from("127.0.0.1:9");
    driver.send(reader, b"HEAD /stats HTTP/1.1\r\nHost: h\r\n\r\n");
    let text = driver.text(reader);
    driver.end(reader);
    let field = text.lines().find_map(|line| line.strip_prefix("X-IntelliProxy-Limited: "));
    field.unwrap_or("none").to_owned()
}

/// By default both limits are off.
#[test]
fn both_are_off_by_default() {
    let mut driver = Driver::new(Config::default());
    let clients: Vec<ConnId> = (0..50).map(|_| driver.client()).collect();
    for client in clients {
        for _ in 0..20 {
            assert_eq!(status(&ask(&mut driver, client, GET)), "200");
        }
    }
    assert_eq!(stats_field(&mut driver), "none");
}

/// Three requests a second: the fourth gets 429 and its connection stays open. A third of a second
/// later one more is served. Each IPv4 address has its own limit, and so has each IPv6 network of
/// 64 bits.
#[test]
fn requests_beyond_the_rate() {
    let mut driver = Driver::new(config(0, 3));
    let client = driver.client_from("192.0.2.7:1");
    let other_connection = driver.client_from("192.0.2.7:2");
    assert_eq!(status(&ask(&mut driver, client, GET)), "200");
    assert_eq!(status(&ask(&mut driver, other_connection, GET)), "200");
    assert_eq!(status(&ask(&mut driver, client, GET)), "200");
    assert_eq!(ask(&mut driver, client, GET), limited(""));
    assert_eq!(ask(&mut driver, other_connection, GET), limited(""));
    driver.pass(Duration::from_millis(334));
    assert_eq!(status(&ask(&mut driver, client, GET)), "200");
    assert_eq!(ask(&mut driver, other_connection, GET), limited(""));
    let rows: [(&str, &[&str]); 4] = [
        ("192.0.2.8:1", &["200", "200", "200", "429"]),
        ("[2001:db8::1]:1", &["200", "200"]),
        ("[2001:db8::2]:1", &["200", "429"]),
        ("[2001:db8:0:1::1]:1", &["200", "200", "200", "429"]),
    ];
    for (peer, statuses) in rows {
        let client = driver.client_from(peer);
        for expected in statuses {
            assert_eq!(status(&ask(&mut driver, client, GET)), *expected, "{peer}");
        }
    }
    let excesses = excesses(&driver);
    assert_eq!(excesses.len(), 6, "{excesses:?}");
    assert!(excesses.iter().all(|(_, excess)| *excess == Excess::Requests));
    assert_eq!(stats_field(&mut driver), "requests=6, connections=0");
}

/// A refused HEAD gets no body. After a refused request with a body the connection ends, and the
/// body is not taken for a request. No part of a refused request reaches a backend, and pipelined
/// requests are counted one by one.
#[test]
fn every_form_of_request_is_limited() {
    let mut driver = Driver::new(config(0, 1));
    let client = driver.client_with(&[GET, GET, GET].concat());
    driver.send(driver.upstream(), OWN);
    let text = driver.text(client);
    assert_eq!(text.matches("HTTP/1.1 200 OK").count(), 1, "{text}");
    assert_eq!(text.matches("HTTP/1.1 429 Too Many Requests").count(), 2, "{text}");
    let head = b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n";
    let refused = limited("");
    let (refused_head, _) = refused.split_once("\r\n\r\n").expect("a head");
    assert_eq!(ask(&mut driver, client, head), format!("{refused_head}\r\n\r\n"));
    assert_eq!(driver.peer(client).closed, None);
    let sent = driver.peer(driver.upstream()).received.len();
    for body in ["Content-Length: 4\r\n\r\nbody", "Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n"]
    {
        let client = driver.client_with(format!("POST / HTTP/1.1\r\nHost: h\r\n{body}").as_bytes());
        assert_eq!(driver.text(client), limited("Connection: close\r\n"));
        assert!(driver.peer(client).is_over());
        driver.send(client, b"more of the body, then another request\r\n\r\n");
        assert_eq!(driver.text(client), limited("Connection: close\r\n"));
    }
    let old = driver.client_with(b"GET / HTTP/1.0\r\n\r\n");
    assert_eq!(driver.text(old), limited("Connection: close\r\n"));
    assert!(driver.peer(old).is_over());
    assert_eq!(driver.upstreams().len(), 1);
    assert_eq!(driver.peer(driver.upstream()).received.len(), sent);
    driver.pass(Duration::from_secs(60));
    assert_eq!(driver.proxy.in_flight(), 0);
}

/// Requests over a trusted hop count for the client that the hop names. They count for no client if
/// it names none. A hop that is not trusted is itself the client.
#[test]
fn requests_count_for_the_client_behind_trusted_hops() {
    let mut config = config(1, 1);
    config.forwarding.trusted = vec!["10.0.0.0/8".to_owned()];
    let mut driver = Driver::new(config);
    let hop = driver.client_from("10.0.0.1:1");
    let other = driver.client_from("10.0.0.1:2");
    let named = |name: &str| {
        format!("GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: {name}\r\n\r\n").into_bytes()
    };
    let rows = [
        (hop, named("198.51.100.1"), "200"),
        (other, named("198.51.100.1"), "429"),
        (hop, named("198.51.100.1, 10.0.0.9"), "429"),
        (hop, named("198.51.100.1, 198.51.100.2"), "200"),
        (hop, named("198.51.100.2"), "429"),
        (hop, named("[2001:db8::1]:99"), "200"),
        (hop, named("2001:db8::2"), "429"),
        (hop, GET.to_vec(), "200"),
        (hop, GET.to_vec(), "200"),
        (hop, named("10.0.0.7"), "200"),
        (hop, named("10.0.0.7"), "200"),
    ];
    for (at, (client, request, expected)) in rows.iter().enumerate() {
        let response = ask(&mut driver, *client, request);
        assert_eq!(status(&response), *expected, "row {at}: {response}");
    }
    let stranger = driver.client_from("203.0.113.9:1");
    assert_eq!(status(&ask(&mut driver, stranger, &named("198.51.100.3"))), "200");
    assert_eq!(status(&ask(&mut driver, stranger, &named("198.51.100.4"))), "429");
    assert_eq!(excesses(&driver)[0], ("198.51.100.1".to_owned(), Excess::Requests));
    assert_eq!(excesses(&driver).last().expect("one").0, "203.0.113.9");
}

/// Two connections for each client: the third gets 429 at once and ends. When one ends, another is
/// accepted. Other clients are not affected, and one that was turned away takes no place.
#[test]
fn connections_beyond_the_limit() {
    let mut driver = Driver::new(config(2, 0));
    let first = driver.client_from("192.0.2.7:1");
    let second = driver.client_from("192.0.2.7:2");
    let third = driver.client_from("192.0.2.7:3");
    assert_eq!(driver.text(third), limited("Connection: close\r\n"));
    assert!(driver.peer(third).is_over());
    assert_eq!(status(&ask(&mut driver, second, GET)), "200");
    let neighbour = driver.client_from("192.0.2.8:1");
    assert_eq!(status(&ask(&mut driver, neighbour, GET)), "200");
    driver.end(third);
    let again = driver.client_from("192.0.2.7:4");
    assert_eq!(driver.text(again), limited("Connection: close\r\n"));
    driver.end(first);
    let fourth = driver.client_from("192.0.2.7:5");
    assert_eq!(status(&ask(&mut driver, fourth, GET)), "200");
    let networks = ["[2001:db8::1]:1", "[2001:db8::2]:1", "[2001:db8::3]:1"];
    let v6 = networks.map(|peer| driver.client_from(peer));
    assert_eq!(v6.map(|client| driver.text(client).is_empty()), [true, true, false]);
    assert_eq!(excesses(&driver).len(), 3);
    assert_eq!(stats_field(&mut driver), "requests=0, connections=3");
}

/// A client that opens connections without end: 64 get 429 and time to read it, the others are
/// reset at once. Its refused connections therefore take a bounded number of descriptors. Other
/// clients are served meanwhile.
#[test]
fn refused_connections_are_bounded() {
    let mut driver = Driver::new(config(1, 0));
    let kept = driver.client_from("192.0.2.7:1");
    let refused: Vec<ConnId> = (0..500).map(|_| driver.client_from("192.0.2.7:2")).collect();
    let resets = refused.iter().filter(|conn| driver.peer(**conn).closed == Some(true)).count();
    assert_eq!(resets, 500 - 64);
    assert_eq!(driver.proxy.clients(), 65);
    let other = driver.client_from("192.0.2.8:1");
    assert_eq!(status(&ask(&mut driver, other, GET)), "200");
    assert_eq!(status(&ask(&mut driver, kept, GET)), "200");
    driver.pass(Duration::from_secs(30));
    assert_eq!(driver.proxy.clients(), 2, "their time to read the response is over");
}

/// A trusted hop may have any number of connections. Where it names the client by a PROXY protocol
/// header, the connection counts for that client.
#[test]
fn connections_of_trusted_hops() {
    let mut config = config(1, 0);
    config.forwarding.trusted = vec!["10.0.0.0/8".to_owned()];
    let mut driver = Driver::new(config);
    for port in 1..=9 {
        let client = driver.client_from(&format!("10.0.0.1:{port}"));
        assert_eq!(status(&ask(&mut driver, client, GET)), "200");
    }
    let rows = [
        ("198.51.100.1", true),
        ("198.51.100.1", false),
        ("198.51.100.2", true),
        ("10.0.0.2", true),
        ("10.0.0.2", true),
    ];
    let mut clients = Vec::new();
    for (source, is_served) in rows {
        let header = format!("PROXY TCP4 {source} 192.0.2.1 5 80\r\n");
        let client = driver.announced_client("10.0.0.1:1", header.as_bytes());
        if is_served {
            assert_eq!(status(&ask(&mut driver, client, GET)), "200", "{source}");
        } else {
            assert_eq!(driver.text(client), limited("Connection: close\r\n"), "{source}");
        }
        clients.push(client);
    }
    assert_eq!(excesses(&driver), [("198.51.100.1".to_owned(), Excess::Connections)]);
    driver.end(clients[0]);
    let header = b"PROXY TCP4 198.51.100.1 192.0.2.1 5 80\r\n";
    let client = driver.announced_client("10.0.0.1:1", header);
    assert_eq!(status(&ask(&mut driver, client, GET)), "200");
}

/// A reload sets, changes and removes both limits at once. Connections that were open before are
/// counted, and none of them is closed.
#[test]
fn limits_are_reloaded() {
    let mut driver = Driver::new(config(0, 0));
    let clients: Vec<ConnId> = (0..3).map(|_| driver.client_from("192.0.2.7:1")).collect();
    reconfigure(&mut driver, config(3, 1));
    let refused = driver.client_from("192.0.2.7:2");
    assert_eq!(driver.text(refused), limited("Connection: close\r\n"));
    assert_eq!(status(&ask(&mut driver, clients[0], GET)), "200");
    assert_eq!(status(&ask(&mut driver, clients[1], GET)), "429");
    reconfigure(&mut driver, config(2, 100));
    assert_eq!(
        status(&ask(&mut driver, clients[2], GET)),
        "429",
        "its bucket is as empty as before"
    );
    driver.pass(Duration::from_millis(10));
    assert_eq!(status(&ask(&mut driver, clients[2], GET)), "200");
    driver.end(clients[0]);
    let refused = driver.client_from("192.0.2.7:3");
    assert_eq!(driver.text(refused), limited("Connection: close\r\n"));
    driver.end(clients[1]);
    let client = driver.client_from("192.0.2.7:4");
    driver.pass(Duration::from_millis(10));
    assert_eq!(status(&ask(&mut driver, client, GET)), "200");
    let mut trusting = config(2, 1);
    trusting.forwarding.trusted = vec!["192.0.2.7".to_owned()];
    reconfigure(&mut driver, trusting);
    for _ in 0..5 {
        let client = driver.client_from("192.0.2.7:5");
        assert_eq!(status(&ask(&mut driver, client, GET)), "200", "a trusted hop has no limits");
    }
    reconfigure(&mut driver, config(0, 0));
    for _ in 0..5 {
        let client = driver.client_from("192.0.2.7:6");
        assert_eq!(status(&ask(&mut driver, client, GET)), "200");
    }
}
