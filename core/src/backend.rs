//! What is known of each backend, and the table that ranks them.
//!
//! The score law: a backend's points are cached and change only when an event touches it. A ping's
//! end sets latency and loss; a report sets queue, CPU and memory; a lease given out or come home
//! sets in flight. The error rate, which decays with time, is evaluated anew at each ping's end,
//! report and request's end, and stands still in between: at most one ping interval old.
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::config::{Rules, Weights};
use crate::estimate::{ErrorRate, Ewma};
use crate::event::{LoadReport, Outcome, ProbeResult};
use crate::health::HealthTracker;
use crate::policy::PolicyView;
use crate::policy::linear_rl::FEATURES;
use crate::score::{QUEUE_SAMPLE_MAX, ScoreParts};
use crate::snapshot::BackendSnapshot;
use crate::time::Instant;
use crate::tournament::{ABSENT, Entry, Tournament};

/// Names a backend: its slot in every table, and the slot's generation.
///
/// The slot of a backend that left is used again by a later one with the next generation, so that
/// late news of the old one is recognised. Which slot a backend gets depends on the sequence of
/// configurations alone. Ordered by slot.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct BackendId {
    slot: u32,
    generation: u32,
}

impl BackendId {
    /// The slot: a small number that counts up from 0, an index for the driver's own tables. No
    /// two configured backends have the same one.
    pub const fn index(self) -> usize {
        self.slot as usize
    }

    /// The number of backends that had this slot before.
    pub const fn generation(self) -> u32 {
        self.generation
    }

    /// The first backend with this slot; for replaying recordings and for tests.
    pub const fn from_index(index: u32) -> Self {
        Self::new(index, 0)
    }

    /// The backend with this slot and generation; for replaying recordings and for tests.
    pub const fn new(slot: u32, generation: u32) -> Self {
        Self { slot, generation }
    }

    const fn first_of(slot: usize) -> Self {
        debug_assert!(slot < u32::MAX as usize, "a table never holds as many");
        Self::new(slot as u32, 0)
    }

    const fn next_generation(self) -> Self {
        Self { generation: self.generation.wrapping_add(1), ..self }
    }
}

/// All that is known of one backend.
#[derive(Debug)]
pub(crate) struct Backend {
    id: BackendId,
    pub(crate) name: String,
    /// Gone from the configuration: no requests, no probes; leases still come home.
    pub(crate) is_retired: bool,
    pub(crate) health: HealthTracker,
    in_flight: u32,
    pings: Pings,
    load: Load,
    requests: Requests,
    parts: ScoreParts,
}

#[derive(Debug, Default)]
struct Pings {
    answered: u64,
    failed: u64,
    last_latency: Option<(Instant, Duration)>,
    last_ended_at: Option<Instant>,
    latency_ewma_ms: Ewma,
    loss_ewma: Ewma,
}

#[derive(Debug, Default)]
struct Load {
    read: u64,
    failed: u64,
    last_read_at: Option<Instant>,
    /// Each as last said; a report that leaves one out does not change it.
    queue: Option<f64>,
    cpu_busy_ms: Option<f64>,
    memory_bytes: Option<f64>,
    queue_ewma: Ewma,
}

#[derive(Debug, Default)]
struct Requests {
    ended: u64,
    errors: u64,
    last_ended_at: Option<Instant>,
    error_rate: ErrorRate,
    response_ewma_ms: Ewma,
}

impl Backend {
    fn new(id: BackendId, name: String, weights: &Weights) -> Self {
        let mut backend = Self {
            id,
            name,
            is_retired: false,
            health: HealthTracker::default(),
            in_flight: 0,
            pings: Pings::default(),
            load: Load::default(),
            requests: Requests::default(),
            parts: ScoreParts::default(),
        };
        backend.parts.latency = weights.latency_points(None);
        backend.parts.total = backend.parts.sum();
        backend
    }

    /// A ping ended. Only answers feed the latency: a fast failure is no fast backend.
    pub(crate) fn ping_ended(&mut self, now: Instant, result: &ProbeResult, rules: &Rules) {
        let alpha = rules.smoothing.alpha;
        self.pings.last_ended_at = Some(now);
        self.pings.loss_ewma.observe(alpha, if result.is_ok() { 0.0 } else { 1.0 });
        match result {
            Ok(answer) => {
                self.pings.answered += 1;
                self.pings.last_latency = Some((now, answer.latency));
                self.pings.latency_ewma_ms.observe(alpha, millis(answer.latency));
            }
            Err(_) => self.pings.failed += 1,
        }
        self.rescore_pings(rules);
        self.rescore_errors(now, rules);
    }

