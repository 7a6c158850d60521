//! Reads HTTP/1 requests and writes responses, as far as a backend needs RFC 9112.
//!
//! Bodies are read and discarded in bounded memory. Malformed and ambiguous requests are refused.
//! The caller then sends 400 and closes, because the beginning of the next request is unknown.
//!
//! This code is separate from the proxy's: with the proxy's parser a backend would share its bugs,
//! and tests would not find them. A server crate would not send the requested faults.
use std::io::{self, Read};
use std::str;

use httparse::Status;

/// The head of a request, reduced to the parts that determine the response.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Request {
    pub(crate) path: Path,
    pub(crate) body: Body,
    pub(crate) is_head: bool,
    pub(crate) is_http_10: bool,
    pub(crate) keeps_alive: bool,
    pub(crate) expects_continue: bool,
}

/// Purpose of a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Path {
    Health,
    Metrics,
    Other,
}

/// The rule that determines the end of a request's body.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Body {
    Length(u64),
    Chunked,
}

/// The reason why no request could be read.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// The client broke the protocol.
    Malformed(&'static str),
    /// The connection ended or failed within a request.
    Io(io::Error),
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<httparse::Error> for ReadError {
    fn from(error: httparse::Error) -> Self {
        use httparse::Error;
        Self::Malformed(match error {
            Error::HeaderName => "bad field name",
            Error::HeaderValue => "bad field value",
            Error::NewLine => "bad line end",
            Error::Status => "bad status",
            Error::Token => "bad method or target",
            Error::TooManyHeaders => "too many fields",
            Error::Version => "bad version",
        })
    }
}

/// Reads one request after another from a stream.
pub(crate) struct RequestReader<R> {
    stream: R,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl<R: Read> RequestReader<R> {
    pub(crate) fn new(stream: R) -> Self {
        Self { stream, buffer: vec![0; HEAD_BYTES_MAX].into_boxed_slice(), start: 0, end: 0 }
    }

    /// Reads the next head. Returns `None` if the stream ends between two requests.
    pub(crate) fn read_request(&mut self) -> Result<Option<Request>, ReadError> {
        loop {
            if let Some((request, length)) = parse_request(self.unread())? {
                self.start += length;
                return Ok(Some(request));
            }
            if self.unread().len() == HEAD_BYTES_MAX {
                return Err(ReadError::Malformed("head too large"));
            }
            match self.fill() {
                Err(ReadError::Io(error))
                    if error.kind() == io::ErrorKind::UnexpectedEof
                        && self.unread().iter().all(|byte| b"\r\n".contains(byte)) =>
                {
                    return Ok(None);
                }
                filled => filled?,
            }
        }
    }

    /// Reads the body of the last head, and discards it.
    pub(crate) fn discard_body(&mut self, body: Body) -> Result<(), ReadError> {
        match body {
            Body::Length(length) => self.discard(length),
            Body::Chunked => self.discard_chunks(),
        }
    }

    /// Returns whether bytes have arrived that no request has used yet.
    pub(crate) fn has_unread(&self) -> bool {
        self.start < self.end
    }

    fn discard_chunks(&mut self) -> Result<(), ReadError> {
        loop {
            let size = loop {
                match httparse::parse_chunk_size(self.unread()) {
                    Ok(Status::Complete((length, size))) => {
                        self.start += length;
                        break size;
                    }
                    Ok(Status::Partial) if self.unread().len() < CHUNK_LINE_BYTES_MAX => {
                        self.fill()?;
                    }
                    Ok(Status::Partial) => {
                        return Err(ReadError::Malformed("chunk line too long"));
                    }
                    Err(_) => return Err(ReadError::Malformed("bad chunk size")),
                }
            };
            if size == 0 {
                return self.discard_trailers();
            }
            self.discard(size)?;
            while self.unread().len() < 2 {
                self.fill()?;
            }
            if !self.unread().starts_with(b"\r\n") {
                return Err(ReadError::Malformed("chunk longer than its size"));
            }
            self.start += 2;
        }
    }

    fn discard_trailers(&mut self) -> Result<(), ReadError> {
        loop {
            let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
            if let Status::Complete((length, _)) =
                httparse::parse_headers(self.unread(), &mut fields)?
            {
                self.start += length;
                return Ok(());
            }
            if self.unread().len() == HEAD_BYTES_MAX {
                return Err(ReadError::Malformed("trailers too large"));
            }
            self.fill()?;
        }
    }

    fn discard(&mut self, mut length: u64) -> Result<(), ReadError> {
        loop {
            let here = length.min(self.unread().len() as u64);
            self.start += here as usize;
            length -= here;
            if length == 0 {
                return Ok(());
            }
            self.fill()?;
        }
    }

    fn unread(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Waits for more bytes. The end of the stream is an error.
    fn fill(&mut self) -> Result<(), ReadError> {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        debug_assert!(self.end < self.buffer.len(), "a full buffer has no room for more");
        loop {
            match self.stream.read(&mut self.buffer[self.end..]) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Ok(count) => {
                    self.end += count;
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// A response without its connection options.
pub(crate) struct Reply<'a> {
    pub(crate) status: &'static str,
    pub(crate) content_type: &'static str,
    pub(crate) date: &'a str,
    pub(crate) body: &'a [u8],
}

impl Reply<'_> {
    /// Appends the response to `out`. `request` is `None` if the request could not be read.
    pub(crate) fn write(&self, request: Option<&Request>, keeps_alive: bool, out: &mut Vec<u8>) {
        let connection = match request {
            _ if !keeps_alive => "Connection: close\r\n",
            Some(request) if request.is_http_10 => "Connection: keep-alive\r\n",
            _ => "",
        };
        let Self { status, content_type, date, body } = self;
        let length = body.len();
        out.extend_from_slice(
            format!(
                "HTTP/1.1 {status}\r\nDate: {date}\r\nContent-Type: {content_type}\r\n\
                 Content-Length: {length}\r\n{connection}\r\n"
            )
            .as_bytes(),
        );
        if !request.is_some_and(|request| request.is_head) {
            out.extend_from_slice(body);
        }
    }
}

/// Parses a head at the beginning of `input`. Returns it with its length, or `None` if more bytes
/// are needed.
fn parse_request(input: &[u8]) -> Result<Option<(Request, usize)>, ReadError> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut parsed = httparse::Request::new(&mut fields);
    let Status::Complete(length) = parsed.parse(input)? else {
        return Ok(None);
    };
    let is_http_10 = parsed.version == Some(0);
    let method = parsed.method.unwrap_or_default();
    if method == "CONNECT" {
        return Err(ReadError::Malformed("no tunnels here"));
    }
    let connection = Connection::read(parsed.headers);
    let body = framing(parsed.headers, is_http_10)?;
    let hosts = values(parsed.headers, "host").count();
    if hosts > 1 || (hosts == 0 && !is_http_10) {
        return Err(ReadError::Malformed("not exactly one Host"));
    }
    let expects_continue = !is_http_10
        && body != Body::Length(0)
        && values(parsed.headers, "expect")
            .any(|value| value.eq_ignore_ascii_case(b"100-continue"));
    let request = Request {
        path: path(parsed.path.unwrap_or_default()),
        body,
        is_head: method == "HEAD",
        is_http_10,
        keeps_alive: !connection.close && (!is_http_10 || connection.keep_alive),
        expects_continue,
    };
    Ok(Some((request, length)))
}

/// Returns the end of the body (RFC 9112 section 6.3). Ambiguous framing is refused.
fn framing(fields: &[httparse::Header<'_>], is_http_10: bool) -> Result<Body, ReadError> {
    let mut codings = values(fields, "transfer-encoding");
    let mut lengths = values(fields, "content-length");
    if let Some(coding) = codings.next() {
        if lengths.next().is_some() {
            return Err(ReadError::Malformed("both Transfer-Encoding and Content-Length"));
        }
        let is_chunked = coding.eq_ignore_ascii_case(b"chunked") && codings.next().is_none();
        if !is_chunked || is_http_10 {
            return Err(ReadError::Malformed("unknown Transfer-Encoding"));
        }
        return Ok(Body::Chunked);
    }
    let Some(first) = lengths.next() else {
        return Ok(Body::Length(0));
    };
    if lengths.any(|other| other != first) {
        return Err(ReadError::Malformed("differing Content-Length"));
    }
    if !first.iter().all(u8::is_ascii_digit) {
        return Err(ReadError::Malformed("bad Content-Length"));
    }
    let length = str::from_utf8(first).ok().and_then(|digits| digits.parse().ok());
    length.map(Body::Length).ok_or(ReadError::Malformed("bad Content-Length"))
}

/// The relevant options of the Connection fields.
struct Connection {
    close: bool,
    keep_alive: bool,
}

impl Connection {
    fn read(fields: &[httparse::Header<'_>]) -> Self {
        let has = |meant: &[u8]| {
            values(fields, "connection")
                .flat_map(|value| value.split(|byte| *byte == b','))
                .any(|option| option.trim_ascii().eq_ignore_ascii_case(meant))
        };
        Self { close: has(b"close"), keep_alive: has(b"keep-alive") }
    }
}

fn values<'a>(
    fields: &'a [httparse::Header<'_>],
    name: &'static str,
) -> impl Iterator<Item = &'a [u8]> {
    fields
        .iter()
        .filter(move |field| field.name.eq_ignore_ascii_case(name))
        .map(|field| field.value.trim_ascii())
}

/// Returns the path of a target in origin or absolute form, without its query.
fn path(target: &str) -> Path {
    let origin = match target.split_once("://") {
        Some((_, rest)) if !target.starts_with('/') => rest.find('/').map_or("/", |at| &rest[at..]),
        _ => target,
    };
    match origin.split('?').next() {
        Some("/health") => Path::Health,
        Some("/metrics") => Path::Metrics,
        _ => Path::Other,
    }
}

/// Maximum size of a head, and of a connection's buffer.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Maximum number of fields of a head or a trailer section.
const FIELDS_MAX: usize = 100;
/// Maximum size of a chunk's size line with its extensions.
const CHUNK_LINE_BYTES_MAX: usize = 4 * 1024;

#[cfg(test)]
mod tests;
