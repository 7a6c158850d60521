//! The backends by id and name, ranked by their scores.
//!
//! The layout hints are explained in `router.rs`.
use std::collections::{BTreeMap, BTreeSet};

use super::{Access, Backend, ScanRow};
use crate::config::{Rules, Weights};
use crate::id::BackendId;
use crate::time::Instant;
use crate::tournament::{ABSENT, Ranked, Tournament};

/// The backends by id, ranked by access, then by score, then by id. Those that refuse connections
/// are ranked by the time of their last failure instead of their score.
#[derive(Debug)]
pub(crate) struct BackendTable {
    backends: Vec<Backend>,
    /// The fields that a scan reads, in a dense array.
    rows: Vec<ScanRow>,
    /// The configured backends by slot. Scans cost nothing for removed ones.
    configured: Vec<BackendId>,
    by_name: BTreeMap<String, BackendId>,
    ranking: Tournament,
    /// The time at which the next hold ends.
    releases_at: Instant,
}

/// The result of adding a backend.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Added {
    pub(crate) id: BackendId,
    /// The backend whose slot it took, and the requests in flight of that backend.
    pub(crate) replaced: Option<(BackendId, u32)>,
}

impl BackendTable {
    pub(crate) fn new() -> Self {
        Self {
            backends: Vec::new(),
            rows: Vec::new(),
            configured: Vec::new(),
            by_name: BTreeMap::new(),
            ranking: Tournament::new(),
            releases_at: Instant::FAR_FUTURE,
        }
    }

    /// The slots that new backends may take: those of retired backends whose names are not in
    /// `names`.
    pub(crate) fn free_slots(&self, names: &[String]) -> BTreeSet<u32> {
        let retired = self.backends.iter().filter(|backend| backend.is_retired);
        let mut free: BTreeSet<u32> = retired.map(|backend| backend.id.slot()).collect();
        if !free.is_empty() {
            // A returning name gets its own slot back, with its outstanding leases.
            for id in names.iter().filter_map(|name| self.find(name)) {
                free.remove(&id.slot());
            }
        }
        free
    }

    /// Adds a backend. If a retired backend has the same name, the new one takes its slot and keeps
    /// only its leases. Otherwise it takes the lowest of the `free` slots, or a new slot.
    pub(crate) fn add(&mut self, name: &str, free: &mut BTreeSet<u32>, weights: &Weights) -> Added {
        if let Some(id) = self.find(name) {
            let old = &self.backends[id.index()];
            debug_assert!(old.is_retired, "a configured backend is not added again");
            let mut backend = Backend::new(id, name.to_owned(), weights);
            // Only the leases survive: the rest of the state describes the time before the removal.
            backend.in_flight = old.in_flight;
            (backend.aside, backend.marked) = (old.aside, old.marked);
            backend.rescore_in_flight(weights);
            self.put(backend);
            return Added { id, replaced: None };
        }
        let old = free.pop_first().map(|slot| &self.backends[slot as usize]);
        let replaced = old.map(|old| (old.id, old.in_flight));
        let id = match replaced {
            Some((old, _)) => {
                self.by_name.remove(&self.backends[old.index()].name);
                old.next_generation()
            }
            None => BackendId::first_of(self.backends.len()),
        };
        self.by_name.insert(name.to_owned(), id);
        self.put(Backend::new(id, name.to_owned(), weights));
        Added { id, replaced }
    }

    fn put(&mut self, backend: Backend) {
        let id = backend.id;
        if id.index() == self.backends.len() {
            self.backends.push(backend);
            self.rows.push(ScanRow::default());
            self.ranking.push(ABSENT);
        } else {
            self.backends[id.index()] = backend;
        }
        self.rank(id);
    }

    /// Applies `change` to a backend and ranks it again; `None` if the id is no longer in the
    /// table.
    pub(crate) fn update<T>(
        &mut self,
        id: BackendId,
        change: impl FnOnce(&mut Backend) -> T,
    ) -> Option<T> {
        let backend = self.backends.get_mut(id.index()).filter(|backend| backend.id == id)?;
        let done = change(backend);
        self.rank(id);
        Some(done)
    }

