//! Tokens that name the subject of a readiness event.
use std::hint::cold_path;

use mio::Token;

use crate::proxy::ConnId;

/// The subject of an event.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Source {
    Listener(usize),
    /// Signals that ask for an end.
    Signals,
    /// Signals that ask for another reading of the configuration.
    Hangups,
    /// Another thread has something.
    Waker,
    /// A client's connection.
    Client(ConnId),
    /// A connection to a backend.
    Backend(ConnId),
}

/// Tokens from here up are listeners and signals; no connection's generation comes near, since it
/// would take 2^32 connections less a thousand and then the wrap skips none of the low ones.
const SPECIAL: usize = usize::MAX - 1024;
const HANGUPS: usize = SPECIAL + 1;
const WAKER: usize = SPECIAL + 2;
const LISTENERS: usize = SPECIAL + 3;
/// Set in the tokens of connections to backends; no slot's number comes near.
const BACKEND: usize = 1 << 31;

impl Source {
    pub(crate) const fn to_token(self) -> Token {
        match self {
            Self::Signals => Token(SPECIAL),
            Self::Hangups => Token(HANGUPS),
            Self::Waker => Token(WAKER),
            Self::Listener(index) => Token(LISTENERS + index),
            Self::Client(conn) => Token(conn.to_bits() as usize),
            Self::Backend(conn) => Token(conn.to_bits() as usize | BACKEND),
        }
    }

    pub(crate) const fn from_token(token: Token) -> Self {
        let bits = token.0;
        if bits >= SPECIAL {
            cold_path();
            return match bits {
                SPECIAL => Self::Signals,
                HANGUPS => Self::Hangups,
                WAKER => Self::Waker,
                number => Self::Listener(number - LISTENERS),
            };
        }
        let conn = ConnId::from_bits((bits & !BACKEND) as u64);
        if bits & BACKEND == 0 { Self::Client(conn) } else { Self::Backend(conn) }
    }

    /// Whether a token is that of a connection to a backend.
    pub(crate) const fn is_backend(token: Token) -> bool {
        token.0 < SPECIAL && token.0 & BACKEND != 0
    }
}
