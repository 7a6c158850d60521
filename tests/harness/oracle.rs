//! The rules of every world, each a small function that `play.rs` calls.
use std::time::Duration;

use intelliproxy::proxy::Proxy;
use intelliproxy_core::Instant;

use crate::backend::Received;
use crate::client::{Client, End, Response};
use crate::ledger::{Fate, Ledger, OF_REQUEST, Request, content};
use crate::reader::Head;

/// The result of a rule: how it was broken.
pub type Verdict = Result<(), String>;

/// After a timeout is handled, the next one is later.
pub fn time_advances(now: Instant, next: Option<Instant>) -> Verdict {
    match next {
        Some(next) if next <= now => Err(format!("the next timeout is {next:?} at {now:?}")),
        _ => Ok(()),
    }
}

/// Only a client that got nothing for a second gives way for another one.
pub fn only_idle_clients_give_way(waited: Duration) -> Verdict {
    match waited < Duration::from_secs(1) {
        true => Err(format!("a client gave way {waited:?} after it got something")),
        false => Ok(()),
    }
}

/// All clients together hold at most four buffers each: received and outgoing bytes, on both sides.
pub fn buffers_are_bounded(proxy: &Proxy) -> Verdict {
    let (lent, clients) = (proxy.buffers_lent(), proxy.clients());
    if lent > 4 * clients {
        return Err(format!("{lent} buffers are lent to {clients} clients"));
    }
    Ok(())
}

/// No backend works for a client that left: there are at most as many exchanges as connected
/// clients (`there`).
pub fn no_backend_works_for_a_client_that_left(proxy: &Proxy, there: usize) -> Verdict {
    match proxy.in_flight() {
        count if count > there => Err(format!("{count} exchanges for {there} clients")),
        _ => Ok(()),
    }
}

/// Returns the number in the field `name` of a message.
pub fn number(head: &Head, name: &str) -> Option<u64> {
    head.number(name)
}

/// A request that breaks the rules of heads reaches no backend.
pub fn nothing_bad_is_forwarded(request: Request) -> Verdict {
    match request.fate {
        Fate::NeverForwarded => Err(format!("request {} was forwarded", request.id)),
        Fate::Good | Fate::NeverWhole => Ok(()),
    }
}

/// A body that reaches a backend is its request's own, with the full length if it looks complete.
pub fn request_body_is_exact_or_cut(request: Request, body: &[u8], is_whole: bool) -> Verdict {
    let id = request.id;
    let own = content(id, OF_REQUEST, request.body);
    if !own.starts_with(body) {
        return Err(format!("request {id} reached a backend with other bytes than its own"));
    }
    if is_whole && request.fate == Fate::NeverWhole {
        return Err(format!("request {id} is broken, but a backend got it whole"));
    }
    if is_whole && body.len() != own.len() {
        return Err(format!(
            "request {id} looks whole to a backend with {} of {} bytes",
            body.len(),
            own.len()
        ));
    }
    Ok(())
}

/// Exactly the permitted trailer fields of a request are forwarded.
pub fn request_trailer_is_kept(request: Request, received: &Received) -> Verdict {
    let own = [("x-sum".to_owned(), request.id.to_string())];
    let expected = if request.has_trailer { &own[..] } else { &[] };
    if received.is_whole && received.trailer != expected {
        return Err(format!("request {} came with trailer {:?}", request.id, received.trailer));
    }
    Ok(())
}

/// A request that may not be repeated reaches at most one backend, once.
pub fn nothing_is_done_twice(ledger: &Ledger, request: Request) -> Verdict {
    let runs = ledger.runs(request.id).len();
    if !request.is_idempotent && runs > 1 {
        return Err(format!("request {} was done {runs} times", request.id));
    }
    Ok(())
}

/// A backend's response goes to its own request.
pub fn response_belongs_to_its_request(response: &Response) -> Verdict {
    match (number(&response.head, "x-answer-to"), response.id) {
        (Some(to), Some(id)) if to != id => {
            Err(format!("request {id} got the response to request {to}"))
        }
        _ => Ok(()),
    }
}

/// A response's body is the one that the backend made, with the full length if it looks complete.
pub fn response_body_is_exact_or_cut(response: &Response) -> Verdict {
    let (Some(id), Some(run)) =
        (number(&response.head, "x-answer-to"), number(&response.head, "x-run"))
    else {
        return Ok(());
    };
    let len = number(&response.head, "x-length").unwrap_or_default();
    let own = content(id, run, len);
    if !own.starts_with(&response.body) {
        let at = own.iter().zip(&response.body).position(|(a, b)| a != b).unwrap_or(own.len());
        return Err(format!("the response to request {id} has a wrong byte at {at} of {len}"));
    }
    let has_body = !response.asked.is_head && !matches!(response.head.status, 101 | 204 | 304);
    if response.is_whole && has_body && response.body.len() != own.len() {
        return Err(format!(
            "the response to request {id} looks whole with {} of {len} bytes",
            response.body.len()
        ));
    }
    Ok(())
}

