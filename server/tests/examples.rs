//! The configurations in `examples/` and `package/` are valid, and `operated.json` has the
//! described effects.
mod process;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command};
use std::thread;
use std::time::Instant;

use process::{DEADLINE, Folder, empty_backend, program};

/// `--check` accepts each of them. The names in the configuration for containers resolve only
/// there.
#[test]
fn examples_are_valid() {
    for (folder, flags, least) in
        [("examples", &["--check"][..], 4), ("package", &["--check", "--offline"], 2)]
    {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        let mut seen = 0;
        for entry in folder.read_dir().expect("the folder") {
            let file = entry.expect("a listing").path();
            if file.extension().is_none_or(|ending| ending != "json") {
                continue;
            }
            seen += 1;
            let mut program = Command::new(env!("CARGO_BIN_EXE_intelliproxy"));
            let output = program.args(flags).arg("--config").arg(&file).output().expect("it runs");
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{}: {errors}", file.display());
        }
        assert!(seen >= least, "{seen} files were found");
    }
}

/// A process, killed when this is dropped.
struct Started(Child);

impl Drop for Started {
    fn drop(&mut self) {
        // Fails if the process has ended as expected.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Returns the part of a text between two others.
fn between<'t>(text: &'t str, before: &str, after: &str) -> &'t str {
    let rest = text.split_once(before).unwrap_or_else(|| panic!("{before} in {text}")).1;
    rest.split(after).next().unwrap_or(rest)
}

/// The example `operated.json` with other ports, and with its files in a folder of the test: a
/// request has the same id for the client, in the access log and on /explain, the pages and the
/// control socket answer, and the log is JSON.
#[test]
fn the_example_for_operation_works() {
    let folder = Folder::new("examples");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/operated.json");
    let backend = empty_backend();
    let mut text = fs::read_to_string(path).expect("the example");
    for (from, to) in [
        ("/var/log/", folder.path("")),
        ("/var/run/", folder.path("")),
        ("127.0.0.1:8080", "127.0.0.1:0".to_owned()),
        ("127.0.0.1:9101", "127.0.0.1:0".to_owned()),
        ("http://127.0.0.1:9001", backend.clone()),
        ("http://127.0.0.1:9002", backend),
        ("\"10s\"", "0".to_owned()),
    ] {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, &to);
    }
    let config = folder.path("proxy.json");
    fs::write(&config, text).expect("a file");
    let log = folder.path("intelliproxy.log");
    let mut child = Started(program().args(["--config", &config]).spawn().expect("a process"));
    let begin = Instant::now();
    let read = |path: &str, what: &str| loop {
        let text = fs::read_to_string(path).unwrap_or_default();
        if text.contains(what) {
            return text;
        }
        assert!(begin.elapsed() < DEADLINE, "no {what} in {text}");
        thread::yield_now();
    };
    // The line after it shows that both lines with ports are complete.
    let lines = read(&log, "\"text\":\"commands on ");
    let port = |mark: &str| between(&lines, mark, "\"").parse::<u16>().expect("a port");
    let (port, admin) =
        (port("listening on http://127.0.0.1:"), port("admin pages on http://127.0.0.1:"));
    let ask = |port: u16, path: &str| {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("a listener");
        let request = format!("GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("sent");
        let mut response = String::new();
        stream.read_to_string(&mut response).expect("a response and an end");
        response
    };
    let response = ask(port, "/page?secret");
    let id = between(&response, "X-Request-Id: ", "\r\n");
    let served_by = between(&response, "X-Served-By: ", "; why=");
    let other = if served_by == "one" { "two" } else { "one" };
    let access = read(&folder.path("intelliproxy-access.log"), "\n");
    assert!(access.contains(&format!("\"requestId\":\"{id}\"")), "{access}");
    assert!(access.contains("\"target\":\"/page\""), "{access}");
    let decision = ask(admin, &format!("/explain?request={id}"));
    assert!(decision.contains(&format!("\"backend\":\"{served_by}\"")), "{decision}");
    assert!(ask(admin, "/metrics").contains("\nintelliproxy_requests_total 1\n"));
    let socket = folder.path("intelliproxy.sock");
    let drained = process::output(&["ctl", "--socket", &socket, "drain", served_by]);
    assert!(drained.status.success(), "{drained:?}");
    assert!(ask(port, "/").contains(&format!("X-Served-By: {other}; why=")));
    let pid = child.0.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill").success());
    assert_eq!(child.0.wait().expect("a status").code(), Some(0));
}
