//! The upgrade of the program (SIGUSR2): a new process takes over the listeners, then this one
//! stops. `edge/upgrade.rs` starts the process.
//!
//! The layout hints are explained in `proxy/mod.rs`.
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use log::{error, info};

use super::Reactor;
use super::listeners::Listeners;
use crate::edge::handover::Handover;
use crate::edge::listen::Place;

impl Reactor {
    /// Starts the program again. Until the new process is ready, this one serves as before.
    #[cold]
    pub(super) fn upgrade(&mut self) {
        if self.signals.upgrades.take() == 0 {
            return;
        }
        if self.listeners.is_empty() || self.is_stop_asked || self.stops_at.is_some() {
            return info!("SIGUSR2: stopping, ignored");
        }
        match self.handover() {
            Ok(handover) => self.service.upgrade(handover, self.proxy.config().timeouts.upgrade),
            Err(wrong) => error!("upgrade failed, still serving: cannot copy a listener: {wrong}"),
        }
    }

    fn handover(&self) -> io::Result<Handover> {
        let admin = self.admin.as_ref().map(|port| &port.listeners);
        Ok(Handover {
            listeners: copies(&self.listeners)?,
            admin_listeners: admin.map_or_else(|| Ok(Vec::new()), copies)?,
            // Only listeners with TLS have tickets. An older version of the program does not know
            // this key.
            tickets: self.listeners.has_tls().then(|| self.tls.tickets().keys()),
            learned: self.proxy.policy_state().map(|state| state.to_json()),
        })
    }

    /// Leaves new clients to the new process if it serves. Connected clients are still served, and
    /// every response ends its connection. After `timeouts.shutdownMs` this process stops as at
    /// SIGTERM.
    #[cold]
    pub(super) fn take_successor(&mut self) {
        let Some(pid) = self.service.take_successor() else { return };
        let clients = self.proxy.clients();
        info!("upgraded: process {pid} serves new clients, {clients} clients are connected here");
        self.has_successor = true;
        self.listeners.close();
        self.admin.iter_mut().for_each(|port| port.listeners.close());
        self.edge.hand_over(&mut self.proxy);
        self.proxy.handle_leaving();
        self.stops_at = Some(self.now + self.proxy.config().timeouts.shutdown);
    }
}

/// Copies of the sockets, which share their accept queues.
fn copies(listeners: &Listeners) -> io::Result<Vec<(OwnedFd, Place)>> {
    let copy = |socket: &mio::net::TcpListener| socket.as_fd().try_clone_to_owned();
    listeners.iter().map(|own| Ok((copy(&own.socket)?, own.place.clone()))).collect()
}
