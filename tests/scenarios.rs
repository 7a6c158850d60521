//! Named scenes of the simulated world: a script for clients and backends, and its outcome.
//! `simulation.rs` runs random worlds.
#[path = "scenarios/account.rs"]
mod account;
#[path = "scenarios/ends.rs"]
mod ends;
#[path = "scenarios/refused.rs"]
mod refused;
#[path = "scenarios/reload.rs"]
mod reload;
#[path = "scenarios/stop.rs"]
mod stop;

use std::time::Duration;

use intelliproxy::config::Overflow;
use intelliproxy_tests::backend::Reply;
use intelliproxy_tests::client::{End, Pace, Step};
use intelliproxy_tests::net::{Listening, Path};
use intelliproxy_tests::reader::Asked;
use intelliproxy_tests::world::{CALM_PATH, Change, Report, Shown, World};

/// Returns the steps that send this request and expect a response.
fn ask(text: &str) -> Vec<Step> {
    let asked = Asked {
        is_head: text.starts_with("HEAD"),
        is_old: text.contains("HTTP/1.0\r\n"),
        is_upgrade: text.contains("Upgrade:"),
    };
    vec![Step::Ask { asked, id: None }, Step::Send(text.as_bytes().to_vec())]
}

/// Returns the steps that send `GET path` with a Host.
fn get(path: &str) -> Vec<Step> {
    ask(&format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n"))
}

/// Returns the steps that send `POST path` with a body.
fn post(path: &str, body: &str) -> Vec<Step> {
    let length = body.len();
    let head = format!("POST {path} HTTP/1.1\r\nHost: a.test\r\nContent-Length: {length}\r\n\r\n");
    ask(&(head + body))
}

const fn wait(millis: u64) -> Step {
    Step::Wait(Duration::from_millis(millis))
}

fn send(bytes: impl Into<Vec<u8>>) -> Step {
    Step::Send(bytes.into())
}

/// Returns a calm path that holds `capacity` bytes.
const fn narrow(capacity: usize) -> Path {
    Path { capacity, ..CALM_PATH }
}

fn has_error(report: &Report, text: &str) -> bool {
    report.notices.iter().any(|notice| format!("{notice:?}").contains(text))
}

/// Requests sent in one piece get their responses one by one and in order.
#[test]
fn pipelined_requests_are_served_in_order() {
    let slow =
        Reply::steps(vec![wait(80), send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst")]);
    let report = World::new()
        .backend(vec![slow, Reply::ok("second"), Reply::ok("third")])
        .client([get("/1"), get("/2"), get("/3")].concat())
        .run();
    let bodies: Vec<_> = report.responses(0).into_iter().map(|one| one.body).collect();
    assert_eq!(bodies, ["first", "second", "third"]);
    assert_eq!(report.requests(0), ["GET /1", "GET /2", "GET /3"]);
    assert_eq!(report.backends[0].connections, 1 + probes(&report, 0), "one connection for all");
}

/// Returns the number of connections to a backend that carried no request: those of probes.
fn probes(report: &Report, backend: usize) -> usize {
    let mut links: Vec<_> = report.backends[backend].requests.iter().map(|r| r.link).collect();
    links.dedup();
    report.backends[backend].connections - links.len()
}

/// A kept connection that the backend closes just when it is used again is not a failure: a GET is
/// sent again on a new one.
#[test]
fn a_stale_pooled_connection_is_redialled() {
    let report = World::new()
        .backend(vec![
            Reply::ok("one"),
            Reply { at_head: true, ..Reply::steps(vec![Step::Close]) },
            Reply::ok("two"),
        ])
        .client([get("/1"), vec![Step::AwaitResponses(1), wait(50)], get("/2")].concat())
        .run();
    assert_eq!(report.statuses(0), [200, 200]);
    assert_eq!(report.requests(0), ["GET /1", "GET /2", "GET /2"]);
    assert!(has_error(&report, "Redialled"));
}

/// An idle connection that the backend has closed is not used again.
#[test]
fn a_closed_idle_connection_is_forgotten() {
    let report = World::new()
        .backend(Vec::new())
        .change_at(40, Change::CloseIdle(0))
        .client([get("/1"), vec![Step::AwaitResponses(1), wait(100)], post("/2", "x")].concat())
        .run();
    assert_eq!(report.statuses(0), [200, 200]);
    assert!(!has_error(&report, "UpstreamError"));
}

/// Once a byte of a POST was sent, it is not sent again, however the backend fails.
#[test]
fn a_post_that_was_sent_is_not_retried() {
    for end in [Step::Close, Step::Reset] {
        let crash = Reply::steps(vec![end]);
        let report = World::new()
            .backend(vec![crash.clone()])
            .backend(vec![crash])
            .client(post("/order", "one coffee"))
            .run();
        assert_eq!(report.statuses(0), [502]);
        let all = [report.requests(0), report.requests(1)].concat();
        assert_eq!(all, ["POST /order"]);
    }
}

/// A POST goes to the next backend when the first does not accept connections.
#[test]
fn a_refused_connection_leads_to_the_next_backend() {
    for listening in [Listening::Refusing, Listening::Unreachable, Listening::Hanging] {
        let report = World::new()
            .backend_at(Vec::new(), listening)
            .backend(Vec::new())
            .client(post("/order", "one coffee"))
            .run();
        assert_eq!(report.statuses(0), [200], "{listening:?}");
        assert_eq!(report.requests(1), ["POST /order"]);
    }
}

/// A backend is reached at its second address if the first accepts no connection, now and later.
/// This is not an error.
#[test]
fn the_next_address_is_tried() {
    for listening in [Listening::Refusing, Listening::Unreachable, Listening::Hanging] {
        let report = World::new()
            .config(|config| config.pool.idle_per_backend = 0)
            .backend(Vec::new())
            .dead_address(listening)
            .client(post("/1", "x"))
            .client_at(9000, post("/2", "x"))
            .run();
        assert_eq!([report.statuses(0), report.statuses(1)], [[200], [200]], "{listening:?}");
        assert!(!has_error(&report, "UpstreamError"), "{listening:?}");
    }
}

/// Two clients connect at the same time to a backend whose first address hangs. After one of them
/// has reached the second address, the other does not return to the first address.
#[test]
fn clients_of_one_backend_try_its_addresses_independently() {
    let report = World::new()
        .backend(Vec::new())
        .dead_address(Listening::Hanging)
        .client_at(1000, post("/1", "x"))
        .client_at(1300, post("/2", "x"))
        .run();
    assert_eq!([report.statuses(0), report.statuses(1)], [[200], [200]]);
}

/// A GET survives two backends that crash one after the other if a third one works.
#[test]
fn crashes_lose_no_get() {
    let crash = || vec![Reply::steps(vec![Step::Reset]); 2];
    let report =
        World::new().backend(crash()).backend(crash()).backend(Vec::new()).client(get("/1")).run();
    assert_eq!(report.statuses(0), [200]);
}

/// A response that is cut in its body is also cut for the client, in every framing. It ends with a
/// reset where a clean end would look complete.
#[test]
fn a_cut_response_looks_cut() {
    let old = "GET / HTTP/1.0\r\nHost: a.test\r\n\r\n";
    let new = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";
    let rows = [
        ("length, 1.1", new, "Content-Length: 10\r\n\r\nhello", Step::Close),
        ("length, 1.0", old, "Content-Length: 10\r\n\r\nhello", Step::Close),
        ("chunked, 1.1", new, "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", Step::Close),
        ("chunked, 1.0", old, "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", Step::Close),
        ("until close, 1.1", new, "\r\nhello", Step::Reset),
        ("until close, 1.0", old, "\r\nhello", Step::Reset),
    ];
    for (name, request, response, end) in rows {
        let response = send(format!("HTTP/1.1 200 OK\r\n{response}"));
        let report = World::new()
            .backend(vec![Reply::steps(vec![response, wait(5), end])])
            .client(ask(request))
            .run();
        assert_eq!(report.responses(0), [Shown::cut(200, "hello")], "{name}");
        let looks_whole = ["chunked, 1.0", "until close, 1.0"].contains(&name);
        let expected = if looks_whole { End::Reset } else { End::Clean };
        assert_eq!(report.end(0), Some(expected), "{name}");
    }
}

/// A slow but steady reader gets everything, even if room for the next write takes longer than
/// `timeouts.clientWriteMs`. So does a backend that reads an upload slowly.
#[test]
fn slow_peers_get_everything() {
    let pace = Pace::Slow { bytes: 2000, pause: Duration::from_secs(1) };
    let body = "d".repeat(400_000);
    let mut script = vec![Step::Pace(pace)];
    script.extend(get("/slow"));
    let report = World::new()
        .backend(vec![Reply::ok(&body)])
        .client_paths(CALM_PATH, CALM_PATH)
        .client(script)
        .run();
    let responses = report.responses(0);
    assert!(responses == [Shown::whole(200, &body)], "{} bytes", responses[0].body.len());
    let report =
        World::new().backend(Vec::new()).backend_pace(pace).client(post("/slow", &body)).run();
    assert_eq!(report.statuses(0), [200]);
    assert_eq!(report.backends[0].requests[0].body.len(), 400_000);
}

/// A chunked response is decoded for an HTTP/1.0 client and ends with the connection.
#[test]
fn an_old_client_gets_no_chunks() {
    let chunks =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    let report = World::new()
        .backend(vec![Reply::bytes(chunks)])
        .client(ask("GET / HTTP/1.0\r\nHost: a.test\r\nConnection: keep-alive\r\n\r\n"))
        .run();
    assert_eq!(report.responses(0), [Shown::whole(200, "abcde")]);
    assert_eq!(report.end(0), Some(End::Clean));
}

/// A client that continues to send after an error response still gets that response: the proxy
/// reads for a while before it closes (RFC 9112 section 9.6).
#[test]
fn an_early_error_is_not_lost_to_a_reset() {
    let mut script = ask("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1000000\r\n\r\n");
    for _ in 0..20 {
        script.extend([send(vec![b'x'; 10_000]), wait(5)]);
    }
    let harsh = Path { is_harsh: true, ..narrow(20_000) };
    let report = World::new()
        .config(|config| config.limits.body_bytes_max = 999_999)
        .backend(Vec::new())
        .client_paths(harsh, harsh)
        .client(script)
        .run();
    assert_eq!(report.statuses(0), [413]);
    assert_eq!(report.end(0), Some(End::Clean));
}

/// A client that waits for a 100 gets it from the backend, which then gets the body.
#[test]
fn continue_comes_from_the_backend() {
    let mut script =
        ask("PUT / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n");
    script.extend([Step::AwaitSign, send("body")]);
    let reply = Reply {
        at_head: true,
        ..Reply::steps(vec![
            send("HTTP/1.1 100 Continue\r\n\r\n"),
            wait(50),
            send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        ])
    };
    let report = World::new().backend(vec![reply]).client(script).run();
    assert_eq!(report.statuses(0), [200]);
    assert_eq!(report.clients[0].responses[0].interim, [100]);
    assert_eq!(report.backends[0].requests[0].body, b"body");
}

const UPGRADE: &str =
    "GET /t HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: sim/1\r\n\r\n";

/// A tunnel opens after a 101. Bytes that the client sent earlier wait until then.
#[test]
fn a_tunnel_opens_after_the_101_only() {
    let granted = "HTTP/1.1 101 Yes\r\nConnection: upgrade\r\nUpgrade: sim/1\r\n\r\n";
    let mut script = ask(UPGRADE);
    script.extend([send("early "), wait(200), send("late"), Step::Fin, Step::AwaitEnd]);
    let steps = vec![wait(100), send(granted)];
    let report = World::new()
        .backend(vec![Reply { at_head: false, steps, is_tunnel: true }])
        .client(script)
        .run();
    assert_eq!(report.responses(0), [Shown::whole(101, "early late")]);
}

/// A tunnel stays open while bytes arrive in either direction in time. After that it is closed.
#[test]
fn an_idle_tunnel_is_closed() {
    let granted = "HTTP/1.1 101 Yes\r\nConnection: upgrade\r\nUpgrade: sim/1\r\n\r\n";
    let mut script = [ask(UPGRADE), vec![Step::AwaitSign]].concat();
    for piece in ["one ", "two ", "three"] {
        script.extend([wait(1500), send(piece)]);
    }
    script.push(Step::AwaitEnd);
    let report = World::new()
        .config(|config| config.timeouts.tunnel_idle = Duration::from_secs(2))
        .backend(vec![Reply { at_head: false, steps: vec![send(granted)], is_tunnel: true }])
        .client(script)
        .run();
    assert_eq!(report.responses(0), [Shown::whole(101, "one two three")]);
    assert_eq!(report.end(0), Some(End::Clean));
    assert!(report.backends[0].conns.is_empty(), "its other half is closed, too");
}

/// Requests for /stats among others get their responses in order, and are not forwarded.
#[test]
fn stats_are_served_among_other_requests() {
    let head = "HEAD /stats HTTP/1.1\r\nHost: a.test\r\n\r\n";
    let slow = Reply::steps(vec![wait(50), send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1")]);
    let report = World::new()
        .config(|config| config.stats.allow = vec!["192.0.2.0/24".to_owned()])
        .backend(vec![slow, Reply::ok("2")])
        .client([get("/1"), get("/stats?x"), get("/2"), ask(head), get("/stats")].concat())
        .run();
    assert_eq!(report.statuses(0), [200; 5]);
    assert_eq!(report.requests(0), ["GET /1", "GET /2"]);
    let bodies: Vec<_> = report.responses(0).into_iter().map(|one| one.body).collect();
    assert_eq!([&*bodies[0], &*bodies[2], &*bodies[3]], ["1", "2", ""]);
    for (index, requests) in [(1, 1), (4, 2)] {
        assert!(bodies[index].starts_with("[{\"name\":\"b0\",\"url\":\"http://b0.test\""));
        assert!(bodies[index].contains(&format!("\"totalRequests\":{requests},")));
    }
}

/// A 101 without a request for it, or to another protocol, is a broken response.
#[test]
fn a_101_has_to_be_asked_for() {
    let granted = "HTTP/1.1 101 Yes\r\nConnection: upgrade\r\nUpgrade: other\r\n\r\n";
    for request in [UPGRADE, "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"] {
        let report = World::new().backend(vec![Reply::bytes(granted)]).client(ask(request)).run();
        assert_eq!(report.statuses(0), [502]);
    }
}

/// Bytes behind a response, and unsolicited responses, never reach another request.
#[test]
fn bytes_behind_a_response_are_dropped() {
    let poison = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    let good = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood";
    for pause in [0, 20] {
        let steps = if pause == 0 {
            vec![Step::SendWhole(format!("{good}{poison}").into_bytes())]
        } else {
            vec![send(good), wait(pause), send(poison)]
        };
        let report = World::new()
            .backend(vec![Reply::steps(steps), Reply::bytes(good)])
            .client([get("/1"), vec![Step::AwaitResponses(1), wait(100)], get("/2")].concat())
            .run();
        let bodies: Vec<_> = report.responses(0).into_iter().map(|one| one.body).collect();
        assert_eq!(bodies, ["good", "good"], "after {pause} ms");
        assert_eq!(report.backends[0].connections, 2 + probes(&report, 0));
    }
}

/// A client that reads nothing stops its backend. The proxy reads only 40 to 120 KB ahead: what
/// fits in its buffers and in the client's path.
#[test]
fn a_slow_reader_costs_no_memory() {
    let big =
        format!("HTTP/1.1 200 OK\r\nContent-Length: 4000000\r\n\r\n{}", "x".repeat(4_000_000));
    let mut script = vec![Step::Pace(Pace::Never)];
    script.extend(get("/big"));
    script.extend([wait(5000), Step::Close]);
    let report = World::new()
        .backend(vec![Reply::bytes(big)])
        .client_paths(CALM_PATH, narrow(10_000))
        .backend_paths(narrow(50_000), CALM_PATH)
        .client(script)
        .run();
    let taken = report.taken_from_backends;
    assert!((40_000..120_000).contains(&taken), "{taken} bytes were read ahead");
}

/// An upload of 4 MB to a backend that reads nothing ends with 504. The proxy reads at most a tenth
/// of it: what fits in its buffers and the backend's path, and what arrives while it responds.
#[test]
fn a_slow_backend_costs_no_memory() {
    let head = "PUT /big HTTP/1.1\r\nHost: a.test\r\nContent-Length: 4000000\r\n\r\n";
    let mut script = ask(head);
    script.push(send(vec![b'x'; 4_000_000]));
    let report = World::new()
        .config(|config| {
            config.timeouts.response_body = Duration::from_secs(3);
            // Otherwise the rest of the body is read and dropped after the response.
            config.timeouts.linger = Duration::from_millis(1);
            config.timeouts.linger_total = Duration::from_millis(1);
        })
        .backend(Vec::new())
        .backend_pace(Pace::Never)
        .client_paths(narrow(50_000), CALM_PATH)
        .backend_paths(CALM_PATH, narrow(10_000))
        .client(script)
        .run();
    assert_eq!(report.statuses(0), [504]);
    let taken = report.taken_from_clients;
    assert!((40_000..400_000).contains(&taken), "{taken} bytes were read ahead");
}

/// A head that arrives too slowly gets 408, and so does a body that stalls.
#[test]
fn slow_clients_get_408() {
    let mut head = vec![Step::Ask { asked: Asked::default(), id: None }];
    for byte in "GET / HTTP/1.1\r\nHost: a.test\r\nX-Slow: loris\r\n".bytes() {
        head.extend([send([byte]), wait(400)]);
    }
    let body = [
        ask("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 9\r\n\r\nhalf"),
        vec![wait(60_000)],
    ];
    let report = World::new().backend(Vec::new()).client(head).client(body.concat()).run();
    assert_eq!(report.statuses(0), [408]);
    assert_eq!(report.statuses(1), [408]);
}

/// If a body has no room, the time in which the proxy does not read it does not count against the
/// client.
#[test]
fn a_client_that_was_held_up_is_not_late() {
    let head = "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 200000\r\n\r\n";
    let report = World::new()
        .config(|config| {
            config.timeouts.connect = Duration::from_secs(3);
            config.timeouts.request_body = Duration::from_secs(1);
            config.routing.switch.threshold = 1e6;
            config.routing.switch.spill_over = false;
        })
        .backend_at(Vec::new(), Listening::Hanging)
        .backend(Vec::new())
        .client([get("/"), vec![Step::AwaitResponses(1)]].concat())
        // It uses the connection that the first client's request left idle.
        .client_at(200, [ask(head), vec![send(vec![b'x'; 200_000])]].concat())
        .run();
    assert_eq!([report.statuses(0), report.statuses(1)], [[200], [200]]);
    assert_eq!(report.backends[1].requests[1].body.len(), 200_000);
}

/// An idle client is closed without a response.
#[test]
fn an_idle_client_is_closed() {
    let report = World::new()
        .backend(Vec::new())
        .client([get("/"), vec![Step::AwaitResponses(1), Step::AwaitEnd]].concat())
        .client(vec![Step::AwaitEnd])
        .run();
    assert_eq!(report.statuses(0), [200]);
    assert_eq!([report.end(0), report.end(1)], [Some(End::Clean); 2]);
}

/// An error that follows a long wait has the same write timeout as any other response: the
/// backend's time does not count against the client.
#[test]
fn an_error_after_a_long_wait_reaches_its_client() {
    let mut script = get("/silent");
    script.extend([Step::AwaitResponses(1), wait(1000)]);
    script.extend(get("/again"));
    let report = World::new()
        .config(|config| {
            config.timeouts.response_head = Duration::from_secs(50);
            config.timeouts.client_write = Duration::from_secs(5);
            config.timeouts.client_idle = Duration::from_secs(10);
        })
        .backend(vec![Reply::steps(Vec::new())])
        .client(script)
        .run();
    assert_eq!(report.statuses(0), [504, 200]);
}

/// A client above the limit gets 503, or waits, as configured.
#[test]
fn clients_above_the_limit_wait_or_get_503() {
    for (overflow, expected) in [(Overflow::Reject, 503), (Overflow::Wait, 200)] {
        let hold = [get("/"), vec![Step::AwaitResponses(1), wait(500)]].concat();
        let report = World::new()
            .config(|config| {
                config.limits.clients = 2;
                config.overflow = overflow;
            })
            .backend(Vec::new())
            .client(hold.clone())
            .client(hold)
            .client_at(100, get("/third"))
            .run();
        assert_eq!([report.statuses(0), report.statuses(1)], [[200], [200]]);
        assert_eq!(report.statuses(2), [expected]);
    }
}

/// Every limit of a request is exact: lengths up to the limit pass, and one more does not.
#[test]
fn limits_hold_exactly() {
    let target =
        |len: usize| format!("GET /{} HTTP/1.1\r\nHost: a.test\r\n\r\n", "t".repeat(len - 1));
    let head = |len: usize| {
        let rest = "GET / HTTP/1.1\r\nHost: a.test\r\nX-P: \r\n\r\n".len();
        format!("GET / HTTP/1.1\r\nHost: a.test\r\nX-P: {}\r\n\r\n", "p".repeat(len - rest))
    };
    let fields = |count: usize| {
        format!("GET / HTTP/1.1\r\nHost: a.test\r\n{}\r\n", "X-F: 1\r\n".repeat(count - 1))
    };
    let body = |len: usize| {
        let body = "b".repeat(len);
        format!("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: {len}\r\n\r\n{body}")
    };
    let chunked = |len: usize| {
        let body = "b".repeat(len);
        format!(
            "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n{len:x}\r\n{body}\r\n0\r\n\r\n"
        )
    };
    type Make<'a> = &'a dyn Fn(usize) -> String;
    let rows: [(&str, usize, u16, Make<'_>); 5] = [
        ("target", 200, 414, &target),
        ("head", 2000, 431, &head),
        ("fields", 20, 431, &fields),
        ("body", 500, 413, &body),
        ("chunked body", 500, 413, &chunked),
    ];
    for (name, limit, status, make) in rows {
        for (len, expected) in [(limit - 1, 200), (limit, 200), (limit + 1, status)] {
            for segment_max in [65_536, 1] {
                let path = Path { segment_max, ..CALM_PATH };
                let report = World::new()
                    .config(|config| {
                        config.limits.target_bytes_max = 200;
                        config.limits.head_bytes_max = 2000;
                        config.limits.fields_max = 20;
                        config.limits.body_bytes_max = 500;
                    })
                    .backend(Vec::new())
                    .client_paths(path, path)
                    .client(ask(&make(len)))
                    .run();
                assert_eq!(report.statuses(0), [expected], "{name} of {len} by {segment_max}");
            }
        }
    }
}

/// A request that two readers could read differently is refused and closes the connection. The
/// bytes behind it are not served.
#[test]
fn nothing_hides_behind_a_broken_request() {
    let rows = [
        ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", 400),
        ("Content-Length: 5\r\nContent-Length: 6\r\n", 400),
        ("Transfer-Encoding: xchunked\r\n", 501),
        ("X: y\r\n z\r\n", 400),
        ("Transfer-Encoding : chunked\r\n", 400),
    ];
    for (fields, status) in rows {
        let hidden = "0\r\n\r\nGET /hidden HTTP/1.1\r\nHost: a.test\r\n\r\n";
        let request = format!("POST / HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n{hidden}");
        let report = World::new()
            .backend(Vec::new())
            .client([ask(&request), vec![Step::AwaitEnd]].concat())
            .run();
        assert_eq!(report.statuses(0), [status], "{fields}");
        assert!(report.requests(0).is_empty(), "{fields}");
        assert_eq!(report.end(0), Some(End::Clean), "{fields}");
    }
}
