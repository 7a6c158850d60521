//! A backend with a resolved name, as needed for forwarding and probing.
use std::net::SocketAddr;

/// The addresses of one backend.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BackendTarget {
    /// Its configured name.
    pub name: String,
    /// Its URL as configured.
    pub url: String,
    /// Value of a Host field for it.
    pub authority: String,
    /// Its addresses in the order in which to try them; not empty.
    pub addresses: Vec<SocketAddr>,
}
