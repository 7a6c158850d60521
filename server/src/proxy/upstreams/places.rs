//! The addresses of the backends by id, and the order in which they are tried.
use std::net::SocketAddr;

use intelliproxy_core::BackendId;

use crate::config::{BackendTarget, is_same_set};
use crate::http::UpstreamError;
use crate::proxy::notice::ReportFault;
use crate::tls::TlsFault;

/// The addresses of all backends.
#[derive(Debug)]
pub(crate) struct Places {
    places: Vec<Place>,
}

#[derive(Debug)]
struct Place {
    /// The current or last backend of this slot.
    id: BackendId,
    target: BackendTarget,
    /// Index of the address that is tried first: usually the one that last accepted a connection.
    preferred: usize,
    /// The number of times that the backend left or moved.
    revision: u32,
    /// The kinds of report faults already reported.
    told_faults: u16,
    /// The last reported fault of its TLS.
    told_tls: Option<TlsFault>,
    is_configured: bool,
}

/// A position in the list of a backend's addresses. The first address is stored, since another
/// connection may change the preferred one meanwhile. An attempt is invalid after the backend
/// leaves or moves.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Attempt {
    /// Index of the address that was tried first.
    first: usize,
    /// The number of addresses tried before the current one.
    before: usize,
    /// The revision of the backend's addresses.
    revision: u32,
    /// The error of the last address that failed, except failures of the proxy's own system.
    earlier: Option<UpstreamError>,
}

impl Attempt {
    /// Returns the attempt at the next address.
    pub(crate) const fn next(self) -> Self {
        Self { before: self.before + 1, ..self }
    }

    /// Returns the attempt at the next address after the current one failed with `error`.
    pub(crate) const fn after(self, error: UpstreamError) -> Self {
        let earlier = match (error, self.earlier) {
            (UpstreamError::Exhausted, _) => self.earlier,
            (
                UpstreamError::Refused | UpstreamError::Unreachable,
                Some(UpstreamError::Handshake(_)),
            ) => self.earlier,
            _ => Some(error),
        };
        Self { before: self.before + 1, earlier, ..self }
    }

    /// Returns the error to report when all addresses have failed, the last one with `last`. If
    /// that is a failure of the proxy's own system, an earlier error of another kind is reported
    /// instead. For example, `[::1]` fails in this way on a system without IPv6.
    pub(crate) fn error(self, last: UpstreamError) -> UpstreamError {
        match (last, self.earlier) {
            (UpstreamError::Exhausted, Some(earlier)) => earlier,
            // The backend was reached at the other address, for example because `localhost` has
            // two.
            (
                UpstreamError::Refused | UpstreamError::Unreachable,
                Some(earlier @ UpstreamError::Handshake(_)),
            ) => earlier,
            _ => last,
        }
    }

    /// Whether other addresses were tried before.
    pub(crate) const fn is_further(self) -> bool {
        self.before > 0
    }
}

impl Places {
    /// Returns the addresses of backends in the order of their ids.
    pub(crate) fn new(targets: Vec<BackendTarget>) -> Self {
        let ids = (0..).map(BackendId::from_index);
        let places = ids.zip(targets).map(|(id, target)| Place::new(id, target, 0));
        Self { places: places.collect() }
    }

