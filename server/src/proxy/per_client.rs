//! Limits for each client: simultaneous connections, and requests per second.
//!
//! A client is an IPv4 address or an IPv6 network of 64 bits, which one customer usually has.
//! Trusted hops (`forwarding.trusted`) have no such limits: they carry the traffic of other
//! clients. Requests over such a hop count for the client that it names. Its connections do not
//! count, unless a PROXY protocol header names their client: then they count for that client.
//!
//! The layout hints are explained in `proxy/mod.rs`.
use std::collections::BTreeMap;
use std::net::IpAddr;

use intelliproxy_core::Instant;

use super::rate::RateTable;
use crate::config::Limits;

/// The limits, and their use by each client.
#[derive(Debug)]
pub(crate) struct PerClient {
    /// `limits.clientConnections`; 0 for any number.
    connections_max: u32,
    /// The number of connections of each client that has any, so there are never more entries than
    /// connections.
    connections: BTreeMap<u64, u32>,
    /// Present if requests are limited.
    rate: Option<RateTable>,
    seed: u64,
}

impl PerClient {
    pub(super) fn new(limits: &Limits, seed: u64) -> Self {
        let mut new = Self { connections_max: 0, connections: BTreeMap::new(), rate: None, seed };
        new.reconfigure(limits);
        new
    }

    /// Applies new limits. All connections must be counted again, by [`join`](Self::join).
    pub(super) fn reconfigure(&mut self, limits: &Limits) {
        self.connections_max = limits.client_connections;
        self.connections.clear();
        match (limits.client_requests_per_second, &mut self.rate) {
            (0, rate) => *rate = None,
            (per_second, Some(rate)) => rate.set_rate(per_second),
            (per_second, None) => self.rate = Some(RateTable::new(per_second, self.seed)),
        }
    }

    /// Whether connections are counted.
    #[inline]
    pub(crate) const fn limits_connections(&self) -> bool {
        self.connections_max > 0
    }

    /// Whether requests are counted.
    #[inline]
    pub(crate) const fn limits_requests(&self) -> bool {
        self.rate.is_some()
    }

    /// Whether a client has fewer connections than it may have.
    #[cold]
    pub(crate) fn has_room(&self, ip: IpAddr) -> bool {
        self.connections.get(&client(ip)).is_none_or(|count| *count < self.connections_max)
    }

    /// Counts a connection of a client.
    #[cold]
    pub(crate) fn join(&mut self, ip: IpAddr) {
        *self.connections.entry(client(ip)).or_default() += 1;
    }

    /// Stops counting a connection of a client.
    #[cold]
    pub(crate) fn leave(&mut self, ip: IpAddr) {
        let client = client(ip);
        let Some(count) = self.connections.get_mut(&client) else {
            debug_assert!(false, "I11: a counted connection is in the table");
            return;
        };
        *count -= 1;
        if *count == 0 {
            self.connections.remove(&client);
        }
    }

    /// Counts a request of a client. Returns whether it is within the limit.
    pub(crate) fn take_request(&mut self, now: Instant, ip: IpAddr) -> bool {
        match &mut self.rate {
            Some(rate) => rate.take(now, client(ip)),
            None => true,
        }
    }

    /// Returns the number of counted connections.
    pub(super) fn connections(&self) -> usize {
        self.connections.values().map(|count| *count as usize).sum()
    }
}

/// Returns the number of the client at an address. For IPv6 it is the network of 64 bits. For IPv4
/// it is the address under the prefix ffff:ffff, which no host's network has (ff00::/8 is
/// multicast).
fn client(ip: IpAddr) -> u64 {
    match ip.to_canonical() {
        IpAddr::V4(ip) => 0xffff_ffff_0000_0000 | u64::from(ip.to_bits()),
        IpAddr::V6(ip) => (ip.to_bits() >> 64) as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Addresses of one IPv6 network are one client; so are an IPv4 address and its mapped form.
    #[test]
    fn clients_are_addresses_or_networks() {
        let client = |text: &str| client(text.parse().expect("an address"));
        let rows = [
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1", "10.0.0.2", false),
            ("10.0.0.1", "::ffff:10.0.0.1", true),
            ("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
            ("::a00:1", "10.0.0.1", false),
            ("0:0:a00:1::", "10.0.0.1", false),
        ];
        for (one, other, expected) in rows {
            assert_eq!(client(one) == client(other), expected, "{one} {other}");
        }
    }
}
