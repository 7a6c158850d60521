//! The side of a session that faces its client: requests in, responses out.
//!
//! The layout hints are explained in `proxy/mod.rs`.
use std::time::Duration;

use intelliproxy_core::Instant;

use super::account::Account;
use super::exchange::{Exchange, Rare};
use super::hop::Hop;
use super::look::Look;
use super::own_page::OwnPage;
use crate::access::{Access, Visit};
use crate::buffer::{Buffer, Outbox};
use crate::config::Config;
use crate::http::authentication;
use crate::http::body::{self, BodyReader, BodyWriter};
use crate::http::field::{Name, Slots};
use crate::http::forward::{self, AddedField, RequestContext, RequestPlan};
use crate::http::framing::{Framing, request_framing};
use crate::http::head::{Parsed, RequestHead, Version, empty_lines_len, parse_request};
use crate::http::method::is_idempotent;
use crate::http::persistence::is_persistent;
use crate::http::progress::HeadProgress;
use crate::http::target::{Destination, destination, max_forwards};
use crate::http::upgrade;
use crate::http::{ChunkError, ClientError, refuse};
use crate::proxy::shared::Shared;

/// The client's connection: input, output, and the state of each.
#[derive(Debug)]
pub(crate) struct ClientHalf {
    /// The client's peer, and the client that the peer forwards for.
    pub(crate) hop: Hop,
    pub(crate) input: Option<Buffer>,
    pub(crate) output: Outbox,
    receive: Receive,
    send: Sending,
    /// Whether the client has ended its side and all its bytes were read.
    pub(crate) is_eof: bool,
    /// The kind of the client's end, decided when the end is first seen. It may be detected before
    /// earlier bytes have been read.
    pub(crate) end: End,
    /// Whether a tunnel's connection was reset or broke otherwise; without a tunnel this ends the
    /// session.
    pub(crate) has_failed: bool,
    /// Whether a tunnel's client accepts no more bytes; it may still have sent some.
    pub(crate) is_write_broken: bool,
    /// Whether the client announced the current request as its last one.
    pub(crate) has_said_last: bool,
    /// Whether a request on the connection has had its response: the current request is not its
    /// first.
    pub(crate) has_been_served: bool,
    /// Whether the connection was refused when it was accepted: with 503 for lack of room, or with
    /// 429.
    pub(crate) is_refused: bool,
    /// Whether a read was refused for lack of room.
    pub(crate) is_paused: bool,
    /// Progress in the current request head.
    progress: HeadProgress,
    /// Time at which the current request head began.
    pub(crate) head_since: Option<Instant>,
    /// Time of the last read of bytes from the client.
    pub(crate) bytes_at: Instant,
    /// Time at which the client last sent bytes, or at which waiting for it began.
    pub(crate) last_read: Instant,
    /// Time at which the client last accepted bytes, or at which bytes began to wait for it.
    pub(crate) last_write: Instant,
    /// The last measurement of the client's unacknowledged bytes; rarely present, so it is boxed.
    pub(crate) look: Option<Box<Look>>,
    /// The access log's record of the current exchange, or of the last one while bytes of its
    /// response wait.
    pub(crate) visit: Option<Box<Visit>>,
}

/// The end of a client's side of its connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum End {
    /// Not seen yet.
    None,
    /// It arrived with the last bytes: the client sends no more and waits for its responses.
    HalfClose,
    /// It arrived later: the client has left.
    Gone,
}

/// The expected input from the client. Every step reads the variant, so `repr(u8)` keeps it in a
/// separate byte.
#[derive(Debug)]
#[repr(u8)]
pub(super) enum Receive {
    /// A request head. This includes the time between two exchanges.
    Head,
    /// The body of the current exchange. `data` bytes of it were forwarded, and `data_max` are
    /// permitted (0: any number).
    Body { reader: BodyReader, writer: BodyWriter, data: u64, data_max: u64 },
    /// Nothing until the exchange is over.
    Ended,
    /// Bytes of a tunnel.
    Tunnel,
    /// Nothing: the client's last response is written, and further input is dropped.
    Discarding { until: Instant },
}

