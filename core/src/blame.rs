//! Attributes an error to the backend or to the request.
//!
//! A client whose requests fail everywhere must not move the traffic of all others. Errors are
//! therefore counted by groups of requests in two ways: by client, and by target (the requested
//! path). There are 64 groups of each kind; the driver assigns them with a hash of its own
//! ([`Asker`]).
//!
//! An error is suspect if its group sends at most half of all requests, and `2·(1 + others) ≤ 1 +
//! own`. Here `own` are the recent errors of the group, this one included, and `others` are those
//! of the backend in all other groups. If errors are spread over the groups, all but the first one
//! count. If one group is most of the traffic, all of its errors count: with a single client, all
//! errors are the backend's. Errors fade with the half-life of the error rate. The counts of
//! requests are halved every 4096 requests.
//!
//! | suspect by | counts against the backend |
//! |---|---|
//! | client | no |
//! | target | only if the same target succeeds at another backend |
//!
//! The next request of the target's group is sent to another backend (a second opinion); its result
//! holds for ten seconds. Until it is known, errors of that group do not count. A group that has
//! failed at two backends by itself needs no second opinion.
//!
//! The layout hints are explained in `router.rs`.
use std::time::Duration;

use crate::estimate::Fading;
use crate::id::{BackendId, LeaseId};
use crate::time::Instant;

/// The groups of a request, 0 to 63: by a hash of the client's address and by a hash of the
/// request's path. All requests are in group 0 if the driver does not set them.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Asker {
    /// The group of the client's address.
    pub client: u8,
    /// The group of the request's path.
    pub target: u8,
}

/// Recent requests and errors by group.
#[derive(Debug)]
pub(crate) struct Blame {
    clients: Groups,
    targets: Groups,
    /// Errors by slot, only for backends that failed.
    backends: Vec<Option<Box<Failures>>>,
    /// The second opinions on targets that fail.
    opinions: [Opinion; GROUPS],
    /// The number of opinions that still wait for a request or its end.
    open: u32,
}

#[derive(Debug)]
struct Groups {
    requests: [u32; GROUPS],
    total: u32,
    errors: [Fading; GROUPS],
}

/// Errors of one backend.
#[derive(Debug)]
struct Failures {
    total: Fading,
    clients: [Fading; GROUPS],
    targets: [Fading; GROUPS],
}

/// Whether a target that fails at one backend also fails at others.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Opinion {
    /// No opinion. The last failure, if there was one, is kept.
    Unknown { failed: Option<(BackendId, Instant)> },
    /// The next request of the group goes to another backend.
    Wanted { not: BackendId },
    /// A request was sent to another backend.
    Asked { lease: LeaseId, not: BackendId },
    /// The target fails at other backends, too.
    Common { until: Instant },
    /// The target succeeds at another backend.
    Own { until: Instant },
}

impl Asker {
    /// Groups of each kind.
    pub const GROUPS: usize = GROUPS;

    /// The same groups, brought into range.
    pub(crate) const fn bounded(self) -> Self {
        Self { client: self.client % GROUPS as u8, target: self.target % GROUPS as u8 }
    }
}

impl Blame {
    pub(crate) fn new() -> Self {
        Self {
            clients: Groups::new(),
            targets: Groups::new(),
            backends: Vec::new(),
            opinions: [Opinion::Unknown { failed: None }; GROUPS],
            open: 0,
        }
    }

    /// Forgets the errors of a slot that a new backend has taken.
    pub(crate) fn forget(&mut self, backend: BackendId) {
        if let Some(failures) = self.backends.get_mut(backend.index()) {
            *failures = None;
        }
    }

    /// Whether any second opinion is wanted or asked for.
    pub(crate) const fn is_open(&self) -> bool {
        self.open > 0
    }

    /// The backend that the next request with this target must avoid, for a second opinion.
    pub(crate) const fn wants_other(&self, asker: Asker) -> Option<BackendId> {
        if self.open == 0 {
            return None;
        }
        match self.opinions[asker.target as usize] {
            Opinion::Wanted { not } => Some(not),
            _ => None,
        }
    }

    /// Records that the request of this lease is the second opinion.
    pub(crate) const fn asked(&mut self, asker: Asker, lease: LeaseId, not: BackendId) {
        self.opinions[asker.target as usize] = Opinion::Asked { lease, not };
    }

    /// Records a request that ended well (`is_good`), or whose end shows nothing about the backend.
    #[inline]
    pub(crate) fn ended(&mut self, now: Instant, lease: LeaseId, asker: Asker, is_good: bool) {
        if is_good {
            self.clients.count(asker.client);
            self.targets.count(asker.target);
        }
        if self.open > 0 {
            self.answered(now, lease, asker, is_good);
        }
    }

