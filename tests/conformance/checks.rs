//! Configured health checks: the requests, their destinations, and the good responses.
use std::net::SocketAddr;
use std::time::Duration;

use intelliproxy::config::{BackendTarget, Config};
use intelliproxy::proxy::Notice;
use intelliproxy_core::{Health, Notice as RouterNotice};
use intelliproxy_driver::{Driver, Peer, targets};

fn config(text: &str) -> Config {
    Config::from_json(text).expect(text)
}

fn health(driver: &Driver) -> Vec<Health> {
    let snapshot = driver.proxy.snapshot(driver.now);
    snapshot.backends.iter().map(|backend| backend.health).collect()
}

/// Responds to every open request that begins with `start`. Returns their number.
fn respond(driver: &mut Driver, start: &str, response: &str) -> usize {
    let is_asked = |peer: &&Peer| {
        let is_whole = peer.received.ends_with(b"\r\n\r\n");
        peer.closed.is_none() && is_whole && peer.received.starts_with(start.as_bytes())
    };
    let asked: Vec<_> = driver.peers().iter().filter(is_asked).map(|peer| peer.conn).collect();
    asked.iter().for_each(|conn| driver.send(*conn, response.as_bytes()));
    asked.len()
}

const NOT_FOUND: &str = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n";

/// If no backend has the path of the pings, one notice reports it, all backends stay up, and all
/// get requests. As soon as one backend has the path, the others are down.
#[test]
fn a_path_that_nobody_has_takes_nobody_down() {
    let text = r#"{"routing": {"policy": "least_request"}, "backends": [
        {"name": "a", "url": "http://a.test"}, {"name": "b", "url": "http://b.test"}]}"#;
    let mut driver = Driver::with_backends(config(text), &["a", "b"]);
    driver.responds_to_probes = false;
    for _ in 0..60 {
        driver.pass(Duration::from_millis(500));
        respond(&mut driver, "GET /health ", NOT_FOUND);
    }
    assert_eq!(health(&driver), [Health::Unknown; 2]);
    let told = Notice::Router(RouterNotice::PingsUnserved { status: 404 });
    assert_eq!(driver.notices.iter().filter(|notice| **notice == told).count(), 1);
    let is_change = |n: &Notice| matches!(n, Notice::Router(RouterNotice::HealthChanged { .. }));
    assert!(!driver.notices.iter().any(is_change), "{:?}", driver.notices);
    for _ in 0..20 {
        driver.client_with(GET);
    }
    let requests = driver.peers().iter().filter(|peer| peer.received.starts_with(b"GET / "));
    let first = SocketAddr::from(([10, 0, 0, 1], 80));
    assert_eq!(requests.filter(|peer| peer.address == Some(first)).count(), 10);
    let ok = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    let mut is_first = true;
    for _ in 0..60 {
        driver.pass(Duration::from_millis(500));
        let of = |peer: &&Peer| peer.closed.is_none() && peer.received.starts_with(b"GET /health ");
        let asked: Vec<_> = driver.peers().iter().filter(of).map(|p| (p.conn, p.address)).collect();
        for (conn, address) in asked {
            let is_good = address == Some(first);
            is_first &= is_good;
            driver.send(conn, if is_good { ok } else { NOT_FOUND }.as_bytes());
        }
    }
    assert!(!is_first, "both were asked");
    assert_eq!(health(&driver), [Health::Up, Health::Down]);
}

/// After a new configuration, missing paths are reported again only if the checks have changed.
#[test]
fn a_path_that_nobody_has_is_told_once() {
    let text = |path: &str| {
        config(&format!(
            r#"{{"health": {{"path": "{path}"}}, "backends": [
            {{"name": "a", "url": "http://a.test"}}, {{"name": "b", "url": "http://b.test"}}]}}"#
        ))
    };
    let mut driver = Driver::with_backends(text("/up"), &["a", "b"]);
    driver.responds_to_probes = false;
    let told = Notice::Router(RouterNotice::PingsUnserved { status: 404 });
    for (path, count) in [("/up", 1), ("/up", 1), ("/ready", 2), ("/ready", 2), ("/up", 3)] {
        driver.reconfigure(text(path), targets(&["a", "b"])).expect("valid");
        let mut asked = 0;
        while asked < 8 {
            driver.pass(Duration::from_millis(500));
            asked += respond(&mut driver, &format!("GET {path} "), NOT_FOUND);
        }
        driver.pass(Duration::from_millis(500));
        assert_eq!(driver.notices.iter().filter(|n| **n == told).count(), count, "{path}");
    }
}

