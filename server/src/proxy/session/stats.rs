//! The responses under /stats. The session encodes the head. A body is a text that clients share,
//! which `proxy/stats.rs` and `proxy/live.rs` build; a stream gets one text after another.
//!
//! The layout hints are explained in `proxy/mod.rs`.
use std::sync::Arc;

use intelliproxy_core::Instant;

use super::upstream_half::connection_option;
use super::visit::add_fields;
use super::{OwnPage, Session};
use crate::buffer::LARGE;
use crate::http::answer;
use crate::proxy::shared::Shared;

/// A page of the proxy that is complete.
pub(crate) struct OwnText<'a> {
    pub(crate) status: u16,
    pub(crate) kind: &'a str,
    /// Header lines, each with its line end.
    pub(crate) fields: &'a str,
    pub(crate) text: &'a Arc<[u8]>,
}

/// The state of a client's event stream.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum StreamState {
    /// The client reads no stream.
    None,
    /// A part is not written yet.
    Writing,
    /// Everything is written.
    Ready,
    /// The client has ended its side.
    Left,
}

impl Session {
    /// Returns the page of the proxy that the client waits for.
    pub(crate) const fn awaited_page(&self) -> Option<OwnPage> {
        if self.exchange.is_some() { self.upstream.awaited_page() } else { None }
    }

    /// Takes a page; ignored if the session no longer waits for one. The text is shared, not
    /// copied. Each client gets it piece by piece.
    pub(crate) fn handle_own_text(
        &mut self,
        now: Instant,
        page: &OwnText<'_>,
        shared: &mut Shared,
    ) {
        if self.awaited_page().is_some()
            && let Some(exchange) = &self.exchange
        {
            let connection = connection_option(exchange.version, exchange.is_persistent);
            let OwnText { status, kind, fields, text } = page;
            let head =
                answer::encode_head(*status, &shared.date, kind, fields, text.len(), connection);
            let is_head_request = exchange.is_head_request;
            self.pass_own_head(now, *status, head, shared);
            if is_head_request {
                self.upstream.end_response();
            } else {
                self.upstream.begin_own_text(Arc::clone(text));
            }
        }
        self.settle(now, shared);
    }

    /// Begins an event stream with its first part, unless the session no longer waits for one. The
    /// connection ends with the stream. Returns whether it has begun.
    pub(crate) fn begin_stream(
        &mut self,
        now: Instant,
        first: Arc<[u8]>,
        shared: &mut Shared,
    ) -> bool {
        let is_awaited = self.awaited_page().is_some();
        if is_awaited && let Some(exchange) = &mut self.exchange {
            exchange.is_persistent = false;
            let is_head_request = exchange.is_head_request;
            let head = answer::encode_stream_head(&shared.date, OwnPage::Events.vary());
            self.pass_own_head(now, 200, head, shared);
            if is_head_request {
                self.upstream.end_response();
            } else {
                self.upstream.pass_part(first);
            }
        }
        self.settle(now, shared);
        is_awaited
    }

    /// Returns the state of the event stream.
    pub(crate) fn stream_state(&self) -> StreamState {
        match self.upstream.own_stream() {
            Some(_) if self.client.is_eof => StreamState::Left,
            Some(true) if self.client.output.is_empty() => StreamState::Ready,
            Some(_) => StreamState::Writing,
            None => StreamState::None,
        }
    }

    /// Whether the current configuration allows the client to read /stats. The client's address,
    /// and the hop that named it, are those of its request.
    pub(crate) fn may_still_see_stats(&self, shared: &Shared) -> bool {
        self.client.hop.may_still_see_stats(shared)
    }

    /// Continues an event stream that is [`Ready`](StreamState::Ready).
    pub(crate) fn handle_part(&mut self, now: Instant, text: Arc<[u8]>, shared: &mut Shared) {
        self.upstream.pass_part(text);
        self.settle(now, shared);
    }

    /// Ends an event stream: cleanly with its last text, or in the middle of a part if the client
    /// does not take it.
    pub(crate) fn end_stream(&mut self, now: Instant, last: Arc<[u8]>, shared: &mut Shared) {
        if self.stream_state() == StreamState::Ready {
            self.upstream.begin_own_text(last);
            self.settle(now, shared);
        } else {
            self.end(now, true, shared);
        }
    }

    fn pass_own_head(&mut self, now: Instant, status: u16, mut head: Vec<u8>, shared: &mut Shared) {
        shared.add_own_response(status);
        if shared.access.adds_fields() || self.client.hop.hsts().is_some() {
            add_fields(&self.client, &mut head, shared);
        }
        let output = &mut self.client.output;
        let has_room = output.reserve(head.len(), LARGE, &mut shared.buffers);
        debug_assert!(has_room, "J1: nothing waits before a response");
        output.append(&head);
        self.client.last_write = now;
        if let Some(visit) = &mut self.client.visit {
            visit.answer(now, status, None, head.len());
        }
    }

    /// J4 for a text of the proxy: writes as much as there is room for. Returns false if there is
    /// no room.
    #[cold]
    pub(super) fn pass_own_text(&mut self, now: Instant, shared: &mut Shared) -> bool {
        let (client, upstream) = (&mut self.client, &mut self.upstream);
        let was_empty = client.output.is_empty();
        if !upstream.pass_own_text(&mut client.output, shared) {
            return false;
        }
        if was_empty {
            client.last_write = now;
        }
        true
    }
}
