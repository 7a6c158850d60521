//! TLS of the listeners.
use std::io;
use std::path::Path;
use std::sync::Arc;

use ::ring::digest::{SHA256, digest as digest_of};
use intelliproxy_core::ConfigError;
use rustls::crypto::{CryptoProvider, ring};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};

use super::certificates::{Certificate, Certificates, Staple, Wrong, read_chain};
use super::files::{Digest, Watched, digest, line, read, refuse, renewed};
use super::tickets::{Ticketer, Tickets, seconds};
use crate::config::{CertificateFiles, ClientAuth, Config, ListenTls, TlsVersion};
use crate::edge::disk::read_named;
use crate::tls::{Layer, OcspFacts};

/// The maximum size of a file, in bytes. A chain of four certificates takes a hundredth of this.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// TLS of one listener.
#[derive(Debug)]
pub(crate) struct Server {
    rules: Arc<ListenTls>,
    config: Arc<ServerConfig>,
    /// The contents of its files.
    digest: Digest,
}

impl Server {
    /// A layer for a new client. If `is_after_header`, a PROXY protocol header precedes the
    /// handshake. `None` if the configuration is invalid.
    pub(crate) fn layer(&self, is_after_header: bool) -> Option<Layer> {
        let layer = Layer::server(&self.config).ok()?;
        Some(if is_after_header { layer.after_header() } else { layer })
    }

    /// The entry of the configuration.
    pub(crate) fn rules(&self) -> Arc<ListenTls> {
        Arc::clone(&self.rules)
    }
}

/// The TLS settings of all listeners with TLS. Clones share each listener's [`Server`].
#[derive(Clone, Debug, Default)]
pub(crate) struct Servers {
    /// Each server with its path in the configuration.
    all: Vec<(String, Arc<Server>)>,
    tickets: Tickets,
}

impl Servers {
    /// Reads the files of a configuration. May block.
    ///
    /// # Errors
    /// One line with the path of the value and the file.
    pub(crate) fn load(config: &Config, tickets: &Tickets) -> Result<Self, String> {
        let mut servers = Self { all: Vec::new(), tickets: tickets.clone() };
        for (path, tls) in entries(config) {
            if servers.of(tls).is_none() {
                let server =
                    load(&path, tls, tickets, &read_regular).map_err(|error| line(&error))?;
                servers.all.push((path, Arc::new(server)));
            }
        }
        Ok(servers)
    }

    /// Returns the server with these rules. Listeners with equal rules share one.
    pub(crate) fn of(&self, tls: &ListenTls) -> Option<Arc<Server>> {
        let found = self.all.iter().find(|(_, server)| *server.rules == *tls);
        found.map(|(_, server)| Arc::clone(server))
    }

    /// A log line for each listener whose rules are as in `old`, but whose files have other contents.
    pub(crate) fn renewed(&self, old: &Self) -> Vec<String> {
        let is_other = |server: &Server| {
            old.of(&server.rules).is_some_and(|known| known.digest != server.digest)
        };
        let all = self.all.iter().filter(|(_, server)| is_other(server));
        all.map(|(path, _)| renewed(path)).collect()
    }

    /// The ticket keys.
    pub(crate) fn tickets(&self) -> Tickets {
        self.tickets.clone()
    }
}

impl Watched for Servers {
    fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    fn changed(&self) -> Vec<(usize, String)> {
        let all = self.all.iter().enumerate();
        let is_other =
            |server: &Server| digest(files(&server.rules), &read_regular) != server.digest;
        all.filter(|(_, (_, server))| is_other(server))
            .map(|(index, (path, _))| (index, path.clone()))
            .collect()
    }

