//! Outstanding leases that are not work for their backends: streams, and requests that wait for
//! their clients. A lease is entered when it is first set aside, and removed when it ends.
//!
//! The layout hints are explained in `router.rs`.
use std::collections::BTreeMap;
use std::time::Duration;

use super::Router;
use crate::id::{BackendId, LeaseId};
use crate::time::Instant;

/// The outstanding leases that were set aside at least once.
pub(super) type Asides = BTreeMap<LeaseId, Aside>;

/// A lease that was set aside.
#[derive(Clone, Copy, Debug)]
pub(super) struct Aside {
    backend: BackendId,
    state: AsideState,
    /// Time for which it has waited for its client, without the current pause.
    waited: Duration,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum AsideState {
    /// The request waits for its client.
    Paused { since: Instant },
    /// The request is work for its backend again.
    Resumed,
    /// The response is a stream until its end.
    Stream,
}

impl Aside {
    const fn is_work(&self) -> bool {
        matches!(self.state, AsideState::Resumed)
    }

    /// Time for which it has waited for its client, including the current pause.
    fn waited_by(&self, now: Instant) -> Duration {
        match self.state {
            AsideState::Paused { since } => self.waited.saturating_add(now.since(since)),
            AsideState::Resumed | AsideState::Stream => self.waited,
        }
    }
}

impl Router {
    /// Removes the leases of a backend whose slot another one has taken. Their end changes nothing.
    pub(super) fn forget_asides(&mut self, backend: BackendId) {
        self.asides.retain(|_, aside| aside.backend != backend);
    }

    /// Ends a lease, which counts as work again until the caller ends it at the backend. Returns
    /// the time for which it waited for its client; `None` for a stream, whose end is not passed
    /// to policies.
    #[cold]
    pub(super) fn end_aside(&mut self, now: Instant, lease: LeaseId) -> Option<Duration> {
        let Some(aside) = self.asides.remove(&lease) else {
            return Some(Duration::ZERO);
        };
        // The lease ends here, so the backend has one marked lease less.
        self.table.update(aside.backend, |backend| backend.mark(false));
        match aside.state {
            AsideState::Stream => {
                self.set_aside(aside.backend, false);
                None
            }
            AsideState::Resumed => Some(aside.waited),
            AsideState::Paused { .. } => {
                self.take_back(now, aside.backend);
                Some(aside.waited_by(now))
            }
        }
    }

    /// See [`Event::StreamOpened`](crate::Event::StreamOpened).
    pub(super) fn stream_opened(
        &mut self,
        now: Instant,
        lease: LeaseId,
        backend: BackendId,
        status: u16,
        latency: Duration,
    ) {
        let known = self.asides.get(&lease).copied();
        let is_possible = match known {
            Some(aside) => aside.state != AsideState::Stream && aside.backend == backend,
            None => self.may_enter(lease, backend),
        };
        if !is_possible {
            return;
        }
        // A pause ends first, so that each lease is set aside once at a time.
        if known.is_some_and(|aside| !aside.is_work()) {
            self.take_back(now, backend);
        }
        let waited = known.map_or(Duration::ZERO, |aside| aside.waited_by(now));
        self.enter(lease, Aside { backend, state: AsideState::Stream, waited });
        self.set_aside(backend, true);
        if self.habits.listens && status == 101 {
            // A tunnel opens with its head, so the policy need not withdraw a silence.
            self.policy.on_pause(now, backend);
        } else if self.habits.listens {
            let elapsed = latency.saturating_add(self.rules.streams.idle).saturating_sub(waited);
            self.policy.on_stream(now, backend, elapsed);
        }
    }

    /// See [`Event::LeasePaused`](crate::Event::LeasePaused).
    pub(super) fn lease_paused(&mut self, now: Instant, lease: LeaseId, backend: BackendId) {
        let known = self.asides.get(&lease).copied();
        let is_possible = match known {
            Some(aside) => aside.is_work() && aside.backend == backend,
            None => self.may_enter(lease, backend),
        };
        if !is_possible {
            return;
        }
        let waited = known.map_or(Duration::ZERO, |aside| aside.waited);
        self.enter(lease, Aside { backend, state: AsideState::Paused { since: now }, waited });
        self.set_aside(backend, true);
        if self.habits.listens {
            self.policy.on_pause(now, backend);
        }
    }

    /// See [`Event::LeaseResumed`](crate::Event::LeaseResumed).
    pub(super) fn lease_resumed(&mut self, now: Instant, lease: LeaseId, backend: BackendId) {
        let Some(aside) = self.asides.get_mut(&lease) else {
            return;
        };
        if aside.backend == backend && matches!(aside.state, AsideState::Paused { .. }) {
            aside.waited = aside.waited_by(now);
            aside.state = AsideState::Resumed;
            self.take_back(now, backend);
        }
    }

    /// Whether a lease without an entry may be outstanding at this backend. The router keeps no
    /// list of leases, so it checks that more leases are outstanding there than have entries.
    fn may_enter(&self, lease: LeaseId, backend: BackendId) -> bool {
        lease.0 <= self.leases_given
            && self.table.get(backend).is_some_and(|backend| backend.has_unmarked())
    }

    /// Enters a lease, or replaces its entry.
    fn enter(&mut self, lease: LeaseId, aside: Aside) {
        if self.asides.insert(lease, aside).is_none() {
            self.table.update(aside.backend, |backend| backend.mark(true));
        }
    }

    /// Counts a paused request in flight again.
    fn take_back(&mut self, now: Instant, backend: BackendId) {
        self.set_aside(backend, false);
        // The policy has no row for a backend whose slot another one has taken.
        if self.habits.listens && self.table.get(backend).is_some() {
            self.policy.on_resume(now, backend);
        }
    }

    fn set_aside(&mut self, backend: BackendId, is_aside: bool) {
        let weights = &self.rules.weights;
        self.table.update(backend, |backend| backend.set_aside(is_aside, weights));
    }
}
