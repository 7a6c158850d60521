//! Random scripts of clients: methods, framings, pipelining, timing and violations.
use std::time::Duration;

use crate::client::{Pace, Step};
use crate::ledger::{Fate, Ledger, OF_REQUEST, Request, content};
use crate::net::Net;
use crate::reader::Asked;

/// A request that is being built.
struct Draft {
    id: u64,
    method: &'static str,
    is_old: bool,
    is_upgrade: bool,
    fate: Fate,
    body: Option<Body>,
    tunnel: u64,
    has_trailer: bool,
    steps: Vec<Step>,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Body {
    Length(u64),
    Chunked(u64),
}

/// Returns the script of a client that keeps all rules and waits for its responses.
pub fn polite(net: &mut Net, ledger: &mut Ledger) -> Vec<Step> {
    let mut script = Vec::new();
    if net.chance(15) {
        let bytes = net.pick(2000, 8000) as usize;
        let pause = Duration::from_millis(net.pick(1, 20));
        script.push(Step::Pace(Pace::Slow { bytes, pause }));
    }
    let count = net.pick(1, 6);
    let is_pipelined = net.chance(40);
    let ends = net.pick(0, 2);
    let mut asked = 0;
    let mut is_brief = is_pipelined && count == 1;
    for number in 1..=count {
        let is_last = number == count;
        if net.chance(5) {
            asked += 1;
            script.extend(stats(net));
        }
        asked += 1;
        let mut draft = Draft::new(net, ledger);
        draft.is_upgrade = is_last && net.chance(12);
        draft.render(net, is_last && ends == 0);
        if draft.is_upgrade && !ledger.half_closes {
            // Before the tunnel is open, the client's end would mean that the client left.
            let fin = draft.steps.len() - 2;
            draft.steps.insert(fin, Step::AwaitHead);
        }
        let is_tunnel = draft.is_upgrade;
        is_brief &= draft.body.is_none();
        script.extend(draft.finish(ledger));
        if is_tunnel {
            return script;
        }
        if !is_pipelined {
            script.push(Step::AwaitResponses(asked));
            if net.chance(30) {
                script.push(Step::Wait(Duration::from_millis(net.pick(0, 300))));
            }
        }
    }
    if ends == 1 {
        // An end right behind one request without a body counts as a half-close. Otherwise the
        // client must have its responses before it ends its side.
        if !ledger.half_closes && !is_brief {
            script.push(Step::AwaitResponses(asked));
        }
        script.extend([Step::Fin, Step::AwaitEnd]);
    }
    script
}

/// Requests /stats. The response is a backend's for a client without access.
fn stats(net: &mut Net) -> [Step; 2] {
    let is_head = net.chance(20);
    let method = if is_head { "HEAD" } else { "GET" };
    let head = format!("{method} /stats HTTP/1.1\r\nHost: a.test\r\n\r\n");
    let asked = Asked { is_head, ..Asked::default() };
    [Step::Ask { asked, id: None }, Step::Send(head.into_bytes())]
}

/// Returns the script of a client that breaks a rule, stalls, reads slowly or leaves. It may get an
/// error.
pub fn rude(net: &mut Net, ledger: &mut Ledger) -> Vec<Step> {
    let mut script = Vec::new();
    for _ in 0..net.pick(0, 2) {
        let mut draft = Draft::new(net, ledger);
        draft.render(net, false);
        script.extend(draft.finish(ledger));
    }
    let mut draft = Draft::new(net, ledger);
    match net.pick(0, 7) {
        0 | 1 => draft.break_head(net),
        2 => draft.break_chunks(net),
        3 => {
            // It stops in the middle of its body.
            draft.method = "POST";
            let len = net.pick(2, 20_000);
            draft.body = Some(if net.chance(50) { Body::Length(len) } else { Body::Chunked(len) });
            draft.fate = Fate::NeverWhole;
            draft.render(net, false);
            let Some(Step::Send(last)) = draft.steps.last_mut() else { return script };
            let cut = last.len().saturating_sub(net.pick(1, 8) as usize);
            last.truncate(cut);
            draft.steps.push(match net.pick(0, 3) {
                0 => Step::Fin,
                1 => Step::Reset,
                2 => Step::Close,
                _ => Step::Wait(Duration::from_secs(90)),
            });
            draft.steps.push(Step::AwaitEnd);
        }
        4 => {
            // It stalls in the middle of its head.
            draft.fate = Fate::NeverForwarded;
            draft.ask();
            draft.steps.push(Step::Send(b"GET /stalled HTTP/1.1\r\nHost: a.t".to_vec()));
            draft.steps.push(match net.pick(0, 2) {
                0 => Step::Fin,
                1 => Step::Close,
                _ => Step::Wait(Duration::from_secs(90)),
            });
            draft.steps.push(Step::AwaitEnd);
        }
        5 => {
            // It leaves without its response.
            draft.render(net, false);
            draft.steps.push(Step::Wait(Duration::from_millis(net.pick(0, 60))));
            draft.steps.push(if net.chance(50) { Step::Reset } else { Step::Close });
        }
        6 => {
            // It reads nothing for a long time, or ever.
            draft.steps.push(Step::Pace(Pace::Never));
            draft.render(net, false);
            draft.steps.push(Step::Wait(Duration::from_secs(net.pick(1, 90))));
            if net.chance(50) {
                draft.steps.push(Step::Pace(Pace::Fast));
            } else {
                draft.steps.push(Step::Close);
            }
        }
        _ => {
            draft.steps.push(Step::Pace(Pace::Slow {
                bytes: net.pick(1, 100) as usize,
                pause: Duration::from_millis(net.pick(1, 100)),
            }));
            draft.render(net, true);
            draft.steps.push(Step::Wait(Duration::from_secs(30)));
            draft.steps.push(Step::Close);
        }
    }
    script.extend(draft.finish(ledger));
    script
}

impl Draft {
    fn new(net: &mut Net, ledger: &Ledger) -> Self {
        let methods = ["GET", "GET", "GET", "GET", "HEAD", "POST", "POST", "PUT", "REPORT"];
        let method = methods[net.pick(0, 8) as usize];
        let is_old = net.chance(15);
        let has_body = matches!(method, "POST" | "PUT" | "REPORT");
        let len = match net.pick(0, 20) {
            0..=2 => 0,
            3 => 1,
            4..=10 => net.pick(0, 300),
            11..=16 => net.pick(0, 6000),
            17..=19 => net.pick(0, 40_000),
            _ => net.pick(100_000, 300_000),
        };
        let body = match net.pick(0, 9) {
            _ if !has_body => None,
            0 => None,
            1..=4 if !is_old => Some(Body::Chunked(len)),
            _ => Some(Body::Length(len)),
        };
        Self {
            id: ledger.next_id(),
            method,
            is_old,
            is_upgrade: false,
            tunnel: 0,
            fate: Fate::Good,
            has_trailer: matches!(body, Some(Body::Chunked(_))) && net.chance(30),
            body,
            steps: Vec::new(),
        }
    }

