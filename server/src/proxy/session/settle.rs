//! The joint rules J1 to J7 of LIFECYCLE.md, which connect the halves of a session, applied until
//! nothing changes. Each rule returns whether it changed something. No rule waits.
//!
//! The rules that a request without a body needs are inlined into [`Session::settle`]. The others are
//! functions of their own, and so is rare code: between the instructions of every request it
//! would spread them over more cache lines (534 with it and 509 without, at 64 connections).
use intelliproxy_core::Instant;

use super::Session;
use super::bound::Bound;
use super::client_half::{Aim, End, NewRequest, Receive, Sending};
use super::upstream_half::{self, connection_option};
use crate::access::Ending;
use crate::buffer::{Buffer, SMALL};
use crate::http::answer;
use crate::http::body::{BodyReader, BodyWriter};
use crate::http::chunked::Trailer;
use crate::http::framing::Framing;
use crate::http::head::Parsed;
use crate::http::{ClientError, UpstreamError};
use crate::proxy::shared::Shared;

impl Session {
    /// Applies the joint rules until nothing changes.
    pub(super) fn settle(&mut self, now: Instant, shared: &mut Shared) {
        while !self.needs.has_close()
            && (self.advance_client(now, shared)
                || self.advance_upstream(now, shared)
                || self.close_client(now, shared))
        {}
        if self.client.visit.is_some() {
            self.close_visit(now, shared);
        }
        shared.buffers.shrink(&mut self.client.input);
        shared.buffers.shrink(&mut self.upstream.input);
    }

    /// Applies the rule for the expected input of the client.
    #[inline]
    fn advance_client(&mut self, now: Instant, shared: &mut Shared) -> bool {
        match self.client.receive() {
            Receive::Head => self.begin_exchange(now, shared),
            Receive::Body { .. } => self.relay_request(now, shared),
            Receive::Tunnel => self.relay_tunnel(now, shared),
            Receive::Ended | Receive::Discarding { .. } => false,
        }
    }

    /// Applies the rule for the expected input of the backend.
    #[inline]
    fn advance_upstream(&mut self, now: Instant, shared: &mut Shared) -> bool {
        match self.upstream.receive() {
            upstream_half::Receive::Head => self.take_head(now, shared),
            upstream_half::Receive::Body { .. } => self.relay_answer(now, shared),
            upstream_half::Receive::Ended => self.end_exchange(now, shared),
            upstream_half::Receive::Idle | upstream_half::Receive::Tunnel => false,
            upstream_half::Receive::AwaitsOwn(_) => false,
            upstream_half::Receive::OwnText { .. } | upstream_half::Receive::OwnStream { .. } => {
                self.pass_own_text(now, shared)
            }
        }
    }

    /// J1: a complete head begins an exchange when none is in progress and the last response is
    /// written.
    fn begin_exchange(&mut self, now: Instant, shared: &mut Shared) -> bool {
        let client = &mut self.client;
        if !client.is_sending() || self.exchange.is_some() || !client.output.is_empty() {
            return false;
        }
        if client.input.as_ref().is_none_or(Buffer::is_empty) {
            if client.is_eof {
                self.needs.close(false);
            }
            return false;
        }
        if client.head_since.is_none() {
            client.head_since = Some(now);
        }
        if client.hop.awaits_header {
            return self.take_proxy_header(now, shared);
        }
        match client.parse(now, &mut self.exchange, shared) {
            Ok(Parsed::Complete(begun)) => {
                self.begin(now, begun, shared);
                if self.client.end == End::Gone {
                    self.leave_if_gone(now, shared);
                }
            }
            Ok(Parsed::Partial) if client.is_eof => self.end_incomplete(now, shared),
            Ok(Parsed::Partial) => {
                client.skip_empty_lines();
                return false;
            }
            Err(error) => {
                self.fail_client(now, error, shared);
            }
        }
        true
    }

