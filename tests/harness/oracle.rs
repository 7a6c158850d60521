//! Rules that hold in every world, each a small function of its own.
use std::time::Duration;

use intelliproxy::proxy::Proxy;
use intelliproxy_core::Instant;

use crate::backend::Received;
use crate::client::{Answer, Client, End};
use crate::ledger::{Fate, Ledger, OF_REQUEST, Request, content};
use crate::strict::Head;

/// Verdict of a rule: success, or a description of the violation.
pub type Verdict = Result<(), String>;

/// After a timeout was handled, the next one is later.
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

/// A session holds at most its four buffers: what came and what goes out, on both sides.
pub fn buffers_are_bounded(proxy: &Proxy) -> Verdict {
    let (lent, clients) = (proxy.buffers_lent(), proxy.clients());
    if lent > 4 * clients {
        return Err(format!("{lent} buffers are lent to {clients} clients"));
    }
    Ok(())
}

/// No backend works for a client whose end has reached the proxy.
pub fn nobody_works_for_the_gone(proxy: &Proxy, there: usize) -> Verdict {
    match proxy.in_flight() {
        count if count > there => Err(format!("{count} exchanges for {there} clients")),
        _ => Ok(()),
    }
}

/// The number that a message carries in `name`.
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

/// A body that reaches a backend is its request's own, and as long as it if it looks whole.
pub fn request_body_is_exact_or_cut(request: Request, body: &[u8], is_whole: bool) -> Verdict {
    let id = request.id;
    let own = content(id, OF_REQUEST, request.body);
    if !own.starts_with(body) {
        return Err(format!("request {id} reached a backend with other bytes than its own"));
    }
    if is_whole && request.fate == Fate::NeverWhole {
        return Err(format!("request {id} is broken, and yet a backend got it whole"));
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

/// Of a request's trailer fields those pass that may, and no others.
pub fn request_trailer_is_kept(request: Request, received: &Received) -> Verdict {
    let own = [("x-sum".to_owned(), request.id.to_string())];
    let expected = if request.has_trailer { &own[..] } else { &[] };
    if received.is_whole && received.trailer != expected {
        return Err(format!("request {} came with trailer {:?}", request.id, received.trailer));
    }
    Ok(())
}

/// A request that may not be done twice is not.
pub fn nothing_is_done_twice(ledger: &Ledger, request: Request) -> Verdict {
    let runs = ledger.runs(request.id).len();
    if !request.is_idempotent && runs > 1 {
        return Err(format!("request {} was done {runs} times", request.id));
    }
    Ok(())
}

/// An answer that a backend made goes to the request that it answers.
pub fn answer_is_ones_own(answer: &Answer) -> Verdict {
    match (number(&answer.head, "x-answer-to"), answer.id) {
        (Some(to), Some(id)) if to != id => {
            Err(format!("request {id} got the answer to request {to}"))
        }
        _ => Ok(()),
    }
}

/// An answer's body is the one that the backend made, and as long as it if it looks whole.
pub fn answer_body_is_exact_or_cut(answer: &Answer) -> Verdict {
    let (Some(id), Some(run)) =
        (number(&answer.head, "x-answer-to"), number(&answer.head, "x-run"))
    else {
        return Ok(());
    };
    let len = number(&answer.head, "x-length").unwrap_or_default();
    let own = content(id, run, len);
    if !own.starts_with(&answer.body) {
        let at = own.iter().zip(&answer.body).position(|(a, b)| a != b).unwrap_or(own.len());
        return Err(format!("the answer to request {id} has a wrong byte at {at} of {len}"));
    }
    let has_body = !answer.asked.is_head && !matches!(answer.head.status, 101 | 204 | 304);
    if answer.is_whole && has_body && answer.body.len() != own.len() {
        return Err(format!(
            "the answer to request {id} looks whole with {} of {len} bytes",
            answer.body.len()
        ));
    }
    Ok(())
}

/// A tunnel brings back what its client sent, and all of it if it ends cleanly.
pub fn tunnel_is_exact_or_cut(answer: &Answer, request: Request) -> Verdict {
    if answer.head.status != 101 {
        return Ok(());
    }
    let own = content(request.id, OF_REQUEST, request.tunnel);
    if !own.starts_with(&answer.body) {
        return Err(format!("tunnel {} brings bytes that are not its own", request.id));
    }
    if answer.is_whole && answer.body.len() != own.len() {
        let got = answer.body.len();
        return Err(format!("tunnel {} ended cleanly after {got} of {}", request.id, own.len()));
    }
    Ok(())
}

/// An answer that no backend made is one that the proxy makes, and its text says no more than its
/// status.
pub fn other_answers_are_the_proxys(answer: &Answer) -> Verdict {
    const OWN: [u16; 13] = [400, 405, 408, 413, 414, 417, 431, 501, 502, 503, 504, 505, 508];
    if answer.id.is_none() || answer.head.one("x-answer-to").is_some() || answer.head.status == 0 {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&answer.body);
    let is_text = answer.asked.is_head
        || !answer.is_whole
        || (text.starts_with(&answer.head.status.to_string()) && text.len() < 64);
    if OWN.contains(&answer.head.status) && is_text {
        return Ok(());
    }
    Err(format!("request {:?} got {} with {text:?} from no backend", answer.id, answer.head.status))
}

/// /stats is whole: a list of backends.
pub fn stats_are_whole(answer: &Answer) -> Verdict {
    let is_list = answer.body.starts_with(b"[{\"name\":\"b") && answer.body.ends_with(b"}]");
    let is_empty = answer.asked.is_head || answer.body == b"[]";
    if !is_stats(answer) || !answer.is_whole || is_list || is_empty {
        return Ok(());
    }
    Err(format!("/stats is {:?}", String::from_utf8_lossy(&answer.body)))
}

/// Whether it is the proxy's own /stats.
pub fn is_stats(answer: &Answer) -> bool {
    answer.id.is_none() && answer.head.one("content-type") == Some("application/json")
}

/// An unsolicited response is the proxy's report of a fault.
pub fn stray_answers_are_refusals(answer: &Answer) -> Verdict {
    let is_refusal = answer.head.status >= 400 && answer.head.one("connection") == Some("close");
    if answer.is_asked_for || answer.head.one("x-answer-to").is_none() && is_refusal {
        return Ok(());
    }
    Err(format!("without a request, {} came with {:?}", answer.head.status, answer.head.fields))
}

/// A broken request gets no backend's answer.
pub fn nothing_bad_is_answered_well(answer: &Answer, request: Request) -> Verdict {
    if request.fate == Fate::NeverForwarded && answer.head.one("x-answer-to").is_some() {
        return Err(format!("request {} is broken and was served", request.id));
    }
    Ok(())
}

/// With nothing going wrong anywhere, every request gets its whole answer from a backend.
pub fn fair_weather_serves_all(client: &Client) -> Verdict {
    let is_served = |answer: &Answer| {
        let is_answered = match answer.id {
            Some(_) => answer.head.one("x-answer-to").is_some(),
            // It asked for /stats, of the proxy or of a backend.
            None => answer.head.status == 200,
        };
        answer.is_whole && is_answered
    };
    if let Some(answer) = client.answers.iter().find(|answer| !is_served(answer)) {
        return Err(format!(
            "nothing went wrong, and yet request {:?} got {} (whole: {})",
            answer.id, answer.head.status, answer.is_whole
        ));
    }
    unanswered_is_announced(client)
}

/// Requests stay unanswered only behind an answer that says that it is the last.
/// A client that was closed for another one may have sent a request meanwhile.
pub fn unanswered_is_announced(client: &Client) -> Verdict {
    if client.gave_way {
        return Ok(());
    }
    if client.outstanding.is_empty() || client.end != Some(End::Clean) {
        return if client.outstanding.is_empty() {
            Ok(())
        } else {
            Err(format!("{:?} without an answer: {:?}", client.outstanding, client.end))
        };
    }
    let is_last = |answer: &Answer| match answer.head.one("connection") {
        Some("close") => true,
        Some("keep-alive") => false,
        _ => answer.asked.is_old || answer.head.status == 101,
    };
    if client.answers.last().is_some_and(is_last) {
        return Ok(());
    }
    Err(format!("{:?} got no answer, and nothing said so", client.outstanding))
}

/// A request that may be done again is not lost to crashes while another backend is well.
pub fn no_crash_loses_a_request(answer: &Answer, request: Request, ledger: &Ledger) -> Verdict {
    let is_lost = answer.head.one("x-answer-to").is_none();
    if is_lost && request.is_idempotent && request.is_replayable && request.fate == Fate::Good {
        let runs = ledger.runs(request.id);
        if runs.iter().all(|run| run.is_crash) {
            return Err(format!(
                "request {} was lost with {} though a backend was well: {runs:?}",
                request.id, answer.head.status
            ));
        }
    }
    Ok(())
}