    fn len(&self) -> u64 {
        match self.body {
            None => 0,
            Some(Body::Length(len) | Body::Chunked(len)) => len,
        }
    }

    /// Begins to expect its response.
    fn ask(&mut self) {
        let asked = Asked {
            is_head: self.method == "HEAD",
            is_old: self.is_old,
            is_upgrade: self.is_upgrade,
        };
        self.steps.push(Step::Ask { asked, id: Some(self.id) });
    }

    fn finish(self, ledger: &mut Ledger) -> Vec<Step> {
        ledger.add(Request {
            id: self.id,
            fate: self.fate,
            is_idempotent: self.method != "POST",
            body: self.len(),
            tunnel: self.tunnel,
            has_trailer: self.has_trailer,
            is_replayable: match self.body {
                None => true,
                Some(Body::Length(len)) => len < 800,
                Some(Body::Chunked(_)) => false,
            },
        });
        self.steps
    }

    /// Writes the request correctly.
    fn render(&mut self, net: &mut Net, is_last: bool) {
        if self.is_upgrade {
            return self.render_upgrade(net);
        }
        self.ask();
        let head = self.head(net, is_last);
        let expects = self.len() > 0 && head.contains("Expect");
        let cut = net.pick(1, head.len() as u64 - 1) as usize;
        if net.chance(6) {
            self.steps.push(Step::Send(head.as_bytes()[..cut].to_vec()));
            self.steps.push(Step::Wait(Duration::from_millis(net.pick(0, 120))));
            self.steps.push(Step::Send(head.as_bytes()[cut..].to_vec()));
        } else {
            self.steps.push(Step::Send(head.into_bytes()));
        }
        if expects {
            self.steps.push(Step::AwaitSign);
        }
        let body = self.body_bytes(net);
        if body.is_empty() {
            return;
        }
        let is_slow = net.chance(15);
        if !is_slow && !expects && net.chance(70) {
            // Head and body in one piece.
            if let Some(Step::Send(bytes)) = self.steps.last_mut() {
                bytes.extend(body);
            }
            return;
        }
        for piece in body.chunks(body.len() / net.pick(1, 4) as usize + 1) {
            if is_slow {
                self.steps.push(Step::Wait(Duration::from_millis(net.pick(0, 60))));
            }
            self.steps.push(Step::Send(piece.to_vec()));
        }
    }

