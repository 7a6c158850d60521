//! The reactor end to end over real sockets, for what only sockets show. Ports are free ones, reads
//! have deadlines that only a failure reaches, and no assertion depends on the clock.
#[path = "forwarding/exchanges.rs"]
mod exchanges;
#[path = "forwarding/failures.rs"]
mod failures;
#[path = "forwarding/parties.rs"]
mod parties;
#[path = "forwarding/service.rs"]
mod service;
