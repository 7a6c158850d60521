//! Backends and programs as users run them: over real sockets, as real processes.
mod backend;
mod client;
mod program;
mod sim;