    /// Requests a tunnel, sends bytes through it, early or not, and ends its side.
    fn render_upgrade(&mut self, net: &mut Net) {
        self.method = if net.chance(50) { "GET" } else { "POST" };
        self.is_old = false;
        self.has_trailer = false;
        self.body = None;
        let len = net.pick(0, 30_000);
        self.tunnel = len;
        self.ask();
        let head = format!(
            "{} /{} HTTP/1.1\r\nHost: a.test\r\nX-Id: {}\r\nConnection: Upgrade\r\n\
             Upgrade: sim/1\r\n\r\n",
            self.method, self.id, self.id
        );
        self.steps.push(Step::Send(head.into_bytes()));
        if net.chance(50) {
            self.steps.push(Step::AwaitSign);
        }
        for piece in content(self.id, OF_REQUEST, len).chunks(len as usize / 3 + 1) {
            self.steps.push(Step::Send(piece.to_vec()));
            self.steps.push(Step::Wait(Duration::from_millis(net.pick(0, 40))));
        }
        self.steps.extend([Step::Fin, Step::AwaitEnd]);
    }

    fn head(&self, net: &mut Net, is_last: bool) -> String {
        let id = self.id;
        let mut head = String::new();
        if net.chance(4) {
            head.push_str("\r\n");
        }
        let target = match net.pick(0, 19) {
            0 => format!("http://absolute.test/{id}?q"),
            1 => format!("http://absolute.test?{id}"),
            _ => format!("/{id}"),
        };
        let version = if self.is_old { "1.0" } else { "1.1" };
        head.push_str(&format!("{} {target} HTTP/{version}\r\n", self.method));
        head.push_str(&format!("Host: a.test\r\nX-Id: {id}\r\n"));
        let mut options = Vec::new();
        if net.chance(15) {
            head.push_str("X-Hop: 1\r\n");
            options.push("X-hop");
        }
        if net.chance(15) {
            head.push_str("TE: trailers\r\n");
            options.push("TE");
        }
        match (self.is_old, is_last) {
            (true, false) => options.push("keep-alive"),
            (false, true) => options.push("close"),
            _ => {}
        }
        if !options.is_empty() {
            head.push_str(&format!("Connection: {}\r\n", options.join(", ")));
        }
        if net.chance(10) {
            head.push_str("Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\n");
        }
        if net.chance(10) {
            head.push_str("Content_Length: 7\r\nX-Forwarded-For: 10.9.8.7\r\n");
        }
        if net.chance(4) {
            let pad = "p".repeat(net.pick(0, 6000) as usize);
            head.push_str(&format!("X-Pad: {pad}\r\n"));
        }
        match self.body {
            Some(Body::Length(len)) => head.push_str(&format!("Content-Length: {len}\r\n")),
            Some(Body::Chunked(_)) => head.push_str("transfer-encoding: Chunked\r\n"),
            None => {}
        }
        if self.body.is_some() && !self.is_old && net.chance(15) {
            head.push_str("Expect: 100-continue\r\n");
        }
        head.push_str("\r\n");
        head
    }

    fn body_bytes(&self, net: &mut Net) -> Vec<u8> {
        let own = content(self.id, OF_REQUEST, self.len());
        if !matches!(self.body, Some(Body::Chunked(_))) {
            return own;
        }
        let mut trailer = String::new();
        if self.has_trailer {
            trailer = format!("X-Sum: {}\r\nContent-Length: 3\r\nHost: evil.test\r\n", self.id);
        }
        chunked(net, &own, &trailer)
    }

