//! Tunnels: the session after a 101 (Switching Protocols).
//!
//! The layout hints are explained in `proxy/mod.rs`.
use intelliproxy_core::Instant;

use super::Session;
use crate::access::Ending;
use crate::buffer::Buffer;
use crate::http::body::{self, BodyReader, BodyWriter};
use crate::proxy::shared::Shared;

impl Session {
    /// Opens a tunnel: the backend agreed to switch to the protocol that the client requested.
    #[cold]
    pub(super) fn open_tunnel(&mut self, now: Instant, shared: &mut Shared) {
        let Some(exchange) = &mut self.exchange else { return };
        exchange.answer = Some((101, now.since(exchange.dispatched_at)));
        exchange.has_begun_answer = true;
        self.upstream.begin_tunnel();
        self.upstream.output.release(&mut shared.buffers);
        if self.client.has_whole_request() {
            self.client.begin_tunnel();
            self.client.last_read = now;
        }
        self.leave_account();
    }

    /// J6: forwards the bytes of a tunnel, and the end of each side after its bytes. Returns
    /// whether the tunnel ended.
    #[inline(never)]
    pub(super) fn relay_tunnel(&mut self, now: Instant, shared: &mut Shared) -> bool {
        self.drop_undeliverable(shared);
        let (client, upstream) = (&mut self.client, &mut self.upstream);
        let before = client.input.as_ref().map_or(0, Buffer::len);
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
        if let Some(visit) = &mut client.visit {
            visit.receive(before - client.input.as_ref().map_or(0, Buffer::len));
        }
        let is_dry = |input: &Option<Buffer>| input.as_ref().is_none_or(Buffer::is_empty);
        let is_client_out = is_dry(&client.input) && upstream.output.is_empty();
        let is_upstream_out = is_dry(&upstream.input) && client.output.is_empty();
        let is_client_over = client.is_eof && is_client_out;
        let is_upstream_over = upstream.is_eof && is_upstream_out;
        // If one side broke, the tunnel ends after all its received bytes are forwarded.
        let has_failed =
            (upstream.has_failed && is_upstream_out) || (client.has_failed && is_client_out);
        let is_over = (is_client_over || upstream.is_write_broken)
            && (is_upstream_over || client.is_write_broken);
        if has_failed || is_over {
            if let Some(visit) = &mut client.visit {
                visit.end(match (upstream.has_failed, client.has_failed) {
                    (true, _) => Ending::BackendCut,
                    (false, true) => Ending::ClientLeft,
                    (false, false) => Ending::Complete,
                });
            }
            if has_failed || client.is_eof || client.is_write_broken {
                self.end(now, has_failed, shared);
            } else {
                self.linger(now, shared);
            }
            return true;
        }
        if is_client_over && !upstream.is_shut {
            upstream.is_shut = true;
            self.needs.shutdown_upstream(upstream.conn());
        }
        if is_upstream_over && client.is_sending() {
            client.shut();
            self.needs.shutdown_client();
        }
        false
    }

    /// Ends a tunnel whose client may still send, as J7 ends a last response. An immediate close
    /// could destroy bytes in the system's buffer.
    #[cold]
    fn linger(&mut self, now: Instant, shared: &mut Shared) {
        self.count_tunnel();
        self.abandon(shared);
        let client = &mut self.client;
        if client.is_sending() {
            self.needs.shutdown_client();
        }
        client.linger(now, shared.config.timeouts.linger_total);
    }

    /// Drops the bytes for a side of a tunnel that accepts no more. Bytes from that side are still
    /// forwarded.
    fn drop_undeliverable(&mut self, shared: &mut Shared) {
        let (client, upstream) = (&mut self.client, &mut self.upstream);
        if upstream.is_write_broken || upstream.has_failed {
            upstream.output.drop_pending(&mut shared.buffers);
            if let Some(input) = client.input.take() {
                shared.buffers.give(input);
            }
        }
        if client.is_write_broken || client.has_failed {
            client.output.drop_pending(&mut shared.buffers);
            if let Some(input) = upstream.input.take() {
                shared.buffers.give(input);
            }
        }
    }
}
