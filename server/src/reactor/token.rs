//! How a readiness event names what it is about.
use mio::Token;

use crate::proxy::ConnId;

/// What an event is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Source {
    Listener(usize),
    /// Signals that ask for an end.
    Signals,
    /// Signals that ask for another reading of the configuration.
    Hangups,
    /// Another thread has something.
    Waker,
    Conn(ConnId),
}

/// Tokens from here up are listeners and signals; no connection's generation comes near, since it
/// would take 2^32 connections less a thousand and then the wrap skips none of the low ones.
const SPECIAL: usize = usize::MAX - 1024;
const HANGUPS: usize = SPECIAL + 1;
const WAKER: usize = SPECIAL + 2;
const LISTENERS: usize = SPECIAL + 3;

impl Source {
    pub(crate) const fn to_token(self) -> Token {
        match self {
            Self::Signals => Token(SPECIAL),
            Self::Hangups => Token(HANGUPS),
            Self::Waker => Token(WAKER),
            Self::Listener(index) => Token(LISTENERS + index),
            Self::Conn(conn) => Token(conn.to_bits() as usize),
        }
    }

    pub(crate) const fn from_token(token: Token) -> Self {
        match token.0 {
            SPECIAL => Self::Signals,
            HANGUPS => Self::Hangups,
            WAKER => Self::Waker,
            number if number > SPECIAL => Self::Listener(number - LISTENERS),
            bits => Self::Conn(ConnId::from_bits(bits as u64)),
        }
    }
}
