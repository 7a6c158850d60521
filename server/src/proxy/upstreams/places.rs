//! Addresses of the backends by their ids, and the order of trying them.
use std::net::SocketAddr;

use intelliproxy_core::BackendId;

use crate::config::BackendTarget;
use crate::http::UpstreamError;
use crate::proxy::notice::ReportFault;

/// The places of all backends.
#[derive(Debug)]
pub(crate) struct Places {
    places: Vec<Place>,
}

#[derive(Debug)]
struct Place {
    /// The backend that has this slot, or had it last.
    id: BackendId,
    target: BackendTarget,
    /// The address that took a connection last.
    preferred: usize,
    /// Counts the times that the backend left or moved.
    revision: u32,
    /// Kinds of report faults that have been reported.
    told_faults: u16,
    is_configured: bool,
}

/// One of a backend's addresses on the way through all of them. Where the way began is kept:
/// meanwhile another connection may change which address is preferred. It ends when the backend
/// leaves or moves.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Attempt {
    /// The address that was tried first.
    first: usize,
    /// Addresses that were tried before the current one.
    before: usize,
    /// Revision of the backend's place.
    revision: u32,
    /// Error of the last address that failed by a fault of its own.
    earlier: Option<UpstreamError>,
}

impl Attempt {
    pub(crate) const fn next(self) -> Self {
        Self { before: self.before + 1, ..self }
    }

    /// The next address, after one failed by `error`.
    pub(crate) const fn after(self, error: UpstreamError) -> Self {
        let earlier = match error {
            UpstreamError::Exhausted => self.earlier,
            _ => Some(error),
        };
        Self { before: self.before + 1, earlier, ..self }
    }

    /// Returns the error of all addresses, the last of which failed by `last`. A failure of the
    /// proxy's own system does not count if an address failed by itself. Without IPv6, `[::1]`
    /// fails like this.
    pub(crate) fn error(self, last: UpstreamError) -> UpstreamError {
        match last {
            UpstreamError::Exhausted => self.earlier.unwrap_or(last),
            _ => last,
        }
    }

    /// Whether other addresses were tried before.
    pub(crate) const fn is_further(self) -> bool {
        self.before > 0
    }
}

impl Places {
    /// The places of backends in the order of their ids.
    pub(crate) fn new(targets: Vec<BackendTarget>) -> Self {
        let ids = (0..).map(BackendId::from_index);
        let places = ids.zip(targets).map(|(id, target)| Place::new(id, target, 0));
        Self { places: places.collect() }
    }

    /// Makes these backends, with these ids, the configured ones. One that stays where it is keeps
    /// its preferred address; one that leaves has no address any more.
    pub(crate) fn set(&mut self, ids: &[BackendId], targets: Vec<BackendTarget>) {
        debug_assert!(ids.len() == targets.len(), "the router knows every backend");
        let stays: Vec<bool> =
            ids.iter().zip(&targets).map(|(&id, target)| self.is_at(id, target)).collect();
        for place in &mut self.places {
            place.is_configured = false;
        }
        for ((&id, target), stays) in ids.iter().zip(targets).zip(stays) {
            match self.places.get_mut(id.index()) {
                Some(place) if stays => {
                    place.target.url = target.url;
                    place.is_configured = true;
                }
                Some(place) => *place = Place::new(id, target, place.revision.wrapping_add(1)),
                None => {
                    debug_assert!(id.index() == self.places.len(), "slots count up");
                    self.places.push(Place::new(id, target, 0));
                }
            }
        }
        for place in &mut self.places {
            if !place.is_configured && !place.target.addresses.is_empty() {
                place.target.addresses.clear();
                place.revision = place.revision.wrapping_add(1);
            }
        }
    }

    /// Whether a fault of a backend's reports is the first of its kind since it came.
    pub(crate) fn is_first_fault(&mut self, backend: BackendId, fault: &ReportFault) -> bool {
        let place = self.places.get_mut(backend.index()).filter(|place| place.id == backend);
        place.is_some_and(|place| {
            let is_first = place.told_faults & fault.bit() == 0;
            place.told_faults |= fault.bit();
            is_first
        })
    }

    /// The configured backends.
    pub(crate) fn configured(&self) -> impl Iterator<Item = (BackendId, &str)> {
        let configured = self.places.iter().filter(|place| place.is_configured);
        configured.map(|place| (place.id, place.target.name.as_str()))
    }

    /// The place of a backend; `None` when another one has its slot.
    fn place(&self, backend: BackendId) -> Option<&Place> {
        self.places.get(backend.index()).filter(|place| place.id == backend)
    }

    /// Whether a backend is configured and already where `target` says, whatever the order of its
    /// addresses.
    pub(crate) fn is_at(&self, backend: BackendId, target: &BackendTarget) -> bool {
        self.place(backend).filter(|place| place.is_configured).is_some_and(|place| {
            let (old, new) = (&place.target.addresses, &target.addresses);
            place.target.authority == target.authority
                && old.iter().all(|address| new.contains(address))
                && new.iter().all(|address| old.contains(address))
        })
    }

    /// Whether the backend is configured and still where it was when `attempt` was made.
    pub(crate) fn is_current(&self, backend: BackendId, attempt: Attempt) -> bool {
        let place = self.place(backend).filter(|place| place.is_configured);
        place.is_some_and(|place| place.revision == attempt.revision)
    }

