//! The listeners of one kind: for clients, or for the admin pages.
//!
//! Each has a slot, whose number is in its token. The slot of a closed listener is used again. A
//! late event of the old listener only makes the reactor accept once from the new one.
//!
//! The layout hints are explained in `proxy/mod.rs`.
use std::io;
use std::sync::Arc;

use intelliproxy_core::Instant;
use log::info;
use mio::net::TcpListener;
use mio::{Interest, Registry};

use super::socket::is_readable;
use super::token::Source;
use crate::edge::listen::{BoundListener, Place};
use crate::edge::tls::{Server, Servers};

/// The listeners by slot.
pub(super) struct Listeners {
    slots: Vec<Option<Listener>>,
    /// Whether clients may be waiting at any listener. Stored because every turn needs it.
    is_any_ready: bool,
    /// The earliest [`Listener::leaves_by`].
    leaves_by: Option<Instant>,
    /// The number of slots that have tokens.
    slots_max: usize,
    to_source: fn(usize) -> Source,
}

/// A listener that the poll watches.
pub(super) struct Listener {
    pub(super) socket: TcpListener,
    pub(super) place: Place,
    /// Whether clients may wait.
    pub(super) is_ready: bool,
    /// Clients accepted in the last turn after which none was waiting.
    pub(super) burst: usize,
    /// The TLS of its clients. If the entry has TLS but this is `None`, no client is accepted.
    pub(super) tls: Option<Arc<Server>>,
    /// The time before which no client is accepted, because too many handshakes are in progress.
    pub(super) waits_until: Instant,
    /// The time by which it closes; `None` if the configuration has it.
    leaves_by: Option<Instant>,
}

impl Listeners {
    /// An empty table of up to `slots_max` listeners.
    pub(super) const fn new(slots_max: usize, to_source: fn(usize) -> Source) -> Self {
        Self { slots: Vec::new(), is_any_ready: false, leaves_by: None, slots_max, to_source }
    }

    /// The number of slots, for loops over [`get_mut`](Self::get_mut).
    pub(super) const fn slots(&self) -> usize {
        self.slots.len()
    }

