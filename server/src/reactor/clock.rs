//! The clock of the reactor, by which the proxy and its deadlines run. Log lines and seeds use the
//! system's time of day.
//!
//! The layout hints are explained in `proxy/mod.rs`.
use std::time::{Duration, SystemTime};

use intelliproxy_core::Instant;

use crate::http::date;

/// Time since the reactor's start.
#[derive(Debug)]
pub(crate) struct Clock {
    start: std::time::Instant,
    /// The time at which the next second of the time of day begins, and a new date is due.
    next_date: Instant,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self { start: std::time::Instant::now(), next_date: Instant::ZERO }
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
        date::format(since.as_secs())
    }

    /// The current time, which never goes backwards. It is not read by rustix, although that takes
    /// 50 instructions less: under valgrind, which counts them, rustix finds no vDSO and crashes.
    #[inline]
    pub(crate) fn now(&self) -> Instant {
        Instant::ZERO + self.start.elapsed()
    }
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