    /// Records an error. Returns whether it counts against its backend. `has_other` is whether
    /// another backend could give a second opinion.
    pub(crate) fn counts(
        &mut self,
        now: Instant,
        backend: BackendId,
        lease: LeaseId,
        asker: Asker,
        half_life: Duration,
        has_other: bool,
    ) -> bool {
        self.clients.count(asker.client);
        self.targets.count(asker.target);
        if self.backends.len() <= backend.index() {
            self.backends.resize_with(backend.index() + 1, || None);
        }
        let failures = self.backends[backend.index()].get_or_insert_with(Box::default);
        failures.total.add(now, 1.0, half_life);
        failures.clients[usize::from(asker.client)].add(now, 1.0, half_life);
        failures.targets[usize::from(asker.target)].add(now, 1.0, half_life);
        let total = failures.total.at(now, half_life);
        let by = |groups: &mut Groups, own_here: &[Fading; GROUPS], group: u8| {
            let others = total - own_here[usize::from(group)].at(now, half_life);
            groups.is_suspect(now, group, others.max(0.0), half_life)
        };
        let is_client = by(&mut self.clients, &failures.clients, asker.client);
        let is_target = by(&mut self.targets, &failures.targets, asker.target);
        // Evaluated even if the client is suspect, so that the opinion on the target is formed.
        let is_common = self.failed(now, backend, lease, asker, is_target && has_other);
        !is_client && !is_common
    }

    /// Updates the opinion on a target after another failure. Returns whether it excuses the
    /// backend.
    fn failed(
        &mut self,
        now: Instant,
        backend: BackendId,
        lease: LeaseId,
        asker: Asker,
        is_suspect: bool,
    ) -> bool {
        let until = now + OPINION;
        let opinion = &mut self.opinions[usize::from(asker.target)];
        match *opinion {
            // The second opinion itself failed: two backends fail the same target.
            Opinion::Asked { lease: asked, .. } if asked == lease => {
                self.open -= 1;
                *opinion = Opinion::Common { until };
                true
            }
            // Another request of this group has failed at another backend before the second opinion
            // ended.
            Opinion::Wanted { not } | Opinion::Asked { not, .. } if not != backend => {
                self.open -= 1;
                *opinion = Opinion::Common { until };
                is_suspect
            }
            Opinion::Wanted { .. } | Opinion::Asked { .. } => is_suspect,
            Opinion::Common { until } if now < until => is_suspect,
            // The target has just succeeded at another backend, so there is no excuse.
            Opinion::Own { until } if now < until => false,
            // The target has failed at two backends recently, without a request for a second
            // opinion.
            Opinion::Unknown { failed: Some((other, at)) }
                if is_suspect && other != backend && now.since(at) < OPINION =>
            {
                *opinion = Opinion::Common { until };
                true
            }
            _ if is_suspect => {
                self.open += 1;
                *opinion = Opinion::Wanted { not: backend };
                true
            }
            _ => {
                *opinion = Opinion::Unknown { failed: Some((backend, now)) };
                false
            }
        }
    }

    /// Records that the second opinion ended without an error.
    fn answered(&mut self, now: Instant, lease: LeaseId, asker: Asker, is_good: bool) {
        let opinion = &mut self.opinions[usize::from(asker.target)];
        if let Opinion::Asked { lease: asked, not } = *opinion
            && asked == lease
        {
            if is_good {
                *opinion = Opinion::Own { until: now + OPINION };
                self.open -= 1;
            } else {
                // The request had a neutral outcome, so the next one decides.
                *opinion = Opinion::Wanted { not };
            }
        }
    }
}

impl Groups {
    const fn new() -> Self {
        let zero = Fading::ZERO;
        Self { requests: [0; GROUPS], total: 0, errors: [zero; GROUPS] }
    }

    /// Counts a request.
    #[inline]
    fn count(&mut self, group: u8) {
        self.requests[usize::from(group)] += 1;
        self.total += 1;
        if self.total >= REQUESTS {
            self.halve();
        }
    }

    fn halve(&mut self) {
        self.requests.iter_mut().for_each(|requests| *requests /= 2);
        self.total = self.requests.iter().sum();
    }

    /// Counts an error of a group; `others` are the recent errors of its backend in other groups.
    /// Returns whether the error is suspect.
    fn is_suspect(&mut self, now: Instant, group: u8, others: f64, half_life: Duration) -> bool {
        let group = usize::from(group);
        self.errors[group].add(now, 1.0, half_life);
        let own = self.errors[group].at(now, half_life);
        // A group with most of the traffic cannot be separated from the backend's own behaviour.
        let is_minor = 2 * self.requests[group] <= self.total;
        is_minor && 2.0 * (1.0 + others) <= 1.0 + own + ROUNDING
    }
}

