//! TLS of the listeners.
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use intelliproxy_core::ConfigError;
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, ring};

use super::certificates::{Certificate, Certificates, Wrong};
use crate::config::{CertificateFiles, Config, ListenTls, TlsVersion};
use crate::edge::disk::read_named;
use crate::plain::os_error_text;
use crate::tls::Layer;

/// The maximum size of a file, in bytes. A chain of four certificates takes a hundredth of it.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// TLS of one listener.
#[derive(Debug)]
pub(crate) struct Server {
    config: Arc<ServerConfig>,
}

impl Server {
    /// A layer for a new client. `None` if its configuration is invalid.
    pub(crate) fn layer(&self) -> Option<Layer> {
        Layer::server(&self.config).ok()
    }
}

/// TLS of the listeners that have it. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Servers {
    all: Vec<(ListenTls, Arc<Server>)>,
}

impl Servers {
    /// Reads the files of a configuration. May block.
    ///
    /// # Errors
    /// One line with the path of the value and the file.
    pub(crate) fn load(config: &Config, _before: Option<&Self>) -> Result<Self, String> {
        let provider = Arc::new(ring::default_provider());
        let mut all: Vec<(ListenTls, Arc<Server>)> = Vec::new();
        for (path, tls) in entries(config) {
            if all.iter().any(|(other, _)| other == tls) {
                continue;
            }
            let server = load(&path, tls, &provider, &read_regular)
                .map_err(|error| format!("{}: must be {}", error.path, error.allowed))?;
            all.push((tls.clone(), Arc::new(server)));
        }
        Ok(Self { all })
    }

    /// TLS of the listeners that are configured so.
    pub(crate) fn of(&self, tls: &ListenTls) -> Option<Arc<Server>> {
        let found = self.all.iter().find(|(one, _)| one == tls);
        found.map(|(_, server)| Arc::clone(server))
    }
}

/// Checks the files of a configuration, which `read_file` reads.
///
/// # Errors
/// The first value whose file is invalid, with the file and its fault.
pub(crate) fn check(
    config: &Config,
    read_file: impl Fn(&Path) -> io::Result<Vec<u8>>,
) -> Result<(), ConfigError> {
    let provider = Arc::new(ring::default_provider());
    for (path, tls) in entries(config) {
        load(&path, tls, &provider, &read_file)?;
    }
    Ok(())
}

/// The listeners with TLS, each with its path.
fn entries(config: &Config) -> impl Iterator<Item = (String, &ListenTls)> {
    let all = config.listen.iter().enumerate();
    all.filter_map(|(index, listen)| Some((format!("listen[{index}].tls"), listen.tls.as_ref()?)))
}

fn read_regular(path: &Path) -> io::Result<Vec<u8>> {
    read_named(path, FILE_BYTES_MAX)
}

/// Makes the TLS of a listener.
fn load(
    path: &str,
    tls: &ListenTls,
    provider: &Arc<CryptoProvider>,
    read_file: &impl Fn(&Path) -> io::Result<Vec<u8>>,
) -> Result<Server, ConfigError> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let mut certificates = Vec::with_capacity(tls.certificates.len());
    for (index, CertificateFiles { chain, key }) in tls.certificates.iter().enumerate() {
        let of_chain = format!("{path}.certificates[{index}].chain");
        let of_key = format!("{path}.certificates[{index}].key");
        let contents = (read(&of_chain, chain, read_file)?, read(&of_key, key, read_file)?);
        let read = Certificate::read(&contents.0, &contents.1, now, provider);
        certificates.push(read.map_err(|wrong| match wrong {
            Wrong::Chain(wrong) => refuse(&of_chain, CHAIN, chain, &wrong),
            Wrong::Key(wrong) => refuse(&of_key, KEY, key, &wrong),
        })?);
    }
    let invalid = || ConfigError::new(path, "a usable configuration of TLS");
    let certificates = Certificates::new(certificates).ok_or_else(invalid)?;
    let versions: &[_] = match tls.min_version {
        TlsVersion::Tls12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
        TlsVersion::Tls13 => &[&rustls::version::TLS13],
    };
    let builder = ServerConfig::builder_with_provider(Arc::clone(provider));
    let mut config = builder
        .with_protocol_versions(versions)
        .map_err(|_| invalid())?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(certificates));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Server { config: Arc::new(config) })
}

fn read(
    path: &str,
    file: &str,
    read_file: &impl Fn(&Path) -> io::Result<Vec<u8>>,
) -> Result<Vec<u8>, ConfigError> {
    read_file(Path::new(file)).map_err(|error| {
        let wrong = format!("cannot be read: {}", os_error_text(&error));
        refuse(path, "the path of a file", file, &wrong)
    })
}

fn refuse(path: &str, allowed: &str, file: &str, wrong: &str) -> ConfigError {
    ConfigError::new(path, &format!("{allowed}, and {file} {wrong}"))
}

/// The files that are permitted.
const CHAIN: &str = "a PEM file with a certificate that is valid now";
const KEY: &str = "a PEM file with the private key of the certificate";
