//! Notices that the other tests of this folder do not cover: those of the router, which the proxy
//! passes on, and those about refusals and reports.
use std::net::SocketAddr;
use std::time::Duration;

use intelliproxy::config::{Config, Overflow};
use intelliproxy::proxy::{ConnId, Full, Notice, ReportFault};
use intelliproxy_core::{
    EjectReason, HoldReason, Notice as RouterNotice, OutCause, PolicyKind, ProbeFailure,
    SwitchReason,
};
use intelliproxy_driver::Driver;

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n";

/// The address of the first backend.
fn first() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 80))
}

/// Runs an exchange. The first backend responds with `status` after `millis`, others with 200 at
/// once.
fn exchange(driver: &mut Driver, client: ConnId, millis: u64, status: u16) {
    driver.send(client, GET);
    let mut asked = driver.peers().iter().filter(|peer| peer.received.starts_with(b"GET / "));
    let asked = asked.next_back().expect("a backend has the request");
    let (conn, is_first) = (asked.conn, asked.address == Some(first()));
    driver.drain(conn);
    let (millis, status) = if is_first { (millis, status) } else { (0, 200) };
    driver.pass(Duration::from_millis(millis));
    let response = format!("HTTP/1.1 {status} Text\r\nContent-Length: 0\r\n\r\n");
    driver.send(conn, response.as_bytes());
    assert_eq!(driver.drain(client), response.as_bytes());
}

/// Takes the notices of the router.
fn take(driver: &mut Driver) -> Vec<RouterNotice> {
    let of_router = |notice| match notice {
        Notice::Router(notice) => Some(notice),
        _ => None,
    };
    driver.notices.drain(..).filter_map(of_router).collect()
}

/// The first choice, a better backend that is not taken, the end of the current backend, the switch
/// away from it and its return are each reported once.
#[test]
fn changes_of_the_current_backend_are_reported() {
    let mut driver = Driver::with_backends(Config::default(), &["a", "b"]);
    driver.pass(Duration::ZERO);
    let [a, b] = [0, 1].map(|slot| driver.proxy.snapshot(driver.now).backends[slot].id);
    driver.notices.clear();
    let client = driver.client();
    exchange(&mut driver, client, 0, 200);
    let started = RouterNotice::Switched { from: None, to: a, reason: SwitchReason::First };
    assert_eq!(take(&mut driver), [started]);

    // A request in flight costs 2 points.
    driver.send(client, GET);
    driver.client_with(GET);
    let [RouterNotice::Held { current, candidate, reason }] = take(&mut driver)[..] else {
        panic!("b is better")
    };
    assert_eq!((current, candidate), (a, b));
    assert!(matches!(reason, HoldReason::BelowThreshold { .. }), "{reason:?}");

    driver.refusing.push(first());
    driver.pass(Duration::from_secs(6));
    let cause = Some(ProbeFailure::Refused);
    let down = RouterNotice::HealthChanged { backend: a, is_up: false, cause };
    let reason = SwitchReason::Failover { cause: OutCause::Down };
    let switched = RouterNotice::Switched { from: Some(a), to: b, reason };
    assert_eq!(take(&mut driver), [down, switched]);

    driver.refusing.clear();
    driver.pass(Duration::from_secs(6));
    let up = RouterNotice::HealthChanged { backend: a, is_up: true, cause: None };
    assert_eq!(take(&mut driver), [up]);
}

/// A backend that responds 500 is ejected for its failures. When its responses are good again, it
/// returns. Both are reported.
#[test]
fn ejections_are_reported() {
    let mut config = Config::default();
    config.routing.policy = PolicyKind::RoundRobin;
    let mut driver = Driver::with_backends(config, &["a", "b", "c"]);
    driver.pass(Duration::ZERO);
    let a = driver.proxy.snapshot(driver.now).backends[0].id;
    let client = driver.client();
    let mut notices_until = |status: u16, is_wanted: fn(&RouterNotice) -> bool| {
        for _ in 0..4000 {
            exchange(&mut driver, client, 1, status);
            driver.pass(Duration::from_millis(10));
            if let Some(notice) = take(&mut driver).into_iter().find(is_wanted) {
                return Some(notice);
            }
        }
        None
    };
    let ejected = notices_until(500, |notice| matches!(notice, RouterNotice::Ejected { .. }));
    let Some(RouterNotice::Ejected { backend, reason }) = ejected else { panic!("no ejection") };
    assert_eq!(backend, a);
    assert!(matches!(reason, EjectReason::Failures { .. }), "{reason:?}");
    let returned = notices_until(200, |notice| matches!(notice, RouterNotice::Returned { .. }));
    assert!(matches!(returned, Some(RouterNotice::Returned { backend, .. }) if backend == a));
}