/// A check uses the configured port, Host and path, and passes only with the configured status and
/// text.
#[test]
fn a_check_asks_for_what_it_needs() {
    let text = r#"{"health": {"path": "/up", "host": "www.test", "status": ["200"], "body": "ready"},
        "backends": [{"name": "a", "url": "http://a.test", "health": {"port": 8081}}]}"#;
    let target = |port| BackendTarget {
        name: "a".to_owned(),
        url: "http://a.test".to_owned(),
        authority: "a.test".to_owned(),
        tls: None,
        addresses: vec![SocketAddr::from(([10, 0, 0, 1], port))],
    };
    // The driver lets the proxy connect to configured addresses only.
    let mut both = target(80);
    both.addresses.push(SocketAddr::from(([10, 0, 0, 1], 8081)));
    let mut driver = Driver::with_targets(config(text), vec![both]);
    driver.responds_to_probes = false;
    driver.pass(Duration::ZERO);
    let asked = |driver: &Driver| {
        let mut of = driver.peers().iter().filter(|peer| peer.received.starts_with(b"GET /up "));
        let peer = of.next_back().expect("a ping");
        (peer.conn, peer.address)
    };
    let (conn, address) = asked(&driver);
    assert_eq!(address, Some(SocketAddr::from(([10, 0, 0, 1], 8081))));
    assert!(driver.text(conn).contains("\r\nHost: www.test\r\n"));
    driver.send(conn, b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nloading");
    assert_eq!(health(&driver), [Health::Unknown]);
    driver.pass(Duration::from_millis(500));
    let (conn, _) = asked(&driver);
    driver.send(conn, b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nit is re");
    assert_eq!(health(&driver), [Health::Unknown]);
    driver.pass(Duration::from_millis(500));
    let (conn, _) = asked(&driver);
    driver.send(conn, b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nit is ready");
    assert_eq!(health(&driver), [Health::Up]);
}

/// A check of kind `tcp` sends nothing. Without checks the proxy connects only for requests and
/// reports, and a backend whose port refuses connections is not down.
#[test]
fn a_connection_is_enough_or_nothing_is() {
    let text = r#"{"health": {"kind": "tcp"}, "backends": [{"name": "a", "url": "http://a.test"},
        {"name": "b", "url": "http://b.test", "health": {"kind": "none"}}]}"#;
    let mut driver = Driver::with_backends(config(text), &["a", "b"]);
    driver.responds_to_probes = false;
    driver.pass(Duration::from_secs(10));
    assert_eq!(health(&driver), [Health::Up, Health::Unknown]);
    let silent: Vec<_> = driver.peers().iter().filter(|peer| peer.received.is_empty()).collect();
    let first = SocketAddr::from(([10, 0, 0, 1], 80));
    assert!(silent.len() > 2 && silent.iter().all(|peer| peer.address == Some(first)));
    assert!(silent.iter().all(|peer| peer.closed.is_some()), "each is closed at once");
    let others = driver.peers().iter().filter(|peer| !peer.received.is_empty());
    assert!(others.clone().count() > 2);
    assert!(others.clone().all(|peer| peer.received.starts_with(b"GET /metrics ")));
    driver.refusing.extend([1, 2].map(|place| SocketAddr::from(([10, 0, 0, place], 80))));
    driver.pass(Duration::from_secs(10));
    assert_eq!(health(&driver), [Health::Down, Health::Unknown]);
    let client = driver.client_with(GET);
    assert!(driver.text(client).starts_with("HTTP/1.1 502 "), "{}", driver.text(client));
    assert_eq!(health(&driver), [Health::Down, Health::Unknown]);
    driver.refusing.clear();
    driver.pass(Duration::from_secs(10));
    assert_eq!(health(&driver), [Health::Up, Health::Unknown]);
}

/// A backend that starts down gets no requests before its first good check. Without other backends
/// the proxy is not ready until then. After a reload with other checks, the next check is one of
/// those.
#[test]
fn a_backend_may_start_down() {
    let text = |path: &str| {
        let health = format!(r#""health": {{"path": "{path}", "initial": "down"}}"#);
        config(&format!(r#"{{{health}, "backends": [{{"name": "a", "url": "http://a.test"}}]}}"#))
    };
    let mut driver = Driver::with_backends(text("/v1/models"), &["a"]);
    driver.responds_to_probes = false;
    driver.pass(Duration::ZERO);
    assert_eq!(health(&driver), [Health::Down]);
    for _ in 0..20 {
        assert_eq!(respond(&mut driver, "GET /v1/models ", NOT_FOUND), 1);
        driver.pass(Duration::from_millis(500));
    }
    assert_eq!(health(&driver), [Health::Down], "it is asked again twice a second");
    driver.reconfigure(text("/ready"), targets(&["a"])).expect("valid");
    respond(&mut driver, "GET /v1/models ", NOT_FOUND);
    driver.pass(Duration::from_millis(500));
    let ok = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(respond(&mut driver, "GET /ready ", ok), 1);
    assert_eq!(health(&driver), [Health::Up]);
}
