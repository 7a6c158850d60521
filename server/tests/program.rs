//! The program as a process: its output, its exit codes, its log.
mod process;

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use process::{Folder, Program, output};

/// Checks exit code, stdout and stderr of a run that ends by itself.
#[track_caller]
fn assert_ends(arguments: &[&str], code: i32, stdout: &str, stderr: &str) {
    let output = output(arguments);
    assert_eq!(String::from_utf8_lossy(&output.stderr), stderr, "{arguments:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), stdout, "{arguments:?}");
    assert_eq!(output.status.code(), Some(code), "{arguments:?}");
}

/// If a log line never appears, the wait for it ends with a panic, although the program continues.
#[test]
#[should_panic(expected = "the log has no \"never\" within")]
fn a_line_that_never_comes_is_not_awaited_for_ever() {
    let mut program = Program::start(&["--backend", "A=http://127.0.0.1:1"]);
    program.line_within("never", Duration::from_millis(50));
}

/// A usage error causes one line with the argument, and exit code 2.
#[test]
fn usage_errors_exit_with_2() {
    for (arguments, line) in [
        (&["--no-such"][..], "--no-such: no such argument; see --help"),
        (&["--clients"], "--clients: needs a value"),
        (&["--clients", "0"], "--clients: must be a whole number from 1 to 1000000"),
        (
            &["--backend", "A=ftp://x"],
            "--backend: url must be http(s)://HOST[:PORT], and \"ftp://x\" does not begin with http:// or https://",
        ),
        (
            &["--config", "/no/such/file"],
            "/no/such/file: cannot be read: no such file or directory",
        ),
        (&["--\u{1b}[31m\u{202e}"], "--\\u{1b}[31m\\u{202e}: no such argument; see --help"),
    ] {
        assert_ends(arguments, 2, "", &format!("intelliproxy: {line}\n"));
    }
}

/// `--check` resolves the names of backends and listeners, and fails if one has no address.
/// `--offline` skips that.
#[test]
fn check_resolves_names() {
    let backend = ["--check", "--backend", "A=http://nowhere.invalid"];
    let listener = ["--check", "--backend", "A=http://127.0.0.1", "--listen", "nowhere.invalid:80"];
    for (arguments, wrong) in [
        (&backend[..], "backend A (http://nowhere.invalid): cannot resolve nowhere.invalid: "),
        (&listener[..], "cannot listen on nowhere.invalid:80: cannot resolve nowhere.invalid: "),
    ] {
        let output = output(arguments);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.starts_with(&format!("intelliproxy: {wrong}")), "{text}");
        assert_eq!(output.status.code(), Some(1), "{text}");
        let offline = [arguments, &["--offline"]].concat();
        assert_ends(&offline, 0, "configuration is valid\n", "");
    }
}

/// `--check` reads a configuration from a pipe to the end, but does not wait for a pipe that
/// replaces the watched file.
#[test]
fn check_reads_pipes_of_configurations_only() {
    let folder = Folder::new("check-pipes");
    let (config, file) = (folder.pipe("c.json"), folder.pipe("found.json"));
    for (text, code) in
        [("{}".to_owned(), 0), (format!("{{\"discovery\": {{\"file\": {file:?}}}}}"), 1)]
    {
        let path = config.clone();
        // Opening the pipe blocks until the program reads.
        let writer = thread::spawn(move || fs::write(path, text).expect("a reader"));
        let output = output(&["--check", "--config", &folder.path("c.json")]);
        writer.join().expect("no panic");
        let error = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(code), "{error}");
        let expected =
            format!("intelliproxy: {}: cannot be read: is not a regular file\n", file.display());
        assert_eq!(error, if code == 0 { String::new() } else { expected });
    }
}

