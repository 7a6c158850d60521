//! Backends at their limits: the requests that wait, their order, and their longest wait.
use std::time::Duration;

use intelliproxy::config::Config;
use intelliproxy::proxy::{ConnId, Notice};
use intelliproxy_core::PolicyKind;
use intelliproxy_driver::{Dialling, Driver, targets};

const OWN: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nown";

fn config(per_backend: u32, queue_length: usize) -> Config {
    let mut config = Config::default();
    config.limits.per_backend = per_backend;
    config.limits.queue_length = queue_length;
    config.limits.queue = Duration::from_millis(300);
    config
}

fn ask(driver: &mut Driver, path: &str) -> ConnId {
    let request = format!("GET /{path} HTTP/1.1\r\nHost: h\r\n\r\n");
    driver.client_with(request.as_bytes())
}

/// Returns the paths of the requests that the backends have received.
fn paths(driver: &Driver) -> Vec<String> {
    let text = |conn: &ConnId| driver.text(*conn);
    let lines = driver.upstreams().iter().map(text).flat_map(|text| {
        let lines = text.lines().filter(|line| line.starts_with("GET /"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    });
    lines.filter_map(|line| Some(line.split(' ').nth(1)?.to_owned())).collect()
}

/// Responds to the open request on the connection to a backend with the index `upstream`. A
/// connection has at most one.
fn respond(driver: &mut Driver, upstream: usize) {
    let conn = driver.upstreams()[upstream];
    driver.send(conn, OWN);
}

#[track_caller]
fn assert_busy(driver: &Driver, client: ConnId) {
    let text = driver.text(client);
    assert!(text.starts_with("HTTP/1.1 503 "), "{text}");
    assert!(text.contains("\r\nRetry-After: 1\r\n"), "{text}");
}

/// With a limit of 2 the third request waits, and the fourth waits behind it. Each response lets
/// the oldest waiting request continue. A later client does not overtake.
#[test]
fn first_come_first_served() {
    let mut driver = Driver::new(config(2, 10));
    let clients: Vec<ConnId> = ["1", "2", "3", "4"].map(|path| ask(&mut driver, path)).into();
    assert_eq!(paths(&driver), ["/1", "/2"]);
    respond(&mut driver, 0);
    assert!(driver.text(clients[0]).ends_with("own"));
    let late = ask(&mut driver, "5");
    assert_eq!(paths(&driver), ["/1", "/3", "/2"], "on the connection that became free");
    respond(&mut driver, 1);
    assert_eq!(paths(&driver), ["/1", "/3", "/2", "/4"]);
    respond(&mut driver, 0);
    assert_eq!(paths(&driver), ["/1", "/3", "/5", "/2", "/4"]);
    respond(&mut driver, 0);
    respond(&mut driver, 1);
    for client in clients.into_iter().chain([late]) {
        assert!(driver.text(client).ends_with("own"));
        driver.end_if_open(client);
    }
    driver.proxy.check_invariants();
}

/// The queue below, at and above its maximum length. The wait ends at its timeout. /stats has the
/// counts.
#[test]
fn the_queue_is_bounded() {
    for length in [0, 1, 2] {
        let mut driver = Driver::new(config(1, length));
        ask(&mut driver, "0");
        let clients: Vec<ConnId> =
            (1..=3).map(|number| ask(&mut driver, &number.to_string())).collect();
        for (number, client) in clients.iter().enumerate() {
            if number < length {
                assert_eq!(driver.text(*client), "", "{number} of {length} waits");
            } else {
                assert_busy(&driver, *client);
            }
        }
        driver.pass(Duration::from_millis(299));
        clients[..length].iter().for_each(|client| assert_eq!(driver.text(*client), ""));
        driver.pass(Duration::from_millis(1));
        clients.iter().for_each(|client| assert_busy(&driver, *client));
        let client = driver.client_from("127.0.0.1:9");
        driver.send(client, b"GET /stats HTTP/1.1\r\nHost: h\r\n\r\n");
        let refused = 3 - length;
        let field =
            format!("X-IntelliProxy-Queue: waited={length}, timedOut={length}, refused={refused}");
        assert!(driver.text(client).contains(&field), "{}", driver.text(client));
    }
}

/// A request that waits again after a failed attempt keeps its place and its deadline: both waits
/// together last at most `limits.queueMs`.
#[test]
fn a_second_wait_ends_with_the_first() {
    let mut config = config(1, 10);
    config.routing.policy = PolicyKind::LeastRequest;
    let mut driver = Driver::with_backends(config, &["a", "b"]);
    ask(&mut driver, "0");
    ask(&mut driver, "1");
    let client = ask(&mut driver, "2");
    driver.pass(Duration::from_millis(100));
    let later = ask(&mut driver, "3");
    driver.pass(Duration::from_millis(100));
    // The connection that became free breaks, and a new one is refused.
    let conn = driver.upstreams()[1];
    driver.dialling = Dialling::IsRefused;
    respond(&mut driver, 1);
    driver.reset(conn);
    let is_error = |notice: &&Notice| matches!(notice, Notice::UpstreamError { .. });
    assert_eq!(driver.notices.iter().filter(is_error).count(), 1);
    driver.pass(Duration::from_millis(99));
    assert_eq!(driver.text(client), "");
    driver.pass(Duration::from_millis(1));
    assert_busy(&driver, client);
    assert_eq!(driver.text(later), "", "it came later");
    respond(&mut driver, 0);
    assert!(paths(&driver).contains(&"/3".to_owned()), "{:?}", paths(&driver));
}

/// A request that would wait again after its deadline gets its response at once.
#[test]
fn no_second_wait_after_the_deadline() {
    let mut config = config(1, 10);
    config.routing.policy = PolicyKind::LeastRequest;
    let mut driver = Driver::with_backends(config, &["a", "b"]);
    ask(&mut driver, "0");
    ask(&mut driver, "1");
    let client = ask(&mut driver, "2");
    driver.pass(Duration::from_millis(100));
    let conn = driver.upstreams()[1];
    driver.dialling = Dialling::IsRefused;
    respond(&mut driver, 1);
    driver.pass(Duration::from_millis(250));
    assert_eq!(driver.text(client), "", "a backend works on it");
    driver.reset(conn);
    assert_busy(&driver, client);
}

/// While the one backend that is up is only full, requests wait for it. None is sent to a backend
/// that is down.
#[test]
fn no_request_goes_to_a_dead_backend_meanwhile() {
    for policy in PolicyKind::ALL {
        let mut config = config(1, 10);
        config.routing.policy = policy;
        let both = targets(&["a", "b"]);
        let dead = both[1].addresses.clone();
        let mut driver = Driver::with_targets(config, both);
        driver.responds_to_probes = true;
        driver.refusing = dead;
        driver.pass(Duration::from_secs(20));
        driver.notices.clear();
        ask(&mut driver, "0");
        let client = ask(&mut driver, "1");
        driver.pass(Duration::from_millis(200));
        assert_eq!(driver.text(client), "", "{policy:?}");
        let is_error = |notice: &&Notice| matches!(notice, Notice::UpstreamError { .. });
        assert_eq!(driver.notices.iter().find(is_error), None, "{policy:?}");
        let conn = driver.upstream();
        driver.send(conn, OWN);
        driver.send(conn, OWN);
        assert!(driver.text(client).ends_with("own"), "{policy:?}: {}", driver.text(client));
    }
}

/// Clients that leave the queue free their place: the next one continues, and another one may wait.
#[test]
fn clients_that_leave_are_skipped() {
    let mut driver = Driver::new(config(1, 2));
    ask(&mut driver, "0");
    let gone = [ask(&mut driver, "1"), ask(&mut driver, "2")];
    driver.pass(Duration::from_millis(50));
    driver.reset(gone[0]);
    driver.end(gone[1]);
    driver.pass(Duration::from_millis(20));
    let next = ask(&mut driver, "3");
    assert_eq!(driver.text(next), "", "it waits");
    respond(&mut driver, 0);
    assert_eq!(paths(&driver), ["/0", "/3"]);
    respond(&mut driver, 0);
    assert!(driver.text(next).ends_with("own"));
}

/// One of two backends has a limit: with every policy, requests above the limit go to the other.
/// Raising the limit lets waiting requests continue.
#[test]
fn limits_differ_and_change() {
    for policy in PolicyKind::ALL {
        let mut config = config(0, 10);
        config.routing.policy = policy;
        config.backends[0].limit = Some(1);
        let mut driver = Driver::with_backends(config.clone(), &["A", "B"]);
        for number in 0..8 {
            ask(&mut driver, &number.to_string());
        }
        let seen = paths(&driver).len();
        assert_eq!(seen, 8, "{policy:?}");
        let snapshot = driver.proxy.snapshot(driver.now);
        assert!(snapshot.backends[0].in_flight <= 1, "{policy:?}");
        config.backends[1].limit = Some(1);
        let mut driver = Driver::with_backends(config.clone(), &["A", "B"]);
        for number in 0..8 {
            ask(&mut driver, &number.to_string());
        }
        assert_eq!(paths(&driver).len(), 2, "{policy:?}");
        config.backends[1].limit = Some(5);
        driver.reconfigure(config, targets(&["A", "B"])).expect("valid");
        assert_eq!(paths(&driver).len(), 6, "{policy:?}");
        assert_eq!(driver.proxy.snapshot(driver.now).backends[1].in_flight, 5, "{policy:?}");
    }
}
