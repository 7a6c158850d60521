//! Binds listeners, at startup and for a new configuration.
//!
//! A new configuration keeps every listener whose address stays. The others are bound while the old
//! ones are open, so that nothing changes if a port is taken.
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};

use rustix::io::FdFlags;
use rustix::net::sockopt::{set_socket_reuseaddr, set_socket_reuseport};
use rustix::net::{AddressFamily, SocketType};

use super::resolve::resolve;
use crate::config::{Config, Listen, ListenAddress};
use crate::plain::os_error_text;

/// A listener, bound, listening and non-blocking.
#[derive(Debug)]
pub struct BoundListener {
    /// The socket.
    pub socket: TcpListener,
    /// Its place in the configuration, and its address.
    pub place: Place,
}

/// The address of a listener and the entry of the configuration that it belongs to. A name may
/// resolve to several addresses.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Place {
    /// The address with its real port.
    pub address: SocketAddr,
    /// The entry.
    pub entry: Listen,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.entry.tls.is_some() { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.address)
    }
}

/// The listeners of a configuration.
#[derive(Debug, Default)]
pub struct ConfiguredListeners {
    /// The new ones.
    pub bound: Vec<BoundListener>,
    /// Listeners that were already open, with their new entries for the same address.
    pub kept: Vec<Place>,
}

impl ConfiguredListeners {
    /// Binds the listeners of these entries, except where one of the `held` listeners fits.
    ///
    /// # Errors
    /// One line that names the address. In that case nothing stays bound.
    pub fn bind(entries: &[Listen], held: &[Place]) -> Result<Self, String> {
        let mut all = Self::default();
        for entry in entries {
            all.add(entry, held)?;
        }
        Ok(all)
    }

    /// Returns all listeners. The sockets of the kept ones are moved out of `open`.
    pub(crate) fn with(self, open: &mut Vec<BoundListener>) -> Vec<BoundListener> {
        let mut all = self.bound;
        for place in self.kept {
            let found = open.iter().position(|bound| bound.place.address == place.address);
            all.extend(found.map(|at| BoundListener { place, ..open.swap_remove(at) }));
        }
        all
    }

    /// The places of all, new and kept.
    pub fn places(&self) -> impl Iterator<Item = &Place> {
        self.bound.iter().map(|bound| &bound.place).chain(&self.kept)
    }

    /// Listens on every address of an entry that the machine has. With port 0, all addresses get
    /// the same free port; if listeners of this entry are open, those are kept instead.
    fn add(&mut self, entry: &Listen, held: &[Place]) -> Result<(), String> {
        let text = &entry.address;
        let fail = |wrong: String| format!("cannot listen on {text}: {wrong}");
        let ListenAddress { host, port } =
            ListenAddress::parse(text).map_err(|error| fail(format!("it {error}")))?;
        let keep = |place: &Place| Place { address: place.address, entry: entry.clone() };
        if port == 0 {
            // Several entries may have this text. An unchanged entry keeps its own listeners; a
            // changed one keeps the listeners with the same kind of clients.
            let is_own = |place: &&Place| place.entry == *entry;
            let has_own = held.iter().any(|place| is_own(&place));
            let is_alike = |place: &&Place| {
                let (before, now) = (&place.entry, entry);
                before.address == *text && before.tls.is_some() == now.tls.is_some()
            };
            let of_entry =
                held.iter().filter(|place| if has_own { is_own(place) } else { is_alike(place) });
            let kept: Vec<Place> = of_entry.map(keep).collect();
            if !kept.is_empty() {
                self.kept.extend(kept);
                return Ok(());
            }
        }
        let (mut wanted, mut kept) = (Vec::new(), Vec::new());
        for address in resolve(&host, port).map_err(fail)? {
            match held.iter().find(|place| place.address == address) {
                Some(place) => kept.push(keep(place)),
                None => wanted.push(address),
            }
        }
        let mut attempts_left = FREE_PORT_ATTEMPTS;
        let bound = loop {
            attempts_left -= 1;
            match bind_all(&wanted, entry.reuse_port, !kept.is_empty()) {
                Ok(bound) => break bound,
                // The port that was free on the first address is taken on the next one: try
                // another.
                Err((_, error))
                    if port == 0
                        && wanted.len() > 1
                        && attempts_left > 0
                        && error.kind() == io::ErrorKind::AddrInUse => {}
                Err((address, error)) => return Err(refusal(address, &error, held)),
            }
        };
        let place = |address| Place { address, entry: entry.clone() };
        let bound = bound.into_iter();
        self.bound.extend(bound.map(|(socket, at)| BoundListener { socket, place: place(at) }));
        self.kept.append(&mut kept);
        Ok(())
    }
}

