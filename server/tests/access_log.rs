//! The access log over real sockets: the program as a process, backends, clients, and the file.
mod process;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use process::{DEADLINE, Folder, Program};
use serde_json::Value;

/// A backend whose behaviour depends on the request's path.
fn start_backend(name: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let flag = format!("--backend={name}=http://{}", listener.local_addr().expect("bound"));
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || serve(BufReader::new(stream)));
        }
    });
    flag
}

fn serve(mut stream: BufReader<TcpStream>) {
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if stream.read_line(&mut head).is_ok_and(|count| count > 0) {
                continue;
            }
            return;
        }
        let path = head.split(' ').nth(1).unwrap_or_default();
        let response: &[u8] = match path.split('?').next().unwrap_or_default() {
            "/cut" => b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nok",
            "/early" => b"",
            "/garbage" => b"SMTP is something else\r\n\r\n",
            "/silent" => {
                // Reads until the proxy closes.
                let _ = stream.read(&mut [0]);
                return;
            }
            "/tunnel" => {
                let head = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
                drop(stream.get_mut().write_all(head));
                let mut bytes = Vec::new();
                let _ = stream.read_to_end(&mut bytes);
                drop(stream.get_mut().write_all(&bytes));
                return;
            }
            "/chunked" => {
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
            }
            "/upload" => {
                let mut body = [0; 20_000];
                if stream.read_exact(&mut body).is_err() {
                    return;
                }
                b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n"
            }
            _ => b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        };
        let is_kept = response.starts_with(b"HTTP/1.1 ") && !path.starts_with("/cut");
        if stream.get_mut().write_all(response).is_err() || !is_kept {
            return;
        }
    }
}

/// Sends bytes on a new connection. Returns all received bytes.
fn exchange(program: &Program, request: &[u8]) -> Vec<u8> {
    let mut client = program.connect();
    client.write_all(request).expect("sent");
    let mut bytes = Vec::new();
    // A cut connection may end with a reset.
    let _ = client.read_to_end(&mut bytes);
    bytes
}

