//! The fuzz targets that need the codec's private parts, and the strict reader that they compare it
//! with. The other targets, and the list of all of them, are in `tests/fuzzing/`.
//!
//! The proxy itself does not use this module. `strict.rs` shares no code with the codec.
mod chunked;
mod heads;
mod reports;
mod source;
pub mod strict;
#[cfg(feature = "tls")]
mod tls;

pub use chunked::chunked;
pub use heads::{forwarded_target, request_head, response_head};
pub use reports::report;
pub use source::Source;
#[cfg(feature = "tls")]
pub use tls::tls;
