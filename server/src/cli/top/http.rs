//! A GET request over a new HTTP/1.1 connection, bounded in time and size, and its body as JSON.
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cli::top::url::Url;

/// A response with status 200.
#[derive(Debug)]
pub(crate) struct Response {
    /// Names in lower case.
    fields: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Response {
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Returns the fields with the proxy's own counts, by their names without the prefix.
    pub(crate) fn fields_of_proxy(&self) -> impl Iterator<Item = (String, String)> {
        let own = self.fields.iter().filter_map(|(name, value)| {
            let rest = name.strip_prefix("x-intelliproxy-")?;
            (rest != "decisions").then(|| (rest.to_owned(), value.clone()))
        });
        own.take(COUNTS_MAX)
    }
}

/// The reason why there is no response.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The server does not listen, or does not respond to a connection attempt.
    NoConnection {
        address: String,
        wrong: String,
    },
    Other {
        address: String,
        wrong: String,
    },
}

impl Failure {
    pub(crate) fn text(&self) -> String {
        let (Self::NoConnection { address, wrong } | Self::Other { address, wrong }) = self;
        format!("{address}: {wrong}")
    }
}

impl Url {
    pub(crate) fn fault(&self, wrong: impl Into<String>) -> Failure {
        Failure::Other { address: self.authority.clone(), wrong: wrong.into() }
    }
}

/// Gets a target of the URL's host.
pub(crate) fn get(url: &Url, target: &str) -> Result<Response, Failure> {
    let end = Instant::now() + TIME_MAX;
    let mut stream = connect(url, end).map_err(|error| Failure::NoConnection {
        address: url.authority.clone(),
        wrong: reason(&error),
    })?;
    let request = format!(
        "GET {target} HTTP/1.1\r\nHost: {}\r\nAccept: application/json\r\nConnection: close\r\n\r\n",
        url.authority
    );
    let sent = stream
        .set_write_timeout(Some(TIME_MAX))
        .and_then(|()| stream.write_all(request.as_bytes()));
    sent.map_err(|error| url.fault(reason(&error)))?;
    let mut input = Input { stream, end, bytes: Vec::new() };
    read(&mut input).map_err(|wrong| url.fault(wrong))
}

fn connect(url: &Url, end: Instant) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in (url.host.as_str(), url.port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, left(end)?) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Returns the time left until `end`.
fn left(end: Instant) -> io::Result<Duration> {
    let left = end.saturating_duration_since(Instant::now());
    let is_over = || io::Error::new(io::ErrorKind::TimedOut, "no response in time");
    (!left.is_zero()).then_some(left).ok_or_else(is_over)
}

/// A connection, and its received bytes that are not yet used.
struct Input<S> {
    stream: S,
    end: Instant,
    bytes: Vec<u8>,
}

/// A stream whose reads can be bounded in time.
trait Timed: Read {
    fn wait_at_most(&self, time: Duration) -> io::Result<()>;
}

impl Timed for TcpStream {
    fn wait_at_most(&self, time: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(time))
    }
}

impl<S: Timed> Input<S> {
    /// Reads more bytes. Returns whether there were any.
    fn more(&mut self) -> Result<bool, String> {
        if self.bytes.len() > BODY_BYTES_MAX {
            return Err(format!("the response is larger than {BODY_BYTES_MAX} bytes"));
        }
        let mut piece = [0; 16 * 1024];
        let read = left(self.end).and_then(|time| {
            self.stream.wait_at_most(time)?;
            self.stream.read(&mut piece)
        });
        let count = read.map_err(|error| reason(&error))?;
        self.bytes.extend_from_slice(&piece[..count]);
        Ok(count > 0)
    }

    /// Reads until `count` bytes are buffered.
    fn fill(&mut self, count: usize) -> Result<(), String> {
        if count > BODY_BYTES_MAX {
            return Err(format!("the response is larger than {BODY_BYTES_MAX} bytes"));
        }
        while self.bytes.len() < count {
            if !self.more()? {
                return Err("the response was cut".to_owned());
            }
        }
        Ok(())
    }

    /// Returns the next line without its end.
    fn line(&mut self) -> Result<String, String> {
        let mut from = 0;
        loop {
            if let Some(at) = self.bytes[from..].iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.bytes.drain(..=from + at).collect();
                return Ok(String::from_utf8_lossy(&line)
                    .trim_end_matches(['\r', '\n'])
                    .to_owned());
            }
            from = self.bytes.len();
            if from > LINE_BYTES_MAX {
                return Err("the response is not HTTP".to_owned());
            }
            if !self.more()? {
                return Err("ended without a response".to_owned());
            }
        }
    }
}

