//! Responses from the proxy itself.

/// Returns a complete response. `date` is its Date line, and `fields` are further header lines,
/// each with its line end. `connection` is the value of Connection, if it is sent.
///
/// A HEAD request gets the same head and no body.
pub(crate) fn encode(
    status: u16,
    date: &str,
    content_type: &str,
    fields: &str,
    body: &[u8],
    is_head_request: bool,
    connection: Option<&'static str>,
) -> Vec<u8> {
    let mut answer = encode_head(status, date, content_type, fields, body.len(), connection);
    if !is_head_request {
        answer.extend_from_slice(body);
    }
    answer
}

/// Returns the head of such a response for a body of `len` bytes.
pub(crate) fn encode_head(
    status: u16,
    date: &str,
    content_type: &str,
    fields: &str,
    len: usize,
    connection: Option<&'static str>,
) -> Vec<u8> {
    let mut answer = format!(
        "HTTP/1.1 {status} {}\r\n{date}Content-Type: {content_type}\r\nContent-Length: {len}\r\n{fields}",
        reason(status)
    )
    .into_bytes();
    if let Some(connection) = connection {
        answer.extend_from_slice(format!("Connection: {connection}\r\n").as_bytes());
    }
    answer.extend_from_slice(b"\r\n");
    answer
}

/// Returns the head of an event stream, which is sent in chunks and ends its connection. `date` is
/// its Date line.
pub(crate) fn encode_stream_head(date: &str, fields: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 200 OK\r\n{date}{fields}Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\
         Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n"
    )
    .into_bytes()
}

/// Returns a response without content: 200 to an OPTIONS request that the proxy must not forward,
/// or a redirection to `location`. `date` is its Date line.
pub(crate) fn encode_empty(
    status: u16,
    date: &str,
    location: Option<&str>,
    connection: Option<&'static str>,
) -> Vec<u8> {
    let reason = reason(status);
    let mut response = format!("HTTP/1.1 {status} {reason}\r\n{date}Content-Length: 0\r\n");
    if let Some(location) = location {
        response.push_str(&format!("Location: {location}\r\n"));
    }
    if let Some(connection) = connection {
        response.push_str(&format!("Connection: {connection}\r\n"));
    }
    response.push_str("\r\n");
    response.into_bytes()
}

/// Returns the response for an error. Its text contains only the status.
pub(crate) fn encode_error(
    status: u16,
    date: &str,
    is_head_request: bool,
    connection: Option<&'static str>,
) -> Vec<u8> {
    let body = format!("{status} {}\n", reason(status));
    let kind = "text/plain; charset=utf-8";
    encode(status, date, kind, "", body.as_bytes(), is_head_request, connection)
}

/// Returns an error response with a Retry-After of one second, for when no backend has room (503)
/// or the client exceeds its limit (429).
pub(crate) fn encode_busy(
    status: u16,
    date: &str,
    is_head_request: bool,
    connection: Option<&'static str>,
) -> Vec<u8> {
    let body = format!("{status} {}\n", reason(status));
    let (kind, fields) = ("text/plain; charset=utf-8", "Retry-After: 1\r\n");
    encode(status, date, kind, fields, body.as_bytes(), is_head_request, connection)
}

/// Returns the reason phrase of a status that the proxy itself sends (RFC 9110 section 15, RFC
/// 6585).
const fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        413 => "Content Too Large",
        414 => "URI Too Long",
        417 => "Expectation Failed",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        508 => "Loop Detected",
        _ => "Error",
    }
}
