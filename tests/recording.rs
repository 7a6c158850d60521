//! Time travel over real sockets: the program records live traffic and is stopped by a signal, and
//! `intelliproxy replay` repeats every decision.
//!
//! The program runs as its own process: this test binary again, as [`program`].
use std::error::Error;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use intelliproxy_core::journal::Reader;
use intelliproxy_lab::Scenario;
use intelliproxy_sim::{Backend, Config, Parameters};

/// The program's arguments, one per line. They are set in a process that runs the program.
const ARGUMENTS: &str = "INTELLIPROXY_TEST_ARGUMENTS";
/// The time limit of every wait here.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs the program if another test starts it. Not a test itself.
#[test]
fn program() -> ExitCode {
    let Ok(arguments) = std::env::var(ARGUMENTS) else {
        return ExitCode::SUCCESS;
    };
    let arguments = ["intelliproxy"].into_iter().chain(arguments.lines());
    intelliproxy::cli::main(arguments.map(Into::into))
}

/// Returns a process that runs the program.
fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("a test has a file"));
    command.args(["--exact", "program", "--nocapture"]).env(ARGUMENTS, arguments.join("\n"));
    command
}

/// The end of a run of `intelliproxy replay`.
struct Replay {
    is_good: bool,
    /// Its output.
    text: String,
}

/// Runs `intelliproxy replay`.
fn replay(arguments: &[&str]) -> Replay {
    let arguments = [&["replay"], arguments].concat();
    let output = command(&arguments).output().expect("a process");
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    Replay { is_good: output.status.success(), text }
}

/// A temporary folder, removed with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let name = format!("intelliproxy-recording-{name}-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).expect("a folder");
        Self(folder)
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).to_string_lossy().into_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A folder that is left among temporary files does no harm.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A running proxy.
struct Proxy {
    child: Child,
    port: u16,
}

