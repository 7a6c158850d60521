//! A real backend on a free port, tested over real sockets.
use std::io::{ErrorKind, Read};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use intelliproxy_sim::{Backend, Config, Faults, Parameters};
use serde_json::Value;

use crate::client::{Client, DEADLINE, wait_until};
use crate::port::free_port;

fn start(parameters: Parameters) -> Backend {
    Backend::start(Config { parameters, ..Config::faultless() }).expect("a backend")
}

fn slow(slow_ms: u32) -> Parameters {
    Parameters { slow_rate: 1.0, slow_ms, ..Parameters::faultless() }
}

/// Every path returns its documented response, on one connection that stays open.
#[test]
fn responds_on_a_kept_connection() {
    let backend = start(Parameters::faultless());
    let mut client = Client::connect(backend.port());
    let hello = format!("Hello from backend on port {}", backend.port());
    for (path, body) in [("/", &*hello), ("/health", "OK"), ("/any?thing=1", &*hello)] {
        let response = client.get(path);
        assert_eq!((response.status, &*response.body), (200, body), "{path}");
        assert_eq!(response.field("connection"), None, "{path}");
        assert!(response.field("date").is_some_and(|date| date.ends_with(" GMT")), "{path}");
    }
    let counters = backend.counters();
    assert_eq!((counters.connections, counters.connections_open), (1, 1));
    assert_eq!((counters.requests, counters.pings, counters.polls), (2, 1, 0));
}

/// All addresses of the backend accept requests. 127.0.0.1 is always one of them.
#[test]
fn listens_on_every_loopback_address() {
    let backend = start(Parameters::faultless());
    assert!(backend.addresses().iter().any(|address| address.ip().to_string() == "127.0.0.1"));
    assert_eq!(backend.addresses().len() == 2, TcpListener::bind("[::1]:0").is_ok());
    for address in backend.addresses() {
        assert_eq!(address.port(), backend.port());
        assert_eq!(Client::connect_to(*address).get("/").status, 200, "{address}");
    }
}

/// Requests sent in one piece get responses in order, up to the one that closes.
#[test]
fn pipelined_requests_are_served_in_order() {
    let backend = start(Parameters::faultless());
    let mut client = Client::connect(backend.port());
    client.send(
        "GET /health HTTP/1.1\r\nHost: b\r\n\r\n\
         POST / HTTP/1.1\r\nHost: b\r\nContent-Length: 4\r\n\r\nbody\
         GET /health HTTP/1.1\r\nHost: b\r\nConnection: close\r\n\r\n\
         GET / HTTP/1.1\r\nHost: b\r\n\r\n",
    );
    assert_eq!(client.response().body, "OK");
    assert!(client.response().body.starts_with("Hello"));
    let last = client.response();
    assert_eq!((&*last.body, last.field("connection")), ("OK", Some("close")));
    assert_eq!(client.rest(), b"");
    assert_eq!(backend.counters().requests, 1);
}

/// Large bodies in both framings are accepted, and the connection stays usable.
#[test]
fn bodies_are_read_and_forgotten() {
    let backend = start(Parameters::faultless());
    let mut client = Client::connect(backend.port());
    let body = vec![b'x'; 3_000_000];
    client.send(format!("POST / HTTP/1.1\r\nHost: b\r\nContent-Length: {}\r\n\r\n", body.len()));
    client.send(&body);
    assert_eq!(client.response().status, 200);
    client.send("PUT / HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: chunked\r\n\r\n");
    for chunk in body.chunks(100_000) {
        client.send(format!("{:x}\r\n", chunk.len()));
        client.send(chunk);
        client.send("\r\n");
    }
    client.send("0\r\nX-Trailer: 1\r\n\r\n");
    assert_eq!(client.response().status, 200);
    assert_eq!(client.get("/health").body, "OK");
}