/// Output to the client.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Sending {
    /// Responses.
    Open,
    /// The waiting bytes, then the end of the connection: a reset if a clean end would make a cut
    /// response look complete.
    Closing { with_reset: bool },
    /// Nothing: the end was sent.
    Shut,
}

/// A part of a request's body that was forwarded.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct BodyPart {
    /// Whether the body is complete.
    pub(super) is_end: bool,
    /// Whether the body is larger than permitted.
    pub(super) is_too_large: bool,
}

/// A request with a complete head.
pub(crate) struct NewRequest {
    /// The forwarded head.
    pub(crate) forwarded: Buffer,
    pub(crate) framing: Framing,
    /// Bytes of the head.
    pub(crate) len: usize,
    /// Whether the client wants its connection to end with the response.
    pub(crate) is_last: bool,
    pub(crate) aim: Aim,
}

/// The party that responds to a request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Aim {
    Backend,
    /// The proxy: the request is for /stats and permitted.
    Own(OwnPage),
    /// The proxy: Max-Forwards makes it the last recipient.
    LastHop,
    /// The proxy itself, which redirects the request to this https:// location.
    Redirect(Box<str>),
}

/// An end this soon after the last bytes is part of sending the request, as with `printf ... | nc
/// -N`: it follows within about 100 us and often in the same packet. A client that closes in
/// reaction to its backend closes later than this.
pub(crate) const HALF_CLOSE_WITHIN: Duration = Duration::from_millis(2);
/// The same bound after the response has begun. It must be shorter than the time in which a fast
/// backend responds and a fast client on the same machine leaves: with 500 us, an event stream
/// whose client left after the first event was kept in 7 of 12 runs.
const HALF_CLOSE_ANYWAY_WITHIN: Duration = Duration::from_micros(50);

impl ClientHalf {
    pub(crate) fn new(hop: Hop, now: Instant) -> Self {
        Self {
            hop,
            input: None,
            output: Outbox::default(),
            receive: Receive::Head,
            send: Sending::Open,
            is_eof: false,
            end: End::None,
            has_failed: false,
            is_write_broken: false,
            has_said_last: false,
            has_been_served: false,
            is_refused: false,
            is_paused: false,
            progress: HeadProgress::default(),
            head_since: None,
            bytes_at: now,
            last_read: now,
            last_write: now,
            look: None,
            visit: None,
        }
    }

    /// Handles the end of the client's side. Returns whether it was detected for the first time.
    #[cold]
    pub(crate) fn note_end(&mut self, now: Instant, has_response: bool) -> bool {
        let is_news = self.end == End::None;
        if is_news {
            let within = if has_response { HALF_CLOSE_ANYWAY_WITHIN } else { HALF_CLOSE_WITHIN };
            let is_prompt = now.since(self.bytes_at) < within;
            self.end = if is_prompt { End::HalfClose } else { End::Gone };
        }
        is_news
    }

    /// Starts the time for the next request, after the last response was written.
    pub(crate) fn handle_all_written(&mut self, now: Instant) {
        if self.is_at_head() {
            self.last_read = now;
            self.head_since = self.head_since.map(|_| now);
        }
    }

    /// Whether the session waits for the client's next request and no byte of it has arrived.
    pub(crate) const fn is_at_rest(&self) -> bool {
        matches!(self.receive, Receive::Head)
            && self.is_sending()
            && self.input.is_none()
            && !self.is_eof
    }

    /// Returns the expected input.
    #[inline(always)]
    pub(super) const fn receive(&self) -> &Receive {
        &self.receive
    }

    /// Whether a request head is expected, or the connection is idle between two exchanges.
    pub(super) const fn is_at_head(&self) -> bool {
        matches!(self.receive, Receive::Head)
    }

    /// Whether the current request is complete and no tunnel is open.
    pub(super) const fn has_ended_request(&self) -> bool {
        matches!(self.receive, Receive::Ended)
    }

