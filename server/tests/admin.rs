//! The admin pages over real sockets: the program as a process, backends, and clients.
mod process;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Instant;

use process::{DEADLINE, Folder, Program};
use serde_json::json;

/// Starts a backend that responds to every request with 200 and two bytes. The first connection
/// with a request for `/` waits for a message of `may_respond`. Returns the flag with its address.
fn start_backend(name: &str, may_respond: Option<mpsc::Receiver<()>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let flag = format!("--backend={name}=http://{}", listener.local_addr().expect("bound"));
    thread::spawn(move || {
        let mut may_respond = may_respond;
        for stream in listener.incoming().map_while(Result::ok) {
            // Probes have another path and do not wait.
            let mut stream = BufReader::new(stream);
            let mut first = String::new();
            if stream.read_line(&mut first).is_err() {
                continue;
            }
            let gate = may_respond.take_if(|_| first.starts_with("GET / "));
            thread::spawn(move || respond(stream, gate));
        }
    });
    flag
}

fn respond(mut stream: BufReader<TcpStream>, gate: Option<mpsc::Receiver<()>>) {
    let mut line = String::new();
    while stream.read_line(&mut line).is_ok_and(|count| count > 0) {
        if line == "\r\n" {
            if let Some(gate) = &gate {
                let _ = gate.recv_timeout(DEADLINE);
            }
            let response = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
            drop(stream.get_mut().write_all(response));
        }
        line.clear();
    }
}

/// Starts the proxy with admin pages. Returns it and their port.
fn start(flags: &[&str]) -> (Program, u16) {
    let program = Program::start(&[&["--admin", "127.0.0.1:0"], flags].concat());
    with_port(program)
}

fn with_port(mut program: Program) -> (Program, u16) {
    let line = program.line_with("admin pages on http://127.0.0.1:");
    let port = line.rsplit(':').next().and_then(|text| text.parse().ok());
    (program, port.expect("a port at the line's end"))
}

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).expect("a listener");
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    stream
}

/// Sends bytes on a new connection. Returns all received bytes.
fn exchange(port: u16, request: &str) -> String {
    let mut stream = connect(port);
    stream.write_all(request.as_bytes()).expect("sent");
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("a response and an end");
    String::from_utf8(bytes).expect("UTF-8")
}

fn get(port: u16, path: &str) -> String {
    exchange(port, &format!("GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"))
}

fn body(response: &str) -> &str {
    response.split_once("\r\n\r\n").expect("a head").1
}

