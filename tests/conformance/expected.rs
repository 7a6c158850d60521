//! The texts that the proxy sends in the tests of this folder.

/// The proxy's name in Via, with the suffix of the driver's seed.
pub(crate) const VIA: &str = "intelliproxy-910a2dec";

/// Returns the head that a backend gets for a request of the driver's client with `Host: h`.
pub(crate) fn forwarded(line: &str, fields: &str) -> String {
    format!(
        "{line} HTTP/1.1\r\nHost: h\r\n{fields}X-Forwarded-For: 192.0.2.7\r\n\
         X-Forwarded-Proto: http\r\nX-Forwarded-Host: h\r\nVia: 1.1 intelliproxy-910a2dec\r\n\r\n"
    )
}

/// Returns the response that the proxy itself sends before it closes the connection.
pub(crate) fn refusal(status: u16) -> String {
    let reason = match status {
        400 => "Bad Request",
        408 => "Request Timeout",
        413 => "Content Too Large",
        414 => "URI Too Long",
        417 => "Expectation Failed",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        508 => "Loop Detected",
        _ => panic!("the proxy does not send {status} by itself"),
    };
    let length = format!("{status} {reason}\n").len();
    format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Length: {length}\r\nConnection: close\r\n\r\n{status} {reason}\n"
    )
}
