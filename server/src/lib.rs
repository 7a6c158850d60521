//! IntelliProxy: an adaptive HTTP/1.1 reverse proxy.
//!
//! Everything but [`reactor`] and the program's own edge ([`cli`], [`resolve`], logging) is plain
//! data told facts and the time; see the README's architecture section.
pub mod admin;
pub(crate) mod buffer;
pub mod cli;
pub mod config;
mod disk;
#[doc(hidden)]
pub mod fuzzing;
pub mod http;
mod logging;
mod plain;
pub mod proxy;
pub mod reactor;
pub mod record;
pub mod reload;
pub mod replay;
pub mod resolve;
mod state;
mod utc;
