//! The reactor end to end over real sockets. The tests use free ports, their reads reach a deadline
//! only if something fails, and no assertion depends on the clock.
#[path = "forwarding/exchanges.rs"]
mod exchanges;
#[path = "forwarding/failures.rs"]
mod failures;
#[path = "forwarding/parties.rs"]
mod parties;
#[path = "forwarding/port.rs"]
mod port;
#[path = "forwarding/service.rs"]
mod service;
