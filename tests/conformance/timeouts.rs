//! Every timeout, checked one millisecond before it expires and when it expires.
use std::time::Duration;

use intelliproxy::config::Config;
use intelliproxy::proxy::Notice;
use intelliproxy_driver::{Dialling, Driver};

use crate::expected::refusal;

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n";
const MILLISECOND: Duration = Duration::from_millis(1);

/// Lets `span` pass. Checks that `is_over` is false one millisecond before the end of the span and
/// true at its end.
#[track_caller]
fn assert_over_after(driver: &mut Driver, span: Duration, is_over: impl Fn(&Driver) -> bool) {
    driver.pass(span - MILLISECOND);
    assert!(!is_over(driver), "not before the time");
    driver.pass(MILLISECOND);
    assert!(is_over(driver), "when the time is over: {:?}", driver.notices);
}

/// `timeouts.requestHeadMs` runs from a head's first byte and is not prolonged by later bytes: 408.
#[test]
fn request_head() {
    let mut driver = Driver::new(Config::default());
    let client = driver.client();
    driver.pass(Duration::from_secs(50));
    driver.send(client, b"GET / HTTP/1.1\r\n");
    driver.pass(Duration::from_secs(9));
    driver.send(client, b"Host: h\r\n");
    assert_over_after(&mut driver, Duration::from_secs(1), |driver| {
        driver.text(client) == refusal(408)
    });
}

