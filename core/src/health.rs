//! The health of a backend: whether it is believed to be able to serve.
//!
//! | state | ping succeeded | ping failed | refused connection, by ping or request |
//! |---|---|---|---|
//! | unknown | up | down after `fall` in a row | down |
//! | up | counts start again | down after `fall` in a row | down |
//! | down | up after `rise` in a row | counts start again | counts start again |
//! | awaited (down from the start) | up | awaited | awaited |
//!
//! Requests bring a backend down only by a refused connection, and never bring it up. While no
//! backend has ever passed a ping, a 404 or 405 shows that the path does not exist, not that the
//! backend is faulty. It does not bring a backend down, and counts as a success for a backend that
//! is down.
//!
//! A backend that is down refuses connections if the last ping or request found that no process
//! listens.
use crate::config::HealthRules;
use crate::event::ProbeFailure;

/// Whether a backend is believed to be able to serve.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Health {
    /// No ping has completed yet. The backend receives requests.
    Unknown,
    /// Pings succeed.
    Up,
    /// Pings fail or connections are refused. The backend receives requests only when no other
    /// backend can serve.
    Down,
}

impl Health {
    /// Whether the backend may receive requests: it is up or unknown.
    pub const fn is_usable(self) -> bool {
        !matches!(self, Self::Down)
    }
}

/// Tracks a backend's health by its pings and refused connections.
///
/// The methods for facts (`ping_answered`, `ping_failed`, `refused`) return whether the health
/// changed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct HealthTracker {
    state: State,
    /// Whether the last ping or request found that no process listens.
    is_refusing: bool,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Unknown {
        failures_in_row: u32,
    },
    Up {
        failures_in_row: u32,
    },
    Down {
        answers_in_row: u32,
    },
    /// Down until the first successful ping.
    Awaited,
}

impl Default for State {
    fn default() -> Self {
        Self::Unknown { failures_in_row: 0 }
    }
}

impl HealthTracker {
    /// The health of a backend that joins: unknown, or down until its first successful ping.
    pub(crate) const fn new(starts_down: bool) -> Self {
        let state =
            if starts_down { State::Awaited } else { State::Unknown { failures_in_row: 0 } };
        Self { state, is_refusing: false }
    }

    /// Records a successful ping.
    pub(crate) fn ping_answered(&mut self, rules: &HealthRules) -> bool {
        self.is_refusing = false;
        let state = match self.state {
            State::Down { answers_in_row } if answers_in_row + 1 < rules.rise => {
                State::Down { answers_in_row: answers_in_row + 1 }
            }
            State::Unknown { .. } | State::Up { .. } | State::Down { .. } | State::Awaited => {
                State::Up { failures_in_row: 0 }
            }
        };
        self.enter(state)
    }

    /// Records a ping for a path that no backend has.
    pub(crate) fn ping_unserved(&mut self, rules: &HealthRules) -> bool {
        self.is_refusing = false;
        let state = match self.state {
            State::Down { answers_in_row } if answers_in_row + 1 < rules.rise => {
                State::Down { answers_in_row: answers_in_row + 1 }
            }
            State::Unknown { .. } | State::Down { .. } => State::Unknown { failures_in_row: 0 },
            State::Up { .. } => State::Up { failures_in_row: 0 },
            State::Awaited => State::Awaited,
        };
        self.enter(state)
    }

    /// Records a failed ping.
    pub(crate) fn ping_failed(&mut self, cause: ProbeFailure, rules: &HealthRules) -> bool {
        self.is_refusing = cause == ProbeFailure::Refused;
        let is_last = |failures_in_row: u32| {
            cause == ProbeFailure::Refused || failures_in_row + 1 >= rules.fall
        };
        let state = match self.state {
            State::Unknown { failures_in_row } if !is_last(failures_in_row) => {
                State::Unknown { failures_in_row: failures_in_row + 1 }
            }
            State::Up { failures_in_row } if !is_last(failures_in_row) => {
                State::Up { failures_in_row: failures_in_row + 1 }
            }
            State::Unknown { .. } | State::Up { .. } | State::Down { .. } => {
                State::Down { answers_in_row: 0 }
            }
            State::Awaited => State::Awaited,
        };
        self.enter(state)
    }

    /// Records that a request's connection was refused: no process listens.
    pub(crate) fn refused(&mut self) -> bool {
        self.is_refusing = true;
        let state = match self.state {
            State::Awaited => State::Awaited,
            _ => State::Down { answers_in_row: 0 },
        };
        self.enter(state)
    }

    /// The current health.
    pub(crate) const fn health(&self) -> Health {
        match self.state {
            State::Unknown { .. } => Health::Unknown,
            State::Up { .. } => Health::Up,
            State::Down { .. } | State::Awaited => Health::Down,
        }
    }

