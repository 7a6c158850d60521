//! SIGUSR2: a new process replaces the running one, and no request is lost.
mod process;

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, JoinHandle};

use process::{DEADLINE, Program, empty_backend, make_pipe};

const GET: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
/// Number of upgrades under traffic.
const UPGRADES: usize = 4;

/// A running proxy, its configuration file, and its successors, which are killed with it.
struct Upgraded {
    program: Program,
    file: PathBuf,
    followers: Vec<String>,
}

impl Upgraded {
    fn start(name: &str, text: &str) -> Self {
        let name = format!("intelliproxy-upgrade-{name}-{}.json", std::process::id());
        let file = std::env::temp_dir().join(name);
        fs::write(&file, text).expect("a file");
        let path = file.to_str().expect("a path of UTF-8");
        Self { program: Program::start(&["--config", path]), file, followers: Vec::new() }
    }

    /// Sends SIGUSR2 to the process that serves.
    fn ask(&self) {
        match self.followers.last() {
            Some(pid) => kill("-USR2", pid),
            None => self.program.signal("-USR2"),
        }
    }

    /// Waits for the new process. Returns its process ID.
    fn take_follower(&mut self) -> String {
        let line = self.program.line_with("upgraded: process ");
        let pid = line.split("process ").nth(1).and_then(|rest| rest.split(' ').next());
        let pid = pid.expect("a number").to_owned();
        self.followers.push(pid.clone());
        pid
    }
}

impl Drop for Upgraded {
    fn drop(&mut self) {
        self.followers.iter().for_each(|pid| kill("-KILL", pid));
        drop(fs::remove_file(&self.file));
    }
}

/// Sends a signal to a process, which may have ended.
fn kill(signal: &str, pid: &str) {
    let mut command = Command::new("kill");
    command.args([signal, pid]).stderr(std::process::Stdio::null());
    command.status().expect("the kill program");
}

fn config(settings: &str) -> String {
    let url = empty_backend();
    format!("{{\"backends\": [{{\"name\": \"A\", \"url\": \"{url}\"}}]{settings}}}")
}

/// Four clients that send requests without pause until they are stopped: three on kept connections,
/// one on new ones.
struct Traffic {
    clients: Vec<JoinHandle<u32>>,
    is_over: Arc<AtomicBool>,
    done: Arc<AtomicU32>,
}

impl Traffic {
    fn start(port: u16) -> Self {
        let (is_over, done) = (Arc::<AtomicBool>::default(), Arc::<AtomicU32>::default());
        let client = |keeps: bool| {
            let (is_over, done) = (Arc::clone(&is_over), Arc::clone(&done));
            thread::spawn(move || {
                let (mut kept, mut count) = (None, 0);
                while !is_over.load(Ordering::SeqCst) {
                    let mut stream = kept.take().unwrap_or_else(|| connect(port));
                    let is_last = ask(&mut stream);
                    count += 1;
                    done.fetch_add(1, Ordering::SeqCst);
                    kept = (keeps && !is_last).then_some(stream);
                }
                count
            })
        };
        let clients = [true, true, true, false].map(client).into_iter().collect();
        Self { clients, is_over, done }
    }

    /// Waits for 200 more responses, so that each client has very likely had some of them.
    fn go_on(&self) {
        let until = self.done.load(Ordering::SeqCst) + 200;
        let end = std::time::Instant::now() + DEADLINE;
        while self.done.load(Ordering::SeqCst) < until {
            assert!(std::time::Instant::now() < end, "the traffic goes on");
            thread::yield_now();
        }
    }

    /// Stops the clients. Returns the number of responses. Panics if a request got none.
    fn finish(self) -> u32 {
        self.is_over.store(true, Ordering::SeqCst);
        self.clients.into_iter().map(|client| client.join().expect("no request is lost")).sum()
    }
}

fn connect(port: u16) -> BufReader<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", port)).expect("a listener");
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    BufReader::new(stream)
}

/// Sends one request. Returns whether the response ends the connection.
fn ask(stream: &mut BufReader<TcpStream>) -> bool {
    stream.get_mut().write_all(GET.as_bytes()).expect("sent");
    let (mut line, mut is_first, mut is_last) = (String::new(), true, false);
    loop {
        line.clear();
        stream.read_line(&mut line).expect("a response");
        assert!(!is_first || line == "HTTP/1.1 204 No Content\r\n", "{line:?}");
        is_first = false;
        is_last |= line == "Connection: close\r\n";
        if line == "\r\n" {
            return is_last;
        }
    }
}

