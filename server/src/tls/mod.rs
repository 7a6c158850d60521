//! TLS as a layer between the sockets and the proxy. It takes and gives bytes, and does no I/O.
//!
//! [`Layer`] is one connection, to a client or to a backend. `certificate.rs` reads what a
//! certificate says about itself. The keys, the randomness and the time of day belong to rustls and
//! to [`edge`](crate::edge), which reads the files and makes the configurations.
//!
//! A build without the feature `tls` has a [`Layer`] that no value exists of, so that the code
//! around it is the same.
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
pub(crate) use self::certificate::{Facts, is_ocsp_response};
pub use self::fault::TlsFault;
#[cfg(feature = "tls")]
pub(crate) use self::layer::Layer;
