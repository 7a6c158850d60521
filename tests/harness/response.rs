//! The responses of a model backend without a script: every framing, and every fault.
use std::time::Duration;

use crate::backend::Reply;
use crate::client::Step;
use crate::ledger::{Run, content};
use crate::net::Net;
use crate::plan::chunked;
use crate::reader::Head;
use crate::weather::Weather;

/// The way in which a response's body ends.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Framing {
    Length,
    Chunked,
    Close,
}

/// Chooses the response to a request. Returns it, and whether it is a good one. `run` counts
/// from 1. A steady backend never crashes.
pub fn decide(
    net: &mut Net,
    weather: Weather,
    is_steady: bool,
    head: &Head,
    run: u64,
) -> (Reply, Run) {
    let good = Run { backend: 0, is_good: true, is_crash: false };
    let bad = Run { is_good: false, ..good };
    match weather {
        Weather::Crashes if !is_steady && net.chance(40) => {
            let end = if net.chance(50) { Step::Reset } else { Step::Close };
            let mut reply = Reply::steps(vec![pause(net, 5), end]);
            reply.at_head = net.chance(50);
            (reply, Run { is_crash: true, ..bad })
        }
        Weather::Storm if net.chance(40) => (fault(net, head, run), bad),
        _ => (good_response(net, head, run, weather), good),
    }
}

fn pause(net: &mut Net, millis_max: u64) -> Step {
    Step::Wait(Duration::from_micros(net.pick(0, millis_max * 1000)))
}

fn good_response(net: &mut Net, head: &Head, run: u64, weather: Weather) -> Reply {
    if head.one("upgrade").is_some() && (weather == Weather::Clear || net.chance(70)) {
        let id = head.number("x-id").unwrap_or_default();
        let head = format!(
            "HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: sim/1\r\nX-Answer-To: {id}\r\n\r\n"
        );
        let steps = vec![pause(net, 20), Step::Send(head.into_bytes())];
        return Reply { at_head: false, steps, is_tunnel: true };
    }
    let mut steps = vec![pause(net, 30)];
    if net.chance(10) {
        let interim = ["HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", "HTTP/1.1 100 \r\n\r\n"];
        steps.push(Step::Send(interim[net.pick(0, 1) as usize].as_bytes().to_vec()));
        steps.push(pause(net, 20));
    }
    let Rendered { bytes, ends } = render(net, head, run);
    if net.chance(15) && bytes.len() > 2 {
        let cut = net.pick(1, bytes.len() as u64 - 1) as usize;
        steps.push(Step::Send(bytes[..cut].to_vec()));
        steps.push(pause(net, 100));
        steps.push(Step::Send(bytes[cut..].to_vec()));
    } else {
        steps.push(Step::Send(bytes));
    }
    if ends {
        steps.push(Step::Close);
    }
    if head.one("expect").is_some() && net.chance(60) {
        steps.insert(0, Step::Send(b"HTTP/1.1 100 Continue\r\n\r\n".to_vec()));
        // The final response follows some time after the interim one.
        steps.insert(1, pause(net, 50));
    }
    let is_early = weather == Weather::Storm && net.chance(8);
    Reply { at_head: is_early, steps, is_tunnel: false }
}

/// A complete response.
struct Rendered {
    bytes: Vec<u8>,
    /// Whether the connection ends with it.
    ends: bool,
}

/// Returns the response to a request.
fn render(net: &mut Net, head: &Head, run: u64) -> Rendered {
    let id = head.number("x-id").unwrap_or_default();
    let is_old = net.chance(10);
    let framing = match net.pick(0, 9) {
        0..=4 => Framing::Length,
        5..=7 if !is_old => Framing::Chunked,
        _ => Framing::Close,
    };
    let status = match net.pick(0, 29) {
        0 => 204,
        1 => 304,
        2 => 404,
        3 => 500,
        _ => 200,
    };
    let len = match net.pick(0, 20) {
        0 | 1 => 0,
        2..=10 => net.pick(0, 300),
        11..=17 => net.pick(0, 8000),
        18 | 19 => net.pick(0, 60_000),
        _ => net.pick(130_000, 500_000),
    };
    let len = if matches!(status, 204 | 304) { 0 } else { len };
    let mut text = format!(
        "HTTP/1.{} {status} Fine\r\nX-Answer-To: {id}\r\nX-Run: {run}\r\nX-Length: {len}\r\n",
        u8::from(!is_old)
    );
    if net.chance(10) {
        text.push_str("Keep-Alive: timeout=5\r\nProxy-Connection: close\r\n");
    }
    let has_body = head.method != "HEAD" && !matches!(status, 204 | 304);
    let ends = (has_body && framing == Framing::Close) || net.chance(8);
    match (ends, net.chance(10)) {
        (true, _) if !is_old => text.push_str("Connection: close\r\n"),
        (false, _) if is_old => text.push_str("Connection: keep-alive\r\n"),
        (false, true) => text.push_str("Connection: X-Hop\r\nX-Hop: 1\r\n"),
        _ => {}
    }
    match framing {
        Framing::Length if status == 200 && net.chance(5) => {
            text.push_str(&format!("Content-Length: {len}\r\nContent-Length: {len}\r\n"));
        }
        Framing::Length if status != 204 => text.push_str(&format!("Content-Length: {len}\r\n")),
        Framing::Chunked if has_body => text.push_str("Transfer-Encoding: chunked\r\n"),
        _ => {}
    }
    text.push_str("\r\n");
    let mut bytes = text.into_bytes();
    if has_body {
        let own = content(id, run, len);
        match framing {
            Framing::Chunked => {
                let trailer =
                    if net.chance(30) { format!("X-Sum: {id}\r\n") } else { String::new() };
                bytes.extend(chunked(net, &own, &trailer));
            }
            Framing::Length | Framing::Close => bytes.extend(own),
        }
    }
    Rendered { bytes, ends }
}

