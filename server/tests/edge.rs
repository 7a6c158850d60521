//! The process when its log, its files or its configuration fail or hang.
mod process;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Instant;

use process::{DEADLINE, Folder, Program, output};

/// Makes a named pipe in a folder. Returns its path.
fn pipe(folder: &Folder, name: &str) -> String {
    folder.pipe(name);
    folder.path(name)
}

/// Calls `look` until it returns a value. Fails at the deadline.
#[track_caller]
fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begin.elapsed() < DEADLINE, "{what} did not happen in time");
        std::thread::yield_now();
    }
}

/// A request that is refused and logged.
const BAD: &str = "GET / HTTP/1.1\r\n\r\n";

/// Without a reader of the log, writes to it fail and /stats counts them. Once the log is read
/// again, the program writes the lines of that time and one about the failed writes.
#[test]
fn a_log_without_a_reader_goes_on_later() {
    let folder = Folder::new("edge-log");
    let path = pipe(&folder, "log");
    // A pipe opened for reading and writing does not block.
    let open = || File::options().read(true).write(true).open(&path).expect("a pipe");
    let reader = open();
    let writer = File::options().write(true).open(&path).expect("a pipe with a reader");
    let flags = ["--backend", "A=http://127.0.0.1:1"];
    let mut program = Program::start_logging_into(writer, reader, &flags);
    program.line_with("A is down: refused");
    program.read_log(File::open("/dev/null").expect("a file"));
    program.ask(BAD);
    let field = wait_for("failed writes in /stats", || {
        let stats = program.stats();
        let field = stats.lines().find_map(|line| line.strip_prefix("X-IntelliProxy-Log: "));
        field.map(str::to_owned)
    });
    assert!(field.starts_with("dropped=0, failedWrites="), "{field}");
    program.read_log(open());
    program.line_with(": 400: no Host");
    program.line_with("log: written again after ");
    program.ask(BAD);
    program.line_with(": 400: no Host");
    program.signal("-TERM");
    assert_eq!(program.exit_code(), Some(0));
}

/// If reading the configuration hangs, it is abandoned with a log line, and a later SIGHUP is
/// handled.
#[test]
fn a_hanging_configuration_is_given_up() {
    let folder = Folder::new("edge-hang");
    let path = folder.path("proxy.json");
    let backend = r#""backends": [{"name": "A", "url": "http://127.0.0.1:1"}]"#;
    let text = format!("{{{backend}, \"timeouts\": {{\"reloadMs\": 5000}}}}");
    fs::write(&path, &text).expect("a file");
    let mut program = Program::start(&["--config", &path]);
    fs::remove_file(&path).expect("it was there");
    pipe(&folder, "proxy.json");
    program.signal("-HUP");
    program.line_with(
        "configuration not applied, keeping the current one: reading the file and resolving its \
         names took longer than timeouts.reloadMs, 5000 ms",
    );
    let field = "X-IntelliProxy-Reloads: done=0, refused=1, lastError=\"reading the file";
    assert!(program.stats().contains(field), "{}", program.stats());
    fs::remove_file(&path).expect("it was there");
    // The time limit of this reload is still the short one.
    fs::write(&path, text.replace("5000", "60000")).expect("a file");
    program.signal("-HUP");
    let line = program.line_with("configuration: ");
    assert!(line.ends_with("configuration: other timeouts"), "{line}");
    program.signal("-TERM");
    assert_eq!(program.exit_code(), Some(0));
}

/// A pipe, a folder or a link is not accepted for a recording or a state: startup fails with one
/// line and does not block.
#[test]
fn irregular_files_are_refused_at_the_start() {
    let folder = Folder::new("edge-irregular");
    let pipe = pipe(&folder, "pipe");
    let here = folder.path("");
    let link = folder.path("link");
    std::os::unix::fs::symlink(folder.path("target"), &link).expect("a link");
    let irregular = "is not a regular file";
    for (flags, line) in [
        (["--record", &pipe], format!("cannot record into {pipe}: {irregular}")),
        (
            ["--record", &link],
            format!("cannot record into {link}: is a symbolic link, which is not followed"),
        ),
        (["--state", &pipe], format!("state {pipe}: {irregular}")),
        (["--state", &here], format!("state {here}: {irregular}")),
        (["--state", &link], format!("state {link}: is a symbolic link, which is not followed")),
    ] {
        let further = ["--listen=127.0.0.1:0", "--policy=learned", "--log-level=error"];
        let check = if flags[0] == "--state" { &["--check"][..] } else { &[] };
        for further in [&further[..], &[&further[..], check].concat()] {
            let output = output(&[&flags[..], further].concat());
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!((text, output.status.code()), (format!("intelliproxy: {line}\n"), Some(1)));
        }
    }
    assert!(!std::path::Path::new(&folder.path("target")).exists());
}

