//! Reloads by SIGHUP, with the program as a process: changed backends and timeouts, refused files,
//! and log lines. `moving.rs` moves listeners, logs and other files.
mod process;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::thread;

use process::{DEADLINE, Program};

/// A running proxy and its configuration file, which is removed with it.
struct Configured {
    program: Program,
    file: PathBuf,
}

impl Configured {
    fn start(name: &str, text: &str, flags: &[&str]) -> Self {
        let name = format!("intelliproxy-reload-{name}-{}.json", std::process::id());
        let file = std::env::temp_dir().join(name);
        fs::write(&file, text).expect("a file");
        let path = file.to_str().expect("a path of UTF-8");
        Self { program: Program::start(&[&["--config", path], flags].concat()), file }
    }

    fn line_with(&mut self, what: &str) -> String {
        self.program.line_with(what)
    }

    fn connect(&self) -> TcpStream {
        self.program.connect()
    }

    /// Writes the file and sends SIGHUP.
    fn reload(&self, text: &str) {
        fs::write(&self.file, text).expect("a file");
        self.hang_up();
    }

    fn hang_up(&self) {
        self.program.signal("-HUP");
    }
}

impl Drop for Configured {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.file));
    }
}

/// A backend that responds to every request, probes included, with its name. The response to
/// `/slow` waits until the test permits it.
struct Backend {
    port: u16,
    /// Receives a sender for each request for `/slow`: a message on it permits the response.
    slow: crossbeam_channel::Receiver<crossbeam_channel::Sender<()>>,
}

impl Backend {
    fn start(name: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let (requested, slow) = crossbeam_channel::unbounded();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let requested = requested.clone();
                thread::spawn(move || serve(&stream, name, &requested));
            }
        });
        Self { port, slow }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

/// Responds to the requests of one connection.
fn serve(
    stream: &TcpStream,
    name: &str,
    requested: &crossbeam_channel::Sender<crossbeam_channel::Sender<()>>,
) {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    while let Some(first) = lines.next() {
        while lines.next().is_some_and(|line| !line.is_empty()) {}
        if first.starts_with("GET /slow ") {
            let (leave, given) = crossbeam_channel::bounded(1);
            requested.send(leave).expect("a test that waits");
            given.recv_timeout(DEADLINE).expect("the permission to respond");
        }
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len());
        if (&*stream).write_all(head.as_bytes()).is_err() {
            return;
        }
    }
}

fn ask(stream: &mut TcpStream, path: &str) {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: h\r\n\r\n").expect("sent");
}

/// Reads the head and the body of the next response.
fn read_response(stream: &mut TcpStream) -> (String, String) {
    let mut bytes = Vec::new();
    loop {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("a response");
        bytes.push(byte[0]);
        if bytes.ends_with(b"\r\n\r\n") {
            break;
        }
    }
    let head = String::from_utf8(bytes).expect("text");
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
    let length: usize = length.expect("a length").parse().expect("a number");
    let mut body = vec![0; length];
    stream.read_exact(&mut body).expect("a body");
    (head, String::from_utf8(body).expect("text"))
}

fn config(backends: &[(&str, &Backend)], further: &str) -> String {
    let backends: Vec<String> = backends
        .iter()
        .map(|(name, backend)| format!("{{\"name\": \"{name}\", \"url\": \"{}\"}}", backend.url()))
        .collect();
    format!("{{\n\"backends\": [{}]{further}\n}}", backends.join(", "))
}

