//! Work that few turns need: signals, a stop, listeners that leave, the control socket, logs and
//! files, the service manager, the admin pages.
//!
//! Checking each of them in each turn costs 250 instructions, 3 % of an exchange with its own
//! connection. So the reactor keeps a single time at which the next of them is due. It computes
//! that time again whenever one of them could have changed: after each event that does not belong
//! to a connection, each log line, each second, and each part of the work here.
//!
//! The layout hints are explained in `proxy/mod.rs`.
use std::io;

use intelliproxy_core::Instant;
use mio::Events;

use super::Reactor;
use super::admin::AdminPort;
use super::control::ControlPort;
use super::token::Source;
use crate::proxy::earliest;

/// When the upkeep is due.
#[derive(Debug)]
pub(super) struct Upkeep {
    /// The time from which a turn does it.
    due_at: Instant,
    /// The time at which a turn is due for it even if nothing happens.
    wakes_at: Option<Instant>,
    /// Waiting bytes of the access log's records with which it is due.
    records_max: usize,
    /// The losses of the logs that are known.
    losses: u64,
}

impl Upkeep {
    /// Due in the first turn.
    pub(super) const fn new() -> Self {
        Self { due_at: Instant::ZERO, wakes_at: None, records_max: 0, losses: 0 }
    }

    /// Makes the work due in this turn, or in the next one if it is in progress.
    pub(super) const fn call(&mut self) {
        self.due_at = Instant::ZERO;
    }

    /// Whether it is due. `records` are the waiting bytes of the access log's records.
    #[inline]
    fn is_due(&self, now: Instant, records: usize, losses: u64) -> bool {
        self.due_at <= now || records >= self.records_max || losses != self.losses
    }

    /// The time at which a turn is due even if nothing happens.
    #[inline]
    pub(super) const fn poll_timeout(&self) -> Option<Instant> {
        self.wakes_at
    }
}

impl Reactor {
    /// Handles an event that belongs neither to a connection nor to a listener.
    #[cold]
    pub(super) fn take_seldom(&mut self, source: Source) {
        self.upkeep.call();
        match source {
            Source::Signals => self.take_signals(),
            Source::Hangups => {
                if self.signals.hangups.take() > 0 {
                    let _ = self.reload();
                }
            }
            Source::Reopens => self.reopen_logs(),
            Source::Upgrades => self.upgrade(),
            Source::Waker => {
                self.handshakes.handle_call();
                self.take_successor();
                self.take_reloaded();
                self.take_found();
                self.take_certificates();
            }
            Source::ControlListener | Source::Control(_) => {
                self.control.iter_mut().for_each(|control| control.take_readiness(source));
            }
            Source::AdminListener(index) => {
                self.admin.iter_mut().for_each(|admin| admin.take_listener(index));
            }
            Source::Admin(id) => self.admin.iter_mut().for_each(|admin| admin.take_stream(id)),
            Source::Client(_) | Source::Backend(_) | Source::Listener(_) => {
                debug_assert!(false, "the caller takes these");
            }
        }
    }

    /// Whether [`keep_up`](Self::keep_up) has something to do.
    #[inline]
    pub(super) fn is_upkeep_due(&self) -> bool {
        self.upkeep.is_due(self.now, self.proxy.access_waiting(), self.edge.losses())
    }

    /// Passes a full block of the access log on within a turn. A turn with 1000 connections makes
    /// 200 KB of records, which would leave the cache before they are written.
    #[cold]
    pub(super) fn pass_records(&mut self) {
        self.edge.pass_records(self.now, &mut self.proxy);
        self.upkeep.call();
    }

    /// Does the work that is due apart from the traffic, and notes when it is due again.
    #[cold]
    pub(super) fn keep_up(&mut self, events: &mut Events) -> io::Result<()> {
        self.upkeep.due_at = Instant::FAR_FUTURE;
        // Read first, so that losses during this work are seen in the next turn.
        let losses = self.edge.losses();
        if self.listeners.leaves_by().is_some() {
            self.close_leaving();
        }
        let is_stop_due = self.is_stop_asked || self.stops_at.is_some_and(|at| at <= self.now);
        // A successor that is being abandoned must end first, because it also has the listeners.
        if is_stop_due && !self.service.is_upgrading() {
            self.stop(events)?;
        }
        if self.control.as_ref().is_some_and(|port| port.is_due(self.now)) {
            self.serve_control();
        }
        self.edge.handle_turn(self.now, &mut self.proxy);
        self.service.handle_turn(self.now, self.edge.is_reading());
        self.flush();
        if let Some(admin) = &mut self.admin {
            admin.handle_turn(self.now, &self.proxy, self.poll.registry());
        }
        self.proxy.handle_watchers(self.admin.as_ref().map_or(0, AdminPort::streams));
        self.note_upkeep(losses);
        Ok(())
    }

    fn note_upkeep(&mut self, losses: u64) {
        let admin = self.admin.as_ref().and_then(AdminPort::poll_timeout);
        let control = self.control.as_ref().and_then(ControlPort::poll_timeout);
        let (leaves_by, of_service) = (self.listeners.leaves_by(), self.service.poll_timeout());
        let of_edge = self.edge.poll_timeout();
        let wakes_at = earliest([of_edge, admin, control, self.stops_at, leaves_by, of_service]);
        // Clients that wait at a leaving listener are accepted as soon as there is room, and a
        // command that waits for a reload gets its response once that has ended.
        let is_pending =
            leaves_by.is_some() || self.control.as_ref().is_some_and(ControlPort::waits);
        let next = if is_pending { Some(Instant::ZERO) } else { wakes_at };
        self.upkeep = Upkeep {
            due_at: next.map_or(self.upkeep.due_at, |at| at.min(self.upkeep.due_at)),
            wakes_at,
            records_max: self.edge.records_max(),
            losses,
        };
    }
}
