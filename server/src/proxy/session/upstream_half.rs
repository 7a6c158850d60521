//! The side of a session that faces a backend: sends the request, receives the response.
//!
//! The layout hints are explained in `proxy/mod.rs`.
use std::sync::Arc;
use std::time::Duration;

use intelliproxy_core::Instant;

use super::exchange::{Asking, Exchange};
use super::hop::HSTS;
use super::look::Look;
use super::own_page::OwnPage;
use crate::access::Visit;
use crate::buffer::{Buffer, Outbox};
use crate::http::authentication;
use crate::http::body::{self, BodyReader, BodyWriter};
use crate::http::chunked::Trailer;
use crate::http::field::{LOAD_FIELDS, Slots, is_load_field};
use crate::http::forward::{self, ResponsePlan};
use crate::http::framing::{Framing, response_framing};
use crate::http::head::{Parsed, ResponseHead, Version, parse_response};
use crate::http::persistence::kept_for;
use crate::http::progress::HeadProgress;
use crate::http::refusal::Refusal;
use crate::http::upgrade;
use crate::http::{ChunkError, UpstreamError, refuse};
use crate::proxy::affinity::Sticky;
use crate::proxy::id::ConnId;
use crate::proxy::shared::Shared;

/// The upstream of the current exchange. The connection is borrowed from the pool; the bytes stay
/// here, so that they outlive a connection that turns out to be closed.
#[derive(Debug)]
pub(crate) struct UpstreamHalf {
    link: Link,
    pub(crate) input: Option<Buffer>,
    pub(crate) output: Outbox,
    receive: Receive,
    /// Progress in the head that is arriving.
    progress: HeadProgress,
    /// Whether a complete head waits for room; it is not parsed again before there is more room.
    pub(crate) is_head_waiting: bool,
    /// Whether the backend has ended its side.
    pub(crate) is_eof: bool,
    /// Whether the connection was reset or broke otherwise.
    pub(crate) has_failed: bool,
    /// Whether the backend accepts no more bytes. It may still send some.
    pub(crate) is_write_broken: bool,
    /// Whether the connection belonged to the client before this exchange.
    pub(crate) is_bound: bool,
    /// Whether the end of the tunnel was forwarded to the backend.
    pub(crate) is_shut: bool,
    /// Time for which the connection may be kept idle after the response; `None` if it must be
    /// closed.
    pub(crate) kept: Option<Duration>,
    /// Whether a read was refused for lack of room.
    pub(crate) is_paused: bool,
    pub(crate) last_read: Instant,
    pub(crate) last_write: Instant,
    /// The last measurement of the backend's unacknowledged bytes; rarely present, so it is boxed.
    pub(crate) look: Option<Box<Look>>,
}

/// The connection to the backend.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Link {
    /// No connection (yet).
    None,
    /// The driver is connecting it.
    Connecting { conn: ConnId, since: Instant },
    /// Connected. A reused connection has carried an earlier exchange.
    Open { conn: ConnId, is_reused: bool },
}

/// The expected input from the backend. Every step reads the variant, so `repr(u8)` keeps it in a
/// separate byte.
#[derive(Debug)]
#[repr(u8)]
pub(super) enum Receive {
    /// Nothing, because no exchange is in progress.
    Idle,
    /// The response's head.
    Head,
    /// Its body.
    Body { reader: BodyReader, writer: BodyWriter },
    /// Nothing more: the response is complete.
    Ended,
    /// Nothing: the response is a page of the proxy, which is being built.
    AwaitsOwn(OwnPage),
    /// Nothing: the response body is a text of the proxy, of which `passed` bytes were written.
    OwnText { text: Arc<[u8]>, passed: usize },
    /// Nothing: the response's body is a stream of the proxy. `text` is its last part, of which
    /// `passed` bytes were written.
    OwnStream { text: Arc<[u8]>, passed: usize },
    /// Bytes of a tunnel.
    Tunnel,
}

