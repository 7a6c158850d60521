//! Marks on requests, combined by bits.
use crate::event::RouteReason;
use crate::id::Token;

pub(super) const LEARNER: Token = 1;
pub(super) const CONTROL: Token = 2;
pub(super) const PROBATION: Token = 4;
pub(super) const IDLE_TRIAL: Token = 8;

/// The rule behind a choice with this mark.
pub(super) const fn reason(token: Token) -> RouteReason {
    if token & CONTROL != 0 {
        RouteReason::Control
    } else if token & (PROBATION | IDLE_TRIAL) != 0 {
        RouteReason::Trial
    } else {
        RouteReason::Policy
    }
}
