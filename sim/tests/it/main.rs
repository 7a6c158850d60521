//! Backends and programs as their users meet them: over real sockets, as real processes.
mod backend;
mod client;
mod programs;