/// A response's head to be forwarded. The encoded head is in `shared.scratch`, unless it is
/// forwarded unchanged.
#[derive(Clone, Copy)]
pub(crate) struct PassedHead {
    /// Bytes of the received head.
    pub(crate) len: usize,
    /// Whether it is forwarded unchanged.
    pub(crate) is_verbatim: bool,
    /// Offset of an added Date line in a head that is forwarded unchanged; 0 without one.
    pub(crate) date_at: usize,
    pub(crate) kind: HeadKind,
}

#[derive(Clone, Copy)]
pub(crate) enum HeadKind {
    /// A 1xx, which another head follows. It is not forwarded to an HTTP/1.0 client (RFC 9110
    /// section 15.2).
    Interim { is_passed_on: bool, is_continue: bool },
    /// 101 in response to a request with Upgrade.
    Switch,
    /// The response.
    Final {
        status: u16,
        framing: Framing,
        writer: BodyWriter,
        kept: Option<Duration>,
        /// Whether the connection now belongs to the client.
        binds: bool,
        is_client_persistent: bool,
    },
}

impl UpstreamHalf {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            link: Link::None,
            input: None,
            output: Outbox::default(),
            receive: Receive::Idle,
            progress: HeadProgress::default(),
            is_head_waiting: false,
            is_eof: false,
            has_failed: false,
            is_write_broken: false,
            is_shut: false,
            is_bound: false,
            kept: None,
            is_paused: false,
            last_read: now,
            last_write: now,
            look: None,
        }
    }

    /// Returns the connection in any state.
    pub(crate) const fn conn(&self) -> Option<ConnId> {
        match self.link {
            Link::None => None,
            Link::Connecting { conn, .. } | Link::Open { conn, .. } => Some(conn),
        }
    }

    pub(crate) const fn is_open(&self) -> bool {
        matches!(self.link, Link::Open { .. })
    }

    /// Whether the connection carried an exchange before.
    pub(crate) const fn is_reused(&self) -> bool {
        matches!(self.link, Link::Open { is_reused: true, .. })
    }

    /// Returns the expected input.
    #[inline(always)]
    pub(super) const fn receive(&self) -> &Receive {
        &self.receive
    }

    /// Whether the response's head is awaited.
    pub(super) const fn is_at_head(&self) -> bool {
        matches!(self.receive, Receive::Head)
    }

    /// Whether further input is a tunnel's.
    pub(super) const fn is_tunnel(&self) -> bool {
        matches!(self.receive, Receive::Tunnel)
    }

    /// Returns the page of the proxy that is awaited.
    pub(super) const fn awaited_page(&self) -> Option<OwnPage> {
        match self.receive {
            Receive::AwaitsOwn(page) => Some(page),
            _ => None,
        }
    }

    /// Whether the response is a stream of the proxy, and whether its last part is all written.
    pub(super) fn own_stream(&self) -> Option<bool> {
        match &self.receive {
            Receive::OwnStream { text, passed } => Some(*passed == text.len()),
            _ => None,
        }
    }

    /// Whether the response's body ends with the backend's connection.
    pub(super) const fn ends_at_close(&self) -> bool {
        matches!(&self.receive, Receive::Body { reader, .. } if reader.ends_at_close())
    }

    /// Forwards the received part of the response's body to `output`, as far as there is room.
    /// Returns whether the response is complete.
    #[inline]
    pub(super) fn relay_body(
        &mut self,
        output: &mut Outbox,
        shared: &mut Shared,
    ) -> Result<bool, ChunkError> {
        let Receive::Body { reader, writer } = &mut self.receive else { return Ok(false) };
        let relayed = body::relay(reader, *writer, &mut self.input, output, &mut shared.buffers)?;
        shared.add_parsed(relayed.parsed);
        if relayed.is_end {
            self.receive = Receive::Ended;
        }
        Ok(relayed.is_end)
    }

    /// Ends a body that ended with the backend's connection. Returns false if `output` has no room
    /// for its last chunk.
    pub(super) fn finish_body(&mut self, output: &mut Outbox, shared: &mut Shared) -> bool {
        let Receive::Body { writer, .. } = &self.receive else { return false };
        let is_finished = body::finish(*writer, output, &mut shared.buffers);
        if is_finished {
            self.receive = Receive::Ended;
        }
        is_finished
    }

    /// Writes as much of a text of the proxy to `output` as there is room for. Returns false if
    /// there is no room.
    pub(super) fn pass_own_text(&mut self, output: &mut Outbox, shared: &mut Shared) -> bool {
        let (text, passed, is_stream) = match &mut self.receive {
            Receive::OwnText { text, passed } => (text, passed, false),
            Receive::OwnStream { text, passed } if *passed < text.len() => (text, passed, true),
            _ => return false,
        };
        let left = &text[*passed..];
        if !output.reserve(left.len().min(1), left.len(), &mut shared.buffers) {
            return false;
        }
        let count = left.len().min(output.room());
        output.append(&left[..count]);
        *passed += count;
        if *passed == text.len() && !is_stream {
            self.receive = Receive::Ended;
        }
        true
    }

    /// Whether the client's connection ends with the current response because only this end marks
    /// the end of the body. A clean end would make a partial response look complete.
    pub(crate) const fn ends_with_connection(&self) -> bool {
        match &self.receive {
            Receive::Body { reader, writer } => {
                let has_length = matches!(reader, BodyReader::Plain { left: Some(_) });
                matches!(writer, BodyWriter::Plain) && !has_length
            }
            Receive::Tunnel => true,
            Receive::Idle | Receive::Head | Receive::Ended => false,
            Receive::AwaitsOwn(_) | Receive::OwnText { .. } | Receive::OwnStream { .. } => false,
        }
    }

    /// Records the connection that is being dialled.
    pub(super) fn dial(&mut self, conn: ConnId, now: Instant) {
        self.link = Link::Connecting { conn, since: now };
    }

    /// Abandons the connection that is being dialled.
    pub(super) const fn give_up_dialling(&mut self) {
        self.link = Link::None;
    }

    /// Links a connection and waits for the head of a response.
    pub(super) fn open(&mut self, conn: ConnId, is_reused: bool, now: Instant) {
        self.link = Link::Open { conn, is_reused };
        self.receive = Receive::Head;
        self.last_write = now;
        self.last_read = now;
    }

    /// Begins the body of a response after its head.
    pub(super) fn begin_body(&mut self, reader: BodyReader, writer: BodyWriter) {
        self.receive = Receive::Body { reader, writer };
    }

    /// Marks the response as complete.
    pub(super) fn end_response(&mut self) {
        self.receive = Receive::Ended;
    }

    /// Treats further input as a tunnel's.
    pub(super) fn begin_tunnel(&mut self) {
        self.receive = Receive::Tunnel;
    }

    /// Waits for a page of the proxy.
    pub(super) fn await_own(&mut self, page: OwnPage) {
        self.receive = Receive::AwaitsOwn(page);
    }

    /// Continues a stream of the proxy, or begins one.
    pub(super) fn pass_part(&mut self, text: Arc<[u8]>) {
        self.receive = Receive::OwnStream { text, passed: 0 };
    }

    /// Begins a response whose body is a text of the proxy.
    pub(super) fn begin_own_text(&mut self, text: Arc<[u8]>) {
        self.receive = Receive::OwnText { text, passed: 0 };
    }

    /// Returns the time at which dialling began; `None` if no connection is being dialled.
    pub(super) const fn dialled_at(&self) -> Option<Instant> {
        match self.link {
            Link::Connecting { since, .. } => Some(since),
            Link::None | Link::Open { .. } => None,
        }
    }

    /// Forgets the connection and its input; the output stays.
    #[inline]
    pub(crate) fn unlink(&mut self, shared: &mut Shared) {
        if let Some(buffer) = self.input.take() {
            shared.buffers.give(buffer);
        }
        self.link = Link::None;
        self.receive = Receive::Idle;
        self.progress.reset();
        self.is_head_waiting = false;
        self.is_eof = false;
        self.has_failed = false;
        self.is_write_broken = false;
        self.is_shut = false;
        self.is_bound = false;
        self.is_paused = false;
        self.kept = None;
    }

    /// Parses the next head that the backend sent. Unless it can be forwarded unchanged, its
    /// forwarded form is encoded into `shared.scratch`. A refusal is recorded in `exchange`.
    pub(crate) fn parse(
        &mut self,
        exchange: &mut Exchange,
        visit: Option<&Visit>,
        hsts: Option<&str>,
        has_whole_request: bool,
        shared: &mut Shared,
    ) -> Result<Parsed<PassedHead>, UpstreamError> {
        let input = self.input.as_ref().map_or(&[][..], Buffer::bytes);
        if !self.progress.is_due(input, shared.head_limits.head_bytes_max) {
            return Ok(Parsed::Partial);
        }
        let mut slots = Slots::new();
        // The result is matched in place, because moving it is expensive.
        let parsed = parse_response(input, &mut slots, &shared.head_limits);
        let head = match &parsed {
            Ok(Parsed::Complete(head)) => head,
            Ok(Parsed::Partial) => {
                self.progress.note_partial(input.len());
                return Ok(Parsed::Partial);
            }
            Err(error) => return refuse(*error),
        };
        self.progress.reset();
        let (framing, length) = response_framing(head, exchange.is_head_request)?;
        let len = head.len;
        let mut plan = ResponsePlan { is_chunked: false, length, connection: None };
        let mut kind = match head.status {
            101 => {
                let asked = exchange.rare.as_ref().and_then(|rare| rare.upgrade.as_deref());
                let asked = asked.unwrap_or_default();
                if !upgrade::is_granted(head, asked) {
                    return Err(UpstreamError::UnexpectedUpgrade);
                }
                HeadKind::Switch
            }
            status @ 100..=199 => HeadKind::Interim {
                is_passed_on: exchange.version == Version::Http11,
                is_continue: status == 100,
            },
            status => {
                let is_old = exchange.version == Version::Http10;
                let has_body_mark = matches!(framing, Framing::Chunked | Framing::UntilClose);
                plan.is_chunked = has_body_mark && !is_old;
                let kept =
                    kept_for(head.version, &head.fields).filter(|_| framing != Framing::UntilClose);
                let is_bound = status >= 400 && read_error(head, exchange, shared);
                let binds = exchange.binds || is_bound;
                // If the response begins before the end of the request, unread bytes of the request
                // may remain, so no request can follow.
                let is_client_persistent = exchange.is_persistent
                    && has_whole_request
                    && !(has_body_mark && is_old)
                    && !(binds && kept.is_none())
                    && !shared.is_leaving;
                plan.connection = connection_option(exchange.version, is_client_persistent);
                let writer = if plan.is_chunked {
                    let trailer =
                        if exchange.takes_trailers { Trailer::All } else { Trailer::None };
                    BodyWriter::Chunked { trailer }
                } else {
                    BodyWriter::Plain
                };
                HeadKind::Final { status, framing, writer, kept, binds, is_client_persistent }
            }
        };
        let cookie = exchange.sticky.as_deref().map_or("", Sticky::line);
        let adds_fields = (shared.access.adds_fields() || hsts.is_some() || !cookie.is_empty())
            && !matches!(kind, HeadKind::Interim { .. });
        let mut removed: &[&str] = &[];
        if shared.loads.is_on() {
            removed = read_loads(head, &mut kind, exchange, shared);
        }
        let is_verbatim = forward::is_verbatim(head, &plan) && !adds_fields && removed.is_empty();
        let lacks_date = !shared.date.is_empty() && forward::lacks_date(head);
        let date_at = if lacks_date { forward::status_line_len(head) } else { 0 };
        if !is_verbatim {
            shared.scratch.clear();
            if adds_fields {
                let own = OwnFields { lacks_date, cookie, hsts, visit };
                encode_with_fields(head, &plan, &own, removed, shared);
            } else {
                let date = if lacks_date { &shared.date[..] } else { "" };
                forward::encode_response(head, &plan, date, removed, &mut shared.scratch);
            }
        }
        Ok(Parsed::Complete(PassedHead { len, is_verbatim, date_at, kind }))
    }
}

