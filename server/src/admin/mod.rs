//! Read-only views of the proxy for people and their tools: plain data in, text out.
mod log;
mod notice;
mod stats;

pub(crate) use log::log_notice;
pub use notice::describe;
pub use stats::stats_json;