/// `--check` counts the backends of both the configuration and the watched file, and names the
/// unused ones.
#[test]
fn check_counts_what_is_found() {
    let folder = Folder::new("check-found");
    let file = folder.path("found.json");
    let text = format!(
        r#"{{"backends": [{{"name": "b0", "url": "http://127.0.0.1:1"}},
            {{"name": "A", "url": "http://127.0.0.1:2"}}], "discovery": {{"file": {file:?}}}}}"#
    );
    fs::write(folder.file("c.json"), text).expect("a file");
    for (count, code, expected) in [
        (1000, 1, "1001 backends were found, more than 1000".to_owned()),
        (999, 0, format!("not using b0 (discovery.file {file}): its name is taken")),
    ] {
        let one = |number| format!(r#"{{"name": "b{number}", "url": "http://127.0.0.1:3"}}"#);
        let all: Vec<String> = (0..count).map(one).collect();
        fs::write(&file, format!("[{}]", all.join(","))).expect("a file");
        let output = output(&["--check", "--config", &folder.path("c.json")]);
        let error = String::from_utf8(output.stderr).expect("text");
        assert_eq!(error, format!("intelliproxy: {expected}\n"));
        assert_eq!(output.status.code(), Some(code));
    }
}

/// `--check` names file, line and path of an invalid value, and confirms a valid configuration.
#[test]
fn check_names_file_line_and_path() {
    let name = format!("intelliproxy-check-{}.json", std::process::id());
    let path = std::env::temp_dir().join(name);
    let file = path.to_str().expect("a path of UTF-8");
    for (text, refusal) in [
        ("{}", None),
        ("// a comment\n{\"timeouts\": {\"connectMs\": \"2s\",},}", None),
        (
            "{\"timeouts\": {\n\"responseHead\": 1}}",
            Some(
                ":2:1: timeouts.responseHead: unknown key; did you mean `timeouts.responseHeadMs`?",
            ),
        ),
        (
            "{\"limits\": {\n\"\\u001b[31m\\u009bclients\": 0}}",
            Some(":2:1: limits.\\u{1b}[31m\\u{9b}clients: unknown key; known: headBytesMax, "),
        ),
        (
            "{\n \"limits\": {\n  \"clients\": 0\n }\n}",
            Some(":3:14: limits.clients: must be a whole number from 1 to 1000000"),
        ),
        (
            "{\n \"timeouts\": {\"connectMs\": \"3\"}\n}",
            Some(
                ":2:28: timeouts.connectMs: must be milliseconds from 1 to 86400000, or a text such as \"1500ms\", \"2s\", \"5m\" or \"1h\", not \"3\"",
            ),
        ),
        (
            "{\n\n \"stats\": {\"allow\": [\"::1\", \"x\"]}\n}",
            Some(
                ":3:29: stats.allow[1]: must be ADDRESS or ADDRESS/PREFIX, and \"x\" has no IPv4 or IPv6 address",
            ),
        ),
    ] {
        fs::write(&path, text).expect("a file");
        match refusal {
            None => assert_ends(
                &["--check", "--config", file],
                0,
                &format!("{file}: configuration is valid\n"),
                "",
            ),
            Some(refusal) => {
                let output = output(&["--check", "--config", file]);
                let text = String::from_utf8_lossy(&output.stderr).into_owned();
                assert!(text.starts_with(&format!("intelliproxy: {file}{refusal}")), "{text}");
                assert_eq!(text.lines().count(), 1, "{text}");
                assert_eq!(output.status.code(), Some(2), "{text}");
            }
        }
    }
    fs::remove_file(path).expect("it was there");
}

/// A program that cannot run writes one line with the reason and exits with 1.
#[test]
fn run_time_errors_exit_with_1() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("bound").to_string();
    for (arguments, line) in [
        (
            ["--listen", &address, "--log-level=error"],
            format!("cannot listen on {address}: address already in use\n"),
        ),
        (
            ["--admin", &address, "--log-level=error"],
            format!("cannot listen on {address}: address already in use\n"),
        ),
    ] {
        let output = output(&arguments);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.starts_with(&format!("intelliproxy: {line}")), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
        assert_eq!(output.status.code(), Some(1), "{text}");
    }
}

