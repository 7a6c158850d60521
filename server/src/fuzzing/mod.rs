//! The fuzz targets that need the codec's insides, and the strict reader that they compare it with.
//! The other targets, and what runs all of them, stand in `tests/fuzzing/`.
//!
//! Nothing of the proxy uses this module. `strict.rs` shares no code with the codec.
mod chunked;
mod heads;
mod source;
pub mod strict;

pub use chunked::chunked;
pub use heads::{forwarded_target, request_head, response_head};
pub use source::Source;
