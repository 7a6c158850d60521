//! The names of the policies.
use serde::{Deserialize, Serialize};

/// The policy that ranks the backends.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyKind {
    /// The lowest score, steadied by threshold and cooldown.
    #[default]
    Score,
    /// The shortest expected delay under a model that is learned from completions.
    Learned,
    /// The highest value under weights that are learned from rewards.
    LinearRl,
    /// The fewest requests in flight.
    LeastRequest,
    /// Of two backends drawn at random, the one with fewer requests in flight.
    P2c,
    /// Of two backends drawn at random, the one with the smaller product of peak response time and
    /// requests in flight.
    PeakEwma,
    /// The fastest of the backends that are not hot, by a pool of load probes.
    Prequal,
    /// All backends in turn.
    RoundRobin,
    /// A random backend.
    Random,
}

impl PolicyKind {
    /// All policies.
    pub const ALL: [Self; 9] = [
        Self::Score,
        Self::Learned,
        Self::LinearRl,
        Self::LeastRequest,
        Self::P2c,
        Self::PeakEwma,
        Self::Prequal,
        Self::RoundRobin,
        Self::Random,
    ];

    /// The name in configurations.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Score => "score",
            Self::Learned => "learned",
            Self::LinearRl => "linear_rl",
            Self::LeastRequest => "least_request",
            Self::P2c => "p2c",
            Self::PeakEwma => "peak_ewma",
            Self::Prequal => "prequal",
            Self::RoundRobin => "round_robin",
            Self::Random => "random",
        }
    }

    /// The policy with this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|policy| policy.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each name is the one that serde reads and writes.
    #[test]
    fn names_are_those_of_configurations() {
        for policy in PolicyKind::ALL {
            let json = serde_json::to_value(policy).expect("plain data");
            assert_eq!(json, policy.name());
            assert_eq!(PolicyKind::named(policy.name()), Some(policy));
        }
        assert_eq!(PolicyKind::named("best"), None);
    }
}