    /// Applies a load report. Negative and non-finite values are ignored.
    pub(crate) fn report_read(&mut self, now: Instant, report: &LoadReport, rules: &Rules) {
        let said = |number: Option<f64>| number.filter(|x| x.is_finite() && *x >= 0.0);
        self.load.read += 1;
        self.load.last_read_at = Some(now);
        if let Some(queue) = said(report.queue) {
            self.load.queue = Some(queue);
            self.load.queue_ewma.observe(rules.smoothing.alpha, queue.min(QUEUE_SAMPLE_MAX));
        }
        self.load.cpu_busy_ms = said(report.cpu_busy_ms).or(self.load.cpu_busy_ms);
        self.load.memory_bytes = said(report.memory_bytes).or(self.load.memory_bytes);
        self.rescore_load(&rules.weights);
        self.rescore_errors(now, rules);
    }

    /// A report failed or could not be read; this changes nothing but its counter.
    pub(crate) const fn report_failed(&mut self) {
        self.load.failed += 1;
    }

    /// A lease went out.
    pub(crate) fn lease_out(&mut self, weights: &Weights) {
        self.in_flight += 1;
        self.rescore_in_flight(weights);
    }

    /// A lease came home.
    pub(crate) fn lease_home(&mut self, now: Instant, outcome: &Outcome, rules: &Rules) {
        debug_assert!(self.in_flight > 0, "a lease comes home once, to the router that gave it");
        self.in_flight = self.in_flight.saturating_sub(1);
        if let Some(is_error) = outcome.is_error() {
            self.requests.ended += 1;
            self.requests.errors += u64::from(is_error);
            self.requests.last_ended_at = Some(now);
            self.requests.error_rate.observe(now, is_error, rules.errors.half_life);
            if let (Outcome::Answered { latency, .. }, false) = (outcome, is_error) {
                let alpha = rules.smoothing.alpha;
                self.requests.response_ewma_ms.observe(alpha, millis(*latency));
            }
        }
        self.parts.in_flight = rules.weights.in_flight_points(self.in_flight);
        self.rescore_errors(now, rules);
    }

    pub(crate) const fn in_flight(&self) -> u32 {
        self.in_flight
    }

    pub(crate) const fn parts(&self) -> &ScoreParts {
        &self.parts
    }

    /// The queue it last reported, if that is no older than `age`.
    pub(crate) fn reported_queue(&self, now: Instant, age: Duration) -> Option<f64> {
        let is_fresh = self.load.last_read_at.is_some_and(|at| now.since(at) <= age);
        self.load.queue.filter(|_| is_fresh)
    }

    /// What `linear_rl` sees of it, each from 0 to 1; its formula stands there.
    pub(crate) fn features(&self, now: Instant, rules: &Rules) -> [f64; FEATURES] {
        let latency_ms = self.pings.latency_ewma_ms.value().unwrap_or(10_000.0);
        [
            libm::tanh(latency_ms / 500.0),
            self.pings.loss_ewma.value().unwrap_or(0.0),
            self.error_rate_at(now, rules),
            libm::tanh(f64::from(self.in_flight) / 10.0),
            libm::tanh(self.load.queue_ewma.value().unwrap_or(0.0) / 20.0),
            libm::tanh(self.load.cpu_busy_ms.unwrap_or(0.0) / 100.0),
            libm::tanh(self.load.memory_bytes.unwrap_or(0.0) / (200.0 * 1024.0 * 1024.0)),
            1.0,
        ]
    }

    pub(crate) fn is_usable(&self) -> bool {
        !self.is_retired && self.health.health().is_usable()
    }

    const fn light(&self) -> Light {
        Light {
            generation: self.id.generation,
            in_flight: self.in_flight,
            is_configured: !self.is_retired,
            is_usable: !self.is_retired && self.health.health().is_usable(),
        }
    }

