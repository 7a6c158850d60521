//! The marks of `learned`: bits of the token that is returned at the end of a request.
use crate::event::RouteReason;
use crate::id::Token;

/// Routed while the learner was in charge: its cost counts for the learner in the guard.
pub(super) const LEARNER: Token = 1;
/// Routed by `least_request` for the guard's comparison.
pub(super) const CONTROL: Token = 2;
/// A trial of a backend on probation.
pub(super) const PROBATION: Token = 4;
/// A trial of an idle backend, or a request of the series after it.
pub(super) const IDLE_TRIAL: Token = 8;

/// The rule that made the choice with this token.
pub(in crate::policy) const fn reason(token: Token) -> RouteReason {
    if token & CONTROL != 0 {
        RouteReason::Control
    } else if token & (PROBATION | IDLE_TRIAL) != 0 {
        RouteReason::Trial
    } else {
        RouteReason::Policy
    }
}
