//! Texts of valid peers, and of some invalid ones.

/// Returns a client's request to `target`, which is unique.
pub(super) fn request(which: u8, target: &str) -> Vec<u8> {
    let fields = "Host: a.example\r\n";
    let text = match which % 16 {
        0 | 1 => format!("GET {target} HTTP/1.1\r\n{fields}\r\n"),
        2 => format!("HEAD {target} HTTP/1.1\r\n{fields}\r\n"),
        3 => format!("POST {target} HTTP/1.1\r\n{fields}Content-Length: 5\r\n\r\nhello"),
        4 => format!(
            "PUT {target} HTTP/1.1\r\n{fields}Transfer-Encoding: chunked\r\n\r\n\
             3;x=y\r\nabc\r\n0A\r\n0123456789\r\n0\r\nX-T: 1\r\nHost: b\r\n\r\n"
        ),
        5 => format!("POST {target} HTTP/1.1\r\n{fields}Content-Length: 3000\r\n\r\n"),
        6 => format!("GET {target} HTTP/1.0\r\n\r\n"),
        7 => format!("GET {target} HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"),
        8 => format!("GET {target} HTTP/1.1\r\n{fields}Connection: close\r\nTE: trailers\r\n\r\n"),
        9 => {
            format!("GET {target}a HTTP/1.1\r\n{fields}\r\nGET {target}b HTTP/1.1\r\n{fields}\r\n")
        }
        10 => format!(
            "GET {target} HTTP/1.1\r\n{fields}Connection: upgrade\r\nUpgrade: websocket\r\n\r\n"
        ),
        11 => format!("GET /stats HTTP/1.1\r\n{fields}X: {target}\r\n\r\n"),
        12 => format!(
            "POST {target} HTTP/1.1\r\n{fields}Expect: 100-continue\r\nContent-Length: 5\r\n\r\n"
        ),
        13 => format!("GET http://b.example{target} HTTP/1.1\r\n{fields}TE: trailers\r\n\r\n"),
        14 => {
            format!("POST {target} HTTP/1.1\r\n{fields}Transfer-Encoding: chunked\r\n\r\nbb8\r\n")
        }
        _ => format!(
            "POST {target} HTTP/1.1\r\n{fields}Content-Length: 4\r\nTransfer-Encoding: chunked\
             \r\n\r\n0\r\n\r\nGET {target}smuggled HTTP/1.1\r\n{fields}\r\n"
        ),
    };
    text.into_bytes()
}

/// Returns a backend's response to a request for `target`.
pub(super) fn response(which: u8, target: &str) -> Vec<u8> {
    let body = format!("{MARK}{target}\n");
    let len = body.len();
    let text = match which % 21 {
        0..=2 => format!("HTTP/1.1 200 OK\r\nContent-Length: {len}\r\n\r\n{body}"),
        3 => format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
             {len:x};x=y\r\n{body}\r\n0\r\nX-T: 1\r\nContent-Length: 2\r\n\r\n"
        ),
        4 => "HTTP/1.1 204 No Content\r\n\r\n".to_owned(),
        5 => format!("HTTP/1.1 304 Not Modified\r\nContent-Length: {len}\r\n\r\n"),
        6 => format!(
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: {len}\r\n\r\n{body}"
        ),
        7 => "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".to_owned(),
        8 => {
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
                .to_owned()
        }
        9 => format!("HTTP/1.0 200 OK\r\n\r\n{body}"),
        10 => format!("HTTP/1.1 200 OK\r\n\r\n{body}"),
        11 => {
            format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {len}\r\n\r\n{body}")
        }
        12 => format!("HTTP/1.1 503 Busy\r\nContent-Length: {len}\r\n\r\n{body}"),
        13 => format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", len + 3000),
        14 => format!("HTTP/1.1 200 OK\r\nContent-Length: {len}\r\n\r\n"),
        15 => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nbb8\r\n".to_owned(),
        16 => format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {len}\r\nTransfer-Encoding: chunked\r\n\r\n{body}"
        ),
        17 => format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", len - 4),
        18 => {
            format!("HTTP/1.1 200 OK\r\nContent-Length: {len}\r\nContent-Length: 1\r\n\r\n{body}")
        }
        19 => "HTTP/1.1 200 OK\nContent-Length: 0\n\n".to_owned(),
        _ => {
            format!(
                "HTTP/1.1 401 No\r\nWWW-Authenticate: NTLM\r\nContent-Length: {len}\r\n\r\n{body}"
            )
        }
    };
    text.into_bytes()
}

/// Prefix of a response body, before its request's target and a line end.
pub(super) const MARK: &str = "reply for ";
