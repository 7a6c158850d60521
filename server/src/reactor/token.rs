//! How a readiness event names what it is about.
use mio::Token;

use crate::proxy::ConnId;

/// What an event is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Source {
    Listener(usize),
    Signals,
    Conn(ConnId),
}

/// Tokens from here up are listeners and signals; no connection's generation comes near, since it
/// would take 2^32 connections less a thousand and then the wrap skips none of the low ones.
const SPECIAL: usize = usize::MAX - 1024;

impl Source {
    pub(crate) const fn to_token(self) -> Token {
        match self {
            Self::Signals => Token(SPECIAL),
            Self::Listener(index) => Token(SPECIAL + 1 + index),
            Self::Conn(conn) => Token(conn.to_bits() as usize),
        }
    }

    pub(crate) const fn from_token(token: Token) -> Self {
        match token.0 {
            SPECIAL => Self::Signals,
            number if number > SPECIAL => Self::Listener(number - SPECIAL - 1),
            bits => Self::Conn(ConnId::from_bits(bits as u64)),
        }
    }
}
