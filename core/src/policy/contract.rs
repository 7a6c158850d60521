//! The contract between a policy and the router.
//!
//! A [`Policy`] ranks backends. Health filters them before, the gate restrains `score` after, and
//! the router combines all of it. A policy sees the usable backends ([`Candidates`]), the starts
//! and ends of requests, and the pings. It has no timer. The same calls with the same seed give
//! the same choices.
//!
//! In addition to its choices, a policy decides which backends are full ([`Policy::is_full`],
//! [`Policy::overflow`]). A [`Learner`] also vouches for backends that lose pings, requests more
//! pings, and ejects backends by itself.
use std::fmt;
use std::time::Duration;

use crate::backend::Backend;
use crate::config::Rules;
use crate::event::{EjectReason, Outcome, ReturnReason, RouteReason};
use crate::id::{BackendId, Token};
use crate::outlier::Watch;
use crate::policy::candidates::Candidates;
use crate::policy::state::{PolicyStateError, StateOf};
use crate::policy::{GuardView, PolicyView};
use crate::rng::Rng;
use crate::time::Instant;

/// Ranks candidates.
///
/// The router reports every backend (`on_join` before anything else) and every ping. A policy that
/// listens ([`Habits::listens`]) also gets every request: `on_dispatch`, then once `on_outcome`.
pub(crate) trait Policy: Send + Sync {
    /// Returns the candidate for this request; `None` only without candidates.
    fn choose(
        &mut self,
        now: Instant,
        candidates: &Candidates<'_>,
        rng: &mut Rng,
    ) -> Option<Choice>;

    /// Applies new rules. The learned state is kept.
    fn reconfigure(&mut self, _rules: &Rules) {}

    /// A backend joined the configuration, or the policy came into use. The backend has
    /// `in_flight` requests out.
    fn on_join(&mut self, _now: Instant, _backend: BackendId, _in_flight: u32) {}

    /// Sets the relative capacity of a backend, usually 1. Called after the backend has joined, and
    /// with each new configuration.
    fn set_weight(&mut self, _backend: BackendId, _factor: f64) {}

    /// Sets whether a backend is a backup. Called like `set_weight`: after the backend has joined,
    /// and with each new configuration.
    fn set_backup(&mut self, _backend: BackendId, _is_backup: bool) {}

    /// A backend left the configuration; its requests still end.
    fn on_leave(&mut self, _now: Instant, _backend: BackendId) {}

    /// A backend went down or came up.
    fn on_health(&mut self, _now: Instant, _backend: BackendId, _is_up: bool) {}

    /// A backend returned from an ejection by the router. Its earlier failures are forgotten.
    fn on_return(&mut self, _now: Instant, _backend: BackendId) {}

    /// A request went to this backend.
    fn on_dispatch(&mut self, _now: Instant, _backend: BackendId) {}

    /// A request now waits for its client, or has become a stream: it is not work for its backend.
    fn on_pause(&mut self, _now: Instant, _backend: BackendId) {}

    /// A request has become a stream. It was in flight for `elapsed` without a result that could
    /// be compared with those of other requests.
    fn on_stream(&mut self, now: Instant, backend: BackendId, _elapsed: Duration) {
        self.on_pause(now, backend);
    }

    /// A request that waited for its client counts as work again, or is about to end.
    fn on_resume(&mut self, _now: Instant, _backend: BackendId) {}

    /// A request ended.
    fn on_outcome(&mut self, _now: Instant, _ended: &Ended<'_>) {}

    /// A ping ended. `facts` is the state of the backend after it.
    fn on_ping(&mut self, _now: Instant, _backend: BackendId, _is_good: bool, _facts: &Backend) {}

    /// Time has passed for a backend whose pings show nothing. `facts` is its state.
    fn on_wait(&mut self, _now: Instant, _backend: BackendId, _facts: &Backend) {}

    /// Handles an estimate of the requests of others at a backend, after a report.
    fn on_others(&mut self, _now: Instant, _backend: BackendId, _others: f64) {}

    /// Whether a backend has as many requests in flight as it can work on at once; false if the
    /// policy does not know. Recent refusals (`turned_away`) count as requests in flight.
    fn is_full(&self, _backend: BackendId, _turned_away: u32) -> bool {
        false
    }

    /// The backend for a single request that finds the current one full: the one with the least
    /// expected delay, possibly the current one.
    fn overflow(
        &mut self,
        _now: Instant,
        _current: BackendId,
        _candidates: &Candidates<'_>,
        _rng: &mut Rng,
    ) -> Option<Choice> {
        None
    }

    /// The expected delay of one more request at a backend, ms; infinite if the backend should get
    /// no requests. `None` if the policy has no model of delays.
    fn delay(&mut self, _now: Instant, _backend: BackendId) -> Option<f64> {
        None
    }

    /// The rule behind a choice with this token.
    fn reason(&self, _token: Token) -> RouteReason {
        RouteReason::Policy
    }

    /// The services that the policy needs from the router; constant for its life.
    fn habits(&self) -> Habits {
        Habits { is_gated: false, listens: true, guards_itself: false }
    }

    /// The learning part; `None` for a policy that does not learn.
    fn learner(&self) -> Option<&dyn Learner> {
        None
    }

    /// The learning part, mutable.
    fn learner_mut(&mut self) -> Option<&mut dyn Learner> {
        None
    }

    /// The policy's reason for or against this backend at `now`.
    fn view(&self, now: Instant, id: BackendId, backend: &Backend) -> PolicyView;
}

/// Not the state: its texts would be 100 KB of the program, and nothing prints them.
impl fmt::Debug for dyn Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Policy")
    }
}

