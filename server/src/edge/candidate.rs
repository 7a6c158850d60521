//! A new configuration with the listeners and files that it needs: open, but not in use.
//!
//! They are opened in the thread that reads the configuration (`reload.rs`), which may block. If a
//! candidate is dropped, everything in use stays unchanged. `reactor/reload.rs` applies it.
use super::access;
use super::disk;
use super::listen::{ConfiguredListeners, Place, admin_entries};
use super::logging;
use super::record::{self, Opened};
use super::socket::ControlSocket;
use super::state::Kept;
use super::tls::{Clients, Servers, Tickets};
use crate::config::{Config, Found};
use crate::proxy::Overrides;

/// A configuration that can be applied without waiting.
#[derive(Debug)]
pub(crate) struct Candidate {
    /// The configuration, with the backends that were found.
    pub(crate) config: Config,
    /// The configuration as it was read.
    pub(crate) wanted: Config,
    /// The backends with their addresses.
    pub(crate) found: Found,
    pub(crate) listeners: ConfiguredListeners,
    /// TLS of the listeners.
    pub(crate) tls: Servers,
    /// TLS towards the backends.
    pub(crate) backend_tls: Clients,
    /// The listeners of the admin pages.
    pub(crate) admin: ConfiguredListeners,
    /// The new socket for commands. `None`: no change; `Some(None)`: the socket is removed.
    pub(crate) control: Option<Option<ControlSocket>>,
    pub(crate) files: Files,
}

/// The files that a new configuration opens or replaces.
#[derive(Debug)]
pub(crate) struct Files {
    /// The new recording. `None`: no change; `Some(None)`: the recording ends.
    pub(crate) recording: Option<Option<Opened>>,
    /// The new file, form and levels of the program's log; `None`: no change.
    pub(crate) log: Option<logging::Opened>,
    /// The new access log; `None`: no change.
    pub(crate) access_log: Option<access::Opened>,
    /// The content of the state file, changed or not; `None` if no state file is used.
    pub(crate) state: Option<Kept>,
}

/// The settings, listeners and names in use while a candidate is prepared.
#[derive(Debug)]
pub(crate) struct Current {
    pub(crate) config: Config,
    pub(crate) listeners: Vec<Place>,
    /// The keys that encrypt TLS session tickets.
    pub(crate) tickets: Tickets,
    pub(crate) admin: Vec<Place>,
    /// The current recording, which must not overwrite files of the next one.
    pub(crate) recording: Option<record::Names>,
    /// Settings that commands have changed.
    pub(crate) overrides: Overrides,
}

impl Candidate {
    /// Binds the listeners and opens the files of a valid configuration.
    ///
    /// # Errors
    /// One line that names the address or the file.
    pub(crate) fn open(wanted: Config, found: Found, mut current: Current) -> Result<Self, String> {
        let config = Config { backends: found.backends.clone(), ..wanted.clone() };
        let tls = Servers::load(&config, &current.tickets)?;
        let backend_tls = Clients::load(&wanted)?;
        let listeners = ConfiguredListeners::bind(&config.listen, &current.listeners)?;
        let admin = ConfiguredListeners::bind(&admin_entries(&config), &current.admin)?;
        let is_other = config.admin.socket != current.config.admin.socket;
        let path = config.admin.socket.as_deref();
        let open = || path.map(|path| ControlSocket::open(path, false)).transpose();
        let control = is_other.then(open).transpose()?;
        let mut effective = config.clone();
        current.overrides.apply(&mut effective);
        let state = Kept::read(&effective)?;
        // Removed again if a later step fails, unless they existed before.
        let mut fresh = Vec::new();
        let is_other = config.log != current.config.log;
        fresh.extend(config.log.file.as_deref().filter(|_| is_other).and_then(disk::Fresh::new));
        let log = is_other.then(|| logging::Opened::new(&config.log)).transpose()?;
        let is_other = config.access_log != current.config.access_log;
        let path = config.access_log.file.as_deref().filter(|_| is_other);
        fresh.extend(path.and_then(disk::Fresh::new));
        let access_log = is_other.then(|| access::Opened::new(&config.access_log)).transpose()?;
        // The last step, because it renames an existing file.
        let is_other = config.recording != current.config.recording;
        let recording = match is_other {
            true => Some(record::open(&config.recording, current.recording)?),
            false => None,
        };
        fresh.into_iter().for_each(disk::Fresh::keep);
        Ok(Self {
            config,
            wanted,
            found,
            listeners,
            tls,
            backend_tls,
            admin,
            control,
            files: Files { recording, log, access_log, state },
        })
    }
}
