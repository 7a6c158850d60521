//! Named outages that the demonstration causes in a simulated backend.
use crate::parameters::Parameters;

/// An outage. It affects pings and traffic until an order ends it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outage {
    /// Every response is late by 1.5 s.
    Slow,
    /// Four of five requests get status 500.
    Errors,
    /// No response comes for a minute: the connections stay open and nothing is sent.
    Silent,
    /// The backend has ended: its connections are cut and new ones are refused.
    Gone,
}

impl Outage {
    /// All outages, in the order of the demonstration.
    pub const ALL: [Self; 4] = [Self::Slow, Self::Errors, Self::Silent, Self::Gone];

    /// Returns its name in orders and log lines.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Slow => "slow",
            Self::Errors => "errors",
            Self::Silent => "silent",
            Self::Gone => "gone",
        }
    }

    /// Returns the outage with this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|outage| outage.name() == name)
    }

    /// Returns what happens, for a sentence that begins with the backend's name.
    pub const fn effect(self) -> &'static str {
        match self {
            Self::Slow => "responds 1.5 s late",
            Self::Errors => "responds 500 to four of five requests",
            Self::Silent => "sends nothing",
            Self::Gone => "refuses every connection",
        }
    }

    /// Returns the parameters of a backend that is usually `usual`; `None` if it has ended.
    pub(crate) fn parameters(self, usual: &Parameters) -> Option<Parameters> {
        let late = |slow_ms| Parameters { slow_rate: 1.0, slow_ms, ..usual.clone() };
        match self {
            Self::Slow => Some(late(1500)),
            Self::Errors => Some(Parameters { error_rate: 0.8, ..usual.clone() }),
            Self::Silent => Some(late(60_000)),
            Self::Gone => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each outage has a name that leads back, and valid parameters.
    #[test]
    fn outages_are_sound() {
        for outage in Outage::ALL {
            assert_eq!(Outage::named(outage.name()), Some(outage));
            let parameters = outage.parameters(&Parameters::default());
            assert!(parameters.is_none_or(|parameters| parameters.check().is_ok()));
        }
        assert_eq!(Outage::named("well"), None);
    }
}