    pub(crate) fn snapshot(
        &self,
        now: Instant,
        id: BackendId,
        is_current: bool,
        policy: PolicyView,
        rules: &Rules,
    ) -> BackendSnapshot {
        let age = |at: Option<Instant>| at.map(|at| now.since(at));
        let (pings, load, requests) = (&self.pings, &self.load, &self.requests);
        BackendSnapshot {
            id,
            name: self.name.clone(),
            health: self.health.health(),
            is_current,
            latency: pings.last_latency.map(|(_, latency)| latency),
            latency_ewma_ms: pings.latency_ewma_ms.value(),
            latency_age: age(pings.last_latency.map(|(at, _)| at)),
            loss_ewma: pings.loss_ewma.value(),
            ping_age: age(pings.last_ended_at),
            pings_answered: pings.answered,
            pings_failed: pings.failed,
            reports_read: load.read,
            reports_failed: load.failed,
            requests: requests.ended,
            errors: requests.errors,
            error_rate: self.error_rate_at(now, rules),
            in_flight: self.in_flight,
            response_ewma_ms: requests.response_ewma_ms.value(),
            request_age: age(requests.last_ended_at),
            queue: load.queue,
            queue_ewma: load.queue_ewma.value(),
            cpu_busy_ms: load.cpu_busy_ms,
            memory_bytes: load.memory_bytes,
            report_age: age(load.last_read_at),
            score: self.parts,
            policy,
        }
    }

    pub(crate) fn error_rate_at(&self, now: Instant, rules: &Rules) -> f64 {
        self.requests.error_rate.rate_at(now, rules.errors.half_life, rules.errors.prior)
    }

    fn rescore_all(&mut self, now: Instant, rules: &Rules) {
        self.rescore_pings(rules);
        self.rescore_load(&rules.weights);
        self.rescore_in_flight(&rules.weights);
        self.rescore_errors(now, rules);
    }

    fn rescore_pings(&mut self, rules: &Rules) {
        let ended = self.pings.answered + self.pings.failed;
        let loss = self.pings.loss_ewma.value();
        let loss = loss.filter(|_| ended >= u64::from(rules.smoothing.loss_pings));
        self.parts.latency = rules.weights.latency_points(self.pings.latency_ewma_ms.value());
        self.parts.loss = rules.weights.loss_points(loss);
        self.parts.total = self.parts.sum();
    }

    fn rescore_load(&mut self, weights: &Weights) {
        self.parts.queue = weights.queue_points(self.load.queue_ewma.value());
        self.parts.cpu = weights.cpu_points(self.load.cpu_busy_ms);
        self.parts.memory = weights.memory_points(self.load.memory_bytes);
        self.parts.total = self.parts.sum();
    }

    fn rescore_in_flight(&mut self, weights: &Weights) {
        self.parts.in_flight = weights.in_flight_points(self.in_flight);
        self.parts.total = self.parts.sum();
    }

    #[inline(always)]
    fn rescore_errors(&mut self, now: Instant, rules: &Rules) {
        self.parts.errors = rules.weights.error_points(self.error_rate_at(now, rules));
        self.parts.total = self.parts.sum();
    }
}

/// What a scan over all backends wants of each.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Light {
    generation: u32,
    pub(crate) in_flight: u32,
    pub(crate) is_configured: bool,
    pub(crate) is_usable: bool,
}

/// The backends by id, ranked: usable ones before others, then by score, then by id.
#[derive(Debug)]
pub(crate) struct BackendTable {
    backends: Vec<Backend>,
    /// The fields that a scan reads, in a dense array.
    lights: Vec<Light>,
    /// The configured backends by slot: scans cost nothing for those that left.
    configured: Vec<BackendId>,
    by_name: BTreeMap<String, BackendId>,
    ranking: Tournament,
}

/// How a backend came into the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Added {
    pub(crate) id: BackendId,
    /// The backend whose slot it took, and that backend's requests in flight.
    pub(crate) replaced: Option<(BackendId, u32)>,
}

impl BackendTable {
    pub(crate) fn new() -> Self {
        Self {
            backends: Vec::new(),
            lights: Vec::new(),
            configured: Vec::new(),
            by_name: BTreeMap::new(),
            ranking: Tournament::new(),
        }
    }

    /// The slots that new backends may take: those of retired ones whose names are not in `names`.
    pub(crate) fn free_slots(&self, names: &[String]) -> BTreeSet<u32> {
        let retired = self.backends.iter().filter(|backend| backend.is_retired);
        let mut free: BTreeSet<u32> = retired.map(|backend| backend.id.slot).collect();
        if !free.is_empty() {
            for id in names.iter().filter_map(|name| self.find(name)) {
                free.remove(&id.slot);
            }
        }
        free
    }

