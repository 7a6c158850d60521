//! The pages that the proxy serves itself: plain data in, text out, without any access to the
//! proxy. `admin/` serves them on its own listener, `proxy/` serves /stats to clients.
mod counts;
pub(crate) mod explain;
pub(crate) mod metrics;
mod stats;
#[cfg(test)]
mod testing;

pub use counts::{AccessCounts, LogCounts};
pub(crate) use counts::{QueueCounts, ReloadCounts, RetryCounts, recording_field};
pub use metrics::ProcessFigures;
pub use stats::StatsText;