    /// The listener of a slot; `None` if it is free.
    pub(super) fn get_mut(&mut self, slot: usize) -> Option<&mut Listener> {
        self.slots.get_mut(slot)?.as_mut()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Listener> {
        self.slots.iter().flatten()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// Whether clients may be waiting at any listener.
    #[inline]
    pub(super) const fn is_any_ready(&self) -> bool {
        self.is_any_ready
    }

    /// Records that a listener has clients to accept. One that was closed since is ignored.
    pub(super) fn take_readiness(&mut self, slot: usize) {
        if let Some(listener) = self.get_mut(slot) {
            listener.is_ready = true;
            self.is_any_ready = true;
        }
    }

    /// Updates whether clients may be waiting, after [`Listener::is_ready`] of some listeners has
    /// changed.
    pub(super) fn note_ready(&mut self) {
        self.is_any_ready = self.slots.iter().flatten().any(|listener| listener.is_ready);
    }

    /// Checks for waiting clients. Returns whether there are any.
    pub(super) fn look(&mut self) -> bool {
        for listener in self.slots.iter_mut().flatten() {
            listener.is_ready = is_readable(&listener.socket);
        }
        self.note_ready();
        self.is_any_ready
    }

    /// The number of listeners.
    pub(super) fn count(&self) -> usize {
        self.iter().count()
    }

    /// The places of the listeners that the configuration has.
    pub(super) fn places(&self) -> Vec<Place> {
        let stay = self.iter().filter(|listener| listener.leaves_by.is_none());
        stay.map(|listener| listener.place.clone()).collect()
    }

    /// Closes all.
    pub(super) fn close(&mut self) {
        self.slots.clear();
        self.is_any_ready = false;
        self.leaves_by = None;
    }

    /// Adds new listeners to the current ones. Returns their slots.
    ///
    /// # Errors
    /// The poll cannot watch a listener. In that case all new listeners are closed.
    pub(super) fn open(
        &mut self,
        bound: Vec<BoundListener>,
        registry: &Registry,
    ) -> io::Result<Vec<usize>> {
        let mut opened = Vec::with_capacity(bound.len());
        for BoundListener { socket, place } in bound {
            match self.open_one(socket, place, registry) {
                Ok(slot) => opened.push(slot),
                Err(error) => {
                    self.abandon(&opened);
                    return Err(error);
                }
            }
        }
        Ok(opened)
    }

    /// Closes listeners that were opened for a configuration that is not applied.
    pub(super) fn abandon(&mut self, opened: &[usize]) {
        opened.iter().for_each(|slot| self.slots[*slot] = None);
        self.note_ready();
    }

    /// Replaces the listeners by the `opened` and the `kept` ones. The others close by
    /// `leaves_by`.
    pub(super) fn keep(&mut self, opened: &[usize], kept: Vec<Place>, leaves_by: Instant) {
        for (slot, listener) in self.slots.iter_mut().enumerate() {
            let Some(listener) = listener else { continue };
            let is_kept = |place: &&Place| place.address == listener.place.address;
            if let Some(place) = kept.iter().find(is_kept) {
                listener.place = place.clone();
                listener.leaves_by = None;
            } else if !opened.contains(&slot) && listener.leaves_by.is_none() {
                listener.leaves_by = Some(leaves_by);
            }
        }
        self.note_leaving();
    }

    /// Gives each listener the TLS of its entry. Must be called after entries have changed. A
    /// leaving listener, which the configuration no longer has, keeps its TLS for the clients that
    /// wait.
    pub(super) fn secure(&mut self, servers: &Servers) {
        let stay = |listener: &&mut Listener| listener.leaves_by.is_none();
        for listener in self.slots.iter_mut().flatten().filter(stay) {
            listener.tls = listener.place.entry.tls.as_ref().and_then(|tls| servers.of(tls));
        }
    }

    /// Whether any listener serves TLS.
    pub(super) fn has_tls(&self) -> bool {
        self.iter().any(|listener| listener.tls.is_some())
    }

    /// The time from which waiting clients are accepted again, even if `limits.handshakes`
    /// handshakes are still in progress.
    pub(super) fn waits_until(&self) -> Instant {
        let ready = self.iter().filter(|listener| listener.is_ready);
        ready.map(|listener| listener.waits_until).min().unwrap_or(Instant::ZERO)
    }

    fn note_leaving(&mut self) {
        self.leaves_by = self.iter().filter_map(|listener| listener.leaves_by).min();
    }

    /// The time by which the next leaving listener closes; `None` if none leaves.
    #[inline]
    pub(super) const fn leaves_by(&self) -> Option<Instant> {
        self.leaves_by
    }

    /// Checks for clients that wait at leaving listeners. Returns whether there are any.
    pub(super) fn look_at_leaving(&mut self) -> bool {
        let mut is_awaited = false;
        for listener in self.slots.iter_mut().flatten().filter(|one| one.leaves_by.is_some()) {
            listener.is_ready = is_readable(&listener.socket);
            is_awaited |= listener.is_ready;
        }
        self.note_ready();
        is_awaited
    }

    /// Closes the leaving listeners at which no client waits, or whose time is over.
    pub(super) fn close_left(&mut self, now: Instant) {
        for slot in &mut self.slots {
            let is_over = |one: &mut Listener| {
                one.leaves_by.is_some_and(|at| at <= now || !is_readable(&one.socket))
            };
            if let Some(listener) = slot.take_if(is_over) {
                info!("no longer listening on {}", listener.place.address);
            }
        }
        self.note_leaving();
        self.note_ready();
    }

    fn open_one(
        &mut self,
        socket: std::net::TcpListener,
        place: Place,
        registry: &Registry,
    ) -> io::Result<usize> {
        let free = self.slots.iter().position(Option::is_none).unwrap_or(self.slots.len());
        if free >= self.slots_max {
            return Err(io::Error::other(format!("more than {} listeners", self.slots_max)));
        }
        // Accepted sockets inherit the option.
        let _ = rustix::net::sockopt::set_tcp_nodelay(&socket, true);
        let mut socket = TcpListener::from_std(socket);
        let token = (self.to_source)(free).to_token();
        registry.register(&mut socket, token, Interest::READABLE)?;
        if free == self.slots.len() {
            self.slots.push(None);
        }
        let listener = Listener {
            socket,
            place,
            is_ready: false,
            burst: 0,
            tls: None,
            waits_until: Instant::ZERO,
            leaves_by: None,
        };
        self.slots[free] = Some(listener);
        Ok(free)
    }
}
