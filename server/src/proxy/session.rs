//! One client connection, exchange after exchange.
//!
//! A session is told what happened on its client's connection and on the upstream it borrows, and
//! what it asked the proxy for ([`Need`]). The two halves move by themselves; where they meet,
//! [`settle`](Session::settle) applies the joint rules J1 to J7 of LIFECYCLE.md until nothing
//! changes.
use std::time::Duration;

use intelliproxy_core::{BackendId, Instant, Lease, Outcome, RequestFailure};

use super::client_half::{Begun, ClientHalf, Receive, Send};
use super::conn::ConnId;
use super::exchange::Exchange;
use super::notice::Notice;
use super::shared::Shared;
use super::upstream_half::{self, HeadKind, Headed, Link, UpstreamHalf, connection_option};
use super::verdict::{Failure, Remedy, remedy};
use crate::buffer::{Buffer, SMALL};
use crate::http::answer;
use crate::http::body::{self, BodyReader, BodyWriter};
use crate::http::framing::Framing;
use crate::http::head::Parsed;
use crate::http::{ClientError, UpstreamError};

/// Interim answers (1xx) that one exchange may bring; more are a backend gone wrong.
const INTERIM_MAX: u32 = 32;

/// Which of a session's two connections is meant.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Side {
    Client,
    Upstream,
}

/// What a session wants of the proxy.
#[derive(Debug)]
pub(crate) enum Need {
    /// An attempt is over: the lease goes back.
    Finish { lease: Lease, outcome: Outcome },
    /// The upstream connection is not used any more.
    Release { conn: ConnId, is_reusable: bool },
    /// A backend and a connection to it, for the request that waits.
    Dispatch,
    /// A fresh connection to the same backend.
    Redial { backend: BackendId },
    /// The text of /stats.
    Stats,
    /// The connection that is being made is taking too long: another address, or
    /// [`handle_unlinked`](Session::handle_unlinked).
    GiveUpConnect { conn: ConnId },
    /// The upstream gets no more bytes.
    ShutdownUpstream { conn: ConnId },
    /// The client gets no more bytes.
    ShutdownClient,
    /// The client's connection ends, and with it the session.
    Close { with_reset: bool },
}

/// A client connection and all that hangs on it.
#[derive(Debug)]
pub(crate) struct Session {
    client: ClientHalf,
    upstream: UpstreamHalf,
    exchange: Option<Exchange>,
    needs: Needs,
}

/// Needs not yet fetched; they are fetched in the order of the fields.
#[derive(Debug, Default)]
struct Needs {
    finish: Option<(Lease, Outcome)>,
    release: Option<(ConnId, bool)>,
    dispatch: bool,
    redial: Option<BackendId>,
    give_up: Option<ConnId>,
    stats: bool,
    shutdown_upstream: Option<ConnId>,
    shutdown_client: bool,
    close: Option<bool>,
}

/// Which deadline of a session comes first.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Expiry {
    ClientIdle,
    RequestHead,
    RequestBody,
    ClientWrite,
    Connect,
    ResponseHead,
    ResponseBody,
    UpstreamWrite,
    Tunnel,
    Linger,
}

impl Session {
    pub(crate) fn new(client: ClientHalf, now: Instant) -> Self {
        Self { client, upstream: UpstreamHalf::new(now), exchange: None, needs: Needs::default() }
    }

    /// Room for bytes from one side; empty when it has to wait.
    pub(crate) fn read_space(&mut self, side: Side, shared: &mut Shared) -> &mut [u8] {
        let (input, is_paused, is_wanted) = match side {
            Side::Client => (
                &mut self.client.input,
                &mut self.client.is_paused,
                self.needs.close.is_none() && !self.client.is_eof,
            ),
            Side::Upstream => (
                &mut self.upstream.input,
                &mut self.upstream.is_paused,
                !self.upstream.is_eof && !self.upstream.has_failed,
            ),
        };
        if !is_wanted {
            return &mut [];
        }
        let space = shared.buffers.read_space(input);
        *is_paused = space.is_empty();
        space
    }

    /// Whether reading from one side was refused and has room again; asking takes the answer.
    pub(crate) fn resumes(&mut self, side: Side) -> bool {
        let (input, is_paused) = match side {
            Side::Client => (&self.client.input, &mut self.client.is_paused),
            Side::Upstream => (&self.upstream.input, &mut self.upstream.is_paused),
        };
        let resumes = *is_paused && input.as_ref().is_none_or(|buffer| buffer.len() < SMALL);
        if resumes {
            *is_paused = false;
        }
        resumes
    }

