//! The live page and its event streams over real sockets, on the traffic port and on the admin
//! listener.
mod process;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use process::{DEADLINE, Folder, Program, empty_backend};
use serde_json::Value;

const BROWSER: &str =
    "Accept: text/html,application/xhtml+xml,*/*;q=0.8\r\nAccept-Encoding: gzip, br\r\n";
const READER: &str = "Accept: text/event-stream\r\n";

/// A proxy with one backend and admin pages, and the admin pages' port.
fn start(flags: &[&str]) -> (Program, u16) {
    let backend = format!("--backend=A={}", empty_backend());
    let mut program = Program::start(&[&["--admin", "127.0.0.1:0", &backend], flags].concat());
    let line = program.line_with("admin pages on http://127.0.0.1:");
    let port = line.rsplit(':').next().and_then(|text| text.parse().ok());
    program.line_with("A is up");
    (program, port.expect("a port at the line's end"))
}

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).expect("a listener");
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    stream
}

fn send(port: u16, target: &str, fields: &str) -> TcpStream {
    let mut stream = connect(port);
    let request = format!("GET {target} HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
    stream.write_all(request.as_bytes()).expect("sent");
    stream
}

/// Returns the head and the body of a response after which the connection closes.
fn get(port: u16, target: &str, fields: &str) -> (String, Vec<u8>) {
    let mut bytes = Vec::new();
    let fields = format!("{fields}Connection: close\r\n");
    send(port, target, &fields).read_to_end(&mut bytes).expect("a response and an end");
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
    let body = bytes.split_off(end);
    (String::from_utf8(bytes).expect("text"), body)
}

/// An event stream as a page reads it.
struct Events {
    reader: BufReader<TcpStream>,
    head: String,
}

impl Events {
    fn open(port: u16, target: &str) -> Self {
        let mut reader = BufReader::new(send(port, target, READER));
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(reader.read_line(&mut head).expect("a head"), 0, "{head}");
        }
        Self { reader, head }
    }

    /// Returns the next event: its name and data. `None` after the last chunk.
    fn next(&mut self) -> Option<(String, Value)> {
        let mut line = String::new();
        self.reader.read_line(&mut line).expect("a chunk");
        let length = usize::from_str_radix(line.trim_end(), 16).expect("the size of a chunk");
        let mut chunk = vec![0; length + 2];
        self.reader.read_exact(&mut chunk).expect("a whole chunk");
        let text = String::from_utf8(chunk).expect("UTF-8");
        let (name, data) = text.strip_prefix("event: ")?.split_once("\ndata: ").expect("data");
        Some((name.to_owned(), serde_json::from_str(data.trim_end()).expect("JSON")))
    }

    /// Returns the data of the next event with this name for which the condition holds.
    fn next_with(&mut self, name: &str, is_wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            let (found, data) = self.next().expect("the stream goes on");
            if found == name && is_wanted(&data) {
                return data;
            }
        }
    }
}

/// A browser gets the page, compressed and with a strict policy, from both ports. A client without
/// gzip gets 406, and everyone else the same JSON as before.
#[test]
fn a_browser_gets_the_page() {
    let (program, admin) = start(&[]);
    for (port, target) in [(program.port(), "/stats"), (admin, "/")] {
        let (head, body) = get(port, target, BROWSER);
        for line in [
            "HTTP/1.1 200 OK\r\n",
            "\r\nContent-Type: text/html; charset=utf-8\r\n",
            "\r\nContent-Encoding: gzip\r\n",
            "\r\nContent-Security-Policy: default-src 'none'; script-src 'sha256-",
            "; connect-src 'self'",
            "\r\nX-Content-Type-Options: nosniff\r\n",
            "\r\nReferrer-Policy: no-referrer\r\n",
            "\r\nCache-Control: no-store\r\n",
            "\r\nVary: Accept, Accept-Encoding\r\n",
        ] {
            assert!(head.contains(line), "{target}: {line:?}\n{head}");
        }
        assert!(!head.contains("unsafe-inline"), "{head}");
        assert_eq!(body[..2], [0x1f, 0x8b], "{target}");
        let (head, body) = get(port, target, "Accept: text/html\r\n");
        assert!(head.starts_with("HTTP/1.1 406 Not Acceptable\r\n"), "{target}: {head}");
        assert!(head.contains("\r\nVary: Accept, Accept-Encoding\r\n"), "{head}");
        assert!(body.starts_with(b"406 Not Acceptable"), "{target}");
        for fields in ["", "Accept: */*\r\n", "Accept: application/json\r\n"] {
            let (head, body) = get(port, target, fields);
            assert!(head.contains("\r\nContent-Type: application/json\r\n"), "{target}: {head}");
            let json: Value = serde_json::from_slice(&body).expect("JSON");
            assert_eq!(json[0]["name"], "A", "{target}");
            assert!(head.contains("\r\nVary: Accept\r\n"), "{head}");
        }
    }
    for target in ["/stats", "/metrics", "/events"] {
        let mut stream = BufReader::new(send(admin, target, BROWSER));
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(stream.read_line(&mut head).expect("a head"), 0, "{head}");
        }
        assert!(head.starts_with("HTTP/1.1 200 ") && !head.contains("Vary"), "{head}");
    }
    let stream = Events::open(program.port(), "/stats");
    assert!(stream.head.contains("\r\nVary: Accept\r\n"), "{}", stream.head);
}

