//! Listeners, recordings and state files that change while the program runs.
mod process;

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use intelliproxy_core::journal::{Entry, Reader, Record};
use process::{DEADLINE, Folder, Program, free_port, output, program};

/// A running proxy with its configuration file.
struct Proxy {
    program: Program,
    folder: Folder,
    /// The address of its only backend.
    backend: String,
}

impl Proxy {
    /// Starts the proxy with these keys in addition to `backends`.
    fn start(name: &str, backend: String, keys: &str) -> Self {
        let folder = Folder::new(&format!("moving-{name}"));
        let file = folder.file("proxy.json");
        fs::write(&file, text(&backend, keys)).expect("a file");
        let mut command = program();
        command.arg("--config").arg(&file);
        Self { program: Program::started_by(command), folder, backend }
    }

    /// Reloads with these keys. Returns the log line of the result.
    fn reload(&mut self, keys: &str) -> String {
        fs::write(self.folder.file("proxy.json"), text(&self.backend, keys)).expect("a file");
        self.program.signal("-HUP");
        self.program.line_with("configuration")
    }

    fn path(&self, name: &str) -> String {
        self.folder.file(name).display().to_string()
    }
}

fn text(backend: &str, keys: &str) -> String {
    format!("{{\"backends\": [{{\"name\": \"A\", \"url\": \"http://{backend}\"}}], {keys}}}")
}

/// A backend that sends `hello` to each request, and to `/long` a body whose second half waits for
/// the returned flag.
fn backend() -> (String, &'static AtomicBool) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    let is_released: &'static AtomicBool = Box::leak(Box::new(AtomicBool::new(false)));
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || respond(stream, is_released));
        }
    });
    (address, is_released)
}

fn respond(mut stream: TcpStream, is_released: &AtomicBool) {
    let mut head = Vec::new();
    let mut byte = [0];
    while stream.read_exact(&mut byte).is_ok() {
        head.push(byte[0]);
        if !head.ends_with(b"\r\n\r\n") {
            continue;
        }
        let is_long = head.starts_with(b"GET /long ");
        head.clear();
        let begin: &[u8] = match is_long {
            true => b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello",
            false => b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        };
        if stream.write_all(begin).is_err() {
            return;
        }
        while is_long && !is_released.load(Ordering::SeqCst) {
            thread::yield_now();
        }
        if is_long && stream.write_all(b"world").is_err() {
            return;
        }
    }
}

/// Sets a flag when a test ends, even by a panic, so that the test's clients end.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).expect("a listener");
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    stream
}

/// Requests a path on a new connection. Returns the response or the error.
fn ask(port: u16, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(DEADLINE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn is_good(response: &str) -> bool {
    response.starts_with("HTTP/1.1 200 OK\r\n") && response.ends_with("hello")
}

/// The listener moves while a download runs and requests arrive on new connections. No request
/// fails, the old port refuses afterwards, and the download is complete.
#[test]
fn the_listener_moves_without_a_failed_request() {
    let (address, is_released) = backend();
    let (first, second) = (free_port(), free_port());
    let keys = |port| format!("\"listen\": [\"127.0.0.1:{port}\"]");
    let mut proxy = Proxy::start("move", address, &keys(first));
    let mut download = connect(first);
    write!(download, "GET /long HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").expect("sent");
    let mut begun = [0; 15];
    download.read_exact(&mut begun).expect("a head");
    let (port, is_over) = (AtomicUsize::new(first.into()), AtomicBool::new(false));
    let served = thread::scope(|scope| {
        let _end = SetOnDrop(&is_over);
        let clients: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut served = 0;
                    while !is_over.load(Ordering::SeqCst) {
                        let at = port.load(Ordering::SeqCst) as u16;
                        match ask(at, "/") {
                            Ok(response) => assert!(is_good(&response), "{response}"),
                            // The old listener has closed since the port was read.
                            Err(error) => {
                                assert_ne!(port.load(Ordering::SeqCst), usize::from(at), "{error}");
                                continue;
                            }
                        }
                        served += 1;
                    }
                    served
                })
            })
            .collect();
        let both = format!("\"listen\": [\"127.0.0.1:{first}\", \"127.0.0.1:{second}\"]");
        let line = proxy.reload(&both);
        assert!(line.ends_with("configuration: other listen"), "{line}");
        port.store(second.into(), Ordering::SeqCst);
        let line = proxy.reload(&keys(second));
        assert!(line.ends_with("configuration: other listen"), "{line}");
        proxy.program.line_with(&format!("no longer listening on 127.0.0.1:{first}"));
        for _ in 0..20 {
            let response = ask(second, "/").expect("a response");
            assert!(is_good(&response), "{response}");
        }
        is_over.store(true, Ordering::SeqCst);
        clients.into_iter().map(|client| client.join().expect("no failure")).sum::<usize>()
    });
    assert!(served > 0);
    TcpStream::connect(("127.0.0.1", first)).expect_err("it is closed");
    is_released.store(true, Ordering::SeqCst);
    let mut rest = String::new();
    download.read_to_string(&mut rest).expect("the rest");
    assert!(rest.ends_with("helloworld"), "{rest}");
}