    /// `count` bytes came from one side.
    pub(crate) fn handle_read(
        &mut self,
        now: Instant,
        side: Side,
        count: usize,
        shared: &mut Shared,
    ) {
        if count == 0 {
            // Nothing came: the room goes back.
            shared.buffers.shrink(&mut self.client.input);
            shared.buffers.shrink(&mut self.upstream.input);
            return;
        }
        match side {
            Side::Client => {
                if let Some(input) = &mut self.client.input {
                    input.filled(count);
                }
                self.client.last_read = now;
                if self.exchange.is_none() && self.client.head_since.is_none() {
                    self.client.head_since = Some(now);
                }
            }
            Side::Upstream => {
                if let Some(input) = &mut self.upstream.input {
                    input.filled(count);
                }
                self.upstream.last_read = now;
                if let Some(exchange) = &mut self.exchange {
                    exchange.has_seen_answer = true;
                }
            }
        }
        self.settle(now, shared);
    }

    /// One side ended: it sends nothing more.
    pub(crate) fn handle_eof(&mut self, now: Instant, side: Side, shared: &mut Shared) {
        match side {
            Side::Client => self.client.is_eof = true,
            Side::Upstream => self.upstream.is_eof = true,
        }
        self.settle(now, shared);
    }

    /// One side was reset or broke otherwise.
    pub(crate) fn handle_failed(&mut self, now: Instant, side: Side, shared: &mut Shared) {
        match side {
            Side::Client => self.end(now, true, shared),
            Side::Upstream => {
                self.upstream.has_failed = true;
                self.settle(now, shared);
            }
        }
    }

    /// One side took `count` of the bytes that waited for it.
    pub(crate) fn handle_written(
        &mut self,
        now: Instant,
        side: Side,
        count: usize,
        shared: &mut Shared,
    ) {
        let (output, last_write) = match side {
            Side::Client => (&mut self.client.output, &mut self.client.last_write),
            Side::Upstream => (&mut self.upstream.output, &mut self.upstream.last_write),
        };
        output.written(count, &mut shared.buffers);
        *last_write = now;
        if output.is_empty() {
            self.settle(now, shared);
        } else {
            output.shrink(&mut shared.buffers);
        }
    }

    /// One side takes no more bytes, though it may still send some.
    pub(crate) fn handle_write_failed(&mut self, now: Instant, side: Side, shared: &mut Shared) {
        match side {
            Side::Client => self.end(now, true, shared),
            Side::Upstream => self.upstream.is_write_broken = true,
        }
    }

    /// The upstream connection that was dialled is being made.
    pub(crate) fn handle_dialling(&mut self, now: Instant, conn: ConnId) {
        self.upstream.link = Link::Connecting { conn, since: now };
    }

    /// The connection that was dialled could not be made.
    pub(crate) const fn handle_undialled(&mut self) {
        self.upstream.link = Link::None;
    }

    /// The upstream connection is there: a pooled one, or the one that was dialled.
    pub(crate) fn handle_linked(
        &mut self,
        now: Instant,
        conn: ConnId,
        is_reused: bool,
        shared: &mut Shared,
    ) {
        self.upstream.link = Link::Open { conn, is_reused };
        self.upstream.receive = upstream_half::Receive::Head;
        self.upstream.last_write = now;
        self.upstream.last_read = now;
        self.settle(now, shared);
    }

    /// A backend was chosen for the request that waits.
    pub(crate) fn handle_routed(
        &mut self,
        now: Instant,
        lease: Lease,
        authority: &str,
        shared: &mut Shared,
    ) {
        let Some(exchange) = &mut self.exchange else {
            debug_assert!(false, "only an exchange is routed");
            return;
        };
        exchange.lease = Some(lease);
        exchange.dispatched_at = now;
        if let Some(host) = &mut exchange.host {
            let value = authority.as_bytes();
            self.upstream.output.rewind(host.clone(), value, &mut shared.buffers);
            host.end = host.start + value.len();
        }
    }

    /// No connection to the backend could be made, or there is no backend left.
    pub(crate) fn handle_unlinked(
        &mut self,
        now: Instant,
        error: UpstreamError,
        shared: &mut Shared,
    ) {
        self.fail_upstream(error, shared);
        self.settle(now, shared);
    }

    /// There is no backend (left) for the request that waits: it fails as its last attempt did.
    pub(crate) fn handle_unroutable(&mut self, now: Instant, shared: &mut Shared) {
        let last_error = self.exchange.as_ref().and_then(|exchange| exchange.last_error);
        self.handle_unlinked(now, last_error.unwrap_or(UpstreamError::NoBackend), shared);
    }

    /// The text of /stats is there.
    pub(crate) fn handle_stats(&mut self, now: Instant, json: &[u8], shared: &mut Shared) {
        if let Some(exchange) = &self.exchange {
            let connection = connection_option(exchange.version, exchange.is_persistent);
            let is_head_request = exchange.is_head_request;
            let bytes = answer::encode(200, "application/json", json, is_head_request, connection);
            self.answer(now, bytes, shared);
        }
        self.settle(now, shared);
    }