    /// Sets the configured backends, with their ids. A backend at the same addresses keeps its
    /// preferred address. A removed backend loses its addresses.
    pub(crate) fn set(&mut self, ids: &[BackendId], targets: Vec<BackendTarget>, moves: Move) {
        debug_assert!(ids.len() == targets.len(), "the router knows every backend");
        let stays: Vec<bool> =
            ids.iter().zip(&targets).map(|(&id, target)| self.stays(id, target, moves)).collect();
        for place in &mut self.places {
            place.is_configured = false;
        }
        for ((&id, target), stays) in ids.iter().zip(targets).zip(stays) {
            match self.places.get_mut(id.index()) {
                Some(place) if stays => {
                    place.target.url = target.url;
                    if !is_same_set(&place.target.addresses, &target.addresses) {
                        let used = place.target.addresses.get(place.preferred);
                        let at = target.addresses.iter().position(|address| Some(address) == used);
                        place.preferred = at.unwrap_or(0);
                        place.target.addresses = target.addresses;
                    }
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

    /// Whether this kind of report fault is new for the backend.
    pub(crate) fn is_first_fault(&mut self, backend: BackendId, fault: &ReportFault) -> bool {
        let place = self.places.get_mut(backend.index()).filter(|place| place.id == backend);
        place.is_some_and(|place| {
            let is_first = place.told_faults & fault.bit() == 0;
            place.told_faults |= fault.bit();
            is_first
        })
    }

    /// Stores the fault of a backend's TLS, `None` if it works. Returns whether this is a change.
    pub(crate) fn is_news_tls(&mut self, backend: BackendId, fault: Option<TlsFault>) -> bool {
        let place = self.places.get_mut(backend.index()).filter(|place| place.id == backend);
        place.is_some_and(|place| std::mem::replace(&mut place.told_tls, fault) != fault)
    }

    /// Returns the ids and names of the configured backends.
    pub(crate) fn configured(&self) -> impl Iterator<Item = (BackendId, &str)> {
        let configured = self.places.iter().filter(|place| place.is_configured);
        configured.map(|place| (place.id, place.target.name.as_str()))
    }

    /// Returns the addresses of a backend; `None` if another backend uses its slot.
    fn place(&self, backend: BackendId) -> Option<&Place> {
        self.places.get(backend.index()).filter(|place| place.id == backend)
    }

    /// Whether a backend is configured and does not move to another place with `target`.
    pub(crate) fn stays(&self, backend: BackendId, target: &BackendTarget, moves: Move) -> bool {
        self.place(backend).filter(|place| place.is_configured).is_some_and(|place| {
            let (old, new) = (&place.target.addresses, &target.addresses);
            let stays = is_same_set(old, new)
                || moves == Move::LostAddress
                    && old.get(place.preferred).is_some_and(|used| new.contains(used));
            let is_same =
                place.target.authority == target.authority && place.target.tls == target.tls;
            is_same && stays
        })
    }

    /// Whether the backend is configured and at the same addresses as when `attempt` was made.
    pub(crate) fn is_current(&self, backend: BackendId, attempt: Attempt) -> bool {
        let place = self.place(backend).filter(|place| place.is_configured);
        place.is_some_and(|place| place.revision == attempt.revision)
    }

    /// Sets the address of `attempt` as the first to try next time.
    pub(crate) fn prefer(&mut self, backend: BackendId, attempt: Attempt) {
        if self.is_current(backend, attempt)
            && let Some(place) = self.places.get_mut(backend.index())
        {
            let count = place.target.addresses.len().max(1);
            place.preferred = (attempt.first + attempt.before) % count;
        }
    }

    /// Returns the first attempt, at the preferred address.
    pub(crate) fn first_attempt(&self, backend: BackendId) -> Attempt {
        self.place(backend).map_or_else(Attempt::default, |place| Attempt {
            first: place.preferred,
            before: 0,
            revision: place.revision,
            earlier: None,
        })
    }

    /// Returns the address of an attempt; `None` if all were tried, or the backend left or moved.
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

    /// Returns the value of the backend's Host field; empty if another backend uses its slot.
    pub(crate) fn authority(&self, backend: BackendId) -> &str {
        self.target(backend).map_or("", |target| &target.authority)
    }
}

/// The changes, besides another host, that count as a move of a backend to another place.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Move {
    /// Other addresses, in any order.
    OtherAddresses,
    /// The loss of the address in use.
    LostAddress,
}

impl Place {
    const fn new(id: BackendId, target: BackendTarget, revision: u32) -> Self {
        let (told_faults, told_tls) = (0, None);
        Self { id, target, preferred: 0, revision, told_faults, told_tls, is_configured: true }
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
            tls: None,
            addresses: ports.iter().map(address).collect(),
        }
    }

    fn port(places: &Places, attempt: Attempt) -> Option<u16> {
        places.address(A, attempt).map(|address| address.port())
    }

    /// Resolvers rotate addresses: a new order alone is not a move, and neither is another spelling
    /// of the URL. The preferred address stays.
    #[test]
    fn the_order_of_addresses_is_no_move() {
        let mut places = Places::new(vec![target("A", "a", &[1, 2, 3])]);
        let second = places.first_attempt(A).next();
        assert!(second.is_further());
        places.prefer(A, second);
        let other = BackendTarget { url: "http://a/".to_owned(), ..target("A", "a", &[3, 1, 2]) };
        assert!(places.stays(A, &other, Move::OtherAddresses));
        places.set(&[A], vec![other], Move::OtherAddresses);
        assert!(places.is_current(A, second));
        assert_eq!(port(&places, places.first_attempt(A)), Some(2));
        assert_eq!(places.target(A).map(|target| &*target.url), Some("http://a/"));
    }

    /// A new backend in the slot of a removed one: attempts at the old one are not valid for it.
    #[test]
    fn a_slot_that_is_used_again_has_another_backend() {
        let mut places = Places::new(vec![target("A", "a", &[1])]);
        let old = places.first_attempt(A);
        places.set(&[], Vec::new(), Move::OtherAddresses);
        assert_eq!(places.target(A).map(|target| &*target.name), Some("A"));
        let next = BackendId::new(0, 1);
        places.set(&[next], vec![target("C", "a", &[1])], Move::OtherAddresses);
        assert_eq!(places.target(A).map(|target| &*target.name), None);
        assert!(!places.is_current(A, old));
        assert!(!places.is_current(next, old));
        assert!(places.is_current(next, places.first_attempt(next)));
        assert_eq!(places.configured().collect::<Vec<_>>(), [(next, "C")]);
    }

    /// Another Host, a changed set of addresses, or leaving and returning makes all earlier
    /// attempts invalid.
    #[test]
    fn ways_end_when_a_backend_moves_or_leaves() {
        for moved in
            [target("A", "b", &[1, 2]), target("A", "a", &[1]), target("A", "a", &[1, 2, 3])]
        {
            let mut places = Places::new(vec![target("A", "a", &[1, 2])]);
            let old = places.first_attempt(A).next();
            places.prefer(A, old);
            assert!(!places.stays(A, &moved, Move::OtherAddresses));
            places.set(&[A], vec![moved], Move::OtherAddresses);
            assert!(!places.is_current(A, old));
            places.prefer(A, old);
            assert_eq!(port(&places, old), None);
            assert_eq!(port(&places, places.first_attempt(A)), Some(1), "from the first on");
        }
        let mut places = Places::new(vec![target("A", "a", &[1])]);
        let old = places.first_attempt(A);
        places.set(&[B], vec![target("B", "b", &[9])], Move::OtherAddresses);
        let configured: Vec<_> = places.configured().collect();
        assert_eq!(configured, [(B, "B")]);
        assert_eq!(port(&places, places.first_attempt(A)), None, "one that left is nowhere");
        assert_eq!(places.target(A).map(|target| &*target.name), Some("A"), "and has its name");
        places.set(
            &[B, A],
            vec![target("B", "b", &[9]), target("A", "a", &[1])],
            Move::OtherAddresses,
        );
        assert!(!places.is_current(A, old));
        assert_eq!(port(&places, places.first_attempt(A)), Some(1));
    }

    /// For discovered backends, a changed set of addresses does not count as a move while it still
    /// contains the address in use. It stays the first one.
    #[test]
    fn the_loss_of_the_used_address_is_a_move() {
        let mut places = Places::new(vec![target("A", "a", &[1, 2])]);
        let second = places.first_attempt(A).next();
        places.prefer(A, second);
        let other = target("A", "a", &[3, 2]);
        assert!(!places.stays(A, &other, Move::OtherAddresses));
        assert!(places.stays(A, &other, Move::LostAddress));
        places.set(&[A], vec![other], Move::LostAddress);
        assert!(places.is_current(A, second));
        let first = places.first_attempt(A);
        assert_eq!((port(&places, first), port(&places, first.next())), (Some(2), Some(3)));
        assert!(!places.stays(A, &target("A", "a", &[1, 3]), Move::LostAddress));
        assert!(!places.stays(A, &target("A", "b", &[2]), Move::LostAddress));
    }
}
