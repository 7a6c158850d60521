//! The reason why a TLS connection to a backend cannot be used.
use std::fmt;

/// The reason why a TLS connection to a backend cannot be used.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TlsFault {
    /// The certificate's validity is over.
    Expired,
    /// The certificate's validity has not begun.
    NotYetValid,
    /// No trusted authority has issued the certificate.
    UnknownIssuer,
    /// The certificate does not have the name of the backend.
    WrongName,
    /// The certificate is invalid for another reason.
    InvalidCertificate,
    /// The backend requires a client certificate.
    CertificateRequired,
    /// The backend refuses the client certificate.
    CertificateRefused,
    /// The two sides have no TLS version, cipher or curve in common.
    NothingInCommon,
    /// The backend does not speak HTTP/1.1 (ALPN).
    OtherProtocol,
    /// The backend does not know the name that the proxy requests (SNI).
    UnknownName,
    /// The backend refuses the handshake for a different reason.
    Refused,
    /// The backend's bytes are not TLS.
    NotTls,
    /// The backend breaks the protocol.
    Malformed,
    /// The backend ended the connection during the handshake.
    Ended,
    /// The connection broke during the handshake.
    Broken,
    /// The handshake cannot begin, because a certificate cannot have the name.
    InvalidName,
}

impl fmt::Display for TlsFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Expired => "its certificate has expired",
            Self::NotYetValid => "its certificate is not valid yet",
            Self::UnknownIssuer => "its certificate is not from a trusted authority",
            Self::WrongName => "its certificate has another name",
            Self::InvalidCertificate => "its certificate is invalid",
            Self::CertificateRequired => "it requires a client certificate",
            Self::CertificateRefused => "it refuses the client certificate",
            Self::NothingInCommon => "no version or cipher in common",
            Self::OtherProtocol => "it does not speak HTTP/1.1 (ALPN)",
            Self::UnknownName => "it does not know the name (SNI)",
            Self::Refused => "it refuses the handshake",
            Self::NotTls => "its response is not TLS",
            Self::Malformed => "it breaks the protocol",
            Self::Ended => "it closed the connection",
            Self::Broken => "the connection broke",
            Self::InvalidName => "the name is not one of a certificate",
        })
    }
}

impl std::error::Error for TlsFault {}

#[cfg(feature = "tls")]
impl From<rustls::Error> for TlsFault {
    fn from(error: rustls::Error) -> Self {
        use rustls::{AlertDescription, CertificateError, Error};
        match error {
            Error::InvalidCertificate(error) => match error {
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                    Self::Expired
                }
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                    Self::NotYetValid
                }
                CertificateError::UnknownIssuer => Self::UnknownIssuer,
                CertificateError::NotValidForName
                | CertificateError::NotValidForNameContext { .. } => Self::WrongName,
                _ => Self::InvalidCertificate,
            },
            Error::AlertReceived(alert) => match alert {
                AlertDescription::CertificateRequired => Self::CertificateRequired,
                AlertDescription::BadCertificate
                | AlertDescription::UnsupportedCertificate
                | AlertDescription::CertificateRevoked
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateUnknown
                | AlertDescription::UnknownCA
                | AlertDescription::AccessDenied => Self::CertificateRefused,
                AlertDescription::ProtocolVersion | AlertDescription::InsufficientSecurity => {
                    Self::NothingInCommon
                }
                AlertDescription::NoApplicationProtocol => Self::OtherProtocol,
                AlertDescription::UnrecognisedName => Self::UnknownName,
                _ => Self::Refused,
            },
            Error::PeerIncompatible(_) => Self::NothingInCommon,
            Error::NoApplicationProtocol => Self::OtherProtocol,
            Error::InvalidMessage(
                rustls::InvalidMessage::InvalidContentType
                | rustls::InvalidMessage::UnknownProtocolVersion
                | rustls::InvalidMessage::MessageTooLarge
                | rustls::InvalidMessage::InvalidEmptyPayload,
            ) => Self::NotTls,
            _ => Self::Malformed,
        }
    }
}

/// For a build without TLS.
#[cfg(not(feature = "tls"))]
impl From<std::convert::Infallible> for TlsFault {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}