    /// The proxy is stopping: an idle session ends, a busy one with its exchange.
    pub(crate) fn handle_stopping(&mut self, now: Instant, shared: &mut Shared) {
        match &mut self.exchange {
            Some(exchange) => exchange.is_persistent = false,
            None if matches!(self.client.receive, Receive::Head)
                && self.client.output.is_empty() =>
            {
                self.needs.close = Some(false);
            }
            None => {}
        }
        self.settle(now, shared);
    }

    /// Ends the session whatever it is doing.
    pub(crate) fn handle_cut(&mut self, now: Instant, shared: &mut Shared) {
        self.end(now, self.exchange.is_some(), shared);
    }

    /// Tells a client for whom there is no room so.
    pub(crate) fn handle_refused(&mut self, now: Instant, shared: &mut Shared) {
        let bytes = answer::encode_error(503, false, Some("close"));
        self.answer(now, bytes, shared);
        self.client.send = Send::Closing { with_reset: false };
        self.settle(now, shared);
    }

    /// A deadline passed; does nothing when none has.
    pub(crate) fn handle_timeout(&mut self, now: Instant, shared: &mut Shared) {
        let Some((at, expiry)) = self.next_deadline(shared) else {
            return;
        };
        if at > now {
            return;
        }
        match expiry {
            Expiry::ClientIdle | Expiry::Linger => self.needs.close = Some(false),
            Expiry::RequestHead => self.fail_client(now, ClientError::HeadTimeout, shared),
            Expiry::RequestBody => self.fail_client(now, ClientError::BodyTimeout, shared),
            Expiry::ClientWrite => self.end(now, true, shared),
            Expiry::Connect => {
                self.needs.give_up = self.upstream.conn();
                self.upstream.link = Link::None;
            }
            Expiry::ResponseHead => self.fail_upstream(UpstreamError::HeadTimeout, shared),
            Expiry::ResponseBody | Expiry::UpstreamWrite => {
                self.fail_upstream(UpstreamError::BodyTimeout, shared);
            }
            Expiry::Tunnel => self.end(now, false, shared),
        }
        self.settle(now, shared);
    }

    /// Gives every buffer back: the session is over.
    pub(crate) fn give_back(&mut self, shared: &mut Shared) {
        self.upstream.unlink(shared);
        self.upstream.output.clear(&mut shared.buffers);
        self.client.output.clear(&mut shared.buffers);
        if let Some(buffer) = self.client.input.take() {
            shared.buffers.give(buffer);
        }
    }

    /// The next thing that the session wants.
    pub(crate) fn poll_need(&mut self) -> Option<Need> {
        let needs = &mut self.needs;
        if let Some((lease, outcome)) = needs.finish.take() {
            return Some(Need::Finish { lease, outcome });
        }
        if let Some((conn, is_reusable)) = needs.release.take() {
            return Some(Need::Release { conn, is_reusable });
        }
        if std::mem::take(&mut needs.dispatch) {
            return Some(Need::Dispatch);
        }
        if let Some(backend) = needs.redial.take() {
            return Some(Need::Redial { backend });
        }
        if let Some(conn) = needs.give_up.take() {
            return Some(Need::GiveUpConnect { conn });
        }
        if std::mem::take(&mut needs.stats) {
            return Some(Need::Stats);
        }
        if let Some(conn) = needs.shutdown_upstream.take() {
            return Some(Need::ShutdownUpstream { conn });
        }
        if std::mem::take(&mut needs.shutdown_client) {
            return Some(Need::ShutdownClient);
        }
        needs.close.map(|with_reset| Need::Close { with_reset })
    }

    /// When the session has to be looked at if nothing happens.
    pub(crate) fn poll_timeout(&self, shared: &Shared) -> Option<Instant> {
        self.next_deadline(shared).map(|(at, _)| at)
    }

    /// Bytes that wait for one side, as far as it can take them.
    pub(crate) fn write_ready(&self, side: Side) -> &[u8] {
        match side {
            Side::Client => self.client.output.pending(),
            Side::Upstream if self.upstream.is_open() && !self.upstream.is_write_broken => {
                self.upstream.output.pending()
            }
            Side::Upstream => &[],
        }
    }

    /// The upstream connection it uses or is making.
    pub(crate) const fn upstream_conn(&self) -> Option<ConnId> {
        self.upstream.conn()
    }

    /// The lease of the attempt at hand, for the invariant that leases balance.
    pub(crate) fn has_lease(&self) -> bool {
        let in_exchange = self.exchange.as_ref().is_some_and(|exchange| exchange.lease.is_some());
        in_exchange || self.needs.finish.is_some()
    }