/// Reads the head of an error response: records a refusal in `exchange`. Returns whether the
/// response binds the connection to its client.
#[cold]
fn read_error(head: &ResponseHead<'_, '_>, exchange: &mut Exchange, shared: &Shared) -> bool {
    let status = head.status;
    let refusal = Refusal::of(status, &head.fields, &shared.date);
    if refusal.is_some() || status >= 500 && exchange.rare.is_some() {
        exchange.rare().refusal = refusal;
    }
    matches!(status, 401 | 407) && authentication::challenges_connection(head)
}

/// Fields that the proxy adds to a response.
struct OwnFields<'a> {
    lacks_date: bool,
    /// The line of the affinity's cookie.
    cookie: &'a str,
    /// The line of Strict-Transport-Security.
    hsts: Option<&'a str>,
    visit: Option<&'a Visit>,
}

/// Encodes a response's head with the proxy's own fields into `shared.scratch`, without `removed`.
#[cold]
fn encode_with_fields(
    head: &ResponseHead<'_, '_>,
    plan: &ResponsePlan,
    own: &OwnFields<'_>,
    removed: &[&str],
    shared: &mut Shared,
) {
    let mut lines = if own.lacks_date { shared.date.clone() } else { String::new() };
    lines.push_str(own.cookie);
    shared.access.push_fields(own.visit, &mut lines);
    lines.push_str(own.hsts.unwrap_or_default());
    let hsts = own.hsts.map(|_| HSTS);
    let names = shared.access.added_names().into_iter().flatten();
    let names: Vec<&str> = names.chain(hsts).chain(removed.iter().copied()).collect();
    forward::encode_response(head, plan, &lines, &names, &mut shared.scratch);
}

