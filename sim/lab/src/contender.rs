//! Contenders: the deciders about requests.
use std::fmt;

use intelliproxy_core::PolicyKind;

use super::peer::PeerKind;

/// A decider about requests.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Contender {
    /// Knows every true speed, queue and fault at once, of all proxies together, and sends each
    /// request where its expected delay is least, failures at their charge. Greedy: a reference,
    /// not a bound.
    Oracle,
    /// Knows every true speed and fault, and of the queues only what one proxy can: its own
    /// requests. Of several proxies each takes the others to be like itself. The reference for
    /// fleets; with one proxy it knows all but which of its
    /// requests are on their way back.
    LocalOracle,
    /// A policy of the core, in a router for each proxy.
    Policy(PolicyKind),
    /// The balancing of another product.
    Peer(PeerKind),
    /// `learned` with its costs inverted, under its guard: shows what the guard is worth. Only by
    /// its name, [`all`](Self::all) leaves it out.
    BrokenLearner,
}

impl Contender {
    /// The oracle and every policy that the core offers.
    pub fn all() -> Vec<Self> {
        let policies = PolicyKind::ALL.into_iter().map(Self::Policy);
        [Self::Oracle].into_iter().chain(policies).collect()
    }

    /// The baselines beside these: other products, and the oracle of one proxy.
    pub fn baselines() -> Vec<Self> {
        let peers = PeerKind::ALL.into_iter().map(Self::Peer);
        peers.chain([Self::LocalOracle]).collect()
    }

    /// The contender of this name.
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
        PolicyKind::named(name).map(Self::Policy)
    }
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Oracle => f.pad(ORACLE),
            Self::LocalOracle => f.pad(LOCAL_ORACLE),
            Self::BrokenLearner => f.pad(BROKEN_LEARNER),
            Self::Peer(kind) => f.pad(kind.name()),
            Self::Policy(policy) => f.pad(policy.name()),
        }
    }
}

const ORACLE: &str = "oracle";
const LOCAL_ORACLE: &str = "local_oracle";
const BROKEN_LEARNER: &str = "broken_learner";

#[cfg(test)]
mod tests {
    use super::*;

    /// Every contender is found by its own name, the oracle first and the default policy among
    /// them; an unknown name gives none.
    #[test]
    fn names_lead_back() {
        let all = Contender::all();
        assert_eq!(all[0], Contender::Oracle);
        assert!(all.contains(&Contender::Policy(PolicyKind::default())));
        let others = Contender::baselines().into_iter().chain([Contender::BrokenLearner]);
        for contender in all.into_iter().chain(others) {
            assert_eq!(Contender::named(&contender.to_string()), Some(contender));
        }
        assert_eq!(Contender::named("nobody"), None);
    }
}
