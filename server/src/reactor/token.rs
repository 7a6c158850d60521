//! Tokens that name the subject of a readiness event.
//!
//! The layout hints are explained in `proxy/mod.rs`.
use mio::Token;

use crate::admin::CONNECTIONS_MAX;
use crate::control::CONNECTIONS_MAX as CONTROL_MAX;
use crate::proxy::ConnId;

/// The subject of an event.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Source {
    Listener(usize),
    /// An admin listener.
    AdminListener(usize),
    /// An admin connection.
    Admin(usize),
    /// The control socket.
    ControlListener,
    /// A connection of the control socket.
    Control(usize),
    /// Signals that request a stop.
    Signals,
    /// Signals that request a reload of the configuration.
    Hangups,
    /// Signals that request that the logs' files are opened again.
    Reopens,
    /// Signals that request a new process.
    Upgrades,
    /// Another thread has a result: a configuration, or the end of an upgrade.
    Waker,
    /// A client's connection.
    Client(ConnId),
    /// A connection to a backend.
    Backend(ConnId),
}

/// The first token that is not a connection's. The ids of connections do not reach it: that takes
/// about 2^32 connections in one slot, and a slot number near 2^31.
const SPECIAL: usize = usize::MAX - 1024;
const HANGUPS: usize = SPECIAL + 1;
const WAKER: usize = SPECIAL + 2;
const REOPENS: usize = SPECIAL + 3;
const UPGRADES: usize = SPECIAL + 4;
const CONTROL_LISTENER: usize = SPECIAL + 5;
const CONTROL: usize = SPECIAL + 6;
const ADMIN: usize = CONTROL + CONTROL_MAX;
const ADMIN_LISTENERS: usize = ADMIN + CONNECTIONS_MAX;
const LISTENERS: usize = ADMIN_LISTENERS + ADMIN_LISTENERS_MAX;
/// The maximum number of admin listeners. A new configuration opens its listeners while it still
/// has the old ones, so each may have 16 addresses.
pub(super) const ADMIN_LISTENERS_MAX: usize = 32;
/// The maximum number of listeners for clients.
pub(super) const LISTENERS_MAX: usize = usize::MAX - LISTENERS;
/// The bit that marks connections to backends. Slot numbers do not reach it.
const BACKEND: usize = 1 << 31;

impl Source {
    #[inline]
    pub(crate) const fn to_token(self) -> Token {
        match self {
            Self::Signals => Token(SPECIAL),
            Self::Hangups => Token(HANGUPS),
            Self::Reopens => Token(REOPENS),
            Self::Upgrades => Token(UPGRADES),
            Self::Waker => Token(WAKER),
            Self::ControlListener => Token(CONTROL_LISTENER),
            Self::Control(id) => Token(CONTROL + id),
            Self::Admin(id) => Token(ADMIN + id),
            Self::AdminListener(index) => Token(ADMIN_LISTENERS + index),
            Self::Listener(index) => Token(LISTENERS + index),
            Self::Client(conn) => Token(conn.to_bits() as usize),
            Self::Backend(conn) => Token(conn.to_bits() as usize | BACKEND),
        }
    }

    pub(crate) const fn from_token(token: Token) -> Self {
        let bits = token.0;
        if bits >= SPECIAL {
            return match bits {
                SPECIAL => Self::Signals,
                HANGUPS => Self::Hangups,
                REOPENS => Self::Reopens,
                UPGRADES => Self::Upgrades,
                WAKER => Self::Waker,
                CONTROL_LISTENER => Self::ControlListener,
                number @ ..ADMIN => Self::Control(number - CONTROL),
                number @ ..ADMIN_LISTENERS => Self::Admin(number - ADMIN),
                number @ ..LISTENERS => Self::AdminListener(number - ADMIN_LISTENERS),
                number => Self::Listener(number - LISTENERS),
            };
        }
        let conn = ConnId::from_bits((bits & !BACKEND) as u64);
        if bits & BACKEND == 0 { Self::Client(conn) } else { Self::Backend(conn) }
    }

    /// Whether a token belongs to a connection to a backend.
    pub(crate) const fn is_backend(token: Token) -> bool {
        token.0 < SPECIAL && token.0 & BACKEND != 0
    }
}
