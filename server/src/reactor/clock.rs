//! The only clock of the proxy.
use std::time::{Duration, SystemTime};

use intelliproxy_core::Instant;

/// Time since the reactor's start.
#[derive(Debug)]
pub(crate) struct Clock {
    start: std::time::Instant,
    /// When the next second of the time of day begins.
    next_date: Instant,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self { start: std::time::Instant::now(), next_date: Instant::ZERO }
    }

    /// Returns the time of day as an HTTP date when another second has begun.
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
        // Dates outside of what HTTP can say (before 1970, after 9999) would panic.
        let is_sayable = since.as_secs() > 0 && since.as_secs() < 253_402_300_800;
        httpdate::fmt_http_date(if is_sayable { time } else { SystemTime::UNIX_EPOCH })
    }

    /// Now; never earlier than what was said before.
    pub(crate) fn now(&self) -> Instant {
        let nanos = self.start.elapsed().as_nanos();
        Instant::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// A seed that differs from run to run; a recording carries the one it was made with.
pub(super) fn seed() -> u64 {
    wall_clock_nanos()
}

/// The time of day, nanoseconds since 1970.
pub(super) fn wall_clock_nanos() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_nanos() as u64)
}
