//! The registry of policies: the list, and a constructor for each.
//!
//! [`contract`] defines what the router expects of a policy, [`candidates`] what a policy sees of
//! the backends. A new policy is a file here, its name in [`kind`] and its lines in this file:
//! module, view and [`new`]. Its own rules are in `NAME/rules.rs`, below
//! [`config`](crate::config), which has a field for them.
mod candidates;
mod contract;
pub(crate) mod kind;
pub(crate) mod learned;
mod least_request;
pub(crate) mod linear_rl;
mod p2c;
pub(crate) mod peak_ewma;
pub(crate) mod prequal;
mod random;
mod round_robin;
mod rows;
mod score;
pub(crate) mod state;

use self::kind::PolicyKind;
use crate::config::Rules;

pub(crate) use self::candidates::Candidates;
pub(crate) use self::contract::{Ended, Habits, Learner, Policy};
pub use self::learned::{GuardView, LearnedStanding, LearnedView};
pub use self::least_request::LeastRequestView;
pub use self::linear_rl::LinearRlView;
pub use self::p2c::P2cView;
pub use self::peak_ewma::PeakEwmaView;
pub use self::prequal::PrequalView;
pub use self::round_robin::RoundRobinView;
pub use self::score::ScoreView;
pub use self::state::{
    LearnedBackendState, LearnedPolicyState, PolicyState, PolicyStateError, StateOf,
};

/// A policy's view of one backend. The variant names the policy.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum PolicyView {
    /// `score`.
    Score(ScoreView),
    /// `learned`.
    Learned(LearnedView),
    /// `linear_rl`.
    LinearRl(LinearRlView),
    /// `least_request`.
    LeastRequest(LeastRequestView),
    /// `p2c`.
    P2c(P2cView),
    /// `peak_ewma`.
    PeakEwma(PeakEwmaView),
    /// `prequal`.
    Prequal(PrequalView),
    /// `round_robin`.
    RoundRobin(RoundRobinView),
    /// `random`, which has no reason.
    Random,
}

impl PolicyView {
    /// The policy that gives this reason.
    pub const fn kind(&self) -> PolicyKind {
        match self {
            Self::Score(_) => PolicyKind::Score,
            Self::Learned(_) => PolicyKind::Learned,
            Self::LinearRl(_) => PolicyKind::LinearRl,
            Self::LeastRequest(_) => PolicyKind::LeastRequest,
            Self::P2c(_) => PolicyKind::P2c,
            Self::PeakEwma(_) => PolicyKind::PeakEwma,
            Self::Prequal(_) => PolicyKind::Prequal,
            Self::RoundRobin(_) => PolicyKind::RoundRobin,
            Self::Random => PolicyKind::Random,
        }
    }
}

/// A new policy for these rules, without any learned state.
pub(crate) fn new(rules: &Rules) -> Box<dyn Policy> {
    match rules.policy {
        PolicyKind::Score => Box::new(score::Score::new(rules)),
        PolicyKind::Learned => Box::new(learned::Learned::new(rules)),
        PolicyKind::LeastRequest => Box::new(least_request::LeastRequest),
        PolicyKind::P2c => Box::new(p2c::P2c),
        PolicyKind::PeakEwma => Box::new(peak_ewma::PeakEwma::new(rules)),
        PolicyKind::LinearRl => Box::new(linear_rl::LinearRl::new(rules)),
        PolicyKind::Prequal => Box::new(prequal::Prequal::new(rules)),
        PolicyKind::RoundRobin => Box::new(round_robin::RoundRobin::new()),
        PolicyKind::Random => Box::new(random::Random),
    }
}

/// A learner with inverted costs, regardless of the policy in the rules.
pub(crate) fn broken_learner(rules: &Rules) -> Box<dyn Policy> {
    Box::new(learned::Learned::inverted(rules))
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
