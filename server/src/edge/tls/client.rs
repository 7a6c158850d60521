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
use super::files::{Digest, Watched, digest, line, read, refuse};
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
    all: Vec<Client>,
}

/// TLS of one set of settings.
#[derive(Clone, Debug)]
struct Client {
    /// The place of the settings in the configuration.
    path: String,
    identity: TlsIdentity,
    config: Arc<ClientConfig>,
    /// The contents of its files.
    digest: Digest,
}

impl Clients {
    /// Reads the files of a configuration. May block.
    ///
    /// # Errors
    /// One line with the path of the value and the file.
    pub(crate) fn load(config: &Config) -> Result<Self, String> {
        Self::read(config, &read_regular, &roots::named()).map_err(|error| line(&error))
    }

    /// A layer for a new connection.
    ///
    /// # Errors
    /// A certificate cannot have the backend's name.
    pub(crate) fn layer(&self, tls: &TargetTls) -> Result<Layer, TlsFault> {
        let client = self.all.iter().find(|client| client.identity == tls.identity);
        let name = ServerName::try_from(tls.server_name.clone());
        match (client, name) {
            (Some(client), Ok(name)) => Ok(Layer::client(&client.config, name)?),
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
        let mut all: Vec<Client> = Vec::new();
        let mut of_system: Option<Arc<RootCertStore>> = None;
        for (path, identity) in config.backend_identities() {
            if !all.iter().any(|other| other.identity == identity) {
                all.push(Client::read(path, identity, read_file, bundles, &mut of_system)?);
            }
        }
        Ok(Self { all })
    }
}

impl Client {
    /// Makes the TLS of a set of settings. Reads the system's authorities if they are necessary and
    /// not known.
    fn read(
        path: String,
        identity: TlsIdentity,
        read_file: &impl Fn(&Path) -> io::Result<Vec<u8>>,
        bundles: &[String],
        of_system: &mut Option<Arc<RootCertStore>>,
    ) -> Result<Self, ConfigError> {
        // The digest is computed first, so that a file that changes meanwhile counts as changed
        // later.
        let digest = digest(files(&identity), read_file);
        let roots = match (&identity.ca, &of_system) {
            _ if !identity.verify => None,
            (Some(ca), _) => Some(Arc::new(authorities(&path, ca, read_file)?)),
            (None, Some(roots)) => Some(Arc::clone(roots)),
            (None, None) => {
                let roots = match roots::of_system(bundles, read_file) {
                    Ok(roots) => roots,
                    // A watched file may have no backend that needs them.
                    Err(_) if path == "tls" => RootCertStore::empty(),
                    Err(wrong) => {
                        let allowed = format!("{AUTHORITIES}: {wrong}");
                        return Err(ConfigError::new(&format!("{path}.ca"), &allowed));
                    }
                };
                Some(Arc::clone(of_system.insert(Arc::new(roots))))
            }
        };
        let provider = Arc::new(ring::default_provider());
        let config = client(&path, &identity, roots, &provider, read_file)?;
        Ok(Self { path, identity, config: Arc::new(config), digest })
    }
}

impl Watched for Clients {
    fn is_empty(&self) -> bool {
        self.all.iter().all(|client| files(&client.identity).next().is_none())
    }

    fn changed(&self) -> Vec<(usize, String)> {
        let all = self.all.iter().enumerate();
        let is_other = |one: &Client| digest(files(&one.identity), &read_regular) != one.digest;
        all.filter(|(_, client)| is_other(client))
            .map(|(index, client)| (index, client.path.clone()))
            .collect()
    }

    fn reload(&mut self, index: usize) -> Result<(), (Digest, String)> {
        let Some(client) = self.all.get_mut(index) else { return Ok(()) };
        let Client { path, identity, .. } = client.clone();
        match Client::read(path, identity, &read_regular, &roots::named(), &mut None) {
            Ok(new) => {
                *client = new;
                Ok(())
            }
            Err(error) => Err((digest(files(&client.identity), &read_regular), line(&error))),
        }
    }
}

fn read_regular(path: &Path) -> io::Result<Vec<u8>> {
    read_named(path, FILE_BYTES_MAX)
}

/// The files of a set of settings. The system's authorities are not among them.
fn files(identity: &TlsIdentity) -> impl Iterator<Item = &String> {
    let own = identity.certificate.iter().flat_map(|own| [&own.chain, &own.key]);
    identity.ca.iter().filter(|_| identity.verify).chain(own)
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

/// Requirements on the files, for error messages.
const CHAIN: &str = "a PEM file with a certificate that is valid now";
const KEY: &str = "a PEM file with the private key of the certificate";
const AUTHORITIES: &str = "a PEM file with the certificates of authorities";

#[cfg(test)]
mod tests;