    /// Handles a client that ended its side before a head was complete.
    #[cold]
    fn end_incomplete(&mut self, now: Instant, shared: &mut Shared) {
        let rest = self.client.input.as_ref().map_or(&[][..], Buffer::bytes);
        // Line ends alone are not a request.
        if rest.iter().all(|byte| b"\r\n".contains(byte)) {
            self.needs.close(false);
        } else {
            self.fail_client(now, ClientError::Incomplete, shared);
        }
    }

    fn begin(&mut self, now: Instant, begun: NewRequest, shared: &mut Shared) {
        let NewRequest { forwarded, framing, len, is_last, aim } = begun;
        let client = &mut self.client;
        shared.counts.requests += 1;
        client.head_since = None;
        client.has_said_last = is_last;
        client.last_read = now;
        if let Some(input) = &mut client.input {
            input.consume(len);
        }
        if let Some(exchange) = &mut self.exchange
            && exchange.awaits_continue
        {
            // A client that sends its body at once does not wait for a 100.
            exchange.awaits_continue = client.input.as_ref().is_none_or(Buffer::is_empty);
        }
        client.end_request();
        if shared.per_client.limits_requests() && !self.is_within_rate(now, shared) {
            shared.buffers.give(forwarded);
            return self.answer_limited(now, framing, shared);
        }
        if aim != Aim::Backend {
            shared.buffers.give(forwarded);
            return self.serve_itself(now, framing, aim, shared);
        }
        shared.retries.earn();
        // A request that must not be repeated is no longer held once it was sent.
        if self.exchange.as_ref().is_some_and(|exchange| exchange.is_idempotent) {
            self.upstream.output.hold();
        }
        let head = match framing {
            Framing::None => forwarded,
            _ => self.expect_body(framing, forwarded, shared),
        };
        if let Err(head) = self.upstream.output.push(head, &mut shared.buffers) {
            debug_assert!(false, "nothing waits before the head of a request");
            shared.buffers.give(head);
        }
        self.upstream.last_write = now;
        self.needs.dispatch();
    }

    /// Begins the response to a request that is not for a backend.
    #[cold]
    fn serve_itself(&mut self, now: Instant, framing: Framing, aim: Aim, shared: &mut Shared) {
        match aim {
            Aim::Own(page) => {
                self.upstream.await_own(page);
                self.needs.stats();
            }
            Aim::Redirect(to) => self.answer_itself(now, framing, Some(&to), shared),
            Aim::LastHop | Aim::Backend => self.answer_itself(now, framing, None, shared),
        }
    }

    /// Responds to a request that Max-Forwards stops here, or redirects it. If the request has a
    /// body, the body is not read and the connection is closed.
    #[cold]
    fn answer_itself(
        &mut self,
        now: Instant,
        framing: Framing,
        redirect: Option<&str>,
        shared: &mut Shared,
    ) {
        let Some(exchange) = &mut self.exchange else { return };
        if framing != Framing::None {
            exchange.is_persistent = false;
            self.client.has_said_last = false;
        }
        let connection = connection_option(exchange.version, exchange.is_persistent);
        let status = if redirect.is_some() { 308 } else { 200 };
        let bytes = answer::encode_empty(status, &shared.date, redirect, connection);
        self.answer(now, status, bytes, shared);
    }

    /// Begins a body after the forwarded head. Returns that head for the backend, with the received
    /// part of a long body.
    #[inline(never)]
    fn expect_body(&mut self, framing: Framing, head: Buffer, shared: &mut Shared) -> Buffer {
        let client = &mut self.client;
        let head_len = head.len();
        // A long body stays in the buffer that it was read into. The forwarded head is put before
        // it.
        let moved = client.input.take_if(|input| match framing {
            Framing::Length(length) => {
                let is_long = input.len() + head_len > SMALL && input.len() as u64 <= length;
                is_long && input.prepend(head.bytes())
            }
            _ => false,
        });
        let taken = moved.as_ref().map_or(0, |moved| moved.len() - head_len);
        if let Some(visit) = &mut client.visit {
            visit.receive(taken);
        }
        let writer = match framing {
            Framing::Chunked => BodyWriter::Chunked { trailer: Trailer::All },
            _ => BodyWriter::Plain,
        };
        let reader = BodyReader::new(framing.after(taken as u64), shared.chunk_limits);
        if let Some(mut reader) = reader {
            if let Some(names) = shared.identity_fields() {
                // A recipient that merges trailer fields would take them for the proxy's own.
                reader.refuse_trailer(names);
            }
            let data_max = shared.config.limits.body_bytes_max;
            client.begin_body(reader, writer, data_max);
        }
        let Some(moved) = moved else { return head };
        shared.buffers.give(head);
        moved
    }