/// After a signal the current response is completed and idle clients are closed. The exit code is
/// 0.
#[test]
fn signals_end_it_after_requests_in_flight() {
    for name in ["-TERM", "-INT"] {
        let backend = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("A=http://{}", backend.local_addr().expect("bound"));
        let mut program = Program::start(&["--backend", &url]);
        let mut idle = program.connect();
        let mut busy = program.connect();
        busy.write_all(b"GET /busy HTTP/1.1\r\nHost: h\r\n\r\n").expect("sent");
        // Pings connect, too. The path shows which connection has the request.
        let mut upstream = loop {
            let (mut stream, _) = backend.accept().expect("a connection");
            let mut start = [0; 9];
            if stream.read_exact(&mut start).is_ok() && &start == b"GET /busy" {
                break stream;
            }
        };
        program.signal(name);
        program.line_with("stopping: 2 clients are connected");
        let mut rest = Vec::new();
        idle.read_to_end(&mut rest).expect("its end");
        assert!(rest.is_empty(), "an idle client is closed without a response");
        upstream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone").expect("sent");
        let mut text = String::new();
        busy.read_to_string(&mut text).expect("a response and an end");
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.ends_with("done"), "{text}");
        assert_eq!(program.exit_code(), Some(0));
    }
}

/// A second signal ends the program at once, even if clients wait for their responses.
#[test]
fn a_second_signal_ends_it_at_once() {
    let backend = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("A=http://{}", backend.local_addr().expect("bound"));
    let mut program = Program::start(&["--backend", &url]);
    let mut busy = program.connect();
    busy.write_all(b"GET /never HTTP/1.1\r\nHost: h\r\n\r\n").expect("sent");
    program.signal("-TERM");
    program.line_with("stopping: ");
    program.signal("-TERM");
    assert_eq!(program.exit_code(), Some(0));
}

/// Without a configuration file, SIGHUP resolves the backends' names again, and the log reports it.
#[test]
fn a_hangup_without_a_file_resolves_again() {
    let mut program = Program::start(&["--backend", "A=http://localhost:1"]);
    program.signal("-HUP");
    program.line_with("no --config FILE, so only the backends' names are resolved again");
    let line = program.line_with("configuration: ");
    assert!(line.ends_with("configuration: nothing changed"), "{line}");
    program.signal("-TERM");
    assert_eq!(program.exit_code(), Some(0));
}

/// The client gets a status for a refused request. The log has the client, the status, the reason
/// and the escaped bytes.
#[test]
fn refusals_are_logged() {
    let mut program = Program::start(&["--backend", "A=http://127.0.0.1:1"]);
    let mut client = program.connect();
    let peer = client.local_addr().expect("bound");
    client.write_all(b"GET /\x1b[31m HTTP/1.1\r\nHost: h\r\n\r\n").expect("sent");
    let mut text = String::new();
    client.read_to_string(&mut text).expect("a response and an end");
    assert!(text.ends_with("\r\n\r\n400 Bad Request\n"), "{text}");
    let line = program.line_with("client ");
    assert!(line.contains(&format!("client {peer}: 400: ")), "{line}");
    assert!(line.contains("\"GET /\\x1b[31m HTTP/1.1\\r\\nHost: h\\r\\n\\r\\n\""), "{line}");
}

/// 150 clients wait at the same time, which is more than one turn accepts. All are served, whether
/// their requests arrived before or after the process continued.
#[test]
fn a_burst_of_clients_is_served() {
    let program = Program::start(&["--backend", "A=http://127.0.0.1:1"]);
    program.signal("-STOP");
    let mut clients: Vec<TcpStream> = (0..150).map(|_| program.connect()).collect();
    let (early, late) = clients.split_at_mut(75);
    let ask = |client: &mut TcpStream| client.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("room");
    early.iter_mut().for_each(ask);
    program.signal("-CONT");
    late.iter_mut().for_each(ask);
    for mut client in clients {
        let mut response = String::new();
        client.read_to_string(&mut response).expect("a response");
        assert!(response.starts_with("HTTP/1.1 400 "), "{response}");
    }
}

/// `--help` lists flags (four are checked), and `--version` is one line.
#[test]
fn help_and_version_are_printed() {
    let output = output(&["--help"]);
    let help = String::from_utf8(output.stdout).expect("text");
    assert_eq!(output.status.code(), Some(0));
    for flag in
        ["--config FILE", "--listen HOST:PORT", "--backend NAME=URL", "--stats-allow NETWORK"]
    {
        assert!(help.contains(flag), "{flag}");
    }
    let version = format!("intelliproxy {}\n", env!("CARGO_PKG_VERSION"));
    assert_ends(&["--version"], 0, &version, "");
}
