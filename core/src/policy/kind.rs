//! The names of the policies.
use serde::{Deserialize, Serialize};

/// What ranks the backends.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyKind {
    /// The lowest score, held steady by threshold and cooldown.
    #[default]
    Score,
    /// The shortest delay expected under a model learned from completions.
    Learned,
    /// The highest value by weights learned from rewards.
    LinearRl,
    /// The fewest requests in flight.
    LeastRequest,
    /// Of two drawn at random, the one with fewer requests in flight.
    P2c,
    /// Of two drawn at random, the one with the smaller peak answer time times requests in flight.
    PeakEwma,
    /// The fastest of those that are not hot, by a pool of load probes.
    Prequal,
    /// By turns.
    RoundRobin,
    /// At random.
    Random,
}

impl PolicyKind {
    /// All of them.
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
}
