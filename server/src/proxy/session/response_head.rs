//! The joint rule J3 of LIFECYCLE.md: the head of a response.
//!
//! The layout hints are explained in `proxy/mod.rs`.
use intelliproxy_core::{Instant, Lease};

use super::Session;
use super::exchange::Asking;
use super::upstream_half::{HeadKind, PassedHead};
use crate::http::UpstreamError;
use crate::http::body::{BodyReader, BodyWriter};
use crate::http::framing::Framing;
use crate::http::head::Parsed;
use crate::proxy::shared::Shared;

/// Bound on the interim responses (1xx) of one exchange together, as a multiple of
/// `limits.headBytesMax`. With the default of 32 KiB this allows a short interim response every 10
/// s for a day, but still stops a faulty backend.
const INTERIM_HEADS_MAX: usize = 8;

impl Session {
    /// J3: forwards a complete response head. Returns whether anything changed.
    pub(super) fn take_head(&mut self, now: Instant, shared: &mut Shared) -> bool {
        let upstream = &mut self.upstream;
        let Some(exchange) = &mut self.exchange else {
            return false;
        };
        if exchange.rare.as_ref().is_some_and(|rare| matches!(rare.asking, Asking::Asked { .. })) {
            return false;
        }
        if upstream.input.as_ref().is_some_and(|input| !input.is_empty()) {
            if !upstream.output.has_sent() {
                // The bytes belong to an earlier exchange or to none. They are never sent to this
                // client.
                exchange.has_seen_answer = false;
                self.fail_upstream(now, UpstreamError::Unsolicited, shared);
                return true;
            }
            if upstream.is_head_waiting {
                return false;
            }
            let has_whole_request = self.client.has_whole_request();
            let (visit, hsts) = (self.client.visit.as_deref(), self.client.hop.hsts());
            // The result is matched in place, because moving it is expensive.
            match &upstream.parse(exchange, visit, hsts, has_whole_request, shared) {
                Ok(Parsed::Complete(headed)) => {
                    if let HeadKind::Final { status: 429 | 500.., .. } = headed.kind
                        && self.withholds(headed, shared)
                    {
                        return false;
                    }
                    return self.pass_head(now, headed, shared);
                }
                Ok(Parsed::Partial) => {}
                Err(error) => {
                    self.fail_upstream(now, *error, shared);
                    return true;
                }
            }
        }
        if self.upstream.is_eof || self.upstream.has_failed {
            self.fail_upstream(now, UpstreamError::Cut, shared);
            return true;
        }
        false
    }

    /// Whether an error response is not forwarded yet, because another backend may take the
    /// request: a refusal, and any error in a trial.
    #[cold]
    fn withholds(&mut self, headed: &PassedHead, shared: &mut Shared) -> bool {
        let HeadKind::Final { status, .. } = headed.kind else { return false };
        let Some(exchange) = &self.exchange else { return false };
        let is_trial = exchange.lease.as_ref().is_some_and(Lease::is_trial);
        let is_withheld = (matches!(status, 429 | 503) || is_trial)
            && self.asks_elsewhere(headed.len, headed.kind, shared);
        if is_withheld {
            shared.loads.keep();
        }
        is_withheld
    }