    /// Like [`update`](Self::update), for the two updates of each request: ranked in place, and
    /// only load and access may change of the fields that a scan reads.
    #[inline(always)]
    pub(crate) fn update_often<T>(
        &mut self,
        id: BackendId,
        change: impl FnOnce(&mut Backend) -> T,
    ) -> Option<T> {
        let Self { backends, rows, ranking, releases_at, .. } = self;
        let backend = backends.get_mut(id.index()).filter(|backend| backend.id == id)?;
        let row = rows.get_mut(id.index())?;
        let done = change(backend);
        (row.load, row.access) = (backend.load(), backend.access());
        Self::rank_in(backend, row, ranking, releases_at);
        Some(done)
    }

    /// The time at which the next hold ends and [`release`](Self::release) is due.
    pub(crate) const fn releases_at(&self) -> Instant {
        self.releases_at
    }

    /// Ends the holds that have expired and updates [`releases_at`](Self::releases_at).
    pub(crate) fn release(&mut self, now: Instant) {
        self.releases_at = Instant::FAR_FUTURE;
        for slot in 0..self.backends.len() {
            if self.backends[slot].held_until.is_some() {
                self.backends[slot].release(now);
                self.rank(self.backends[slot].id);
            }
        }
    }

    /// Marks a backend as removed from the configuration.
    pub(crate) fn retire(&mut self, id: BackendId) {
        self.update(id, |backend| backend.is_retired = true);
    }

    /// Scores every backend again after a change of the rules.
    pub(crate) fn rescore_all(&mut self, now: Instant, rules: &Rules) {
        for slot in 0..self.backends.len() {
            self.update(self.backends[slot].id, |backend| backend.rescore_all(now, rules));
        }
    }

    /// Sets the backends that scans cover; none of them is retired.
    pub(crate) fn set_configured(&mut self, ids: &[BackendId]) {
        self.configured.clear();
        self.configured.extend_from_slice(ids);
        self.configured.sort_unstable();
    }

    pub(crate) fn get(&self, id: BackendId) -> Option<&Backend> {
        self.backends.get(id.index()).filter(|backend| backend.id == id)
    }

    /// The access of the best backend that is not in `tried`.
    pub(crate) fn best_access_except(&self, tried: &[BackendId]) -> Option<Access> {
        if tried.is_empty() {
            return self.ranking.winner().map(|entry| self.rows[entry.slot].access);
        }
        self.lowest_except(tried).and_then(|id| self.row(id)).map(|row| row.access)
    }

    /// The fields of a backend that a scan reads.
    pub(crate) fn row(&self, id: BackendId) -> Option<ScanRow> {
        self.rows.get(id.index()).copied().filter(|row| row.generation == id.generation())
    }

    /// The access that requests have to a backend.
    pub(crate) fn access(&self, id: BackendId) -> Option<Access> {
        let row = self.rows.get(id.index()).filter(|row| row.generation == id.generation());
        row.map(|row| row.access)
    }

    /// The fields of every slot that a scan reads.
    pub(crate) fn rows(&self) -> &[ScanRow] {
        &self.rows
    }

    /// The configured backends, by slot.
    pub(crate) fn configured(&self) -> &[BackendId] {
        &self.configured
    }

    /// The backend with this name, retired or not.
    pub(crate) fn find(&self, name: &str) -> Option<BackendId> {
        self.by_name.get(name).copied()
    }

    /// Whether the backend is in the configuration.
    pub(crate) fn is_configured(&self, id: BackendId) -> bool {
        self.get(id).is_some_and(|backend| !backend.is_retired)
    }

    pub(crate) fn iter(&self) -> impl Clone + Iterator<Item = (BackendId, &Backend)> {
        self.backends.iter().map(|backend| (backend.id, backend))
    }

    /// The best backend: a usable one if there is any, otherwise the least bad; `None` when all are
    /// retired, full or out of service.
    #[inline]
    pub(crate) fn lowest(&self) -> Option<BackendId> {
        self.ranking.winner().map(|entry| self.ranked_id(entry))
    }

    /// The best backend that is not in `tried`.
    pub(crate) fn lowest_except(&self, tried: &[BackendId]) -> Option<BackendId> {
        if tried.is_empty() { self.lowest() } else { self.lowest_of_others(tried) }
    }

    fn lowest_of_others(&self, tried: &[BackendId]) -> Option<BackendId> {
        let best = self.ranking.find(|slot| !tried.contains(&self.backends[slot].id));
        best.map(|entry| self.ranked_id(entry))
    }

