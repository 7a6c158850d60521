//! TLS as a layer between the sockets and the proxy. It converts bytes in memory and does no I/O.
//!
//! [`Layer`] is one connection, to a client or to a backend. `certificate.rs` reads facts from
//! certificates. rustls provides keys, randomness and the time of day, together with
//! [`edge`](crate::edge), which reads the files and creates the configurations.
//!
//! In a build without the feature `tls`, [`Layer`] is an uninhabited type, so that the code around
//! it is the same.
#[cfg(not(feature = "tls"))]
mod absent;
#[cfg(feature = "tls")]
mod certificate;
mod fault;
#[cfg(feature = "tls")]
mod layer;

#[cfg(not(feature = "tls"))]
pub(crate) use self::absent::Layer;
#[cfg(feature = "tls")]
pub(crate) use self::certificate::{Facts, OcspFacts};
pub use self::fault::TlsFault;
#[cfg(feature = "tls")]
pub(crate) use self::layer::Layer;