impl Default for Failures {
    fn default() -> Self {
        let zero = Fading::ZERO;
        Self { total: zero, clients: [zero; GROUPS], targets: [zero; GROUPS] }
    }
}

const GROUPS: usize = 64;
/// Requests after which all counts are halved, so that groups are compared by recent traffic. At 64
/// groups this is 64 requests each. Chosen; halving or doubling it changes no result in the
/// scenarios of [`outlier`](crate::outlier).
const REQUESTS: u32 = 4096;
/// The time for which a second opinion holds. Chosen; halving or doubling it changes no result in
/// the scenarios of [`outlier`](crate::outlier).
const OPINION: Duration = Duration::from_secs(10);
/// Two errors in quick succession should count as two, although the first has decayed a little.
/// This is the tolerance for that decay.
const ROUNDING: f64 = 0.1;

#[cfg(test)]
mod tests {
    use super::*;

    const HALF_LIFE: Duration = Duration::from_secs(30);
    const A: BackendId = BackendId::from_index(0);
    const B: BackendId = BackendId::from_index(1);

    struct Bench {
        blame: Blame,
        now: Instant,
        lease: u64,
    }

    impl Bench {
        fn new() -> Self {
            Self { blame: Blame::new(), now: Instant::from_millis(1000), lease: 0 }
        }

        fn good(&mut self, client: u8, target: u8, count: u32) {
            for _ in 0..count {
                self.lease += 1;
                let asker = Asker { client, target };
                self.blame.ended(self.now, LeaseId(self.lease), asker, true);
            }
        }

        fn error(&mut self, backend: BackendId, client: u8, target: u8) -> bool {
            self.lease += 1;
            self.now += Duration::from_millis(10);
            let (lease, asker) = (LeaseId(self.lease), Asker { client, target });
            self.blame.counts(self.now, backend, lease, asker, HALF_LIFE, true)
        }
    }

    /// Errors of one client among many do not count, for any target. Errors of the others do, and
    /// its own errors count once the others also fail.
    #[test]
    fn one_client_among_many_counts_for_nothing() {
        let mut bench = Bench::new();
        (0..20).for_each(|client| bench.good(client, 0, 10));
        assert!((0..50).all(|number| !bench.error(A, 40, number)));
        assert!(bench.error(A, 1, 0) && bench.error(A, 2, 0));
        for client in 0..60 {
            bench.error(A, client % 20, 0);
        }
        assert!(bench.error(A, 40, 0), "what fails for all counts");
    }

    /// All errors count for a single client, for one that sends most requests, and for clients
    /// that fail alike.
    #[test]
    fn most_of_the_traffic_counts() {
        let mut bench = Bench::new();
        assert!((0..50).all(|_| bench.error(A, 0, 0)), "a single client");
        let mut bench = Bench::new();
        bench.good(0, 0, 100);
        bench.good(1, 0, 90);
        assert!((0..50).all(|_| bench.error(A, 0, 0)), "most of the traffic");
        let mut bench = Bench::new();
        (0..10).for_each(|client| bench.good(client, 0, 10));
        assert!(!bench.error(A, 9, 0), "the first one may be its client's");
        assert!((0..50).all(|number| bench.error(A, number % 10, 0)), "all alike");
    }

    /// One path fails for every client: the next request for it goes to another backend, and its
    /// result decides for ten seconds.
    #[test]
    fn a_second_opinion_decides() {
        for (is_common, counted) in [(true, 0), (false, 8)] {
            let mut bench = Bench::new();
            bench.good(0, 0, 100);
            assert_eq!(bench.blame.wants_other(Asker { client: 0, target: 7 }), None);
            assert!(!bench.error(A, 0, 7), "the first one waits for an opinion");
            let asker = Asker { client: 0, target: 7 };
            assert_eq!(bench.blame.wants_other(asker), Some(A));
            assert_eq!(bench.blame.wants_other(Asker { client: 0, target: 8 }), None);
            bench.lease += 1;
            let lease = LeaseId(bench.lease);
            bench.blame.asked(asker, lease, A);
            assert_eq!(bench.blame.wants_other(asker), None);
            if is_common {
                assert!(!bench.blame.counts(bench.now, B, lease, asker, HALF_LIFE, true));
            } else {
                bench.blame.ended(bench.now, lease, asker, true);
            }
            let counts = (0..8).filter(|_| bench.error(A, 0, 7)).count();
            assert_eq!(counts, counted);
            assert_eq!(bench.blame.open, 0);
            bench.now += OPINION;
            assert!(!bench.error(A, 0, 7), "then another opinion is needed");
            assert_eq!(bench.blame.wants_other(asker), Some(A));
        }
    }
}