fn get(program: &Program, target: &str) -> Vec<u8> {
    let request = format!("GET {target} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    exchange(program, request.as_bytes())
}

fn lines(path: &str) -> Vec<Value> {
    let text = fs::read_to_string(path).expect("a file of UTF-8");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// Stops the program, and waits for its end.
fn stop(program: &mut Program) {
    program.signal("-TERM");
    assert_eq!(program.exit_code(), Some(0));
}

/// Exchanges end in many ways, and each has one line with status, end, error and backend. The line
/// counts the bytes that the client received, and has the version that the client sent.
#[test]
fn every_exchange_has_its_line() {
    let folder = Folder::new("access-log-ends");
    let backend = start_backend("A");
    let start = |name: &str, timeouts: &str| {
        let config = folder.path(&format!("{name}.json"));
        let text = format!("{{\"timeouts\": {{{timeouts}}}, \"limits\": {{\"attempts\": 1}}}}");
        fs::write(&config, text).expect("a file");
        let log = folder.path(name);
        Program::start(&["--config", &config, "--access-log", &log, &backend, "--trusted=::1"])
    };
    let mut sent = BTreeMap::new();
    // Short timeouts would end other requests on a slow machine.
    let mut impatient = start("impatient", "\"responseHeadMs\": 300, \"requestHeadMs\": 300");
    sent.insert("/silent", get(&impatient, "/silent").len());
    let incomplete = exchange(&impatient, b"GET /incomplete HTTP/1.1\r\nHo");
    sent.insert("/incomplete", incomplete.len());
    stop(&mut impatient);
    let mut program = start("log", "");
    for target in ["/ok?secret=1", "/cut", "/early", "/garbage", "/chunked", "/stats"] {
        sent.insert(target, get(&program, target).len());
    }
    let head = "HEAD /head HTTP/1.1\r\nHost: h\r\nUser-Agent: \"a\\b\u{e9}\"\r\nReferer: http://h/?q\r\n\
                traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\
                Connection: close\r\n\r\n";
    sent.insert("/head", exchange(&program, head.as_bytes()).len());
    let post =
        "POST /upload HTTP/1.1\r\nHost: h\r\nContent-Length: 20000\r\nConnection: close\r\n\r\n";
    let post = [post.as_bytes(), &[b'x'; 20_000]].concat();
    sent.insert("/upload", exchange(&program, &post).len());
    let bad = b"GET /no-host\xff HTTP/1.1\r\n\r\n";
    sent.insert("/no-host\\xff", exchange(&program, bad).len());
    sent.insert("/newer", exchange(&program, b"GET /newer HTTP/2.0\r\nHost: h\r\n\r\n").len());
    // Two pipelined requests: each has its line.
    let twice = "GET /first HTTP/1.1\r\nHost: h\r\n\r\nGET /second HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    exchange(&program, twice.as_bytes());
    // A client that leaves before its response.
    let mut left = program.connect();
    left.write_all(b"GET /silent?left HTTP/1.1\r\nHost: h\r\n\r\n").expect("sent");
    let mut tunnel = program.connect();
    let ask = b"GET /tunnel HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
    tunnel.write_all(ask).expect("sent");
    let mut answer = BufReader::new(tunnel.try_clone().expect("a handle"));
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        answer.read_line(&mut line).expect("a head");
    }
    // The client waits, because an end within 2 ms of the request counts as part of the request.
    left.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout");
    left.read(&mut [0]).expect_err("no response has come");
    drop(left);
    tunnel.write_all(&[b'y'; 3000]).expect("sent");
    tunnel.shutdown(Shutdown::Write).expect("an end");
    let mut echo = Vec::new();
    answer.read_to_end(&mut echo).expect("the echo and an end");
    assert_eq!(echo.len(), 3000);
    stop(&mut program);

    let lines = [lines(&folder.path("impatient")), lines(&folder.path("log"))].concat();
    let of = |target: &str| {
        let found: Vec<_> = lines.iter().filter(|line| line["target"] == target).collect();
        assert_eq!(found.len(), 1, "{target}: {lines:#?}");
        found[0]
    };
    let rows = [
        ("/ok?secret=1", 200, "complete", Value::Null, "A"),
        ("/chunked", 200, "complete", Value::Null, "A"),
        ("/head", 200, "complete", Value::Null, "A"),
        ("/upload", 201, "complete", Value::Null, "A"),
        ("/first", 200, "complete", Value::Null, "A"),
        ("/second", 200, "complete", Value::Null, "A"),
        ("/stats", 200, "complete", Value::Null, ""),
        ("/tunnel", 101, "complete", Value::Null, "A"),
        ("/cut", 200, "backend_cut", "truncated".into(), "A"),
        ("/early", 502, "backend_cut", "cut_before_head".into(), "A"),
        ("/garbage", 502, "backend_error", "invalid_head".into(), "A"),
        ("/silent", 504, "backend_timeout", "head_timeout".into(), "A"),
        ("/no-host\\xff", 400, "client_error", "no Host".into(), ""),
        ("/newer", 505, "client_error", "unsupported version".into(), ""),
        (
            "/incomplete",
            408,
            "client_timeout",
            "request head incomplete after timeouts.requestHeadMs".into(),
            "",
        ),
    ];
    for (target, status, end, error, backend) in rows {
        let line = of(target);
        assert_eq!(line["status"], status, "{line:#}");
        assert_eq!(line["end"], end, "{line:#}");
        assert_eq!(line["error"], error, "{line:#}");
        assert_eq!(line["backend"].as_str().unwrap_or_default(), backend, "{line:#}");
        assert_eq!(line["tries"], i32::from(!backend.is_empty()), "{line:#}");
        assert_eq!(line["why"], if backend.is_empty() { Value::Null } else { "current".into() });
        assert_eq!(line["client"], "127.0.0.1", "{line:#}");
        let version = if target == "/newer" { "HTTP/2.0" } else { "HTTP/1.1" };
        assert_eq!(line["version"], version, "{line:#}");
        assert_eq!(line["backendMs"].is_number(), !backend.is_empty(), "{line:#}");
        if let Some(bytes) = sent.get(target) {
            assert_eq!(line["sent"], *bytes, "{line:#}");
        }
        let time = |name: &str| line[name].as_f64().unwrap_or_default();
        assert!(time("headMs") <= time("totalMs"), "{line:#}");
        assert!(time("backendMs") <= time("firstByteMs"), "{line:#}");
        assert!(time("firstByteMs") <= time("totalMs"), "{line:#}");
    }
    // The wait for a silent backend counts as the backend's time.
    let awaited = of("/silent")["backendMs"].as_f64();
    assert!(awaited.is_some_and(|time| time >= 300.0), "{:#}", of("/silent"));
    let left = of("/silent?left");
    assert!(left["backendMs"].is_number() && left["firstByteMs"].is_null(), "{left:#}");
    assert_eq!((&left["status"], &left["end"]), (&Value::Null, &"client_left".into()), "{left:#}");
    assert_eq!(of("/upload")["received"], post.len(), "head and body");
    let tunnel = of("/tunnel");
    assert_eq!(tunnel["received"], ask.len() + 3000);
    assert!(tunnel["sent"].as_u64().is_some_and(|bytes| bytes > 3000), "{tunnel:#}");
    let head = of("/head");
    assert_eq!(head["method"], "HEAD");
    assert_eq!(head["userAgent"], "\"a\\b\u{e9}\"");
    assert_eq!(head["referer"], "http://h/?q");
    assert_eq!(head["traceparent"], "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    assert_eq!(lines.len(), 16, "no other lines");
}

/// Clients send 4000 requests while the file is renamed and SIGUSR1 is sent five times. The files
/// together have a line for each request, and as many as /metrics counts.
#[test]
fn rotation_loses_no_line() {
    const CLIENTS: usize = 4;
    const REQUESTS: usize = 1000;
    let folder = Folder::new("access-log-rotation");
    let path = folder.path("log");
    let backend = start_backend("A");
    let mut program = Program::start(&["--access-log", &path, &backend, "--admin", "127.0.0.1:0"]);
    let admin = program.line_with("admin pages on http://127.0.0.1:");
    let admin: u16 = admin.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let mut stream = BufReader::new(program.connect());
            thread::spawn(move || {
                for number in 0..REQUESTS {
                    let request = format!("GET /{client}-{number} HTTP/1.1\r\nHost: h\r\n\r\n");
                    stream.get_mut().write_all(request.as_bytes()).expect("sent");
                    let mut line = String::new();
                    while line != "\r\n" {
                        line.clear();
                        stream.read_line(&mut line).expect("a head");
                    }
                    stream.read_exact(&mut [0; 2]).expect("a body");
                }
            })
        })
        .collect();
    let mut files = vec![path.clone()];
    for number in 1..=5 {
        let old = folder.path(&format!("log.{number}"));
        fs::rename(&path, &old).expect("a rename");
        program.signal("-USR1");
        program.line_with(": opened again");
        files.push(old);
    }
    clients.into_iter().for_each(|client| client.join().expect("all responses"));
    let mut metrics = String::new();
    let mut stream = TcpStream::connect(("127.0.0.1", admin)).expect("a listener");
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    let ask = b"GET /metrics HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    stream.write_all(ask).expect("sent");
    stream.read_to_string(&mut metrics).expect("a response and an end");
    stop(&mut program);
    for (name, count) in [
        ("requests_total", CLIENTS * REQUESTS),
        ("access_log_lines_total", CLIENTS * REQUESTS),
        ("access_log_lines_dropped_total", 0),
        ("access_log_write_failures_total", 0),
    ] {
        let line = format!("\nintelliproxy_{name} {count}\n");
        assert!(metrics.contains(&line), "{line}");
    }
    let mut targets: Vec<String> = files
        .iter()
        .flat_map(|file| lines(file))
        .map(|line| line["target"].as_str().expect("a target").to_owned())
        .collect();
    assert_eq!(targets.len(), CLIENTS * REQUESTS);
    targets.sort_unstable();
    targets.dedup();
    assert_eq!(targets.len(), CLIENTS * REQUESTS, "each request has one line");
}

