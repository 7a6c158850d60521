//! One admin connection: a request, its response, and the next request.
//!
//! | state | waits for | at most |
//! |---|---|---|
//! | `Asking` | a complete head | [`IDLE_MAX`], [`HEAD_MAX`] from its first byte |
//! | `Waiting` | a page that is being built | no limit |
//! | `Sending` | the client to accept the response | [`WRITE_MAX`] without an accepted byte |
//! | `Streaming` | the next part of the events, or the client to accept the last one | [`WRITE_MAX`] without an accepted byte |
//! | `Closing` | the client's end; further input is dropped | [`LINGER_MAX`] |
//!
//! A response is the last one of its connection if the request is invalid, has a body or
//! `Connection: close`, or is HTTP/1.0.
use std::sync::Arc;
use std::time::Duration;

use intelliproxy_core::Instant;

use super::TEXT;
use super::pages::Page;
use crate::http::accept::{accepts_gzip, list_of, prefers};
use crate::http::answer::{encode_error, encode_head, encode_stream_head};
use crate::http::field::Slots;
use crate::http::framing::{Framing, request_framing};
use crate::http::head::{HeadLimits, Parsed, RequestHead, Version, parse_request};
use crate::http::persistence::is_persistent;
use crate::pages::live::Cursor;

/// The maximum size of a request head, in bytes.
const HEAD_BYTES_MAX: usize = 8 * 1024;
const LIMITS: HeadLimits =
    HeadLimits { head_bytes_max: HEAD_BYTES_MAX, target_bytes_max: 2048, fields_max: 64 };
/// Time between two requests: a scrape once a minute keeps its connection.
const IDLE_MAX: Duration = Duration::from_secs(75);
/// Time from a head's first byte to its end.
const HEAD_MAX: Duration = Duration::from_secs(10);
/// The time limit for a client that accepts no bytes of the response.
pub(crate) const WRITE_MAX: Duration = Duration::from_secs(10);
/// Time for which further bytes of a client are dropped after the last response, so that a reset
/// does not destroy the response (RFC 9112 section 9.6).
const LINGER_MAX: Duration = Duration::from_secs(2);

/// The resource that a request is for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Asked {
    Page(Page),
    /// The live page; `takes_gzip` is whether the client accepts it compressed.
    Live {
        takes_gzip: bool,
    },
    /// The events of the live page.
    Events,
    Health,
    Readiness,
    Config,
    /// The last decisions, or the one for this request.
    Explain(Option<String>),
}

#[derive(Debug)]
pub(super) struct Session {
    state: State,
    input: Box<[u8; HEAD_BYTES_MAX]>,
    filled: usize,
    is_head_request: bool,
    is_persistent: bool,
    is_eof: bool,
    /// The Vary line of the response.
    vary: &'static str,
}

#[derive(Debug)]
enum State {
    Asking {
        since: Instant,
        has_begun: bool,
    },
    Waiting {
        page: Page,
    },
    Sending {
        head: Vec<u8>,
        body: Arc<Vec<u8>>,
        written: usize,
        since: Instant,
    },
    Streaming {
        part: Arc<[u8]>,
        written: usize,
        since: Instant,
        cursor: Cursor,
        is_last: bool,
        began: Instant,
        /// Whether it ends for another stream, after the part that the client has not yet taken.
        gives_way: bool,
    },
    Closing {
        since: Instant,
    },
}

