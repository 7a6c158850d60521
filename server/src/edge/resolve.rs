//! Resolves the names of backends and listeners, and builds the [`Setup`] that serving needs.
//!
//! The resolver of the standard library may block, so the reactor never calls it. Names are
//! resolved before anything is served; for a reload, a separate thread resolves them.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};

use super::early::Early;
use super::handover::{Predecessor, Taken};
use super::listen::{BoundListener, ConfiguredListeners, Place};
use super::logging::LogWatch;
use super::notify::Environment;
use super::reload::Source;
use super::upgrade::Program;
use crate::config::{BackendTarget, BackendUrl, Config, Listen};
use crate::plain::os_error_text;

/// The parts that serving needs: the configuration, addresses and listeners.
#[derive(Debug)]
pub struct Setup {
    /// The configuration, validated.
    pub config: Config,
    /// The backends in their configured order, with their addresses.
    pub backends: Vec<BackendTarget>,
    /// The listeners for clients.
    pub listeners: Vec<BoundListener>,
    /// The listeners of the admin pages; empty if `admin.listen` is null.
    pub(crate) admin_listeners: Vec<BoundListener>,
    /// Reads the configuration again on SIGHUP; `None` ignores the signal.
    pub reload: Option<Source>,
    /// Counts of the log, for /stats.
    pub(crate) log: LogWatch,
    /// The learned state of the process before this one, as JSON.
    pub(crate) learned: Option<String>,
    /// The connection to the process that this one replaces (SIGUSR2).
    pub(crate) predecessor: Option<Predecessor>,
    /// The command of this process, for SIGUSR2; `None` ignores the signal.
    pub(crate) program: Option<Program>,
    /// The service manager.
    pub(crate) manager: Environment,
    /// The signals that arrived before the reactor started.
    pub(crate) early: Option<Early>,
}

impl Setup {
    /// Resolves the backends and binds the listeners of a configuration.
    ///
    /// # Errors
    /// One line that names the faulty backend or address.
    pub fn new(config: Config) -> Result<Self, String> {
        Self::following(config, None)
    }

    /// Like [`new`](Self::new), but uses open listeners whose addresses match: those of the process
    /// before this one, or those of the service manager. The former are closed if they are not
    /// needed.
    ///
    /// # Errors
    /// As for [`new`](Self::new), and if a listener of the service manager is not needed.
    pub(crate) fn following(config: Config, taken: Option<Taken>) -> Result<Self, String> {
        let backends = backend_targets(&config)?;
        let Taken { mut listeners, mut admin_listeners, learned, predecessor } =
            taken.unwrap_or_default();
        let places = |open: &[BoundListener]| -> Vec<Place> {
            open.iter().map(|bound| bound.place.clone()).collect()
        };
        let all =
            ConfiguredListeners::bind(&config.listen, &places(&listeners))?.with(&mut listeners);
        let is_of_manager = predecessor.is_none();
        if is_of_manager {
            admin_listeners.append(&mut listeners);
        }
        let of_admin =
            ConfiguredListeners::bind(&admin_entries(&config), &places(&admin_listeners))?;
        let of_admin = of_admin.with(&mut admin_listeners);
        if let Some(BoundListener { place, .. }) = admin_listeners.first().filter(|_| is_of_manager)
        {
            let address = place.address;
            return Err(format!("LISTEN_FDS: {address} is neither in listen nor admin.listen"));
        }
        Ok(Self {
            listeners: all,
            admin_listeners: of_admin,
            config,
            backends,
            reload: None,
            log: LogWatch::default(),
            learned,
            predecessor,
            program: None,
            manager: Environment::default(),
            early: None,
        })
    }

    /// Returns a line for each listening address and each backend.
    pub(crate) fn announcement(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for BoundListener { place, .. } in &self.listeners {
            lines.push(format!("listening on http://{}", place.address));
        }
        for BoundListener { place, .. } in &self.admin_listeners {
            lines.push(format!("admin pages on http://{}", place.address));
        }
        if let Some(path) = &self.config.admin.socket {
            lines.push(format!("commands on {path}"));
        }
        for BackendTarget { name, url, addresses, .. } in &self.backends {
            let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            lines.push(format!("backend {name} is {url} ({})", addresses.join(", ")));
        }
        lines
    }
}

/// The addresses of a host, each once, in the order of connection attempts.
///
/// `localhost` always means both loopback addresses, IPv4 first, regardless of the machine's hosts
/// file.
///
/// # Errors
/// The error of the system's resolver, or that the name has no address.
pub fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    if host.strip_suffix('.').unwrap_or(host).eq_ignore_ascii_case("localhost") {
        let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        return Ok(loopback.map(|address| SocketAddr::new(address, port)).to_vec());
    }
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for address in (host, port).to_socket_addrs().map_err(|error| os_error_text(&error))? {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() {
        return Err("the name has no address".to_owned());
    }
    Ok(addresses)
}

/// The configured backends with their addresses.
pub(crate) fn backend_targets(config: &Config) -> Result<Vec<BackendTarget>, String> {
    let mut targets = Vec::with_capacity(config.backends.len());
    for backend in &config.backends {
        let fail = |wrong: String| format!("backend {} ({}): {wrong}", backend.name, backend.url);
        let url = BackendUrl::parse(&backend.url).map_err(|error| fail(error.to_string()))?;
        let addresses = resolve(&url.host, url.port)
            .map_err(|error| fail(format!("cannot resolve {}: {error}", url.host)))?;
        targets.push(BackendTarget {
            name: backend.name.clone(),
            url: backend.url.clone(),
            authority: url.authority,
            addresses,
        });
    }
    Ok(targets)
}

/// The entries of the admin listener.
pub(crate) fn admin_entries(config: &Config) -> Vec<Listen> {
    config.admin.listen.iter().map(|address| address.as_str().into()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::BackendConfig;

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
        let error = backend_targets(&config).expect_err("no such host");
        let start = "backend A (http://nowhere.invalid:80): cannot resolve nowhere.invalid: ";
        assert!(error.starts_with(start), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }

    /// Backends keep their order and get the text of their Host field.
    #[test]
    fn backends_are_resolved_in_order() {
        let targets = backend_targets(&Config::default()).expect("the default");
        let authorities: Vec<&str> =
            targets.iter().map(|target| target.authority.as_str()).collect();
        assert_eq!(authorities, ["localhost:3000", "localhost:3002"]);
        assert!(targets.iter().all(|target| target.addresses.len() == 2));
    }
}
