//! Checks the bytes of all connections at the end, with the strict reader, which shares no code
//! with the proxy's.
//!
//! | rule | meaning |
//! |---|---|
//! | O1 | a backend received complete requests and at most one incomplete one |
//! | O2 | each of them was sent by a client: method, target, body |
//! | O3 | a request that may not be repeated is forwarded completely at most once |
//! | O4 | a client received complete responses and at most one incomplete one, one per request |
//! | O5 | a complete response was sent completely by a backend, or is the proxy's own |
//! | O6 | a response that names a target belongs to the request for that target |
//! | O7 | no bytes follow a response that ends the connection |
//! | O8 | a connection to a backend is reused only if the backend's bytes ended with its response |
//! | O9 | a connection that required NTLM carries only requests of the client that got the challenge |
use std::collections::BTreeMap;

use super::operations::Link;
use super::texts::MARK;
use intelliproxy::fuzzing::forwarded_target;
use intelliproxy::fuzzing::strict::{self, Body, Extent, Head, Verdict};

/// Method, target, body.
type Request = (Vec<u8>, Vec<u8>, Vec<u8>);
/// Status, body.
type Response = (Vec<u8>, Vec<u8>);

/// Checks all bytes of the connections against the rules.
pub(super) fn check(links: &[Link<'_>]) {
    let mut sent: BTreeMap<Request, usize> = BTreeMap::new();
    for link in links.iter().filter(|link| link.peer.is_client()) {
        for (head, body) in requests(link.peer.read()) {
            if let Some(body) = body {
                let request = (head.line[0].clone(), target(&head), body.data);
                *sent.entry(request).or_default() += 1;
            }
        }
    }
    let mut responses: Vec<Response> = Vec::new();
    let is_tame = links.iter().all(|link| !link.is_wild);
    for link in links.iter().filter(|link| !link.peer.is_client()) {
        let begun = check_forwarded(link, &mut sent);
        read_responses(link, &begun, &mut responses, is_tame);
    }
    let is_wild = links.iter().any(|link| !link.peer.is_client() && link.is_wild);
    for link in links.iter().filter(|link| link.peer.is_client()) {
        check_responses(link, &responses, is_wild);
    }
}

/// Returns the leading valid requests. The last one may lack its body.
fn requests(mut bytes: &[u8]) -> Vec<(Head, Option<Body>)> {
    let mut requests = Vec::new();
    while let Verdict::Whole(head) = strict::request(bytes) {
        let rest = &bytes[head.len..];
        let read = head.request_extent().map(|extent| strict::body(rest, extent, false));
        let Ok(Verdict::Whole(body)) = read else {
            requests.push((head, None));
            break;
        };
        bytes = &rest[body.len..];
        requests.push((head, Some(body)));
    }
    requests
}

/// A request that a backend received, completely or in part.
struct Received {
    /// `None` if only the beginning of the head arrived.
    target: Option<Vec<u8>>,
    /// Possibly only its beginning.
    method: Vec<u8>,
    /// Bytes of the backend that had been read when it began.
    read_before: usize,
}

/// Checks O1 to O3 for one backend's connection. Returns its requests in order.
fn check_forwarded(link: &Link<'_>, sent: &mut BTreeMap<Request, usize>) -> Vec<Received> {
    let (mut rest, mut begun) = (&link.peer.received[..], Vec::new());
    let read_before = |at: usize| {
        link.peer.writes.iter().rev().find(|take| take.0 <= at).map_or(0, |&(_, read)| read)
    };
    while !rest.is_empty() {
        let read_before = read_before(link.peer.received.len() - rest.len());
        let head = match strict::request(rest) {
            Verdict::Whole(head) => head,
            Verdict::More => {
                let end = rest.iter().position(|&byte| byte == b' ').unwrap_or(rest.len());
                begun.push(Received { target: None, method: rest[..end].to_vec(), read_before });
                return begun;
            }
            Verdict::Wrong(why) => panic!("O1: {why} in {}", text(rest)),
        };
        let target = Some(head.line[1].clone());
        begun.push(Received { target, method: head.line[0].clone(), read_before });
        let extent = head.request_extent().expect("O1: a backend can tell where a body ends");
        let body = match strict::body(&rest[head.len..], extent, false) {
            Verdict::Whole(body) => body,
            Verdict::More => return begun,
            Verdict::Wrong(why) => panic!("O1: {why} in {}", text(rest)),
        };
        rest = &rest[head.len + body.len..];
        if head.values("User-Agent").any(|value| value == b"intelliproxy") {
            // A probe has its own connection.
            assert!(rest.is_empty(), "O1: a probe is alone");
            return begun;
        }
        let is_upgrade = head.values("Upgrade").next().is_some();
        let is_idempotent = !matches!(&head.line[0][..], b"POST" | b"PATCH");
        let request = (head.line[0].clone(), head.line[1].clone(), body.data);
        match sent.get_mut(&request) {
            Some(count) if is_idempotent || *count > 0 => *count = count.saturating_sub(1),
            Some(_) => panic!("O3: {} {} twice", text(&request.0), text(&request.1)),
            None => panic!("O2: no client sent {} {}", text(&request.0), text(&request.1)),
        }
        // After a 101 the bytes are of another protocol. Without one they are requests.
        if is_upgrade && is_switched(link.peer.read(), &begun) {
            return begun;
        }
    }
    begun
}

/// Returns whether the last of these requests got a 101.
fn is_switched(mut sent: &[u8], begun: &[Received]) -> bool {
    for (request, left) in begun.iter().zip((0..begun.len()).rev()) {
        loop {
            let Verdict::Whole(head) = strict::response(sent) else { return false };
            if head.line[1] == b"101" {
                return left == 0;
            }
            let is_head_request = request.method == b"HEAD";
            let Ok(extent) = head.response_extent(is_head_request) else { return false };
            let Verdict::Whole(body) = strict::body(&sent[head.len..], extent, false) else {
                return false;
            };
            sent = &sent[head.len + body.len..];
            if !head.line[1].starts_with(b"1") {
                break;
            }
        }
    }
    false
}

/// Checks O9: after `request` got a challenge, no other client's request follows.
fn check_own(request: &Received, later: &[Received]) {
    // The target is `/CLIENT/NUMBER`. Other targets do not name the client.
    let owner = |begun: &Received| {
        let target = String::from_utf8(begun.target.clone()?).ok()?;
        target.strip_prefix('/')?.split_once('/')?.0.parse::<usize>().ok()
    };
    let Some(own) = owner(request) else { return };
    for other in later.iter().filter_map(owner) {
        assert_eq!(own, other, "O9: a logged-in connection was given to another client");
    }
}

/// Adds the complete responses that a backend sent. Checks O8 and O9.
fn read_responses(
    link: &Link<'_>,
    begun: &[Received],
    responses: &mut Vec<Response>,
    is_tame: bool,
) {
    let (mut rest, mut begun) = (link.peer.read(), begun.iter());
    let mut asked = begun.next();
    while let (Verdict::Whole(head), Some(request)) = (strict::response(rest), asked) {
        // A response may arrive before the method has been written completely.
        let is_head_request = b"HEAD".starts_with(&request.method);
        let is_closed = link.peer.is_end_read && !link.peer.has_failed;
        let Ok(extent) = head.response_extent(is_head_request) else { break };
        let is_final = !head.line[1].starts_with(b"1");
        let read = strict::body(&rest[head.len..], extent, is_closed);
        let Verdict::Whole(body) = read else { break };
        rest = &rest[head.len + body.len..];
        if is_final {
            if is_tame && head.values("WWW-Authenticate").any(|value| value == b"NTLM") {
                check_own(request, begun.as_slice());
            }
            responses.push((head.line[1].clone(), body.data));
            asked = begun.next();
            let ended_at = link.peer.read().len() - rest.len();
            let is_clean = asked.is_none_or(|next| next.read_before == ended_at);
            assert!(is_clean, "O8: used again after {}", text(rest));
        }
    }
    assert!(begun.next().is_none(), "O8: used again without a response");
}

/// Checks O4 to O7 for one client.
fn check_responses(link: &Link<'_>, responses: &[Response], is_wild: bool) {
    let asked = if link.is_refused { Vec::new() } else { requests(link.peer.read()) };
    let (mut rest, mut count) = (&link.peer.received[..], 0);
    while !rest.is_empty() {
        let head = match strict::response(rest) {
            Verdict::Whole(head) => head,
            Verdict::More => return,
            Verdict::Wrong(why) => panic!("O4: {why} in {}", text(rest)),
        };
        let request = asked.get(count).map(|(head, _)| head);
        let is_old = request.is_some_and(|request| request.line[2] == b"HTTP/1.0");
        let is_closing = head.values("Connection").any(|value| value == b"close");
        if head.line[1] == b"101" {
            return assert!(request.is_some(), "O4: a tunnel was asked for");
        }
        if head.line[1].starts_with(b"1") {
            assert!(
                !is_old && request.is_some(),
                "O4: an interim response belongs to a request of HTTP/1.1"
            );
            rest = &rest[head.len..];
            continue;
        }
        assert!(request.is_some() || (count == asked.len() && is_closing), "O4: one too many");
        let is_chunked = head.values("Transfer-Encoding").next().is_some();
        assert!(!is_old || !is_chunked, "O4: HTTP/1.0 knows no chunks");
        let own = own_text(&rest[head.len..], &head);
        let is_bodiless = request.is_some_and(|request| request.line[0] == b"HEAD");
        let extent = head.response_extent(is_bodiless).expect("O4: a client can tell the end");
        let is_closed = link.peer.closed == Some(false) && !link.peer.has_failed;
        let body = match strict::body(&rest[head.len..], extent, is_closed) {
            Verdict::Whole(body) => body,
            Verdict::More => return,
            Verdict::Wrong(why) => panic!("O4: {why} in {}", text(rest)),
        };
        rest = &rest[head.len + body.len..];
        let is_own = own == Some(&body.data[..]) || is_own(&head, is_bodiless, &body);
        let is_sent =
            responses.iter().any(|response| response.0 == head.line[1] && response.1 == body.data);
        assert!(
            is_own || is_sent,
            "O5: no party sent {} {}",
            text(&head.line[1]),
            text(&body.data)
        );
        if let (Some(named), Some(request), false) = (named(&body.data), request, is_wild) {
            assert_eq!(
                text(named),
                text(&target(request)),
                "O6: the response belongs to its request"
            );
        }
        if is_closing || extent == Extent::UntilClose {
            assert!(rest.is_empty(), "O7: {} follows the last response", text(rest));
        }
        count += 1;
    }
}

/// Returns the text of one of the proxy's own errors, if `rest` begins with it.
fn own_text<'b>(rest: &'b [u8], head: &Head) -> Option<&'b [u8]> {
    let length = head.values("Content-Length").next()?;
    let length: usize = std::str::from_utf8(length).ok()?.parse().ok()?;
    let body = rest.get(..length)?;
    let expected = [&head.line[1][..], b" ", &head.line[2], b"\n"].concat();
    (body == expected).then_some(body)
}

/// Returns whether a response is /stats, or one of the proxy's own errors to a HEAD request.
fn is_own(head: &Head, is_bodiless: bool, body: &Body) -> bool {
    let kind = head.values("Content-Type").next().unwrap_or_default();
    (kind == b"application/json" && (is_bodiless || body.data.starts_with(b"[")))
        || (is_bodiless && kind == b"text/plain; charset=utf-8" && head.line[1][0] >= b'4')
}

/// Returns the target that a response names.
fn named(body: &[u8]) -> Option<&[u8]> {
    let named = body.strip_prefix(MARK.as_bytes())?;
    let end = named.iter().position(|&byte| byte == b'\n')?;
    named.starts_with(b"/").then_some(&named[..end])
}

fn target(head: &Head) -> Vec<u8> {
    let is_absolute = !head.line[1].starts_with(b"/") && head.line[1] != b"*";
    if is_absolute && !head.line[1].to_ascii_lowercase().starts_with(b"http://") {
        return head.line[1].clone();
    }
    forwarded_target(head)
}

fn text(bytes: &[u8]) -> String {
    bytes[..bytes.len().min(300)].escape_ascii().to_string()
}