/// During several upgrades, every request on kept and new connections gets its response. Each
/// process ends when its clients have left, and its successor serves.
#[test]
fn upgrades_lose_no_request() {
    let mut proxy = Upgraded::start("traffic", &config(""));
    let traffic = Traffic::start(proxy.program.port());
    for _ in 0..UPGRADES {
        traffic.go_on();
        proxy.ask();
        proxy.take_follower();
        proxy.program.line_with("stopped");
    }
    traffic.go_on();
    assert!(traffic.finish() >= 1000);
    let mut numbers = proxy.followers.clone();
    numbers.sort();
    numbers.dedup();
    assert_eq!(numbers.len(), UPGRADES, "each is a process of its own");
    assert_eq!(proxy.program.exit_code(), Some(0));
    let last = proxy.followers.last().expect("one").clone();
    kill("-TERM", &last);
    proxy.program.line_with("stopped");
    assert!(TcpStream::connect(("127.0.0.1", proxy.program.port())).is_err(), "the port is closed");
}

/// A client that connected before the upgrade is served by the old process, and the response ends
/// its connection. Clients that connect later are served by the new process.
#[test]
fn kept_connections_are_served_by_the_old_process() {
    let mut proxy = Upgraded::start("kept", &config(""));
    let port = proxy.program.port();
    let mut kept = connect(port);
    assert!(!ask(&mut kept));
    proxy.ask();
    let follower = proxy.take_follower();
    let mut new = connect(port);
    assert!(!ask(&mut new));
    assert!(ask(&mut kept), "it says that the connection ends");
    let mut rest = Vec::new();
    assert_eq!(kept.read_to_end(&mut rest).expect("an end"), 0);
    proxy.program.line_with("stopped");
    assert_eq!(proxy.program.exit_code(), Some(0));
    assert!(!ask(&mut new), "process {follower} serves it on");
}

/// If an old process still waits for its clients, SIGTERM counts as its first signal: it stops
/// gracefully.
#[test]
fn an_old_process_can_be_stopped() {
    let mut proxy = Upgraded::start("stopped", &config(""));
    let mut kept = connect(proxy.program.port());
    assert!(!ask(&mut kept));
    proxy.ask();
    proxy.take_follower();
    proxy.program.signal("-TERM");
    proxy.program.line_with("stopping: 1 clients are connected");
    assert_eq!(proxy.program.exit_code(), Some(0));
    assert!(!ask(&mut connect(proxy.program.port())), "the new one serves on");
}

/// A new process that ends, or that is not ready in time, is abandoned, and the log says why. The
/// old process continues, and a later upgrade succeeds.
#[test]
fn a_new_process_that_fails_changes_nothing() {
    let good = config("");
    let mut proxy = Upgraded::start("fails", &good);
    let mut kept = connect(proxy.program.port());
    fs::write(&proxy.file, "{\"listen\": 1}").expect("a file");
    proxy.ask();
    let line = proxy.program.line_with("upgrade failed, still serving: process ");
    assert!(line.ends_with("ended: exit status: 2"), "{line}");
    assert!(!ask(&mut kept));
    // The time limit of an upgrade comes from the running process's configuration.
    let impatient = good.replacen('{', "{\"timeouts\": {\"upgradeMs\": 300}, ", 1);
    fs::write(&proxy.file, impatient).expect("a file");
    proxy.program.signal("-HUP");
    proxy.program.line_with("configuration: other timeouts");
    // A read from a pipe blocks until there is a writer.
    fs::remove_file(&proxy.file).expect("a file");
    make_pipe(&proxy.file);
    proxy.ask();
    proxy.program.line_with("not ready within 300 ms (timeouts.upgradeMs)");
    assert!(!ask(&mut kept));
    fs::remove_file(&proxy.file).expect("a pipe");
    fs::write(&proxy.file, good).expect("a file");
    proxy.program.signal("-HUP");
    proxy.program.line_with("configuration: other timeouts");
    proxy.ask();
    proxy.take_follower();
    assert!(ask(&mut kept));
    assert!(!ask(&mut connect(proxy.program.port())));
}

