//! IntelliProxy: an adaptive HTTP/1.1 reverse proxy.
//!
//! Everything but [`reactor`] and the program's own edge ([`cli`], [`edge`]) is plain
//! data that receives facts and the time; see `docs/architecture.md`.
pub(crate) mod access;
mod admin;
pub(crate) mod buffer;
pub mod cli;
mod collect;
pub mod config;
mod control;
mod digits;
pub mod edge;
// Temporary folders, shared with the tests of the program. Unit tests use only part of the module.
#[cfg(test)]
#[allow(dead_code)]
#[path = "../tests/process/folder.rs"]
mod folder;
#[doc(hidden)]
pub mod fuzzing;
pub mod http;
mod mix;
pub mod pages;
mod plain;
pub mod proxy;
pub mod reactor;
mod tls;
mod utc;
