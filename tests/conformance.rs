//! Tests of the whole proxy in memory: messages, connections, limits. Most messages in the tables
//! are sent both in one piece and byte by byte. `tests/driver` has the peers.
#[path = "conformance/affinity.rs"]
mod affinity;
#[path = "conformance/backpressure.rs"]
mod backpressure;
#[path = "conformance/bodies.rs"]
mod bodies;
#[path = "conformance/checks.rs"]
mod checks;
#[path = "conformance/connections.rs"]
mod connections;
#[path = "conformance/expected.rs"]
mod expected;
#[path = "conformance/give_way.rs"]
mod give_way;
#[path = "conformance/hops.rs"]
mod hops;
#[path = "conformance/ids.rs"]
mod ids;
#[path = "conformance/kept.rs"]
mod kept;
#[path = "conformance/limits.rs"]
mod limits;
#[path = "conformance/loads.rs"]
mod loads;
#[path = "conformance/notices.rs"]
mod notices;
#[path = "conformance/per_client.rs"]
mod per_client;
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