/// If a file cannot be opened, startup fails with one line.
#[test]
fn an_unusable_file_ends_the_start() {
    let folder = Folder::new("access-log-unusable");
    let link = folder.path("link");
    std::os::unix::fs::symlink("target", &link).expect("a link");
    for (path, wrong) in [
        (folder.path(""), "is not a regular file"),
        (link, "is a symbolic link, which is not followed"),
    ] {
        let listen = ["--listen", "127.0.0.1:0", "--log-level=error"];
        let output = process::output(&[&listen[..], &["--access-log", &path]].concat());
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let line = format!("intelliproxy: cannot write the access log {path}: {wrong}\n");
        assert_eq!((text, output.status.code()), (line, Some(1)));
    }
}

/// Passwords in targets and in Referer are masked; similar text elsewhere is not.
#[test]
fn passwords_are_masked() {
    let folder = Folder::new("access-log-masks");
    let path = folder.path("log");
    let mut program = Program::start(&["--access-log", &path, &start_backend("A")]);
    let rows = [
        ("http://u:pw@h/a@b?c", "http://***@h/a@b?c"),
        ("http://h/?u=http://u:pw@h/", "http://h/?u=http://u:pw@h/"),
        ("/a@b", "/a@b"),
    ];
    for (text, _) in rows {
        let end = "Host: h\r\nConnection: close\r\n\r\n";
        exchange(&program, format!("GET {text} HTTP/1.1\r\n{end}").as_bytes());
        exchange(&program, format!("GET / HTTP/1.1\r\nReferer: {text}\r\n{end}").as_bytes());
    }
    exchange(&program, b"CONNECT u:pw@h:80 HTTP/1.1\r\nHost: h:80\r\n\r\n");
    stop(&mut program);
    let lines = lines(&path);
    let pairs = lines.chunks_exact(2);
    for ((_, shown), pair) in rows.iter().zip(pairs) {
        assert_eq!((&pair[0]["target"], &pair[1]["referer"]), (&(*shown).into(), &(*shown).into()));
    }
    assert_eq!(lines.len(), 7);
    assert_eq!(lines[6]["target"], "***@h:80");
}

