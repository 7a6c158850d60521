//! Applies a new configuration while the reactor serves: new listeners open before old ones close.
//! `edge/reload.rs` reads it, and `edge/candidate.rs` opens the files and listeners that it needs.
//!
//! The layout hints are explained in `proxy/mod.rs`.
use std::time::Duration;

use log::{info, warn};

use super::Reactor;
use super::admin::AdminPort;
use super::clock::wall_clock_nanos;
use super::control::ControlPort;
use crate::admin::CONNECTIONS_MAX;
use crate::config::{BackendTarget, Found};
use crate::control::CONNECTIONS_MAX as CONTROL_MAX;
use crate::edge::candidate::{Candidate, Current};
use crate::edge::tls::unverified;

/// The maximum time for which a leaving listener still accepts the clients that wait there. It
/// takes more than one turn only if the proxy has no room for more clients.
const LEAVE_MAX: Duration = Duration::from_secs(5);

impl Reactor {
    /// Starts reading the configuration again. Returns how many readings must end until this
    /// request is served; `None` if nothing is read.
    pub(super) fn reload(&mut self) -> Option<u64> {
        if self.listeners.is_empty() {
            info!("stopping: reload ignored");
            return None;
        }
        let current = Current {
            config: self.proxy.config().clone(),
            listeners: self.listeners.places(),
            tickets: self.tls.tickets(),
            admin: self.admin.as_ref().map(|port| port.listeners.places()).unwrap_or_default(),
            recording: self.edge.recording_names(),
            overrides: self.proxy.overrides().clone(),
        };
        self.service.handle_reload();
        let readings = self.edge.reload(self.now, &mut self.proxy, current);
        self.flush();
        readings
    }

    /// Applies the configuration that was read again, if it has arrived.
    pub(super) fn take_reloaded(&mut self) {
        if let Some(loaded) = self.edge.take_reloaded() {
            if self.listeners.is_empty() {
                return info!("stopping: reload ignored");
            }
            if let Err(wrong) = loaded.and_then(|candidate| self.apply(candidate)) {
                self.proxy.handle_config_refused(self.now, wrong);
            }
            self.flush();
        }
        if self.edge.take_asked_again() {
            let _ = self.reload();
        }
    }

    /// Applies the backends that were found, if they have changed.
    pub(super) fn take_found(&mut self) {
        let Some(Found { backends, targets, .. }) = self.edge.take_found() else { return };
        if self.listeners.is_empty() {
            return;
        }
        let known = |target: &&BackendTarget| {
            self.proxy.config().backends.iter().any(|one| one.name == target.name)
        };
        let new: Vec<BackendTarget> = targets.iter().filter(|one| !known(one)).cloned().collect();
        unverified(&new).for_each(|line| warn!("{line}"));
        if let Err(error) = self.proxy.handle_discovered(self.now, backends, targets) {
            warn!("discovery: {error}: keeping the backends in use");
        }
        self.flush();
    }

    /// Applies certificates whose files have changed. Existing connections keep the old ones.
    pub(super) fn take_certificates(&mut self) {
        if let Some((servers, clients, lines)) = self.edge.take_certificates() {
            self.listeners.secure(&servers);
            self.tls = servers;
            self.backend_tls = clients;
            lines.iter().for_each(|line| info!("{line}"));
        }
    }

    /// Applies a configuration completely, or leaves everything as it was.
    fn apply(&mut self, candidate: Candidate) -> Result<(), String> {
        let Candidate { config, wanted, found, listeners, tls, backend_tls, admin, control, files } =
            candidate;
        let targets = found.targets.clone();
        let fail = |error: std::io::Error| format!("cannot watch a new listener: {error}");
        let registry = self.poll.registry();
        let control = match control {
            Some(socket) => {
                let port = socket.map(|socket| ControlPort::new(socket, registry)).transpose();
                Some(port.map_err(|error| format!("cannot watch admin.socket: {error}"))?)
            }
            None => None,
        };
        let opened = self.listeners.open(listeners.bound, registry).map_err(fail)?;
        let port = self.admin.get_or_insert_with(AdminPort::new);
        let result = port.listeners.open(admin.bound, registry).map_err(fail).and_then(|slots| {
            let policy = self.proxy.config().routing.policy;
            self.edge.save(&self.proxy, &config);
            match self.proxy.handle_reconfigured(self.now, config, targets) {
                Ok(()) => Ok((slots, self.proxy.config().routing.policy != policy)),
                Err(error) => {
                    port.listeners.abandon(&slots);
                    Err(error.to_string())
                }
            }
        });
        let result = result.map(|(slots, is_other_policy)| {
            self.listeners.keep(&opened, listeners.kept, self.now + LEAVE_MAX);
            self.listeners.secure(&tls);
            tls.renewed(&self.tls).iter().for_each(|line| info!("{line}"));
            self.tls = tls;
            self.backend_tls = backend_tls;
            port.keep(&slots, admin.kept, self.now);
            (slots, is_other_policy)
        });
        if !port.is_used() {
            self.admin = None;
        }
        let (admin_opened, is_other_policy) =
            result.inspect_err(|_| self.listeners.abandon(&opened))?;
        self.edge.watch_certificates(&self.tls, &self.backend_tls);
        let warnings: Vec<String> = unverified(&found.targets).collect();
        self.edge.follow(&wanted, found);
        // Logs the line about the configuration before those about its parts.
        self.flush();
        for line in warnings {
            warn!("{line}");
        }
        for slot in opened {
            if let Some(listener) = self.listeners.get_mut(slot) {
                info!("listening on {}", listener.place);
            }
        }
        if let Some(port) = &mut self.admin {
            for slot in admin_opened {
                if let Some(listener) = port.listeners.get_mut(slot) {
                    info!("admin pages on http://{}", listener.place.address);
                }
            }
        }
        self.edge.adopt(self.now, wall_clock_nanos(), files, is_other_policy, &mut self.proxy);
        if let Some(control) = control {
            // The old socket first sends the response to a command that requested this reload.
            self.serve_control();
            self.control = control;
            if let Some(path) = &self.proxy.config().admin.socket {
                info!("commands on {path}");
            }
        }
        self.close_leaving();
        Ok(())
    }

    /// Closes listeners that the configuration no longer has, after the clients that wait there
    /// were accepted.
    #[cold]
    pub(super) fn close_leaving(&mut self) {
        for _ in 0..super::accept::LAST_ROUNDS_MAX {
            if !self.listeners.look_at_leaving() || !self.proxy.accepts() {
                break;
            }
            self.accept();
        }
        self.listeners.close_left(self.now);
        self.reserve();
    }

    /// Passes to the proxy how many connections fit in addition to the listeners, the admin pages
    /// and the control socket.
    pub(super) fn reserve(&mut self) {
        let admin = self.admin.as_ref();
        let of_admin = admin.map_or(0, |port| CONNECTIONS_MAX + port.listeners.count());
        let of_control = self.control.as_ref().map_or(0, |_| CONTROL_MAX + 1);
        let reserved = self.listeners.count() + of_admin + of_control;
        self.proxy.limit_connections(self.room.saturating_sub(reserved));
    }
}
