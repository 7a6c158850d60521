//! Accepts clients, and stops after SIGTERM or SIGINT.
//!
//! The layout hints are explained in `proxy/mod.rs`.
use std::io::ErrorKind;
use std::time::Duration;

use intelliproxy_core::Instant;
use log::{info, warn};
use mio::Events;

use super::Reactor;
use super::listeners::Listener;
use super::socket::{Socket, is_readable};

/// The maximum number of connections accepted from one listener in one turn.
const ACCEPTS_MAX: usize = 128;
/// Time without accepting after the system ran out of sockets.
const ACCEPT_REST: Duration = Duration::from_millis(100);
/// The shortest time between two log lines about failed accepts.
const ACCEPT_WARNS_EVERY: Duration = Duration::from_secs(5);
/// The maximum number of rounds in which waiting clients are accepted before a listener closes: at
/// a stop, or after a reload. A backlog of 4096 clients takes 32. The bound holds even if new
/// clients never stop arriving.
pub(super) const LAST_ROUNDS_MAX: usize = 64;
/// The longest time for which a stop waits for steps of handshakes, which requests may follow. It
/// suffices for the steps that have begun, and then for hundreds of last ones.
const LAST_STEPS: Duration = Duration::from_millis(100);

impl Reactor {
    /// Accepts waiting clients while there is room for them.
    #[inline(never)]
    pub(super) fn accept(&mut self) {
        if self.now >= self.accepts_from {
            self.accept_waiting();
            self.listeners.note_ready();
        }
    }

    fn accept_waiting(&mut self) {
        for slot in 0..self.listeners.slots() {
            for count in 0..ACCEPTS_MAX {
                let Some(listener) = self.listeners.get_mut(slot) else {
                    break;
                };
                if !listener.is_ready {
                    break;
                }
                if !self.proxy.accepts() {
                    // An idle client is closed only if a new one is waiting.
                    listener.is_ready = is_readable(&listener.socket);
                    if !listener.is_ready || !self.proxy.make_room(self.now) {
                        break;
                    }
                    self.flush();
                }
                if !self.has_handshake_room(slot) {
                    break;
                }
                let Some(listener) = self.listeners.get_mut(slot) else {
                    break;
                };
                // Clients usually arrive one at a time. A failing accept costs six times as much as
                // a poll, because the system first creates a socket. After a turn that accepted
                // many, half as many are accepted without a poll.
                let is_sure = count == 0 || count < listener.burst / 2;
                if !is_sure && !is_readable(&listener.socket) {
                    listener.is_ready = false;
                    listener.burst = count;
                    break;
                }
                match listener.socket.accept() {
                    Ok((stream, peer)) => {
                        let speaks_proxy_protocol = listener.place.entry.proxy_protocol;
                        let is_secured = listener.place.entry.tls.is_some();
                        let redirect = listener.place.entry.redirect_to_https;
                        let conn = self.proxy.handle_accept(self.now, peer);
                        if speaks_proxy_protocol {
                            self.proxy.expect_proxy_header(conn);
                        }
                        if let Some(port) = redirect {
                            self.proxy.expect_redirect(conn, port);
                        }
                        match Socket::accepted(stream, conn, self.poll.registry()) {
                            Ok(socket) if is_secured => self.insert_secured(slot, socket),
                            // The poll reports first bytes that have arrived already.
                            Ok(socket) => self.insert(socket),
                            Err(_) => self.proxy.handle_failed(self.now, conn),
                        }
                        self.flush();
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        listener.is_ready = false;
                        listener.burst = count;
                    }
                    // The client left before it was accepted, or a signal interrupted the call.
                    Err(error)
                        if matches!(
                            error.kind(),
                            ErrorKind::ConnectionAborted | ErrorKind::Interrupted
                        ) => {}
                    Err(error) => {
                        if self.now >= self.accept_warns_from {
                            warn!("cannot accept clients: {error}: retrying");
                            self.accept_warns_from = self.now + ACCEPT_WARNS_EVERY;
                        }
                        self.accepts_from = self.now + ACCEPT_REST;
                        return;
                    }
                }
            }
        }
    }