fn read<S: Timed>(input: &mut Input<S>) -> Result<Response, String> {
    let first = input.line()?;
    let mut words = first.split(' ');
    let status = match (words.next(), words.next()) {
        (Some("HTTP/1.1" | "HTTP/1.0"), Some(status)) => status.to_owned(),
        _ => return Err("the response is not HTTP".to_owned()),
    };
    let mut fields = Vec::new();
    loop {
        let line = input.line()?;
        if line.is_empty() {
            break;
        }
        if fields.len() == FIELDS_MAX {
            return Err("the response has too many fields".to_owned());
        }
        if let Some((name, value)) = line.split_once(':') {
            fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    if status != "200" {
        let end = if status == "404" { "; is it /stats of the proxy?" } else { "" };
        return Err(format!("status {status}{end}"));
    }
    let mut response = Response { fields, body: Vec::new() };
    let length = response.field("content-length").map(str::parse::<usize>);
    response.body = match (response.field("transfer-encoding"), length) {
        (Some(_), _) => chunked(input)?,
        (None, Some(Ok(length))) => {
            input.fill(length)?;
            input.bytes.drain(..length).collect()
        }
        (None, Some(Err(_))) => return Err("the response has an invalid length".to_owned()),
        (None, None) => {
            while input.more()? {}
            std::mem::take(&mut input.bytes)
        }
    };
    Ok(response)
}

fn chunked<S: Timed>(input: &mut Input<S>) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    loop {
        let line = input.line()?;
        let size = line.split(';').next().unwrap_or_default().trim();
        let invalid = |_| "the response has an invalid chunk".to_owned();
        let size = usize::from_str_radix(size, 16).map_err(invalid)?;
        if size == 0 {
            return Ok(body);
        }
        if body.len().saturating_add(size) > BODY_BYTES_MAX {
            return Err(format!("the response is larger than {BODY_BYTES_MAX} bytes"));
        }
        input.fill(size)?;
        body.extend(input.bytes.drain(..size));
        input.line()?;
    }
}

/// Returns a system error in lower case, without its number.
pub(crate) fn reason(error: &io::Error) -> String {
    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) {
        return format!("no whole response within {} s", TIME_MAX.as_secs());
    }
    let text = error.to_string();
    let text = text.split_once(" (os error").map_or(text.as_str(), |(text, _)| text);
    let mut characters = text.chars();
    let first = characters.next().map(|first| first.to_lowercase().to_string());
    first.unwrap_or_default() + characters.as_str()
}

/// Parses a body; `None` if it is not JSON.
pub(crate) fn json(body: &[u8]) -> Option<Value> {
    serde_json::from_str(str::from_utf8(body).ok()?).ok()
}

/// The time limit for an exchange.
const TIME_MAX: Duration = Duration::from_secs(5);
/// The maximum size of a body, in bytes. 10 000 backends make about 15 MB.
pub(crate) const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The maximum length of a line of the head, in bytes.
const LINE_BYTES_MAX: usize = 64 * 1024;
const FIELDS_MAX: usize = 100;
/// The maximum number of the proxy's own fields that are kept.
pub(crate) const COUNTS_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    impl Timed for Cursor<Vec<u8>> {
        fn wait_at_most(&self, _: Duration) -> io::Result<()> {
            Ok(())
        }
    }

    fn response(text: &str) -> Result<Response, String> {
        let stream = Cursor::new(text.as_bytes().to_vec());
        read(&mut Input { stream, end: Instant::now() + TIME_MAX, bytes: Vec::new() })
    }

    /// Bodies are read by length, in chunks and up to the end of the connection. Field names match
    /// in any case.
    #[test]
    fn bodies_are_read() {
        for text in [
            "HTTP/1.1 200 OK\r\nX-A: b\r\nContent-Length: 2\r\n\r\n[]rest",
            "HTTP/1.1 200 OK\r\nx-a:b\r\nTransfer-Encoding: chunked\r\n\r\n1;x=y\r\n[\r\n1\r\n]\r\n0\r\n\r\n",
            "HTTP/1.0 200 OK\nX-a: b\n\n[]",
        ] {
            let response = response(text).expect(text);
            assert_eq!((response.body.as_slice(), response.field("x-a")), (&b"[]"[..], Some("b")));
        }
    }

    /// Each invalid response causes an error that names the fault.
    #[test]
    fn faults_are_named() {
        let endless = format!("HTTP/1.1 200 OK\r\nA: {}", "x".repeat(LINE_BYTES_MAX + 20_000));
        let fields = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(FIELDS_MAX + 1));
        let rows = [
            ("", "ended without a response"),
            ("SSH-2.0-x\r\n", "the response is not HTTP"),
            ("HTTP/1.1 404 Not Found\r\n\r\n", "status 404; is it /stats of the proxy?"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n[]", "the response was cut"),
            ("HTTP/1.1 200 OK\r\nContent-Length: -3\r\n\r\n", "the response has an invalid length"),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
                "the response is larger than 67108864 bytes",
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
                "the response is larger than 67108864 bytes",
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
                "the response has an invalid chunk",
            ),
            (&endless, "the response is not HTTP"),
            (&fields, "the response has too many fields"),
        ];
        for (text, wrong) in rows {
            assert_eq!(response(text).expect_err(wrong), wrong);
        }
    }
}
