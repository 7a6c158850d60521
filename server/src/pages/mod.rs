//! The pages that the proxy serves itself: plain data in, text out. Nothing here knows the proxy.
mod counts;
mod stats;

pub use counts::LogCounts;
pub(crate) use counts::{QueueCounts, ReloadCounts, RetryCounts, recording_field};
pub use stats::StatsText;
