//! The response to /stats. The session encodes the head. The body is a text that clients share;
//! `proxy/stats.rs` builds it.
use std::sync::Arc;

use intelliproxy_core::Instant;

use super::Session;
use super::upstream_half::connection_option;
use super::visit::add_fields;
use crate::buffer::LARGE;
use crate::http::answer;
use crate::proxy::shared::Shared;

impl Session {
    /// Takes the text of /stats and its header fields; ignored if the session no longer waits for
    /// it. The text is shared, not copied. Each client gets it piece by piece.
    pub(crate) fn handle_stats(
        &mut self,
        now: Instant,
        fields: &str,
        text: &Arc<[u8]>,
        shared: &mut Shared,
    ) {
        if let Some(exchange) = &self.exchange
            && self.upstream.awaits_stats()
        {
            shared.add_own_response(200);
            let connection = connection_option(exchange.version, exchange.is_persistent);
            let kind = "application/json";
            let mut head =
                answer::encode_head(200, &shared.date, kind, fields, text.len(), connection);
            if shared.access.adds_fields() {
                add_fields(self.client.visit.as_deref(), &mut head, shared);
            }
            let output = &mut self.client.output;
            let has_room = output.reserve(head.len(), LARGE, &mut shared.buffers);
            debug_assert!(has_room, "J1: nothing waits before a response");
            output.append(&head);
            self.client.last_write = now;
            if let Some(visit) = &mut self.client.visit {
                visit.answer(now, 200, None, head.len());
            }
            if exchange.is_head_request {
                self.upstream.end_response();
            } else {
                self.upstream.begin_own_text(Arc::clone(text));
            }
        }
        self.settle(now, shared);
    }

    /// J4 for a text of the proxy: writes as much as there is room for. Returns false without room.
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
