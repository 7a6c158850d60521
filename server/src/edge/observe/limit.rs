//! Limits the log lines per kind and second, so that peers cannot fill the disk.
//!
//! Each kind has a token bucket that fills at a steady rate. Lines that find it empty are omitted
//! and counted. At most one line per kind and second reports the count. The caller passes the time.
use std::collections::BTreeMap;
use std::time::Duration;

use intelliproxy_core::Instant;

/// A kind of lines that share a limit: their subject, and the status that they report, or 0.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Kind {
    pub(crate) about: &'static str,
    pub(crate) status: u16,
    /// The limit: the size of a burst, and also the lines per second.
    pub(crate) lines: u32,
}

/// Decides which lines are written.
#[derive(Debug, Default)]
pub(crate) struct LineLimits {
    /// There are few kinds: some subjects, each with the statuses that the proxy sends.
    buckets: BTreeMap<Kind, Bucket>,
    limited: u64,
    /// The time at which the lines about omitted lines are due.
    tell_at: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// Lines that may be written now, at most those of a second.
    tokens: f64,
    at: Instant,
    /// Lines omitted since the last line about them.
    left_out: u64,
}

impl LineLimits {
    /// Decides whether a line is written now. Counts it if not.
    pub(crate) fn admits(&mut self, now: Instant, kind: Kind) -> bool {
        let lines = f64::from(kind.lines);
        let new = Bucket { tokens: lines, at: now, left_out: 0 };
        let bucket = self.buckets.entry(kind).or_insert(new);
        let earned = now.since(bucket.at).as_secs_f64() * lines;
        bucket.tokens = (bucket.tokens + earned).min(lines);
        bucket.at = now;
        if bucket.tokens >= 1.0 {
            bucket.tokens -= 1.0;
            return true;
        }
        bucket.left_out += 1;
        self.limited += 1;
        self.tell_at.get_or_insert(now + INTERVAL);
        false
    }

    /// The lines about omitted lines, if they are due.
    pub(crate) fn tell(&mut self, now: Instant) -> Vec<String> {
        if self.tell_at.is_none_or(|at| at > now) {
            return Vec::new();
        }
        self.tell_all()
    }

    /// The lines about omitted lines, due or not.
    pub(crate) fn tell_all(&mut self) -> Vec<String> {
        self.tell_at = None;
        let mut lines = Vec::new();
        for (kind, bucket) in &mut self.buckets {
            let Kind { about, status, lines: max } = kind;
            let status = if *status == 0 { String::new() } else { format!(" {status}") };
            let count = std::mem::take(&mut bucket.left_out);
            if count > 0 {
                let line =
                    format!("{about}{status}: {count} more lines omitted, limit {max} a second");
                lines.push(line);
            }
        }
        lines
    }

    /// The time at which [`tell`](Self::tell) returns lines.
    pub(crate) const fn poll_timeout(&self) -> Option<Instant> {
        self.tell_at
    }

    /// Lines omitted so far.
    pub(crate) const fn limited(&self) -> u64 {
        self.limited
    }
}

/// Time between the first omitted line and the line that reports it.
const INTERVAL: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    /// A burst is written up to the limit, then as many lines as the rate allows. After a second
    /// one line reports the rest. Other kinds are not affected.
    #[test]
    fn lines_beyond_the_rate_are_counted() {
        let mut limits = LineLimits::default();
        let kind = Kind { about: "client", status: 400, lines: 20 };
        let other = Kind { status: 431, ..kind };
        let at = Instant::from_millis;
        let count = |limits: &mut LineLimits, now, kind| {
            (0..100).filter(|_| limits.admits(now, kind)).count()
        };
        assert_eq!(count(&mut limits, at(0), kind), 20);
        assert_eq!(count(&mut limits, at(500), kind), 10);
        assert!(limits.admits(at(500), other));
        assert_eq!(limits.poll_timeout(), Some(at(1000)));
        assert!(limits.tell(at(999)).is_empty());
        let line = "client 400: 170 more lines omitted, limit 20 a second";
        assert_eq!(limits.tell(at(1000)), [line]);
        assert_eq!((limits.poll_timeout(), limits.limited()), (None, 170));
        assert!(limits.tell(at(5000)).is_empty());
        assert_eq!(count(&mut limits, at(60_000), kind), 20, "unused tokens do not add up");
        let health = Kind { about: "health", status: 0, lines: 1 };
        assert_eq!(count(&mut limits, at(60_000), health), 1);
        let rest = [
            "client 400: 80 more lines omitted, limit 20 a second",
            "health: 99 more lines omitted, limit 1 a second",
        ];
        assert_eq!(limits.tell_all(), rest);
    }
}