/// The learned state reaches the new process without a state file.
#[test]
fn the_learned_state_goes_over() {
    let text = config(", \"routing\": {\"policy\": \"learned\"}");
    let mut proxy = Upgraded::start("learned", &text);
    let latency = |proxy: &Upgraded| {
        let stats = proxy.program.stats();
        let rest = stats.split("\"latencyMs\":").nth(1);
        rest.and_then(|rest| rest.split(',').next()).expect("a field of the policy").to_owned()
    };
    let unlearned = latency(&proxy);
    let end = std::time::Instant::now() + DEADLINE;
    while latency(&proxy) == unlearned {
        assert!(std::time::Instant::now() < end, "requests teach the policy something");
        assert!(!ask(&mut connect(proxy.program.port())));
    }
    proxy.ask();
    proxy.take_follower();
    assert_ne!(latency(&proxy), unlearned, "a process without this state begins with {unlearned}");
}

/// The control socket is not passed on: the new process opens its own under the same name, and the
/// old one is closed with the old process.
#[test]
fn the_control_socket_is_not_inherited() {
    let name = format!("intelliproxy-upgrade-control-{}", std::process::id());
    let socket = std::env::temp_dir().join(name);
    let text = config(&format!(", \"admin\": {{\"socket\": \"{}\"}}", socket.display()));
    let mut proxy = Upgraded::start("control", &text);
    proxy.program.line_with("commands on ");
    let old = socket.with_extension("old");
    fs::rename(&socket, &old).expect("a socket");
    UnixStream::connect(&old).expect("the first process listens");
    proxy.ask();
    proxy.take_follower();
    assert_eq!(proxy.program.exit_code(), Some(0));
    let error = UnixStream::connect(&old).expect_err("no listener is left");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    fs::remove_file(old).expect("it is left");
    drop(fs::remove_file(socket));
}

/// A signal to stop during an upgrade ends the new process, which also has the listeners, before
/// the old one. A second signal ends the old process at once, and the new one still ends too.
#[test]
fn a_stop_ends_an_unfinished_upgrade() {
    for signals in [1, 2] {
        let mut proxy = Upgraded::start(&format!("unfinished-{signals}"), &config(""));
        fs::remove_file(&proxy.file).expect("a file");
        make_pipe(&proxy.file);
        proxy.ask();
        // Returns when the new process reads its configuration, which never ends.
        let _pipe = fs::File::options().write(true).open(&proxy.file).expect("a reader");
        let _client = connect(proxy.program.port());
        (0..signals).for_each(|_| proxy.program.signal("-TERM"));
        if signals == 1 {
            proxy.program.line_with("upgrade given up: process ");
            proxy.program.line_with("stopping: 1 clients are connected");
        }
        assert_eq!(proxy.program.exit_code(), Some(0));
        let port = proxy.program.port();
        assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "the port is closed");
    }
}

/// The event stream of a live page ends with its last chunk at an upgrade, so that the old process
/// can leave and the page connects to the new one.
#[test]
fn an_upgrade_ends_event_streams() {
    let mut upgraded = Upgraded::start("streams", &config(""));
    upgraded.program.line_with("A is up");
    let mut page = upgraded.program.connect();
    let request = b"GET /stats HTTP/1.1\r\nHost: h\r\nAccept: text/event-stream\r\n\r\n";
    page.write_all(request).expect("sent");
    let mut first = [0; 15];
    page.read_exact(&mut first).expect("the stream has begun");
    assert_eq!(&first, b"HTTP/1.1 200 OK");
    upgraded.ask();
    upgraded.take_follower();
    let mut rest = Vec::new();
    page.read_to_end(&mut rest).expect("a clean end");
    assert!(rest.ends_with(b"\n\n\r\n0\r\n\r\n"), "the last chunk");
    drop(page);
    assert_eq!(upgraded.program.exit_code(), Some(0));
    let mut again = upgraded.program.connect();
    again.write_all(request).expect("sent");
    again.read_exact(&mut first).expect("the new process has a stream");
    assert_eq!(&first, b"HTTP/1.1 200 OK");
}
