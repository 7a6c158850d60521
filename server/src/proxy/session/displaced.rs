//! Effects of a new configuration on a session. `proxy/reconfigure.rs` applies the configuration.
use intelliproxy_core::{Lease, Outcome};

use super::Session;
use crate::proxy::shared::Shared;

impl Session {
    /// Handles the removal or move of the current exchange's backend. A request is routed again if
    /// no part of it was sent; otherwise it continues on its connection.
    pub(crate) fn handle_displaced(&mut self, shared: &mut Shared) {
        let Some(exchange) = &mut self.exchange else {
            return;
        };
        // A response that has begun belongs to this connection, and so do the bytes of a tunnel.
        if self.upstream.output.has_sent() || exchange.has_begun_answer {
            return;
        }
        let Some(lease) = exchange.lease.take() else {
            return;
        };
        exchange.has_seen_answer = false;
        // The backend has left or moved, so the outcome must not count for it.
        self.needs.finish(lease, Outcome::Abandoned);
        if let Some(conn) = self.upstream.conn() {
            self.needs.release(conn, None);
        }
        self.upstream.unlink(shared);
        self.needs.dispatch();
    }

    /// Handles a new configuration: it may change whether the client may read /stats, and whether
    /// it is a trusted hop.
    pub(crate) fn handle_reconfigured(&mut self, shared: &mut Shared) {
        self.client.hop.handle_reconfigured(self.client.is_refused, shared);
    }

    /// Returns the lease of the current request.
    pub(crate) fn lease(&self) -> Option<&Lease> {
        self.exchange.as_ref()?.lease.as_ref()
    }
}
