//! TLS towards backends.
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use intelliproxy_core::ConfigError;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, InconsistentKeys, RootCertStore, SignatureScheme,
};

use super::certificates::read_chain;
use super::files::{read, refuse};
use super::roots;
use crate::config::{Config, OwnCertificate, TargetTls, TlsIdentity};
use crate::edge::disk::read_named;
use crate::tls::{Facts, Layer, TlsFault};

/// The maximum size of a file, in bytes. A bundle of all public authorities takes a twentieth of
/// this.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// The maximum number of sessions that may be resumed, for each set of settings.
const SESSIONS_MAX: usize = 256;

/// TLS towards the backends that use it. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Clients {
    all: Vec<(TlsIdentity, Arc<ClientConfig>)>,
}

impl Clients {
    /// Reads the files of a configuration. May block.
    ///
    /// # Errors
    /// One line with the path of the value and the file.
    pub(crate) fn load(config: &Config) -> Result<Self, String> {
        let read = |path: &Path| read_named(path, FILE_BYTES_MAX);
        Self::read(config, &read, &roots::named())
            .map_err(|error| format!("{}: must be {}", error.path, error.allowed))
    }

    /// A layer for a new connection.
    ///
    /// # Errors
    /// A certificate cannot have the backend's name.
    pub(crate) fn layer(&self, tls: &TargetTls) -> Result<Layer, TlsFault> {
        let config = self.all.iter().find(|(identity, _)| *identity == tls.identity);
        let name = ServerName::try_from(tls.server_name.clone());
        match (config, name) {
            (Some((_, config)), Ok(name)) => Ok(Layer::client(config, name)?),
            _ => Err(TlsFault::InvalidName),
        }
    }

    /// Builds the TLS of a configuration. The system's authorities are in the first of `bundles`
    /// that exists.
    fn read(
        config: &Config,
        read_file: &impl Fn(&Path) -> io::Result<Vec<u8>>,
        bundles: &[String],
    ) -> Result<Self, ConfigError> {
        let provider = Arc::new(ring::default_provider());
        let mut all: Vec<(TlsIdentity, Arc<ClientConfig>)> = Vec::new();
        let mut of_system: Option<Arc<RootCertStore>> = None;
        for (path, identity) in config.backend_identities() {
            if all.iter().any(|(other, _)| *other == identity) {
                continue;
            }
            let roots = match &identity.ca {
                _ if !identity.verify => None,
                Some(ca) => Some(Arc::new(authorities(&path, ca, read_file)?)),
                None => {
                    if of_system.is_none() {
                        let roots = roots::of_system(bundles, read_file);
                        let roots = roots.map_err(|wrong| {
                            ConfigError::new(
                                &format!("{path}.ca"),
                                &format!("{AUTHORITIES}: {wrong}"),
                            )
                        });
                        of_system = match roots {
                            // A watched file may have no backend that needs them.
                            Err(_) if path == "tls" => Some(Arc::new(RootCertStore::empty())),
                            roots => Some(Arc::new(roots?)),
                        };
                    }
                    of_system.clone()
                }
            };
            let client = client(&path, &identity, roots, &provider, read_file)?;
            all.push((identity, Arc::new(client)));
        }
        Ok(Self { all })
    }
}

/// Checks the files of a configuration, which `read_file` reads.
///
/// # Errors
/// The first value whose file is invalid, with the file and its fault.
pub(crate) fn check_clients(
    config: &Config,
    read_file: impl Fn(&Path) -> io::Result<Vec<u8>>,
) -> Result<(), ConfigError> {
    Clients::read(config, &read_file, &roots::named()).map(|_| ())
}

/// Reads the authorities in a file, all of which must be valid.
fn authorities(
    path: &str,
    file: &str,
    read_file: &impl Fn(&Path) -> io::Result<Vec<u8>>,
) -> Result<RootCertStore, ConfigError> {
    let path = format!("{path}.ca");
    let content = read(&path, file, read_file)?;
    let refuse = |wrong: &str| refuse(&path, AUTHORITIES, file, wrong);
    let mut roots = RootCertStore::empty();
    for certificate in read_chain(&content).map_err(|wrong| refuse(&wrong))? {
        roots.add(certificate).map_err(|_| refuse("has an invalid certificate"))?;
    }
    Ok(roots)
}

/// Builds the TLS for one set of settings. Without `roots`, certificates are not verified.
fn client(
    path: &str,
    identity: &TlsIdentity,
    roots: Option<Arc<RootCertStore>>,
    provider: &Arc<CryptoProvider>,
    read_file: &impl Fn(&Path) -> io::Result<Vec<u8>>,
) -> Result<ClientConfig, ConfigError> {
    let builder = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|_| ConfigError::new(path, "a usable configuration of TLS"))?;
    let builder = match roots {
        Some(roots) => builder.with_root_certificates(roots),
        None => builder.dangerous().with_custom_certificate_verifier(Arc::new(Unverified {
            algorithms: provider.signature_verification_algorithms,
        })),
    };
    let mut config = match &identity.certificate {
        None => builder.with_no_client_auth(),
        Some(OwnCertificate { chain, key }) => {
            let (of_chain, of_key) =
                (format!("{path}.certificate.chain"), format!("{path}.certificate.key"));
            let wrong_chain = |wrong: &str| refuse(&of_chain, CHAIN, chain, wrong);
            let wrong_key = |wrong: &str| refuse(&of_key, KEY, key, wrong);
            let certificates = read(&of_chain, chain, read_file)?;
            let private = read(&of_key, key, read_file)?;
            let certificates = read_chain(&certificates).map_err(|wrong| wrong_chain(&wrong))?;
            check_validity(&certificates[0]).map_err(wrong_chain)?;
            let private = PrivateKeyDer::from_pem_slice(&private)
                .map_err(|_| wrong_key("has no private key in PEM"))?;
            builder.with_client_auth_cert(certificates, private).map_err(|error| match error {
                Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                    wrong_key("is not the key of the certificate")
                }
                Error::InvalidCertificate(_) => wrong_chain("has an invalid certificate"),
                _ => wrong_key("has a private key of an unknown kind"),
            })?
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = Resumption::in_memory_sessions(SESSIONS_MAX);
    // A request in early data may be replayed by others (RFC 8446 section 8).
    config.enable_early_data = false;
    Ok(config)
}

/// Checks that the proxy's own certificate is valid now.
fn check_validity(certificate: &CertificateDer<'_>) -> Result<(), &'static str> {
    let facts = Facts::read(certificate).ok_or("has an invalid certificate")?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    match (facts.not_before..=facts.not_after).contains(&now) {
        true => Ok(()),
        false => Err("has expired or is not valid yet"),
    }
}

/// Accepts any certificate (`verify: false`). The handshake still shows that the backend has its
/// key.
#[derive(Debug)]
struct Unverified {
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// The files that are permitted.
const CHAIN: &str = "a PEM file with a certificate that is valid now";
const KEY: &str = "a PEM file with the private key of the certificate";
const AUTHORITIES: &str = "a PEM file with the certificates of authorities";

#[cfg(test)]
mod tests;
