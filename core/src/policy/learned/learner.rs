//! Interface of the learner to the router, apart from its choices: state, guard, pings, ejections.
use std::time::Duration;

use super::unit::Unit;
use super::{GuardView, Learned, curve};
use crate::id::BackendId;
use crate::outlier::{PING_EVERY, Watch};
use crate::policy::contract::{Learner, Reasons};
use crate::policy::state::{PolicyStateError, StateOf};
use crate::time::Instant;

impl Learner for Learned {
    fn state(&self, name: &dyn Fn(BackendId) -> Option<String>) -> StateOf {
        StateOf::Learned(self.own_state(name))
    }

    fn restore(
        &mut self,
        state: &StateOf,
        name: &dyn Fn(BackendId) -> Option<String>,
    ) -> Result<(), PolicyStateError> {
        let StateOf::Learned(state) = state else { return Err(PolicyStateError::Policy) };
        state.validate()?;
        self.restore_own(state, name);
        Ok(())
    }

    fn guard(&self, now: Instant) -> Option<GuardView> {
        Some(self.guard.view(now))
    }

    fn predictions(&self, backend: BackendId) -> Vec<(u32, f64)> {
        let unit = self.units.get(backend.index()).filter(|unit| unit.is_present);
        let of_level = |unit: &Unit, level: u32| (level, unit.latency_at(&self.pool, level));
        unit.map_or_else(Vec::new, |unit| curve::shown().map(|n| of_level(unit, n)).collect())
    }

    fn vouches_for(&self, now: Instant, backend: BackendId) -> bool {
        let answered_at = self.units.get(backend.index()).and_then(|unit| unit.answered_at);
        answered_at.is_some_and(|at| now.since(at) < VOUCHED)
    }

    fn ping_every(&self, backend: BackendId) -> Option<Duration> {
        self.units.get(backend.index())?.restraints.watch.wants_pings().then_some(PING_EVERY)
    }

    fn take_regret(&mut self) -> bool {
        std::mem::take(&mut self.has_regretted)
    }

    fn watch(&self, backend: BackendId) -> Option<&Watch> {
        self.units.get(backend.index()).map(|unit| &unit.restraints.watch)
    }

    fn reasons(&self, backend: BackendId) -> Option<&Reasons> {
        self.units.get(backend.index()).map(|unit| &unit.reasons)
    }
}

/// The time for which a good response replaces a ping: the default of `pingTimeoutMs`.
const VOUCHED: Duration = Duration::from_secs(1);