    /// J2: forwards the request's body as far as there is room.
    #[inline(never)]
    fn relay_request(&mut self, now: Instant, shared: &mut Shared) -> bool {
        let upstream = &self.upstream;
        let is_tunnel = upstream.is_tunnel();
        // No more bytes can reach the backend, and a clean end would hide the loss.
        if is_tunnel && (upstream.has_failed || upstream.is_write_broken) {
            self.end_visit(Ending::BackendCut);
            self.end(now, true, shared);
            return true;
        }
        // A backend that accepts no more of the body may still send its response, such as a 413.
        if self.exchange.is_none() || upstream.is_write_broken {
            return false;
        }
        let client = &mut self.client;
        // The end of a chunked body may wait for room after all input was read.
        if client.input.as_ref().is_none_or(Buffer::is_empty) && client.lacks_body() {
            if client.is_eof {
                self.fail_client(now, ClientError::Incomplete, shared);
                return true;
            }
            return false;
        }
        let was_empty = self.upstream.output.is_empty();
        let output = &mut self.upstream.output;
        let relayed = client.relay_body(output, shared);
        if was_empty && !output.is_empty() {
            self.upstream.last_write = now;
        }
        match relayed {
            Ok(part) => {
                // All received bytes were forwarded, so the wait for more begins now.
                if client.input.as_ref().is_none_or(Buffer::is_empty) {
                    client.last_read = now;
                }
                if part.is_too_large {
                    self.fail_client(now, ClientError::BodyTooLarge, shared);
                    return true;
                }
                if part.is_end {
                    // A client may use the new protocol only after its complete request.
                    if is_tunnel {
                        client.begin_tunnel();
                    } else {
                        client.end_request();
                    }
                }
                let is_stuck = client.input.as_ref().is_some_and(|input| !input.is_empty());
                part.is_end || (client.is_eof && !is_stuck && client.lacks_body())
            }
            Err(error) => {
                self.fail_client(now, ClientError::MalformedChunk(error), shared);
                true
            }
        }
    }

    /// J4: forwards the response's body as far as there is room.
    #[inline(never)]
    fn relay_answer(&mut self, now: Instant, shared: &mut Shared) -> bool {
        let (client, upstream) = (&mut self.client, &mut self.upstream);
        let was_empty = client.output.is_empty();
        // The end of a chunked body may wait for room after all input was read.
        let relayed = upstream.relay_body(&mut client.output, shared);
        // This also applies after an error: bytes that begin to wait now get the full time.
        if was_empty && !client.output.is_empty() {
            client.last_write = now;
        }
        match relayed {
            Ok(true) => return true,
            Ok(false) => {}
            Err(error) => {
                self.fail_upstream(now, UpstreamError::MalformedChunk(error), shared);
                return true;
            }
        }
        if upstream.input.as_ref().is_some_and(|input| !input.is_empty()) {
            return false;
        }
        if upstream.is_eof && !upstream.has_failed && upstream.ends_at_close() {
            if !upstream.finish_body(&mut client.output, shared) {
                return false;
            }
            if was_empty {
                client.last_write = now;
            }
            return true;
        }
        // While output waits, the cut is not reported yet. It is reported after the last byte is
        // written.
        if (upstream.is_eof || upstream.has_failed) && client.output.is_empty() {
            self.fail_upstream(now, UpstreamError::Truncated, shared);
            return true;
        }
        false
    }

