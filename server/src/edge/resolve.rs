//! Resolves the names of backends and listeners.
//!
//! The resolver of the standard library may block, so the reactor never calls it. Listeners are
//! resolved where they are bound: at the start, and for a reload in the thread that reads the
//! configuration. Backends are looked up by the threads of `discovery/`, or here for `--check`.
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

use crate::config::{BackendConfig, BackendUrl, Config, Known, fixed_addresses};
use crate::plain::os_error_text;

/// The addresses of a host, each once, in the order of connection attempts.
///
/// `localhost` always means both loopback addresses, IPv4 first, regardless of the machine's hosts
/// file.
///
/// # Errors
/// The error of the system's resolver, or that the name has no address.
pub fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    let addresses = match fixed_addresses(host) {
        Some(addresses) => addresses,
        None => look_up(host)?,
    };
    Ok(addresses.into_iter().map(|address| SocketAddr::new(address, port)).collect())
}

/// Returns the distinct addresses of a name from the system's resolver. May block for long.
///
/// # Errors
/// The error of the resolver, or that the name has no address.
pub(crate) fn look_up(host: &str) -> Result<Vec<IpAddr>, String> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in (host, 0).to_socket_addrs().map_err(|error| os_error_text(&error))? {
        if !addresses.contains(&address.ip()) {
            addresses.push(address.ip());
        }
    }
    if addresses.is_empty() {
        return Err("the name has no address".to_owned());
    }
    Ok(addresses)
}

/// Looks up the hosts of all backends of the configuration and of its watched file.
///
/// # Errors
/// The first backend whose host does not resolve.
pub(crate) fn known(config: &Config, file: Vec<BackendConfig>) -> Result<Known, String> {
    let mut hosts = BTreeMap::new();
    for backend in config.backends.iter().chain(&file) {
        let fail = |wrong: String| format!("backend {} ({}): {wrong}", backend.name, backend.url);
        let url = BackendUrl::parse(&backend.url).map_err(|error| fail(error.to_string()))?;
        if fixed_addresses(&url.host).is_none() && !hosts.contains_key(&url.host) {
            let addresses = look_up(&url.host)
                .map_err(|error| fail(format!("cannot resolve {}: {error}", url.host)))?;
            hosts.insert(url.host, addresses);
        }
    }
    Ok(Known { hosts, file })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An address resolves to itself, and `localhost` to both loopback addresses.
    #[test]
    fn hosts_are_resolved() {
        let rows: [(&str, &[&str]); 5] = [
            ("127.0.0.1", &["127.0.0.1:80"]),
            ("::1", &["[::1]:80"]),
            ("localhost", &["127.0.0.1:80", "[::1]:80"]),
            ("LocalHost", &["127.0.0.1:80", "[::1]:80"]),
            ("localhost.", &["127.0.0.1:80", "[::1]:80"]),
        ];
        for (host, expected) in rows {
            let addresses = resolve(host, 80).expect(host);
            let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            assert_eq!(texts, expected, "{host}");
        }
    }

    /// A name that cannot exist (RFC 6761) is an error in one line that names backend and host.
    #[test]
    fn unresolvable_backend_is_named() {
        let mut config = Config::default();
        let url = "http://nowhere.invalid:80".to_owned();
        config.backends = vec![BackendConfig::new("A", &url)];
        let error = known(&config, Vec::new()).expect_err("no such host");
        let start = "backend A (http://nowhere.invalid:80): cannot resolve nowhere.invalid: ";
        assert!(error.starts_with(start), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }

    /// Backends of the watched file are looked up like backends of the configuration.
    #[test]
    fn backends_of_the_file_are_looked_up() {
        let of = |host: &str| vec![BackendConfig::new("F", &format!("http://{host}"))];
        let config = Config::default();
        let known_of = |host| known(&config, of(host));
        let found = config.found(&known_of("127.0.0.1").expect("an address")).expect("few");
        let authorities: Vec<&str> =
            found.targets.iter().map(|target| target.authority.as_str()).collect();
        assert_eq!(authorities, ["localhost:3000", "localhost:3002", "127.0.0.1"]);
        let error = known_of("nowhere.invalid").expect_err("no such host");
        assert!(
            error.starts_with("backend F (http://nowhere.invalid): cannot resolve "),
            "{error}"
        );
    }
}
