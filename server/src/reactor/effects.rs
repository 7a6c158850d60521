//! Carries out the proxy's effects (its actions and its output) after each step of a turn.
//!
//! The layout hints are explained in `proxy/mod.rs`.
use std::net::SocketAddr;

use super::Reactor;
use super::socket::{Socket, connect_failure};
use crate::edge::access::BLOCK_BYTES;
use crate::proxy::{Action, ConnId, ConnectFailure};

impl Reactor {
    /// Carries out the proxy's effects: its actions, and writes to every connection with new
    /// output.
    #[inline]
    pub(super) fn flush(&mut self) {
        if self.proxy.has_effects() {
            self.carry_out();
        }
    }

    #[inline(never)]
    fn carry_out(&mut self) {
        loop {
            if self.proxy.has_actions() {
                self.act_all();
            }
            let Some(conn) = self.proxy.poll_dirty() else {
                break;
            };
            // The write may have ended back-pressure, and edge-triggered polling reports no second
            // edge for bytes that are already there.
            if self.write(conn) {
                self.queue(conn);
            }
        }
        if self.proxy.access_waiting() >= BLOCK_BYTES {
            self.pass_records();
        }
    }

    #[cold]
    fn act_all(&mut self) {
        while let Some(action) = self.proxy.poll_action() {
            self.act(action);
        }
    }

    /// Begins to connect to a backend, with TLS if configured.
    fn connect(&mut self, conn: ConnId, address: SocketAddr) -> Result<(), ConnectFailure> {
        let tls = self.proxy.tls(conn).map(|tls| self.backend_tls.layer(tls));
        let layer = tls.transpose().map_err(ConnectFailure::Handshake)?;
        let socket = Socket::connecting(address, conn, self.poll.registry())
            .map_err(|error| connect_failure(&error))?;
        self.insert(match layer {
            Some(layer) => socket.secure(layer, None),
            None => socket,
        });
        Ok(())
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Connect { conn, address } => {
                if let Err(failure) = self.connect(conn, address) {
                    self.proxy.handle_connected(self.now, conn, Err(failure));
                }
            }
            Action::Look { conn } => self.look(conn),
            Action::Measure { conn } => self.measure(conn),
            Action::Shutdown { conn } => {
                let slot = self.sockets.get_mut(conn.slot()).and_then(Option::as_mut);
                if let Some(socket) = slot.filter(|socket| socket.conn == conn) {
                    socket.shutdown(self.poll.registry());
                }
            }
            Action::Close { conn, with_reset } => {
                let slot = self.sockets.get_mut(conn.slot());
                if let Some(socket) = slot.and_then(|slot| slot.take_if(|s| s.conn == conn)) {
                    let is_handshaking = socket.is_handshaking();
                    if is_handshaking && !socket.is_outgoing {
                        self.handshakes.leave();
                    }
                    // A reset would discard the alert with the reason of a failed handshake.
                    socket.close(with_reset && !is_handshaking, self.poll.registry());
                }
            }
            Action::Notify(notice) => {
                self.upkeep.call();
                self.edge.log_notice(self.now, &notice, &self.proxy);
            }
        }
    }
}