    /// The address of `attempt` is the first to be tried next time.
    pub(crate) fn prefer(&mut self, backend: BackendId, attempt: Attempt) {
        if self.is_current(backend, attempt)
            && let Some(place) = self.places.get_mut(backend.index())
        {
            let count = place.target.addresses.len().max(1);
            place.preferred = (attempt.first + attempt.before) % count;
        }
    }

    /// The way through a backend's addresses, from the one that took a connection last.
    pub(crate) fn first_attempt(&self, backend: BackendId) -> Attempt {
        self.place(backend).map_or_else(Attempt::default, |place| Attempt {
            first: place.preferred,
            before: 0,
            revision: place.revision,
            earlier: None,
        })
    }

    /// The address of an attempt; `None` when all have been tried, or the backend left or moved.
    pub(crate) fn address(&self, backend: BackendId, attempt: Attempt) -> Option<SocketAddr> {
        let addresses =
            &self.target(backend).filter(|_| self.is_current(backend, attempt))?.addresses;
        let Attempt { first, before, .. } = attempt;
        let index = (before < addresses.len()).then(|| (first + before) % addresses.len())?;
        addresses.get(index).copied()
    }

    pub(crate) fn target(&self, backend: BackendId) -> Option<&BackendTarget> {
        self.place(backend).map(|place| &place.target)
    }

    /// Value of a Host field for it.
    pub(crate) fn authority(&self, backend: BackendId) -> &str {
        self.target(backend).map_or("", |target| &target.authority)
    }
}

impl Place {
    const fn new(id: BackendId, target: BackendTarget, revision: u32) -> Self {
        Self { id, target, preferred: 0, revision, told_faults: 0, is_configured: true }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: BackendId = BackendId::from_index(0);
    const B: BackendId = BackendId::from_index(1);

    fn target(name: &str, host: &str, ports: &[u16]) -> BackendTarget {
        let address = |&port: &u16| SocketAddr::from(([127, 0, 0, 1], port));
        BackendTarget {
            name: name.to_owned(),
            url: format!("http://{host}"),
            authority: host.to_owned(),
            addresses: ports.iter().map(address).collect(),
        }
    }

    fn port(places: &Places, attempt: Attempt) -> Option<u16> {
        places.address(A, attempt).map(|address| address.port())
    }

    /// Resolvers turn addresses round: their order alone is no move, and neither is another way to
    /// write the URL. The preferred address stays preferred.
    #[test]
    fn the_order_of_addresses_is_no_move() {
        let mut places = Places::new(vec![target("A", "a", &[1, 2, 3])]);
        let second = places.first_attempt(A).next();
        assert!(second.is_further());
        places.prefer(A, second);
        let other = BackendTarget { url: "http://a/".to_owned(), ..target("A", "a", &[3, 1, 2]) };
        assert!(places.is_at(A, &other));
        places.set(&[A], vec![other]);
        assert!(places.is_current(A, second));
        assert_eq!(port(&places, places.first_attempt(A)), Some(2));
        assert_eq!(places.target(A).map(|target| &*target.url), Some("http://a/"));
    }

    /// A backend in the slot of one that left is another one: nothing leads from the old one there.
    #[test]
    fn a_slot_that_is_used_again_has_another_backend() {
        let mut places = Places::new(vec![target("A", "a", &[1])]);
        let old = places.first_attempt(A);
        places.set(&[], Vec::new());
        assert_eq!(places.target(A).map(|target| &*target.name), Some("A"));
        let next = BackendId::new(0, 1);
        places.set(&[next], vec![target("C", "a", &[1])]);
        assert_eq!(places.target(A).map(|target| &*target.name), None);
        assert!(!places.is_current(A, old));
        assert!(!places.is_current(next, old));
        assert!(places.is_current(next, places.first_attempt(next)));
        assert_eq!(places.configured().collect::<Vec<_>>(), [(next, "C")]);
    }

    /// Another Host, an address more or less, or leaving and coming back ends every way to the old
    /// place; row by row.
    #[test]
    fn ways_end_when_a_backend_moves_or_leaves() {
        for moved in
            [target("A", "b", &[1, 2]), target("A", "a", &[1]), target("A", "a", &[1, 2, 3])]
        {
            let mut places = Places::new(vec![target("A", "a", &[1, 2])]);
            let old = places.first_attempt(A).next();
            places.prefer(A, old);
            assert!(!places.is_at(A, &moved));
            places.set(&[A], vec![moved]);
            assert!(!places.is_current(A, old));
            places.prefer(A, old);
            assert_eq!(port(&places, old), None);
            assert_eq!(port(&places, places.first_attempt(A)), Some(1), "from the first on");
        }
        let mut places = Places::new(vec![target("A", "a", &[1])]);
        let old = places.first_attempt(A);
        places.set(&[B], vec![target("B", "b", &[9])]);
        let configured: Vec<_> = places.configured().collect();
        assert_eq!(configured, [(B, "B")]);
        assert_eq!(port(&places, places.first_attempt(A)), None, "one that left is nowhere");
        assert_eq!(places.target(A).map(|target| &*target.name), Some("A"), "and has its name");
        places.set(&[B, A], vec![target("B", "b", &[9]), target("A", "a", &[1])]);
        assert!(!places.is_current(A, old));
        assert_eq!(port(&places, places.first_attempt(A)), Some(1));
    }
}