/// `timeouts.requestBodyMs` runs from the last piece: 408, and the backend's request is never
/// complete.
#[test]
fn request_body() {
    let mut driver = Driver::new(Config::default());
    let client = driver.client_with(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nabc");
    let upstream = driver.upstream();
    driver.pass(Duration::from_secs(29));
    driver.send(client, b"def");
    assert_over_after(&mut driver, Duration::from_secs(30), |driver| {
        driver.text(client) == refusal(408)
    });
    assert!(driver.peer(upstream).closed.is_some());
}

/// `timeouts.clientIdleMs` before the first request and between two: closed without a response.
#[test]
fn client_idle() {
    let mut driver = Driver::new(Config::default());
    let silent = driver.client();
    assert_over_after(&mut driver, Duration::from_secs(60), |driver| {
        driver.peer(silent).closed == Some(false)
    });
    assert_eq!(driver.text(silent), "");
    let client = driver.client_with(GET);
    driver.pass(Duration::from_secs(30));
    driver.send(driver.upstream(), b"HTTP/1.1 204 N\r\n\r\n");
    assert_over_after(&mut driver, Duration::from_secs(60), |driver| {
        driver.peer(client).closed == Some(false)
    });
}

/// Returns whether a notice reports that the timeout `key` expired.
fn tells(driver: &Driver, key: &str) -> bool {
    let is_it =
        |notice: &Notice| matches!(notice, Notice::Expired { what, .. } if what.ends_with(key));
    driver.notices.iter().any(is_it)
}

/// `timeouts.clientWriteMs`: a client that accepts no byte of its response is cut.
#[test]
fn client_write() {
    let mut driver = Driver::new(Config::default());
    let client = driver.client_with(GET);
    driver.take(client, 0);
    driver.send(driver.upstream(), b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nown");
    driver.pass(Duration::from_secs(29));
    driver.take(client, 1);
    assert_over_after(&mut driver, Duration::from_secs(30), |driver| {
        driver.peer(client).closed == Some(true)
    });
    assert!(tells(&driver, "timeouts.clientWriteMs"));
    assert!(driver.proxy.is_at_rest());
}

/// The end of a response that is written in chunks has its own `timeouts.clientWriteMs`, however
/// long ago the last chunk was. (Found by the fuzzer: the end had only the rest of that chunk's
/// time.)
#[test]
fn client_write_of_the_last_chunk() {
    let mut driver = Driver::new(Config::default());
    let client = driver.client_with(GET);
    driver.send(driver.upstream(), b"HTTP/1.1 200 OK\r\n\r\nown");
    driver.pass(Duration::from_secs(50));
    driver.take(client, 0);
    driver.end(driver.upstream());
    assert_over_after(&mut driver, Duration::from_secs(30), |driver| {
        driver.peer(client).closed == Some(true)
    });
}

/// `timeouts.clientWriteMs` also applies to the bytes before a malformed chunk. (Found by random
/// operations: they had only the rest of the previous piece's time.)
#[test]
fn client_write_of_a_chunk_before_a_malformed_one() {
    let mut driver = Driver::new(Config::default());
    let client = driver.client_with(GET);
    driver.send(driver.upstream(), b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    driver.pass(Duration::from_secs(50));
    driver.take(client, 0);
    driver.send(driver.upstream(), b"2\r\nab\r\nmalformed\r\n");
    assert_over_after(&mut driver, Duration::from_secs(30), |driver| {
        driver.peer(client).closed == Some(true)
    });
}

/// `timeouts.connectMs` for each backend that is tried: 504 after the last one.
#[test]
fn connect() {
    let mut driver = Driver::with_backends(Config::default(), &["a", "b"]);
    driver.dialling = Dialling::Hangs;
    let client = driver.client_with(GET);
    let first = driver.upstream();
    assert_over_after(&mut driver, Duration::from_secs(2), |driver| {
        driver.peer(first).closed.is_some()
    });
    assert_eq!(driver.text(client), "", "the other backend is tried");
    assert_over_after(&mut driver, Duration::from_secs(2), |driver| {
        driver.text(client).starts_with("HTTP/1.1 504 ")
    });
}

/// `timeouts.responseHeadMs` runs from the request's last byte: 504. Interim responses restart it.
#[test]
fn response_head() {
    let mut driver = Driver::new(Config::default());
    let client = driver.client_with(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\na");
    driver.pass(Duration::from_secs(20));
    driver.send(client, b"b");
    driver.pass(Duration::from_secs(50));
    driver.send(driver.upstream(), b"HTTP/1.1 102 Processing\r\n\r\n");
    driver.drain(client);
    assert_over_after(&mut driver, Duration::from_secs(60), |driver| {
        driver.text(client).starts_with("HTTP/1.1 504 ")
    });
    assert!(driver.peer(driver.upstream()).closed.is_some());
}

/// `timeouts.responseBodyMs` runs from the last piece: the client's response is cut.
#[test]
fn response_body() {
    let mut driver = Driver::new(Config::default());
    let client = driver.client_with(GET);
    let upstream = driver.upstream();
    driver.send(upstream, b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc");
    driver.pass(Duration::from_secs(59));
    driver.send(upstream, b"def");
    assert_over_after(&mut driver, Duration::from_secs(60), |driver| driver.peer(client).is_over());
    assert!(driver.peer(upstream).closed.is_some());
}

/// `timeouts.responseBodyMs` also applies to a backend that accepts no bytes of a request body:
/// 504.
#[test]
fn backend_that_takes_nothing() {
    let mut driver = Driver::new(Config::default());
    let client = driver.client_with(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nabc");
    let upstream = driver.upstream();
    driver.take(upstream, 0);
    driver.send(client, b"defghi");
    assert_over_after(&mut driver, Duration::from_secs(60), |driver| {
        driver.text(client).starts_with("HTTP/1.1 504 ")
    });
}

/// A backend that has begun its response and reads the upload slowly has not failed: its response
/// is not cut while the upload makes progress, however long the response pauses. After that it has
/// `timeouts.responseBodyMs`.
#[test]
fn slow_upload_beside_a_begun_response() {
    const STEP: usize = 1000;
    let mut driver = Driver::new(Config::default());
    driver.backends_take = 300;
    let head = format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", 200 * STEP);
    let client = driver.client_with(head.as_bytes());
    let upstream = driver.upstream();
    driver.send(upstream, b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nb");
    driver.send(client, &vec![b'x'; 200 * STEP]);
    let span = Config::default().timeouts.response_body;
    while driver.peer(upstream).received.len() < 200 * STEP {
        driver.pass(span / 3);
        assert_eq!(driver.peer(client).closed, None, "{:?}", driver.now);
        driver.take(upstream, 10 * STEP);
    }
    let is_cut = |notice: &Notice| format!("{notice:?}").contains("error: BodyTimeout");
    assert_over_after(&mut driver, span, |driver| driver.notices.iter().any(is_cut));
}

/// `timeouts.tunnelIdleMs` without a byte in either direction: the tunnel is closed.
#[test]
fn tunnel_idle() {
    let mut config = Config::default();
    config.routing.probes.ping_interval = Duration::from_secs(3600);
    config.routing.probes.report_interval = Duration::from_secs(3600);
    let mut driver = Driver::new(config);
    let client = driver.client_with(
        b"GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    );
    let upstream = driver.upstream();
    driver.send(upstream, b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
    driver.pass(Duration::from_secs(3500));
    driver.send(client, b"x");
    driver.pass(Duration::from_secs(3500));
    driver.send(upstream, b"y");
    assert_over_after(&mut driver, Duration::from_secs(3600), |driver| {
        driver.peer(client).closed.is_some()
    });
    assert!(tells(&driver, "timeouts.tunnelIdleMs"));
    assert!(driver.peer(upstream).closed.is_some());
}

/// A tunnel whose sides accept waiting bytes is not idle, even if no new bytes arrive.
#[test]
fn a_tunnel_that_drains_is_not_idle() {
    for is_upload in [false, true] {
        let mut config = Config::default();
        config.timeouts.tunnel_idle = Duration::from_secs(2);
        let mut driver = Driver::new(config);
        let client = driver
            .client_with(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n");
        let upstream = driver.upstream();
        driver.send(upstream, b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n");
        let (from, to) = if is_upload { (client, upstream) } else { (upstream, client) };
        driver.drain(to);
        driver.take(to, 0);
        driver.send(from, &[b'x'; 20_000]);
        for _ in 0..10 {
            driver.pass(Duration::from_secs(1));
            driver.take(to, 2_000);
        }
        assert_eq!(driver.peer(to).received.len(), 20_000, "upload: {is_upload}");
        assert_eq!(driver.peer(to).closed, None, "upload: {is_upload}");
        assert_over_after(&mut driver, Duration::from_secs(2), |driver| {
            driver.peer(client).closed.is_some()
        });
        assert!(tells(&driver, "timeouts.tunnelIdleMs"));
    }
}

/// `timeouts.lingerMs`: bytes that a client sends after its last response are dropped until none
/// arrive for this time.
#[test]
fn linger() {
    let mut driver = Driver::new(Config::default());
    let client = driver.client_with(b"bad\r\n\r\n");
    assert!(driver.peer(client).is_shut);
    driver.pass(Duration::from_millis(1500));
    driver.send(client, &[b'x'; 100_000]);
    assert_eq!(driver.unread(client), 0, "it is read and dropped");
    assert_over_after(&mut driver, Duration::from_secs(2), |driver| {
        driver.peer(client).closed.is_some()
    });
    assert!(driver.proxy.is_at_rest());
}

/// `timeouts.lingerTotalMs`: the bytes of a client that continues to send are dropped for at most
/// this time. Until then a client can read the 413 that its backend sent early, although the upload
/// continues.
#[test]
fn linger_total() {
    let mut driver = Driver::new(Config::default());
    let head = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n";
    let client = driver.client_with(head);
    driver.send(driver.upstream(), b"HTTP/1.1 413 C\r\nContent-Length: 0\r\n\r\n");
    assert!(driver.text(client).starts_with("HTTP/1.1 413 C\r\n"));
    assert!(driver.peer(client).is_shut);
    for _ in 0..29 {
        driver.pass(Duration::from_secs(1));
        driver.send(client, &[b'x'; 1000]);
    }
    assert_eq!(driver.unread(client), 0);
    assert_over_after(&mut driver, Duration::from_secs(1), |driver| {
        driver.peer(client).closed.is_some()
    });
    assert!(driver.proxy.is_at_rest());
}

/// A client that awaits a 100 (Continue) before its body waits for the backend: 504, and the
/// backend is charged. After the 100 the client has its own timeout. So has a client that sends its
/// body at once.
#[test]
fn waiting_for_100() {
    let head = b"PUT / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n";
    let mut driver = Driver::new(Config::default());
    let client = driver.client_with(head);
    driver.pass(Duration::from_secs(50));
    driver.send(driver.upstream(), b"HTTP/1.1 103 Early Hints\r\n\r\n");
    driver.drain(client);
    assert_over_after(&mut driver, Duration::from_secs(60), |driver| {
        driver.text(client).starts_with("HTTP/1.1 504 ")
    });
    assert_eq!(driver.proxy.snapshot(driver.now).backends[0].errors, 1);

    let mut driver = Driver::new(Config::default());
    let client = driver.client_with(head);
    driver.pass(Duration::from_secs(50));
    driver.send(driver.upstream(), b"HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(driver.drain(client), b"HTTP/1.1 100 Continue\r\n\r\n");
    assert_over_after(&mut driver, Duration::from_secs(30), |driver| {
        driver.text(client) == refusal(408)
    });
    assert_eq!(driver.proxy.snapshot(driver.now).backends[0].errors, 0);

    let mut driver = Driver::new(Config::default());
    let client = driver.client_with(&[&head[..], b"ab"].concat());
    assert_over_after(&mut driver, Duration::from_secs(30), |driver| {
        driver.text(client) == refusal(408)
    });
}

/// A client's body may pause while the response streams: progress in either direction counts.
/// Without progress in either, the client is late with its request, and the backend is not blamed.
#[test]
fn silent_body_beside_a_stream() {
    let mut driver = Driver::new(Config::default());
    let head = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n";
    let client = driver.client_with(head);
    let upstream = driver.upstream();
    driver.send(upstream, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    for _ in 0..4 {
        driver.pass(Duration::from_secs(29));
        driver.send(upstream, b"1\r\nx\r\n");
    }
    for _ in 0..4 {
        driver.pass(Duration::from_secs(29));
        driver.send(client, b"1\r\ny\r\n");
    }
    assert_over_after(&mut driver, Duration::from_secs(30), |driver| driver.peer(client).is_over());
    assert!(!driver.text(client).ends_with("0\r\n\r\n"));
    assert_eq!(driver.proxy.snapshot(driver.now).backends[0].errors, 0);
}

/// Any number of line ends behind a body are not a request: they cause no 408, do not prolong the
/// idle time, and keep no buffer.
#[test]
fn line_ends_behind_a_body() {
    for step in [usize::MAX, 1] {
        let mut driver = Driver::new(Config::default());
        driver.step = step;
        let head = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nab\r\n";
        let client = driver.client_with(head);
        driver.send(driver.upstream(), b"HTTP/1.1 204 N\r\n\r\n");
        driver.drain(client);
        driver.pass(Duration::from_secs(50));
        driver.send(client, &b"\r\n".repeat(10_000));
        assert_eq!(driver.proxy.buffers_lent(), 0);
        driver.send(client, b"\r\n\r");
        assert_over_after(&mut driver, Duration::from_secs(10), |driver| {
            driver.peer(client).closed == Some(false)
        });
        assert_eq!(driver.text(client), "");
    }
    // A complete request behind them is served.
    let mut driver = Driver::new(Config::default());
    let client = driver.client_with(&b"\r\n".repeat(10_000));
    driver.send(client, GET);
    driver.send(driver.upstream(), b"HTTP/1.1 204 N\r\n\r\n");
    assert!(driver.text(client).starts_with("HTTP/1.1 204 "));
    // A request behind them has its full time, from its own first byte.
    let mut driver = Driver::new(Config::default());
    let client = driver.client_with(b"\r\n");
    driver.pass(Duration::from_secs(50));
    driver.send(client, b"G");
    assert_over_after(&mut driver, Duration::from_secs(10), |driver| {
        driver.text(client) == refusal(408)
    });
}

/// `timeouts.shutdownMs`: after a stop, idle connections are closed at once. Busy ones may finish,
/// and are cut at the timeout.
#[test]
fn shutdown() {
    let mut driver = Driver::new(Config::default());
    let (idle, ends, hangs) = (driver.client(), driver.client_with(GET), driver.client_with(GET));
    let upstream = driver.upstreams()[0];
    driver.stop();
    assert_eq!(driver.peer(idle).closed, Some(false));
    assert!(!driver.proxy.accepts());
    driver.pass(Duration::from_secs(9));
    driver.send(upstream, b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nown");
    let whole = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nown";
    assert_eq!(driver.text(ends), whole);
    assert!(driver.peer(ends).is_over());
    assert_over_after(&mut driver, Duration::from_secs(1), |driver| {
        driver.peer(hangs).closed == Some(false) && driver.proxy.is_stopped()
    });
    assert!(driver.proxy.is_at_rest());
}

/// `pool.idleMs`: an idle upstream is closed when it expires, and use restarts it.
#[test]
fn pool_idle() {
    let mut driver = Driver::new(Config::default());
    let client = driver.client_with(GET);
    let upstream = driver.upstream();
    driver.send(upstream, b"HTTP/1.1 204 N\r\n\r\n");
    driver.pass(Duration::from_secs(3));
    driver.send(client, GET);
    driver.pass(Duration::from_secs(3));
    driver.send(upstream, b"HTTP/1.1 204 N\r\n\r\n");
    assert_over_after(&mut driver, Duration::from_secs(4), |driver| {
        driver.peer(upstream).closed == Some(false)
    });
}

/// A backend that gives up on a client that keeps it waiting is not charged: the client gets 408,
/// or its response is cut. A backend that breaks off within half a second has failed by itself.
#[test]
fn backend_that_gives_up_on_a_late_client() {
    let head = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nabc";
    for (millis, status, errors) in [(499, "502", 1), (500, "408", 0)] {
        for is_reset in [false, true] {
            let mut driver = Driver::new(Config::default());
            let client = driver.client_with(head);
            driver.pass(Duration::from_millis(millis));
            if is_reset {
                driver.reset(driver.upstream());
            } else {
                driver.end(driver.upstream());
            }
            assert!(driver.text(client).starts_with(&format!("HTTP/1.1 {status} ")), "{millis}");
            assert!(driver.peer(client).is_shut);
            assert_eq!(driver.proxy.in_flight(), 0);
            assert_eq!(driver.proxy.snapshot(driver.now).backends[0].errors, errors, "{millis}");
        }
    }
    for (millis, errors) in [(499, 1), (500, 0)] {
        let mut driver = Driver::new(Config::default());
        let client = driver.client_with(GET);
        driver.take(client, 1000);
        let response = [&b"HTTP/1.1 200 OK\r\nContent-Length: 900000\r\n\r\n"[..], &[b'z'; 50_000]];
        driver.send(driver.upstream(), &response.concat());
        driver.pass(Duration::from_millis(millis));
        driver.reset(driver.upstream());
        driver.take(client, usize::MAX);
        assert!(driver.peer(client).received.ends_with(b"zzz"), "what came arrives");
        assert!(driver.peer(client).is_over());
        assert_eq!(driver.proxy.snapshot(driver.now).backends[0].errors, errors, "{millis}");
    }
}

/// The wait for the client's body does not count as the backend's latency.
#[test]
fn slow_upload_is_no_slow_backend() {
    let mut driver = Driver::new(Config::default());
    let head = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n";
    let client = driver.client_with(head);
    for _ in 0..3 {
        driver.pass(Duration::from_secs(2));
        driver.send(client, b"x");
    }
    driver.pass(Duration::from_millis(40));
    driver.send(driver.upstream(), b"HTTP/1.1 204 N\r\n\r\n");
    let latency = driver.proxy.snapshot(driver.now).backends[0].latency.expect("it was measured");
    assert!(latency <= Duration::from_millis(40), "{latency:?}");
}

/// A client that acknowledges bytes in the system's buffers makes progress, even if no write
/// succeeds. It is cut only after `timeouts.clientWriteMs` without an acknowledgement.
#[test]
fn slow_reader_is_not_cut() {
    let mut driver = Driver::new(Config::default());
    let client = driver.client_with(GET);
    driver.take(client, 0);
    driver.send(driver.upstream(), b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nown");
    for second in 0..100 {
        driver.hold(client, Some(1_000_000 - 10_000 * second));
        driver.pass(Duration::from_secs(1));
        assert_eq!(driver.peer(client).closed, None, "after {second} s");
    }
    // The last check that sees progress is at 105 s.
    assert_over_after(&mut driver, Duration::from_secs(35), |driver| {
        driver.peer(client).closed == Some(true)
    });
}

/// A backend that reads an upload slowly gets 504 only when it accepts nothing, whether some bytes
/// wait in the proxy or the system holds them all.
#[test]
fn slow_backend_is_not_cut() {
    for (takes, name) in [(100, "bytes wait"), (usize::MAX, "all is written")] {
        let mut driver = Driver::new(Config::default());
        driver.backends_take = takes;
        let mut upload = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 900\r\n\r\n".to_vec();
        upload.extend([b'x'; 900]);
        let client = driver.client_with(&upload);
        let upstream = driver.upstream();
        for step in 0..20 {
            driver.hold(upstream, Some(1_000_000 - 10_000 * step));
            driver.pass(Duration::from_secs(15));
            assert_eq!(driver.peer(upstream).closed, None, "{name}, {step}");
        }
        assert_over_after(&mut driver, Duration::from_secs(60), |driver| {
            driver.text(client).starts_with("HTTP/1.1 504 ")
        });
        assert_eq!(driver.proxy.snapshot(driver.now).backends[0].errors, 1, "{name}");
    }
}