    /// Adds a backend: in the slot of a retired one of the same name, of which nothing but its
    /// leases is kept; otherwise in the lowest of the `free` slots; otherwise in a new one.
    pub(crate) fn add(&mut self, name: &str, free: &mut BTreeSet<u32>, weights: &Weights) -> Added {
        if let Some(id) = self.find(name) {
            let in_flight = self.backends[id.index()].in_flight;
            debug_assert!(
                self.backends[id.index()].is_retired,
                "a configured backend is not added again"
            );
            let mut backend = Backend::new(id, name.to_owned(), weights);
            backend.in_flight = in_flight;
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
            self.lights.push(Light::default());
            self.ranking.push(ABSENT);
        } else {
            self.backends[id.index()] = backend;
        }
        self.rank(id);
    }

    /// Changes a backend by `change` and ranks it again; `None` for one that is not there any more.
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

    /// Takes a backend out of the configuration.
    pub(crate) fn retire(&mut self, id: BackendId) {
        self.update(id, |backend| backend.is_retired = true);
    }

    /// Scores every backend by new rules.
    pub(crate) fn rescore_all(&mut self, now: Instant, rules: &Rules) {
        for slot in 0..self.backends.len() {
            self.update(self.backends[slot].id, |backend| backend.rescore_all(now, rules));
        }
    }

    /// Makes these, which are not retired, the backends that scans go over.
    pub(crate) fn set_configured(&mut self, ids: &[BackendId]) {
        self.configured.clear();
        self.configured.extend_from_slice(ids);
        self.configured.sort_unstable();
    }

    pub(crate) fn get(&self, id: BackendId) -> Option<&Backend> {
        self.backends.get(id.index()).filter(|backend| backend.id == id)
    }

    /// The fields of a backend that a scan reads.
    pub(crate) fn light(&self, id: BackendId) -> Option<Light> {
        self.lights.get(id.index()).copied().filter(|light| light.generation == id.generation)
    }

    /// The configured backends, by slot.
    pub(crate) fn configured(&self) -> &[BackendId] {
        &self.configured
    }

    /// The backend of this name, retired or not.
    pub(crate) fn find(&self, name: &str) -> Option<BackendId> {
        self.by_name.get(name).copied()
    }

    /// Whether it is in the configuration.
    pub(crate) fn is_configured(&self, id: BackendId) -> bool {
        self.get(id).is_some_and(|backend| !backend.is_retired)
    }

    pub(crate) fn iter(&self) -> impl Clone + Iterator<Item = (BackendId, &Backend)> {
        self.backends.iter().map(|backend| (backend.id, backend))
    }

    /// The best of all: usable if any is, else the least bad; `None` when all are retired.
    pub(crate) fn lowest(&self) -> Option<BackendId> {
        self.ranking.winner().map(|entry| self.ranked_id(entry))
    }

    /// The best of those not in `tried`.
    pub(crate) fn lowest_except(&self, tried: &[BackendId]) -> Option<BackendId> {
        if tried.is_empty() {
            return self.lowest();
        }
        let best = self.ranking.find(|slot| !tried.contains(&self.backends[slot].id));
        best.map(|entry| self.ranked_id(entry))
    }

    /// States what holds between calls; panics where it does not.
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
                self.light(id) == Some(backend.light()),
                "the scanned row of {id:?} is as it is"
            );
            assert!(
                self.ranking.key(id.index()) == Self::rank_key(backend),
                "the ranking knows {id:?} as it is"
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
        let best = configured.min_by(|a, b| {
            let order = b.1.is_usable().cmp(&a.1.is_usable());
            order.then(a.1.parts.total.total_cmp(&b.1.parts.total))
        });
        assert!(
            self.lowest() == best.map(|(id, _)| id),
            "the ranking's winner is the usable backend with the lowest score and id"
        );
    }

    fn rank(&mut self, id: BackendId) {
        let key = Self::rank_key(&self.backends[id.index()]);
        self.ranking.set(id.index(), key);
        self.lights[id.index()] = self.backends[id.index()].light();
    }

    /// Orders like (not usable, score) for backends in the configuration. The bits of floats that
    /// are finite and not negative are ordered like the floats, and leave the highest bit free.
    fn rank_key(backend: &Backend) -> u64 {
        const UNUSABLE: u64 = 1 << 63;
        debug_assert!(backend.parts.total.is_finite(), "scores are finite");
        debug_assert!(backend.parts.total.is_sign_positive(), "scores are not negative");
        let score = backend.parts.total.to_bits();
        if backend.is_retired {
            ABSENT
        } else if backend.is_usable() {
            score
        } else {
            score | UNUSABLE
        }
    }

    fn ranked_id(&self, entry: Entry) -> BackendId {
        self.backends[entry.slot].id
    }
}

fn millis(span: Duration) -> f64 {
    span.as_secs_f64() * 1e3
}