    /// The backends that failed the request that waits.
    pub(crate) fn tried(&self) -> &[BackendId] {
        self.exchange.as_ref().map_or(&[], |exchange| &exchange.tried)
    }

    /// Applies the joint rules until nothing changes.
    fn settle(&mut self, now: Instant, shared: &mut Shared) {
        while self.needs.close.is_none()
            && (self.begin_exchange(now, shared)
                || self.relay_request(now, shared)
                || self.take_head(now, shared)
                || self.relay_answer(now, shared)
                || self.end_exchange(now, shared)
                || self.relay_tunnel(now, shared)
                || self.close_client(now, shared))
        {}
        shared.buffers.shrink(&mut self.client.input);
        shared.buffers.shrink(&mut self.upstream.input);
    }

    /// J1: a whole head begins an exchange when none is under way and the last answer is out.
    fn begin_exchange(&mut self, now: Instant, shared: &mut Shared) -> bool {
        let client = &mut self.client;
        if !matches!(client.receive, Receive::Head)
            || client.send != Send::Open
            || self.exchange.is_some()
            || !client.output.is_empty()
        {
            return false;
        }
        let Some(input) = client.input.as_ref().filter(|input| !input.is_empty()) else {
            if client.is_eof {
                self.needs.close = Some(false);
            }
            return false;
        };
        if client.head_since.is_none() {
            client.head_since = Some(now);
        }
        let held = input.len();
        match client.parse(now, shared) {
            Ok(Parsed::Complete(begun)) => self.begin(now, begun, shared),
            Ok(Parsed::Partial) if client.is_eof => {
                // Nothing but the end of lines is no request either.
                let is_empty = held <= 2;
                if is_empty {
                    self.needs.close = Some(false);
                } else {
                    self.fail_client(now, ClientError::Incomplete, shared);
                }
            }
            Ok(Parsed::Partial) => return false,
            Err(error) => self.fail_client(now, error, shared),
        }
        true
    }

    fn begin(&mut self, now: Instant, begun: Begun, shared: &mut Shared) {
        let Begun { exchange, framing, len, is_stats } = begun;
        let client = &mut self.client;
        client.head_since = None;
        client.last_read = now;
        if let Some(input) = &mut client.input {
            input.consume(len);
        }
        self.exchange = Some(exchange);
        client.receive = Receive::Ended;
        if is_stats {
            self.needs.stats = true;
            return;
        }
        let output = &mut self.upstream.output;
        output.hold();
        let mut left = None;
        if let Framing::Length(length) = framing {
            left = Some(length);
        }
        let has_long_body = left.is_some_and(|left| {
            client.input.as_ref().is_some_and(|input| {
                input.len() + shared.scratch.len() > SMALL && input.len() as u64 <= left
            })
        });
        let mut head = None;
        if has_long_body && client.input.as_mut().is_some_and(|i| i.prepend(&shared.scratch)) {
            // The head goes before the body where it was read.
            head = client.input.take();
            let body = head.as_ref().map_or(0, Buffer::len) - shared.scratch.len();
            left = left.map(|left| left - body as u64);
        }
        let head = head.unwrap_or_else(|| shared.buffers.holding_all(&[&shared.scratch]));
        let pushed = output.push(head, &mut shared.buffers);
        debug_assert!(pushed.is_ok(), "nothing waits before the head of a request");
        let (reader, writer) = match (framing, left) {
            (Framing::Chunked, _) => (
                BodyReader::new(framing, shared.chunk_limits),
                BodyWriter::Chunked { with_trailer: true },
            ),
            (_, Some(0) | None) => (None, BodyWriter::Plain),
            (_, left) => (Some(BodyReader::Plain { left }), BodyWriter::Plain),
        };
        if let Some(reader) = reader {
            client.receive = Receive::Body { reader, writer, data: 0 };
        }
        self.upstream.last_write = now;
        self.needs.dispatch = true;
    }

    /// J2: the request's body goes on as far as there is room.
    fn relay_request(&mut self, now: Instant, shared: &mut Shared) -> bool {
        let client = &mut self.client;
        let Receive::Body { reader, writer, data } = &mut client.receive else {
            return false;
        };
        if self.exchange.is_none() || self.upstream.is_write_broken {
            return false;
        }
        if client.input.as_ref().is_none_or(Buffer::is_empty) {
            if client.is_eof {
                self.fail_client(now, ClientError::Incomplete, shared);
                return true;
            }
            return false;
        }
        let was_empty = self.upstream.output.is_empty();
        let output = &mut self.upstream.output;
        match body::relay(reader, *writer, &mut client.input, output, &mut shared.buffers) {
            Ok(relayed) => {
                if was_empty {
                    self.upstream.last_write = now;
                }
                *data += relayed.data;
                let body_max = shared.config.limits.body_bytes_max;
                if body_max > 0 && *data > body_max {
                    self.fail_client(now, ClientError::BodyTooLarge, shared);
                    return true;
                }
                if relayed.is_end {
                    client.receive = Receive::Ended;
                }
                let is_stuck = client.input.as_ref().is_some_and(|input| !input.is_empty());
                relayed.is_end || (client.is_eof && !is_stuck)
            }
            Err(error) => {
                self.fail_client(now, ClientError::MalformedChunk(error), shared);
                true
            }
        }
    }