/// A tunnel returns its client's bytes, and all of them if it ends cleanly.
pub fn tunnel_is_exact_or_cut(response: &Response, request: Request) -> Verdict {
    if response.head.status != 101 {
        return Ok(());
    }
    let own = content(request.id, OF_REQUEST, request.tunnel);
    if !own.starts_with(&response.body) {
        return Err(format!("tunnel {} brings bytes that are not its own", request.id));
    }
    if response.is_whole && response.body.len() != own.len() {
        let got = response.body.len();
        return Err(format!("tunnel {} ended cleanly after {got} of {}", request.id, own.len()));
    }
    Ok(())
}

/// A response that no backend made is the proxy's own. Its text begins with the status and is
/// shorter than 64 bytes.
pub fn other_responses_are_the_proxys(response: &Response) -> Verdict {
    const OWN: [u16; 13] = [400, 405, 408, 413, 414, 417, 431, 501, 502, 503, 504, 505, 508];
    if response.id.is_none()
        || response.head.one("x-answer-to").is_some()
        || response.head.status == 0
    {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&response.body);
    let is_text = response.asked.is_head
        || !response.is_whole
        || (text.starts_with(&response.head.status.to_string()) && text.len() < 64);
    if OWN.contains(&response.head.status) && is_text {
        return Ok(());
    }
    Err(format!(
        "request {:?} got {} with {text:?}, which no backend sent",
        response.id, response.head.status
    ))
}

/// /stats is complete: a list of backends.
pub fn stats_are_whole(response: &Response) -> Verdict {
    let is_list = response.body.starts_with(b"[{\"name\":\"b") && response.body.ends_with(b"}]");
    let is_empty = response.asked.is_head || response.body == b"[]";
    if !is_stats(response) || !response.is_whole || is_list || is_empty {
        return Ok(());
    }
    Err(format!("/stats is {:?}", String::from_utf8_lossy(&response.body)))
}

/// Returns whether it is the proxy's own /stats.
pub fn is_stats(response: &Response) -> bool {
    response.id.is_none() && response.head.one("content-type") == Some("application/json")
}

/// An unsolicited response is an error from the proxy.
pub fn unsolicited_responses_are_errors(response: &Response) -> Verdict {
    let is_refusal =
        response.head.status >= 400 && response.head.one("connection") == Some("close");
    if response.is_asked_for || response.head.one("x-answer-to").is_none() && is_refusal {
        return Ok(());
    }
    Err(format!("unsolicited response {} with {:?}", response.head.status, response.head.fields))
}

/// A request with an invalid head gets no backend's response.
pub fn nothing_bad_is_served(response: &Response, request: Request) -> Verdict {
    if request.fate == Fate::NeverForwarded && response.head.one("x-answer-to").is_some() {
        return Err(format!("request {} is broken and was served", request.id));
    }
    Ok(())
}

/// If nothing goes wrong, every request gets its complete response from a backend.
pub fn fair_weather_serves_all(client: &Client) -> Verdict {
    let is_served = |response: &Response| {
        let is_expected = match response.id {
            Some(_) => response.head.one("x-answer-to").is_some(),
            // It requested /stats, from the proxy or a backend.
            None => response.head.status == 200,
        };
        response.is_whole && is_expected
    };
    if let Some(response) = client.responses.iter().find(|response| !is_served(response)) {
        return Err(format!(
            "nothing went wrong, but request {:?} got {} (whole: {})",
            response.id, response.head.status, response.is_whole
        ));
    }
    missing_responses_are_announced(client)
}

/// A request gets no response only if it follows a response that ends the connection. A client that
/// was closed for another one may have sent a request meanwhile.
pub fn missing_responses_are_announced(client: &Client) -> Verdict {
    if client.gave_way {
        return Ok(());
    }
    if client.outstanding.is_empty() || client.end != Some(End::Clean) {
        return if client.outstanding.is_empty() {
            Ok(())
        } else {
            Err(format!("{:?} without a response: {:?}", client.outstanding, client.end))
        };
    }
    let is_last = |response: &Response| match response.head.one("connection") {
        Some("close") => true,
        Some("keep-alive") => false,
        _ => response.asked.is_old || response.head.status == 101,
    };
    if client.responses.last().is_some_and(is_last) {
        return Ok(());
    }
    Err(format!("{:?} got no response, and no response ended the connection", client.outstanding))
}

/// A request that may be repeated is not lost to crashes while another backend works.
pub fn no_crash_loses_a_request(response: &Response, request: Request, ledger: &Ledger) -> Verdict {
    let is_lost = response.head.one("x-answer-to").is_none();
    if is_lost && request.is_idempotent && request.is_replayable && request.fate == Fate::Good {
        let runs = ledger.runs(request.id);
        if runs.iter().all(|run| run.is_crash) {
            return Err(format!(
                "request {} was lost with {} though a backend was well: {runs:?}",
                request.id, response.head.status
            ));
        }
    }
    Ok(())
}