/// A file in a folder that does not exist is refused at startup, by `--check` and by SIGHUP, which
/// leaves nothing behind.
#[test]
fn a_missing_folder_is_refused() {
    let folder = Folder::new("edge-folders");
    let (file, none) = (folder.path("file"), folder.path("none"));
    fs::write(&file, "").expect("a file");
    let rows = [
        ("--state", "stateFile"),
        ("--record", "recording.file"),
        ("--log-file", "log.file"),
        ("--access-log", "accessLog.file"),
    ];
    let further = ["--listen=127.0.0.1:0", "--policy=learned", "--backend=A=http://127.0.0.1:1"];
    for (flag, key) in rows {
        for (place, wrong) in [(&file, "is not a directory"), (&none, "does not exist")] {
            let path = format!("{place}/f");
            for check in [&[][..], &["--check"]] {
                let output = output(&[&further[..], check, &[flag, &path]].concat());
                let text = String::from_utf8_lossy(&output.stderr).into_owned();
                let line = format!("intelliproxy: {key} {path}: the folder {place} {wrong}\n");
                assert_eq!((text, output.status.code()), (line, Some(1)));
            }
        }
    }
    // The file is not used.
    let path = format!("{none}/f");
    let state = ["--check", "--backend=A=http://127.0.0.1:1", "--policy=score", "--state", &path];
    assert_eq!(output(&state).status.code(), Some(0));

    let (config, pipe) = (folder.path("proxy.json"), folder.path("pipe"));
    folder.pipe("pipe");
    fs::write(&config, "{}").expect("a file");
    let mut program = Program::start(&["--config", &config, "--policy=learned", further[2]]);
    fs::write(&config, format!("{{\"stateFile\": {path:?}}}")).expect("a file");
    program.signal("-HUP");
    program.line_with(&format!("stateFile {path}: the folder {none} does not exist"));
    let (log, access) = (folder.path("log"), folder.path("access"));
    let text = format!(
        "{{\"log\": {{\"file\": {log:?}}}, \"accessLog\": {{\"file\": {access:?}}}, \
         \"recording\": {{\"file\": {pipe:?}}}}}"
    );
    fs::write(&config, text).expect("a file");
    program.signal("-HUP");
    program.line_with(&format!("cannot record into {pipe}: is not a regular file"));
    assert!(!fs::exists(&log).expect("a folder") && !fs::exists(&access).expect("a folder"));
}

/// A bad state file does not prevent startup: it is renamed, and a good one is written.
#[test]
fn a_bad_state_is_kept_beside() {
    let folder = Folder::new("edge-state");
    let path = folder.path("state.json");
    fs::write(&path, "not a state").expect("a file");
    let flags = ["--backend", "A=http://127.0.0.1:1", "--policy", "learned", "--state", &path];
    let mut program = Program::start(&flags);
    program.signal("-TERM");
    assert_eq!(program.exit_code(), Some(0));
    assert_eq!(fs::read_to_string(format!("{path}.bad")).expect("kept"), "not a state");
    let text = fs::read_to_string(&path).expect("written at the end");
    assert!(text.contains("\"version\""), "{text}");
}

/// A state file is not used with a policy that learns nothing. `--check`, startup and a SIGHUP
/// report that and continue.
#[test]
fn an_unused_state_file_is_a_warning() {
    let folder = Folder::new("edge-unused");
    let (path, state) = (folder.path("proxy.json"), folder.path("s"));
    let text = |policy: &str| {
        let backend = r#""backends": [{"name": "A", "url": "http://127.0.0.1:1"}]"#;
        format!("{{{backend}, \"routing\": {{\"policy\": \"{policy}\"}}}}")
    };
    fs::write(&path, text("score")).expect("a file");
    let line = format!("state {state}: not used, as the policy learns nothing");
    let output = output(&["--check", "--config", &path, "--state", &state]);
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(stdout, format!("{path}: configuration is valid\n"));
    assert_eq!(String::from_utf8_lossy(&output.stderr), format!("intelliproxy: {line}\n"));
    assert_eq!(output.status.code(), Some(0));
    let mut program = Program::start(&["--config", &path, "--state", &state]);
    program.signal("-HUP");
    program.line_with(&line);
    program.line_with("configuration: nothing changed");
    fs::write(&path, text("learned")).expect("a file");
    program.signal("-HUP");
    program.line_with("configuration: other routing");
    program.line_with(&format!("state {state}: not found, starting empty"));
    program.signal("-TERM");
    assert_eq!(program.exit_code(), Some(0));
    assert!(std::path::Path::new(&state).exists());
}

