//! What becomes of a session when the configuration changes under it.
use intelliproxy_core::{Lease, Outcome};

use super::Session;
use crate::proxy::shared::Shared;

impl Session {
    /// The backend of the exchange at hand is not there any more, or not where it was. A request
    /// of which nothing was sent yet is routed anew; one that was begun goes on where it is.
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
        // Says nothing about the backend.
        self.needs.finish(lease, Outcome::Abandoned);
        if let Some(conn) = self.upstream.conn() {
            self.needs.release(conn, None);
        }
        self.upstream.unlink(shared);
        self.needs.dispatch();
    }

    /// The configuration changed: whether the client may look at /stats, and is trusted, may have,
    /// too.
    pub(crate) fn handle_reconfigured(&mut self, shared: &Shared) {
        self.client.hop.handle_reconfigured(shared);
    }

    /// The right by which the request at hand is where it is.
    pub(crate) fn lease(&self) -> Option<&Lease> {
        self.exchange.as_ref()?.lease.as_ref()
    }
}