    /// Whether a listener may accept a client: if the client uses TLS, its handshake needs room.
    fn has_handshake_room(&mut self, slot: usize) -> bool {
        let is_secured = |listener: &Listener| listener.place.entry.tls.is_some();
        if !self.listeners.get_mut(slot).is_some_and(|listener| is_secured(listener)) {
            return true;
        }
        // A handshake is closed only if a new client is waiting.
        let is_awaited = |listener: &mut Listener| is_readable(&listener.socket);
        let is_full = self.are_handshakes_full();
        if is_full && !self.listeners.get_mut(slot).is_some_and(is_awaited) {
            if let Some(listener) = self.listeners.get_mut(slot) {
                listener.is_ready = false;
            }
            return false;
        }
        let waits_until = if is_full { self.make_handshake_room() } else { None };
        if let Some(listener) = self.listeners.get_mut(slot) {
            listener.waits_until = waits_until.unwrap_or(Instant::ZERO);
        }
        waits_until.is_none()
    }

    /// Puts TLS between a client that was just accepted and the proxy.
    fn insert_secured(&mut self, slot: usize, socket: Socket) {
        let conn = socket.conn;
        let tls = self.listeners.get_mut(slot).and_then(|listener| listener.tls.as_ref());
        let is_after_header = self.proxy.awaits_proxy_header(conn);
        match tls.and_then(|tls| Some((tls.layer(is_after_header)?, tls.rules()))) {
            Some((layer, rules)) => {
                let mut socket = socket.secure(layer, Some(rules));
                socket.begin_handshake();
                self.insert(socket);
                self.begin_handshake(conn);
            }
            // A session without TLS must not get its bytes.
            None => self.proxy.handle_failed(self.now, conn),
        }
    }

    /// Handles SIGTERM and SIGINT. The first one requests a stop, the second one an immediate end.
    pub(super) fn take_signals(&mut self) {
        let count = self.signals.ends.take();
        if count == 0 {
            return;
        }
        // After an upgrade `stops_at` is set, although no signal has requested a stop.
        let is_asked = self.is_stop_asked || (self.stops_at.is_some() && !self.has_successor);
        let is_second = is_asked || self.proxy.is_stopping();
        if count > 1 || is_second {
            self.is_aborted = true;
            return;
        }
        self.service.handle_stopping();
        let lame_duck = self.proxy.lame_duck();
        if lame_duck.is_zero() {
            self.is_stop_asked = true;
        } else {
            info!("stopping in {} ms (timeouts.lameDuckMs)", lame_duck.as_millis());
            self.proxy.handle_leaving();
            self.stops_at = Some(self.now + lame_duck);
        }
    }

    /// Opens the logs' files again after a signal.
    pub(super) fn reopen_logs(&mut self) {
        if self.signals.reopens.take() > 0 {
            self.edge.reopen_logs();
        }
    }

    /// Stops listening. Waiting clients are accepted first, and what all clients have sent so far
    /// is read: those requests are served.
    #[cold]
    pub(super) fn stop(&mut self, events: &mut Events) -> std::io::Result<()> {
        self.is_stop_asked = false;
        self.stops_at = None;
        let until = self.clock.now() + LAST_STEPS;
        for _ in 0..LAST_ROUNDS_MAX {
            let is_awaited = self.listeners.look();
            if is_awaited {
                self.accept();
            }
            self.catch_up(events)?;
            // Requests may have come with the last messages of handshakes.
            self.shake_all(until);
            self.read_on();
            let can_accept = self.proxy.accepts() && self.now >= self.accepts_from;
            if !(is_awaited && can_accept) && self.unread.is_empty() {
                break;
            }
        }
        info!("stopping: {} clients are connected", self.proxy.clients());
        self.listeners.close();
        self.proxy.handle_stop(self.now);
        self.flush();
        Ok(())
    }
}
