//! The hops whose statements about their clients are trusted, and the clients that may read /stats.
//!
//! The layout hints are explained in `proxy/mod.rs`.
use std::net::{IpAddr, SocketAddr};

use crate::config::{Config, Network};
use crate::http::field::{Fields, Name, tokens};

/// The networks of `forwarding.trusted` and `stats.allow`.
#[derive(Debug)]
pub(crate) struct Trust {
    trusted: Vec<Network>,
    stats_allowed: Vec<Network>,
}

impl Trust {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            trusted: config.forwarding.trusted_networks(),
            stats_allowed: config.stats.networks(),
        }
    }

    /// Whether a peer's statements about its own clients are trusted.
    pub(crate) fn trusts(&self, ip: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(ip))
    }

    /// Whether a client may read /stats.
    pub(crate) fn may_see_stats(&self, ip: IpAddr) -> bool {
        self.stats_allowed.iter().any(|network| network.contains(ip))
    }

    /// Returns the client of a request from the trusted hop `peer`: the first untrusted address in
    /// X-Forwarded-For, read from the right. If all are trusted, it is the leftmost; without any it
    /// is `peer`. Addresses to the left of an invalid one are ignored.
    #[cold]
    pub(crate) fn client(&self, fields: &Fields<'_, '_>, peer: IpAddr) -> IpAddr {
        let values: Vec<&[u8]> = fields.values(Name::XForwardedFor).flat_map(tokens).collect();
        let mut client = peer;
        for value in values.into_iter().rev() {
            let Some(address) = address(value) else { break };
            client = address;
            if !self.trusts(address) {
                break;
            }
        }
        client
    }

    /// Whether the proxy itself responds to a request for /stats (H3). Its client must be in
    /// `stats.allow`. The client of a forwarded request is known only if a trusted hop names it.
    #[cold]
    pub(crate) fn shows_stats(
        &self,
        fields: &Fields<'_, '_>,
        peer: IpAddr,
        is_trusted: bool,
    ) -> bool {
        if is_trusted && fields.has(Name::XForwardedFor) {
            return self.may_see_stats(self.client(fields, peer));
        }
        let is_forwarded = fields.has_any(
            Name::XForwardedFor.bit()
                | Name::Forwarded.bit()
                | Name::Via.bit()
                | Name::XRealIp.bit(),
        );
        !is_forwarded && self.may_see_stats(peer)
    }
}

/// Parses an address, plain, in brackets, or with a port.
fn address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?;
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    bare.parse::<IpAddr>().ok().or_else(with_port).map(|ip| ip.to_canonical())
}
