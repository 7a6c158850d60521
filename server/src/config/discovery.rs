//! Backends that are discovered while the proxy runs: from names with several addresses, and from a
//! watched file. Nothing here opens a file or resolves a name: `edge/discovery/` does both, and
//! [`Config::found`] creates the backends from its results.
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use intelliproxy_core::ConfigError;
use intelliproxy_core::sorting::sort_by;
use serde::{Deserialize, Serialize};

use super::check::BACKENDS_MAX;
use super::forms::{NAME_ALLOWED, is_backend_name, is_plain_name, refuse};
use super::jsonc::Document;
use super::place::FileError;
use super::read::SHOWN_MAX;
use super::{BackendConfig, BackendTarget, BackendUrl, Config, OwnBackendTls, millis};

/// Backends that are found while the proxy runs.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct DiscoveryRules {
    /// A file with further backends, which is read once a second (null: none).
    pub file: Option<String>,
    /// Time between two look-ups of a name (5000 ms); 100 ms to a day.
    #[serde(rename = "resolveMs", with = "millis")]
    pub resolve: Duration,
}

impl Default for DiscoveryRules {
    fn default() -> Self {
        Self { file: None, resolve: Duration::from_millis(5000) }
    }
}

/// The last results of look-ups and of the watched file.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Known {
    /// The addresses of each host that was looked up, in the order of connection attempts.
    pub hosts: BTreeMap<String, Vec<IpAddr>>,
    /// The backends in the watched file.
    pub file: Vec<BackendConfig>,
}

/// The backends that are used.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Found {
    /// The backends, with unique names. An entry with `expand` is replaced by its backends.
    pub backends: Vec<BackendConfig>,
    /// The same backends with their addresses.
    pub targets: Vec<BackendTarget>,
    /// The names of backends that are not used because their names are taken.
    pub unused: Vec<String>,
}

impl Config {
    /// Returns the backends that are used: those of the configuration whose hosts are known, then
    /// those of the watched file. If two have the same name, the first is used.
    ///
    /// # Errors
    /// There are too many of them.
    pub fn found(&self, known: &Known) -> Result<Found, String> {
        let mut found = Found::default();
        let mut names = BTreeSet::new();
        for backend in self.backends.iter().chain(&known.file) {
            // Both lists were checked, so every URL is valid.
            let Ok(url) = BackendUrl::parse(&backend.url) else { continue };
            let addresses = match fixed_addresses(&url.host) {
                Some(addresses) => addresses,
                None => match known.hosts.get(&url.host) {
                    Some(addresses) if !addresses.is_empty() => addresses.clone(),
                    _ => continue,
                },
            };
            let places = match backend.expand {
                true => expanded(&self.named(backend, &url), &url, addresses),
                false => {
                    let addresses = addresses.iter().map(|ip| SocketAddr::new(*ip, url.port));
                    vec![(backend.clone(), addresses.collect())]
                }
            };
            for (backend, addresses) in places {
                if !names.insert(backend.name.clone()) {
                    found.unused.push(backend.name);
                } else {
                    let BackendConfig { name, url: text, .. } = backend.clone();
                    let authority = url.authority.clone();
                    let tls = self.tls_of(&backend.url, backend.tls.as_ref());
                    found.backends.push(backend);
                    found.targets.push(BackendTarget {
                        name,
                        url: text,
                        authority,
                        tls,
                        addresses,
                    });
                }
            }
        }
        if found.backends.len() > BACKENDS_MAX {
            let count = found.backends.len();
            return Err(format!("{count} backends were found, more than {BACKENDS_MAX}"));
        }
        Ok(found)
    }

    /// Returns a backend whose TLS server name is the original host, since its URL has an address
    /// but its certificate is for the name.
    fn named(&self, backend: &BackendConfig, url: &BackendUrl) -> BackendConfig {
        let mut named = backend.clone();
        if url.is_https && self.tls.server_name.is_none() {
            let tls = named.tls.get_or_insert_with(OwnBackendTls::default);
            tls.server_name.get_or_insert_with(|| url.host.clone());
        }
        named
    }

    /// Returns the hosts that have to be looked up, each with the shortest time between look-ups.
    pub fn hosts(&self, file: &[BackendConfig]) -> BTreeMap<String, Duration> {
        let mut hosts = BTreeMap::new();
        for backend in self.backends.iter().chain(file) {
            let Ok(url) = BackendUrl::parse(&backend.url) else { continue };
            if fixed_addresses(&url.host).is_none() {
                let every = backend.resolve.unwrap_or(self.discovery.resolve);
                let entry = hosts.entry(url.host).or_insert(every);
                *entry = every.min(*entry);
            }
        }
        hosts
    }
}

