//! Backends at their limits: which requests wait, in which order, and for how long.
use std::time::Duration;

use intelliproxy::config::Config;
use intelliproxy::proxy::ConnId;

use crate::bench::Bench;

const OWN: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nown";

fn config(per_backend: u32, queue_length: usize) -> Config {
    let mut config = Config::default();
    config.limits.per_backend = per_backend;
    config.limits.queue_length = queue_length;
    config.limits.queue = Duration::from_millis(300);
    config
}

fn ask(bench: &mut Bench, path: &str) -> ConnId {
    let request = format!("GET /{path} HTTP/1.1\r\nHost: h\r\n\r\n");
    bench.client_with(request.as_bytes())
}

/// Returns the paths of the requests that the backends have received.
fn paths(bench: &Bench) -> Vec<String> {
    let text = |conn: &ConnId| bench.text(*conn);
    let lines = bench.upstreams().iter().map(text).flat_map(|text| {
        let lines = text.lines().filter(|line| line.starts_with("GET /"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    });
    lines.filter_map(|line| Some(line.split(' ').nth(1)?.to_owned())).collect()
}

/// Sends a response to the oldest open request on the connection `upstream`. Each connection has at
/// most one.
fn respond(bench: &mut Bench, upstream: usize) {
    let conn = bench.upstreams()[upstream];
    bench.send(conn, OWN);
}

#[track_caller]
fn assert_busy(bench: &Bench, client: ConnId) {
    let text = bench.text(client);
    assert!(text.starts_with("HTTP/1.1 503 "), "{text}");
    assert!(text.contains("\r\nRetry-After: 1\r\n"), "{text}");
}

/// With a limit of 2 the third request waits, and the fourth waits behind it. Each response lets
/// the oldest waiting request go on. A later client does not overtake.
#[test]
fn first_come_first_served() {
    let mut bench = Bench::new(config(2, 10));
    let clients: Vec<ConnId> = ["1", "2", "3", "4"].map(|path| ask(&mut bench, path)).into();
    assert_eq!(paths(&bench), ["/1", "/2"]);
    respond(&mut bench, 0);
    assert!(bench.text(clients[0]).ends_with("own"));
    let late = ask(&mut bench, "5");
    assert_eq!(paths(&bench), ["/1", "/3", "/2"], "on the connection that became free");
    respond(&mut bench, 1);
    assert_eq!(paths(&bench), ["/1", "/3", "/2", "/4"]);
    respond(&mut bench, 0);
    assert_eq!(paths(&bench), ["/1", "/3", "/5", "/2", "/4"]);
    respond(&mut bench, 0);
    respond(&mut bench, 1);
    for client in clients.into_iter().chain([late]) {
        assert!(bench.text(client).ends_with("own"));
        bench.end_if_open(client);
    }
    bench.proxy.check_invariants();
}

/// The queue at one below, at and above its length. The wait ends at its timeout. /stats has the
/// counts.
#[test]
fn the_queue_is_bounded() {
    for length in [0, 1, 2] {
        let mut bench = Bench::new(config(1, length));
        ask(&mut bench, "0");
        let clients: Vec<ConnId> =
            (1..=3).map(|number| ask(&mut bench, &number.to_string())).collect();
        for (number, client) in clients.iter().enumerate() {
            if number < length {
                assert_eq!(bench.text(*client), "", "{number} of {length} waits");
            } else {
                assert_busy(&bench, *client);
            }
        }
        bench.pass(Duration::from_millis(299));
        clients[..length].iter().for_each(|client| assert_eq!(bench.text(*client), ""));
        bench.pass(Duration::from_millis(1));
        clients.iter().for_each(|client| assert_busy(&bench, *client));
        let client = bench.client_from("127.0.0.1:9");
        bench.send(client, b"GET /stats HTTP/1.1\r\nHost: h\r\n\r\n");
        let refused = 3 - length;
        let field =
            format!("X-IntelliProxy-Queue: waited={length}, timedOut={length}, refused={refused}");
        assert!(bench.text(client).contains(&field), "{}", bench.text(client));
    }
}

/// Clients that leave the queue free their place: the next one goes on, and another one may wait.
#[test]
fn clients_that_leave_are_skipped() {
    let mut bench = Bench::new(config(1, 2));
    ask(&mut bench, "0");
    let gone = [ask(&mut bench, "1"), ask(&mut bench, "2")];
    bench.pass(Duration::from_millis(50));
    bench.reset(gone[0]);
    bench.end(gone[1]);
    bench.pass(Duration::from_millis(20));
    let next = ask(&mut bench, "3");
    assert_eq!(bench.text(next), "", "it waits");
    respond(&mut bench, 0);
    assert_eq!(paths(&bench), ["/0", "/3"]);
    respond(&mut bench, 0);
    assert!(bench.text(next).ends_with("own"));
}

/// One of two backends has a limit: with every policy, requests above the limit go to the other.
/// Raising the limit lets waiting requests go on.
#[test]
fn limits_differ_and_change() {
    for policy in intelliproxy_core::PolicyKind::ALL {
        let mut config = config(0, 10);
        config.routing.policy = policy;
        config.backends[0].limit = Some(1);
        let mut bench = Bench::with_backends(config.clone(), &["A", "B"]);
        for number in 0..8 {
            ask(&mut bench, &number.to_string());
        }
        let seen = paths(&bench).len();
        assert_eq!(seen, 8, "{policy:?}");
        let snapshot = bench.proxy.snapshot(bench.now);
        assert!(snapshot.backends[0].in_flight <= 1, "{policy:?}");
        config.backends[1].limit = Some(1);
        let mut bench = Bench::with_backends(config.clone(), &["A", "B"]);
        for number in 0..8 {
            ask(&mut bench, &number.to_string());
        }
        assert_eq!(paths(&bench).len(), 2, "{policy:?}");
        config.backends[1].limit = Some(5);
        let target = |name: &str, place| intelliproxy::config::BackendTarget {
            name: name.to_owned(),
            url: format!("http://{name}.test"),
            authority: format!("{name}.test"),
            addresses: vec![std::net::SocketAddr::from(([10, 0, 0, place], 80))],
        };
        let targets = vec![target("A", 1), target("B", 2)];
        bench.proxy.handle_reconfigured(bench.now, config, targets).expect("valid");
        bench.run();
        assert_eq!(paths(&bench).len(), 6, "{policy:?}");
        assert_eq!(bench.proxy.snapshot(bench.now).backends[1].in_flight, 5, "{policy:?}");
    }
}