/// Returns a response with a fault.
fn fault(net: &mut Net, head: &Head, run: u64) -> Reply {
    let id = head.number("x-id").unwrap_or_default();
    let end = if net.chance(50) { Step::Reset } else { Step::Close };
    let whole = |len: u64, framing: &str| {
        let text = format!(
            "HTTP/1.1 200 OK\r\nX-Answer-To: {id}\r\nX-Run: {run}\r\nX-Length: {len}\r\n{framing}\r\n"
        );
        text.into_bytes()
    };
    let is_head = head.method == "HEAD";
    let steps = match net.pick(0, 9) {
        0 => vec![end],
        1 => {
            let bytes = whole(10, "Content-Length: 10\r\n");
            let cut = net.pick(1, bytes.len() as u64 - 1) as usize;
            vec![Step::Send(bytes[..cut].to_vec()), pause(net, 3), end]
        }
        2 | 3 => {
            // Cut inside the body. A body until close can only be cut by a reset.
            let len = net.pick(10, 90_000);
            let cut = net.pick(0, len - 1) as usize;
            let own = content(id, run, len);
            let (mut bytes, end) = match net.pick(0, 2) {
                0 => (whole(len, &format!("Content-Length: {len}\r\n")), end),
                1 => (whole(len, "Connection: close\r\n"), Step::Reset),
                _ => {
                    let mut bytes = whole(len, "Transfer-Encoding: chunked\r\n");
                    bytes.extend_from_slice(format!("{len:x}\r\n").as_bytes());
                    (bytes, end)
                }
            };
            if !is_head {
                bytes.extend_from_slice(&own[..cut]);
            }
            vec![Step::Send(bytes), pause(net, 30), end]
        }
        4 => vec![Step::Send(malformed(net, id, is_head)), pause(net, 3), end],
        5 => {
            // A second response follows in the same piece. It must not reach another request.
            let mut bytes = whole(0, "Content-Length: 0\r\n");
            let poison = "HTTP/1.1 200 OK\r\nX-Answer-To: 0\r\nContent-Length: 0\r\n\r\n";
            bytes.extend_from_slice(poison.as_bytes());
            vec![Step::SendWhole(bytes)]
        }
        6 => vec![],
        7 => {
            let mut bytes = whole(9, "Transfer-Encoding: chunked\r\n");
            if !is_head {
                bytes.extend_from_slice(b"3\r\n");
                bytes.extend_from_slice(&content(id, run, 9)[..3]);
                let broken: [&[u8]; 5] =
                    [b"\r\nx\r\n", b"\r\n-6\r\n", b"\r\n6;\0\r\n", b"!!", b"\r\n0\r\nbad\r\n\r\n"];
                bytes.extend_from_slice(broken[net.pick(0, 4) as usize]);
            }
            vec![Step::Send(bytes), Step::Wait(Duration::from_secs(60)), end]
        }
        8 => {
            let len = 5000;
            let mut bytes = whole(len, &format!("Content-Length: {len}\r\n"));
            if !is_head {
                bytes.extend_from_slice(&content(id, run, len)[..2500]);
            }
            vec![Step::Send(bytes), Step::Wait(Duration::from_secs(60)), end]
        }
        _ => vec![
            Step::Send("HTTP/1.1 102 Wait\r\n\r\n".repeat(13_000).into_bytes()),
            pause(net, 50),
            end,
        ],
    };
    let at_head = net.chance(20);
    Reply { at_head, steps, is_tunnel: false }
}

/// The number of malformed responses that have an invalid framing.
const FRAMINGS: u64 = 5;

fn malformed(net: &mut Net, id: u64, is_head: bool) -> Vec<u8> {
    // Invalid framings are first, because a response to HEAD has no framing that could be invalid.
    let heads = [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: five\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhello",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1  200 OK\r\n\r\n",
        "HTTP/2 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        "HTTP/1.1 200 OK\r\nX-A: b\r\n folded\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX A: b\r\n\r\n",
        "HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: evil\r\n\r\n",
        "SSH-2.0-OpenSSH\r\n\r\n",
        "\r\n\r\n",
        "\0\0\0\0\r\n\r\n",
    ];
    let count = heads.len() as u64;
    match net.pick(if is_head { FRAMINGS } else { 0 }, count) {
        at if at < count => heads[at as usize].as_bytes().to_vec(),
        _ => format!("HTTP/1.1 200 {id}\r\nX-Flood: {}\r\n\r\n", "f".repeat(70_000)).into_bytes(),
    }
}