    /// Checks what must hold between calls, and panics otherwise.
    pub(crate) fn check_invariants(&self) {
        for (id, backend) in self.iter() {
            let parts = &backend.parts;
            assert!(
                parts.total.to_bits() == parts.sum().to_bits(),
                "the score of {id:?} is exactly the sum of its parts"
            );
            for (factor, points) in parts.parts() {
                assert!(points.is_finite(), "{} points of {id:?} are finite", factor.name());
                assert!(points >= 0.0, "{} points of {id:?} are not negative", factor.name());
            }
            assert!(
                backend.in_flight <= backend.most,
                "{id:?} has at most its maximum of leases out"
            );
            assert!(
                self.row(id).map(|row| ScanRow { changes: 0, ..row }) == Some(backend.row()),
                "the scanned row of {id:?} matches the backend"
            );
            assert!(
                self.ranking.key(id.index()) == Self::rank_key(backend, backend.access()),
                "the ranking has the current key of {id:?}"
            );
        }
        let configured = self.iter().filter(|(_, backend)| !backend.is_retired);
        assert!(
            configured.clone().map(|(id, _)| id).eq(self.configured.iter().copied()),
            "scans go over the backends that are not retired, by slot"
        );
        assert!(self.by_name.len() == self.backends.len(), "every slot has one name");
        for (id, backend) in self.iter() {
            assert!(self.find(&backend.name) == Some(id), "{id:?} is found by its name");
        }
        let held = self.backends.iter().filter_map(|backend| backend.held_until).min();
        assert!(
            held.is_none_or(|until| self.releases_at <= until),
            "the end of the first hold is known"
        );
        let best = configured.filter(|(_, backend)| backend.access() < Access::Full);
        let best = best.min_by(|a, b| {
            let order = a.1.access().cmp(&b.1.access());
            if order.is_eq() && a.1.access() == Access::Refusing {
                return a.1.health.failed_at().cmp(&b.1.health.failed_at());
            }
            // The key of a backend that is not free keeps all bits of its score but the lowest
            // three.
            let lost = 3 * u32::from(a.1.access() != Access::Free);
            let score = |backend: &Backend| backend.parts.total.to_bits() >> lost;
            order.then(score(a.1).cmp(&score(b.1)))
        });
        assert!(
            self.lowest() == best.map(|(id, _)| id),
            "the ranking's winner is the backend of best access with the lowest score or the \
             earliest failure, and the lowest id"
        );
    }

    fn rank(&mut self, id: BackendId) {
        let slot = id.index();
        let Self { backends, rows, ranking, releases_at, .. } = self;
        let (backend, row) = (&backends[slot], &mut rows[slot]);
        *row = ScanRow { changes: row.changes, ..backend.row() };
        Self::rank_in(backend, row, ranking, releases_at);
    }

    #[inline(always)]
    fn rank_in(
        backend: &Backend,
        row: &mut ScanRow,
        ranking: &mut Tournament,
        releases_at: &mut Instant,
    ) {
        row.changes = row.changes.wrapping_add(1);
        if let Some(until) = backend.held_until {
            *releases_at = until.min(*releases_at);
        }
        ranking.set(backend.id.index(), Self::rank_key(backend, row.access));
    }

    /// A key that orders configured backends by (access, score). The bits of floats that are
    /// finite and not negative are ordered like the floats, and their highest bit is 0. Backends
    /// that are not free lose the lowest three bits of the score to make room for the access.
    #[inline]
    fn rank_key(backend: &Backend, access: Access) -> u64 {
        debug_assert!(backend.parts.total.is_finite(), "scores are finite");
        debug_assert!(backend.parts.total.is_sign_positive(), "scores are not negative");
        let score = backend.parts.total.to_bits();
        match access {
            Access::Free => score,
            Access::Slow => 0b1000 << 60 | score >> 3,
            Access::Backup => 0b1001 << 60 | score >> 3,
            Access::BackupSlow => 0b1010 << 60 | score >> 3,
            Access::Held => 0b1011 << 60 | score >> 3,
            Access::BackupHeld => 0b1100 << 60 | score >> 3,
            Access::Ejected => 0b1101 << 60 | score >> 3,
            Access::Down => 0b1110 << 60 | score >> 3,
            // The one that failed longest ago comes first.
            Access::Refusing => {
                0b1111 << 60 | backend.health.failed_at().as_nanos().min(FAILED_MAX)
            }
            Access::Full | Access::Drained | Access::Gone => ABSENT,
        }
    }

    fn ranked_id(&self, entry: Ranked) -> BackendId {
        self.backends[entry.slot].id
    }
}

/// The latest time of a failure that the ranking distinguishes: 36 years. The key must stay below
/// [`ABSENT`].
const FAILED_MAX: u64 = (1 << 60) - 2;