/// Returns one backend for each address, IPv4 first, in ascending order.
fn expanded(
    backend: &BackendConfig,
    url: &BackendUrl,
    mut addresses: Vec<IpAddr>,
) -> Vec<(BackendConfig, Vec<SocketAddr>)> {
    sort_by(&mut addresses, IpAddr::cmp);
    addresses.dedup();
    let one = |ip: IpAddr| {
        let address = SocketAddr::new(ip, url.port);
        let name = format!("{}/{ip}", backend.name);
        let scheme = if url.is_https { "https" } else { "http" };
        let url = format!("{scheme}://{address}");
        let one = BackendConfig { name, url, expand: false, resolve: None, ..backend.clone() };
        (one, vec![address])
    };
    addresses.into_iter().map(one).collect()
}

/// Returns the addresses of a host that needs no look-up: an address, or `localhost`, which always
/// means both loopback addresses, regardless of the machine's hosts file.
pub(crate) fn fixed_addresses(host: &str) -> Option<Vec<IpAddr>> {
    if host.strip_suffix('.').unwrap_or(host).eq_ignore_ascii_case("localhost") {
        return Some(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
    }
    host.parse().ok().map(|address| vec![address])
}

/// Reads the backends of a watched file: a list like `backends`, an object with such a list, or
/// target groups of Prometheus.
///
/// # Errors
/// The first fault, with its place.
pub(crate) fn backends_from_file(text: &str) -> Result<Vec<BackendConfig>, FileError> {
    let document = Document::parse_as(text, "must be a list of backends, and is empty")?;
    if document.first_has_key("targets") {
        return of_groups(&document, &document.read::<Vec<TargetGroup>>("")?);
    }
    let is_object = document.has_key("backends");
    let backends = match is_object {
        true => document.read::<BackendsFile>("")?.backends,
        false => document.read::<Vec<BackendConfig>>("")?,
    };
    let config = Config { backends, ..Config::default() };
    let Err(error) = config.validate().and_then(|()| check_files_of(&config.backends)) else {
        return Ok(config.backends);
    };
    let path = error.path.as_str();
    let path = if is_object { path } else { path.strip_prefix("backends").unwrap_or(path) };
    Err(document.refuse(path, format!("must be {}", error.allowed)))
}

/// Checks that backends of a watched file do not name files or disable verification. A writer of
/// that file may add backends, but must not change which authorities the proxy trusts.
fn check_files_of(backends: &[BackendConfig]) -> Result<(), ConfigError> {
    for (index, backend) in backends.iter().enumerate() {
        let Some(OwnBackendTls { ca, certificate, verify, .. }) = &backend.tls else { continue };
        let keys = [
            ("ca", ca.is_some()),
            ("certificate", certificate.is_some()),
            ("verify", *verify == Some(false)),
        ];
        if let Some((key, _)) = keys.iter().find(|(_, is_set)| *is_set) {
            let path = format!("backends[{index}].tls.{key}");
            return Err(ConfigError::new(
                &path,
                "in the configuration file, in tls for all backends",
            ));
        }
    }
    Ok(())
}

/// A watched file in the proxy's own form.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BackendsFile {
    backends: Vec<BackendConfig>,
}

/// Targets in the form of the file-based discovery of Prometheus.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TargetGroup {
    targets: Vec<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

/// Returns a backend for each distinct target, named `JOB/HOST:PORT`, or `file/HOST:PORT` without a
/// label `job`.
fn of_groups(
    document: &Document<'_>,
    groups: &[TargetGroup],
) -> Result<Vec<BackendConfig>, FileError> {
    let mut backends: Vec<BackendConfig> = Vec::new();
    let mut names = BTreeSet::new();
    for (index, TargetGroup { targets, labels }) in groups.iter().enumerate() {
        let fail = |key: &str, allowed: &str, text: &str, wrong: &dyn fmt::Display| {
            let shown: String = text.chars().take(SHOWN_MAX).collect();
            let error = refuse(&format!("[{index}].{key}"), allowed, &shown, wrong);
            document.refuse(&error.path, format!("must be {}", error.allowed))
        };
        let job = labels.get("job").map_or("file", String::as_str);
        if !is_plain_name(job) {
            return Err(fail("labels.job", NAME_ALLOWED, job, &"is not"));
        }
        for (number, target) in targets.iter().enumerate() {
            let key = format!("targets[{number}]");
            let (name, url) = (format!("{job}/{target}"), format!("http://{target}"));
            if let Err(error) = BackendUrl::parse(&url) {
                return Err(fail(&key, "HOST[:PORT]", target, &error));
            }
            if !is_backend_name(&name) {
                return Err(fail(&key, TARGET_ALLOWED, target, &"is not"));
            }
            if names.insert(name.clone()) {
                backends.push(BackendConfig::new(&name, &url));
            }
        }
    }
    if backends.len() > BACKENDS_MAX {
        let wrong = format!("must name at most {BACKENDS_MAX} targets, not {}", backends.len());
        return Err(document.refuse("", wrong));
    }
    Ok(backends)
}

/// A description of valid targets in a watched file.
const TARGET_ALLOWED: &str = "HOST[:PORT] of at most 260 letters, digits, '.', '_', '-' and ':'";

#[cfg(test)]
mod tests;
