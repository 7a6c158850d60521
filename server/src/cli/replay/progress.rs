//! The progress of a replay on stderr: after 2 s, with the time left, and only where a person sees
//! it.
use std::cell::Cell;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// The progress of one answer. A recording may be read several times for it; each time counts from
/// zero.
#[derive(Debug)]
pub(super) struct Progress {
    is_shown: bool,
    /// The start of the current reading, and the bytes that had been read by then.
    begun: Cell<(Instant, u64)>,
    last: Cell<Option<Instant>>,
}

impl Progress {
    /// `always` shows it even if stderr is not a terminal.
    pub(super) fn new(always: bool) -> Self {
        Self {
            is_shown: always || io::stderr().is_terminal(),
            begun: Cell::new((Instant::now(), 0)),
            last: Cell::new(None),
        }
    }

    /// Shows that `read` of `of` bytes were read, at most five times a second.
    pub(super) fn show(&self, read: u64, of: u64) {
        if !self.is_shown {
            return;
        }
        let now = Instant::now();
        let (mut begun, before) = self.begun.get();
        if read < before {
            begun = now;
        }
        self.begun.set((begun, read));
        let elapsed = now - begun;
        let is_due = self.last.get().is_none_or(|last| now - last >= EVERY);
        if elapsed >= FIRST && is_due {
            self.last.set(Some(now));
            // Only a terminal can show it.
            let _ = write!(io::stderr(), "\r\x1b[K{}", text(read, of, elapsed));
        }
    }

    /// Clears the line.
    pub(super) fn end(&self) {
        if self.last.get().is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

/// Returns `42 %, 12 s left`.
fn text(read: u64, of: u64, elapsed: Duration) -> String {
    let part = read as f64 / of.max(1) as f64;
    let left = elapsed.as_secs_f64() * (1.0 - part) / part.max(1e-9);
    let percent = 100.0 * part;
    if left < 90.0 {
        format!("{percent:.0} %, {left:.0} s left")
    } else {
        format!("{percent:.0} %, {:.0} min left", left / 60.0)
    }
}

const FIRST: Duration = Duration::from_secs(2);
const EVERY: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use super::*;

    /// The time left follows from the part that was read.
    #[test]
    fn the_time_left_is_estimated() {
        for (read, seconds, expected) in
            [(25, 4, "25 %, 12 s left"), (10, 60, "10 %, 9 min left"), (100, 5, "100 %, 0 s left")]
        {
            assert_eq!(text(read, 100, Duration::from_secs(seconds)), expected);
        }
        assert!(text(0, 0, Duration::from_secs(2)).starts_with("0 %, "));
    }
}