impl Session {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            state: State::Asking { since: now, has_begun: false },
            input: Box::new([0; HEAD_BYTES_MAX]),
            filled: 0,
            is_head_request: false,
            is_persistent: false,
            is_eof: false,
            vary: "",
        }
    }

    pub(super) fn read_space(&mut self) -> &mut [u8] {
        match self.state {
            State::Asking { .. } => &mut self.input[self.filled..],
            // Read only to see the client's end. The bytes are dropped.
            State::Closing { .. } | State::Streaming { .. } => &mut self.input[..],
            // The next request waits in the system until this one has its response.
            State::Waiting { .. } | State::Sending { .. } => &mut [],
        }
    }

    pub(super) fn handle_read(&mut self, now: Instant, count: usize) {
        if let State::Asking { since, has_begun } = &mut self.state {
            self.filled = (self.filled + count).min(HEAD_BYTES_MAX);
            if !std::mem::replace(has_begun, true) {
                *since = now;
            }
        }
    }

    /// Makes the current response the last one.
    pub(super) const fn handle_leaving(&mut self) {
        self.is_persistent = false;
    }

    /// Handles the end of the client's side. Returns whether the connection is over.
    pub(super) fn handle_eof(&mut self) -> bool {
        self.is_eof = true;
        self.is_persistent = false;
        // A client that has ended its side still reads the response to its last request.
        matches!(self.state, State::Asking { .. } | State::Closing { .. } | State::Streaming { .. })
    }

    pub(super) fn write_ready(&self) -> &[u8] {
        if let State::Streaming { part, written, .. } = &self.state {
            return part.get(*written..).unwrap_or_default();
        }
        let State::Sending { head, body, written, .. } = &self.state else { return &[] };
        match written.checked_sub(head.len()) {
            None => &head[*written..],
            Some(_) if self.is_head_request => &[],
            Some(of_body) => &body[of_body..],
        }
    }

    /// Handles that the client took `count` bytes. Returns whether the response is all written.
    pub(super) fn handle_written(&mut self, now: Instant, count: usize) -> bool {
        if let State::Streaming { part, written, since, is_last, .. } = &mut self.state {
            *written += count;
            *since = now;
            let is_over = *is_last && *written >= part.len();
            if is_over {
                self.state = State::Closing { since: now };
            }
            return is_over;
        }
        let State::Sending { written, since, .. } = &mut self.state else { return false };
        *written += count;
        *since = now;
        if !self.write_ready().is_empty() {
            return false;
        }
        self.state = if self.is_persistent {
            // A client may have sent its next request already.
            State::Asking { since: now, has_begun: self.filled > 0 }
        } else {
            State::Closing { since: now }
        };
        true
    }

    /// Takes the next request if it is complete. Responds at once if it is invalid or names no
    /// page.
    pub(super) fn take_request(&mut self, now: Instant, date: &str) -> Option<Asked> {
        if !matches!(self.state, State::Asking { .. }) {
            return None;
        }
        let mut slots = Slots::new();
        let head = match parse_request(&self.input[..self.filled], &mut slots, &LIMITS) {
            Ok(Parsed::Complete(head)) => head,
            Ok(Parsed::Partial) if self.filled < HEAD_BYTES_MAX => return None,
            Ok(Parsed::Partial) => return self.refuse(now, 431, date),
            Err(error) => return self.refuse(now, error.status(), date),
        };
        let framing = match request_framing(&head) {
            Ok(framing) => framing,
            Err(error) => return self.refuse(now, error.status(), date),
        };
        let (asked, vary) = resource(&head).unzip();
        self.vary = vary.unwrap_or_default();
        // A stream of events is in chunks, which only HTTP/1.1 has (RFC 9112 section 6.1).
        let has_chunks = head.version == Version::Http11;
        let is_known_method = matches!(head.method, "GET" | "HEAD");
        self.is_head_request = head.method == "HEAD";
        self.is_persistent = is_persistent(head.version, &head.fields)
            && head.version == Version::Http11
            // A body is not read, so no request can follow it.
            && framing == Framing::None
            && !self.is_eof;
        let len = head.len;
        self.input.copy_within(len..self.filled, 0);
        self.filled -= len;
        let (status, fields) = match (asked, is_known_method) {
            (Some(Asked::Events), true) if !has_chunks => (505, ""),
            (Some(asked), true) => return Some(asked),
            (Some(_), false) => (405, "Allow: GET, HEAD\r\n"),
            (None, _) => (404, ""),
        };
        let text = match status {
            404 => "404 Not Found\n",
            405 => "405 Method Not Allowed\n",
            _ => "505 HTTP Version Not Supported: the events need HTTP/1.1\n",
        };
        self.respond(now, (status, TEXT), &[date, fields], Arc::new(text.into()));
        None
    }

    /// Responds to an invalid request, and ends the connection.
    fn refuse(&mut self, now: Instant, status: u16, date: &str) -> Option<Asked> {
        self.is_persistent = false;
        self.is_head_request = false;
        let head = encode_error(status, date, false, Some("close"));
        self.state = State::Sending { head, body: Arc::default(), written: 0, since: now };
        None
    }

    /// Begins a response; `fields` are header lines, each with its line end.
    pub(super) fn respond(
        &mut self,
        now: Instant,
        (status, kind): (u16, &str),
        fields: &[&str],
        body: Arc<Vec<u8>>,
    ) {
        let connection = if self.is_persistent { None } else { Some("close") };
        let fields = fields.concat() + self.vary + "Cache-Control: no-store\r\n";
        let head = encode_head(status, "", kind, &fields, body.len(), connection);
        self.state = State::Sending { head, body, written: 0, since: now };
    }

    /// Begins an event stream with its first part. It ends its connection.
    pub(super) fn begin_stream(&mut self, now: Instant, date: &str, part: &[u8], cursor: Cursor) {
        let mut first = encode_stream_head(date, "");
        if self.is_head_request {
            self.is_persistent = false;
            self.state =
                State::Sending { head: first, body: Arc::default(), written: 0, since: now };
            return;
        }
        first.extend_from_slice(part);
        let part = first.into();
        self.state = State::Streaming {
            part,
            written: 0,
            since: now,
            cursor,
            is_last: false,
            began: now,
            gives_way: false,
        };
    }

    /// Returns the time at which an event stream began; `None` if it is about to end.
    pub(super) const fn runs_since(&self) -> Option<Instant> {
        match self.state {
            State::Streaming { began, is_last: false, gives_way: false, .. } => Some(began),
            _ => None,
        }
    }

    /// Makes an event stream end for another one.
    pub(super) const fn give_way(&mut self) {
        if let State::Streaming { gives_way, .. } = &mut self.state {
            *gives_way = true;
        }
    }

    pub(super) const fn gives_way(&self) -> bool {
        matches!(self.state, State::Streaming { gives_way: true, .. })
    }

    /// Returns the cursor of an event stream whose last part is all written.
    pub(super) fn free_cursor(&mut self) -> Option<&mut Cursor> {
        match &mut self.state {
            State::Streaming { part, written, cursor, is_last: false, .. }
                if *written == part.len() =>
            {
                Some(cursor)
            }
            _ => None,
        }
    }

    /// Continues an event stream; the last part ends the connection.
    pub(super) fn pass_part(&mut self, now: Instant, next: Arc<[u8]>, ends: bool) {
        if let State::Streaming { part, written, since, is_last, .. } = &mut self.state {
            (*part, *written, *since, *is_last) = (next, 0, now, ends);
        }
    }

    pub(super) const fn is_streaming(&self) -> bool {
        matches!(self.state, State::Streaming { .. })
    }

    pub(super) fn wait_for(&mut self, page: Page) {
        self.state = State::Waiting { page };
    }

    pub(super) const fn awaits(&self) -> Option<Page> {
        match self.state {
            State::Waiting { page } => Some(page),
            _ => None,
        }
    }

    pub(super) const fn is_closing(&self) -> bool {
        matches!(self.state, State::Closing { .. })
    }

    /// Returns the time at which the wait for a request, or for the end, began; `None` while a
    /// request is served. A stream that gives way waits for its end.
    pub(super) const fn idle_since(&self) -> Option<Instant> {
        match self.state {
            State::Asking { since, .. }
            | State::Closing { since }
            | State::Streaming { since, gives_way: true, .. } => Some(since),
            State::Waiting { .. } | State::Sending { .. } | State::Streaming { .. } => None,
        }
    }

    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        self.poll_timeout().is_some_and(|at| at <= now)
    }

    /// Returns the time at which the connection must be closed.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        Some(match self.state {
            State::Asking { since, has_begun: false } => since + IDLE_MAX,
            State::Asking { since, has_begun: true } => since + HEAD_MAX,
            State::Waiting { .. } => return None,
            State::Streaming { written, ref part, .. } if written == part.len() => return None,
            State::Sending { since, .. } | State::Streaming { since, .. } => since + WRITE_MAX,
            State::Closing { since } => since + LINGER_MAX,
        })
    }
}

