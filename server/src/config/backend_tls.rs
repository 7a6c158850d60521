//! TLS towards the backends whose `url` begins with `https://`. Each key of a backend's own `tls`
//! overrides that key of the top-level `tls`.
use intelliproxy_core::ConfigError;
use serde::{Deserialize, Serialize};

use super::forms::refuse;
use super::host::HostPort;
use super::{BackendUrl, Config};

/// TLS towards all backends.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct BackendTls {
    /// The name in a backend's certificate, also sent to it (null: the host of its `url`).
    pub server_name: Option<String>,
    /// The PEM file with the certificates of the trusted authorities (null: those of the system).
    pub ca: Option<String>,
    /// The client certificate that the proxy presents to backends (null: none).
    pub certificate: Option<OwnCertificate>,
    /// Whether backends must have a valid certificate (true).
    pub verify: bool,
}

impl Default for BackendTls {
    fn default() -> Self {
        Self { server_name: None, ca: None, certificate: None, verify: true }
    }
}

/// TLS towards one backend. A field that is `None` has the value for all backends.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct OwnBackendTls {
    /// The name in its certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// The file of the trusted authorities.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// The client certificate that the proxy presents to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<OwnCertificate>,
    /// Whether it must have a valid certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verify: Option<bool>,
}

/// The files of the proxy's own certificate, in PEM.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct OwnCertificate {
    /// The certificate, followed by its intermediate certificates.
    pub chain: String,
    /// Its private key.
    pub key: String,
}

/// The resulting TLS settings of one backend.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TargetTls {
    /// The name in its certificate, a DNS name or an address.
    pub server_name: String,
    /// The authorities that the proxy trusts, and its own certificate.
    pub identity: TlsIdentity,
}

/// The settings that several backends may share and that refer to files.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TlsIdentity {
    /// The file of the trusted authorities; `None` for those of the system.
    pub ca: Option<String>,
    /// The certificate of the proxy.
    pub certificate: Option<OwnCertificate>,
    /// Whether the certificate of the backend is verified.
    pub verify: bool,
}

impl Config {
    /// Returns the TLS settings for a backend with this URL and these settings of its own; `None` if
    /// the URL is not `https`.
    pub(crate) fn tls_of(&self, url: &str, own: Option<&OwnBackendTls>) -> Option<TargetTls> {
        let url = BackendUrl::parse(url).ok().filter(|url| url.is_https)?;
        let all = &self.tls;
        let usual = OwnBackendTls::default();
        let own = own.unwrap_or(&usual);
        let name = own.server_name.as_ref().or(all.server_name.as_ref());
        Some(TargetTls {
            server_name: name.cloned().unwrap_or(url.host),
            identity: TlsIdentity {
                ca: own.ca.clone().or_else(|| all.ca.clone()),
                certificate: own.certificate.clone().or_else(|| all.certificate.clone()),
                verify: own.verify.unwrap_or(all.verify),
            },
        })
    }

    /// Returns the TLS identities for the backends of the configuration, each with its path.
    /// Backends of a watched file use those of the top-level `tls`, because they cannot name files.
    #[cfg(feature = "tls")]
    pub(crate) fn backend_identities(&self) -> Vec<(String, TlsIdentity)> {
        let mut all = Vec::with_capacity(self.backends.len());
        for (index, backend) in self.backends.iter().enumerate() {
            let tls = self.tls_of(&backend.url, backend.tls.as_ref());
            all.extend(tls.map(|tls| (format!("backends[{index}].tls"), tls.identity)));
        }
        if self.discovery.file.is_some() {
            let tls = self.tls_of("https://h", None);
            all.extend(tls.map(|tls| ("tls".to_owned(), tls.identity)));
        }
        all
    }

    /// Checks the common TLS settings and those of each backend.
    pub(super) fn check_backend_tls(&self) -> Result<(), ConfigError> {
        let BackendTls { server_name, ca, certificate, verify } = self.tls.clone();
        OwnBackendTls { server_name, ca, certificate, verify: Some(verify) }.validate("tls")?;
        for (index, backend) in self.backends.iter().enumerate() {
            let is_https = BackendUrl::parse(&backend.url).is_ok_and(|url| url.is_https);
            if cfg!(not(feature = "tls")) && is_https {
                let allowed = "http://HOST[:PORT]: this program was built without TLS";
                return Err(ConfigError::new(&format!("backends[{index}].url"), allowed));
            }
            let Some(tls) = &backend.tls else { continue };
            let path = format!("backends[{index}].tls");
            if !is_https {
                return Err(ConfigError::new(&path, "null beside a url with http://"));
            }
            tls.validate(&path)?;
        }
        Ok(())
    }

    /// Returns the files that TLS towards backends reads, each with the path of its key.
    pub(super) fn backend_tls_files(&self) -> Vec<(String, &str)> {
        let all = (String::new(), self.tls.ca.as_ref(), self.tls.certificate.as_ref());
        let own = self.backends.iter().enumerate().filter_map(|(index, backend)| {
            let tls = backend.tls.as_ref()?;
            Some((format!("backends[{index}]."), tls.ca.as_ref(), tls.certificate.as_ref()))
        });
        let mut files = Vec::new();
        for (start, ca, certificate) in std::iter::once(all).chain(own) {
            let key = |key: &str| format!("{start}tls.{key}");
            files.extend(ca.map(|ca| (key("ca"), ca.as_str())));
            if let Some(OwnCertificate { chain, key: of_key }) = certificate {
                files.push((key("certificate.chain"), chain));
                files.push((key("certificate.key"), of_key));
            }
        }
        files
    }
}

impl OwnBackendTls {
    /// Checks every value that is there. `at` is the path of the object.
    fn validate(&self, at: &str) -> Result<(), ConfigError> {
        if let Some(name) = &self.server_name {
            let path = format!("{at}.serverName");
            let parsed = match HostPort::parse(name) {
                Err(_) if name.contains(':') => HostPort::parse(&format!("[{name}]")),
                parsed => parsed,
            };
            let wrong = match parsed {
                Ok(HostPort { port: Some(_), .. }) => "has a port".to_owned(),
                Ok(HostPort { is_ipv6, .. }) if is_ipv6 && name.starts_with('[') => {
                    "has brackets".to_owned()
                }
                Ok(_) => String::new(),
                Err(error) => error.to_string(),
            };
            if !wrong.is_empty() {
                return Err(refuse(&path, "a DNS name or an address, or null", name, wrong));
            }
        }
        let certificate = self.certificate.as_ref();
        for (key, file) in [
            ("ca", self.ca.as_ref()),
            ("certificate.chain", certificate.map(|one| &one.chain)),
            ("certificate.key", certificate.map(|one| &one.key)),
        ] {
            if file.is_some_and(String::is_empty) {
                return Err(ConfigError::new(&format!("{at}.{key}"), "the path of a file"));
            }
        }
        Ok(())
    }
}

#[cfg(all(test, feature = "tls"))]
mod tests;
