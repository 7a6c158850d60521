use super::*;

/// Returns its bytes in pieces of a fixed size, then ends.
struct Pieces<'a> {
    bytes: &'a [u8],
    size: usize,
}

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.size.min(self.bytes.len()).min(buffer.len());
        let (now, later) = self.bytes.split_at(count);
        buffer[..count].copy_from_slice(now);
        self.bytes = later;
        Ok(count)
    }
}

/// Reads requests with their bodies until the input ends or is refused.
fn read_all(bytes: &[u8], size: usize) -> (Vec<Request>, Result<(), String>) {
    let mut reader = RequestReader::new(Pieces { bytes, size });
    let mut requests = Vec::new();
    let mut next = || -> Result<bool, ReadError> {
        let Some(request) = reader.read_request()? else {
            return Ok(false);
        };
        reader.discard_body(request.body)?;
        requests.push(request);
        Ok(true)
    };
    let end = loop {
        match next() {
            Ok(true) => {}
            Ok(false) => break Ok(()),
            Err(ReadError::Malformed(what)) => break Err(what.to_owned()),
            Err(ReadError::Io(error)) => break Err(error.kind().to_string()),
        }
    };
    (requests, end)
}

/// Reads the input whole, in pieces of seven bytes and byte by byte. The results must be equal.
#[track_caller]
fn read(input: &str) -> (Vec<Request>, Result<(), String>) {
    let whole = read_all(input.as_bytes(), usize::MAX);
    for size in [7, 1] {
        assert_eq!(read_all(input.as_bytes(), size), whole, "in pieces of {size}: {input:?}");
    }
    whole
}

#[track_caller]
fn read_one(input: &str) -> Request {
    let (requests, end) = read(input);
    assert_eq!(end, Ok(()), "{input:?}");
    assert_eq!(requests.len(), 1, "{input:?}");
    requests[0]
}

/// Targets select their response in origin and absolute form, with and without a query.
#[test]
fn targets_select_the_response() {
    for (target, expected) in [
        ("/health", Path::Health),
        ("/health?verbose=1", Path::Health),
        ("http://b.example:3000/health", Path::Health),
        ("/metrics", Path::Metrics),
        ("http://b.example/metrics?x", Path::Metrics),
        ("/", Path::Other),
        ("http://b.example", Path::Other),
        ("/healthy", Path::Other),
        ("/go?to=http://b.example/health", Path::Other),
        ("*", Path::Other),
    ] {
        let request = read_one(&format!("GET {target} HTTP/1.1\r\nHost: b\r\n\r\n"));
        assert_eq!(request.path, expected, "{target}");
    }
}

/// Persistence follows version and Connection options (RFC 9112 section 9.3).
#[test]
fn persistence_follows_version_and_options() {
    for (version, fields, expected) in [
        ("1.1", "", true),
        ("1.1", "Connection: close\r\n", false),
        ("1.1", "Connection: x, CLOSE\r\n", false),
        ("1.1", "Connection: keep-alive\r\nConnection: close\r\n", false),
        ("1.0", "", false),
        ("1.0", "Connection: Keep-Alive\r\n", true),
        ("1.0", "Connection: keep-alive, close\r\n", false),
    ] {
        let request = read_one(&format!("GET / HTTP/{version}\r\nHost: b\r\n{fields}\r\n"));
        assert_eq!(request.keeps_alive, expected, "{version} {fields}");
    }
}

/// Bodies of both framings are skipped exactly: the pipelined request after each is found.
#[test]
fn bodies_are_skipped_exactly() {
    let long = format!("POST / HTTP/1.1\r\nHost: b\r\nContent-Length: 40000\r\n\r\n{:040000}", 1);
    for first in [
        "GET / HTTP/1.1\r\nHost: b\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: b\r\nContent-Length: 5\r\n\r\nGET /",
        "POST / HTTP/1.1\r\nHost: b\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
        "POST / HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: Chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: chunked\r\n\r\n\
         5;ext=\"1\"\r\nGET /\r\nA\r\n0123456789\r\n0\r\nX-Sum: 1\r\nX-More: 2\r\n\r\n",
        &long,
    ] {
        let (requests, end) = read(&format!("{first}GET /health HTTP/1.1\r\nHost: b\r\n\r\n"));
        assert_eq!(end, Ok(()), "{first:.80}");
        assert_eq!(requests.len(), 2, "{first:.80}");
        assert_eq!((requests[0].path, requests[1].path), (Path::Other, Path::Health));
    }
}

