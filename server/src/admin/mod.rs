//! Read-only views of the proxy for people and their tools: plain data in, text out.
mod limit;
mod log;
mod lost_lines;
mod notice;
mod queue;
mod recording;
mod reloads;
mod retries;
mod stats;

pub(crate) use limit::LineLimits;
pub(crate) use log::log_notice;
pub use lost_lines::LogCounts;
pub(crate) use lost_lines::log_field;
pub use notice::describe;
pub(crate) use queue::queue_field;
pub(crate) use recording::recording_field;
pub(crate) use reloads::reloads_field;
pub(crate) use retries::retries_field;
pub use stats::StatsText;