    /// Whether further input is a tunnel's.
    pub(super) const fn is_tunnel(&self) -> bool {
        matches!(self.receive, Receive::Tunnel)
    }

    /// Whether a part of the current request's body is still missing.
    pub(super) fn lacks_body(&self) -> bool {
        matches!(&self.receive, Receive::Body { reader, .. } if !reader.is_over())
    }

    /// Forwards the received part of the request's body to `output`, as far as there is room.
    #[inline]
    pub(super) fn relay_body(
        &mut self,
        output: &mut Outbox,
        shared: &mut Shared,
    ) -> Result<BodyPart, ChunkError> {
        let Receive::Body { reader, writer, data, data_max } = &mut self.receive else {
            return Ok(BodyPart::default());
        };
        let before = self.input.as_ref().map_or(0, Buffer::len);
        let relayed = body::relay(reader, *writer, &mut self.input, output, &mut shared.buffers);
        if let Some(visit) = &mut self.visit {
            visit.receive(before - self.input.as_ref().map_or(0, Buffer::len));
        }
        let relayed = relayed?;
        shared.add_parsed(relayed.parsed);
        *data += relayed.data;
        let is_too_large = *data_max > 0 && *data > *data_max;
        Ok(BodyPart { is_end: relayed.is_end, is_too_large })
    }

    /// Waits for the next request.
    pub(super) fn await_request(&mut self) {
        self.receive = Receive::Head;
    }

    /// Begins a request's body after its head, `data_max` bytes at most (0: any size).
    pub(super) fn begin_body(&mut self, reader: BodyReader, writer: BodyWriter, data_max: u64) {
        self.receive = Receive::Body { reader, writer, data: 0, data_max };
    }

    /// Marks the request as complete.
    pub(super) fn end_request(&mut self) {
        self.receive = Receive::Ended;
    }

    /// Treats further input as a tunnel's.
    pub(super) fn begin_tunnel(&mut self) {
        self.receive = Receive::Tunnel;
    }

    /// Ends the connection when the waiting bytes are written. Uses a reset if a clean end would
    /// make a partial response look complete.
    pub(super) const fn close(&mut self, with_reset: bool) {
        self.send = Sending::Closing { with_reset };
    }

    /// Records that the end was sent; further input is still forwarded.
    pub(super) const fn shut(&mut self) {
        self.send = Sending::Shut;
    }

    /// Records that the end was sent; further input is dropped, for at most `total`.
    pub(super) fn linger(&mut self, now: Instant, total: Duration) {
        self.send = Sending::Shut;
        self.last_read = now;
        self.receive = Receive::Discarding { until: now + total };
    }

    pub(super) const fn sending(&self) -> Sending {
        self.send
    }

    /// Whether responses may still be sent.
    pub(super) const fn is_sending(&self) -> bool {
        matches!(self.send, Sending::Open)
    }

    /// Whether only a clean end follows the waiting bytes.
    pub(super) const fn is_closing(&self) -> bool {
        matches!(self.send, Sending::Closing { with_reset: false })
    }

    /// Whether the current request has arrived completely.
    pub(crate) const fn has_whole_request(&self) -> bool {
        matches!(self.receive, Receive::Ended | Receive::Tunnel)
    }

    /// Drops complete empty lines before the next request. They are not a request (RFC 9112 section
    /// 2.2) and do not extend the idle time.
    #[cold]
    pub(crate) fn skip_empty_lines(&mut self) {
        let Some(input) = &mut self.input else { return };
        let len = empty_lines_len(input.bytes());
        if len > 0 {
            input.consume(len);
            self.progress.reset();
        }
        if matches!(input.bytes(), [] | [b'\r']) {
            self.head_since = None;
        }
    }

