//! The listeners of one kind: for clients, or for the admin pages.
//!
//! Each has a slot, whose number is in its token. The slot of a closed listener is used again. A
//! late event of the old one only causes one look at the new one.
use std::io;

use mio::net::TcpListener;
use mio::{Interest, Registry};

use super::socket::is_readable;
use super::token::Source;
use crate::edge::listen::{Bound, Place};

/// The listeners by slot.
pub(super) struct Listeners {
    slots: Vec<Option<Listener>>,
    /// The most slots that there are tokens for.
    slots_max: usize,
    to_source: fn(usize) -> Source,
}

/// A listener that the poll watches.
pub(super) struct Listener {
    pub(super) socket: TcpListener,
    pub(super) place: Place,
    /// Whether clients may wait.
    pub(super) is_ready: bool,
}

impl Listeners {
    /// An empty table of up to `slots_max` listeners.
    pub(super) const fn new(slots_max: usize, to_source: fn(usize) -> Source) -> Self {
        Self { slots: Vec::new(), slots_max, to_source }
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

    /// Whether clients may wait at one of them.
    #[inline]
    pub(super) fn is_any_ready(&self) -> bool {
        self.iter().any(|listener| listener.is_ready)
    }

    /// Looks for waiting clients. Returns whether there are any.
    pub(super) fn look(&mut self) -> bool {
        for listener in self.slots.iter_mut().flatten() {
            listener.is_ready = is_readable(&listener.socket);
        }
        self.is_any_ready()
    }

    /// Closes all.
    pub(super) fn close(&mut self) {
        self.slots.clear();
    }

    /// Opens new listeners beside the present ones.
    ///
    /// # Errors
    /// The poll cannot watch one of them. All of the new ones are closed then.
    pub(super) fn open(&mut self, bound: Vec<Bound>, registry: &Registry) -> io::Result<()> {
        let mut opened = Vec::with_capacity(bound.len());
        for Bound { socket, place } in bound {
            match self.open_one(socket, place, registry) {
                Ok(slot) => opened.push(slot),
                Err(error) => {
                    opened.into_iter().for_each(|slot| self.slots[slot] = None);
                    return Err(error);
                }
            }
        }
        Ok(())
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
        self.slots[free] = Some(Listener { socket, place, is_ready: false });
        Ok(free)
    }
}
