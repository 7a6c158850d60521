//! The progress of a replay on stderr: after 2 s, with the time left, and only where a person sees
//! it.
use std::cell::Cell;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// The progress of one answer. It may have several passes: readings of the recording, and what
/// follows. Each counts from zero.
#[derive(Debug)]
pub(super) struct Progress {
    is_shown: bool,
    /// The start of the current pass, and its last count.
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

    /// Shows that `done` of `of` bytes or steps are done, at most five times a second.
    pub(super) fn show(&self, done: u64, of: u64) {
        if !self.is_shown {
            return;
        }
        if let Some(elapsed) = self.due(done, Instant::now()) {
            // Only a terminal can show it.
            let _ = write!(io::stderr(), "\r\x1b[K{}", text(done, of, elapsed));
        }
    }

    /// Counts, and returns the time since the start of the pass if it is to be shown now.
    fn due(&self, done: u64, now: Instant) -> Option<Duration> {
        let (mut begun, before) = self.begun.get();
        let is_next = done < before;
        if is_next {
            begun = now;
        }
        self.begun.set((begun, done));
        let elapsed = now - begun;
        let is_due = match self.last.get() {
            // The end of the pass before is not that of the next one.
            Some(last) => is_next || now - last >= EVERY,
            None => elapsed >= FIRST,
        };
        if is_due {
            self.last.set(Some(now));
        }
        is_due.then_some(elapsed)
    }

    /// Clears the line.
    pub(super) fn end(&self) {
        if self.last.get().is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

/// Returns `42 %, 12 s left`, or `0 %` as long as nothing is known.
fn text(done: u64, of: u64, elapsed: Duration) -> String {
    if done == 0 {
        return "0 %".to_owned();
    }
    let part = done as f64 / of.max(1) as f64;
    let left = elapsed.as_secs_f64() * (1.0 - part) / part;
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

    /// The time left follows from the part that is done.
    #[test]
    fn the_time_left_is_estimated() {
        for (done, seconds, expected) in [
            (25, 4, "25 %, 12 s left"),
            (10, 60, "10 %, 9 min left"),
            (100, 5, "100 %, 0 s left"),
            (0, 2, "0 %"),
        ] {
            assert_eq!(text(done, 100, Duration::from_secs(seconds)), expected);
        }
        assert_eq!(text(0, 0, Duration::from_secs(2)), "0 %");
    }

    /// The first 2 s show nothing. A second pass is shown at once, and counts its own time: the end of
    /// the first one would look like the end of everything.
    #[test]
    fn a_pass_begins_at_zero() {
        let progress = Progress::new(false);
        let (begun, _) = progress.begun.get();
        for (done, ms, expected) in [
            (10, 1900, None),
            (20, 2000, Some(2000)),
            (21, 2100, None),
            (97, 9000, Some(9000)),
            (0, 9010, Some(0)),
            (1, 9100, None),
            (2, 9300, Some(290)),
        ] {
            let elapsed = progress.due(done, begun + Duration::from_millis(ms));
            assert_eq!(elapsed, expected.map(Duration::from_millis), "{done} at {ms}");
        }
    }
}