impl Proxy {
    fn start(arguments: &[&str]) -> Self {
        let arguments = [&["--listen", "127.0.0.1:0"], arguments].concat();
        let mut child = command(&arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a process");
        let lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        let (sender, port) = mpsc::channel();
        // Reads to the end, so that a full pipe never blocks the log.
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if let Some((_, port)) = line.split_once("listening on http://127.0.0.1:") {
                    let _ = sender.send(port.trim().parse::<u16>());
                }
            }
        });
        let port = port.recv_timeout(PATIENCE).expect("it listens").expect("a port");
        Self { child, port }
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let killed = Command::new("kill").args([name, &id]).status().expect("a process");
        assert!(killed.success());
    }

    /// Asks the process to stop, and waits until it has.
    fn stop(mut self) {
        self.signal("-TERM");
        assert!(self.child.wait().expect("a child").success());
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // No effect if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a request on a connection. Returns the response with its body.
fn ask(stream: &mut TcpStream, path: &str) -> Result<String, Box<dyn Error>> {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\n\r\n")?;
    let mut bytes = Vec::new();
    loop {
        let mut piece = [0; 4096];
        let count = stream.read(&mut piece)?;
        if count == 0 {
            return Err("cut".into());
        }
        bytes.extend_from_slice(&piece[..count]);
        let text = String::from_utf8_lossy(&bytes);
        let Some((head, _)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head.lines().find_map(|line| {
            line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse::<usize>().ok()
        });
        if bytes.len() >= head.len() + 4 + length.ok_or("no length")? {
            return Ok(text.into_owned());
        }
    }
}

/// Sends `count` requests on each of `connections` connections. Any response is accepted.
fn load(port: u16, connections: usize, count: usize) {
    let clients: Vec<_> = (0..connections)
        .map(|_| {
            thread::spawn(move || {
                let connect = || {
                    let stream = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
                    stream.set_read_timeout(Some(PATIENCE)).expect("an option");
                    stream
                };
                let mut stream = connect();
                for _ in 0..count {
                    if ask(&mut stream, "/").is_err() {
                        stream = connect();
                    }
                }
            })
        })
        .collect();
    for client in clients {
        client.join().expect("no panic in a client");
    }
}

/// Records traffic to two backends. One of them is slow and faulty, and is killed before the end.
fn record(policy: &str, file: &str, further: &[&str]) {
    let good = Backend::start(Config::faultless()).expect("a backend");
    let faulty =
        Parameters { error_rate: 0.05, slow_rate: 0.3, slow_ms: 15, ..Parameters::faultless() };
    let faulty = Backend::start(Config { parameters: faulty, ..Config::faultless() });
    let faulty = faulty.expect("a backend");
    let backends =
        [&good, &faulty].map(|backend| format!("x{0}=http://127.0.0.1:{0}", backend.port()));
    let arguments = [
        &["--backend", &backends[0], "--backend", &backends[1], "--policy", policy],
        &["--ping-interval-ms", "50", "--record", file][..],
        further,
    ]
    .concat();
    let proxy = Proxy::start(&arguments);
    load(proxy.port, 6, 60);
    faulty.kill();
    load(proxy.port, 3, 30);
    let mut stream = TcpStream::connect(("127.0.0.1", proxy.port)).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("an option");
    let deadline = Instant::now() + PATIENCE;
    let head = loop {
        let response = ask(&mut stream, "/stats").expect("a response");
        let (head, body) = response.split_once("\r\n\r\n").expect("a head");
        if body.contains("\"health\":\"down\"") {
            break head.to_owned();
        }
        assert!(Instant::now() < deadline, "the killed backend is not down: {body}");
    };
    let field = head.lines().find(|line| line.starts_with("X-IntelliProxy-Recording: records="));
    assert!(field.is_some_and(|field| field.ends_with(", lost=0")), "{head}");
    drop(stream);
    proxy.stop();
    good.kill();
}

/// Writes a report of a check and one of other decisions. Both contain the text's numbers, and the
/// first marks the end of the faulty backend.
fn reports(folder: &Folder, file: &str) {
    let html = folder.file("report.html");
    for question in [&["--html", &html][..], &["--html", &html, "--policy", "random"]] {
        let Replay { is_good: is_written, text } = replay(&[&[file], question].concat());
        assert!(is_written, "{text}");
        let page = fs::read_to_string(&html).expect("a report");
        let traffic = text.lines().filter_map(|line| line.strip_prefix("traffic    "));
        let rows = traffic.map(|figures| {
            let row = format!("<tr><th scope=\"row\">traffic</th><td>{figures}</td></tr>");
            assert!(page.contains(&row), "{row}");
        });
        assert_eq!(rows.count(), 2, "{text}");
        let is_check = question.len() == 2;
        assert_eq!(page.contains(" down\",\"tone\":\"--bad\""), is_check, "{text}");
    }
    let Replay { is_good: is_written, text } =
        replay(&[file, "--html", &folder.file("none/report.html")]);
    assert!(!is_written && text.contains("no such file or directory"), "{text}");
}

/// Live traffic replays bit for bit under a policy with a memory and a policy with randomness, and
/// `replay` also answers `--request`, `--at`, `--policy` and `--fit`.
#[test]
fn live_traffic_replays() {
    for policy in ["score", "p2c"] {
        let folder = Folder::new(policy);
        let file = folder.file("journal");
        record(policy, &file, &[]);
        let Replay { is_good: is_same, text } = replay(&[&file]);
        assert!(is_same, "{text}");
        assert!(text.contains(" 0 differ, 0 could not be checked"), "{text}");
        let decisions = text.split_once("decisions  ").and_then(|(_, rest)| rest.split_once(' '));
        let decisions: u32 = decisions.expect("a count").0.parse().expect("a number");
        assert!(decisions >= 450, "{text}");

        reports(&folder, &file);
        let Replay { is_good: is_found, text } = replay(&[&file, "--request", "100"]);
        assert!(is_found && text.contains("the replay decides the same"), "{text}");
        for word in ["points", "known", "rule ", "changes"] {
            assert!(text.contains(word), "{word} in {text}");
        }
        assert!(replay(&[&file, "--at", "100ms"]).is_good);
        assert!(!replay(&[&file, "--at", "2h"]).is_good);

        let text = replay(&[&file, "--policy", policy]).text;
        assert!(text.contains("agreement  "), "{text}");
        let Replay { is_good: is_answered, text } = replay(&[&file, "--policy", "random"]);
        assert!(is_answered && text.contains("not known"), "{text}");

        let scenario = folder.file("scenario.json");
        let Replay { is_good: is_fitted, text } = replay(&[&file, "--fit", &scenario]);
        assert!(is_fitted && text.contains("speed"), "{text}");
        let scenario = fs::read_to_string(scenario).expect("a scenario");
        let scenario = Scenario::from_json(&scenario).expect("the lab reads it");
        assert_eq!(scenario.backends.len(), 2);
    }
}

/// Changes of the configuration during a recording are part of it: a backend that leaves, moves or
/// returns, another policy, an invalid file. Every decision is repeated.
#[test]
fn traffic_over_new_configurations_replays() {
    let folder = Folder::new("reload");
    let (journal, file) = (folder.file("journal"), folder.file("proxy.json"));
    let backends = [(); 3].map(|()| Backend::start(Config::faultless()).expect("a backend"));
    let url = |place: usize| format!("http://127.0.0.1:{}", backends[place].port());
    let write = |policy: &str, places: &[(&str, usize)]| {
        let backend = |&(name, place): &(&str, usize)| {
            format!("{{\"name\": \"{name}\", \"url\": \"{}\"}}", url(place))
        };
        let backends: Vec<_> = places.iter().map(backend).collect();
        let routing =
            format!("{{\"policy\": \"{policy}\", \"probes\": {{\"pingIntervalMs\": 50}}}}");
        let text = format!("{{\"backends\": [{}], \"routing\": {routing}}}", backends.join(", "));
        fs::write(&file, text).expect("a file");
    };
    write("score", &[("A", 0), ("B", 1)]);
    let proxy = Proxy::start(&["--config", &file, "--record", &journal]);
    load(proxy.port, 4, 30);
    let configurations: [(&str, &[(&str, usize)]); 4] = [
        ("p2c", &[("A", 0), ("B", 2), ("C", 1)]),
        ("learned", &[("C", 1)]),
        ("no_such_policy", &[]),
        ("least_request", &[("B", 0), ("A", 2), ("C", 1)]),
    ];
    for (number, (policy, places)) in (1..).zip(configurations) {
        write(policy, places);
        proxy.signal("-HUP");
        let mut stream = TcpStream::connect(("127.0.0.1", proxy.port)).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("an option");
        let deadline = Instant::now() + PATIENCE;
        while taken(&ask(&mut stream, "/stats").expect("a response")) < number {
            assert!(Instant::now() < deadline, "the signal was not handled");
        }
        drop(stream);
        load(proxy.port, 4, 30);
    }
    proxy.stop();
    backends.into_iter().for_each(Backend::kill);
    let Replay { is_good: is_same, text } = replay(&[&journal]);
    assert!(is_same && text.contains(" 0 differ, 0 could not be checked"), "{text}");
    assert!(replay(&[&journal, "--request", "500"]).is_good);
    assert!(replay(&[&journal, "--policy", "round_robin"]).is_good);
}

/// Returns the number of signals that were handled, successfully or not, from the head of /stats.
fn taken(head: &str) -> u32 {
    let field = head.lines().find_map(|line| line.strip_prefix("X-IntelliProxy-Reloads: done="));
    let counts = field.and_then(|field| field.split_once(", refused="));
    let number = |text: &str| text.split(',').next().and_then(|text| text.parse::<u32>().ok());
    counts.and_then(|(done, refused)| Some(number(done)? + number(refused)?)).unwrap_or(0)
}

/// A recording that was cut off, or has a flipped bit, is replayed up to that place, and the place
/// is reported.
#[test]
fn damage_is_reported() {
    let folder = Folder::new("damage");
    let file = folder.file("journal");
    record("least_request", &file, &[]);
    let bytes = fs::read(&file).expect("a file");
    fs::write(&file, &bytes[..bytes.len() - 5]).expect("a file");
    let Replay { is_good: is_same, text } = replay(&[&file]);
    assert!(!is_same);
    assert!(text.contains("cut off") && text.contains(": offset "), "{text}");
    assert!(text.contains(" 0 differ, 0 could not be checked"), "{text}");
    // A bit of a record. In the length of a block, it could look like a cut.
    let (_, records) = Reader::new(&bytes).expect("a header");
    let places: Vec<u64> = records.map(|entry| entry.expect("a record").offset).collect();
    let mut flipped = bytes;
    flipped[places[places.len() / 2] as usize] ^= 4;
    fs::write(&file, &flipped).expect("a file");
    let Replay { is_good: is_same, text } = replay(&[&file]);
    assert!(!is_same && text.contains("corrupt: the checksum"), "{text}");
    fs::write(&file, "no journal").expect("a file");
    let Replay { is_good: is_same, text } = replay(&[&file]);
    assert!(!is_same && text.contains("offset 0: not a recording of IntelliProxy"), "{text}");
}

/// The complete files of a ring are one recording. Without the first file nothing can be checked,
/// and the output says so.
#[test]
fn rings_replay_from_their_start() {
    let folder = Folder::new("ring");
    let file = folder.file("journal");
    record("score", &file, &["--record-bytes-max", "2000", "--record-files", "1000"]);
    let files: Vec<String> = (0..1000)
        .map(|number| format!("{file}.{number}"))
        .take_while(|name| Path::new(name).exists())
        .collect();
    assert!(files.len() > 1, "{files:?}");
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    let Replay { is_good: is_same, text } = replay(&files);
    assert!(is_same && text.contains(" 0 differ, 0 could not be checked"), "{text}");
    let Replay { is_good: is_same, text } = replay(&files[1..]);
    assert!(!is_same && text.contains("what the router knew before is gone"), "{text}");
    assert!(replay(&[files[1], "--policy", "p2c"]).is_good);
}
