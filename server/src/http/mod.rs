//! The HTTP/1.1 codec: bytes in, values out, and back. This module does not depend on connections,
//! time or routing.
//!
//! Heads are stateless (`head.rs`), bodies are small machines (`body.rs`, `chunked.rs`). Framing is
//! decided once, in `framing.rs`; no other file reads Content-Length or Transfer-Encoding.
//! `forward.rs` writes forwarded heads, `answer.rs` the responses of the proxy itself, and
//! `error.rs` has the errors.
//!
//! # Layout hints
//! They were measured in groups (`.ci/instructions`). Without the `inline` attributes an exchange
//! costs 1.6 % (`chunked-4k`) to 2.6 % (`browser`) more instructions. Without the `cold` attributes
//! it costs 0.3 % (`browser`) to 2.8 % (`small`) more, and runs through 40 more lines of 64 bytes.
pub(crate) mod accept;
pub(crate) mod answer;
pub(crate) mod authentication;
pub(crate) mod body;
pub(crate) mod chunked;
pub(crate) mod date;
mod error;
pub(crate) mod field;
pub(crate) mod forward;
pub(crate) mod framing;
pub(crate) mod head;
#[doc(hidden)]
pub mod measure;
pub(crate) mod method;
pub(crate) mod persistence;
pub(crate) mod progress;
pub(crate) mod proxy_protocol;
pub(crate) mod refusal;
pub(crate) mod target;
pub(crate) mod upgrade;

pub(crate) use error::refuse;
pub use error::{ChunkError, ClientError, UpstreamError};