/// Only some of many refused requests have log lines. One line and /stats report the others, and no
/// line has the secrets of a request.
#[test]
fn a_flood_of_bad_requests_does_not_fill_the_log() {
    const CLIENTS: usize = 200;
    let mut program = Program::start(&["--backend", "A=http://127.0.0.1:1"]);
    // All requests have arrived when the proxy continues, so they are handled at once.
    program.signal("-STOP");
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| program.connect()).collect();
    let request = b"GET /a?token=hidden HTTP/1.1\r\nCookie: hidden\r\n\r\n";
    clients.iter_mut().for_each(|client| client.write_all(request).expect("sent"));
    program.signal("-CONT");
    for mut client in clients {
        let mut response = String::new();
        client.read_to_string(&mut response).expect("a response and an end");
        assert!(response.starts_with("HTTP/1.1 400 "), "{response}");
    }
    let mut lines = 0;
    loop {
        let line = program.line_with("client ");
        assert!(!line.contains("hidden"), "{line}");
        if line.contains("more lines omitted, limit 20 a second") {
            break;
        }
        let excerpt = "\"GET /a?*** HTTP/1.1\\r\\nCookie: ***\\r\\n\\r\\n\"";
        assert!(line.contains(": 400: no Host: ") && line.contains(excerpt), "{line}");
        lines += 1;
    }
    assert!((20..CLIENTS).contains(&lines), "{lines} lines");
    // A response has the counts of the turn before its own.
    wait_for("the count of limited lines", || {
        let field = "X-IntelliProxy-Log: dropped=0, failedWrites=0, limited=";
        program.stats().contains(field).then_some(())
    });
    program.signal("-TERM");
    assert_eq!(program.exit_code(), Some(0));
}

/// The log lines of failures: a failed ping with its path, an invalid report (logged once), and a
/// refused connection without and with another backend.
#[test]
fn failures_say_what_happened() {
    let backend = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", backend.local_addr().expect("bound"));
    std::thread::spawn(move || {
        for mut stream in backend.incoming().map_while(Result::ok) {
            let (mut head, mut byte) = (Vec::new(), [0]);
            // A connection that is closed with unread bytes is reset.
            while !head.ends_with(b"\r\n\r\n") && stream.read_exact(&mut byte).is_ok() {
                head.extend(byte);
            }
            let is_report = head.starts_with(b"GET /metrics ");
            let (status, body) = if is_report { (200, "# HELP \u{1b}") } else { (500, "") };
            let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n", body.len());
            drop(stream.write_all((head + body).as_bytes()));
        }
    });
    let folder = Folder::new("edge-failures");
    let path = folder.path("proxy.json");
    let text = format!(
        r#"{{"backends": [{{"name": "A", "url": "{url}"}}, {{"name": "B", "url": "http://127.0.0.1:1"}}],
            "routing": {{"probes": {{"reportIntervalMs": 20, "pingIntervalMs": 20, "pingRetryMs": 20,
                                  "pingTimeoutMs": 30000, "reportTimeoutMs": 30000}}}}}}"#
    );
    fs::write(&path, text).expect("a file");
    let mut program = Program::start(&["--config", &path]);
    let (mut is_down, mut reports) = (false, 0);
    while !is_down || reports == 0 {
        let line = program.line_with(" ");
        is_down |= line.ends_with("A is down: status 500 to GET /health");
        let report = "backend A: report from /metrics is not a JSON object: \"# HELP \\x1b\"";
        reports += i32::from(line.ends_with(report));
    }
    wait_for("more reports", || {
        let stats = program.stats();
        let count = stats.split("\"reportsFailed\":").nth(1)?.split([',', '}']).next()?;
        (count.parse::<u32>().ok()? > 3).then_some(())
    });
    program.signal("-TERM");
    loop {
        let line = program.line_with(" ");
        assert!(!line.contains("not a JSON"), "reported once: {line}");
        if line.ends_with("stopped") {
            break;
        }
    }
    assert_eq!(program.exit_code(), Some(0));

    // A backend that is down gets no request.
    let unchecked = folder.path("unchecked.json");
    fs::write(&unchecked, r#"{"health": {"kind": "none"}}"#).expect("a file");
    let unchecked = ["--config", &unchecked, "--backend=A=http://127.0.0.1:1"];
    let mut program = Program::start(&unchecked);
    program.ask("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    let line = program.line_with(": 502: ");
    assert!(
        line.ends_with("backend A: connection refused: error returned to the client"),
        "{line}"
    );
    let mut program =
        Program::start(&[&unchecked[..], &["--backend=B=http://127.0.0.1:2"]].concat());
    program.ask("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    let line = program.line_with(": 502: ");
    assert!(line.ends_with("connection refused: sent to another backend"), "{line}");
    let line = program.line_with(": 502: ");
    assert!(line.ends_with("connection refused: error returned to the client"), "{line}");
}

/// A response that stalls in its body is cut, and the log line names the timeout.
#[test]
fn a_cut_names_its_key() {
    let backend = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", backend.local_addr().expect("bound"));
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        for mut stream in backend.incoming().map_while(Result::ok) {
            let _ = stream.read(&mut [0; 512]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n");
            kept.push(stream);
        }
    });
    let folder = Folder::new("edge-cut");
    let path = folder.path("proxy.json");
    let text = format!(
        r#"{{"backends": [{{"name": "A", "url": "{url}"}}], "timeouts": {{"responseBodyMs": 50}}}}"#
    );
    fs::write(&path, text).expect("a file");
    let mut program = Program::start(&["--config", &path]);
    let mut client = program.connect();
    client.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").expect("sent");
    let line = program.line_with(": 504: ");
    assert!(
        line.ends_with(
            "backend A: body stalled for timeouts.responseBodyMs: client connection cut"
        ),
        "{line}"
    );
}