    /// J3: a whole answer's head goes on.
    fn take_head(&mut self, now: Instant, shared: &mut Shared) -> bool {
        let upstream = &mut self.upstream;
        if !matches!(upstream.receive, upstream_half::Receive::Head) {
            return false;
        }
        let Some(exchange) = &mut self.exchange else {
            return false;
        };
        if upstream.input.as_ref().is_some_and(|input| !input.is_empty()) {
            let has_whole_request = self.client.has_whole_request();
            match upstream.parse(exchange, has_whole_request, shared) {
                Ok(Parsed::Complete(headed)) => return self.pass_head(now, headed, shared),
                Ok(Parsed::Partial) => {}
                Err(error) => {
                    self.fail_upstream(error, shared);
                    return true;
                }
            }
        }
        if self.upstream.is_eof || self.upstream.has_failed {
            self.fail_upstream(UpstreamError::Cut, shared);
            return true;
        }
        false
    }

    /// Writes the head in `shared.scratch` to the client; false when it has to wait for room.
    fn pass_head(&mut self, now: Instant, headed: Headed, shared: &mut Shared) -> bool {
        let (client, upstream) = (&mut self.client, &mut self.upstream);
        let (Some(exchange), Some(input)) = (&mut self.exchange, &mut upstream.input) else {
            return false;
        };
        let rest = input.len() - headed.len;
        let is_all_body = match headed.kind {
            HeadKind::Final {
                framing: Framing::Length(length), writer: BodyWriter::Plain, ..
            } => rest as u64 <= length,
            _ => false,
        };
        let mut is_moved = false;
        if is_all_body && client.output.is_empty() {
            input.consume(headed.len);
            if input.prepend(&shared.scratch) {
                // The head goes before the body where it was read.
                if let Some(whole) = upstream.input.take() {
                    let pushed = client.output.push(whole, &mut shared.buffers);
                    debug_assert!(pushed.is_ok(), "nothing waits before the answer");
                }
                is_moved = true;
            } else {
                let head = shared.buffers.holding_all(&[&shared.scratch]);
                let pushed = client.output.push(head, &mut shared.buffers);
                debug_assert!(pushed.is_ok(), "nothing waits before the answer");
            }
        } else if !matches!(headed.kind, HeadKind::Interim { is_passed_on: false }) {
            let wished = shared.scratch.len() + rest + rest / 8;
            let needed = shared.scratch.len();
            if !client.output.reserve(needed, wished, &mut shared.buffers) {
                return false;
            }
            client.output.append(&shared.scratch);
            input.consume(headed.len);
        } else {
            input.consume(headed.len);
        }
        client.last_write = now;
        match headed.kind {
            HeadKind::Interim { .. } => {
                // The backend is at work: its time for the next head begins anew, but not for ever.
                upstream.last_write = now;
                exchange.interim += 1;
                if exchange.interim > INTERIM_MAX {
                    self.fail_upstream(UpstreamError::MalformedHead, shared);
                }
            }
            HeadKind::Switch => {
                exchange.answer = Some((101, now.since(exchange.dispatched_at)));
                exchange.has_begun_answer = true;
                upstream.receive = upstream_half::Receive::Tunnel;
                upstream.output.release(&mut shared.buffers);
                client.receive = Receive::Tunnel;
                client.last_read = now;
            }
            HeadKind::Final {
                status,
                framing,
                writer,
                is_upstream_persistent,
                is_client_persistent,
            } => {
                exchange.answer = Some((status, now.since(exchange.dispatched_at)));
                exchange.has_begun_answer = true;
                exchange.is_persistent = is_client_persistent;
                upstream.is_persistent = is_upstream_persistent;
                upstream.output.release(&mut shared.buffers);
                let left = match framing {
                    Framing::Length(length) if is_moved => {
                        let left = length - rest as u64;
                        (left > 0).then_some(BodyReader::Plain { left: Some(left) })
                    }
                    framing => BodyReader::new(framing, shared.chunk_limits),
                };
                upstream.receive = match left {
                    Some(reader) => upstream_half::Receive::Body { reader, writer },
                    None => upstream_half::Receive::Ended,
                };
            }
        }
        true
    }