/// The additional contract of a policy that learns: a state to keep, a guard over it, ejections by
/// itself, and requests for pings.
///
/// All but the state is optional.
pub(crate) trait Learner {
    /// The learned state, with backends by name.
    fn state(&self, name: &dyn Fn(BackendId) -> Option<String>) -> StateOf;

    /// Restores a learned state, with backends by name.
    ///
    /// # Errors
    /// The state belongs to another policy, or has a number that cannot have been learned. In that
    /// case nothing has changed.
    fn restore(
        &mut self,
        state: &StateOf,
        name: &dyn Fn(BackendId) -> Option<String>,
    ) -> Result<(), PolicyStateError>;

    /// The state of the guard over the policy, if it has one.
    fn guard(&self, _now: Instant) -> Option<GuardView> {
        None
    }

    /// The predicted latencies of a backend: requests in flight, rising, and ms.
    fn predictions(&self, _backend: BackendId) -> Vec<(u32, f64)> {
        Vec::new()
    }

    /// Whether the policy's own traffic shows that the backend works. A lost ping is then no
    /// evidence against it; a refused one or an error response still is.
    fn vouches_for(&self, _now: Instant, _backend: BackendId) -> bool {
        false
    }

    /// The interval of pings that the policy wants, if it is shorter than the schedule's.
    fn ping_every(&self, _backend: BackendId) -> Option<Duration> {
        None
    }

    /// The standing of a backend, if the policy ejects backends by itself.
    fn watch(&self, _backend: BackendId) -> Option<&Watch> {
        None
    }

    /// The reasons of a backend's last ejection and return, if the policy ejects by itself.
    fn reasons(&self, _backend: BackendId) -> Option<&Reasons> {
        None
    }

    /// Whether the policy reversed ejections since the last call, because the other backends
    /// performed worse without the ejected ones.
    fn take_regret(&mut self) -> bool {
        false
    }
}

/// The services that a policy needs from the router with every request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Habits {
    /// Whether the gate restrains its choices, which only a policy with a current backend needs.
    /// For the first attempt of a request such a policy chooses the usable backend with the lowest
    /// score. The router takes that one from the table without a call of [`Policy::choose`].
    pub(crate) is_gated: bool,
    /// Whether it gets every request ([`Policy::on_dispatch`], [`Policy::on_outcome`]).
    pub(crate) listens: bool,
    /// Whether it ejects failing backends by itself and requests pings ([`Learner::ping_every`]).
    /// The router ejects for all other policies.
    pub(crate) guards_itself: bool,
}

impl Habits {
    /// The habits of a policy that is not gated and learns nothing from requests.
    pub(crate) const DEAF: Self = Self { is_gated: false, listens: false, guards_itself: false };
}

/// The decision of a policy.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Choice {
    pub(crate) backend: BackendId,
    /// The policy's token, which is returned at the end of the request.
    pub(crate) token: Token,
}

/// A request that has ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended<'a> {
    pub(crate) backend: BackendId,
    /// The token of the choice; 0 if another policy made it.
    pub(crate) token: Token,
    pub(crate) outcome: &'a Outcome,
    /// Time from the decision to the end, without waiting for the client.
    pub(crate) elapsed: Duration,
    /// Whether the backend sent an error that is not charged to it: the outcome shows nothing about
    /// errors, but the backend is not silent.
    pub(crate) is_excused: bool,
    /// The state of the backend after the end.
    pub(crate) facts: &'a Backend,
}

/// Why a policy that ejects by itself has last ejected a backend, and returned it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reasons {
    pub(crate) ejected: EjectReason,
    pub(crate) returned: ReturnReason,
}

impl Reasons {
    /// A placeholder before the first ejection.
    pub(crate) const NONE: Self = Self {
        ejected: EjectReason::Failures { in_row: 0, share: 0.0, others: None },
        returned: ReturnReason::Probation,
    };
}

impl Choice {
    pub(crate) const fn of(backend: BackendId) -> Self {
        Self { backend, token: 0 }
    }
}