    /// Whether it is down and the last contact found that no process listens.
    pub(crate) const fn is_refusing(&self) -> bool {
        self.is_refusing && !self.health().is_usable()
    }

    /// Whether the last pings contradict the current state without having changed it yet. The next
    /// ping should then come soon.
    pub(crate) const fn is_verdict_open(&self) -> bool {
        match self.state {
            State::Unknown { failures_in_row } | State::Up { failures_in_row } => {
                failures_in_row > 0
            }
            State::Down { answers_in_row } => answers_in_row > 0,
            State::Awaited => true,
        }
    }

    fn enter(&mut self, state: State) -> bool {
        let before = self.health();
        self.state = state;
        before != self.health()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every path of the table. Letters are pings (a succeeded, f failed, r refused, n had no path)
    /// and R is a request's refused connection; the health and whether the verdict is open follow.
    #[test]
    fn follows_the_table() {
        let cases = [
            ("", Health::Unknown, false),
            ("a", Health::Up, false),
            ("f", Health::Unknown, true),
            ("ff", Health::Unknown, true),
            ("fff", Health::Down, false),
            ("ffa", Health::Up, false),
            ("r", Health::Down, false),
            ("R", Health::Down, false),
            ("af", Health::Up, true),
            ("affaff", Health::Up, true),
            ("afff", Health::Down, false),
            ("aff", Health::Up, true),
            ("ar", Health::Down, false),
            ("aR", Health::Down, false),
            ("afffa", Health::Down, true),
            ("afffaf", Health::Down, false),
            ("afffar", Health::Down, false),
            ("afffaR", Health::Down, false),
            ("afffafa", Health::Down, true),
            ("afffaa", Health::Up, false),
            ("afffaaff", Health::Up, true),
            ("n", Health::Unknown, false),
            ("ffn", Health::Unknown, false),
            ("ffnff", Health::Unknown, true),
            ("rn", Health::Down, true),
            ("rnn", Health::Unknown, false),
            ("rnfn", Health::Down, true),
            ("rna", Health::Up, false),
            ("an", Health::Up, false),
        ];
        for (pings, health, is_open) in cases {
            let mut tracker = HealthTracker::default();
            follow(&mut tracker, pings);
            assert_eq!(tracker.health(), health, "{pings}");
            assert_eq!(tracker.is_verdict_open(), is_open, "{pings}");
        }
    }

    /// A backend that starts down is up with its first successful ping, whatever came before, and
    /// then is like any other.
    #[test]
    fn an_awaited_backend_is_down_until_its_first_good_ping() {
        for (pings, health, is_open) in [
            ("", Health::Down, true),
            ("fffffnrRf", Health::Down, true),
            ("a", Health::Up, false),
            ("fRna", Health::Up, false),
            ("aR", Health::Down, false),
            ("aRa", Health::Down, true),
        ] {
            let mut tracker = HealthTracker::new(true);
            follow(&mut tracker, pings);
            assert_eq!(tracker.health(), health, "{pings}");
            assert_eq!(tracker.is_verdict_open(), is_open, "{pings}");
        }
    }

    #[track_caller]
    fn follow(tracker: &mut HealthTracker, pings: &str) {
        let rules = HealthRules::default();
        for ping in pings.chars() {
            let before = tracker.health();
            let changed = match ping {
                'a' => tracker.ping_answered(&rules),
                'f' => tracker.ping_failed(ProbeFailure::TimedOut, &rules),
                'r' => tracker.ping_failed(ProbeFailure::Refused, &rules),
                'n' => tracker.ping_unserved(&rules),
                _ => tracker.refused(),
            };
            assert_eq!(changed, before != tracker.health(), "{pings}: the change is returned");
        }
    }

    /// A backend that is down refuses connections from a refused one until a ping that is answered
    /// or fails otherwise, even before its first good ping.
    #[test]
    fn refusing_lasts_until_other_news() {
        for (pings, is_refusing) in [
            ("", false),
            ("R", true),
            ("r", true),
            ("Rf", false),
            ("fffR", true),
            ("Ra", false),
            ("RaR", true),
            ("Rn", false),
        ] {
            for starts_down in [false, true] {
                let mut tracker = HealthTracker::new(starts_down);
                follow(&mut tracker, pings);
                assert_eq!(tracker.is_refusing(), is_refusing, "{pings} {starts_down}");
            }
        }
    }

    /// With `fall` and `rise` of 1, one ping decides and no verdict stays open.
    #[test]
    fn single_pings_decide() {
        let rules = HealthRules { fall: 1, rise: 1 };
        let mut tracker = HealthTracker::default();
        assert!(tracker.ping_failed(ProbeFailure::Status(500), &rules));
        assert_eq!(tracker.health(), Health::Down);
        assert!(tracker.ping_answered(&rules));
        assert_eq!(tracker.health(), Health::Up);
        assert!(!tracker.is_verdict_open());
    }
}