    /// J4: the answer's body goes on as far as there is room.
    fn relay_answer(&mut self, now: Instant, shared: &mut Shared) -> bool {
        let (client, upstream) = (&mut self.client, &mut self.upstream);
        let upstream_half::Receive::Body { reader, writer } = &mut upstream.receive else {
            return false;
        };
        let was_empty = client.output.is_empty();
        // A chunked body's end may wait for room with nothing left to read.
        let relayed = body::relay(
            reader,
            *writer,
            &mut upstream.input,
            &mut client.output,
            &mut shared.buffers,
        );
        match relayed {
            Ok(relayed) if relayed.is_end => {
                upstream.receive = upstream_half::Receive::Ended;
                if was_empty {
                    client.last_write = now;
                }
                return true;
            }
            Ok(relayed) => {
                if was_empty && relayed.data > 0 {
                    client.last_write = now;
                }
            }
            Err(error) => {
                self.fail_upstream(UpstreamError::MalformedChunk(error), shared);
                return true;
            }
        }
        if upstream.input.as_ref().is_some_and(|input| !input.is_empty()) {
            return false;
        }
        if upstream.is_eof && !upstream.has_failed && reader.ends_at_close() {
            if body::finish(*writer, &mut client.output, &mut shared.buffers) {
                upstream.receive = upstream_half::Receive::Ended;
                return true;
            }
            return false;
        }
        // With output waiting, the cut is told when what came before it is out.
        if (upstream.is_eof || upstream.has_failed) && client.output.is_empty() {
            self.fail_upstream(UpstreamError::Truncated, shared);
            return true;
        }
        false
    }

    /// J5: with its answer whole, an exchange is over; its connections are judged.
    fn end_exchange(&mut self, now: Instant, shared: &mut Shared) -> bool {
        let (client, upstream) = (&mut self.client, &mut self.upstream);
        if !matches!(upstream.receive, upstream_half::Receive::Ended) {
            return false;
        }
        let Some(mut exchange) = self.exchange.take() else {
            return false;
        };
        let is_whole = matches!(client.receive, Receive::Ended);
        let is_reusable = upstream.is_persistent
            && is_whole
            && upstream.output.is_empty()
            && upstream.input.as_ref().is_none_or(Buffer::is_empty)
            && !upstream.is_eof
            && !upstream.has_failed
            && !upstream.is_write_broken;
        if let Some(conn) = upstream.conn() {
            self.needs.release = Some((conn, is_reusable));
        }
        upstream.output.clear(&mut shared.buffers);
        upstream.unlink(shared);
        if let (Some(lease), Some((status, latency))) = (exchange.lease.take(), exchange.answer) {
            self.needs.finish = Some((lease, Outcome::Answered { status, latency }));
        }
        self.end_request(now, exchange.is_persistent && is_whole);
        true
    }

    /// The client's side of an exchange's end.
    fn end_request(&mut self, now: Instant, is_persistent: bool) {
        let client = &mut self.client;
        client.last_read = now;
        if is_persistent && client.send == Send::Open {
            client.receive = Receive::Head;
            let has_more = client.input.as_ref().is_some_and(|input| !input.is_empty());
            client.head_since = has_more.then_some(now);
        } else if client.send == Send::Open {
            client.send = Send::Closing { with_reset: false };
        }
    }

    /// J6: a tunnel's bytes go on, and its ends when what came before them is out.
    fn relay_tunnel(&mut self, now: Instant, shared: &mut Shared) -> bool {
        let (client, upstream) = (&mut self.client, &mut self.upstream);
        if !matches!(client.receive, Receive::Tunnel) {
            return false;
        }
        let mut whole = BodyReader::Plain { left: None };
        let buffers = &mut shared.buffers;
        for (input, output) in
            [(&mut client.input, &mut upstream.output), (&mut upstream.input, &mut client.output)]
        {
            let was_empty = output.is_empty();
            // Plain bytes cannot be malformed.
            let moved = body::relay(&mut whole, BodyWriter::Plain, input, output, buffers);
            if was_empty && moved.is_ok_and(|moved| moved.data > 0) {
                client.last_write = now;
                upstream.last_write = now;
            }
        }
        if upstream.has_failed || upstream.is_write_broken {
            self.end(now, true, shared);
            return true;
        }
        let is_dry = |input: &Option<Buffer>| input.as_ref().is_none_or(Buffer::is_empty);
        let is_client_over = client.is_eof && is_dry(&client.input) && upstream.output.is_empty();
        let is_upstream_over =
            upstream.is_eof && is_dry(&upstream.input) && client.output.is_empty();
        if is_client_over && is_upstream_over {
            self.end(now, false, shared);
            return true;
        }
        if is_client_over && !upstream.is_shut {
            upstream.is_shut = true;
            self.needs.shutdown_upstream = upstream.conn();
        }
        if is_upstream_over && client.send == Send::Open {
            client.send = Send::Shut;
            self.needs.shutdown_client = true;
        }
        false
    }

