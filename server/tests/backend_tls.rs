//! TLS to backends with the real program. The backends are Python's ssl, which is OpenSSL.
#![cfg(feature = "tls")]
mod process;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;

use process::{Folder, Program, free_port, output};

/// A backend with TLS. Its arguments are a certificate, a key, a TLS version, the authority of
/// client certificates or `-`, and a port. It prints a line when it listens, and lines for each
/// connection: the requested name, whether the session was resumed, and each request target.
const BACKEND: &str = r#"
import socket, ssl, sys, threading
chain, key, version, ca, port = sys.argv[1:]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(chain, key)
context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
context.set_alpn_protocols(["http/1.1"])
if ca != "-":
    context.load_verify_locations(ca)
    context.verify_mode = ssl.CERT_REQUIRED
lock = threading.Lock()
def say(*words):
    # print writes each word for itself, and threads would mix their lines.
    with lock:
        print(" ".join(map(str, words)), flush=True)
names = {}
context.sni_callback = lambda s, name, c: names.__setitem__(s, name)
listener = socket.create_server(("127.0.0.1", int(port)))
say("port", listener.getsockname()[1])
def serve(raw):
    try:
        s = context.wrap_socket(raw, server_side=True)
        resumed = "resumed" if s.session_reused else "full"
        say("open", names.pop(s, None), resumed, s.selected_alpn_protocol(), s.version())
        reader = s.makefile("rb")
        while True:
            line = reader.readline().decode()
            if not line: break
            host = length = ""
            while True:
                field = reader.readline().decode().strip()
                if not field: break
                name, value = field.split(":", 1)
                if name.lower() == "host": host = value.strip()
                if name.lower() == "content-length": length = value.strip()
            body = reader.read(int(length or 0))
            target = line.split(" ")[1]
            say("request", target, host, len(body))
            if target == "/cut" or target == "/end":
                s.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nto the end")
                if target == "/end": s.unwrap()
                s.shutdown(socket.SHUT_RDWR)
                break
            text = b"x" * 300000 if target == "/large" else b"hello"
            s.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text))
            if target == "/bye":
                s.unwrap()
                break
    except (OSError, ssl.SSLError) as error:
        say("failed", getattr(error, "reason", error))
    finally:
        raw.close()
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"#;

/// A process with a backend, and its output.
struct Backend {
    child: Child,
    lines: BufReader<ChildStdout>,
    port: u16,
}