    /// Parses the head of the next request. A complete head begins `exchange`, and its forwarded
    /// form is encoded into a separate buffer.
    pub(crate) fn parse(
        &mut self,
        now: Instant,
        exchange: &mut Option<Exchange>,
        shared: &mut Shared,
    ) -> Result<Parsed<NewRequest>, ClientError> {
        let input = self.input.as_ref().map_or(&[][..], Buffer::bytes);
        if !self.progress.is_due(input, shared.head_limits.head_bytes_max) {
            return Ok(Parsed::Partial);
        }
        let mut slots = Slots::new();
        // The result is matched in place, because moving it is expensive.
        let parsed = parse_request(input, &mut slots, &shared.head_limits);
        let head = match &parsed {
            Ok(Parsed::Complete(head)) => head,
            Ok(Parsed::Partial) => {
                self.progress.note_partial(input.len());
                return Ok(Parsed::Partial);
            }
            Err(error) => return refuse(*error),
        };
        self.progress.reset();
        let destination = destination(head, &mut shared.known_host)?;
        let framing = request_framing(head)?;
        let expects = head.fields.has(Name::Expect);
        if expects && expects_the_unknown(head) {
            return refuse(ClientError::UnsupportedExpectation);
        }
        if head.fields.has(Name::Via) && shared.request_ends.have_passed(&head.fields) {
            return refuse(ClientError::Loop);
        }
        let body_max = shared.config.limits.body_bytes_max;
        if let Framing::Length(length) = framing
            && body_max > 0
            && length > body_max
        {
            return refuse(ClientError::BodyTooLarge);
        }
        if shared.access.is_on() {
            let started = self.head_since.unwrap_or(now);
            begin_visit(&mut self.visit, now, started, head, self.hop.is_trusted, shared);
        }
        let is_upgrade = upgrade::is_asked(head);
        let hops = max_forwards(head);
        let max_forwards = hops.map(|hops| hops.saturating_sub(1));
        let plan = RequestPlan { destination, framing, is_upgrade, max_forwards };
        let keeps_host = shared.config.forwarding.keep_host && !destination.host.is_empty();
        let added = if self.visit.is_some() || shared.identity_fields().is_some() {
            self.added_fields(&shared.access, &shared.config)
        } else {
            Vec::new()
        };
        let context = RequestContext {
            // The backend is chosen later; `Shared::host_line` explains the guess.
            host_line: &shared.host_line,
            keeps_host,
            is_trusted: self.hop.is_trusted,
            client: &self.hop.fields,
            ends: &shared.request_ends,
            added: &added,
        };
        let len_max = forward::request_len_max(head, &plan, &context);
        let mut forwarded = shared.buffers.take_for_head(len_max);
        let host = forward::encode_request(head, &plan, &context, &mut forwarded);
        let asks_to_persist = is_persistent(head.version, &head.fields);
        *exchange = Some(Exchange {
            lease: None,
            is_head_request: head.method == "HEAD",
            is_idempotent: is_idempotent(head.method),
            version: head.version,
            is_persistent: asks_to_persist && !shared.is_leaving,
            binds: authentication::logs_connection_in(&head.fields),
            // A server ignores 100-continue in HTTP/1.0 (RFC 9110 section 10.1.1).
            awaits_continue: expects && head.version == Version::Http11,
            takes_trailers: forward::takes_trailers(&head.fields),
            // A forwarded head fits one buffer, so its offsets fit 4 bytes.
            host: (!keeps_host).then_some(host.start as u32..host.end as u32),
            dispatched_at: now,
            answer: None,
            has_seen_answer: false,
            has_begun_answer: false,
            has_redialled: false,
            was_client_late: false,
            client_wait: Duration::ZERO,
            target: shared.askers.target(destination.path),
            account: Account::default(),
            sticky: None,
            rare: is_upgrade.then(|| asked_protocols(head)),
        });
        if self.hop.is_trusted || self.hop.forwards_for.is_some() {
            self.hop.take_origin(&head.fields, shared);
        }
        if let (Some(affinity), Some(exchange)) = (&shared.affinity, exchange) {
            let is_secure = self.hop.is_secure(&head.fields);
            exchange.sticky = affinity.key(head, self.hop.client().ip(), is_secure);
        }
        let mut aim = Aim::Backend;
        if self.hop.redirects_to().is_some() || hops.is_some() || OwnPage::may_be(destination.path)
        {
            aim = self.aim(head, &destination, framing, shared)?;
        }
        let (len, is_last) = (head.len, !asks_to_persist);
        Ok(Parsed::Complete(NewRequest { forwarded, framing, len, is_last, aim }))
    }

