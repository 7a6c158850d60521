//! A plain HTTP/1.1 client for tests. It sends bytes, parses responses, and has a deadline on every
//! read.
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// Much longer than anything here takes: only a failing test waits this long.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);

/// A connection and its received bytes.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    unread: Vec<u8>,
}

/// A response.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Client {
    pub(crate) fn connect(port: u16) -> Self {
        Self::connect_to(SocketAddr::from(([127, 0, 0, 1], port)))
    }

    pub(crate) fn connect_to(address: SocketAddr) -> Self {
        let stream = TcpStream::connect_timeout(&address, DEADLINE).expect("a listener");
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        Self { stream, unread: Vec::new() }
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).expect("a connection that takes bytes");
    }

    /// Sends a GET request and reads its response.
    pub(crate) fn get(&mut self, path: &str) -> Response {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: b\r\n\r\n"));
        self.response()
    }

    /// Reads a response with its body.
    pub(crate) fn response(&mut self) -> Response {
        let mut response = self.response_head();
        let length = response
            .field("content-length")
            .map_or(0, |value| value.parse::<usize>().expect("a Content-Length that is a number"));
        while self.unread.len() < length {
            self.fill();
        }
        let body = self.unread.drain(..length).collect();
        response.body = String::from_utf8(body).expect("a body of UTF-8");
        response
    }

    /// Reads a response without a body, whatever its Content-Length.
    pub(crate) fn response_head(&mut self) -> Response {
        let end = loop {
            match self.unread.windows(4).position(|window| window == b"\r\n\r\n") {
                Some(at) => break at + 4,
                None => self.fill(),
            }
        };
        let head = String::from_utf8(self.unread.drain(..end).collect()).expect("a head of UTF-8");
        let status = head
            .strip_prefix("HTTP/1.1 ")
            .and_then(|rest| rest.get(..3)?.parse().ok())
            .expect("a status line");
        Response { status, head, body: String::new() }
    }

    /// Reads to the end of the connection. A reset is an end, too.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        match self.stream.read_to_end(&mut self.unread) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            Err(error) => panic!("the connection does not end: {error}"),
        }
        std::mem::take(&mut self.unread)
    }

    fn fill(&mut self) {
        let mut piece = [0; 4096];
        let count = self.stream.read(&mut piece).expect("more of the response in time");
        assert_ne!(count, 0, "the connection ended within a response");
        self.unread.extend_from_slice(&piece[..count]);
    }
}

impl Response {
    /// Returns the value of a field. Its name may be in any case of letters.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (field, value) = line.split_once(':')?;
            field.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// Waits until `holds` returns true. Fails the test with `what` at the deadline.
#[track_caller]
pub(crate) fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < end, "not in time: {what}");
        thread::yield_now();
    }
}