impl Backend {
    fn start(name: &str, version: &str, ca: &str, port: u16) -> Self {
        let (chain, key) = (file(&format!("{name}.pem")), file(&format!("{name}.key")));
        let mut child = Command::new("python3")
            .args(["-c", BACKEND, &chain, &key, version, ca, &port.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3");
        let lines = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut backend = Self { child, lines, port };
        let line = backend.line_with("port ");
        backend.port = line.rsplit(' ').next().and_then(|port| port.parse().ok()).expect("a port");
        backend
    }

    /// Returns the next line that contains `what`.
    fn line_with(&mut self, what: &str) -> String {
        loop {
            let mut line = String::new();
            let count = self.lines.read_line(&mut line).expect("lines");
            assert!(count > 0, "the backend ended without {what}");
            if line.contains(what) {
                return line.trim().to_owned();
            }
        }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A file of the tests' certificates.
fn file(name: &str) -> String {
    format!("{}/src/tls/testing/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: front.test\r\nConnection: close\r\n\r\n")
}

/// Writes a configuration with `more` keys and these backends: name, port and TLS settings. Returns
/// its path.
fn config(folder: &Folder, backends: &[(&str, u16, &str)], more: &str) -> String {
    let entries: Vec<String> = backends
        .iter()
        .map(|(name, port, tls)| {
            format!(r#"{{"name": "{name}", "url": "https://localhost:{port}", "tls": {tls}}}"#)
        })
        .collect();
    let (ca, entries) = (file("ca.pem"), entries.join(","));
    let text = format!(
        r#"{{"tls": {{"ca": "{ca}"}}, "backends": [{entries}], {more} "timeouts": {{"connectMs": 30000}},
        "routing": {{"probes": {{"pingIntervalMs": 500, "pingRetryMs": 100, "pingTimeoutMs": 30000}}}}}}"#
    );
    let path = folder.path("proxy.json");
    fs::write(&path, text).expect("a file");
    path
}

fn start(path: &str) -> Program {
    let mut program = Program::start(&["--config", path]);
    program.line_with("backend ");
    program
}

/// Requests with bodies and probes are sent over TLS 1.2 and 1.3, with the configured name as SNI
/// and the client's Host. Connections are reused, and sessions resumed. A connection that the
/// backend has ended is not reused.
#[test]
fn requests_go_over_tls() {
    for (version, shown) in [("TLSv1_2", "TLSv1.2"), ("TLSv1_3", "TLSv1.3")] {
        let folder = Folder::new(&format!("backend-tls-{version}"));
        let mut backend = Backend::start("site", version, "-", 0);
        let tls = r#"{"serverName": "a.test"}"#;
        let path = config(&folder, &[("A", backend.port, tls)], "");
        let program = start(&path);
        let first = backend.line_with("open ");
        assert_eq!(first, format!("open a.test full http/1.1 {shown}"));
        backend.line_with("request /health localhost");
        assert!(program.ask(&get("/one")).ends_with("\r\n\r\nhello"));
        assert!(backend.line_with("request /one").contains(" front.test "));
        let body = "y".repeat(200_000);
        let post = format!(
            "POST /post HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        assert!(program.ask(&post).ends_with("\r\n\r\nhello"));
        // This request uses the connection of the first one: the next line about a new connection
        // is that of a probe.
        assert_eq!(backend.line_with("request /post"), "request /post h 200000");
        let large = program.ask(&get("/large"));
        assert_eq!(large.split_once("\r\n\r\n").expect("a head").1.len(), 300_000);
        backend.line_with("request /large");
        let resumed = backend.line_with("open a.test resumed");
        assert_eq!(resumed, format!("open a.test resumed http/1.1 {shown}"));
        for _ in 0..3 {
            assert!(program.ask(&get("/bye")).ends_with("\r\n\r\nhello"));
        }
        for (target, is_whole) in [("/end", true), ("/cut", false)] {
            let mut client = program.connect();
            client.write_all(get(target).as_bytes()).expect("sent");
            let mut bytes = Vec::new();
            let is_clean = client.read_to_end(&mut bytes).is_ok();
            let text = String::from_utf8_lossy(&bytes);
            assert!(text.contains("to the end") || !is_whole, "{text}");
            let is_open = text.contains("chunked") && !text.ends_with("\r\n0\r\n\r\n");
            assert_eq!(is_clean && !is_open, is_whole, "{version} {target}: {text}");
        }
    }
}

/// A backend is down if its certificate has expired, has another name or an unknown issuer, or if
/// it does not speak TLS. The log has the reason. Other backends serve all requests.
#[test]
fn a_faulty_backend_is_down_and_others_serve() {
    let folder = Folder::new("backend-tls-faulty");
    let good = Backend::start("site", "TLSv1_3", "-", 0);
    let expired = Backend::start("expired", "TLSv1_3", "-", 0);
    let old = Backend::start("expired", "TLSv1_2", "-", 0);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let plain = listener.local_addr().expect("bound").port();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            // Servers of plain HTTP respond like this to a TLS hello.
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
            let _ = stream.read(&mut [0; 4096]);
        }
    });
    let named = r#"{"serverName": "a.test"}"#;
    let unknown = format!(r#"{{"serverName": "a.test", "ca": "{}"}}"#, file("other.pem"));
    let backends = [
        ("expired", expired.port, named),
        ("old", old.port, named),
        ("name", good.port, "{}"),
        ("issuer", good.port, unknown.as_str()),
        ("plain", plain, named),
        ("good", good.port, named),
    ];
    let mut program =
        start(&config(&folder, &backends, r#""limits": {"attempts": 16, "retryPercent": 1000},"#));
    for _ in 0..20 {
        let response = program.ask(&get("/"));
        assert!(response.ends_with("\r\n\r\nhello"), "{response}");
    }
    let mut lines: Vec<String> = Vec::new();
    while lines.iter().filter(|line| line.contains(" is down: ")).count() < 5 {
        lines.extend(program.lines_until(" is down: "));
    }
    for (name, reason) in [
        ("expired", "its certificate has expired"),
        ("old", "its certificate has expired"),
        ("name", "its certificate has another name"),
        ("issuer", "its certificate is not from a trusted authority"),
        ("plain", "its response is not TLS"),
    ] {
        let expected = format!("backend {name}: TLS: {reason}");
        let count = lines.iter().filter(|line| line.contains(&expected)).count();
        assert_eq!(count, 1, "{expected}\n{}", lines.join("\n"));
        let down = format!("{name} is down: unreachable");
        assert!(lines.iter().any(|line| line.contains(&down)), "{down}\n{}", lines.join("\n"));
    }
    assert!(program.ask(&get("/")).ends_with("\r\n\r\nhello"));
}

/// A request whose backend has an expired certificate is sent to another one, and the log says so.
/// Without pings the backend is not known to be down.
#[test]
fn a_request_leaves_a_faulty_backend() {
    let folder = Folder::new("backend-tls-leaves");
    let good = Backend::start("site", "TLSv1_3", "-", 0);
    let expired = Backend::start("expired", "TLSv1_3", "-", 0);
    let named = r#"{"serverName": "a.test"}"#;
    let backends = [("expired", expired.port, named), ("good", good.port, named)];
    let path = config(&folder, &backends, r#""health": {"kind": "none"},"#);
    let mut program = Program::start(&["--config", &path, "--policy", "round_robin"]);
    for _ in 0..2 {
        let response = program.ask(&get("/"));
        assert!(response.ends_with("\r\n\r\nhello"), "{response}");
    }
    program.line_with("TLS handshake failed: its certificate has expired: sent to another backend");
}

/// `verify: false` accepts any certificate, and a warning names the backend.
#[test]
fn an_unverified_backend_is_named() {
    for version in ["TLSv1_2", "TLSv1_3"] {
        let folder = Folder::new(&format!("backend-tls-unverified-{version}"));
        let backend = Backend::start("expired", version, "-", 0);
        let path = config(&folder, &[("A", backend.port, r#"{"verify": false}"#)], "");
        let mut program = start(&path);
        let line = program.line_with("tls.verify");
        assert!(line.contains("WARN") && line.contains("backend A (https://localhost:"), "{line}");
        assert!(program.ask(&get("/")).ends_with("\r\n\r\nhello"));
    }
}

/// A backend that requires a certificate refuses a proxy without one, and the log has the reason. A
/// reload with an invalid file changes nothing. A later reload adds the certificate, and the
/// backend serves.
#[test]
fn a_backend_may_require_a_certificate() {
    for version in ["TLSv1_2", "TLSv1_3"] {
        let folder = Folder::new(&format!("backend-tls-required-{version}"));
        let backend = Backend::start("site", version, &file("ca.pem"), 0);
        let without = r#"{"serverName": "a.test"}"#;
        let with = |key: &str| {
            let (chain, key) = (file("client.pem"), file(key));
            format!(
                r#"{{"serverName": "a.test", "certificate": {{"chain": "{chain}", "key": "{key}"}}}}"#
            )
        };
        let path = config(&folder, &[("A", backend.port, without)], "");
        let mut program = start(&path);
        let line = program.line_with("backend A: TLS: ");
        // TLS 1.2 has no specific alert for this.
        let reason = match version {
            "TLSv1_2" => "it refuses the handshake",
            _ => "it requires a client certificate",
        };
        assert!(line.ends_with(reason), "{line}");
        let response = program.ask(&get("/"));
        assert!(response.starts_with("HTTP/1.1 502 "), "{response}");
        config(&folder, &[("A", backend.port, &with("other.key"))], "");
        program.signal("-HUP");
        let line = program.line_with("configuration not applied");
        assert!(line.contains("is not the key of the certificate"), "{line}");
        config(&folder, &[("A", backend.port, &with("client.key"))], "");
        program.signal("-HUP");
        program.line_with("configuration: moved A");
        assert!(program.ask(&get("/")).ends_with("\r\n\r\nhello"));
    }
}

/// A backend that returns with a valid certificate is up again.
#[test]
fn a_repaired_backend_is_up_again() {
    let folder = Folder::new("backend-tls-repaired");
    let port = free_port();
    let backend = Backend::start("expired", "TLSv1_3", "-", port);
    let path = config(&folder, &[("A", port, r#"{"serverName": "a.test"}"#)], "");
    let mut program = start(&path);
    program.line_with("A is down");
    drop(backend);
    let _good = Backend::start("site", "TLSv1_3", "-", port);
    program.line_with("A is up");
    assert!(program.ask(&get("/")).ends_with("\r\n\r\nhello"));
}

/// Changed files are used for new connections once they fit together, without a signal.
#[test]
fn changed_files_are_used() {
    let folder = Folder::new("backend-tls-files");
    let backend = Backend::start("site", "TLSv1_3", &file("ca.pem"), 0);
    let (ca, chain, key) = (folder.path("ca"), folder.path("chain"), folder.path("key"));
    let copy = |name: &str, to: &str| {
        // Replaced at once, as programs that renew certificates do.
        fs::copy(file(name), folder.path("new")).expect("a copy");
        fs::rename(folder.path("new"), to).expect("a place");
    };
    // An authority that has issued nothing.
    copy("expired.pem", &ca);
    copy("other.pem", &chain);
    copy("other.key", &key);
    let tls = format!(
        r#"{{"serverName": "a.test", "ca": "{ca}",
            "certificate": {{"chain": "{chain}", "key": "{key}"}}}}"#
    );
    let path = config(&folder, &[("A", backend.port, &tls)], "");
    let mut program = start(&path);
    program.line_with("backend A: TLS: its certificate is not from a trusted authority");
    copy("ca.pem", &ca);
    program.line_with("backends[0].tls: certificates changed, using the new ones");
    // Its certificate is not one of a client.
    program.line_with("backend A: TLS: it refuses the client certificate");
    copy("client.pem", &chain);
    let line = program.line_with("is not the key of the certificate: keeping");
    assert!(line.contains("backends[0].tls.certificate.key: "), "{line}");
    copy("client.key", &key);
    program.line_with("backends[0].tls: certificates changed, using the new ones");
    program.line_with("A is up");
    assert!(program.ask(&get("/")).ends_with("\r\n\r\nhello"));
}

/// `--check` reads the files, and an error names the place of the key.
#[test]
fn check_reads_the_files() {
    let folder = Folder::new("backend-tls-check");
    let path = config(&folder, &[("A", 1, r#"{"ca": "/nowhere.pem"}"#)], "");
    let checked = output(&["--check", "--offline", "--config", &path]);
    let text = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert!(text.contains("proxy.json:1:"), "{text}");
    assert!(
        text.contains("backends[0].tls.ca: must be the path of a file, and /nowhere.pem"),
        "{text}"
    );
}
