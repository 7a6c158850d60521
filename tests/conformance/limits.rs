//! Limits: most tests check one below the limit, the limit, and one above.
use std::net::SocketAddr;
use std::time::Duration;

use intelliproxy::config::{BackendConfig, Config, Overflow};
use intelliproxy::proxy::{ConnId, Notice, RemedyTaken};
use intelliproxy_core::PolicyKind;
use intelliproxy_driver::{Dialling, Driver};

use crate::expected::refusal;

const OWN: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nown";

/// Sends a request whole and byte by byte. It reaches a backend, or gets `refused` as its status.
#[track_caller]
fn assert_verdict(name: &str, config: &Config, request: &[u8], refused: Option<u16>) {
    for step in [usize::MAX, 1] {
        let mut driver = Driver::new(config.clone());
        driver.step = step;
        let client = driver.client_with(request);
        match refused {
            Some(status) => assert_eq!(driver.text(client), refusal(status), "{name} by {step}"),
            None => {
                assert_eq!(driver.text(client), "", "{name} by {step}");
                driver.send(driver.upstream(), OWN);
                assert!(driver.text(client).starts_with("HTTP/1.1 200 "), "{name} by {step}");
            }
        }
    }
}

/// Returns a head of `length` bytes, padded in its last field.
fn head_of(start: &str, length: usize) -> Vec<u8> {
    let rest = length - start.len() - "F: \r\n\r\n".len();
    format!("{start}F: {}\r\n\r\n", "x".repeat(rest)).into_bytes()
}

/// `limits.headBytesMax` for requests: 431.
#[test]
fn request_heads() {
    let mut config = Config::default();
    config.limits.head_bytes_max = 2000;
    config.limits.target_bytes_max = 1000;
    for (length, refused) in [(1999, None), (2000, None), (2001, Some(431)), (50_000, Some(431))] {
        let request = head_of("GET / HTTP/1.1\r\nHost: h\r\n", length);
        assert_verdict(&format!("{length} bytes"), &config, &request, refused);
    }
    let endless = [&b"GET / HTTP/1.1\r\n"[..], &b"A: b\r\n".repeat(1000)].concat();
    assert_verdict("without end", &config, &endless, Some(431));
}

