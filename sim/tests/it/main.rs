//! Backends and programs as users run them: over real sockets, as real processes.
mod backend;
mod client;
#[path = "../../../tests/forwarding/port.rs"]
mod port;
mod program;
mod sim;
