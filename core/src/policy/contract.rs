//! The contract between a policy and the router.
//!
//! A [`Policy`] ranks backends: health filters before it, the gate restrains `score` after it, the
//! router combines. It sees the usable backends ([`Candidates`]), the starts and ends of requests,
//! and the pings. It has no timer. The same calls with the same seed give the same choices.
//!
//! Beside its choices a policy has these influences: it says which backends are full
//! ([`Policy::is_full`], [`Policy::overflow`]); a [`Learner`] also vouches for backends against
//! lost pings, wishes for pings, and ejects backends by itself.
use std::fmt::Debug;
use std::time::Duration;

use crate::backend::Backend;
use crate::config::Rules;
use crate::event::Outcome;
use crate::id::{BackendId, Token};
use crate::outlier::Watch;
use crate::policy::candidates::Candidates;
use crate::policy::state::{PolicyStateError, StateOf};
use crate::policy::{GuardView, PolicyView};
use crate::rng::Rng;
use crate::time::Instant;

/// Ranks candidates.
///
/// The router tells it of every backend (`on_join` before anything else), of every request
/// (`on_dispatch`, then once `on_outcome`) and of every ping.
pub(crate) trait Policy: Debug + Send + Sync {
    /// Returns the candidate for this request; `None` only without candidates.
    fn choose(
        &mut self,
        now: Instant,
        candidates: &Candidates<'_>,
        rng: &mut Rng,
    ) -> Option<Choice>;

    /// Takes new rules; what was learned stays.
    fn reconfigure(&mut self, _rules: &Rules) {}

    /// A backend entered the configuration, or the policy came into use, with `in_flight` requests
    /// out.
    fn on_join(&mut self, _now: Instant, _backend: BackendId, _in_flight: u32) {}

    /// A backend left the configuration; its requests still end.
    fn on_leave(&mut self, _now: Instant, _backend: BackendId) {}

    /// A backend went down or came up.
    fn on_health(&mut self, _now: Instant, _backend: BackendId, _is_up: bool) {}

    /// A backend that the router had ejected is back: what it failed is of the past.
    fn on_return(&mut self, _now: Instant, _backend: BackendId) {}

    /// A request went to this backend.
    fn on_dispatch(&mut self, _now: Instant, _backend: BackendId) {}

    /// A request waits for its client from now on, or has become a stream: it is no work for its
    /// backend.
    fn on_pause(&mut self, _now: Instant, _backend: BackendId) {}

    /// A request that waited for its client is work again, or about to end.
    fn on_resume(&mut self, _now: Instant, _backend: BackendId) {}

    /// A request came to its end.
    fn on_outcome(&mut self, _now: Instant, _ended: &Ended<'_>) {}

    /// A ping ended; `facts` is the backend after it.
    fn on_ping(&mut self, _now: Instant, _backend: BackendId, _is_good: bool, _facts: &Backend) {}

    /// Whether a backend has as many requests in flight as it can work on at once, as far as the
    /// policy knows. Recent refusals (`turned_away`) count as if they were in flight.
    fn is_full(&self, _backend: BackendId, _turned_away: u32) -> bool {
        false
    }

    /// The backend for a single request that finds the current backend full: the one with the least
    /// expected delay, which may be the current one.
    fn overflow(
        &mut self,
        _now: Instant,
        _current: BackendId,
        _candidates: &Candidates<'_>,
        _rng: &mut Rng,
    ) -> Option<Choice> {
        None
    }

    /// Returns the services that it needs from the router; constant for a policy's life.
    fn habits(&self) -> Habits {
        Habits { is_gated: false, listens: true, guards_itself: false }
    }

    /// Its learning part; `None` when it keeps nothing.
    fn learner(&self) -> Option<&dyn Learner> {
        None
    }

    /// The same, to be changed.
    fn learner_mut(&mut self) -> Option<&mut dyn Learner> {
        None
    }

    /// Its reason for or against this backend, as of `now`.
    fn view(&self, now: Instant, id: BackendId, backend: &Backend) -> PolicyView;
}

/// The further contract of a policy that learns: a state to keep, a guard over it, backends that it
/// ejects by itself, and wishes for pings.
///
/// All but the state is optional.
pub(crate) trait Learner {
    /// Returns what it has learned, backends by name.
    fn state(&self, name: &dyn Fn(BackendId) -> Option<String>) -> StateOf;

    /// Takes in what it learned before, backends by name.
    ///
    /// # Errors
    /// When it is another policy's, or has a number that cannot have been learned; then nothing has
    /// changed.
    fn restore(
        &mut self,
        state: &StateOf,
        name: &dyn Fn(BackendId) -> Option<String>,
    ) -> Result<(), PolicyStateError>;

    /// Returns the state of the guard over it, if it has one.
    fn guard(&self, _now: Instant) -> Option<GuardView> {
        None
    }

    /// Whether it has seen for itself that this backend works, so that a ping that was lost (and
    /// not answered badly or refused) is no evidence against it.
    fn vouches_for(&self, _now: Instant, _backend: BackendId) -> bool {
        false
    }

    /// Returns the wanted interval of pings, if shorter than the schedule's.
    fn ping_every(&self, _backend: BackendId) -> Option<Duration> {
        None
    }

    /// The standing of a backend, where the policy ejects backends by itself.
    fn watch(&self, _backend: BackendId) -> Option<&Watch> {
        None
    }

    /// Whether it has taken ejections back because the others did worse without the ejected ones;
    /// asking takes the answer.
    fn take_regret(&mut self) -> bool {
        false
    }
}

/// Services that a policy needs from the router at every request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Habits {
    /// Whether the gate restrains its choices: only a policy that sends everything to one backend
    /// needs steadying.
    pub(crate) is_gated: bool,
    /// Whether it wants to know of requests ([`Policy::on_dispatch`], [`Policy::on_outcome`]).
    pub(crate) listens: bool,
    /// Whether it ejects backends that fail by itself, and has wishes for pings
    /// ([`Learner::ping_every`]); the router ejects for all others.
    pub(crate) guards_itself: bool,
}

impl Habits {
    /// Those of a policy that is not gated and learns nothing from requests.
    pub(crate) const DEAF: Self = Self { is_gated: false, listens: false, guards_itself: false };
}

/// Decision of a policy.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Choice {
    pub(crate) backend: BackendId,
    /// The policy's mark, returned at the request's end.
    pub(crate) token: Token,
}

/// A request that came to its end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended<'a> {
    pub(crate) backend: BackendId,
    /// Of the choice; 0 when another policy made it.
    pub(crate) token: Token,
    pub(crate) outcome: &'a Outcome,
    /// From the decision to this end, without the time for which it waited for its client.
    pub(crate) elapsed: Duration,
    /// The backend after it.
    pub(crate) facts: &'a Backend,
}

impl Choice {
    pub(crate) const fn of(backend: BackendId) -> Self {
        Self { backend, token: 0 }
    }
}
