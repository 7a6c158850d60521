//! The parties of these tests: the proxy on its reactor, clients that send bytes, backends that are
//! scripts.
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use intelliproxy::config::{BackendConfig, Config};
use intelliproxy::edge::setup::Setup;
use intelliproxy::reactor;
use rustix::net::{AddressFamily, SocketType, bind, getsockname, socket, sockopt};

/// The longest wait of a test. Only a failing test waits this long.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);

/// Returns a configuration with these backends, named A, B and so on, and a free port.
pub(crate) fn config(urls: &[&str]) -> Config {
    let backend = |(url, letter): (&&str, char)| BackendConfig::new(&letter.to_string(), url);
    Config {
        listen: vec!["127.0.0.1:0".into()],
        backends: urls.iter().zip('A'..='Z').map(backend).collect(),
        ..Config::default()
    }
}

/// Serves in a thread that lasts as long as the test program. Returns the addresses.
pub(crate) fn serve(config: Config) -> Vec<SocketAddr> {
    let setup = Setup::new(config).expect("free ports and known backends");
    let addresses = setup.listeners.iter().map(|listener| listener.place.address).collect();
    thread::spawn(move || reactor::serve(setup).expect("it serves"));
    addresses
}

/// Serves these backends with an otherwise default configuration.
pub(crate) fn proxy(urls: &[&str]) -> SocketAddr {
    serve(config(urls))[0]
}

/// Opens a client's connection.
pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("a listener");
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    stream.set_nodelay(true).expect("small pieces go at once");
    stream
}

/// Reads a head as lines, up to its empty line. Returns `None` if the connection ends before that
/// line, or if nothing arrives in time.
pub(crate) fn read_head(stream: &mut impl BufRead) -> Option<Vec<String>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).ok()? == 0 {
            return None;
        }
        match line.strip_suffix("\r\n") {
            Some("") => return Some(lines),
            Some(line) => lines.push(line.to_owned()),
            None => return None,
        }
    }
}

/// Returns the value of a field of a head.
pub(crate) fn field<'a>(head: &'a [String], name: &str) -> Option<&'a str> {
    head.iter().find_map(|line| {
        let (field, value) = line.split_once(':')?;
        field.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// Reads a body with a length or in chunks, as its head says.
pub(crate) fn read_body(stream: &mut impl BufRead, head: &[String]) -> Vec<u8> {
    let mut body = Vec::new();
    if field(head, "transfer-encoding").is_some() {
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).expect("a chunk size in time");
            let size = usize::from_str_radix(line.trim_end(), 16).expect("a chunk size");
            let mut chunk = vec![0; size + 2];
            stream.read_exact(&mut chunk).expect("a whole chunk");
            assert!(chunk.ends_with(b"\r\n"), "CRLF behind the data");
            body.extend_from_slice(&chunk[..size]);
            if size == 0 {
                return body;
            }
        }
    }
    let length = field(head, "content-length").map_or(0, |value| value.parse().expect("a length"));
    body.resize(length, 0);
    stream.read_exact(&mut body).expect("a whole body in time");
    body
}

/// Reads one response with its body.
pub(crate) fn read_response(stream: &mut impl BufRead) -> (Vec<String>, Vec<u8>) {
    let head = read_head(stream).expect("a response");
    let body = read_body(stream, &head);
    (head, body)
}

/// Sends one GET on its own connection. Returns the status line and the body.
pub(crate) fn get(address: SocketAddr, path: &str) -> (String, String) {
    let mut stream = BufReader::new(connect(address));
    let request = format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n");
    stream.get_mut().write_all(request.as_bytes()).expect("sent");
    let (head, body) = read_response(&mut stream);
    (head[0].clone(), String::from_utf8(body).expect("text"))
}

/// Calls `holds` again and again until it returns true. Panics after [`DEADLINE`].
#[track_caller]
pub(crate) fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < end, "timed out: {what}");
        thread::yield_now();
    }
}

/// Reserves a port without a listener: connections to it are refused while the socket exists, and
/// no other test can get the port meanwhile.
pub(crate) fn refuse(address: SocketAddr) -> (OwnedFd, SocketAddr) {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let socket = socket(family, SocketType::STREAM, None).expect("a socket");
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true).expect("IPv6 alone");
    }
    bind(&socket, &address).expect("a free port");
    let address = getsockname(&socket).expect("its address");
    (socket, address.try_into().expect("of the Internet"))
}

/// A scripted backend. The script gets each request's head and the connection, and writes the
/// response. It returns whether the connection stays open. Probes get their responses without the
/// script.
#[derive(Debug)]
pub(crate) struct Script {
    pub(crate) url: String,
    /// Connections that carried requests, without probes.
    connections: Arc<AtomicUsize>,
}

impl Script {
    pub(crate) fn start(
        script: impl Fn(&mut BufReader<TcpStream>, &[String]) -> bool + Send + Sync + 'static,
    ) -> Self {
        Self::start_at("127.0.0.1:0", script).expect("a free port")
    }

    pub(crate) fn start_at(
        address: &str,
        script: impl Fn(&mut BufReader<TcpStream>, &[String]) -> bool + Send + Sync + 'static,
    ) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let url = format!("http://{}", listener.local_addr()?);
        let connections = Arc::new(AtomicUsize::new(0));
        let (script, counter) = (Arc::new(script), Arc::clone(&connections));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (script, counter) = (Arc::clone(&script), Arc::clone(&counter));
                thread::spawn(move || run_script(stream, &*script, &counter));
            }
        });
        Ok(Self { url, connections })
    }

    /// Returns the number of connections that carried requests so far.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

fn run_script(
    stream: TcpStream,
    script: &dyn Fn(&mut BufReader<TcpStream>, &[String]) -> bool,
    connections: &AtomicUsize,
) {
    let mut stream = BufReader::new(stream);
    let mut is_first = true;
    while let Some(head) = read_head(&mut stream) {
        if head[0].starts_with("GET /health ") || head[0].starts_with("GET /metrics ") {
            let response = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}";
            // The proxy may have ended with its test.
            drop(stream.get_mut().write_all(response));
            return;
        }
        if is_first {
            connections.fetch_add(1, Ordering::SeqCst);
            is_first = false;
        }
        if !script(&mut stream, &head) {
            return;
        }
    }
}

/// Responds with the received request: the lines of its head, an empty line, its body.
pub(crate) fn echo(stream: &mut BufReader<TcpStream>, head: &[String]) -> bool {
    let body = read_body(stream, head);
    let mut text = head.join("\n").into_bytes();
    text.extend_from_slice(b"\n\n");
    text.extend_from_slice(&body);
    respond(stream, &text)
}

/// Responds 200 with a length, and keeps the connection open.
pub(crate) fn respond(stream: &mut BufReader<TcpStream>, body: &[u8]) -> bool {
    let mut bytes =
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    bytes.extend_from_slice(body);
    stream.get_mut().write_all(&bytes).is_ok()
}
