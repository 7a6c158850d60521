//! The parameters of a simulated backend, with defaults, presets and permitted ranges.
//!
//! The only table of ranges is here. The command line and [`Parameters::check`] both read it.
use std::error::Error;
use std::fmt;

/// The behaviour of a backend. All rates are shares from 0 to 1. The documentation of the [crate]
/// describes the channel and the queue.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameters {
    /// Chance per request that a good channel turns bad.
    pub p_g_to_b: f64,
    /// Chance per request that a bad channel turns good.
    pub p_b_to_g: f64,
    /// Share of requests lost while the channel is good.
    pub loss_in_g: f64,
    /// Share of requests lost while the channel is bad.
    pub loss_in_b: f64,
    /// Upper bound of the queue's random walk.
    pub queue_max: u32,
    /// Share of requests that get status 500.
    pub error_rate: f64,
    /// Share of requests whose response is delayed by `slow_ms`.
    pub slow_rate: f64,
    /// Delay of a slow response, in milliseconds.
    pub slow_ms: u32,
    /// CPU work of each request, in milliseconds of an undisturbed core.
    pub cpu_load_ms: u32,
    /// Additional loss with the queue at its maximum.
    pub overload_drop_multiplier: f64,
    /// The requests that have faults.
    pub faults: Faults,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            p_g_to_b: 0.03,
            p_b_to_g: 0.08,
            loss_in_g: 0.01,
            loss_in_b: 0.45,
            queue_max: 80,
            error_rate: 0.03,
            slow_rate: 0.08,
            slow_ms: 600,
            cpu_load_ms: 0,
            overload_drop_multiplier: 0.6,
            faults: Faults::All,
        }
    }
}

impl Parameters {
    /// Returns parameters without faults and delays, for tests.
    pub fn faultless() -> Self {
        Self {
            p_g_to_b: 0.0,
            p_b_to_g: 0.0,
            loss_in_g: 0.0,
            loss_in_b: 0.0,
            error_rate: 0.0,
            slow_rate: 0.0,
            slow_ms: 0,
            overload_drop_multiplier: 0.0,
            ..Self::default()
        }
    }

    /// Refuses values out of their range. The error names the first one.
    pub fn check(&self) -> Result<(), ParameterError> {
        let mut copy = self.clone();
        for range in &RANGES {
            let is_allowed = match range.field {
                Field::Fraction(field) => (0.0..=1.0).contains(field(&mut copy)),
                Field::Whole { field, min, max } => (min..=max).contains(field(&mut copy)),
            };
            if !is_allowed {
                return Err(ParameterError { name: range.name, allowed: range.allowed() });
            }
        }
        Ok(())
    }
}

/// The requests that have faults.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Faults {
    /// Only pings (`/health`). Traffic gets its response at once.
    Health,
    /// Pings and traffic.
    All,
}

/// One of the two servers of the demonstration. They differ enough to make routing worthwhile.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Preset {
    /// Port 3000: rarely slow, by a short time; 16 ms of CPU work per request.
    A,
    /// Port 3002: often slow, by a long time; 8 ms of CPU work per request.
    B,
}

impl Preset {
    /// Returns this server's port.
    pub fn port(self) -> u16 {
        match self {
            Self::A => 3000,
            Self::B => 3002,
        }
    }

    /// Returns the parameters of this server.
    pub fn parameters(self) -> Parameters {
        let (slow_rate, slow_ms, cpu_load_ms) = match self {
            Self::A => (0.04, 300, 16),
            Self::B => (0.12, 850, 8),
        };
        Parameters { slow_rate, slow_ms, cpu_load_ms, ..Parameters::default() }
    }
}

/// A parameter out of its range.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ParameterError {
    name: &'static str,
    allowed: String,
}

impl fmt::Display for ParameterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} must be {}", self.name, self.allowed)
    }
}

impl Error for ParameterError {}

/// A parameter with its environment variable, its range and its help.
pub(crate) struct Range {
    pub(crate) name: &'static str,
    pub(crate) field: Field,
    pub(crate) help: &'static str,
}

impl Range {
    pub(crate) fn allowed(&self) -> String {
        match self.field {
            Field::Fraction(_) => "a number from 0 to 1".to_owned(),
            Field::Whole { min, max, .. } => format!("a whole number from {min} to {max}"),
        }
    }
}

/// The place of a parameter, with its type and bounds.
#[derive(Clone, Copy)]
pub(crate) enum Field {
    Fraction(fn(&mut Parameters) -> &mut f64),
    Whole { field: fn(&mut Parameters) -> &mut u32, min: u32, max: u32 },
}

