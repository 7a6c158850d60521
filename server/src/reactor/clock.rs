//! The clock of the reactor, by which the proxy and its deadlines run. Log lines and seeds use the
//! system's time of day.
use std::time::{Duration, SystemTime};

use intelliproxy_core::Instant;
use rustix::time::{ClockId, clock_gettime};

/// Time since the reactor's start.
#[derive(Debug)]
pub(crate) struct Clock {
    /// The system's count of nanoseconds at the start.
    start: u64,
    /// The time at which the next second of the time of day begins, and a new date is due.
    next_date: Instant,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self { start: monotonic_nanos(), next_date: Instant::ZERO }
    }

    /// Returns the time of day as an HTTP date if a new second has begun.
    #[inline]
    pub(crate) fn new_date(&mut self, now: Instant) -> Option<String> {
        if now < self.next_date { None } else { Some(self.date(now)) }
    }

    #[cold]
    fn date(&mut self, now: Instant) -> String {
        let time = SystemTime::now();
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let rest = Duration::from_secs(1) - Duration::from_nanos(since.subsec_nanos().into());
        self.next_date = now + rest;
        // The formatter panics on times that an HTTP date cannot express (before 1970, after
        // 9999).
        let is_sayable = since.as_secs() > 0 && since.as_secs() < 253_402_300_800;
        httpdate::fmt_http_date(if is_sayable { time } else { SystemTime::UNIX_EPOCH })
    }

    /// The current time, which never goes backwards.
    #[inline]
    pub(crate) fn now(&self) -> Instant {
        Instant::from_nanos(monotonic_nanos().saturating_sub(self.start))
    }
}

/// The clock of [`std::time::Instant`] as a number. The standard library's own subtraction and its
/// call of libc take 55 instructions more, in each turn.
#[inline]
fn monotonic_nanos() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// A seed that differs from run to run. A recording contains it, so that it can be replayed.
pub(super) fn seed() -> u64 {
    wall_clock_nanos()
}

/// The time of day, nanoseconds since 1970.
pub(super) fn wall_clock_nanos() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_nanos() as u64)
}