/// A request that one backend refuses and another one serves: the notice names the refusal.
#[test]
fn a_refusal_is_reported() {
    let mut driver = Driver::with_backends(Config::default(), &["a", "b"]);
    driver.pass(Duration::ZERO);
    let backend = driver.proxy.snapshot(driver.now).backends[0].id;
    driver.notices.clear();
    let client = driver.client_with(GET);
    let refusal = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 5\r\nContent-Length: 0\r\n\r\n";
    driver.send(driver.upstream(), refusal);
    let peer = "192.0.2.7:4711".parse().expect("an address");
    let expected = Notice::Refused { peer, backend, status: 429 };
    let refused = driver.notices.iter().filter(|notice| **notice == expected).count();
    assert_eq!(refused, 1, "{:?}", driver.notices);
    assert_eq!(driver.peer(driver.upstream()).address, Some(([10, 0, 0, 2], 80).into()));
    assert!(driver.text(client).is_empty());
}

/// A client that is turned away gets 503. The notice names it and the limit, or no limit if the
/// proxy is stopping.
#[test]
fn a_client_that_is_turned_away_is_reported() {
    let mut config = Config { overflow: Overflow::Reject, ..Config::default() };
    config.limits.clients = 1;
    let mut driver = Driver::new(config);
    driver.client_with(GET);
    let late = driver.client_from("192.0.2.8:4712");
    assert!(driver.text(late).starts_with("HTTP/1.1 503 "));
    let peer = "192.0.2.8:4712".parse().expect("an address");
    let expected = Notice::ClientRefused { peer, full: Some(Full::Clients) };
    assert!(driver.notices.contains(&expected), "{:?}", driver.notices);
    driver.stop();
    let last = driver.client_from("192.0.2.9:4713");
    assert!(driver.text(last).starts_with("HTTP/1.1 503 "));
    let peer = "192.0.2.9:4713".parse().expect("an address");
    let expected = Notice::ClientRefused { peer, full: None };
    assert!(driver.notices.contains(&expected), "{:?}", driver.notices);
}

/// A report that is not a JSON object is reported once, not with every report.
#[test]
fn an_unreadable_report_is_reported() {
    let mut driver = Driver::new(Config::default());
    driver.responds_to_probes = false;
    let mut faults = Vec::new();
    driver.pass(Duration::ZERO);
    for _ in 0..3 {
        let mut reports = driver.peers().iter().filter(|peer| {
            peer.is_open() && peer.received.starts_with(b"GET /metrics ") && peer.read().is_empty()
        });
        let report = reports.next_back().expect("a report is requested").conn;
        driver.send(report, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n[1,2]");
        faults.extend(driver.notices.drain(..).filter_map(|notice| match notice {
            Notice::UnreadableReport { fault, .. } => Some(fault),
            _ => None,
        }));
        driver.pass(Duration::from_secs(3));
    }
    assert_eq!(faults, [ReportFault::NoObject { excerpt: "[1,2]".to_owned() }]);
}

/// When a backend moves, the proxy closes the connection on which it awaits a report. No notice
/// blames the backend for that.
#[test]
fn a_moved_backend_is_not_blamed_for_its_report() {
    let mut driver = Driver::new(Config::default());
    driver.responds_to_probes = false;
    driver.pass(Duration::ZERO);
    let mut peers = driver.peers().iter();
    let report = peers.find(|peer| peer.received.starts_with(b"GET /metrics "));
    let report = report.expect("a report is requested").conn;
    driver.move_backend("a");
    assert_eq!(driver.peer(report).closed, Some(false));
    let is_blame = |notice: &Notice| matches!(notice, Notice::UnreadableReport { .. });
    assert!(!driver.notices.iter().any(is_blame), "{:?}", driver.notices);
}