/// Reads the load figures in the head of a final response. Returns the names of the fields to
/// remove from any head; trailer fields are removed with them.
#[cold]
fn read_loads(
    head: &ResponseHead<'_, '_>,
    kind: &mut HeadKind,
    exchange: &Exchange,
    shared: &mut Shared,
) -> &'static [&'static str] {
    let backend = exchange.backend();
    let is_taken = shared.loads.are_taken(backend);
    if let HeadKind::Final { writer, .. } = kind {
        // A refusal that was offered to other backends has been read.
        let was_read = exchange.rare.as_ref().is_some_and(|rare| rare.asking == Asking::Kept);
        shared.loads.read(backend.filter(|_| !was_read), head);
        if let BodyWriter::Chunked { trailer: trailer @ Trailer::All } = writer
            && is_taken
        {
            *trailer = Trailer::WithoutLoads;
        }
    }
    let has_field = || head.fields.iter().any(|(name, ..)| is_load_field(name.as_bytes()));
    if is_taken && has_field() { &LOAD_FIELDS } else { &[] }
}

/// Returns the Connection option by which the client knows whether its connection stays open.
pub(crate) const fn connection_option(
    version: Version,
    is_persistent: bool,
) -> Option<&'static str> {
    match (version, is_persistent) {
        (Version::Http11, true) => None,
        (Version::Http10, true) => Some("keep-alive"),
        (_, false) => Some("close"),
    }
}
