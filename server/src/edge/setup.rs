//! Prepares a configuration for serving: resolves backends and binds listeners.
use super::discovery::{Discovery, LOOK_TIME};
use super::early::Early;
use super::handover::{Predecessor, Taken};
use super::listen::{BoundListener, ConfiguredListeners, Place, admin_entries};
use super::logging::LogWatch;
use super::notify::Environment;
use super::reload::Source;
use super::tls::{Clients, Servers, Tickets};
use super::upgrade::Program;
use crate::config::{BackendTarget, Config};

/// The parts that serving needs: the configuration, addresses and listeners.
#[derive(Debug)]
pub struct Setup {
    /// The configuration, validated, with the backends that were found.
    pub config: Config,
    /// The configuration as it was read.
    pub(crate) wanted: Config,
    /// The backends in their configured order, with their addresses.
    pub backends: Vec<BackendTarget>,
    /// Finds backends again later.
    pub(crate) discovery: Discovery,
    /// The listeners for clients.
    pub listeners: Vec<BoundListener>,
    /// The listeners of the admin pages; empty if `admin.listen` is null.
    pub(crate) admin_listeners: Vec<BoundListener>,
    /// TLS of the listeners.
    pub(crate) tls: Servers,
    /// TLS towards the backends.
    pub(crate) backend_tls: Clients,
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
    /// Resolves the backends and binds the listeners of a configuration. Backends whose names do
    /// not resolve are left out until they do.
    ///
    /// # Errors
    /// One line that names the faulty address.
    pub fn new(config: Config) -> Result<Self, String> {
        let mut setup = Self::following(config, None)?;
        setup.find()?;
        Ok(setup)
    }

    /// Finds the backends. Starts threads.
    ///
    /// # Errors
    /// There are too many backends, or no thread can be started.
    pub(crate) fn find(&mut self) -> Result<(), String> {
        let found = self.discovery.look(&self.wanted, LOOK_TIME)?;
        self.config.backends = found.backends;
        self.backends = found.targets;
        Ok(())
    }

    /// Like [`new`](Self::new), but does not look up the backends, and uses open listeners with
    /// matching addresses: those of the previous process or of the service manager. Unneeded
    /// listeners of the previous process are closed.
    ///
    /// # Errors
    /// As for [`new`](Self::new), and if a listener of the service manager is unneeded.
    pub(crate) fn following(config: Config, taken: Option<Taken>) -> Result<Self, String> {
        let Taken { mut listeners, mut admin_listeners, learned, tickets, predecessor } =
            taken.unwrap_or_default();
        let tickets = tickets.map_or_else(Tickets::default, |keys| Tickets::continuing(&keys));
        let tls = Servers::load(&config, &tickets)?;
        let backend_tls = Clients::load(&config)?;
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
            wanted: config.clone(),
            config,
            backends: Vec::new(),
            discovery: Discovery::default(),
            tls,
            backend_tls,
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
            lines.push(format!("listening on {place}"));
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
