//! The standing of a session: whether it may be closed to make room for another client.
//! `give_way.rs` uses it to choose a session.
//!
//! The layout hints are explained in `proxy/mod.rs`.
use intelliproxy_core::Instant;

use super::Session;
use super::client_half::Receive;

/// The activity of a client, as used to choose the client that gives way.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Standing {
    /// The client has sent no complete head since it connected, or since the head began.
    Silent { since: Instant },
    /// Between two exchanges, or after the end was sent to it.
    Kept { since: Instant },
    /// The client has an exchange, a tunnel or waiting bytes, and is never closed.
    Busy,
}

impl Session {
    /// Returns the activity of the client, as used to choose the client that gives way.
    #[cold]
    pub(crate) fn standing(&self, now: Instant) -> Standing {
        let client = &self.client;
        if self.exchange.is_some() || !client.output.is_empty() || self.needs.has_close() {
            return Standing::Busy;
        }
        let since = client.last_read.max(client.last_write).min(now);
        match (client.receive(), client.head_since) {
            (Receive::Head, Some(since)) => Standing::Silent { since },
            (Receive::Head, None) if !client.has_been_served => Standing::Silent { since },
            (Receive::Head | Receive::Discarding { .. }, _) => Standing::Kept { since },
            (Receive::Body { .. } | Receive::Ended | Receive::Tunnel, _) => Standing::Busy,
        }
    }

    /// Ends a session at once: an idle one makes room for another client, or a new one is beyond
    /// its client's limit.
    #[cold]
    pub(crate) fn handle_way_given(&mut self, with_reset: bool) {
        self.needs.close(with_reset);
    }
}