/// Decodes percent-encoded octets (RFC 3986 section 2.1). Other text is not changed.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, further @ ..] = rest {
        let digits = further.get(..2).filter(|_| *first == b'%');
        let digits = digits.filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        let digits = digits.and_then(|digits| str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(octet) => {
                bytes.push(octet);
                rest = &further[2..];
            }
            None => {
                bytes.push(*first);
                rest = further;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Returns the resource of a target in origin form or absolute form, and the Vary line of its
/// response. Only /explain uses the query.
fn resource(head: &RequestHead<'_, '_>) -> Option<(Asked, &'static str)> {
    let target = std::str::from_utf8(head.target).ok()?;
    let path = match target.strip_prefix("http://") {
        Some(rest) => rest.find('/').map(|at| &rest[at..])?,
        None => target,
    };
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let asked = match path {
        "/" if prefers(&list_of(&head.fields, "accept"), b"text/html", b"application/json") => {
            let takes_gzip = accepts_gzip(&list_of(&head.fields, "accept-encoding"));
            return Some((Asked::Live { takes_gzip }, "Vary: Accept, Accept-Encoding\r\n"));
        }
        "/" => return Some((Asked::Page(Page::Stats), "Vary: Accept\r\n")),
        "/events" => Asked::Events,
        "/stats" => Asked::Page(Page::Stats),
        "/metrics" => Asked::Page(Page::Metrics),
        "/healthz" => Asked::Health,
        "/readyz" => Asked::Readiness,
        "/config" => Asked::Config,
        "/explain" => {
            let request = query.split('&').find_map(|pair| pair.strip_prefix("request="));
            Asked::Explain(request.map(decoded))
        }
        _ => return None,
    };
    Some((asked, ""))
}
