//! Builds TLS from the configuration: reads the files of certificates and keys, and creates the
//! settings for the layers (`crate::tls`).
#[cfg(not(feature = "tls"))]
mod absent;
#[cfg(feature = "tls")]
mod certificates;
#[cfg(feature = "tls")]
mod client;
#[cfg(feature = "tls")]
mod files;
#[cfg(feature = "tls")]
mod roots;
#[cfg(feature = "tls")]
mod server;
#[cfg(feature = "tls")]
mod tickets;
#[cfg(feature = "tls")]
mod watch;

#[cfg(not(feature = "tls"))]
pub(crate) use self::absent::{
    Clients, Server, Servers, TicketKeys, Tickets, Watch, check, check_clients,
};
#[cfg(feature = "tls")]
pub(crate) use self::client::{Clients, check_clients};
#[cfg(feature = "tls")]
pub(crate) use self::server::{Server, Servers, check};
#[cfg(feature = "tls")]
pub(crate) use self::tickets::{TicketKeys, Tickets};
#[cfg(feature = "tls")]
pub(crate) use self::watch::Watch;
use crate::config::BackendTarget;

/// Returns a line for each backend whose certificate is not verified.
pub(crate) fn unverified(targets: &[BackendTarget]) -> impl Iterator<Item = String> {
    let is_its =
        |target: &&BackendTarget| target.tls.as_ref().is_some_and(|tls| !tls.identity.verify);
    targets.iter().filter(is_its).map(|target| {
        let BackendTarget { name, url, .. } = target;
        format!("backend {name} ({url}): tls.verify is false: anyone on the way can pose as it")
    })
}
