//! The certificates of a listener, chosen by the host name that a client requests.
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use log::warn;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys};

use super::tickets::seconds;
use crate::tls::{Facts, OcspFacts};
use crate::utc::Utc;

/// The certificates by host name.
#[derive(Debug)]
pub(super) struct Certificates {
    default: Arc<Identity>,
    exact: BTreeMap<String, Arc<Identity>>,
    /// By the name after `*.`.
    wildcard: BTreeMap<String, Arc<Identity>>,
}

/// A certificate with its names.
#[derive(Debug)]
pub(super) struct Certificate {
    identity: Arc<Identity>,
    names: Vec<String>,
}

/// A certificate with its key.
#[derive(Debug)]
struct Identity {
    key: Arc<CertifiedKey>,
    /// The same with an OCSP response.
    stapled: Option<(Arc<CertifiedKey>, Staple)>,
}

/// An OCSP response.
#[derive(Debug)]
pub(super) struct Staple {
    response: Vec<u8>,
    facts: OcspFacts,
    file: String,
    /// Whether the log has its end.
    is_told: AtomicBool,
}

impl Staple {
    pub(super) const fn new(response: Vec<u8>, facts: OcspFacts, file: String) -> Self {
        Self { response, facts, file, is_told: AtomicBool::new(false) }
    }

    /// Whether it may be sent at `now`, seconds since 1970. Clients refuse a certificate with a
    /// response that has expired.
    fn holds(&self, now: i64) -> bool {
        let not_after = self.facts.not_after;
        let holds = now <= not_after;
        if !holds && !self.is_told.swap(true, Ordering::Relaxed) {
            warn!("{}: the OCSP response expired at {}: not stapled", self.file, date(not_after));
        }
        holds
    }
}

impl Identity {
    fn at(&self, now: i64) -> &Arc<CertifiedKey> {
        let stapled = self.stapled.as_ref().filter(|(_, staple)| staple.holds(now));
        stapled.map_or(&self.key, |(key, _)| key)
    }
}

/// The file of a certificate that is invalid, with the text that follows the file's name in the
/// error.
pub(super) enum Wrong {
    Chain(String),
    Key(String),
    /// An OCSP response for another certificate, with the name of its file.
    Staple(String),
}

impl Certificate {
    /// Reads a certificate from the contents of its files, with an optional OCSP response. The
    /// certificate must be valid at `now`, seconds since 1970.
    pub(super) fn read(
        chain: &[u8],
        key: &[u8],
        staple: Option<Staple>,
        now: i64,
        provider: &CryptoProvider,
    ) -> Result<Self, Wrong> {
        let chain = read_chain(chain).map_err(Wrong::Chain)?;
        let facts = facts(&chain[0], now).map_err(Wrong::Chain)?;
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|_| Wrong::Key("has no private key in PEM".to_owned()))?;
        let key = CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
            Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                Wrong::Key("is not the key of the certificate".to_owned())
            }
            Error::InvalidCertificate(_) => Wrong::Chain("has an invalid certificate".to_owned()),
            _ => Wrong::Key("has a private key of an unknown kind".to_owned()),
        })?;
        if let Some(staple) = &staple {
            if !staple.facts.serials.contains(&facts.serial) {
                return Err(Wrong::Staple(staple.file.clone()));
            }
            // If it has expired already, the log has a line now and not only at the first handshake.
            staple.holds(now);
        }
        let stapled = staple.map(|mut staple| {
            let ocsp = Some(std::mem::take(&mut staple.response));
            (Arc::new(CertifiedKey { ocsp, ..key.clone() }), staple)
        });
        let identity = Arc::new(Identity { key: Arc::new(key), stapled });
        Ok(Self { identity, names: facts.names })
    }
}

/// Reads the certificates of a PEM file. There must be at least one.
pub(super) fn read_chain(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match chain {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        Ok(_) => Err("has no certificate in PEM".to_owned()),
        Err(_) => Err("is not valid PEM".to_owned()),
    }
}

/// Reads a certificate that must be valid at `now`.
fn facts(certificate: &CertificateDer<'_>, now: i64) -> Result<Facts, String> {
    let facts = Facts::read(certificate).ok_or("has an invalid certificate")?;
    if now > facts.not_after {
        return Err(format!("expired at {}", date(facts.not_after)));
    }
    if now < facts.not_before {
        return Err(format!("is not valid before {}", date(facts.not_before)));
    }
    Ok(facts)
}

fn date(seconds: i64) -> String {
    let Utc { year, month, day, hour, minute, second } =
        Utc::from_seconds(u64::try_from(seconds).unwrap_or_default());
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

impl Certificates {
    /// Indexes certificates by name. The first is the default. If several have the same name, the
    /// earliest is used. Returns `None` for an empty list.
    pub(super) fn new(all: Vec<Certificate>) -> Option<Self> {
        let default = Arc::clone(&all.first()?.identity);
        let (mut exact, mut wildcard) = (BTreeMap::new(), BTreeMap::new());
        for Certificate { identity, names } in all {
            for name in names {
                let (names, name) = match name.strip_prefix("*.") {
                    Some(parent) => (&mut wildcard, parent.to_owned()),
                    None => (&mut exact, name),
                };
                names.entry(name).or_insert_with(|| Arc::clone(&identity));
            }
        }
        Some(Self { default, exact, wildcard })
    }

    /// Returns the certificate for a name in lower case.
    fn find(&self, name: &str) -> Option<&Arc<Identity>> {
        // Some clients send the dot of a name like `example.com.`, which RFC 6066 section 3
        // forbids.
        let name = name.strip_suffix('.').unwrap_or(name);
        let parent = || name.split_once('.').and_then(|(_, parent)| self.wildcard.get(parent));
        self.exact.get(name).or_else(parent)
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // rustls gives the name in lower case.
        let found = hello.server_name().and_then(|name| self.find(name));
        let now = i64::try_from(seconds()).unwrap_or(i64::MAX);
        Some(Arc::clone(found.unwrap_or(&self.default).at(now)))
    }
}

#[cfg(test)]
mod tests {
    use rustls::crypto::ring;

    use super::*;

    /// Exact names come before wildcards, which stand for one label. A final dot is ignored.
    #[test]
    fn names_find_their_certificates() {
        let read = |chain: &[u8], key: &[u8]| {
            let provider = ring::default_provider();
            let read = Certificate::read(chain, key, None, 1_800_000_000, &provider);
            read.ok().expect("a certificate and its key")
        };
        let all = vec![
            read(
                include_bytes!("../../tls/testing/site.pem"),
                include_bytes!("../../tls/testing/site.key"),
            ),
            read(
                include_bytes!("../../tls/testing/other.pem"),
                include_bytes!("../../tls/testing/other.key"),
            ),
        ];
        let (site, other) = (Arc::clone(&all[0].identity), Arc::clone(&all[1].identity));
        let all = Certificates::new(all).expect("certificates");
        for (name, expected) in [
            ("a.test", Some(&site)),
            ("a.test.", Some(&site)),
            ("x.wild.test", Some(&site)),
            ("x.wild.test.", Some(&site)),
            ("b.test.", Some(&other)),
            ("wild.test", None),
            ("x.y.wild.test", None),
            ("b.test..", None),
            (".", None),
            ("", None),
        ] {
            let found = all.find(name);
            let is_expected = match (found, expected) {
                (Some(found), Some(expected)) => Arc::ptr_eq(found, expected),
                (found, expected) => found.is_none() && expected.is_none(),
            };
            assert!(is_expected, "{name:?}");
        }
    }
}