/// Every parameter with a range, in the order of the help text.
pub(crate) const RANGES: [Range; 10] = [
    Range {
        name: "P_G_TO_B",
        field: Field::Fraction(|p| &mut p.p_g_to_b),
        help: "chance per request that a good channel turns bad",
    },
    Range {
        name: "P_B_TO_G",
        field: Field::Fraction(|p| &mut p.p_b_to_g),
        help: "chance per request that a bad channel turns good",
    },
    Range {
        name: "LOSS_IN_G",
        field: Field::Fraction(|p| &mut p.loss_in_g),
        help: "loss while the channel is good",
    },
    Range {
        name: "LOSS_IN_B",
        field: Field::Fraction(|p| &mut p.loss_in_b),
        help: "loss while the channel is bad",
    },
    Range {
        name: "SIM_QUEUE_MAX",
        field: Field::Whole { field: |p| &mut p.queue_max, min: 1, max: 1_000_000 },
        help: "upper bound of the queue's random walk",
    },
    Range {
        name: "ERR_RATE",
        field: Field::Fraction(|p| &mut p.error_rate),
        help: "share of requests that get status 500",
    },
    Range {
        name: "SLOW_RATE",
        field: Field::Fraction(|p| &mut p.slow_rate),
        help: "share of requests with a slow response",
    },
    Range {
        name: "SLOW_MS",
        field: Field::Whole { field: |p| &mut p.slow_ms, min: 0, max: 600_000 },
        help: "delay of a slow response, in ms",
    },
    Range {
        name: "CPU_LOAD_MS",
        field: Field::Whole { field: |p| &mut p.cpu_load_ms, min: 0, max: 60_000 },
        help: "CPU work of each request, in ms",
    },
    Range {
        name: "OVERLOAD_DROP_MULTIPLIER",
        field: Field::Fraction(|p| &mut p.overload_drop_multiplier),
        help: "extra loss with a full queue; falls to 0 at 80 % of its maximum",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    /// Every range accepts its two ends and refuses values just outside, and the error names its
    /// variable. Each row changes one field of valid parameters.
    #[test]
    fn ranges_hold_at_both_ends() {
        for range in &RANGES {
            let refused = |change: &dyn Fn(&mut Parameters)| {
                let mut parameters = Parameters::default();
                change(&mut parameters);
                parameters.check().err().map(|error| error.name)
            };
            match range.field {
                Field::Fraction(field) => {
                    for good in [0.0, 1.0] {
                        assert_eq!(refused(&|p| *field(p) = good), None, "{}", range.name);
                    }
                    for bad in [-0.001, 1.001, f64::NAN, f64::INFINITY] {
                        assert_eq!(refused(&|p| *field(p) = bad), Some(range.name));
                    }
                }
                Field::Whole { field, min, max } => {
                    for good in [min, max] {
                        assert_eq!(refused(&|p| *field(p) = good), None, "{}", range.name);
                    }
                    assert_eq!(refused(&|p| *field(p) = max + 1), Some(range.name));
                    if let Some(below) = min.checked_sub(1) {
                        assert_eq!(refused(&|p| *field(p) = below), Some(range.name));
                    }
                }
            }
        }
    }

    /// The presets are valid, have their documented ports, and differ only as documented: B is more
    /// often slow, by more, and works less. The faultless parameters are valid and have no fault.
    #[test]
    fn presets_are_sound() {
        let (a, b) = (Preset::A.parameters(), Preset::B.parameters());
        for parameters in [&a, &b, &Parameters::faultless()] {
            assert_eq!(parameters.check(), Ok(()));
        }
        assert_eq!((Preset::A.port(), Preset::B.port()), (3000, 3002));
        assert!(a.slow_rate < b.slow_rate && a.slow_ms < b.slow_ms);
        assert_eq!((a.cpu_load_ms, b.cpu_load_ms), (16, 8));
        for Parameters { slow_rate, slow_ms, cpu_load_ms, .. } in [a.clone(), b.clone()] {
            let usual = Parameters { slow_rate, slow_ms, cpu_load_ms, ..Parameters::default() };
            assert!(a == usual || b == usual, "{usual:?}");
        }
        let mut faultless = Parameters::faultless();
        let is_fault = |range: &&Range| !["P_B_TO_G", "SIM_QUEUE_MAX"].contains(&range.name);
        for range in RANGES.iter().filter(is_fault) {
            let value = match range.field {
                Field::Fraction(field) => *field(&mut faultless),
                Field::Whole { field, .. } => f64::from(*field(&mut faultless)),
            };
            assert_eq!(value, 0.0, "{}", range.name);
        }
    }
}