/// If a port is taken, a recording cannot be created or a state file is a folder, nothing changes:
/// neither the listeners nor the files. The log line names the reason.
#[test]
fn what_cannot_be_opened_changes_nothing() {
    let (address, _) = backend();
    let (port, other, taken) = (free_port(), free_port(), free_port());
    let holder = TcpListener::bind(("127.0.0.1", taken)).expect("a free port");
    let mut proxy = Proxy::start("taken", address, &format!("\"listen\": [\"127.0.0.1:{port}\"]"));
    let (journal, occupied) = (proxy.path("journal"), proxy.path("occupied"));
    fs::create_dir(&occupied).expect("a folder");
    fs::write(&journal, "older").expect("a file");
    let with = |keys: &str| {
        format!("\"limits\": {{\"clients\": 7}}, \"listen\": [\"127.0.0.1:{other}\"], {keys}")
    };
    let listen = format!("\"listen\": [\"127.0.0.1:{other}\", \"127.0.0.1:{taken}\"]");
    let rows = [
        (
            format!("{listen}, \"recording\": {{\"file\": \"{journal}\"}}"),
            format!("cannot listen on 127.0.0.1:{taken}: address already in use"),
        ),
        (
            with(&format!("\"admin\": {{\"listen\": \"127.0.0.1:{taken}\"}}")),
            format!("cannot listen on 127.0.0.1:{taken}: address already in use"),
        ),
        (
            with(&format!("\"recording\": {{\"file\": \"{occupied}\"}}")),
            format!("cannot record into {occupied}: is not a regular file"),
        ),
        (
            with(&format!(
                "\"routing\": {{\"policy\": \"learned\"}}, \"stateFile\": \"{}\"",
                proxy.folder.root().display()
            )),
            format!("state {}: is not a regular file", proxy.folder.root().display()),
        ),
    ];
    for (keys, wrong) in rows {
        let line = proxy.reload(&keys);
        let expected = format!("configuration not applied, keeping the current one: {wrong}");
        assert!(line.ends_with(&expected), "{line}, not {expected}");
        assert!(is_good(&ask(port, "/").expect("the listener is as it was")));
        TcpStream::connect(("127.0.0.1", other)).expect_err("not opened, or closed again");
        assert_eq!(fs::read_to_string(&journal).expect("a file"), "older");
    }
    drop(holder);
    // A child that another test has just started may still have it.
    let end = Instant::now() + DEADLINE;
    while TcpStream::connect(("127.0.0.1", taken)).is_ok() {
        assert!(Instant::now() < end, "the port is still open");
    }
    assert!(!Path::new(&format!("{journal}.old")).exists());
    let line = proxy.reload(&format!("{listen}, \"recording\": {{\"file\": \"{journal}\"}}"));
    assert!(line.ends_with("configuration: other listen, recording"), "{line}");
    assert!(is_good(&ask(taken, "/").expect("it is open now")));
}

