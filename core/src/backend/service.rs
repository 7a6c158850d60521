//! The settings of a backend: its mode (an operator can take it out of service), its relative
//! capacity, and its pings.
use super::{Access, Backend};
use crate::config::{CheckRules, Mode, Rules};
use crate::health::HealthTracker;
use crate::time::Instant;

impl Backend {
    /// Sets the relative capacity, and whether the backend is in service.
    pub(crate) const fn set_service(&mut self, weight: u32, mode: Mode) {
        (self.weight, self.mode) = (weight, mode);
    }

    /// Sets whether it gets requests only while no other can take them.
    pub(crate) const fn set_backup(&mut self, is_backup: bool) {
        self.is_backup = is_backup;
    }

    /// Whether it gets requests only while no other can take them.
    pub(crate) const fn is_backup(&self) -> bool {
        self.is_backup
    }

    /// Sets its health checks. A backend without them is never down.
    pub(crate) fn set_checks(&mut self, checks: CheckRules) {
        self.checks = checks;
        if !checks.has_agent {
            self.forget_agent();
        }
        if checks.is_off {
            self.health = HealthTracker::default();
        }
    }

    /// Its health checks.
    pub(crate) const fn checks(&self) -> CheckRules {
        self.checks
    }

    /// Forgets its health: it is as it was when it joined.
    pub(crate) fn forget_health(&mut self) {
        self.health = HealthTracker::new(self.checks.starts_down && !self.checks.is_off);
    }

    /// Records that a request's connection was refused. Returns whether the backend is down now. A
    /// backend without pings never goes down, because only a ping could bring it up again.
    pub(crate) fn connection_refused(&mut self, now: Instant) -> bool {
        !self.checks.is_off && self.health.refused(now)
    }

    /// Records a ping for a path that no backend has. The ping counts neither for the latency nor
    /// as a loss.
    pub(crate) fn ping_unserved(&mut self, now: Instant, rules: &Rules) {
        self.pings.last_ended_at = Some(now);
        self.pings.was_answered = false;
        self.pings.failed += 1;
        self.waited(now, rules);
    }

    /// Updates the values that decay with time.
    pub(crate) fn waited(&mut self, now: Instant, rules: &Rules) {
        self.rescore_load(now, rules);
        self.rescore_errors(now, rules);
    }

    /// Relative capacity, percent.
    pub(crate) const fn weight(&self) -> u32 {
        self.weight
    }

    /// Whether an operator has taken it out of service.
    pub(crate) const fn mode(&self) -> Mode {
        self.mode
    }

    /// Whether the configuration lets it get new requests: it is ready and its weight is not 0.
    pub(crate) const fn is_in_service(&self) -> bool {
        matches!(self.mode, Mode::Ready) && self.weight > 0
    }

    /// Whether requests may go to it at `now`, if it is needed: it is neither down, full, ejected
    /// nor held.
    pub(crate) fn is_free_at(&self, now: Instant) -> bool {
        let access = self.own_access();
        access <= Access::Slow
            || access == Access::Held && self.held_until.is_none_or(|until| until <= now)
    }

    /// Whether it is up and in service.
    pub(crate) fn is_available(&self) -> bool {
        self.is_up() && self.is_in_service()
    }
}