    /// Forwards a head to the client, and begins the body or tunnel after it. Returns false if the
    /// head has to wait for room.
    #[inline(always)]
    fn pass_head(&mut self, now: Instant, headed: &PassedHead, shared: &mut Shared) -> bool {
        let moved = self.move_answer(headed, shared);
        if moved.is_none() {
            let is_dropped = matches!(headed.kind, HeadKind::Interim { is_passed_on: false, .. });
            if !self.copy_head(headed, is_dropped, shared) {
                self.upstream.is_head_waiting = true;
                return false;
            }
        }
        let mut waited = None;
        if !self.client.has_whole_request() {
            waited = Some(self.body_wait(now));
        }
        self.client.last_write = now;
        let upstream = &mut self.upstream;
        let Some(exchange) = &mut self.exchange else { return false };
        match headed.kind {
            HeadKind::Interim { is_continue, .. } => {
                self.note_interim(now, headed.len, is_continue, shared);
            }
            HeadKind::Switch => {
                shared.counts.passed.add(101);
                self.open_tunnel(now, shared);
            }
            HeadKind::Final {
                status, framing, writer, kept, binds, is_client_persistent, ..
            } => {
                let mut latency = now.since(exchange.dispatched_at);
                if waited.is_some() || !exchange.client_wait.is_zero() {
                    // Time spent waiting for the client does not count for the backend.
                    let waited = exchange.client_wait + waited.unwrap_or_default();
                    latency = latency.saturating_sub(waited);
                }
                shared.loads.keep();
                shared.counts.passed.add(status);
                exchange.answer = Some((status, latency));
                exchange.has_begun_answer = true;
                exchange.is_persistent = is_client_persistent;
                exchange.binds = binds;
                upstream.kept = kept;
                upstream.output.release(&mut shared.buffers);
                let left = framing.after(moved.unwrap_or(0));
                match BodyReader::new(left, shared.chunk_limits) {
                    Some(reader) => upstream.begin_body(reader, writer),
                    None => upstream.end_response(),
                }
            }
        }
        if self.client.visit.is_some() {
            self.visit_head(now, headed, shared);
        }
        true
    }

    /// Passes a response's head to the client in the buffer in which it arrived, with the received
    /// part of its body. Returns the number of bytes of that part. If this is not possible, changes
    /// nothing and returns `None`.
    #[inline(always)]
    fn move_answer(&mut self, headed: &PassedHead, shared: &mut Shared) -> Option<u64> {
        let (client, upstream) = (&mut self.client, &mut self.upstream);
        let input = upstream.input.as_mut()?;
        let rest = (input.len() - headed.len) as u64;
        let is_all_body = match headed.kind {
            HeadKind::Final {
                framing: Framing::Length(length), writer: BodyWriter::Plain, ..
            } => rest <= length,
            _ => false,
        };
        let can_move = is_all_body
            && client.output.is_empty()
            && match (headed.is_verbatim, headed.date_at) {
                (true, 0) => true,
                (true, at) => input.splice(at..at, shared.date.as_bytes()),
                (false, _) => input.replace_front(headed.len, &shared.scratch),
            };
        if !can_move {
            return None;
        }
        let whole = upstream.input.take()?;
        if let Err(whole) = client.output.push(whole, &mut shared.buffers) {
            debug_assert!(false, "nothing waits before the response");
            shared.buffers.give(whole);
        }
        Some(rest)
    }

    /// Copies a response's head to the client's output, or drops it; returns false if there is no
    /// room.
    #[inline(never)]
    fn copy_head(&mut self, head: &PassedHead, is_dropped: bool, shared: &mut Shared) -> bool {
        let Some(input) = &mut self.upstream.input else { return false };
        if !is_dropped {
            let rest = input.len() - head.len;
            let (line, fields) = input.bytes()[..head.len].split_at(head.date_at);
            let parts = match head.date_at {
                _ if !head.is_verbatim => [&shared.scratch[..], &[], &[]],
                0 => [fields, &[], &[]],
                _ => [line, shared.date.as_bytes(), fields],
            };
            let len = parts.iter().map(|part| part.len()).sum();
            let wished = len + rest + rest / 8;
            let output = &mut self.client.output;
            if !output.reserve(len, wished, &mut shared.buffers) {
                return false;
            }
            parts.into_iter().for_each(|part| output.append(part));
        }
        input.consume(head.len);
        true
    }

    /// Counts an interim response of `len` bytes. The backend is working, so the deadline of the
    /// next head restarts. The bytes of all interim responses are bounded.
    #[cold]
    fn note_interim(&mut self, now: Instant, len: usize, is_continue: bool, shared: &mut Shared) {
        let Some(exchange) = &mut self.exchange else { return };
        self.upstream.last_write = now;
        if is_continue && std::mem::take(&mut exchange.awaits_continue) {
            self.client.last_read = now;
        }
        // This cannot overflow: a head has at most 60 000 bytes.
        let interim_bytes = &mut exchange.rare().interim_bytes;
        *interim_bytes = interim_bytes.saturating_add(len as u32);
        if *interim_bytes as usize > INTERIM_HEADS_MAX * shared.head_limits.head_bytes_max {
            self.fail_upstream(now, UpstreamError::InterimTooLarge, shared);
        }
    }
}
