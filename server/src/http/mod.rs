//! The HTTP/1.1 codec: bytes in, values out, and back. Nothing here knows of connections, time or
//! routing.
//!
//! Heads are stateless ([`head`]), bodies are small machines ([`body`], [`chunked`]). Framing is
//! decided once, in [`framing`]; nobody else reads Content-Length or Transfer-Encoding.
pub(crate) mod answer;
pub(crate) mod body;
pub(crate) mod chunked;
mod error;
pub(crate) mod field;
pub(crate) mod forward;
pub(crate) mod framing;
pub(crate) mod head;
pub(crate) mod persistence;
pub(crate) mod target;
pub(crate) mod upgrade;

pub use error::{ChunkError, ClientError, UpstreamError};
