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
//! listens. A response to a later request shows at once that one listens again.
use crate::config::HealthRules;
use crate::event::ProbeFailure;
use crate::time::Instant;

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
    /// Present if the last ping or request found that no process listens.
    refusal: Option<Refusal>,
}

/// The finding that no process listens.
#[derive(Clone, Copy, Debug)]
struct Refusal {
    /// The time of the last refused connection.
    at: Instant,
    /// That time, or the time at which a later request failed without a response.
    failed_at: Instant,
    /// Whether a request found it, and not only pings.
    is_of_request: bool,
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
        Self { state, refusal: None }
    }

    /// Records a successful ping.
    pub(crate) fn ping_answered(&mut self, rules: &HealthRules) -> bool {
        self.refusal = None;
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
        self.refusal = None;
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

    /// Records a failed ping. One that went to another port than requests (`is_elsewhere`) does not
    /// show whether a process listens for requests.
    pub(crate) fn ping_failed(
        &mut self,
        now: Instant,
        cause: ProbeFailure,
        is_elsewhere: bool,
        rules: &HealthRules,
    ) -> bool {
        match cause {
            _ if is_elsewhere => {}
            ProbeFailure::Refused => self.note_refusal(now, false),
            _ => self.refusal = None,
        }
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
    pub(crate) fn refused(&mut self, now: Instant) -> bool {
        self.note_refusal(now, true);
        let state = match self.state {
            State::Awaited => State::Awaited,
            _ => State::Down { answers_in_row: 0 },
        };
        self.enter(state)
    }

    /// Records that a request failed without a response.
    pub(crate) const fn failed(&mut self, now: Instant) {
        if let Some(refusal) = &mut self.refusal {
            refusal.failed_at = now;
        }
    }

    /// Records a response to a request that was sent at `sent_at`. Returns whether it shows that a
    /// process listens again. A request from before the refusal shows an earlier state: a process
    /// that stops refuses connections and still completes its responses.
    pub(crate) fn responded(&mut self, sent_at: Instant) -> bool {
        let is_back = self.refusal.is_some_and(|refusal| sent_at >= refusal.at);
        if is_back {
            self.refusal = None;
        }
        is_back
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
        self.refusal.is_some() && !self.health().is_usable()
    }

    /// Whether a request found that no process listens, and no contact since then showed otherwise.
    pub(crate) fn has_refused_request(&self) -> bool {
        self.refusal.is_some_and(|refusal| refusal.is_of_request)
    }

    /// The time at which a ping or a request last failed at a backend where no process listens.
    pub(crate) fn failed_at(&self) -> Instant {
        self.refusal.map_or(Instant::ZERO, |refusal| refusal.failed_at)
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

    fn note_refusal(&mut self, now: Instant, is_of_request: bool) {
        let is_known = self.has_refused_request();
        let is_of_request = is_of_request || is_known;
        self.refusal = Some(Refusal { at: now, failed_at: now, is_of_request });
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

    /// Every path of the table. Letters are pings (a succeeded, f failed, r refused, e refused at
    /// another port than that of requests, n had no path) and requests (R refused, F failed without
    /// a response, S and O got a response and were sent now, or before all others). The health and
    /// whether the verdict is open follow.
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
            ("e", Health::Down, false),
            ("RS", Health::Down, false),
            ("aF", Health::Up, false),
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
        for (ping, at) in pings.chars().zip(1..) {
            let now = Instant::from_millis(at);
            let before = tracker.health();
            let changed = match ping {
                'a' => tracker.ping_answered(&rules),
                'f' => tracker.ping_failed(now, ProbeFailure::TimedOut, false, &rules),
                'r' => tracker.ping_failed(now, ProbeFailure::Refused, false, &rules),
                'e' => tracker.ping_failed(now, ProbeFailure::Refused, true, &rules),
                'n' => tracker.ping_unserved(&rules),
                'R' => tracker.refused(now),
                'S' | 'O' => {
                    let sent_at = if ping == 'S' { now } else { Instant::ZERO };
                    let was_refusing = tracker.is_refusing();
                    let is_back = tracker.responded(sent_at);
                    assert_eq!(is_back, was_refusing && !tracker.is_refusing(), "{pings}");
                    false
                }
                _ => {
                    tracker.failed(now);
                    false
                }
            };
            assert_eq!(changed, before != tracker.health(), "{pings}: the change is returned");
        }
    }

    /// A backend that is down refuses connections from a refused one until a ping that is answered
    /// or fails otherwise, or a response to a later request, even before its first good ping. The
    /// time of the last failure and whether a request was refused follow.
    #[test]
    fn refusing_lasts_until_other_news() {
        for (pings, is_refusing, failed_at, has_refused_request) in [
            ("", false, 0, false),
            ("R", true, 1, true),
            ("r", true, 1, false),
            ("e", false, 0, false),
            ("Re", true, 1, true),
            ("Rf", false, 0, false),
            ("fffR", true, 4, true),
            ("Ra", false, 0, false),
            ("RaR", true, 3, true),
            ("Rn", false, 0, false),
            ("RS", false, 0, false),
            ("rS", false, 0, false),
            ("RO", true, 1, true),
            ("RSr", true, 3, false),
            ("RrO", true, 2, true),
            ("RrF", true, 3, true),
            ("rrF", true, 3, false),
            ("rFS", false, 0, false),
            ("FS", false, 0, false),
        ] {
            for starts_down in [false, true] {
                let mut tracker = HealthTracker::new(starts_down);
                follow(&mut tracker, pings);
                assert_eq!(tracker.is_refusing(), is_refusing, "{pings} {starts_down}");
                assert_eq!(tracker.failed_at(), Instant::from_millis(failed_at), "{pings}");
                assert_eq!(tracker.has_refused_request(), has_refused_request, "{pings}");
            }
        }
    }

    /// With `fall` and `rise` of 1, one ping decides and no verdict stays open.
    #[test]
    fn single_pings_decide() {
        let rules = HealthRules { fall: 1, rise: 1 };
        let mut tracker = HealthTracker::default();
        let now = Instant::ZERO;
        assert!(tracker.ping_failed(now, ProbeFailure::Status(500), false, &rules));
        assert_eq!(tracker.health(), Health::Down);
        assert!(tracker.ping_answered(&rules));
        assert_eq!(tracker.health(), Health::Up);
        assert!(!tracker.is_verdict_open());
    }
}