/// Errors for malformed and ambiguous requests name the fault, and no bytes after them are read as
/// a request.
#[test]
fn bad_input_is_refused() {
    let many_fields = format!("GET / HTTP/1.1\r\nHost: b\r\n{}\r\n", "X: y\r\n".repeat(FIELDS_MAX));
    let large_head = format!("GET /{} HTTP/1.1\r\n", "x".repeat(HEAD_BYTES_MAX));
    let long_chunk_line = format!(
        "POST / HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: chunked\r\n\r\n1;{}",
        "x".repeat(CHUNK_LINE_BYTES_MAX)
    );
    let post = |fields: &str| format!("POST / HTTP/1.1\r\nHost: b\r\n{fields}\r\n");
    for (input, expected) in [
        ("hello\r\n\r\n".to_owned(), "bad method or target"),
        ("GET / HTTP/2.0\r\n\r\n".to_owned(), "bad version"),
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), "not exactly one Host"),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".to_owned(), "not exactly one Host"),
        ("GET / HTTP/1.1\r\nHost: b\r\nbad name: x\r\n\r\n".to_owned(), "bad field name"),
        ("CONNECT b:1 HTTP/1.1\r\nHost: b\r\n\r\n".to_owned(), "no tunnels here"),
        (many_fields, "too many fields"),
        (large_head, "head too large"),
        (post("Content-Length: +1\r\n"), "bad Content-Length"),
        (post("Content-Length: \r\n"), "bad Content-Length"),
        (post("Content-Length: 1, 1\r\n"), "bad Content-Length"),
        (post("Content-Length: 99999999999999999999\r\n"), "bad Content-Length"),
        (post("Content-Length: 1\r\nContent-Length: 2\r\n"), "differing Content-Length"),
        (
            post("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"),
            "both Transfer-Encoding and Content-Length",
        ),
        (post("Transfer-Encoding: gzip, chunked\r\n"), "unknown Transfer-Encoding"),
        (post("Transfer-Encoding: x\r\n"), "unknown Transfer-Encoding"),
        (
            "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(),
            "unknown Transfer-Encoding",
        ),
        (post("Transfer-Encoding: chunked\r\n") + "x\r\n", "bad chunk size"),
        (post("Transfer-Encoding: chunked\r\n") + "1\r\nab\r\n", "chunk longer than its size"),
        (long_chunk_line, "chunk line too long"),
    ] {
        let (requests, end) = read(&input);
        assert_eq!(end, Err(expected.to_owned()), "{input:.80}");
        assert_eq!(requests, [], "{input:.80}");
    }
}

/// The largest head and the largest number of fields are accepted.
#[test]
fn limits_are_inclusive() {
    let head = |path: &str| format!("GET /{path} HTTP/1.1\r\nHost: b\r\n\r\n");
    let room = HEAD_BYTES_MAX - head("").len();
    assert!(read_all(head(&"x".repeat(room)).as_bytes(), 4096).1.is_ok());
    assert!(read_all(head(&"x".repeat(room + 1)).as_bytes(), 4096).1.is_err());
    let fields = "X: y\r\n".repeat(FIELDS_MAX - 1);
    read_one(&format!("GET / HTTP/1.1\r\nHost: b\r\n{fields}\r\n"));
}

/// The end of the stream is clean between requests only.
#[test]
fn an_end_within_a_request_is_an_error() {
    for (input, is_clean) in [
        ("", true),
        ("\r\n", true),
        ("GET", false),
        ("POST / HTTP/1.1\r\nHost: b\r\nContent-Length: 5\r\n\r\nfour", false),
        ("POST / HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfour", false),
        ("POST / HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", false),
    ] {
        let (requests, end) = read(input);
        assert_eq!(end.is_ok(), is_clean, "{input:?}");
        assert_eq!(requests, [], "{input:?}");
    }
}

/// 100-continue is expected only by HTTP/1.1 requests with a body.
#[test]
fn continue_is_expected_with_a_body_only() {
    for (version, fields, body, expected) in [
        ("1.1", "Content-Length: 2\r\n", "ab", true),
        ("1.1", "Transfer-Encoding: chunked\r\n", "0\r\n\r\n", true),
        ("1.1", "", "", false),
        ("1.0", "Content-Length: 2\r\n", "ab", false),
    ] {
        let request = read_one(&format!(
            "POST / HTTP/{version}\r\nHost: b\r\nExpect: 100-Continue\r\n{fields}\r\n{body}"
        ));
        assert_eq!(request.expects_continue, expected, "{version} {fields}");
    }
}

/// Responses always have a length, a body except for HEAD, and the fate of the connection.
#[test]
fn replies_are_framed() {
    let reply = Reply { status: "200 OK", content_type: "text/plain", date: "now", body: b"hello" };
    let head = "HTTP/1.1 200 OK\r\nDate: now\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n";
    for (request, keeps_alive, expected) in [
        ("GET / HTTP/1.1\r\nHost: b\r\n\r\n", true, format!("{head}\r\nhello")),
        ("HEAD / HTTP/1.1\r\nHost: b\r\n\r\n", true, format!("{head}\r\n")),
        ("GET / HTTP/1.0\r\n\r\n", true, format!("{head}Connection: keep-alive\r\n\r\nhello")),
        ("GET / HTTP/1.0\r\n\r\n", false, format!("{head}Connection: close\r\n\r\nhello")),
    ] {
        let mut out = Vec::new();
        reply.write(Some(&read_one(request)), keeps_alive, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
    let mut out = Vec::new();
    reply.write(None, false, &mut out);
    assert_eq!(String::from_utf8(out).unwrap(), format!("{head}Connection: close\r\n\r\nhello"));
}