/// The entries of the admin listener.
pub(crate) fn admin_entries(config: &Config) -> Vec<Listen> {
    config.admin.listen.iter().map(|address| address.as_str().into()).collect()
}

/// The line for an address at which binding failed. Names the proxy's own listener if that holds
/// the address.
fn refusal(address: SocketAddr, error: &io::Error, held: &[Place]) -> String {
    let error_text = os_error_text(error);
    let covers = |place: &&Place| {
        let (ours, other) = (place.address, address);
        ours.port() == other.port() && (ours.ip().is_unspecified() || other.ip().is_unspecified())
    };
    match held.iter().find(covers) {
        Some(place) if error.kind() == io::ErrorKind::AddrInUse => {
            let ours = place.address;
            format!("cannot listen on {address}: {error_text}, by this proxy's own {ours}")
        }
        _ => format!("cannot listen on {address}: {error_text}"),
    }
}

/// Binds all addresses. Addresses that the machine does not have are skipped, but at least one must
/// be bound, unless `has_another`: the entry has an open listener.
fn bind_all(
    addresses: &[SocketAddr],
    shares_port: bool,
    has_another: bool,
) -> Result<Vec<(TcpListener, SocketAddr)>, (SocketAddr, io::Error)> {
    let mut listeners: Vec<(TcpListener, SocketAddr)> = Vec::with_capacity(addresses.len());
    let mut absent = None;
    let mut free_port = None;
    for mut address in addresses.iter().copied() {
        if address.port() == 0 {
            address.set_port(free_port.unwrap_or(0));
        }
        match bind(address, shares_port) {
            Ok((listener, address)) => {
                free_port = Some(address.port());
                listeners.push((listener, address));
            }
            Err(error) if is_absent(&error) => absent = Some((address, error)),
            Err(error) => return Err((address, error)),
        }
    }
    match absent {
        Some(absent) if listeners.is_empty() && !has_another => Err(absent),
        _ => Ok(listeners),
    }
}