    /// J5: ends an exchange whose response is complete, and decides whether its connections are
    /// kept.
    fn end_exchange(&mut self, now: Instant, shared: &mut Shared) -> bool {
        let (client, upstream) = (&mut self.client, &mut self.upstream);
        let Some(exchange) = &mut self.exchange else {
            return false;
        };
        let is_whole = client.has_ended_request();
        // Bytes left over on either side would be read as part of the next exchange.
        let is_reusable = is_whole
            && upstream.output.is_empty()
            && upstream.input.as_ref().is_none_or(Buffer::is_empty)
            && !upstream.is_eof
            && !upstream.has_failed
            && !upstream.is_write_broken;
        if let Some(conn) = upstream.conn() {
            let kept = upstream.kept.filter(|_| is_reusable);
            if exchange.binds {
                exchange.is_persistent &= is_whole && kept.is_some();
                let backend = exchange.backend().filter(|_| exchange.is_persistent);
                self.bound = backend.map(|backend| Bound { conn, backend });
            }
            if self.bound.is_none() {
                self.needs.release(conn, kept.filter(|_| !exchange.binds));
            }
        }
        upstream.output.clear(&mut shared.buffers);
        upstream.unlink(shared);
        if let (Some(outcome), Some(lease)) = (exchange.outcome(), exchange.lease.take()) {
            self.needs.finish(lease, outcome);
        }
        let is_persistent = exchange.is_persistent && is_whole;
        self.exchange = None;
        self.end_request(now, is_persistent, shared);
        true
    }

    /// Ends an exchange on the client's side.
    pub(super) fn end_request(&mut self, now: Instant, is_persistent: bool, shared: &mut Shared) {
        if let Some(visit) = &mut self.client.visit {
            visit.end(Ending::Complete);
            // The next request may follow at once.
            self.close_visit(now, shared);
        }
        let client = &mut self.client;
        client.last_read = now;
        client.has_been_served = true;
        if is_persistent && client.is_sending() {
            client.await_request();
            // A pipelined head has waited for this response. Its own time begins now.
            let has_more = client.input.as_ref().is_some_and(|input| !input.is_empty());
            client.head_since = has_more.then_some(now);
        } else if client.is_sending() {
            client.close(false);
        }
    }

    /// J7: sends the end to a client whose last response is written. Its further input is dropped
    /// for a while, since closing at once could destroy the response (RFC 9112 section 9.6).
    fn close_client(&mut self, now: Instant, shared: &mut Shared) -> bool {
        let client = &mut self.client;
        if matches!(client.receive(), Receive::Discarding { .. }) {
            self.discard(shared);
            return false;
        }
        match client.sending() {
            Sending::Closing { with_reset } if client.output.is_empty() => {
                self.say_end(now, with_reset, shared)
            }
            _ => false,
        }
    }

    /// Drops the input of a client after its end was sent.
    #[cold]
    fn discard(&mut self, shared: &mut Shared) {
        if let Some(buffer) = self.client.input.take() {
            shared.buffers.give(buffer);
        }
        if self.client.is_eof {
            self.needs.close(false);
        }
    }

    /// Ends the output as [`close_client`](Self::close_client) does, after all waiting bytes were
    /// written.
    #[inline(never)]
    fn say_end(&mut self, now: Instant, with_reset: bool, shared: &Shared) -> bool {
        let client = &mut self.client;
        // A client that learns of the end only from its response may already have sent its next
        // request.
        let has_all = client.is_eof
            || (client.has_said_last
                && client.has_ended_request()
                && client.input.as_ref().is_none_or(Buffer::is_empty));
        if with_reset || has_all {
            self.needs.close(with_reset);
            return false;
        }
        client.linger(now, shared.config.timeouts.linger_total);
        self.needs.shutdown_client();
        true
    }
}
