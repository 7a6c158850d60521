//! Where the backends are, by their ids: addresses, and which of them to try first.
use std::net::SocketAddr;

use intelliproxy_core::BackendId;

use crate::config::BackendTarget;

/// The places of all backends.
#[derive(Debug)]
pub(crate) struct Places {
    places: Vec<Place>,
}

#[derive(Debug)]
struct Place {
    target: BackendTarget,
    /// The address that took a connection last.
    preferred: usize,
}

/// One of a backend's addresses on the way through all of them. Where the way began is kept:
/// meanwhile another connection may change which address is preferred.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Attempt {
    /// The address that was tried first.
    first: usize,
    /// Addresses that were tried before the one at hand.
    before: usize,
}

impl Attempt {
    pub(crate) const fn next(self) -> Self {
        Self { before: self.before + 1, ..self }
    }

    /// Whether other addresses were tried before.
    pub(crate) const fn is_further(self) -> bool {
        self.before > 0
    }
}

impl Places {
    /// The places of backends in the order of their ids.
    pub(crate) fn new(targets: Vec<BackendTarget>) -> Self {
        let place = |target| Place { target, preferred: 0 };
        Self { places: targets.into_iter().map(place).collect() }
    }

    /// The address of `attempt` is the first to be tried next time.
    pub(crate) fn prefer(&mut self, backend: BackendId, attempt: Attempt) {
        if let Some(place) = self.places.get_mut(backend.index()) {
            let count = place.target.addresses.len().max(1);
            place.preferred = (attempt.first + attempt.before) % count;
        }
    }

    /// The way through a backend's addresses, from the one that took a connection last.
    pub(crate) fn first_attempt(&self, backend: BackendId) -> Attempt {
        let first = self.places.get(backend.index()).map_or(0, |place| place.preferred);
        Attempt { first, before: 0 }
    }

    /// The address of an attempt; `None` when all have been tried.
    pub(crate) fn address(&self, backend: BackendId, attempt: Attempt) -> Option<SocketAddr> {
        let addresses = &self.target(backend)?.addresses;
        let Attempt { first, before } = attempt;
        let index = (before < addresses.len()).then(|| (first + before) % addresses.len())?;
        addresses.get(index).copied()
    }

    pub(crate) fn target(&self, backend: BackendId) -> Option<&BackendTarget> {
        self.places.get(backend.index()).map(|place| &place.target)
    }

    /// What a Host field for it carries.
    pub(crate) fn authority(&self, backend: BackendId) -> &str {
        self.target(backend).map_or("", |target| &target.authority)
    }
}