/// Binds one address. Also returns it with its real port.
fn bind(address: SocketAddr, shares_port: bool) -> io::Result<(TcpListener, SocketAddr)> {
    let listener = if shares_port { share(address)? } else { TcpListener::bind(address)? };
    // Sets the backlog. The standard library listens with a fixed one.
    rustix::net::listen(&listener, BACKLOG)?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// Binds an address that other sockets may also bind (`SO_REUSEPORT`).
fn share(address: SocketAddr) -> io::Result<TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket(family, SocketType::STREAM, None)?;
    rustix::io::fcntl_setfd(&socket, FdFlags::CLOEXEC)?;
    set_socket_reuseaddr(&socket, true)?;
    set_socket_reuseport(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    Ok(TcpListener::from(socket))
}

/// Whether a bind failed because the machine has no such address, or no such family at all.
fn is_absent(error: &io::Error) -> bool {
    // EAFNOSUPPORT, for which std has no kind: 97 on Linux, 47 on macOS and the BSDs.
    let has_no_family = matches!(error.raw_os_error(), Some(97 | 47));
    error.kind() == io::ErrorKind::AddrNotAvailable || has_no_family
}

/// The maximum number of connections that wait to be accepted. The system may lower it (on Linux to
/// somaxconn, 4096 by default).
const BACKLOG: i32 = 4096;
/// The maximum number of attempts to find a port that is free on all addresses.
const FREE_PORT_ATTEMPTS: u32 = 8;

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    fn bind_one(text: &str, held: &[Place]) -> Result<ConfiguredListeners, String> {
        ConfiguredListeners::bind(&[text.into()], held)
    }

    /// Port 0 becomes one real port, the same on all addresses of a name.
    #[test]
    fn free_port_is_shared() {
        let listeners = bind_one("localhost:0", &[]).expect("a free port");
        let ports: Vec<u16> = listeners.places().map(|place| place.address.port()).collect();
        assert!(!ports.is_empty());
        assert!(ports.iter().all(|port| *port != 0), "{ports:?}");
        assert!(ports.iter().all(|port| *port == ports[0]), "{ports:?}");
    }

    /// A taken port is an error in one line with the address, even if the entry is a name.
    #[test]
    fn taken_port_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = taken.local_addr().expect("its address").port();
        for host in ["127.0.0.1", "localhost"] {
            let error = bind_one(&format!("{host}:{port}"), &[]).expect_err(host);
            let expected = format!("cannot listen on 127.0.0.1:{port}: address already in use");
            assert_eq!(error, expected);
        }
    }

    /// A port is shared if both listeners have `reusePort`, and not otherwise.
    #[test]
    fn a_port_is_shared_by_agreement() {
        let entry =
            |port: u16, reuse_port| Listen { reuse_port, ..(&*format!("127.0.0.1:{port}")).into() };
        let first = ConfiguredListeners::bind(&[entry(0, true)], &[]).expect("a free port");
        let port = first.bound[0].place.address.port();
        let second = ConfiguredListeners::bind(&[entry(port, true)], &[]).expect("it is shared");
        assert_eq!(second.bound[0].place.address, first.bound[0].place.address);
        let error = ConfiguredListeners::bind(&[entry(port, false)], &[]).expect_err("it is taken");
        assert!(error.ends_with("address already in use"), "{error}");
        let alone = ConfiguredListeners::bind(&[entry(0, false)], &[]).expect("a free port");
        let port = alone.bound[0].place.address.port();
        assert!(
            ConfiguredListeners::bind(&[entry(port, true)], &[]).is_err(),
            "the other does not share it"
        );
    }

    /// An address of another machine (RFC 5737) is an error if the entry has no other address.
    #[test]
    fn foreign_address_is_refused() {
        let error = bind_one("192.0.2.1:0", &[]).expect_err("not ours");
        assert!(error.starts_with("cannot listen on 192.0.2.1:0: "), "{error}");
    }

    /// An address of another machine is skipped if the entry also has one of this machine.
    #[test]
    fn foreign_address_beside_ours_is_left_out() {
        let addresses = ["192.0.2.1:0", "127.0.0.1:0"].map(|text| text.parse().expect("address"));
        let listeners = bind_all(&addresses, false, false).expect("one of ours");
        let bound: Vec<IpAddr> = listeners.iter().map(|(_, address)| address.ip()).collect();
        assert_eq!(bound, [IpAddr::V4(Ipv4Addr::LOCALHOST)]);
        assert!(bind_all(&addresses[..1], false, true).expect("another one is kept").is_empty());
    }

    /// A listener whose address is still configured is kept, with the new entry. With port 0 it is
    /// kept only if the entry's text is the same. All other addresses are bound.
    #[test]
    fn held_listeners_are_kept() {
        let first = bind_one("127.0.0.1:0", &[]).expect("a free port");
        let held: Vec<Place> = first.places().cloned().collect();
        let port = held[0].address.port();
        let again = bind_one("127.0.0.1:0", &held).expect("the same");
        assert!(again.bound.is_empty());
        assert_eq!(again.kept, held);
        let entry = Listen { proxy_protocol: true, ..(&*format!("127.0.0.1:{port}")).into() };
        let entries = [entry.clone(), "127.0.0.2:0".into()];
        let moved = ConfiguredListeners::bind(&entries, &held).expect("one more port");
        assert_eq!(moved.kept, [Place { address: held[0].address, entry }]);
        assert_eq!(moved.bound.len(), 1);
        assert_eq!(moved.bound[0].place.entry, "127.0.0.2:0".into());
        assert_eq!(bind_one("[::ffff:127.0.0.1]:0", &held).expect("another text").bound.len(), 1);
    }

    /// Open sockets are used where their address is wanted, with the entry that wants it. The
    /// others are left.
    #[test]
    fn open_sockets_are_used() {
        let mut open = bind_one("127.0.0.1:0", &[]).expect("a free port").bound;
        open.append(&mut bind_one("127.0.0.2:0", &[]).expect("a free port").bound);
        let held: Vec<Place> = open.iter().map(|bound| bound.place.clone()).collect();
        let (used, left) = (held[0].address, held[1].address);
        let entry = Listen { proxy_protocol: true, ..(&*used.to_string()).into() };
        let entries = [entry.clone(), "127.0.0.3:0".into()];
        let all =
            ConfiguredListeners::bind(&entries, &held).expect("one more port").with(&mut open);
        let places: Vec<&Place> = all.iter().map(|bound| &bound.place).collect();
        assert_eq!(places.len(), 2);
        assert!(places.contains(&&Place { address: used, entry }));
        assert!(all.iter().all(|b| b.socket.local_addr().expect("bound") == b.place.address));
        assert_eq!(open.iter().map(|bound| bound.place.address).collect::<Vec<_>>(), [left]);
    }

    /// An address that another listener of this process covers is refused, with the reason.
    #[test]
    fn own_wildcard_is_named() {
        let all = bind_one("0.0.0.0:0", &[]).expect("a free port");
        let held: Vec<Place> = all.places().cloned().collect();
        let port = held[0].address.port();
        let error = bind_one(&format!("127.0.0.1:{port}"), &held).expect_err("it is covered");
        let ours = format!("by this proxy's own 0.0.0.0:{port}");
        let expected = format!("cannot listen on 127.0.0.1:{port}: address already in use, {ours}");
        assert_eq!(error, expected);
    }
}
