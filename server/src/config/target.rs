//! A backend with a resolved name, as needed for forwarding and probing.
use std::net::SocketAddr;

use super::TargetTls;

/// The addresses of one backend.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BackendTarget {
    /// Its configured name.
    pub name: String,
    /// Its URL as configured.
    pub url: String,
    /// Value of a Host field for it.
    pub authority: String,
    /// The TLS settings, if its URL is `https`.
    pub tls: Option<TargetTls>,
    /// Its addresses in the order in which to try them; not empty.
    pub addresses: Vec<SocketAddr>,
}

/// Whether both have the same addresses, in any order.
pub(crate) fn is_same_set(a: &[SocketAddr], b: &[SocketAddr]) -> bool {
    a.iter().all(|address| b.contains(address)) && b.iter().all(|address| a.contains(address))
}