    /// J7: a client whose last answer is out is told so; what it still sends is dropped for a
    /// while, since closing at once could destroy the answer (RFC 9112 section 9.6).
    fn close_client(&mut self, now: Instant, shared: &mut Shared) -> bool {
        let client = &mut self.client;
        if matches!(client.receive, Receive::Discarding { .. }) {
            if let Some(buffer) = client.input.take() {
                shared.buffers.give(buffer);
            }
            if client.is_eof {
                self.needs.close = Some(false);
            }
            return false;
        }
        let Send::Closing { with_reset } = client.send else {
            return false;
        };
        if !client.output.is_empty() {
            return false;
        }
        let has_all = client.is_eof
            || (matches!(client.receive, Receive::Ended)
                && client.input.as_ref().is_none_or(Buffer::is_empty));
        if with_reset || has_all {
            self.needs.close = Some(with_reset);
            return false;
        }
        client.send = Send::Shut;
        client.receive = Receive::Discarding { until: now + shared.config.timeouts.linger };
        self.needs.shutdown_client = true;
        true
    }

    /// The client broke a rule: it is answered, if it can be, and closed.
    fn fail_client(&mut self, now: Instant, error: ClientError, shared: &mut Shared) {
        let client = &mut self.client;
        let excerpt = client.input.as_ref().map_or(&[][..], Buffer::bytes);
        let notice = Notice::client_error(client.peer, error, excerpt);
        shared.actions.push_back(super::Action::Notify(notice));
        let has_begun_answer = self.exchange.as_ref().is_some_and(|e| e.has_begun_answer);
        let is_head_request = self.exchange.as_ref().is_some_and(|e| e.is_head_request);
        self.abandon(shared);
        if has_begun_answer {
            self.client.send = Send::Closing { with_reset: true };
            return;
        }
        let bytes = answer::encode_error(error.status(), is_head_request, Some("close"));
        self.answer(now, bytes, shared);
        self.client.send = Send::Closing { with_reset: false };
    }

    /// The upstream failed: what becomes of the exchange is decided in `verdict.rs`.
    fn fail_upstream(&mut self, error: UpstreamError, shared: &mut Shared) {
        let Some(exchange) = &mut self.exchange else {
            return;
        };
        let attempts_max = shared.config.limits.attempts;
        let upstream = &mut self.upstream;
        let failure = Failure {
            error,
            has_begun_answer: exchange.has_begun_answer,
            has_seen_answer: exchange.has_seen_answer,
            has_sent: upstream.output.has_sent(),
            can_replay: upstream.output.is_holding(),
            is_idempotent: exchange.is_idempotent,
            is_reused: upstream.is_reused(),
            attempts_left: attempts_max.saturating_sub(exchange.tried.len() + 1),
        };
        let backend = exchange.backend();
        let mut remedy = remedy(&failure);
        if backend.is_none() {
            remedy = Remedy::Answer;
        }
        shared.actions.push_back(super::Action::Notify(Notice::UpstreamError {
            peer: self.client.peer,
            backend,
            error,
            remedy: remedy.into(),
        }));
        if let Some(conn) = upstream.conn() {
            self.needs.release = Some((conn, false));
        }
        upstream.unlink(shared);
        if remedy == Remedy::Redial {
            exchange.has_seen_answer = false;
            upstream.output.rewind(0..0, b"", &mut shared.buffers);
            self.needs.redial = backend;
            return;
        }
        exchange.last_error = Some(error);
        if let Some(lease) = exchange.lease.take() {
            exchange.tried.push(lease.backend());
            self.needs.finish = Some((lease, Outcome::Failed(request_failure(error))));
        }
        match remedy {
            Remedy::Redial => {}
            Remedy::Retry => {
                exchange.has_seen_answer = false;
                upstream.output.rewind(0..0, b"", &mut shared.buffers);
                self.needs.dispatch = true;
            }
            Remedy::Answer => {
                let is_persistent = exchange.is_persistent
                    && matches!(self.client.receive, Receive::Ended)
                    && !shared.is_stopping;
                exchange.is_persistent = is_persistent;
                let connection = connection_option(exchange.version, is_persistent);
                let is_head_request = exchange.is_head_request;
                let bytes = answer::encode_error(error.status(), is_head_request, connection);
                let now = self.client.last_read.max(exchange.dispatched_at);
                self.answer(now, bytes, shared);
            }
            Remedy::Truncate => {
                self.exchange = None;
                upstream.output.clear(&mut shared.buffers);
                self.client.send = Send::Closing { with_reset: true };
            }
        }
    }

