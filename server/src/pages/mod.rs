//! The pages that the proxy itself serves: they turn plain data into text, without access to the
//! proxy. `admin/` serves them on its own listener, `proxy/` serves /stats to clients.
mod counts;
pub(crate) mod explain;
pub(crate) mod live;
pub(crate) mod metrics;
pub(crate) mod page;
pub(crate) mod state;
mod stats;
#[cfg(test)]
mod testing;

pub use counts::{AccessCounts, LogCounts};
pub(crate) use counts::{QueueCounts, ReloadCounts, RetryCounts, recording_field};
pub use metrics::ProcessFigures;
pub use stats::StatsText;
