//! TLS from the configuration: reads the files of certificates and keys, and makes the
//! configurations of the layers (`crate::tls`).
#[cfg(not(feature = "tls"))]
mod absent;
#[cfg(feature = "tls")]
mod certificates;
#[cfg(feature = "tls")]
mod server;
#[cfg(feature = "tls")]
mod tickets;
#[cfg(feature = "tls")]
mod watch;

#[cfg(not(feature = "tls"))]
pub(crate) use self::absent::{Server, Servers, TicketKeys, Tickets, Watch, check};
#[cfg(feature = "tls")]
pub(crate) use self::server::{Server, Servers, check};
#[cfg(feature = "tls")]
pub(crate) use self::tickets::{TicketKeys, Tickets};
#[cfg(feature = "tls")]
pub(crate) use self::watch::Watch;