    fn reload(&mut self, index: usize) -> Result<(), (Digest, String)> {
        let Some((path, server)) = self.all.get_mut(index) else { return Ok(()) };
        match load(path, &server.rules, &self.tickets, &read_regular) {
            Ok(new) => {
                *server = Arc::new(new);
                Ok(())
            }
            Err(error) => Err((digest(files(&server.rules), &read_regular), line(&error))),
        }
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
    let tickets = Tickets::default();
    for (path, tls) in entries(config) {
        load(&path, tls, &tickets, &read_file)?;
    }
    Ok(())
}

/// The listeners with TLS, each with its path.
fn entries(config: &Config) -> impl Iterator<Item = (String, &ListenTls)> {
    let all = config.listen.iter().enumerate();
    all.filter_map(|(index, listen)| Some((format!("listen[{index}].tls"), listen.tls.as_ref()?)))
}

/// The files of a listener.
fn files(tls: &ListenTls) -> impl Iterator<Item = &String> {
    let own = tls.certificates.iter();
    let own = own.flat_map(|one| [Some(&one.chain), Some(&one.key), one.ocsp.as_ref()]).flatten();
    own.chain(tls.client_auth.iter().map(|auth| &auth.ca))
}

fn read_regular(path: &Path) -> io::Result<Vec<u8>> {
    read_named(path, FILE_BYTES_MAX)
}

/// Builds the TLS of a listener.
fn load(
    path: &str,
    tls: &ListenTls,
    tickets: &Tickets,
    read_file: &impl Fn(&Path) -> io::Result<Vec<u8>>,
) -> Result<Server, ConfigError> {
    // The digest is computed first, so that a file that changes meanwhile counts as changed later.
    let digest = digest(files(tls), read_file);
    let provider = Arc::new(ring::default_provider());
    let now = i64::try_from(seconds()).unwrap_or(i64::MAX);
    let mut certificates = Vec::with_capacity(tls.certificates.len());
    for (index, CertificateFiles { chain, key, ocsp }) in tls.certificates.iter().enumerate() {
        let of = |key: &str| format!("{path}.certificates[{index}].{key}");
        let (of_chain, of_key, of_ocsp) = (of("chain"), of("key"), of("ocsp"));
        let contents = (read(&of_chain, chain, read_file)?, read(&of_key, key, read_file)?);
        let staple = |file: &String| {
            let response = read(&of_ocsp, file, read_file)?;
            let facts = OcspFacts::read(&response);
            let facts = facts.ok_or_else(|| refuse(&of_ocsp, OCSP, file, "is not one"))?;
            Ok(Staple::new(response, facts, file.clone()))
        };
        let staple = ocsp.as_ref().map(staple).transpose()?;
        let read = Certificate::read(&contents.0, &contents.1, staple, now, &provider);
        certificates.push(read.map_err(|wrong| match wrong {
            Wrong::Chain(wrong) => refuse(&of_chain, CHAIN, chain, &wrong),
            Wrong::Key(wrong) => refuse(&of_key, KEY, key, &wrong),
            Wrong::Staple(file) => refuse(&of_ocsp, OCSP, &file, "is for another certificate"),
        })?);
    }
    let invalid = || ConfigError::new(path, "a usable configuration of TLS");
    let certificates = Certificates::new(certificates).ok_or_else(invalid)?;
    let versions: &[_] = match tls.min_version {
        TlsVersion::Tls12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
        TlsVersion::Tls13 => &[&rustls::version::TLS13],
    };
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .map_err(|_| invalid())?;
    let (builder, purpose) = match &tls.client_auth {
        Some(auth) => {
            let path = format!("{path}.clientAuth.ca");
            let content = read(&path, &auth.ca, read_file)?;
            let verifier = verifier(&path, auth, &content, provider)?;
            let sum = digest_of(&SHA256, &content);
            let purpose = [sum.as_ref(), &[u8::from(auth.optional)]].concat();
            (builder.with_client_cert_verifier(verifier), purpose)
        }
        None => (builder.with_no_client_auth(), Vec::new()),
    };
    let mut config = builder.with_cert_resolver(Arc::new(certificates));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.ticketer = Arc::new(Ticketer { tickets: tickets.clone(), purpose });
    // Sessions are stored only in tickets, so that they take no memory here.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Server { rules: Arc::new(tls.clone()), config: Arc::new(config), digest })
}

/// Returns the verifier of client certificates.
fn verifier(
    path: &str,
    auth: &ClientAuth,
    content: &[u8],
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, ConfigError> {
    let refuse = |wrong: &str| refuse(path, AUTHORITIES, &auth.ca, wrong);
    let mut roots = RootCertStore::empty();
    for certificate in read_chain(content).map_err(|wrong| refuse(&wrong))? {
        roots.add(certificate).map_err(|_| refuse("has an invalid certificate"))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder = if auth.optional { builder.allow_unauthenticated() } else { builder };
    builder.build().map_err(|error| refuse(&error.to_string()))
}

/// Requirements on the files, for error messages.
const CHAIN: &str = "a PEM file with a certificate that is valid now";
const KEY: &str = "a PEM file with the private key of the certificate";
const OCSP: &str = "a DER file with a successful OCSP response for the certificate";
const AUTHORITIES: &str = "a PEM file with the certificates of authorities";

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::folder::Folder;

    /// Files with other contents are named, and only those.
    #[test]
    fn renewed_files_are_named() {
        let folder = Folder::new("tls-renewed");
        let (chain, key) = (folder.path("chain.pem"), folder.path("key.pem"));
        let files = format!(r#"{{"chain": "{chain}", "key": "{key}"}}"#);
        let listen =
            format!(r#"{{"address": "127.0.0.1:1", "tls": {{"certificates": [{files}]}}}}"#);
        let backend = r#"{"name": "A", "url": "http://127.0.0.1:2"}"#;
        let text = format!(r#"{{"listen": [{listen}], "backends": [{backend}]}}"#);
        let config = Config::from_json(&text).expect("valid");
        let load = |name: &str| {
            let fixture =
                |end: &str| format!("{}/src/tls/testing/{name}.{end}", env!("CARGO_MANIFEST_DIR"));
            fs::copy(fixture("pem"), &chain).expect("a copy");
            fs::copy(fixture("key"), &key).expect("a copy");
            Servers::load(&config, &Tickets::default()).expect("valid files")
        };
        let (site, again, other) = (load("site"), load("site"), load("other"));
        assert_eq!(again.renewed(&site), Vec::<String>::new());
        let line = "listen[0].tls: certificates changed, using the new ones";
        assert_eq!(other.renewed(&site), [line]);
        assert_eq!(other.renewed(&Servers::default()), Vec::<String>::new());
    }
}
