//! TLS of a listener: the files of its certificates, and what it asks of clients.
use serde::{Deserialize, Serialize};

/// TLS towards the clients of one listener.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ListenTls {
    /// The certificates, 1 to 1000. A client gets the one for the host that it asks for, or the
    /// first.
    pub certificates: Vec<CertificateFiles>,
    /// The lowest version of TLS that clients may use (1.2).
    #[serde(default)]
    pub min_version: TlsVersion,
}

/// The files of a certificate, in PEM.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct CertificateFiles {
    /// The certificate, followed by those that lead to its issuer's.
    pub chain: String,
    /// Its private key.
    pub key: String,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum TlsVersion {
    /// TLS 1.2 (RFC 5246).
    #[default]
    #[serde(rename = "1.2")]
    Tls12,
    /// TLS 1.3 (RFC 8446).
    #[serde(rename = "1.3")]
    Tls13,
}