/// Clients that may not read /stats get the backend's response, whatever they accept.
#[test]
fn others_get_no_page() {
    let folder = Folder::new("live-others");
    let path = folder.path("proxy.json");
    std::fs::write(&path, r#"{"stats": {"allow": ["192.0.2.0/24"]}}"#).expect("written");
    let (program, _) = start(&["--config", &path]);
    for fields in [BROWSER, READER, ""] {
        for target in ["/stats", "/stats?explain"] {
            let (head, _) = get(program.port(), target, fields);
            assert!(head.starts_with("HTTP/1.1 204 "), "{fields}: {head}");
        }
    }
}

/// A stream begins with all backends, has a tick every second, shows requests, and starts again
/// when a reload changes the backends.
#[test]
fn a_stream_follows_traffic_and_reloads() {
    let folder = Folder::new("live-reload");
    let path = folder.path("proxy.json");
    let [first, second] = [empty_backend(), empty_backend()];
    let text = |backends: &str| format!("{{\"backends\": [{backends}]}}");
    let one = format!("{{\"name\": \"one\", \"url\": \"{first}\"}}");
    let two = format!("{one}, {{\"name\": \"two\", \"url\": \"{second}\"}}");
    std::fs::write(&path, text(&one)).expect("written");
    let mut program = Program::start(&["--admin", "127.0.0.1:0", "--config", &path]);
    let line = program.line_with("admin pages on http://127.0.0.1:");
    let admin = line.rsplit(':').next().and_then(|text| text.parse().ok()).expect("a port");
    program.line_with("one is up");
    let mut streams = [Events::open(program.port(), "/stats"), Events::open(admin, "/events")];
    for stream in &mut streams {
        assert!(stream.head.starts_with("HTTP/1.1 200 OK\r\n"), "{}", stream.head);
        assert!(stream.head.contains("\r\nContent-Type: text/event-stream\r\n"), "{}", stream.head);
        let (name, hello) = stream.next().expect("an event");
        assert_eq!((name.as_str(), &hello["pool"]["policy"]), ("hello", &"score".into()));
        let backends = stream.next_with("backends", |_| true);
        assert_eq!(backends["backends"][0]["name"], "one");
    }
    for _ in 0..3 {
        let (head, _) = get(program.port(), "/x", "");
        assert!(head.starts_with("HTTP/1.1 204 "), "{head}");
    }
    for stream in &mut streams {
        stream.next_with("tick", |tick| tick["pool"]["requests"].as_u64() >= Some(3));
    }
    std::fs::write(&path, text(&two)).expect("written");
    program.signal("-HUP");
    for stream in &mut streams {
        let hello = stream.next_with("hello", |_| true);
        assert_eq!(hello["count"], 2);
        let events = hello["events"].to_string();
        assert!(events.contains("configuration: added two"), "{events}");
        let backends = stream.next_with("backends", |_| true);
        assert_eq!(backends["backends"][1]["name"], "two");
    }
}

/// A stop ends every stream with its last chunk, and the process at once.
#[test]
fn a_stop_ends_the_streams() {
    let (mut program, admin) = start(&[]);
    let mut traffic = Events::open(program.port(), "/stats");
    let mut beside = Events::open(admin, "/events");
    traffic.next_with("backends", |_| true);
    beside.next_with("backends", |_| true);
    program.signal("-TERM");
    while traffic.next().is_some() {}
    let mut rest = Vec::new();
    traffic.reader.read_to_end(&mut rest).expect("an end");
    assert_eq!(rest, b"", "nothing follows the last chunk");
    assert_eq!(program.exit_code(), Some(0));
    // The admin listener lives as long as the process. Its stream ends with the last chunk or with
    // the process, and without a partial event. A process that ends before reading everything
    // causes a reset.
    let _ = beside.reader.read_to_end(&mut rest);
    let last = b"0\r\n\r\n";
    let events = rest.strip_suffix(last).unwrap_or(&rest);
    assert!(events.is_empty() || events.ends_with(b"\n\n\r\n"), "{rest:?}");
}

/// The number of streams is bounded on each port. If the maximum is reached by readers that read
/// nothing, but whose system acknowledges everything, each new stream ends the longest-running one
/// with a last event. Meanwhile ordinary requests are served.
#[test]
fn streams_are_bounded() {
    let (program, admin) = start(&[]);
    for (port, target, most) in [(program.port(), "/stats", 16), (admin, "/events", 12)] {
        let mut streams: Vec<Events> = (0..most).map(|_| Events::open(port, target)).collect();
        assert!(streams.iter().all(|stream| stream.head.starts_with("HTTP/1.1 200 ")));
        for _ in 0..2 {
            let mut new = Events::open(port, target);
            assert!(new.head.starts_with("HTTP/1.1 200 "), "{target}: {}", new.head);
            let mut rest = String::new();
            streams.remove(0).reader.read_to_string(&mut rest).expect("an end");
            let last = "event: replaced\ndata: {}\n\n\r\n0\r\n\r\n";
            assert!(rest.contains("event: hello") && rest.ends_with(last), "{rest}");
            new.next_with("tick", |_| true);
            streams.push(new);
        }
        let (head, _) = get(port, "/stats", "");
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        // The other streams continue.
        streams.iter_mut().for_each(|stream| drop(stream.next_with("tick", |_| true)));
    }
}

/// Readers whose system acknowledges nothing are cut off, although the proxy's system could buffer
/// their streams for hours.
#[cfg(target_os = "linux")]
#[test]
fn readers_that_stop_lose_their_places() {
    let folder = Folder::new("live-stopped");
    let path = folder.path("proxy.json");
    std::fs::write(&path, r#"{"timeouts": {"clientWriteMs": 2000}}"#).expect("written");
    let (program, admin) = start(&["--config", &path]);
    for (port, target, most) in [(program.port(), "/stats", 16), (admin, "/events", 12)] {
        let mut reader = Events::open(port, target);
        let mut stopped: Vec<TcpStream> = (1..most).map(|_| stopped_reader(port, target)).collect();
        let end = std::time::Instant::now() + DEADLINE;
        // A reader that reads keeps its stream, with a tick every second. Writing to a closed
        // connection fails only after the peer has responded to the first bytes.
        while !stopped.is_empty() {
            assert!(std::time::Instant::now() < end, "{target}: {} are served", stopped.len());
            reader.next_with("tick", |_| true);
            stopped.retain_mut(|stream| stream.write_all(b"\r\n").is_ok());
        }
    }
}

/// Opens a stream over a socket with a small buffer, and reads only its first line.
#[cfg(target_os = "linux")]
fn stopped_reader(port: u16, target: &str) -> TcpStream {
    use rustix::net::{AddressFamily, SocketType, connect, socket, sockopt};
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
    sockopt::set_socket_recv_buffer_size(&socket, 1024).expect("an option");
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    connect(&socket, &address).expect("a listener");
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    let request = format!("GET {target} HTTP/1.1\r\nHost: h\r\n{READER}\r\n");
    stream.write_all(request.as_bytes()).expect("sent");
    let mut line = [0; 15];
    stream.read_exact(&mut line).expect("a response");
    assert_eq!(line, *b"HTTP/1.1 200 OK", "{target}");
    stream
}

/// Decisions can be explained on the traffic port, too, to clients that may read /stats.
#[test]
fn decisions_are_explained_on_the_traffic_port() {
    let (program, _) = start(&[]);
    get(program.port(), "/x", "");
    let (head, body) = get(program.port(), "/stats?explain", "");
    assert!(head.contains("\r\nContent-Type: application/json\r\n"), "{head}");
    let list: Value = serde_json::from_slice(&body).expect("JSON");
    let number = list["decisions"][0]["request"].as_u64().expect("a number");
    assert_eq!(list["decisions"][0]["backend"], "A");
    let (head, body) = get(program.port(), &format!("/stats?explain={number}"), "");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let one: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!(one["candidates"][0]["name"], "A");
    for unknown in ["999999", "x", ""] {
        let (head, _) = get(program.port(), &format!("/stats?explain={unknown}"), "");
        assert!(head.starts_with("HTTP/1.1 404 "), "{unknown}: {head}");
    }
}

/// A HEAD request for a stream gets only the head.
#[test]
fn a_head_request_gets_no_stream() {
    let (program, admin) = start(&[]);
    for (port, target) in [(program.port(), "/stats"), (admin, "/events")] {
        let mut stream = connect(port);
        let request = format!("HEAD {target} HTTP/1.1\r\nHost: h\r\n{READER}\r\n");
        stream.write_all(request.as_bytes()).expect("sent");
        let mut response = String::new();
        stream.read_to_string(&mut response).expect("a response and an end");
        assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
        assert!(response.contains("text/event-stream") && response.ends_with("\r\n\r\n"));
    }
}
