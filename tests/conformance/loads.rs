//! Load reports in every form, through the whole proxy: the requests, the figures that the router
//! gets, and the effect of a bad report.
use std::time::Duration;

use intelliproxy::config::Config;
use intelliproxy::proxy::{ConnId, Notice, ReportFault};
use intelliproxy_core::{BackendSnapshot, Mode};
use intelliproxy_driver::{Driver, Peer};

fn driver(reports: &str, names: &[&str]) -> Driver {
    let backends = names.iter().map(|name| {
        format!(
            r#"{{"name": "{name}", "url": "http://{name}.test", "health": {{"kind": "none"}}}}"#
        )
    });
    let backends: Vec<_> = backends.collect();
    let text = format!(
        r#"{{"routing": {{"policy": "least_request"}}, "reports": {reports}, "backends": [{}]}}"#,
        backends.join(",")
    );
    let mut driver = Driver::with_backends(Config::from_json(&text).expect(&text), names);
    driver.responds_to_probes = false;
    driver
}

fn backend(driver: &Driver, at: usize) -> BackendSnapshot {
    driver.proxy.snapshot(driver.now).backends.swap_remove(at)
}

/// Returns the open connections whose peer has received a text that begins with `start`.
fn asked(driver: &Driver, start: &str) -> Vec<ConnId> {
    let is_asked =
        |peer: &&Peer| peer.closed.is_none() && peer.received.starts_with(start.as_bytes());
    driver.peers().iter().filter(is_asked).map(|peer| peer.conn).collect()
}

fn faults(driver: &mut Driver) -> Vec<ReportFault> {
    let faults = driver.notices.drain(..).filter_map(|notice| match notice {
        Notice::UnreadableReport { fault, .. } => Some(fault),
        _ => None,
    });
    faults.collect()
}