/// HEAD gets the fields of GET and no body: the next response follows at once.
#[test]
fn head_has_no_body() {
    let backend = start(Parameters::faultless());
    let mut client = Client::connect(backend.port());
    client.send("HEAD /health HTTP/1.1\r\nHost: b\r\n\r\n");
    assert_eq!(client.response_head().field("content-length"), Some("2"));
    assert_eq!(client.get("/health").body, "OK");
}

/// A client that sends `Expect` gets 100 (Continue) before it sends its body.
#[test]
fn continue_comes_first() {
    let backend = start(Parameters::faultless());
    let mut client = Client::connect(backend.port());
    client.send("POST / HTTP/1.1\r\nHost: b\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n");
    assert_eq!(client.response_head().status, 100);
    client.send("abc");
    assert_eq!(client.response().status, 200);
}

/// HTTP/1.0 closes by default, and keeps the connection on request.
#[test]
fn http_10_is_served() {
    let backend = start(Parameters::faultless());
    let mut client = Client::connect(backend.port());
    client.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!(client.response().field("connection"), Some("keep-alive"));
    client.send("GET / HTTP/1.0\r\n\r\n");
    assert_eq!(client.response().field("connection"), Some("close"));
    assert_eq!(client.rest(), b"");
}

/// Bytes that are not a request get 400 and the connection is closed. The response is not lost to a
/// reset, although many bytes are unread.
#[test]
fn bad_requests_are_refused() {
    let backend = start(Parameters::faultless());
    let mut client = Client::connect(backend.port());
    client.send("GET / HTTP/1.1\r\nHost: b\r\nContent-Length: x\r\n\r\n");
    client.send(vec![b'x'; 100_000]);
    let response = client.response();
    assert_eq!((response.status, response.field("connection")), (400, Some("close")));
    assert_eq!(response.body, "Bad request: bad Content-Length\n");
    assert_eq!(client.rest(), b"");
    let counters = backend.counters();
    assert_eq!((counters.malformed, counters.requests), (1, 0));
}

/// The report has all of its fields with their types, and does not count as a ping.
#[test]
fn metrics_are_reported() {
    let parameters = Parameters { slow_ms: 7, queue_max: 9, ..Parameters::faultless() };
    let backend = start(parameters);
    let response = Client::connect(backend.port()).get("/metrics");
    assert_eq!(response.field("content-type"), Some("application/json"));
    let report: Value = serde_json::from_str(&response.body).expect("JSON");
    assert_eq!(report["port"], backend.port());
    assert_eq!(report["ge_state"], "G");
    assert_eq!((&report["slowMs"], &report["simQueueMax"]), (&7.into(), &9.into()));
    assert!(report["queueLen"].as_u64().is_some_and(|length| length <= 9));
    for name in ["slowRate", "errRate", "uptime", "timestamp"] {
        assert!(report[name].is_number(), "{name} in {report}");
    }
    for name in ["pGtoB", "pBtoG", "lossInG", "lossInB"] {
        assert!(report["lossParams"][name].is_number(), "{name} in {report}");
    }
    let is_linux = cfg!(target_os = "linux");
    assert_eq!(report["memRss"].as_u64().is_some_and(|bytes| bytes > 100_000), is_linux);
    assert_eq!(report.get("heapUsed"), Some(&Value::Null));
    assert!(report.get("cpuBusyMs").is_some());
    let counters = backend.counters();
    assert_eq!((counters.polls, counters.pings, counters.requests), (1, 0, 0));
}

/// CPU work shows in the report after a second. How much depends on the machine's other work.
#[cfg(target_os = "linux")]
#[test]
fn cpu_work_is_measured() {
    let backend = start(Parameters { cpu_load_ms: 100, ..Parameters::faultless() });
    wait_until("the CPU is busy", || {
        let mut client = Client::connect(backend.port());
        assert_eq!(client.get("/").status, 200);
        let report: Value = serde_json::from_str(&client.get("/metrics").body).expect("JSON");
        report["cpuBusyMs"].as_f64().is_some_and(|busy| busy > 0.0)
    });
}

