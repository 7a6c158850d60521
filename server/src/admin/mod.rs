//! Read-only views of the proxy for people and their tools: plain data in, text out.
mod notice;
mod stats;

pub use notice::describe;
pub use stats::stats_json;