    /// Answers the exchange at hand (or what was no request) with bytes of the proxy's own.
    fn answer(&mut self, now: Instant, bytes: Vec<u8>, shared: &mut Shared) {
        let is_persistent = self.exchange.take().is_some_and(|exchange| exchange.is_persistent);
        self.upstream.output.clear(&mut shared.buffers);
        let buffer = shared.buffers.adopt(Buffer::holding(bytes));
        if let Err(buffer) = self.client.output.push(buffer, &mut shared.buffers) {
            // Interim answers fill the way out: a client that reads none of them gets no other.
            shared.buffers.give(buffer);
            self.client.send = Send::Closing { with_reset: true };
        }
        self.client.last_write = now;
        self.end_request(now, is_persistent);
    }

    /// Gives up the exchange at hand without blaming its backend.
    fn abandon(&mut self, shared: &mut Shared) {
        if let Some(lease) = self.exchange.as_mut().and_then(|exchange| exchange.lease.take()) {
            self.needs.finish = Some((lease, Outcome::Abandoned));
        }
        if let Some(conn) = self.upstream.conn().or_else(|| self.needs.give_up.take()) {
            self.needs.release = Some((conn, false));
        }
        self.exchange = None;
        self.needs.dispatch = false;
        self.needs.redial = None;
        self.needs.stats = false;
        self.upstream.unlink(shared);
        self.upstream.output.clear(&mut shared.buffers);
    }

    /// Ends the session now.
    fn end(&mut self, _now: Instant, with_reset: bool, shared: &mut Shared) {
        if let Some(exchange) = &mut self.exchange
            && let Some((status @ 101, latency)) = exchange.answer
            && let Some(lease) = exchange.lease.take()
        {
            // A tunnel that was opened was an answer.
            self.needs.finish = Some((lease, Outcome::Answered { status, latency }));
        }
        self.abandon(shared);
        self.needs.close = Some(with_reset);
    }

    /// The earliest of the deadlines that the state at hand has.
    fn next_deadline(&self, shared: &Shared) -> Option<(Instant, Expiry)> {
        let times = &shared.config.timeouts;
        let (client, upstream) = (&self.client, &self.upstream);
        if self.needs.close.is_some() {
            return None;
        }
        let mut first = None;
        let mut add = |since: Instant, span: Duration, expiry: Expiry| {
            let at = since + span;
            if first.is_none_or(|(earliest, _)| at < earliest) {
                first = Some((at, expiry));
            }
        };
        if !client.output.is_empty() {
            add(client.last_write, times.client_write, Expiry::ClientWrite);
        }
        match &client.receive {
            Receive::Head if client.output.is_empty() => match client.head_since {
                Some(since) => add(since, times.request_head, Expiry::RequestHead),
                None => add(client.last_read, times.client_idle, Expiry::ClientIdle),
            },
            Receive::Body { .. } if client.input.is_none() && client.send == Send::Open => {
                add(client.last_read, times.request_body, Expiry::RequestBody);
            }
            Receive::Discarding { until } => add(*until, Duration::ZERO, Expiry::Linger),
            Receive::Tunnel => {
                let last = client.last_read.max(upstream.last_read);
                add(last, times.tunnel_idle, Expiry::Tunnel);
            }
            _ => {}
        }
        if let Link::Connecting { since, .. } = upstream.link {
            add(since, times.connect, Expiry::Connect);
        }
        if upstream.is_open() && !upstream.output.is_empty() {
            add(upstream.last_write, times.response_body, Expiry::UpstreamWrite);
        }
        match &upstream.receive {
            upstream_half::Receive::Head
                if upstream.output.is_empty() && client.has_whole_request() =>
            {
                add(upstream.last_write, times.response_head, Expiry::ResponseHead);
            }
            upstream_half::Receive::Body { .. } if client.output.is_empty() => {
                let since = upstream.last_read.max(client.last_write);
                add(since, times.response_body, Expiry::ResponseBody);
            }
            _ => {}
        }
        first
    }
}

/// How the router is told of an error.
const fn request_failure(error: UpstreamError) -> RequestFailure {
    match error {
        UpstreamError::NoBackend | UpstreamError::Unreachable | UpstreamError::ConnectTimeout => {
            RequestFailure::Unreachable
        }
        UpstreamError::Refused => RequestFailure::Refused,
        UpstreamError::Cut => RequestFailure::Cut,
        UpstreamError::HeadTimeout => RequestFailure::TimedOut,
        UpstreamError::MalformedHead
        | UpstreamError::HeadTooLarge
        | UpstreamError::AmbiguousFraming
        | UpstreamError::UnexpectedUpgrade => RequestFailure::Malformed,
        UpstreamError::Truncated
        | UpstreamError::MalformedChunk(_)
        | UpstreamError::BodyTimeout => RequestFailure::Truncated,
    }
}