/// A dropped ping gets no byte, either while the client waits or when the backend ends.
#[test]
fn a_dropped_ping_gets_no_response() {
    let backend = start(Parameters { loss_in_g: 1.0, ..Parameters::faultless() });
    let mut client = Client::connect(backend.port());
    client.send("GET /health HTTP/1.1\r\nHost: b\r\n\r\n");
    wait_until("the ping is dropped", || backend.counters().dropped == 1);
    client.stream.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
    let waiting = client.stream.read(&mut [0; 1]).expect_err("nothing to read");
    assert!(matches!(waiting.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{waiting}");
    client.stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    assert!(backend.stop(DEADLINE), "a silent connection does not hold up the end");
    assert_eq!(client.rest(), b"");
}

/// The connection of a client that gives up waiting is freed.
#[test]
fn a_client_that_leaves_frees_its_connection() {
    let backend = start(Parameters { loss_in_g: 1.0, ..Parameters::faultless() });
    let mut client = Client::connect(backend.port());
    client.send("GET /health HTTP/1.1\r\nHost: b\r\n\r\n");
    wait_until("the ping is dropped", || backend.counters().dropped == 1);
    drop(client);
    wait_until("the connection is gone", || backend.counters().connections_open == 0);
}

/// `Faults::Health` affects only pings, `Faults::All` traffic as well. The setting can change at
/// run time.
#[test]
fn faults_affect_the_chosen_requests() {
    let failing = |faults| Parameters { error_rate: 1.0, faults, ..Parameters::faultless() };
    let backend = start(failing(Faults::Health));
    let mut client = Client::connect(backend.port());
    assert_eq!((client.get("/health").status, client.get("/").status), (500, 200));
    backend.set_parameters(failing(Faults::All)).expect("sound parameters");
    assert_eq!(backend.parameters(), failing(Faults::All));
    assert_eq!((client.get("/health").status, client.get("/").status), (500, 500));
    assert_eq!(client.get("/metrics").status, 200);
    assert_eq!(backend.counters().errors, 3);
}

/// Slow responses arrive no sooner than their delay.
#[test]
fn slow_responses_take_their_time() {
    let backend = start(slow(80));
    let start = Instant::now();
    assert_eq!(Client::connect(backend.port()).get("/").status, 200);
    assert!(start.elapsed() >= Duration::from_millis(80));
    assert_eq!(backend.counters().delayed, 1);
}

/// Parameters out of range are refused at startup and later, and the current ones stay.
#[test]
fn bad_parameters_are_refused() {
    let bad = Parameters { loss_in_b: 1.5, ..Parameters::faultless() };
    let message = "LOSS_IN_B must be a number from 0 to 1";
    let config = Config { parameters: bad.clone(), ..Config::faultless() };
    assert_eq!(Backend::start(config).expect_err("a refusal").to_string(), message);
    let backend = start(Parameters::faultless());
    assert_eq!(backend.set_parameters(bad).expect_err("a refusal").to_string(), message);
    assert_eq!(backend.parameters(), Parameters::faultless());
}

/// By default a backend listens on the loopback addresses. A public one listens on all addresses,
/// and also ends cleanly.
#[test]
fn a_public_backend_listens_on_all_addresses() {
    for is_public in [false, true] {
        let config = Config { is_public, ..Config::faultless() };
        let backend = Backend::start(config).expect("a backend");
        let ips = backend.addresses().iter().map(|address| address.ip());
        assert!(ips.clone().all(|ip| ip.is_loopback() != is_public), "{:?}", backend.addresses());
        assert!(
            ips.clone().all(|ip| ip.is_unspecified() == is_public),
            "{:?}",
            backend.addresses()
        );
        assert_eq!(Client::connect(backend.port()).get("/").status, 200);
        assert!(backend.stop(DEADLINE), "nothing had to be cut");
    }
}

/// A connection above the maximum gets 503. A connection that ends makes room.
#[test]
fn connections_are_bounded() {
    let config = Config { connections_max: 2, ..Config::faultless() };
    let backend = Backend::start(config).expect("a backend");
    let mut first = Client::connect(backend.port());
    let mut second = Client::connect(backend.port());
    assert_eq!((first.get("/").status, second.get("/").status), (200, 200));
    let mut third = Client::connect(backend.port());
    assert_eq!(third.response().status, 503);
    assert_eq!(third.rest(), b"");
    assert_eq!(backend.counters().connections_refused, 1);
    drop(first);
    wait_until("there is room", || backend.counters().connections_open == 1);
    assert_eq!(Client::connect(backend.port()).get("/").status, 200);
}

/// A killed backend cuts the response in progress and refuses connections. Another one can take its
/// port at once.
#[test]
fn a_killed_backend_is_gone_and_replaceable() {
    let port = free_port();
    let config = Config { port, parameters: slow(600_000), ..Config::faultless() };
    let backend = Backend::start(config).expect("a free port");
    let mut client = Client::connect(port);
    client.send("GET / HTTP/1.1\r\nHost: b\r\n\r\n");
    wait_until("the request is in progress", || backend.counters().requests == 1);
    backend.kill();
    assert_eq!(client.rest(), b"");
    // A child that another test has just started may have the listener for a moment.
    wait_until("connections are refused", || {
        let refusal = TcpStream::connect(("127.0.0.1", port)).err();
        refusal.is_some_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    });
    let successor = Backend::start(Config { port, ..Config::faultless() }).expect("the same port");
    assert_eq!(Client::connect(successor.port()).get("/").status, 200);
}

/// A stopped backend finishes the response in progress with `Connection: close`, and drops idle
/// connections.
#[test]
fn a_stopped_backend_finishes_its_responses() {
    let backend = start(Parameters::faultless());
    let mut idle = Client::connect(backend.port());
    assert_eq!(idle.get("/").status, 200);
    // Long enough that the backend stops before the response.
    backend.set_parameters(slow(5000)).expect("sound parameters");
    let mut busy = Client::connect(backend.port());
    busy.send("GET / HTTP/1.1\r\nHost: b\r\n\r\n");
    wait_until("the request is in progress", || backend.counters().requests == 2);
    assert!(backend.stop(DEADLINE), "nothing had to be cut");
    let response = busy.response();
    assert_eq!((response.status, response.field("connection")), (200, Some("close")));
    assert_eq!((busy.rest(), idle.rest()), (vec![], vec![]));
}

/// Stopping does not wait for responses to clients that have gone.
#[test]
fn a_stop_does_not_wait_for_clients_that_left() {
    let backend = start(slow(600_000));
    let mut client = Client::connect(backend.port());
    client.send("GET / HTTP/1.1\r\nHost: b\r\n\r\n");
    wait_until("the request is in progress", || backend.counters().requests == 1);
    drop(client);
    assert!(backend.stop(DEADLINE), "no connection is left to wait for");
}

/// Stopping cuts responses that take longer than its limit.
#[test]
fn a_stop_is_bounded() {
    let backend = start(slow(600_000));
    let mut client = Client::connect(backend.port());
    client.send("GET / HTTP/1.1\r\nHost: b\r\n\r\n");
    wait_until("the request is in progress", || backend.counters().requests == 1);
    assert!(!backend.stop(Duration::from_millis(20)), "the response had to be cut");
    assert_eq!(client.rest(), b"");
}

/// A taken port is reported with its address.
#[test]
fn a_taken_port_is_refused() {
    let backend = start(Parameters::faultless());
    let port = backend.port();
    let error = Backend::start(Config { port, ..Config::faultless() }).expect_err("a refusal");
    assert_eq!(
        error.to_string(),
        format!("cannot listen on 127.0.0.1:{port}: the port is taken by another process")
    );
}
