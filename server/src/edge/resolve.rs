//! Resolves names and binds listeners before anything is served. Names are resolved again, by
//! another thread, when the configuration is reloaded.
//!
//! The calls of the standard library may block, so the reactor never makes them.
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs};

use super::logging::LogWatch;
use super::reload::Source;
use crate::config::{BackendTarget, BackendUrl, Config, Listen, ListenAddress};
use crate::plain::os_error_text;

/// The parts that serving needs: the configuration, addresses and listeners.
#[derive(Debug)]
pub struct Setup {
    /// The configuration, validated.
    pub config: Config,
    /// The backends in their configured order, with their addresses.
    pub backends: Vec<BackendTarget>,
    /// The listeners, bound, listening and non-blocking.
    pub listeners: Vec<TcpListener>,
    /// For each listener, whether trusted hops begin their connections with a PROXY protocol
    /// header.
    pub(crate) speak_proxy_protocol: Vec<bool>,
    /// The listeners of the admin pages; empty if `admin.listen` is null.
    pub(crate) admin_listeners: Vec<TcpListener>,
    /// Reads the configuration again on SIGHUP; `None` ignores the signal.
    pub reload: Option<Source>,
    /// Counts of the log, for /stats.
    pub(crate) log: LogWatch,
}

impl Setup {
    /// Resolves the backends and binds the listeners of a configuration.
    ///
    /// # Errors
    /// One line that names the faulty backend or address.
    pub fn new(config: Config) -> Result<Self, String> {
        let backends = backend_targets(&config)?;
        let (mut listeners, mut speak_proxy_protocol) = (Vec::new(), Vec::new());
        for Listen { address, proxy_protocol } in &config.listen {
            listeners.append(&mut listen(address)?);
            speak_proxy_protocol.resize(listeners.len(), *proxy_protocol);
        }
        let admin_listeners = match &config.admin.listen {
            Some(address) => listen(address)?,
            None => Vec::new(),
        };
        Ok(Self {
            config,
            backends,
            listeners,
            speak_proxy_protocol,
            admin_listeners,
            reload: None,
            log: LogWatch::default(),
        })
    }

    /// Returns a line for each listening address and each backend.
    pub(crate) fn announcement(&self) -> Vec<String> {
        let mut lines = Vec::new();
        // A listener whose address cannot be read still works; it only lacks a line.
        for address in self.listeners.iter().filter_map(|listener| listener.local_addr().ok()) {
            lines.push(format!("listening on http://{address}"));
        }
        for address in self.admin_listeners.iter().filter_map(|listener| listener.local_addr().ok())
        {
            lines.push(format!("admin pages on http://{address}"));
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
/// The error of the system's resolver.
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

/// Listens on every address of a `HOST:PORT` that the machine has. For port 0 all get the same
/// free port.
fn listen(text: &str) -> Result<Vec<TcpListener>, String> {
    let fail = |wrong: String| format!("cannot listen on {text}: {wrong}");
    let ListenAddress { host, port } =
        ListenAddress::parse(text).map_err(|error| fail(format!("it {error}")))?;
    let addresses = resolve(&host, port).map_err(fail)?;
    let mut attempts_left = FREE_PORT_ATTEMPTS;
    loop {
        attempts_left -= 1;
        match bind_all(&addresses) {
            Ok(listeners) => return Ok(listeners),
            // The port that was free on the first address is taken on the next one: try another.
            Err((_, error))
                if port == 0
                    && addresses.len() > 1
                    && attempts_left > 0
                    && error.kind() == io::ErrorKind::AddrInUse => {}
            Err((address, error)) => {
                return Err(format!("cannot listen on {address}: {}", os_error_text(&error)));
            }
        }
    }
}

/// Binds all addresses. Addresses that the machine does not have are skipped, but at least one
/// must be bound.
fn bind_all(addresses: &[SocketAddr]) -> Result<Vec<TcpListener>, (SocketAddr, io::Error)> {
    let mut listeners: Vec<TcpListener> = Vec::with_capacity(addresses.len());
    let mut absent = None;
    let mut free_port = None;
    for mut address in addresses.iter().copied() {
        if address.port() == 0 {
            address.set_port(free_port.unwrap_or(0));
        }
        match bind(address) {
            Ok((listener, port)) => {
                free_port = Some(port);
                listeners.push(listener);
            }
            Err(error) if is_absent(&error) => absent = Some((address, error)),
            Err(error) => return Err((address, error)),
        }
    }
    match absent {
        Some(absent) if listeners.is_empty() => Err(absent),
        _ => Ok(listeners),
    }
}

/// Binds one address. Also returns its port.
fn bind(address: SocketAddr) -> io::Result<(TcpListener, u16)> {
    let listener = TcpListener::bind(address)?;
    // A second listen only changes the backlog, which the standard library fixes.
    rustix::net::listen(&listener, BACKLOG)?;
    listener.set_nonblocking(true)?;
    let port = listener.local_addr()?.port();
    Ok((listener, port))
}

/// Whether a bind failed because the machine has no such address, or no such family at all.
fn is_absent(error: &io::Error) -> bool {
    // EAFNOSUPPORT, for which std has no kind: 97 on Linux, 47 on macOS and the BSDs.
    let has_no_family = matches!(error.raw_os_error(), Some(97 | 47));
    error.kind() == io::ErrorKind::AddrNotAvailable || has_no_family
}

/// Connections that wait to be accepted. The system may lower it (on Linux to somaxconn, 4096 by
/// default).
const BACKLOG: i32 = 4096;
/// Attempts to find a port that is free on all addresses.
const FREE_PORT_ATTEMPTS: u32 = 8;

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
        config.backends = vec![BackendConfig { name: "A".to_owned(), url, limit: None }];
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

    /// Port 0 becomes one real port, the same on all addresses of a name.
    #[test]
    fn free_port_is_shared() {
        let listeners = listen("localhost:0").expect("a free port");
        let ports: Vec<u16> = listeners
            .iter()
            .map(|listener| listener.local_addr().expect("its address").port())
            .collect();
        assert!(!ports.is_empty());
        assert!(ports.iter().all(|port| *port != 0), "{ports:?}");
        assert!(ports.iter().all(|port| *port == ports[0]), "{ports:?}");
    }

    /// A taken port is an error in one line with the address, for a name as well.
    #[test]
    fn taken_port_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = taken.local_addr().expect("its address").port();
        for host in ["127.0.0.1", "localhost"] {
            let error = listen(&format!("{host}:{port}")).expect_err(host);
            let expected = format!("cannot listen on 127.0.0.1:{port}: address already in use");
            assert_eq!(error, expected);
        }
    }

    /// An address of another machine (RFC 5737) is an error if the name has no other.
    #[test]
    fn foreign_address_is_refused() {
        let error = listen("192.0.2.1:0").expect_err("not ours");
        assert!(error.starts_with("cannot listen on 192.0.2.1:0: "), "{error}");
    }

    /// An address of another machine is skipped if the name also has one of this machine.
    #[test]
    fn foreign_address_beside_ours_is_left_out() {
        let addresses = ["192.0.2.1:0", "127.0.0.1:0"].map(|text| text.parse().expect("address"));
        let listeners = bind_all(&addresses).expect("one of ours");
        let bound: Vec<IpAddr> = listeners
            .iter()
            .map(|listener| listener.local_addr().expect("its address").ip())
            .collect();
        assert_eq!(bound, [IpAddr::V4(Ipv4Addr::LOCALHOST)]);
    }
}