/// While the pipe at stdout is not read, the program's log reports lost lines, but not that SIGUSR1
/// opened stdout again.
#[test]
fn lines_lost_at_a_held_pipe_are_reported() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let mut command = process::program();
    command.stdout(writer).args(["--listen", "127.0.0.1:0", "--access-log", "stdout"]);
    let mut program = Program::started_by(command);
    let request =
        format!("GET /stats HTTP/1.1\r\nHost: h\r\nUser-Agent: {}\r\n\r\n", "u".repeat(30_000));
    let mut client = program.connect();
    let mut source = client.try_clone().expect("a handle");
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let drain = thread::spawn(move || std::io::copy(&mut source, &mut std::io::sink()));
    let load = thread::spawn(move || {
        while stopped.try_recv() != Err(std::sync::mpsc::TryRecvError::Disconnected) {
            client.write_all(request.as_bytes()).expect("sent");
        }
        client.shutdown(Shutdown::Both).expect("an end");
    });
    program.line_with("access log stdout: not written fast enough, ");
    // Further lines are reported, too.
    program.line_with("access log stdout: not written fast enough, ");
    drop(stop);
    load.join().expect("it was sent");
    let _ = drain.join().expect("an end");
    program.signal("-USR1");
    drop(reader);
    program.signal("-TERM");
    loop {
        let line = program.line_with("");
        assert!(!line.contains("opened again"), "{line}");
        if line.ends_with("stopped") {
            break;
        }
    }
}

/// If the disk is full until the end, the lines are reported as lost.
#[test]
#[cfg(target_os = "linux")]
fn lines_lost_at_the_end_are_reported() {
    let full = fs::File::options().write(true).open("/dev/full").expect("the full device");
    let mut command = process::program();
    command.stdout(full).args(["--listen", "127.0.0.1:0", "--access-log", "stdout"]);
    let mut program = Program::started_by(command);
    program.stats();
    program.line_with(": lines wait, and are dropped beyond the queue");
    program.stats();
    program.stats();
    program.signal("-TERM");
    program.line_with("access log stdout: ended, 3 lines lost");
    assert_eq!(program.exit_code(), Some(0));
}

/// The counts of lost lines and failed writes continue when a reload moves the log.
#[test]
#[cfg(target_os = "linux")]
fn counts_outlast_the_file() {
    let folder = Folder::new("access-log-counts");
    let (file, log) = (folder.path("proxy.json"), folder.path("log"));
    let config = |log: &str| format!("{{\"accessLog\": {{\"file\": \"{log}\"}}}}");
    fs::write(&file, config("stdout")).expect("a file");
    let full = fs::File::options().write(true).open("/dev/full").expect("the full device");
    let mut command = process::program();
    command.stdout(full).args(["--listen", "127.0.0.1:0", "--config", &file]);
    let mut program = Program::started_by(command);
    program.stats();
    program.line_with(": lines wait, and are dropped beyond the queue");
    fs::write(&file, config(&log)).expect("a file");
    program.signal("-HUP");
    program.line_with("configuration: other accessLog");
    program.line_with("access log stdout: ended, 1 lines lost");
    // A response has the counts of the turn before its own.
    let (mut asked, end) = (1, Instant::now() + DEADLINE);
    let field = "\r\nX-IntelliProxy-Access-Log: dropped=1, failedWrites=";
    let mut stats = program.stats();
    while !stats.contains(field) {
        assert!(Instant::now() < end, "{stats}");
        stats = program.stats();
        asked += 1;
    }
    stop(&mut program);
    assert_eq!(lines(&log).len(), asked);
}