    /// Writes a head that breaks a rule, followed by another request that must not be served.
    fn break_head(&mut self, net: &mut Net) {
        self.fate = Fate::NeverForwarded;
        self.method = "POST";
        self.is_old = false;
        self.body = None;
        self.has_trailer = false;
        self.ask();
        let id = self.id;
        let smuggled = format!("GET /smuggled HTTP/1.1\r\nHost: a.test\r\nX-Id: {id}\r\n\r\n");
        let length = smuggled.len();
        let broken = [
            format!("Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n"),
            format!("Content-Length: {length}\r\nContent-Length: 0\r\n"),
            format!("Content-Length: {length}\r\nContent-Length: {length}\r\n"),
            format!("Content-Length: +{length}\r\n"),
            format!("Content-Length: {length}, {length}\r\n"),
            "Content-Length: 0x10\r\n".to_owned(),
            "Content-Length: \r\n".to_owned(),
            "Content-Length: 99999999999999999999\r\n".to_owned(),
            "Transfer-Encoding: chunked, identity\r\n".to_owned(),
            "Transfer-Encoding: gzip, chunked\r\n".to_owned(),
            "Transfer-Encoding: \x0bchunked\r\n".to_owned(),
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n".to_owned(),
            "Transfer-Encoding : chunked\r\n".to_owned(),
            "X-A: b\r\n folded\r\n".to_owned(),
            "X-A: b\nX-B: c\r\n".to_owned(),
            "X-A: b\rX-B: c\r\n".to_owned(),
            "X-A: b\0c\r\n".to_owned(),
            ": no name\r\n".to_owned(),
            "no colon\r\n".to_owned(),
            "X(A): b\r\n".to_owned(),
            "Host: b.test\r\n".to_owned(),
            "Expect: a-miracle\r\n".to_owned(),
            format!("X-Long: {}\r\n", "l".repeat(70_000)),
            "X-Many: 1\r\n".repeat(140),
        ];
        let fields = &broken[net.pick(0, broken.len() as u64 - 1) as usize];
        let lines = [
            format!("POST /{id} HTTP/1.0\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n"),
            format!("POST /{id} HTTP/1.1\r\nX-No-Host: a.test\r\n"),
            format!("POST /{id} HTTP/1.1\r\nHost: a b\r\n"),
            format!("POST /{id}#f HTTP/1.1\r\nHost: a.test\r\n"),
            format!("POST /a b{id} HTTP/1.1\r\nHost: a.test\r\n"),
            format!("POST  /{id} HTTP/1.1\r\nHost: a.test\r\n"),
            format!("POST /{id} HTTP/1.1 \r\nHost: a.test\r\n"),
            format!("POST /{id} HTTP/2.0\r\nHost: a.test\r\n"),
            format!("POST ftp://a/{id} HTTP/1.1\r\nHost: a.test\r\n"),
            format!("P(ST /{id} HTTP/1.1\r\nHost: a.test\r\n"),
            "CONNECT a.test:80 HTTP/1.1\r\nHost: a.test\r\n".to_owned(),
            format!("TRACE /{id} HTTP/1.1\r\nHost: a.test\r\n"),
            "PRI * HTTP/2.0\r\n".to_owned(),
        ];
        let line = &lines[net.pick(0, lines.len() as u64 - 1) as usize];
        let good = format!("POST /{id} HTTP/1.1\r\nHost: a.test\r\n");
        let (line, fields) =
            if net.chance(50) { (&good, fields.as_str()) } else { (line, "Accept: */*\r\n") };
        let bytes = format!("{line}X-Id: {id}\r\n{fields}\r\n{smuggled}").into_bytes();
        self.steps.push(Step::Send(bytes));
        self.steps.push(Step::AwaitEnd);
    }

    /// Writes a chunked body that breaks a rule, followed by a request that must not be served.
    fn break_chunks(&mut self, net: &mut Net) {
        self.fate = Fate::NeverWhole;
        self.method = "PUT";
        self.is_old = false;
        self.has_trailer = false;
        let len = net.pick(1, 3000);
        self.body = Some(Body::Chunked(len));
        self.ask();
        let head = self.head(net, false).replace("Expect: 100-continue\r\n", "");
        let own = content(self.id, OF_REQUEST, len);
        let broken: [&[u8]; 11] = [
            b"g\r\n",
            b"-1\r\n",
            b"+1\r\n",
            b"0x1\r\n",
            b" 1\r\n",
            b"1 \r\n",
            b"\r\n",
            b"fffffffffffffffff\r\n",
            b"1\nx\r\n0\r\n\r\n",
            b"1;\x01\r\n",
            b"0\r\nno colon\r\n\r\n",
        ];
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(format!("{len:x}\r\n").as_bytes());
        bytes.extend(own);
        bytes.extend_from_slice(if net.chance(15) { b"xy" } else { b"\r\n" });
        bytes.extend_from_slice(broken[net.pick(0, broken.len() as u64 - 1) as usize]);
        bytes.extend_from_slice(b"GET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n");
        self.steps.push(Step::Send(bytes));
        self.steps.push(Step::AwaitEnd);
    }
}

/// Returns `body` in random chunks, with extensions and a trailer.
pub fn chunked(net: &mut Net, body: &[u8], trailer: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let largest = [5, 100, 3000, 100_000][net.pick(0, 3) as usize].max(body.len() as u64 / 50);
    let mut rest = body;
    while !rest.is_empty() {
        let size = (net.pick(1, largest) as usize).min(rest.len());
        let (piece, after) = rest.split_at(size);
        let line = match net.pick(0, 9) {
            0 => format!("{size:X};ext=\"a;b\"\r\n"),
            1 => format!("00{size:x}\r\n"),
            _ => format!("{size:x}\r\n"),
        };
        bytes.extend_from_slice(line.as_bytes());
        bytes.extend_from_slice(piece);
        bytes.extend_from_slice(b"\r\n");
        rest = after;
    }
    bytes.extend_from_slice(b"0\r\n");
    bytes.extend_from_slice(trailer.as_bytes());
    bytes.extend_from_slice(b"\r\n");
    bytes
}