fn with_length(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// The preset's metrics are requested from the configured path and reach the router. Then bad
/// reports of every kind leave the figures unchanged, and each kind causes one notice.
#[test]
fn metrics_are_read_and_bad_ones_change_nothing() {
    let mut driver = driver(r#"{"preset": "vllm", "path": "/m?x", "intervalMs": 1000}"#, &["a"]);
    driver.pass(Duration::ZERO);
    let good = "vllm:num_requests_running{engine=\"0\"} 3.0\nvllm:num_requests_waiting 2.0\n\
                vllm:kv_cache_usage_perc 0.5\n";
    let [first] = asked(&driver, "GET /m?x HTTP/1.1\r\n")[..] else { panic!("one report") };
    driver.send(first, with_length(good).as_bytes());
    let figures = |driver: &Driver| {
        let backend = backend(driver, 0);
        (backend.queue, backend.running, backend.pressure, backend.others)
    };
    let expected = (Some(2.0), Some(3.0), Some(0.5), Some(5.0));
    assert_eq!(figures(&driver), expected);
    let gzip = "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\n\x1f\u{8}x";
    let long = format!("HTTP/1.1 200 OK\r\n\r\n{}", "x 1\n".repeat(300_000));
    let bad = [
        with_length("vllm:num_requests_running many"),
        with_length("vllm:num_requests_waiting NaN"),
        with_length("vllm:num_requests_running -1"),
        with_length("vllm:kv_cache_usage_perc 1e300"),
        with_length("{\"queueLen\": 3}"),
        gzip.to_owned(),
        long,
        "HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n".to_owned(),
    ];
    for response in &bad {
        driver.pass(Duration::from_millis(1000));
        let open = asked(&driver, "GET /m?x ");
        assert_eq!(open.len(), 1, "{response:.60}");
        for piece in response.as_bytes().chunks(100_000) {
            if driver.peer(open[0]).closed.is_none() {
                driver.send(open[0], piece);
            }
        }
        assert!(driver.peer(open[0]).closed.is_some(), "{response:.60}");
        let (queue, running, pressure, _) = figures(&driver);
        assert_eq!((queue, running, pressure), (Some(2.0), Some(3.0), Some(0.5)), "{response:.60}");
    }
    // The proxy stops reading an endless body at the deadline.
    driver.pass(Duration::from_millis(1000));
    let [endless] = asked(&driver, "GET /m?x ")[..] else { panic!("one report") };
    driver.send(endless, b"HTTP/1.1 200 OK\r\n\r\nvllm:num_requests_running 9\n");
    driver.pass(Duration::from_millis(1000));
    assert!(driver.peer(endless).closed.is_some());
    assert_eq!(backend(&driver, 0).running, Some(3.0));
    let kinds: Vec<_> = faults(&mut driver)
        .iter()
        .map(|fault| format!("{fault:?}").split([' ', '(']).next().unwrap_or("").to_owned())
        .collect();
    let expected =
        ["NoNumber", "OutOfRange", "NoFigures", "Encoded", "TooLong", "Status", "TimedOut"];
    assert_eq!(kinds, expected);
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n";

/// Sends a request, and a response with these fields. Returns the text that the client gets.
fn exchange(driver: &mut Driver, fields: &str) -> String {
    let client = driver.client_with(GET);
    let open = asked(driver, "GET / ");
    let upstream = *open.last().expect("the request is sent");
    let response = format!("HTTP/1.1 200 OK\r\n{fields}Date: x\r\nContent-Length: 2\r\n\r\nok");
    driver.send(upstream, response.as_bytes());
    driver.drain(upstream);
    driver.text(client)
}

/// The load figures of a response reach the router. They are removed with `take`, and forwarded
/// with `keep` and `off`. A bad field is also removed, and changes no figure.
#[test]
fn figures_in_responses() {
    let field = "endpoint-load-metrics: TEXT named_metrics.num_requests_running=4,\
                 named_metrics.num_requests_waiting=2\r\n";
    for (orca, is_kept, is_read) in
        [("take", false, true), ("keep", true, true), ("off", true, false)]
    {
        let reports = format!(r#"{{"kind": "none", "orca": "{orca}"}}"#);
        let mut driver = driver(&reports, &["a"]);
        driver.pass(Duration::from_secs(10));
        assert!(driver.peers().is_empty(), "neither pings nor reports are sent");
        let text = exchange(&mut driver, &format!("A: 1\r\n{field}B: 2\r\n"));
        assert!(text.contains("A: 1\r\n") && text.contains("B: 2\r\n"), "{text}");
        assert!(text.ends_with("\r\n\r\nok"), "{text}");
        assert_eq!(text.contains(field), is_kept, "{orca}: {text}");
        let figures = |driver: &Driver| {
            let backend = backend(driver, 0);
            (backend.running, backend.queue, backend.others)
        };
        // Of the four running and two waiting requests one is the proxy's own, which leaves five of
        // others. The own request has since ended, so half of the ratio of five others per own
        // request are expected to have ended too.
        let expected = if is_read { (Some(4.0), Some(2.0), Some(2.5)) } else { (None, None, None) };
        assert_eq!(figures(&driver), expected, "{orca}");
        let bad = "Endpoint-Load-Metrics-JSON: {\"cpu_utilization\": \"high\"}\r\n";
        let text = exchange(&mut driver, bad);
        assert_eq!(text.contains("JSON"), is_kept, "{orca}: {text}");
        assert_eq!(figures(&driver).0, expected.0, "{orca}");
        assert_eq!(faults(&mut driver).len(), usize::from(is_read), "{orca}");
        let text = exchange(&mut driver, "");
        assert!(text.ends_with("Date: x\r\nContent-Length: 2\r\n\r\nok"), "{text}");
    }
}

/// With `take` no head and no trailer section has the fields: not those of interim responses, of
/// HEAD, of 304, or of a switched protocol. Only final heads are read, one time each, also when the
/// response was first offered to other backends.
#[test]
fn figures_are_taken_from_every_part() {
    let field =
        |running: u32| format!("Endpoint-Load-Metrics: TEXT named_metrics.running={running}\r\n");
    for (orca, is_kept) in [("take", false), ("keep", true)] {
        let reports = format!(r#"{{"kind": "none", "orca": "{orca}"}}"#);
        let rows = [
            (
                "GET",
                "HTTP/1.1 200 OK\r\nFIELD1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-A: 1\r\nFIELD9X-B: 2\r\n\r\n",
                Some(1.0),
            ),
            (
                "GET",
                "HTTP/1.1 103 Early Hints\r\nFIELD9\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
                None,
            ),
            ("HEAD", "HTTP/1.1 200 OK\r\nFIELD2Content-Length: 5\r\n\r\n", Some(2.0)),
            ("GET", "HTTP/1.1 304 Not Modified\r\nFIELD3\r\n", Some(3.0)),
            (
                "GET",
                "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\nFIELD9\r\n",
                None,
            ),
        ];
        for (method, response, running) in rows {
            let mut driver = driver(&reports, &["a"]);
            let mut response =
                response.replace("FIELD1\r\n", &field(1)).replace("FIELD2", &field(2));
            response = response.replace("FIELD3", &field(3)).replace("FIELD9", &field(9));
            let upgrade = if response.contains(" 101 ") {
                "Connection: upgrade\r\nUpgrade: x\r\n"
            } else {
                "Connection: te\r\nTE: trailers\r\n"
            };
            let client = driver
                .client_with(format!("{method} / HTTP/1.1\r\nHost: h\r\n{upgrade}\r\n").as_bytes());
            let upstream = driver.upstream();
            driver.send(upstream, response.as_bytes());
            let text = driver.text(client);
            assert_eq!(text.contains("Endpoint-Load-Metrics"), is_kept, "{orca}: {text}");
            assert_eq!(backend(&driver, 0).running, running, "{orca}: {response}");
            assert_eq!(text.contains("X-A: 1\r\n"), response.contains("X-A"), "{text}");
            assert_eq!(text.contains("X-B: 2\r\n"), response.contains("X-B"), "{text}");
        }
    }
    // The only backend refuses: the refusal is read once and passed on.
    let mut driver = driver(r#"{"kind": "none", "orca": "take"}"#, &["a"]);
    let client = driver.client_with(GET);
    let upstream = driver.upstream();
    let bad = "Endpoint-Load-Metrics: TEXT named_metrics.running=-1\r\n";
    driver.send(upstream, format!("HTTP/1.1 503 No\r\n{bad}Content-Length: 0\r\n\r\n").as_bytes());
    let text = driver.text(client);
    assert!(text.starts_with("HTTP/1.1 503 No\r\n") && !text.contains("Load"), "{text}");
    assert_eq!(faults(&mut driver).len(), 1);
}

/// The words of an agent set the weight and take the backend out of service. A bad line, or no
/// line, changes nothing.
#[test]
fn agents_decide_about_service() {
    let mut driver = driver(r#"{"kind": "agent", "port": 80, "intervalMs": 1000}"#, &["a", "b"]);
    driver.pass(Duration::ZERO);
    let say = |driver: &mut Driver, line: &str| {
        let first = std::net::SocketAddr::from(([10, 0, 0, 1], 80));
        let is_agent = |peer: &&Peer| {
            peer.closed.is_none() && peer.address == Some(first) && peer.received.is_empty()
        };
        let open: Vec<_> = driver.peers().iter().filter(is_agent).map(|peer| peer.conn).collect();
        assert_eq!(open.len(), 1, "{line}");
        for byte in line.as_bytes() {
            if driver.peer(open[0]).closed.is_none() {
                driver.send(open[0], &[*byte]);
            }
        }
        driver.end_if_open(open[0]);
        driver.pass(Duration::from_millis(1000));
        let backend = backend(driver, 0);
        (backend.mode, backend.weight)
    };
    let rows = [
        ("75%\n", (Mode::Ready, 75)),
        ("drain\n", (Mode::Drain, 75)),
        ("up 50%", (Mode::Drain, 50)),
        ("nonsense\n", (Mode::Drain, 50)),
        ("ready\n", (Mode::Ready, 50)),
        ("down # disk is full\n", (Mode::Drain, 50)),
        ("ready\n", (Mode::Drain, 50)),
        ("up 100%\n", (Mode::Ready, 100)),
        ("", (Mode::Ready, 100)),
        ("0%\n", (Mode::Ready, 0)),
    ];
    for (line, expected) in rows {
        assert_eq!(say(&mut driver, line), expected, "{line}");
    }
    let client = driver.client_with(GET);
    let second = std::net::SocketAddr::from(([10, 0, 0, 2], 80));
    let got: Vec<_> =
        asked(&driver, "GET / ").iter().map(|conn| driver.peer(*conn).address).collect();
    assert_eq!(got, [Some(second)], "{}", driver.text(client));
}
