//! What a model backend answers when no script says so.
use crate::backend::Reply;
use crate::ledger::{Run, content};
use crate::net::Net;
use crate::strict::Head;
use crate::weather::Weather;

/// The answer to a request, and what it is worth; `run` counts from 1.
pub fn decide(
    net: &mut Net,
    _weather: Weather,
    _is_steady: bool,
    head: &Head,
    run: u64,
) -> (Reply, Run) {
    let id = head.number("x-id").unwrap_or_default();
    let len = net.pick(0, 3000);
    let mut bytes = format!(
        "HTTP/1.1 200 OK\r\nX-Answer-To: {id}\r\nX-Run: {run}\r\nX-Length: {len}\r\n\
         Content-Length: {len}\r\n\r\n"
    )
    .into_bytes();
    if head.method != "HEAD" {
        bytes.extend(content(id, run, len));
    }
    (Reply::bytes(bytes), Run { backend: 0, is_good: true, is_crash: false })
}
