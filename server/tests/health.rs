//! Health checks of the program with real backends: missing paths, checks by connection only, and
//! backends that start down.
mod process;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use process::{DEADLINE, Folder, Program};

/// A backend that knows only `/`, like a file server, and what it has counted.
struct Site {
    port: u16,
    /// Requests for `/`.
    served: Arc<AtomicUsize>,
    /// Connections without a request.
    silent: Arc<AtomicUsize>,
    /// The status of `/ready`.
    ready: Arc<AtomicUsize>,
}

impl Site {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let [served, silent, ready] = [0, 0, 503].map(|first| Arc::new(AtomicUsize::new(first)));
        let site = Self { port, served, silent, ready };
        let (served, silent) = (Arc::clone(&site.served), Arc::clone(&site.silent));
        let ready = Arc::clone(&site.ready);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (served, silent) = (Arc::clone(&served), Arc::clone(&silent));
                let ready = Arc::clone(&ready);
                thread::spawn(move || {
                    let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
                    let Some(first) = lines.next() else {
                        silent.fetch_add(1, Ordering::SeqCst);
                        return;
                    };
                    lines.by_ref().take_while(|line| !line.is_empty()).for_each(drop);
                    let status = match first.split(' ').nth(1) {
                        Some("/") => 200,
                        Some("/ready") => ready.load(Ordering::SeqCst),
                        _ => 404,
                    };
                    served.fetch_add(usize::from(first.starts_with("GET / ")), Ordering::SeqCst);
                    let head = "Content-Length: 0\r\nConnection: close\r\n\r\n";
                    // The proxy has closed the connection if this fails.
                    let _ = write!(&stream, "HTTP/1.1 {status} Text\r\n{head}");
                });
            }
        });
        site
    }

    fn served(&self) -> usize {
        self.served.load(Ordering::SeqCst)
    }
}

/// Starts the program with two backends A and B, and with further keys of the configuration.
fn start(folder: &Folder, keys: &str) -> ([Site; 2], Program) {
    let sites = [Site::start(), Site::start()];
    let backend = |(site, name): (&Site, char)| {
        format!(r#"{{"name": "{name}", "url": "http://127.0.0.1:{}"}}"#, site.port)
    };
    let backends: Vec<String> = sites.iter().zip('A'..).map(backend).collect();
    let text = format!(r#"{{"backends": [{}], {keys}}}"#, backends.join(","));
    std::fs::write(folder.file("c.json"), text).expect("a file");
    let arguments = ["--config", &folder.path("c.json"), "--policy", "round_robin"];
    (sites, Program::start(&arguments))
}

/// Sends 20 requests, all of which succeed.
fn ask_20(program: &Program) {
    for _ in 0..20 {
        assert!(program.ask(GET).starts_with("HTTP/1.1 200 "));
    }
}

/// Asserts that both backends have served some of 20 requests.
#[track_caller]
fn assert_shared(sites: &[Site; 2]) {
    let served = [sites[0].served(), sites[1].served()];
    assert!(served.iter().all(|count| *count >= 5), "{served:?}");
    assert_eq!(served.iter().sum::<usize>(), 20, "{served:?}");
}

const GET: &str = "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
const READYZ: &str = "GET /readyz HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
const QUICK: &str = r#""routing": {"probes": {"pingIntervalMs": 50, "pingRetryMs": 50}}"#;

/// Under the default check, two file servers without `/health` serve half of the requests each. One
/// log line names the remedy, and none reports a server as down.
#[test]
fn file_servers_serve_under_the_default() {
    let folder = Folder::new("health-default");
    let (sites, mut program) = start(&folder, QUICK);
    let line = program.line_with("no backend has the path of its health checks (status 404)");
    assert!(line.contains("WARN "), "{line}");
    assert!(line.contains("set health.path") && line.contains("health.kind to \"tcp\""), "{line}");
    // Ten pings of each: three would bring it down.
    let is_pinged = |stats: &str| {
        let failed = stats.split("\"failPings\":").skip(1);
        let failed = failed.map(|rest| rest.split(',').next().and_then(|text| text.parse().ok()));
        let failed: Vec<u32> = failed.map(|count| count.expect("a number")).collect();
        failed.len() == 2 && failed.iter().all(|count| *count >= 10)
    };
    let end = Instant::now() + DEADLINE;
    while !is_pinged(&program.stats()) {
        assert!(Instant::now() < end, "not pinged: {}", program.stats());
        thread::yield_now();
    }
    ask_20(&program);
    assert_shared(&sites);
    let stats = program.stats();
    assert_eq!(stats.matches("\"health\":\"unknown\"").count(), 2, "{stats}");
    program.signal("-TERM");
    let lines = program.lines_until("stopped");
    assert!(lines.iter().all(|line| !line.contains(" is down")), "{lines:?}");
    assert!(lines.iter().all(|line| !line.contains("no backend has")), "logged once: {lines:?}");
}

/// With checks of kind `tcp` both are up, and the checks send no request.
#[test]
fn a_connection_is_a_good_check() {
    let folder = Folder::new("health-tcp");
    let (sites, mut program) = start(&folder, &format!(r#""health": {{"kind": "tcp"}}, {QUICK}"#));
    let mut up = [program.line_with(" is up"), program.line_with(" is up")];
    up.sort_by_key(|line| line.rsplit("backend ").next().map(str::to_owned));
    assert!(up[0].contains("A is up") && up[1].contains("B is up"), "{up:?}");
    ask_20(&program);
    assert_shared(&sites);
    // A backend counts a silent connection when it has ended.
    let end = Instant::now() + DEADLINE;
    while sites.iter().any(|site| site.silent.load(Ordering::SeqCst) == 0) {
        assert!(Instant::now() < end, "no silent connection");
        thread::yield_now();
    }
}

/// A backend that starts down gets no request, and the proxy is not ready, until its check is good.
#[test]
fn a_loading_backend_is_left_out() {
    let folder = Folder::new("health-down");
    let keys = r#""health": {"path": "/ready", "initial": "down", "intervalMs": 50},
        "admin": {"listen": "127.0.0.1:0"}, "routing": {"probes": {"pingRetryMs": 50}}"#;
    let (sites, mut program) = start(&folder, keys);
    let line = program.line_with("admin pages on http://");
    let (_, admin) = line.rsplit_once("http://").expect("an address at the line's end");
    let is_ready = || {
        let mut client = TcpStream::connect(admin).expect("the admin pages");
        client.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        client.write_all(READYZ.as_bytes()).expect("sent");
        let mut response = String::new();
        client.read_to_string(&mut response).expect("a response and an end");
        response.starts_with("HTTP/1.1 200 ")
    };
    assert!(!is_ready());
    sites[0].ready.store(200, Ordering::SeqCst);
    program.line_with("A is up");
    assert!(is_ready());
    ask_20(&program);
    assert_eq!([sites[0].served(), sites[1].served()], [20, 0]);
    sites[1].ready.store(200, Ordering::SeqCst);
    program.line_with("B is up");
    ask_20(&program);
    assert!(sites[1].served() > 0, "it joins");
}