/// The admin pages are added, moved and removed. An idle connection of the old listener is closed
/// after its response.
#[test]
fn admin_pages_move() {
    let (address, _) = backend();
    let (first, second) = (free_port(), free_port());
    let listen = format!("\"listen\": [\"127.0.0.1:{}\"]", free_port());
    let keys = |port: u16| format!("{listen}, \"admin\": {{\"listen\": \"127.0.0.1:{port}\"}}");
    let mut proxy = Proxy::start("admin", address, &listen);
    assert!(proxy.reload(&keys(first)).ends_with("configuration: other admin"));
    assert!(ask(first, "/healthz").expect("a page").ends_with("ok\n"));
    let mut kept = connect(first);
    write!(kept, "GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n").expect("sent");
    let mut response = [0; 15];
    kept.read_exact(&mut response).expect("a response");
    assert!(proxy.reload(&keys(second)).ends_with("configuration: other admin"));
    assert!(ask(second, "/healthz").expect("a page").ends_with("ok\n"));
    let mut rest = String::new();
    kept.read_to_string(&mut rest).expect("the idle connection ends");
    assert!(rest.ends_with("ok\n"), "{rest}");
    TcpStream::connect(("127.0.0.1", first)).expect_err("it is closed");
    assert!(proxy.reload(&listen).ends_with("configuration: other admin"));
    TcpStream::connect(("127.0.0.1", second)).expect_err("it is closed");
}

