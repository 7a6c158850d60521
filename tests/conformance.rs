//! Tests whole messages, valid and invalid, against the whole proxy in memory. Every case runs with
//! its bytes in one piece and byte by byte. At its end the proxy holds nothing for any peer.
#[path = "conformance/bench.rs"]
mod bench;
#[path = "conformance/bodies.rs"]
mod bodies;
#[path = "conformance/hops.rs"]
mod hops;
#[path = "conformance/kept.rs"]
mod kept;
#[path = "conformance/limits.rs"]
mod limits;
#[path = "conformance/queue.rs"]
mod queue;
#[path = "conformance/requests.rs"]
mod requests;
#[path = "conformance/responses.rs"]
mod responses;
#[path = "conformance/semantics.rs"]
mod semantics;
#[path = "conformance/stats.rs"]
mod stats;
#[path = "conformance/timeouts.rs"]
mod timeouts;