/// Returns the sum of the samples that begin with `start`.
fn sum(text: &str, start: &str) -> f64 {
    let of = text.lines().filter(|line| line.starts_with(start));
    of.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// Sends one request on each connection. All get the backend's response.
fn ask_all(clients: &mut [TcpStream]) {
    for client in &mut *clients {
        client.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").expect("sent");
    }
    for client in clients {
        let mut response = Vec::new();
        let mut byte = [0];
        while !response.ends_with(b"\r\n\r\nok") {
            client.read_exact(&mut byte).expect("a response");
            response.extend_from_slice(&byte);
        }
        assert!(response.starts_with(b"HTTP/1.1 200 "));
    }
}

/// Every page has its status and type, and HEAD gets no body. Other paths, methods and invalid
/// requests are refused.
#[test]
fn pages_have_their_statuses() {
    let (program, port) = start(&[&start_backend("A", None)]);
    for (path, kind) in [
        ("/healthz", "text/plain; charset=utf-8"),
        ("/readyz", "text/plain; charset=utf-8"),
        ("/config", "application/json"),
        ("/explain", "application/json"),
        ("/", "application/json"),
        ("/stats", "application/json"),
        ("/stats?x", "application/json"),
        ("http://other/metrics", "text/plain; version=0.0.4; charset=utf-8"),
    ] {
        let response = get(port, path);
        assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{path}: {response}");
        assert!(response.contains(&format!("Content-Type: {kind}\r\n")), "{path}: {response}");
        assert!(!body(&response).is_empty(), "{path}");
        let request = format!("HEAD {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
        let response = exchange(port, &request);
        assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{path}: {response}");
        assert!(response.ends_with("\r\n\r\n"), "{path}: {response}");
    }
    for path in ["/metric", "/metrics/", "/stat", "/explains", "*"] {
        let response = get(port, path);
        assert!(response.starts_with("HTTP/1.1 404 Not Found\r\n"), "{path}: {response}");
    }
    for method in ["POST", "DELETE", "OPTIONS"] {
        let request =
            format!("{method} /metrics HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc");
        let response = exchange(port, &request);
        assert!(response.starts_with("HTTP/1.1 405 "), "{method}: {response}");
        assert!(response.contains("\r\nAllow: GET, HEAD\r\n"), "{method}: {response}");
    }
    for request in ["\0\r\n\r\n", "GET /stats\r\n\r\n", "GET / HTTP/1.1\r\nA : b\r\n\r\n"] {
        let response = exchange(port, request);
        assert!(response.starts_with("HTTP/1.1 400 "), "{request:?}: {response}");
    }
    let config = get(port, "/config");
    let config: serde_json::Value = serde_json::from_str(body(&config)).expect("JSON");
    assert_eq!(config["backends"][0]["name"], "A");
    assert_eq!(config["timeouts"]["connectMs"], 2000);
    // The traffic port does not serve /metrics.
    let response = program.ask("GET /metrics HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    assert!(response.ends_with("\r\n\r\nok"), "the backend's: {response}");
}

/// /metrics counts what the clients did: requests by backend and in total, two histograms, and
/// bytes.
#[test]
fn counts_are_those_of_the_clients() {
    let backends = [start_backend("A", None), start_backend("B", None)];
    let flags = [&backends[0], &backends[1], "--policy", "round_robin"];
    let (program, port) = start(&flags);
    let mut clients: Vec<TcpStream> = (0..5).map(|_| program.connect()).collect();
    (0..20).for_each(|_| ask_all(&mut clients));
    program.ask("nonsense\r\n\r\n");
    let text = get(port, "/metrics");
    for start in [
        "intelliproxy_backend_requests_total{",
        "intelliproxy_backend_request_duration_seconds_count{",
        "intelliproxy_backend_first_byte_seconds_count{",
        "intelliproxy_requests_total",
        "intelliproxy_responses_total{code=\"2xx\",source=\"backend\"}",
    ] {
        assert_eq!(sum(&text, start), 100.0, "{start}");
    }
    for name in ["A", "B"] {
        let of = format!("{{pool=\"default\",backend=\"{name}\"");
        let ended = sum(&text, &format!("intelliproxy_backend_requests_total{of},code=\"2xx\"}}"));
        assert_eq!(ended, 50.0, "{name}");
        let received = sum(&text, &format!("intelliproxy_backend_received_bytes_total{of}}}"));
        let response = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".len() as f64;
        assert_eq!(received, 50.0 * response, "{name}");
        assert!(sum(&text, &format!("intelliproxy_backend_sent_bytes_total{of}}}")) > 1000.0);
        assert_eq!(sum(&text, &format!("intelliproxy_backend_requests_in_flight{of}}}")), 0.0);
    }
    let refused = "intelliproxy_responses_total{code=\"4xx\",source=\"proxy\"} 1\n";
    assert!(text.contains(refused), "{text}");
    assert!(text.contains("\nintelliproxy_client_errors_total 1\n"), "{text}");
    assert!(text.contains("\nintelliproxy_client_connections_accepted_total 6\n"), "{text}");
}

/// A scraper's connection is kept for further requests, even pipelined ones.
#[test]
fn connections_are_kept() {
    let (_program, port) = start(&[&start_backend("A", None)]);
    let mut stream = BufReader::new(connect(port));
    let request = "GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n";
    for count in [1, 3, 2] {
        stream.get_mut().write_all(request.repeat(count).as_bytes()).expect("sent");
        for _ in 0..count {
            let mut line = String::new();
            while line != "ok\n" {
                line.clear();
                assert!(stream.read_line(&mut line).expect("a response") > 0);
            }
        }
    }
}

/// With the maximum number of clients and of admin connections, another scrape gets its response,
/// because idle connections are closed. The same holds if clients need more descriptors than there
/// are.
#[test]
fn full_of_clients_it_can_be_reached() {
    let flag = start_backend("A", None);
    let flags = ["--admin", "127.0.0.1:0", &flag];
    for (descriptors, more) in [(1024, &["--clients", "8"][..]), (80, &[])] {
        let flags = [&flags, more].concat();
        let (program, port) = with_port(Program::start_with_descriptors(descriptors, &flags));
        let _clients: Vec<TcpStream> = (0..100).map(|_| program.connect()).collect();
        let _scrapers: Vec<TcpStream> = (0..40).map(|_| connect(port)).collect();
        for _ in 0..3 {
            let text = get(port, "/metrics");
            let limit = sum(&text, "intelliproxy_client_connections_max ");
            assert!((8.0..50.0).contains(&limit), "{limit}");
            assert!(sum(&text, "intelliproxy_client_connections ") > 0.0);
        }
    }
}

/// /readyz is 503 while no backend is usable, and while the proxy stops. The pages can be read
/// until the last request has ended.
#[test]
fn readiness_follows_backends_and_the_end() {
    let (go, gate) = mpsc::channel();
    let (mut program, port) =
        start(&["--backend", "A=http://127.0.0.1:1", "--ping-interval-ms", "10"]);
    program.line_with("A is down");
    let response = get(port, "/readyz");
    assert!(response.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{response}");
    assert!(response.ends_with("not ready: no backend is usable\n"), "{response}");
    drop(program);
    let (mut program, port) = start(&[&start_backend("A", Some(gate))]);
    assert!(get(port, "/readyz").ends_with("\r\n\r\nready\n"));
    let mut client = program.connect();
    client.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").expect("sent");
    let end = Instant::now() + DEADLINE;
    while !get(port, "/metrics").contains("requests_in_flight{pool=\"default\",backend=\"A\"} 1\n")
    {
        assert!(Instant::now() < end, "the request is not in flight");
    }
    program.signal("-TERM");
    program.line_with("stopping: 1 clients are connected");
    let response = get(port, "/readyz");
    assert!(response.starts_with("HTTP/1.1 503 "), "{response}");
    assert!(response.ends_with("not ready: the proxy is stopping\n"), "{response}");
    assert!(get(port, "/healthz").starts_with("HTTP/1.1 200 "));
    assert!(get(port, "/metrics").contains("\nintelliproxy_ready 0\n"));
    assert!(get(port, "/stats").contains("\"activeRequests\":1,"));
    go.send(()).expect("a backend that waits");
    let mut rest = String::new();
    client.read_to_string(&mut rest).expect("a response and an end");
    assert!(rest.ends_with("\r\n\r\nok"), "{rest}");
    assert_eq!(program.exit_code(), Some(0));
}

/// With `timeouts.lameDuckMs`, new clients are still accepted after SIGTERM. Every response ends
/// its connection, and /readyz reports that the proxy stops. At the end of that time the proxy
/// stops; a second signal ends it at once.
#[test]
fn a_lame_duck_goes_on_serving() {
    let backend = start_backend("A", None);
    let url = backend.split_once("A=").expect("a flag").1;
    let path = std::env::temp_dir().join(format!("intelliproxy-lame-{}.json", std::process::id()));
    for (ms, is_short) in [(86_400_000, false), (200, true)] {
        let text = format!(
            "{{\"timeouts\": {{\"lameDuckMs\": {ms}}}, \
             \"backends\": [{{\"name\": \"A\", \"url\": \"{url}\"}}]}}"
        );
        std::fs::write(&path, text).expect("a file");
        let (mut program, port) = start(&["--config", path.to_str().expect("UTF-8")]);
        let mut clients = [program.connect(), program.connect()];
        ask_all(&mut clients);
        program.signal("-TERM");
        program.line_with(&format!("stopping in {ms} ms (timeouts.lameDuckMs)"));
        if is_short {
            // Idle clients are closed at the end of `lameDuckMs`.
            program.line_with("stopping: 2 clients are connected");
            assert_eq!(program.exit_code(), Some(0));
            continue;
        }
        assert!(get(port, "/readyz").ends_with("not ready: the proxy is stopping\n"));
        let [mut idle, _] = clients;
        for client in [&mut idle, &mut program.connect()] {
            client.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").expect("sent");
            let mut response = String::new();
            client.read_to_string(&mut response).expect("a response and an end");
            assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
            assert!(response.contains("\r\nConnection: close\r\n"), "{response}");
        }
        let metrics = get(port, "/metrics");
        for line in ["\nintelliproxy_requests_total 4\n", "\nintelliproxy_ready 0\n"] {
            assert!(metrics.contains(line), "{line} in {metrics}");
        }
        program.signal("-TERM");
        assert_eq!(program.exit_code(), Some(0));
    }
    std::fs::remove_file(path).expect("it is there");
}

/// SIGUSR1 and SIGPIPE do not end the process. SIGUSR1 is logged.
#[test]
fn sigusr1_and_sigpipe_do_not_end_the_program() {
    let (mut program, port) = start(&[&start_backend("A", None)]);
    program.signal("-PIPE");
    program.signal("-USR1");
    program.line_with("SIGUSR1: opening the files of logs again");
    assert!(get(port, "/healthz").ends_with("\r\n\r\nok\n"));
}

/// /explain lists the decision of each request, newest first, and shows one decision with its
/// candidates. An unknown or missing number gets 404.
#[test]
fn explain_shows_decisions() {
    let backends = [start_backend("A", None), start_backend("B", None)];
    let (program, port) = start(&[&backends[0], &backends[1]]);
    let mut clients = [connect(program.port())];
    for _ in 0..3 {
        ask_all(&mut clients);
    }
    let json = |path: &str| {
        let response = get(port, path);
        assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{path}: {response}");
        serde_json::from_str::<serde_json::Value>(body(&response)).expect("JSON")
    };
    let list = json("/explain");
    let numbers: Vec<_> = list["decisions"].as_array().expect("a list").iter().collect();
    assert_eq!(numbers.len(), 3, "{list}");
    let number_of = |row: &serde_json::Value| row["request"].as_u64().expect("a number");
    assert!(numbers.windows(2).all(|pair| number_of(pair[0]) > number_of(pair[1])), "{list}");
    let first = numbers[2];
    let full = json(&format!("/explain?request={}", number_of(first)));
    assert_eq!(full["backend"], first["backend"]);
    assert_eq!(full["policy"], "score");
    let candidates = full["candidates"].as_array().expect("a list");
    let names: Vec<_> = candidates.iter().map(|row| row["name"].as_str()).collect();
    assert_eq!(names, [Some("A"), Some("B")], "{full}");
    assert!(candidates.iter().all(|row| row["scoreParts"]["latency"].is_number()), "{full}");
    assert!(get(port, "/explain?request=999").starts_with("HTTP/1.1 404 "));
    assert!(get(port, "/explain?request=").starts_with("HTTP/1.1 404 "));
}

/// Starts a backend that cuts its first request for `/`, unless `has_cut` shows that this has
/// already happened. Returns the flag with its address.
fn start_cutter(name: &str, has_cut: &Arc<AtomicBool>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let flag = format!("--backend={name}=http://{}", listener.local_addr().expect("bound"));
    let has_cut = Arc::clone(has_cut);
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut stream = BufReader::new(stream);
            let mut first = String::new();
            let is_read = stream.read_line(&mut first).is_ok();
            if is_read && (!first.starts_with("GET / ") || has_cut.swap(true, Ordering::SeqCst)) {
                thread::spawn(move || respond(stream, None));
            }
        }
    });
    flag
}

/// /explain finds a request by the ID that the client's hop gave it, here after a retry, and by the
/// ID that the proxy made and wrote to the access log.
#[test]
fn explain_finds_a_request_by_its_id() {
    let folder = Folder::new("admin-explain");
    let log = folder.path("access.log");
    let has_cut = Arc::<AtomicBool>::default();
    let backends = [start_cutter("A", &has_cut), start_cutter("B", &has_cut)];
    let flags = ["--trusted", "127.0.0.1", "--access-log", &log];
    let (program, port) = start(&[&[&*backends[0], &backends[1]], &flags[..]].concat());
    let json = |path: &str| {
        let response = get(port, path);
        assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{path}: {response}");
        serde_json::from_str::<serde_json::Value>(body(&response)).expect("JSON")
    };
    let fields = "Host: h\r\nConnection: close\r\nX-Request-Id: a&b%20\r\n";
    let response = program.ask(&format!("GET / HTTP/1.1\r\n{fields}\r\n"));
    assert!(response.ends_with("ok"), "{response}");
    let full = json("/explain?of=all&request=a%26b%2520");
    assert_eq!((&full["requestId"], &full["rule"]), (&"a&b%20".into(), &"retry".into()), "{full}");
    let first = full["earlier"][0].as_u64().expect("a number");
    let before = json(&format!("/explain?request={first}"));
    assert_eq!((&before["requestId"], &before["earlier"]), (&full["requestId"], &json!([])));
    assert_eq!(full["tried"], json!([before["backend"]]), "{full}");
    assert!(get(port, "/explain?request=a%26b").starts_with("HTTP/1.1 404 "));

    program.ask("GET /made HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    let begin = Instant::now();
    let made = loop {
        let text = std::fs::read_to_string(&log).expect("a file");
        let mut lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        if let Some(line) = lines.find(|line| line.contains("\"target\":\"/made\"")) {
            break serde_json::from_str::<serde_json::Value>(line).expect("JSON");
        }
        assert!(begin.elapsed() < DEADLINE, "no line: {text}");
        thread::yield_now();
    };
    let id = made["requestId"].as_str().expect("an id");
    assert_eq!(json(&format!("/explain?request={id}"))["backend"], made["backend"]);
}