/// Under steady requests, a hundred reloads each move a second listener, and no request fails.
#[test]
fn a_hundred_reloads_fail_no_request() {
    let (address, _) = backend();
    let port = free_port();
    let others = [free_port(), free_port()];
    let keys = |other: u16| {
        format!(
            "\"listen\": [\"127.0.0.1:{port}\", \"127.0.0.1:{other}\"], \"limits\": {{\"clients\": {other}}}"
        )
    };
    let mut proxy = Proxy::start("hundred", address, &keys(others[0]));
    let (is_over, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let _end = SetOnDrop(&is_over);
        for _ in 0..2 {
            scope.spawn(|| {
                while !is_over.load(Ordering::SeqCst) {
                    let response = ask(port, "/").expect("a response");
                    assert!(is_good(&response), "{response}");
                    served.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        for round in 1..=100 {
            let before = served.load(Ordering::SeqCst);
            let line = proxy.reload(&keys(others[round % 2]));
            assert!(line.ends_with("configuration: other listen, limits"), "{line}");
            let deadline = Instant::now() + DEADLINE;
            while served.load(Ordering::SeqCst) == before {
                assert!(Instant::now() < deadline, "no response after reload {round}");
                thread::yield_now();
            }
        }
    });
    assert!(ask(port, "/stats").expect("a page").contains("Reloads: done=100, refused=0\r\n"));
}

/// If a reload ends a recording, it has its end mark, and the next recording is complete as well.
/// Both can be replayed, but decisions cannot be compared: the state before their beginning is
/// unknown.
#[test]
fn the_recording_moves() {
    let (address, _) = backend();
    let port = free_port();
    let listen = format!("\"listen\": [\"127.0.0.1:{port}\"]");
    let mut proxy = Proxy::start("recording", address, &listen);
    let keys = |file: &str| format!("{listen}, \"recording\": {{\"file\": \"{file}\"}}");
    let (first, second) = (proxy.path("first"), proxy.path("second"));
    for (keys, file) in
        [(keys(&first), Some(&first)), (keys(&second), Some(&second)), (listen, None)]
    {
        assert!(proxy.reload(&keys).ends_with("configuration: other recording"));
        if let Some(file) = file {
            proxy.program.line_with(&format!("recording the router's inputs into {file}"));
        }
        for _ in 0..50 {
            let response = ask(port, "/").expect("a response");
            assert!(is_good(&response), "{response}");
        }
    }
    proxy.program.signal("-TERM");
    assert_eq!(proxy.program.exit_code(), Some(0));
    for file in [first, second] {
        let bytes = fs::read(&file).expect("a file");
        let (_, reader) = Reader::new(&bytes).expect("a header");
        let entries: Vec<_> = reader.collect::<Result<_, _>>().expect("a whole recording");
        let routed = |entry: &&Entry| matches!(entry.record, Record::Routed { .. });
        assert_eq!(entries.iter().filter(routed).count(), 50, "{file}");
        // A probe is a decision, too. How many there are depends on the time.
        let probe = |entry: &&Entry| matches!(entry.record, Record::ProbeStarted { .. });
        let decisions = 50 + entries.iter().filter(probe).count();
        let last = entries.last().map(|entry| &entry.record);
        assert_eq!(last, Some(&Record::Ended { is_continued: false }), "{file}");
        let replayed = output(&["replay", &file]);
        let text = String::from_utf8_lossy(&replayed.stdout).into_owned();
        assert_eq!(replayed.status.code(), Some(1), "{text}");
        let expected = format!("decisions  0 the same, 0 differ, {decisions} could not be checked");
        assert!(text.contains(&expected), "{expected}\n{text}");
        let wrong = String::from_utf8_lossy(&replayed.stderr).into_owned();
        assert!(wrong.contains("a recording begun by a reload: what the router knew"), "{wrong}");
        for question in [["--at", "0s"], ["--policy", "p2c"]] {
            let answered = output(&[&["replay", &*file][..], &question].concat());
            assert_eq!(answered.status.code(), Some(0), "{question:?}");
        }
    }
}

/// The access log is added, moved and removed: each file has the lines that were written while it
/// was configured.
#[test]
fn the_access_log_moves() {
    let (address, _) = backend();
    let port = free_port();
    let listen = format!("\"listen\": [\"127.0.0.1:{port}\"]");
    let mut proxy = Proxy::start("access", address, &listen);
    let keys = |file: &str| format!("{listen}, \"accessLog\": {{\"file\": \"{file}\"}}");
    let (first, second) = (proxy.path("first"), proxy.path("second"));
    let rows = [(keys(&first), 3), (keys(&second), 2), (listen, 4)];
    for (keys, count) in rows {
        assert!(proxy.reload(&keys).ends_with("configuration: other accessLog"));
        for _ in 0..count {
            assert!(is_good(&ask(port, "/").expect("a response")));
        }
    }
    proxy.program.signal("-TERM");
    assert_eq!(proxy.program.exit_code(), Some(0));
    let lines = |file: &str| fs::read_to_string(file).expect("a file").lines().count();
    assert_eq!((lines(&first), lines(&second)), (3, 2));
}

/// A state file that is configured together with its policy is restored. If the policy was learning
/// already, a new state file gets its state; an existing file of that name is kept as `.old`.
#[test]
fn the_state_file_moves() {
    let (address, _) = backend();
    let listen = format!("\"listen\": [\"127.0.0.1:{}\"]", free_port());
    let mut proxy = Proxy::start("state", address, &listen);
    let (first, second) = (proxy.path("first"), proxy.path("second"));
    let keys = |file: &str| {
        format!("{listen}, \"routing\": {{\"policy\": \"learned\"}}, \"stateFile\": \"{file}\"")
    };
    proxy.reload(&keys(&first));
    proxy.program.line_with(&format!("state {first}: not found, starting empty"));
    fs::write(&second, "older").expect("a file");
    assert!(proxy.reload(&keys(&second)).ends_with("configuration: other stateFile"));
    proxy.program.line_with(&format!("state {second}: kept as {second}.old"));
    proxy.reload(&listen);
    // A separate thread writes the file.
    let deadline = Instant::now() + DEADLINE;
    while !Path::new(&first).exists() {
        assert!(Instant::now() < deadline, "{first} is not written");
        thread::yield_now();
    }
    proxy.reload(&keys(&first));
    proxy.program.line_with(&format!("state {first}: restored"));
    proxy.program.signal("-TERM");
    assert_eq!(proxy.program.exit_code(), Some(0));
    let state = |file: &str| fs::read_to_string(file).unwrap_or_default();
    assert!(state(&first).contains("\"curveCompletions\""), "{}", state(&first));
    assert!(state(&second).contains("\"curveCompletions\""), "{}", state(&second));
    assert_eq!(state(&format!("{second}.old")), "older");
}