    /// Returns the fields that replace those in the client's request: the request id and the
    /// identity from the client's certificate. Identity fields that clients send are always
    /// removed.
    #[cold]
    pub(super) fn added_fields<'a>(
        &'a self,
        access: &'a Access,
        config: &'a Config,
    ) -> Vec<AddedField<'a>> {
        let id = access.id_for_backend(self.visit.as_deref());
        let mut added: Vec<_> = id.into_iter().collect();
        for name in config.identity_fields() {
            // Several listeners may use the same name.
            if !added.iter().any(|field| field.name == name) {
                let value = self.hop.identity(name).map(str::as_bytes);
                added.push(AddedField { name, value });
            }
        }
        added
    }

    /// Returns the party that responds to a request that may not be for a backend.
    #[cold]
    fn aim(
        &self,
        head: &RequestHead<'_, '_>,
        destination: &Destination<'_>,
        framing: Framing,
        shared: &Shared,
    ) -> Result<Aim, ClientError> {
        if let Some(port) = self.hop.redirects_to() {
            return Ok(Aim::Redirect(location(destination, port)?));
        }
        if max_forwards(head) == Some(0) {
            return Ok(Aim::LastHop);
        }
        let may_ask = self.hop.may_ask_for_stats() && framing == Framing::None;
        let page = OwnPage::of(head, destination.path).filter(|_| may_ask);
        let is_shown = |_: &OwnPage| {
            shared.trust.shows_stats(&head.fields, self.hop.peer.ip(), self.hop.is_trusted)
        };
        Ok(page.filter(is_shown).map_or(Aim::Backend, Aim::Own))
    }
}

/// Starts the access log's record of a request.
#[cold]
fn begin_visit(
    visit: &mut Option<Box<Visit>>,
    now: Instant,
    started: Instant,
    head: &RequestHead<'_, '_>,
    is_trusted: bool,
    shared: &mut Shared,
) {
    debug_assert!(visit.is_none(), "the last exchange has its record");
    *visit = Some(shared.access.begin_request(now, started, head, is_trusted));
}

/// Returns the https:// location to which a request is redirected.
#[cold]
fn location(destination: &Destination<'_>, port: u16) -> Result<Box<str>, ClientError> {
    let Destination { path, host } = destination;
    let (host, path) = match (std::str::from_utf8(host), std::str::from_utf8(path)) {
        (Ok(host), Ok(path)) if !host.is_empty() => (host, path),
        _ => return Err(ClientError::InvalidHost),
    };
    // An IPv6 address is in brackets.
    let end = host.rfind(':').filter(|colon| host.rfind(']').is_none_or(|end| end < *colon));
    let host = &host[..end.unwrap_or(host.len())];
    let path = if path == "*" { "" } else { path };
    let slash = if path.starts_with('/') { "" } else { "/" };
    Ok(match port {
        443 => format!("https://{host}{slash}{path}"),
        _ => format!("https://{host}:{port}{slash}{path}"),
    }
    .into())
}

/// Whether a request has an expectation other than 100-continue (RFC 9110 section 10.1.1).
#[cold]
fn expects_the_unknown(head: &RequestHead<'_, '_>) -> bool {
    let is_unknown = |value: &[u8]| !value.eq_ignore_ascii_case(b"100-continue");
    head.version == Version::Http11 && head.fields.values(Name::Expect).any(is_unknown)
}

/// Returns the state of an exchange that keeps the values of Upgrade, as one list.
#[cold]
fn asked_protocols(head: &RequestHead<'_, '_>) -> Box<Rare> {
    let values: Vec<&[u8]> = head.fields.values(Name::Upgrade).collect();
    let upgrade = Some(values.join(&b", "[..]).into_boxed_slice());
    Box::new(Rare { upgrade, ..Rare::default() })
}