/// `limits.headBytesMax` for responses: 502.
#[test]
fn response_heads() {
    let mut config = Config::default();
    config.limits.head_bytes_max = 2000;
    config.limits.target_bytes_max = 1000;
    for (length, is_good) in [(1999, true), (2000, true), (2001, false), (70_000, false)] {
        for step in [usize::MAX, 1] {
            let mut driver = Driver::new(config.clone());
            driver.step = step;
            let client = driver.client_with(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n");
            let start = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n";
            driver.send(driver.upstream(), &head_of(start, length));
            let status = if is_good { "HTTP/1.1 200 " } else { "HTTP/1.1 502 " };
            assert!(driver.text(client).starts_with(status), "{length} by {step}");
        }
    }
}

/// `limits.targetBytesMax`: 414.
#[test]
fn targets() {
    let mut config = Config::default();
    config.limits.target_bytes_max = 100;
    for (length, refused) in [(99, None), (100, None), (101, Some(414)), (20_000, Some(414))] {
        let request = format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", "x".repeat(length - 1));
        assert_verdict(&format!("{length} bytes"), &config, request.as_bytes(), refused);
    }
}

/// `limits.fieldsMax`, Host included: 431 for requests, 502 for responses.
#[test]
fn fields() {
    let mut config = Config::default();
    let rows = [(10, 9, true), (10, 10, true), (10, 11, false), (10, 200, false)];
    let more = [(128, 128, true), (128, 129, false), (129, 129, true), (129, 130, false)];
    let most = [(1000, 1000, true), (1000, 1001, false), (1000, 2000, false)];
    for (max, count, is_good) in rows.into_iter().chain(more).chain(most) {
        config.limits.fields_max = max;
        let fields = "A: b\r\n".repeat(count - 1);
        let request = format!("GET / HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
        let refused = (!is_good).then_some(431);
        assert_verdict(&format!("{count} fields"), &config, request.as_bytes(), refused);
        let mut driver = Driver::new(config.clone());
        let client = driver.client_with(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        let response = format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{fields}\r\n");
        driver.send(driver.upstream(), response.as_bytes());
        let status = if is_good { "HTTP/1.1 200 " } else { "HTTP/1.1 502 " };
        assert!(driver.text(client).starts_with(status), "{count} fields of a response");
        let names_limit = driver.notices.iter().any(|notice| match notice {
            Notice::UpstreamError { error, .. } => error.to_string().contains("limits.fieldsMax"),
            _ => false,
        });
        assert_eq!(names_limit, !is_good, "{count} fields: {:?}", driver.notices);
        driver.send(client, request.as_bytes());
        let names_limit = driver.notices.iter().any(|notice| match notice {
            Notice::ClientError { error, .. } => error.to_string().contains("limits.fieldsMax"),
            _ => false,
        });
        assert_eq!(names_limit, !is_good, "{count} fields: {:?}", driver.notices);
    }
}

/// `limits.chunkExtensionBytesMax` for each chunk, the semicolon included: 431.
#[test]
fn chunk_extensions() {
    let mut config = Config::default();
    config.limits.chunk_extension_bytes_max = 10;
    for (length, refused) in [(9, None), (10, None), (11, Some(431))] {
        let chunk = format!("1;{}\r\nx\r\n", "e".repeat(length - 1));
        let request = format!(
            "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}{chunk}0\r\n\r\n"
        );
        assert_verdict(&format!("{length} bytes"), &config, request.as_bytes(), refused);
    }
}

/// `limits.trailerBytesMax`, and `limits.fieldsMax` for trailers: 431.
#[test]
fn trailers() {
    let mut config = Config::default();
    config.limits.trailer_bytes_max = 50;
    config.limits.fields_max = 8;
    let head = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n";
    for (length, refused) in [(49, None), (50, None), (51, Some(431))] {
        let request = format!("{head}A: {}\r\n\r\n", "x".repeat(length - "A: \r\n".len()));
        assert_verdict(&format!("{length} bytes"), &config, request.as_bytes(), refused);
    }
    for (count, refused) in [(7, None), (8, None), (9, Some(431))] {
        let request = format!("{head}{}\r\n", "A:\r\n".repeat(count));
        assert_verdict(&format!("{count} fields"), &config, request.as_bytes(), refused);
    }
}

/// `limits.bodyBytesMax`, with a length and in chunks: 413.
#[test]
fn bodies() {
    let mut config = Config::default();
    config.limits.body_bytes_max = 10;
    for (length, refused) in [(9, None), (10, None), (11, Some(413))] {
        let body = "x".repeat(length);
        let request =
            format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n{body}");
        assert_verdict(&format!("{length} bytes"), &config, request.as_bytes(), refused);
        let request = format!(
            "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n\
             5\r\nxxxxx\r\n{:x}\r\n{}\r\n0\r\n\r\n",
            length - 5,
            "x".repeat(length - 5)
        );
        assert_verdict(&format!("{length} bytes in chunks"), &config, request.as_bytes(), refused);
    }
}

/// `limits.clients` with `overflow: reject`: the next client gets 503, and a place is free again
/// when a client leaves. With `overflow: wait` the next client is not accepted.
#[test]
fn clients() {
    let mut config = Config::default();
    config.limits.clients = 2;
    config.overflow = Overflow::Reject;
    let mut driver = Driver::new(config.clone());
    let request = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n";
    let (first, second) = (driver.client(), driver.client());
    assert!(driver.proxy.accepts(), "the next client is accepted and gets 503");
    let third = driver.client_with(request);
    assert_eq!(driver.text(third), refusal(503));
    assert!(driver.upstreams().is_empty());
    driver.end(third);
    driver.send(second, request);
    assert_eq!(driver.upstreams().len(), 1, "those in service go on");
    driver.end(first);
    let fourth = driver.client_with(request);
    assert_eq!(driver.text(fourth), "");
    assert_eq!(driver.upstreams().len(), 2);

    config.overflow = Overflow::Wait;
    let mut driver = Driver::new(config);
    let first = driver.client();
    assert!(driver.proxy.accepts(), "one of two");
    driver.client();
    assert!(!driver.proxy.accepts(), "two of two");
    driver.end(first);
    assert!(driver.proxy.accepts(), "one has left");
}

/// With `overflow: reject`, refused clients that do not leave keep only the descriptors that
/// clients, their upstreams and probes do not need, but at least 64. Further clients are reset.
/// Without a limit of descriptors each gets 503.
#[test]
fn refused_clients_leave_descriptors() {
    // Two clients with an upstream each, and the two probes of one backend, take 6.
    for (connections, answered) in [(None, 500), (Some(206), 200), (Some(6), 64)] {
        let mut config = Config::default();
        config.limits.clients = 2;
        config.overflow = Overflow::Reject;
        let mut driver = Driver::new(config);
        if let Some(connections) = connections {
            driver.proxy.limit_connections(connections);
        }
        let request = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n";
        let served = [(); 2].map(|()| driver.client_with(request));
        let refused: Vec<ConnId> = (0..500).map(|_| driver.client()).collect();
        let gets_503 = |conn: &&ConnId| driver.text(**conn) == refusal(503);
        assert_eq!(refused.iter().filter(gets_503).count(), answered, "{connections:?}");
        let is_reset = |conn: &&ConnId| driver.peer(**conn).closed == Some(true);
        assert_eq!(refused.iter().filter(is_reset).count(), 500 - answered, "{connections:?}");
        for upstream in driver.upstreams().to_vec() {
            driver.send(upstream, OWN);
        }
        assert!(served.iter().all(|client| driver.text(*client).ends_with("own")));
        driver.pass(Duration::from_secs(30));
        assert_eq!(driver.proxy.clients(), 2, "the time of the refused ones is over");
    }
}

/// A request that met a closed idle connection then uses only new connections. It is sent at most
/// once more than `limits.attempts`, which is 3 here.
#[test]
fn attempts_with_stale_connections() {
    let mut config = Config::default();
    config.routing.policy = PolicyKind::RoundRobin;
    let mut driver = Driver::with_backends(config, &["a", "b", "c", "d"]);
    let get = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n";
    // Each backend has an idle connection.
    let clients: Vec<_> = (0..4).map(|_| driver.client_with(get)).collect();
    for upstream in driver.upstreams().to_vec() {
        driver.send(upstream, b"HTTP/1.1 204 N\r\n\r\n");
    }
    let idle = driver.upstreams().to_vec();
    let mut sent = 0;
    for conn in &idle {
        driver.drain(*conn);
    }
    driver.send(clients[0], get);
    while !driver.text(clients[0]).contains("HTTP/1.1 502 ") {
        let open = driver.upstreams().iter().copied();
        let holder = open
            .filter(|conn| driver.peer(*conn).closed.is_none())
            .find(|conn| !driver.peer(*conn).received.is_empty());
        let holder = holder.expect("the request is somewhere");
        sent += 1;
        assert!(sent < 10, "it is given up");
        driver.end(holder);
    }
    assert_eq!(sent, 4, "the idle one, and three attempts");
}

/// `limits.attempts` bounds the number of backends that are tried.
#[test]
fn attempts() {
    for attempts in 1..=4 {
        let mut config = Config::default();
        config.limits.attempts = attempts;
        let mut driver = Driver::with_backends(config, &["a", "b", "c", "d"]);
        let client = driver.client_with(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        for tried in 1..=attempts {
            assert_eq!(driver.upstreams().len(), tried);
            assert_eq!(driver.text(client), "");
            driver.end(driver.upstream());
        }
        assert_eq!(driver.upstreams().len(), attempts);
        assert!(driver.text(client).starts_with("HTTP/1.1 502 "));
    }
}

/// The first `gone` backends refuse connections. A request then causes `dials` connections to
/// backends, and its client gets `status`.
#[track_caller]
fn assert_refused(driver: &mut Driver, gone: u8, dials: usize, status: u16) {
    driver.pass(Duration::from_secs(6));
    let before = driver.peers().len();
    driver.refusing = (1..=gone).map(|place| SocketAddr::from(([10, 0, 0, place], 80))).collect();
    let client = driver.client_with(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    // The client is one of the peers.
    assert_eq!(driver.peers().len(), before + 1 + dials, "{gone} of the backends are gone");
    if status == 200 {
        driver.send(driver.upstream(), OWN);
    }
    assert!(driver.text(client).starts_with(&format!("HTTP/1.1 {status} ")));
}

/// A backend that refuses the connection does not count as an attempt as long as another one is up:
/// four of five backends disappear at the same moment, and the request reaches the fifth. With one
/// attempt no other backend is tried. Nor does it count while another one that is down is untried: it
/// may have returned since its last ping. If all refuse, each is tried once.
#[test]
fn refused_connections_are_no_attempts() {
    for (attempts, gone, dials, status) in
        [(1, 4, 1, 502), (2, 4, 5, 200), (3, 4, 5, 200), (2, 5, 5, 502)]
    {
        let mut config = Config::default();
        config.limits.attempts = attempts;
        let mut driver = Driver::with_backends(config, &["a", "b", "c", "d", "e"]);
        assert_refused(&mut driver, gone, dials, status);
        if attempts > 1 {
            // From now on the proxy knows that they are down.
            let begin = driver.peers().len();
            driver.client_with(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n");
            assert!(driver.peers().len() <= begin + 1 + 5);
        }
    }
}

/// All backends are down, and one returns. The next request reaches it before any ping does, even if
/// all others are tried first: four refused connections use up none of its two attempts. (In a long
/// run with backends that were killed and restarted, requests got 502 in this case.)
#[test]
fn a_backend_that_returns_gets_the_next_request() {
    for place in 1..=5 {
        let mut config = Config::default();
        config.limits.attempts = 2;
        config.limits.retry_percent = 1000;
        let mut driver = Driver::with_backends(config, &["a", "b", "c", "d", "e"]);
        assert_refused(&mut driver, 5, 5, 502);
        driver.refusing.retain(|address| *address != SocketAddr::from(([10, 0, 0, place], 80)));
        let client = driver.client_with(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        driver.send(driver.upstream(), OWN);
        assert!(driver.text(client).starts_with("HTTP/1.1 200 "), "{}", driver.text(client));
    }
}

/// All backends are down, and one returns. Without retries each request goes to the backend that
/// failed longest ago, so at most four are lost until one reaches it. From then on each request is
/// sent there at once, although it still counts as down.
#[test]
fn requests_find_a_backend_that_returns() {
    for place in 1..=5 {
        let mut config = Config::default();
        config.limits.retry_percent = 0;
        let mut driver = Driver::with_backends(config, &["a", "b", "c", "d", "e"]);
        (0..5).for_each(|_| assert_refused(&mut driver, 5, 1, 502));
        driver.refusing.retain(|address| *address != SocketAddr::from(([10, 0, 0, place], 80)));
        let (mut lost, mut served) = (0, 0);
        for _ in 0..30 {
            // No ping is started in this time.
            driver.now += Duration::from_millis(1);
            let client = driver.client_with(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n");
            if driver.text(client).is_empty() {
                driver.send(driver.upstream(), OWN);
                assert!(driver.text(client).starts_with("HTTP/1.1 200 "));
                served += 1;
            } else {
                assert_eq!(served, 0, "backend {place} was found before");
                lost += 1;
            }
        }
        assert!(lost <= 4, "backend {place}: {lost} lost");
    }
}

/// Two of three backends are down. One of them returns, and the third refuses a connection. Then
/// both are pinged within a second, so the next request reaches the one that has returned.
#[test]
fn the_last_backend_that_is_up_brings_pings() {
    for back in [1, 2] {
        let mut config = Config::default();
        config.limits.retry_percent = 0;
        config.routing.probes.ping_interval = Duration::from_secs(60);
        let mut driver = Driver::with_backends(config, &["a", "b", "c"]);
        (0..2).for_each(|_| assert_refused(&mut driver, 2, 1, 502));
        let address = |place| SocketAddr::from(([10, 0, 0, place], 80));
        driver.refusing =
            [1, 2, 3].into_iter().filter(|place| *place != back).map(address).collect();
        let get = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n";
        let client = driver.client_with(get);
        assert!(driver.text(client).starts_with("HTTP/1.1 502 "));
        driver.pass(Duration::from_secs(1));
        let client = driver.client_with(get);
        driver.send(driver.upstream(), OWN);
        assert!(
            driver.text(client).starts_with("HTTP/1.1 200 "),
            "{back}: {}",
            driver.text(client)
        );
    }
}

/// Of many backends that are down, one request tries eight at most.
#[test]
fn a_request_tries_eight_backends_that_are_down() {
    let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"];
    let mut config = Config::default();
    config.limits.retry_percent = 1000;
    let mut driver = Driver::with_backends(config, &names);
    assert_refused(&mut driver, 12, 12, 502);
    let begin = driver.peers().len();
    driver.client_with(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(driver.peers().len(), begin + 1 + 8);
}

/// Three backends with a backup disappear at the same moment. The request reaches the backup, even
/// if its attempts are otherwise used up. If the backup has also gone, the client gets 502.
#[test]
fn the_backup_of_refused_connections_is_no_attempt() {
    for (attempts, gone, dials, status) in
        [(2, 3, 4, 200), (3, 3, 4, 200), (3, 4, 4, 502), (1, 3, 1, 502)]
    {
        let mut config = Config::default();
        config.limits.attempts = attempts;
        let names = ["a", "b", "c", "d"];
        config.backends = names
            .map(|name| BackendConfig {
                backup: name == "d",
                ..BackendConfig::new(name, &format!("http://{name}.test"))
            })
            .into();
        let mut driver = Driver::with_backends(config, &names);
        assert_refused(&mut driver, gone, dials, status);
    }
}

/// `pool.idlePerBackend` bounds the number of idle connections that are kept.
#[test]
fn idle_connections() {
    for (limit, kept) in [(0, 0), (1, 1), (2, 2), (3, 3), (4, 3)] {
        let mut config = Config::default();
        config.pool.idle_per_backend = limit;
        let mut driver = Driver::new(config);
        for _ in 0..3 {
            driver.client_with(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        }
        let upstreams = driver.upstreams().to_vec();
        assert_eq!(upstreams.len(), 3);
        for &upstream in &upstreams {
            driver.send(upstream, OWN);
        }
        let open = upstreams.iter().filter(|&&conn| driver.peer(conn).closed.is_none()).count();
        assert_eq!(open, kept, "at most {limit}");
    }
}

/// A response to a client that does not read is held back, and nothing is lost.
#[test]
fn downloads_are_held_back() {
    let length = 4 << 20;
    for (framing, overhead) in [(format!("Content-Length: {length}"), false), (String::new(), true)]
    {
        let mut driver = Driver::new(Config::default());
        let client = driver.client_with(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        driver.take(client, 0);
        let upstream = driver.upstream();
        let head = if overhead { String::new() } else { format!("{framing}\r\n") };
        driver.send(upstream, format!("HTTP/1.1 200 OK\r\n{head}\r\n").as_bytes());
        driver.send(upstream, &vec![b'x'; length]);
        let held = length - driver.unread(upstream);
        assert!(held <= 512 * 1024, "{held} bytes are held for one connection");
        driver.take(client, usize::MAX);
        assert_eq!(driver.unread(upstream), 0);
        let count = driver.peer(client).received.iter().filter(|&&byte| byte == b'x').count();
        assert_eq!(count, length);
    }
}

/// A hundred requests to three backends that refuse every connection: the first five are retried on
/// other backends, then one in five. /stats counts the retries that were made and those that were
/// spared.
#[test]
fn retries_have_a_budget() {
    let mut driver = Driver::with_backends(Config::default(), &["a", "b", "c"]);
    driver.dialling = Dialling::IsRefused;
    for _ in 0..100 {
        let client = driver.client_with(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        assert!(driver.text(client).starts_with("HTTP/1.1 502 "), "{}", driver.text(client));
    }
    let dials = driver.upstreams().len();
    assert!((120..=130).contains(&dials), "{dials} dials");
    let taken = |wanted: RemedyTaken| {
        let is_it = |notice: &&Notice| matches!(notice, Notice::UpstreamError { remedy, .. } if *remedy == wanted);
        driver.notices.iter().filter(is_it).count()
    };
    assert_eq!(taken(RemedyTaken::Retried), dials - 100);
    assert!(taken(RemedyTaken::Unretried) > 70);
    let client = driver.client_from("127.0.0.1:9");
    driver.send(client, b"GET /stats HTTP/1.1\r\nHost: h\r\n\r\n");
    let field = format!("X-IntelliProxy-Retries: done={}, spared=", dials - 100);
    assert!(driver.text(client).contains(&field), "{}", driver.text(client));
}
