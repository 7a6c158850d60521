//! TLS of a listener: its certificate files, and the certificates that clients must have.
use intelliproxy_core::ConfigError;
use serde::{Deserialize, Serialize};

use super::Config;
use super::forms::{FIELD_ALLOWED, check_length, is_token};
use crate::http::field::Name;

/// TLS of one listener.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ListenTls {
    /// The certificates, 1 to 1000. A client gets the certificate for the host name that it
    /// requests, or the first one.
    pub certificates: Vec<CertificateFiles>,
    /// The lowest TLS version that clients may use (1.2).
    #[serde(default)]
    pub min_version: TlsVersion,
    /// Client certificates (null: not requested).
    #[serde(default)]
    pub client_auth: Option<ClientAuth>,
    /// The value of Strict-Transport-Security in every response, such as `max-age=31536000` (null:
    /// not sent).
    #[serde(default)]
    pub hsts: Option<String>,
}

/// The verification of client certificates.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ClientAuth {
    /// The PEM file with the CA certificates that client certificates are verified against.
    pub ca: String,
    /// Whether a client may connect without a certificate (false).
    #[serde(default)]
    pub optional: bool,
    /// The field that passes the subject of the client's certificate to backends (null: none).
    /// Fields of this name sent by clients are removed on every listener.
    #[serde(default)]
    pub subject_field: Option<String>,
    /// Like `subject_field`, but for the SHA-256 of the certificate in hexadecimal.
    #[serde(default)]
    pub fingerprint_field: Option<String>,
}

/// The files of a certificate, in PEM.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct CertificateFiles {
    /// The certificate, followed by the intermediate certificates.
    pub chain: String,
    /// The private key.
    pub key: String,
    /// An OCSP response in DER, which is stapled for clients that request it (null: none).
    #[serde(default)]
    pub ocsp: Option<String>,
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

impl Config {
    /// Checks that no field has both an identity and a request id.
    pub(super) fn check_identity_fields(&self) -> Result<(), ConfigError> {
        for (index, listen) in self.listen.iter().enumerate() {
            let Some(auth) = listen.tls.as_ref().and_then(|tls| tls.client_auth.as_ref()) else {
                continue;
            };
            let (subject, fingerprint) = (&auth.subject_field, &auth.fingerprint_field);
            let is_taken = |field: &String, other: Option<&String>| {
                let others = [Some(&self.request_id.field), other].into_iter().flatten();
                others.into_iter().any(|other| other.eq_ignore_ascii_case(field))
            };
            for (name, field, other) in [
                ("subjectField", subject, None),
                ("fingerprintField", fingerprint, subject.as_ref()),
            ] {
                if field.as_ref().is_some_and(|field| is_taken(field, other)) {
                    let path = format!("listen[{index}].tls.clientAuth.{name}");
                    return Err(ConfigError::new(&path, "a field of its own"));
                }
            }
        }
        Ok(())
    }

    /// Returns the names of the fields that pass the identity of client certificates to backends.
    pub(crate) fn identity_fields(&self) -> impl Iterator<Item = &str> {
        let tls = self.listen.iter().filter_map(|listen| listen.tls.as_ref());
        let auth = tls.filter_map(|tls| tls.client_auth.as_ref());
        auth.flat_map(|auth| auth.subject_field.iter().chain(&auth.fingerprint_field))
            .map(String::as_str)
    }
}

/// Checks the values at a path.
pub(super) fn check(path: &str, tls: &ListenTls) -> Result<(), ConfigError> {
    if cfg!(not(feature = "tls")) {
        return Err(ConfigError::new(path, "null: this program was built without TLS"));
    }
    let list = format!("{path}.certificates");
    check_length(&list, tls.certificates.len(), 1, CERTIFICATES_MAX)?;
    for (index, CertificateFiles { chain, key, ocsp }) in tls.certificates.iter().enumerate() {
        for (name, file) in [("chain", Some(chain)), ("key", Some(key)), ("ocsp", ocsp.as_ref())] {
            if file.is_some_and(String::is_empty) {
                let path = format!("{list}[{index}].{name}");
                return Err(ConfigError::new(&path, "the path of a file"));
            }
        }
    }
    if tls.hsts.as_ref().is_some_and(|value| !is_hsts(value)) {
        let allowed = "a value of Strict-Transport-Security, such as max-age=31536000";
        return Err(ConfigError::new(&format!("{path}.hsts"), allowed));
    }
    let Some(ClientAuth { ca, subject_field, fingerprint_field, .. }) = &tls.client_auth else {
        return Ok(());
    };
    let path = format!("{path}.clientAuth");
    if ca.is_empty() {
        return Err(ConfigError::new(&format!("{path}.ca"), "the path of a file"));
    }
    for (name, field) in [("subjectField", subject_field), ("fingerprintField", fingerprint_field)]
    {
        let is_field =
            |field: &String| is_token(field) && Name::of(field.as_bytes()) == Name::Other;
        if field.as_ref().is_some_and(|field| !is_field(field)) {
            return Err(ConfigError::new(&format!("{path}.{name}"), FIELD_ALLOWED));
        }
    }
    Ok(())
}

/// Whether a text may be the value of Strict-Transport-Security (RFC 6797 section 6.1).
fn is_hsts(value: &str) -> bool {
    let seconds = value.strip_prefix("max-age=").and_then(|rest| rest.split(';').next());
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_visible = value.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    seconds.is_some_and(|seconds| is_number(seconds.trim())) && is_visible && value.len() <= 200
}

const CERTIFICATES_MAX: usize = 1000;
