//! Contenders: the parties that choose backends for requests.
use std::fmt;

use intelliproxy_core::PolicyKind;

use super::peer::PeerKind;

/// A party that chooses backends for requests.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Contender {
    /// Knows every true speed, queue and fault at once, across all proxies. It sends each request
    /// to the backend with the least expected delay, with failures at their charge. As it is
    /// greedy, it is a reference and not a lower bound.
    Oracle,
    /// Knows every true speed and fault, but only the queues that one proxy can know: those of its
    /// own requests. It assumes that the other proxies behave like itself. It is the reference for
    /// fleets. With a single proxy it knows everything except the responses in transit.
    LocalOracle,
    /// Like [`LocalOracle`](Self::LocalOracle), but it has to observe first. It knows the speed of
    /// a backend after the first response. It knows a fault after the first response to a request
    /// sent since the fault began, or once that response is overdue. No learner can know earlier.
    /// It knows the end of a fault at once.
    LearningOracle,
    /// A policy of the core, in a router for each proxy.
    Policy(PolicyKind),
    /// The same policy with other random draws of its own. The difference between the two is the
    /// noise of a comparison. It can be selected only by name: [`all`](Self::all) omits it.
    Again(PolicyKind),
    /// The balancing of another product.
    Peer(PeerKind),
    /// `learned` with inverted costs, under its guard: shows the value of the guard. It can be
    /// selected only by name: [`all`](Self::all) omits it.
    BrokenLearner,
}

impl Contender {
    /// Returns the oracle and every policy of the core.
    pub fn all() -> Vec<Self> {
        let policies = PolicyKind::ALL.into_iter().map(Self::Policy);
        [Self::Oracle].into_iter().chain(policies).collect()
    }

    /// Returns the other baselines: other products, and the oracles of one proxy.
    pub fn baselines() -> Vec<Self> {
        let peers = PeerKind::ALL.into_iter().map(Self::Peer);
        peers.chain([Self::LocalOracle, Self::LearningOracle]).collect()
    }

    /// Returns the contender of this name.
    pub fn named(name: &str) -> Option<Self> {
        if name == ORACLE {
            return Some(Self::Oracle);
        }
        let mut baselines = Self::baselines().into_iter();
        if let Some(baseline) = baselines.find(|baseline| baseline.to_string() == name) {
            return Some(baseline);
        }
        if name == BROKEN_LEARNER {
            return Some(Self::BrokenLearner);
        }
        if let Some(policy) = name.strip_suffix(AGAIN) {
            return PolicyKind::named(policy).map(Self::Again);
        }
        PolicyKind::named(name).map(Self::Policy)
    }
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Oracle => f.pad(ORACLE),
            Self::LocalOracle => f.pad(LOCAL_ORACLE),
            Self::LearningOracle => f.pad(LEARNING_ORACLE),
            Self::BrokenLearner => f.pad(BROKEN_LEARNER),
            Self::Peer(kind) => f.pad(kind.name()),
            Self::Policy(policy) => f.pad(policy.name()),
            Self::Again(policy) => f.pad(&format!("{}{AGAIN}", policy.name())),
        }
    }
}

const ORACLE: &str = "oracle";
const LOCAL_ORACLE: &str = "local_oracle";
const LEARNING_ORACLE: &str = "learning_oracle";
const BROKEN_LEARNER: &str = "broken_learner";
const AGAIN: &str = "_again";

#[cfg(test)]
mod tests {
    use super::*;

    /// Every contender is found by its name. The oracle is the first, and the default policy is
    /// among them. An unknown name gives `None`.
    #[test]
    fn names_lead_back() {
        let all = Contender::all();
        assert_eq!(all[0], Contender::Oracle);
        assert!(all.contains(&Contender::Policy(PolicyKind::default())));
        let unlisted = [Contender::BrokenLearner, Contender::Again(PolicyKind::P2c)];
        let others = Contender::baselines().into_iter().chain(unlisted);
        for contender in all.into_iter().chain(others) {
            assert_eq!(Contender::named(&contender.to_string()), Some(contender));
        }
        assert_eq!(Contender::named("nobody"), None);
    }
}
