//! Who a client connection comes from, and how far its word counts.
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::proxy::shared::Shared;

/// The peer of a client connection, and for whom it forwards.
#[derive(Debug)]
pub(crate) struct Hop {
    /// The peer: of the socket, or the one that a PROXY protocol header named.
    pub(crate) peer: SocketAddr,
    /// What forwarded requests say about it.
    pub(crate) fields: Arc<str>,
    /// Whether it may see /stats.
    may_see_stats: bool,
    /// Whether its word about its own clients counts (`forwarding.trusted`).
    pub(crate) is_trusted: bool,
    /// The client of the latest request, where a trusted peer named it.
    pub(crate) forwards_for: Option<IpAddr>,
}

impl Hop {
    pub(crate) fn new(peer: SocketAddr, shared: &mut Shared) -> Self {
        let ip = peer.ip();
        Self {
            peer,
            fields: shared.client_fields(ip),
            may_see_stats: shared.trust.may_see_stats(ip),
            is_trusted: shared.trust.trusts(ip),
            forwards_for: None,
        }
    }

    /// The client: the peer, or the one for whom a trusted peer forwards, whose port is unknown
    /// and 0.
    pub(crate) fn client(&self) -> SocketAddr {
        match self.forwards_for {
            Some(ip) if ip != self.peer.ip() => SocketAddr::new(ip, 0),
            _ => self.peer,
        }
    }

    /// Whether a request for /stats may be meant for the proxy.
    pub(crate) const fn may_ask_for_stats(&self) -> bool {
        self.may_see_stats || self.is_trusted
    }
}
