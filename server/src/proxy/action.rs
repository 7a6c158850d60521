//! The actions that the proxy requests from its driver, and the results of connection attempts.
use std::net::SocketAddr;

use super::id::ConnId;
use super::notice::Notice;
use crate::tls::TlsFault;

/// An action that the proxy requests from its driver.
#[derive(Debug, PartialEq)]
pub enum Action {
    /// Open a connection, with the settings of [`Proxy::tls`](super::Proxy::tls) if there are any.
    /// The driver reports the result by
    /// [`Proxy::handle_connected`](super::Proxy::handle_connected).
    Connect {
        /// The id of the new connection.
        conn: ConnId,
        /// Destination.
        address: SocketAddr,
    },
    /// Read all that the connection has received, including its end, before writing to it: if the
    /// peer has closed it, a request written now would be lost.
    Look {
        /// The connection.
        conn: ConnId,
    },
    /// Report how many bytes written to a connection its peer has not acknowledged, by
    /// [`Proxy::handle_measured`](super::Proxy::handle_measured).
    Measure {
        /// The connection.
        conn: ConnId,
    },
    /// Send the end of the stream; reading continues.
    Shutdown {
        /// The connection; all its waiting bytes have been written.
        conn: ConnId,
    },
    /// Close a connection; its id is no longer valid.
    Close {
        /// The connection.
        conn: ConnId,
        /// Whether to reset it, so that the peer does not mistake the end for a clean one.
        with_reset: bool,
    },
    /// A fact for observers.
    Notify(Notice),
}

/// The reason for a failed connection attempt.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ConnectFailure {
    /// The address has no listener.
    Refused,
    /// The proxy's own system had no descriptor, port or memory for it. No backend is to blame.
    Exhausted,
    /// The connection was made, but its TLS handshake failed.
    Handshake(TlsFault),
    /// Any other reason.
    Unreachable,
}
