//! A connection to a backend that belongs to one client: the backend has logged it in as that
//! client (NTLM, Negotiate), or is about to. It carries only this client's requests, is never
//! pooled, and ends together with the client's connection (B1 to B5 of LIFECYCLE.md).
//!
//! The layout hints are explained in `proxy/mod.rs`.
use intelliproxy_core::{BackendId, Instant, Lease};

use super::Session;
use crate::access::Ending;
use crate::proxy::id::ConnId;
use crate::proxy::shared::Shared;

/// The client's own connection to a backend, while no exchange uses it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bound {
    pub(crate) conn: ConnId,
    pub(crate) backend: BackendId,
}

impl Session {
    /// Returns the client's own connection, while no exchange uses it.
    pub(crate) const fn bound(&self) -> Option<Bound> {
        self.bound
    }

    /// Takes the client's own connection, to be used or closed by the caller.
    pub(crate) const fn take_bound(&mut self) -> Option<Bound> {
        self.bound.take()
    }

    /// Sends the waiting request over the client's own connection.
    pub(crate) fn handle_bound(
        &mut self,
        now: Instant,
        lease: Lease,
        conn: ConnId,
        authority: &str,
        shared: &mut Shared,
    ) {
        self.handle_routed(now, lease, authority, shared);
        self.handle_linked(now, conn, true);
        self.upstream.is_bound = true;
        if let Some(exchange) = &mut self.exchange {
            exchange.binds = true;
        }
    }

    /// Closes the client, as if the backend had closed the connection: the backend of the client's
    /// own connection left or moved before the waiting request was sent.
    pub(crate) fn handle_unbound(&mut self, now: Instant, shared: &mut Shared) {
        self.end_visit(Ending::Closed);
        self.abandon(shared);
        self.client.close(false);
        self.settle(now, shared);
    }

    /// Handles an end or unsolicited bytes of the client's own connection while no exchange used
    /// it. The client's connection also ends: now, or after the exchange in progress.
    #[cold]
    pub(crate) fn handle_bound_ended(&mut self, now: Instant, shared: &mut Shared) {
        if let Some(buffer) = self.upstream.input.take() {
            shared.buffers.give(buffer);
        }
        if let Some(bound) = self.bound.take() {
            self.needs.release(bound.conn, None);
        }
        match &mut self.exchange {
            Some(exchange) => exchange.is_persistent = false,
            None if self.client.is_sending() => {
                self.client.close(false);
            }
            None => {}
        }
        self.settle(now, shared);
    }
}