/// A good file takes effect without a dropped connection: the request in flight is completed by the
/// removed backend, the client's connection stays open, and its next request goes to the new
/// backend.
#[test]
fn a_good_file_takes_effect_at_once() {
    let (old, new) = (Backend::start("old"), Backend::start("new"));
    let mut program = Configured::start("good", &config(&[("A", &old)], ""), &[]);
    let mut busy = program.connect();
    ask(&mut busy, "/slow");
    let leave = old.slow.recv_timeout(DEADLINE).expect("the request");
    let mut idle = program.connect();
    ask(&mut idle, "/");
    assert_eq!(read_response(&mut idle).1, "old");
    program.reload(&config(&[("B", &new)], ", \"timeouts\": {\"connectMs\": 77}"));
    let line = program.line_with("configuration: ");
    assert!(line.ends_with("configuration: added B; removed A; other timeouts"), "{line}");
    ask(&mut idle, "/");
    assert_eq!(read_response(&mut idle).1, "new");
    leave.send(()).expect("a backend that waits");
    assert_eq!(read_response(&mut busy).1, "old");
    ask(&mut busy, "/");
    assert_eq!(read_response(&mut busy).1, "new");
    ask(&mut idle, "/stats");
    let (head, body) = read_response(&mut idle);
    assert!(head.contains("\r\nX-IntelliProxy-Reloads: done=1, refused=0\r\n"), "{head}");
    assert!(body.contains("\"name\":\"B\"") && !body.contains("\"name\":\"A\""), "{body}");
}

/// The log line names backends whose limit or weight has changed, and the new values apply: a
/// backend of weight 0 gets no further request.
#[test]
fn limits_and_weights_of_backends_change() {
    let (one, two) = (Backend::start("one"), Backend::start("two"));
    let text = |one_more: &str, two_more: &str| {
        let row = |name: &str, of: &Backend, more: &str| {
            format!(r#"{{"name": "{name}", "url": "{}"{more}}}"#, of.url())
        };
        format!(r#"{{"backends": [{}, {}]}}"#, row("A", &one, one_more), row("B", &two, two_more))
    };
    let mut program = Configured::start("shares", &text("", ""), &[]);
    program.reload(&text(r#", "weight": 0"#, r#", "limit": 5"#));
    let line = program.line_with("configuration: ");
    assert!(line.ends_with("configuration: changed A, B"), "{line}");
    let mut client = program.connect();
    for _ in 0..3 {
        ask(&mut client, "/");
        assert_eq!(read_response(&mut client).1, "two");
    }
    program.hang_up();
    let line = program.line_with("configuration: ");
    assert!(line.ends_with("configuration: nothing changed"), "{line}");
}

/// For a bad file, one log line has file, line, column and reason. The current configuration stays,
/// and a later good file is applied.
#[test]
fn a_bad_file_changes_nothing() {
    let backend = Backend::start("only");
    let good = config(&[("A", &backend)], "");
    let mut program = Configured::start("bad", &good, &[]);
    let mut client = program.connect();
    for (text, wrong) in [
        (
            "{\n\"limits\": {\n\"clients\": 0}}",
            ":3:12: limits.clients: must be a whole number from 1",
        ),
        ("{\n\"backends\": [", ":2:13: unterminated array"),
    ] {
        program.reload(text);
        let line = program.line_with("configuration");
        let requested = line.split_once("configuration not applied, keeping the current one: ");
        let file = program.file.to_string_lossy();
        let (_, requested) = requested.unwrap_or_else(|| panic!("{line}"));
        assert!(requested.strip_prefix(&*file).unwrap_or(requested).starts_with(wrong), "{line}");
        ask(&mut client, "/");
        assert_eq!(read_response(&mut client).1, "only");
    }
    ask(&mut client, "/stats");
    let (head, _) = read_response(&mut client);
    assert!(head.contains("X-IntelliProxy-Reloads: done=0, refused=2, lastError=\""), "{head}");
    program.reload(&good);
    let line = program.line_with("configuration: ");
    assert!(line.ends_with("configuration: nothing changed"), "{line}");
    ask(&mut client, "/stats");
    let (head, _) = read_response(&mut client);
    assert!(head.contains("X-IntelliProxy-Reloads: done=1, refused=2\r\n"), "{head}");
}

/// Flags still override the file.
#[test]
fn flags_rule() {
    let backend = Backend::start("flag");
    let flag = format!("--backend=F={}", backend.url());
    let mut program = Configured::start("flags", "{}", &[&flag]);
    let other = Backend::start("file");
    program.reload(&config(&[("X", &other)], ", \"listen\": [\"127.0.0.1:1\"]"));
    let line = program.line_with("configuration: ");
    assert!(line.ends_with("configuration: nothing changed"), "{line}");
    let mut client = program.connect();
    ask(&mut client, "/");
    assert_eq!(read_response(&mut client).1, "flag");
}
