//! The state of a backend as one word, for /stats and the live page.
use std::time::Duration;

use intelliproxy_core::{BackendSnapshot, Health, LearnedStanding, Mode, PolicyView, StandingView};

/// The state of a backend. If several apply, the most important one is used, in the order of
/// [`Condition::of`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum State {
    Up,
    Current,
    /// It has as many requests as its limit permits, or as it can work on.
    Full,
    /// It requested a pause with Retry-After, or responds to nothing.
    Held,
    /// It is new or has returned, and gets fewer requests for now.
    Warming,
    Probation,
    Ejected,
    Drained,
    Maintained,
    /// It gets requests only while no other backend can take them.
    Backup,
    Down,
    Unknown,
}

impl State {
    /// All states; the place of a state is its [`number`](Self::number).
    pub(crate) const ALL: [Self; 12] = [
        Self::Up,
        Self::Current,
        Self::Full,
        Self::Held,
        Self::Warming,
        Self::Probation,
        Self::Ejected,
        Self::Drained,
        Self::Maintained,
        Self::Backup,
        Self::Down,
        Self::Unknown,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Current => "current",
            Self::Full => "full",
            Self::Held => "held",
            Self::Warming => "warming",
            Self::Probation => "probation",
            Self::Ejected => "ejected",
            Self::Drained => "drained",
            Self::Maintained => "maintained",
            Self::Backup => "backup",
            Self::Down => "down",
            Self::Unknown => "unknown",
        }
    }

    pub(crate) const fn number(self) -> u8 {
        self as u8
    }

    /// Whether the backend may get requests.
    pub(crate) const fn is_usable(self) -> bool {
        !matches!(self, Self::Maintained | Self::Drained | Self::Down | Self::Ejected)
    }
}

/// A state with its two numbers; NaN where a state does not use one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Condition {
    pub(crate) state: State,
    /// Depends on the state: the ms that are left, the good requests so far, or the requests
    /// allowed.
    pub(crate) detail: f64,
    /// The number of good requests needed.
    pub(crate) needed: f64,
}

impl Condition {
    /// Returns the state of a backend: the first one that applies.
    pub(crate) fn of(backend: &BackendSnapshot) -> Self {
        let left = |span: Duration| span.as_secs_f64().mul_add(1e3, 0.5).floor();
        let with = |state, detail| Self { state, detail, needed: f64::NAN };
        let plain = |state| with(state, f64::NAN);
        if backend.mode == Mode::Maintain {
            return plain(State::Maintained);
        }
        if !backend.is_in_service() {
            return plain(State::Drained);
        }
        if backend.health == Health::Down {
            return plain(State::Down);
        }
        if let StandingView::Ejected { left: span } = backend.standing {
            return with(State::Ejected, left(span));
        }
        if let Some(span) = backend.held {
            return with(State::Held, left(span));
        }
        let is_stalled = matches!(&backend.policy, PolicyView::Learned(view) if view.state == LearnedStanding::Stalled);
        if is_stalled {
            return plain(State::Held);
        }
        if let StandingView::Probation { good, needed } = backend.standing {
            let (detail, needed) = (f64::from(good), f64::from(needed));
            return Self { state: State::Probation, detail, needed };
        }
        if let Some(most) = full_at(backend) {
            return with(State::Full, f64::from(most));
        }
        if let StandingView::SlowStart { window } = backend.standing {
            return with(State::Warming, f64::from(window));
        }
        plain(match backend.health {
            _ if backend.is_current => State::Current,
            _ if backend.is_backup => State::Backup,
            Health::Unknown => State::Unknown,
            Health::Up | Health::Down => State::Up,
        })
    }
}

/// Returns the number of requests at which a backend is full, if it has that many. The configured
/// limit applies to all requests in flight, the policy's number only to those that the backend
/// works on.
fn full_at(backend: &BackendSnapshot) -> Option<u32> {
    let of_policy = match &backend.policy {
        PolicyView::Score(view) => view.full_at,
        // The cast saturates.
        PolicyView::Learned(view) => view.cap.map(|cap| cap as u32),
        _ => None,
    };
    let reached = |most: Option<u32>, now: u32| most.filter(|most| now >= (*most).max(1));
    let limits = [reached(backend.limit, backend.in_flight), reached(of_policy, backend.at_work)];
    limits.into_iter().flatten().min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pages::testing::unknown_backend;

    /// The most important state is used first: out of service, down, ejected, full.
    #[test]
    fn states_have_an_order() {
        let mut backend = unknown_backend(0, "A");
        let name = |backend: &BackendSnapshot| Condition::of(backend).state.name();
        assert_eq!(name(&backend), "unknown");
        backend.health = Health::Up;
        assert_eq!(name(&backend), "up");
        backend.is_backup = true;
        assert_eq!(name(&backend), "backup");
        backend.is_current = true;
        assert_eq!(name(&backend), "current");
        backend.standing = StandingView::SlowStart { window: 3 };
        assert_eq!(name(&backend), "warming");
        // Requests that wait for their client count towards the limit, but not for the policy.
        (backend.in_flight, backend.limit) = (8, Some(9));
        assert_eq!(name(&backend), "warming");
        backend.in_flight = 9;
        assert_eq!((name(&backend), Condition::of(&backend).detail), ("full", 9.0));
        backend.at_work = 4;
        assert_eq!((name(&backend), Condition::of(&backend).detail), ("full", 4.0));
        backend.standing = StandingView::Probation { good: 2, needed: 5 };
        assert_eq!((name(&backend), Condition::of(&backend).needed), ("probation", 5.0));
        backend.held = Some(Duration::from_millis(700));
        assert_eq!((name(&backend), Condition::of(&backend).detail), ("held", 700.0));
        backend.standing = StandingView::Ejected { left: Duration::from_millis(1500) };
        assert_eq!(name(&backend), "ejected");
        backend.health = Health::Down;
        assert_eq!(name(&backend), "down");
        backend.weight = 0;
        assert_eq!(name(&backend), "drained");
        backend.mode = Mode::Maintain;
        assert_eq!(name(&backend), "maintained");
    }

    /// The number of each state is its index in the list that the page reads.
    #[test]
    fn states_are_numbered() {
        for (number, state) in (0..).zip(State::ALL) {
            assert_eq!(state.number(), number, "{}", state.name());
        }
    }
}
