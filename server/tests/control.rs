//! Commands on the control socket of a running program, and `intelliproxy ctl`.
mod process;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use process::{DEADLINE, Program, output, program};
use serde_json::Value;

/// A proxy with a control socket in its own folder, and its backends A and B.
struct Proxy {
    program: Program,
    folder: PathBuf,
    backends: [Backend; 2],
}

/// A backend that responds with its name, and counts pings and open connections.
struct Backend {
    address: String,
    pings: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
}

impl Backend {
    fn start(name: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let pings = Arc::<AtomicUsize>::default();
        let open = Arc::<AtomicUsize>::default();
        let counted = [&pings, &open].map(Arc::clone);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let [pings, open] = counted.clone();
                open.fetch_add(1, Ordering::SeqCst);
                thread::spawn(move || {
                    serve(&stream, name, &pings);
                    open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self { address, pings, open }
    }

    /// Sends a request to the backend itself.
    fn ask(&self) {
        let mut stream = TcpStream::connect(&self.address).expect("a listener");
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        stream.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").expect("sent");
        stream.read_exact(&mut [0; 17]).expect("a response");
    }
}

/// Waits until a condition holds. Fails with `wrong` at the deadline.
#[track_caller]
fn wait_until(is_so: impl Fn() -> bool, wrong: &str) {
    let end = Instant::now() + DEADLINE;
    while !is_so() {
        assert!(Instant::now() < end, "{wrong}");
        thread::yield_now();
    }
}

fn serve(stream: &TcpStream, name: &str, pings: &AtomicUsize) {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    while let Some(first) = lines.next() {
        while lines.next().is_some_and(|line| !line.is_empty()) {}
        if first.starts_with("GET /health ") {
            pings.fetch_add(1, Ordering::SeqCst);
        }
        let response = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len());
        if (&*stream).write_all(response.as_bytes()).is_err() {
            return;
        }
    }
}

impl Proxy {
    fn start(name: &str, keys: &str) -> Self {
        let name = format!("intelliproxy-control-{name}-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("a folder");
        let backends = [Backend::start("A"), Backend::start("B")];
        let file = folder.join("proxy.json");
        fs::write(&file, Self::text(&folder, &backends, keys)).expect("a file");
        let mut command = program();
        command.args(["--listen", "127.0.0.1:0", "--config"]).arg(&file);
        let mut program = Program::started_by(command);
        program.line_with("commands on ");
        Self { program, folder, backends }
    }

    fn text(folder: &Path, backends: &[Backend; 2], keys: &str) -> String {
        let [a, b] = backends.each_ref().map(|backend| &backend.address);
        let socket = folder.join("s").display().to_string();
        format!(
            "{{\"backends\": [{{\"name\": \"A\", \"url\": \"http://{a}\"}}, \
             {{\"name\": \"B\", \"url\": \"http://{b}\"}}], \
             \"admin\": {{\"socket\": \"{socket}\"}}{keys}}}"
        )
    }

    fn write(&self, keys: &str) {
        let text = Self::text(&self.folder, &self.backends, keys);
        fs::write(self.folder.join("proxy.json"), text).expect("a file");
    }

    fn socket(&self) -> String {
        self.folder.join("s").display().to_string()
    }

    /// Runs `intelliproxy ctl`. Returns its exit code, stdout and stderr.
    fn ctl(&self, command: &str) -> (Option<i32>, String, String) {
        let socket = self.socket();
        let mut arguments = vec!["ctl", "--socket", &socket];
        arguments.extend(command.split(' '));
        let mut command = program();
        command.args(&arguments).stdout(std::process::Stdio::piped());
        let output = command.stderr(std::process::Stdio::piped()).output().expect("it runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    }

    /// Carries out a command that must succeed without output.
    #[track_caller]
    fn done(&self, command: &str) {
        assert_eq!(self.ctl(command), (Some(0), String::new(), String::new()), "{command}");
    }

    /// Sends lines to the socket as a script would. Returns the lines of the response.
    fn send(&self, text: &str) -> Vec<String> {
        let mut stream = UnixStream::connect(self.socket()).expect("a listener");
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        stream.write_all(text.as_bytes()).expect("sent");
        stream.shutdown(std::net::Shutdown::Write).expect("an end");
        let mut response = String::new();
        stream.read_to_string(&mut response).expect("responses and an end");
        response.lines().map(str::to_owned).collect()
    }

    /// Sends `count` requests, each on a new connection. Returns the names of the backends that
    /// responded.
    fn ask(&self, count: usize) -> Vec<String> {
        let request = "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
        let served = (0..count).map(|_| {
            let response = self.program.ask(request);
            assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
            response.rsplit("\r\n").next().unwrap_or_default().to_owned()
        });
        served.collect()
    }

    fn stats(&self) -> Value {
        let (code, text, _) = self.ctl("stats");
        assert_eq!(code, Some(0));
        serde_json::from_str(&text).expect("JSON")
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A drained backend gets no requests until `ready`. /stats shows modes and weights. An unknown
/// backend is an error with exit code 1, an invalid command an error with exit code 2.
#[test]
fn backends_are_taken_out_and_back() {
    let mut proxy = Proxy::start("drain", ", \"routing\": {\"policy\": \"round_robin\"}");
    wait_until(|| proxy.stats()[0]["health"] == "up", "A is not pinged");
    let names = |served: Vec<String>, name: &str| served.iter().filter(|one| *one == name).count();
    assert_eq!(names(proxy.ask(10), "A"), 5);
    proxy.done("drain A");
    proxy.program.line_with("control: drain A");
    assert_eq!(names(proxy.ask(10), "B"), 10);
    let stats = proxy.stats();
    assert_eq!((&stats[0]["mode"], &stats[1]["mode"]), (&"drain".into(), &"ready".into()));
    assert_eq!(stats[0]["health"], "up", "it is still pinged");
    proxy.done("ready A");
    assert_eq!(names(proxy.ask(10), "A"), 5);
    proxy.done("maintain A");
    proxy.done("drain B");
    let not_ready = "intelliproxy: not ready: no backend is usable".to_owned();
    assert_eq!(proxy.ctl("ready"), (Some(1), String::new(), not_ready));
    let refused = proxy.program.ask("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
    proxy.done("ready B");
    assert_eq!(proxy.ctl("ready"), (Some(0), "ready".to_owned(), String::new()));
    proxy.done("weight B 250");
    assert_eq!(proxy.stats()[1]["weight"], 250);
    let (code, text, error) = proxy.ctl("drain C");
    assert_eq!((code, &*text), (Some(1), ""));
    assert_eq!(error, "intelliproxy: no backend is named C");
    proxy.program.line_with("control: drain C: no backend is named C");
    let (code, _, error) = proxy.ctl("drain");
    assert_eq!(
        (code, &*error),
        (Some(2), "intelliproxy: ctl: drain: needs the name of a backend; see ctl --help")
    );
}

/// A maintained backend is not pinged, and its idle connections are closed. After `ready` it is
/// pinged again.
#[test]
fn a_maintained_backend_is_left_alone() {
    let keys = ", \"routing\": {\"policy\": \"round_robin\", \"probes\": {\"pingIntervalMs\": 20}}, \
                \"pool\": {\"idleMs\": \"1h\"}";
    let proxy = Proxy::start("maintain", keys);
    proxy.ask(10);
    let pings = |index: usize| proxy.backends[index].pings.load(Ordering::SeqCst);
    let open = |index: usize| proxy.backends[index].open.load(Ordering::SeqCst);
    let wait_for = |index: usize, more: usize| {
        let first = pings(index);
        wait_until(|| pings(index) >= first + more, "no pings");
    };
    assert!(open(0) > 0, "an idle connection is kept");
    proxy.done("maintain A");
    // Connections that the proxy made before this one are accepted before it.
    proxy.backends[0].ask();
    wait_until(|| open(0) == 0, "idle connections stay open");
    let before = pings(0);
    wait_for(1, 5);
    assert_eq!(pings(0), before);
    assert_eq!(proxy.stats()[0]["mode"], "maintain");
    assert!(open(1) > 0, "those of others stay");
    proxy.done("ready A");
    wait_for(0, 3);
}

/// Changes by command survive a reload of the same file. A file with another policy replaces the
/// policy that a command set, but keeps weight and mode.
#[test]
fn commands_end_with_a_file_that_says_otherwise() {
    let mut proxy = Proxy::start("otherwise", "");
    proxy.done("policy least_request");
    proxy.done("weight A 300");
    proxy.done("drain B");
    let policy = |proxy: &Proxy| {
        let keys = proxy.stats()[0]["policy"].as_object().expect("an object").clone();
        keys.keys().next().cloned().unwrap_or_default()
    };
    assert_eq!(policy(&proxy), "inFlight");
    proxy.done("reload");
    let line = proxy.program.line_with("configuration: ");
    assert!(line.ends_with("configuration: nothing changed"), "{line}");
    let stats = proxy.stats();
    assert_eq!((&stats[0]["weight"], &stats[1]["mode"]), (&300.into(), &"drain".into()));
    assert_eq!(policy(&proxy), "inFlight");
    proxy.write(", \"routing\": {\"policy\": \"learned\"}");
    proxy.done("reload");
    assert_ne!(policy(&proxy), "inFlight");
    let stats = proxy.stats();
    assert_eq!((&stats[0]["weight"], &stats[1]["mode"]), (&300.into(), &"drain".into()));
}

/// A recording with commands in it replays with the same decisions.
#[test]
fn commands_are_recorded() {
    let mut proxy = Proxy::start("recorded", "");
    let journal = proxy.folder.join("journal").display().to_string();
    let file = proxy.folder.join("proxy.json").display().to_string();
    // The program is started again: a recording that begins later cannot be compared.
    proxy.program.signal("-TERM");
    assert_eq!(proxy.program.exit_code(), Some(0));
    let mut command = program();
    command.args(["--listen", "127.0.0.1:0", "--config", &file, "--record", &journal]);
    proxy.program = Program::started_by(command);
    proxy.program.line_with("commands on ");
    for command in [
        "policy least_request",
        "drain A",
        "weight B 300",
        "ready A",
        "maintain B",
        "policy learned",
        "ready B",
    ] {
        proxy.ask(5);
        proxy.done(command);
    }
    proxy.ask(20);
    proxy.program.signal("-TERM");
    assert_eq!(proxy.program.exit_code(), Some(0));
    let replayed = output(&["replay", &journal]);
    let text = String::from_utf8_lossy(&replayed.stdout).into_owned();
    assert_eq!(replayed.status.code(), Some(0), "{text}");
}

/// A reload by command gets its response when the reload has ended: `ok`, or the error of an
/// invalid file.
#[test]
fn a_reload_is_answered_with_its_result() {
    let proxy = Proxy::start("reload", "");
    proxy.done("reload");
    proxy.write(", \"limits\": {\"clients\": 0}");
    let (code, _, error) = proxy.ctl("reload");
    assert_eq!(code, Some(1));
    assert!(error.contains("limits.clients: must be a whole number from 1"), "{error}");
    proxy.write("");
    assert_eq!(proxy.send("reload\nreload\n"), ["ok", "ok"]);
}

/// Only the owner may use the socket, and the program removes it when it ends. A stale socket is
/// replaced. If another process uses it, startup fails. A reload moves it.
#[test]
fn the_socket_comes_and_goes() {
    let mut proxy = Proxy::start("socket", "");
    let socket = proxy.socket();
    let mode = fs::symlink_metadata(&socket).expect("a socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let file = proxy.folder.join("proxy.json").display().to_string();
    let mut second = program();
    second.args(["--listen", "127.0.0.1:0", "--config", &file]);
    let second = second.stderr(std::process::Stdio::piped()).output().expect("it runs");
    let error = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(error.contains("another process listens there"), "{error}");
    assert_eq!(second.status.code(), Some(1));
    let moved = proxy.folder.join("moved").display().to_string();
    let text = fs::read_to_string(&file).expect("a file").replace(&socket, &moved);
    fs::write(&file, &text).expect("a file");
    proxy.done("reload");
    // The response may arrive before the old socket is removed.
    wait_until(|| !Path::new(&socket).exists(), "the old socket is not removed");
    let output = output(&["ctl", "--socket", &moved, "stats"]);
    assert_eq!(output.status.code(), Some(0));
    proxy.program.signal("-KILL");
    let _ = proxy.program.exit_code();
    assert!(Path::new(&moved).exists(), "its process could not remove it");
    let mut third = program();
    third.args(["--listen", "127.0.0.1:0", "--config", &file]);
    let mut third = Program::started_by(third);
    third.line_with("commands on ");
    third.signal("-TERM");
    assert_eq!(third.exit_code(), Some(0));
    assert!(!Path::new(&moved).exists());
}

/// Clients that hang, send garbage or never read disturb neither requests nor other commands. At
/// the maximum number of connections, new clients replace them.
#[test]
fn bad_clients_disturb_nothing() {
    let proxy = Proxy::start("bad", "");
    let mut hanging = Vec::new();
    for number in 0..20 {
        let mut stream = UnixStream::connect(proxy.socket()).expect("a listener");
        let garbage = [&b"dra"[..], &[0xff; 3000], b"\n\n\n", &[b'x'; 900]][number % 4];
        // A connection whose line is too long may be closed by now.
        let _ = stream.write_all(garbage);
        hanging.push(stream);
        assert_eq!(proxy.ask(1).len(), 1);
    }
    let responses = proxy.send("nonsense\n\ndrain A B\nready A\n");
    assert_eq!(responses.len(), 4, "{responses:?}");
    assert!(responses[..3].iter().all(|line| line.starts_with("error ")), "{responses:?}");
    assert_eq!(responses[3], "ok");
    proxy.done("ready A");
}

/// Only the proxy catches SIGHUP: `ctl` ends with its terminal, even while it waits.
#[test]
fn ctl_ends_with_its_terminal() {
    let name = format!("intelliproxy-control-silent-{}", std::process::id());
    let socket = std::env::temp_dir().join(name);
    let _ = fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).expect("a free name");
    // The tests may run under `nohup`, whose children ignore SIGHUP.
    let mut command = Command::new("env");
    command.args(["--default-signal=HUP", env!("CARGO_BIN_EXE_intelliproxy")]);
    command.args(["ctl", "--socket"]).arg(&socket).arg("reload");
    let mut child = command.spawn().expect("a process");
    let (mut stream, _) = listener.accept().expect("a client");
    stream.read_exact(&mut [0; 7]).expect("its command");
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-HUP", &pid]).status().expect("kill").success());
    let mut rest = Vec::new();
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    stream.read_to_end(&mut rest).expect("it has ended");
    assert_eq!(child.wait().expect("a status").signal(), Some(1));
    fs::remove_file(socket).expect("the socket");
}
