//! A blocking HTTP/1.1 server that applies the decisions of a [`Model`](crate::Model), with a
//! thread per connection.
//!
//! This file has the public interface: start, end, parameters and counters. The state shared by the
//! threads is in `host.rs`, the handling of a connection in `connection.rs`.
use std::error::Error;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::accept::accept;
use crate::config::{Config, Counters, LogLevel};
use crate::host::{Connection, Host, Phase};
use crate::parameters::{ParameterError, Parameters};

/// A running backend. Dropping it is [`Backend::kill`].
#[derive(Debug)]
pub struct Backend {
    host: Arc<Host>,
    addresses: Vec<SocketAddr>,
    threads: Vec<JoinHandle<()>>,
}

impl Backend {
    /// Starts a backend. On return it accepts connections.
    pub fn start(config: Config) -> Result<Self, StartError> {
        config.parameters.check().map_err(StartError::Parameter)?;
        let listeners = if config.is_public {
            vec![listen_publicly(config.port)?]
        } else {
            listen(config.port)?
        };
        let addresses: Vec<SocketAddr> =
            listeners.iter().map(TcpListener::local_addr).collect::<Result<_, _>>()?;
        let port = addresses.first().map_or(config.port, SocketAddr::port);
        let host = Arc::new(Host::new(port, config));
        let mut backend = Self { host, addresses, threads: Vec::new() };
        for listener in listeners {
            let host = Arc::clone(&backend.host);
            let thread = thread::Builder::new().spawn(move || accept(&host, &listener))?;
            backend.threads.push(thread);
        }
        let host = Arc::clone(&backend.host);
        let measure = thread::Builder::new().spawn(move || host.measure())?;
        backend.threads.push(measure);
        backend.host.log(LogLevel::Info, || {
            let urls: Vec<String> =
                backend.addresses.iter().map(|address| format!("http://{address}")).collect();
            format!("listening on {}", urls.join(" and "))
        });
        Ok(backend)
    }

    /// Uses other parameters for all further requests.
    pub fn set_parameters(&self, parameters: Parameters) -> Result<(), ParameterError> {
        parameters.check()?;
        self.host.set_parameters(parameters);
        Ok(())
    }

    /// Stops accepting, closes idle and silent connections, lets responses in progress finish
    /// within `drain_max`, and cuts the others. Returns whether nothing had to be cut.
    pub fn stop(mut self, drain_max: Duration) -> bool {
        self.host.log(LogLevel::Info, || "ending".to_owned());
        self.end_threads(Phase::Draining);
        self.host.cut(Connection::is_idle);
        self.host.wait_for_connections(drain_max)
    }

    /// Ends at once, like a crash: listeners and connections are closed, and responses are cut.
    pub fn kill(self) {
        drop(self);
    }

    /// Returns its port.
    pub fn port(&self) -> u16 {
        self.host.port
    }

    /// Returns its addresses: 127.0.0.1, and ::1 where that exists.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Returns the current parameters.
    pub fn parameters(&self) -> Parameters {
        self.host.parameters()
    }

    /// Returns the counts so far.
    pub fn counters(&self) -> Counters {
        self.host.counters()
    }

    fn end_threads(&mut self, phase: Phase) {
        self.host.enter(phase);
        if self.threads.is_empty() {
            // It ended before: its port may belong to another process now.
            return;
        }
        for address in &self.addresses {
            // Wakes the accepting thread. If this fails, a full backlog has already woken it.
            drop(TcpStream::connect_timeout(address, Duration::from_secs(1)));
        }
        for thread in self.threads.drain(..) {
            // A thread that panicked has also ended.
            drop(thread.join());
        }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.end_threads(Phase::Killed);
        self.host.cut(|_| true);
        self.host.wait_for_connections(KILL_WAIT_MAX);
    }
}

/// The reason why a backend did not start.
#[derive(Debug)]
pub enum StartError {
    /// A parameter is out of its range.
    Parameter(ParameterError),
    /// The listener on an address failed.
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's error.
        source: io::Error,
    },
    /// The system refuses a thread or a socket's data.
    System(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Parameter(error) => error.fmt(f),
            Self::Listen { address, source } if source.kind() == io::ErrorKind::AddrInUse => {
                write!(f, "cannot listen on {address}: the port is taken by another process")
            }
            Self::Listen { address, source } => write!(f, "cannot listen on {address}: {source}"),
            Self::System(source) => write!(f, "cannot start: {source}"),
        }
    }
}

impl Error for StartError {}

impl From<io::Error> for StartError {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

/// Listens on all addresses.
fn listen_publicly(port: u16) -> Result<TcpListener, StartError> {
    // If the system has IPv6, the IPv6 listener also accepts IPv4 clients.
    let v6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    TcpListener::bind(v6)
        .or_else(|_| TcpListener::bind(v4))
        .map_err(|source| StartError::Listen { address: v4, source })
}

/// Listens on 127.0.0.1 and, where it exists, on ::1, with the same port.
fn listen(port: u16) -> Result<Vec<TcpListener>, StartError> {
    let mut attempts = 1..=FREE_PORT_ATTEMPTS;
    loop {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let v4 =
            TcpListener::bind(address).map_err(|source| StartError::Listen { address, source })?;
        let address = SocketAddr::from((Ipv6Addr::LOCALHOST, v4.local_addr()?.port()));
        match TcpListener::bind(address) {
            Ok(v6) => return Ok(vec![v4, v6]),
            Err(source) if source.kind() == io::ErrorKind::AddrInUse => {
                // A port that is free on 127.0.0.1 may be in use on ::1. Another one may be free on
                // both.
                if port != 0 || attempts.next().is_none() {
                    return Err(StartError::Listen { address, source });
                }
            }
            // The system has no IPv6.
            Err(_) => return Ok(vec![v4]),
        }
    }
}

const FREE_PORT_ATTEMPTS: u32 = 16;
/// A killed connection ends at its next check of the phase: after a slice of work, a read or a
/// write.
const KILL_WAIT_MAX: Duration = Duration::from_secs(5);
