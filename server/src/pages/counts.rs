//! Counts that /stats shows as header fields, since its body is an array of backends. A field is
//! omitted until something was counted, except the field of the recording.
use intelliproxy_core::journal::RecordingCounts;

/// Log lines lost since the program's start.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct LogCounts {
    /// Lines dropped because stderr or the log's file did not accept them fast enough.
    pub dropped: u64,
    /// Writes that failed; each is repeated until it succeeds.
    pub failed_writes: u64,
    /// Lines omitted because there were too many of their kind within a second.
    pub limited: u64,
}

impl LogCounts {
    /// Returns `X-IntelliProxy-Log: dropped=N, failedWrites=N, limited=N` with its line end.
    pub(crate) fn field(self) -> String {
        if self == Self::default() {
            return String::new();
        }
        let Self { dropped, failed_writes, limited } = self;
        format!(
            "X-IntelliProxy-Log: dropped={dropped}, failedWrites={failed_writes}, limited={limited}\r\n"
        )
    }
}

/// Lines of the access log.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct AccessCounts {
    /// Number of exchanges with a line, written or lost.
    pub lines: u64,
    /// Lines dropped because the file was not written fast enough.
    pub dropped: u64,
    /// Writes that failed; each is repeated until it succeeds.
    pub failed_writes: u64,
}

impl AccessCounts {
    /// Returns `X-IntelliProxy-Access-Log: dropped=N, failedWrites=N` with its line end.
    pub(crate) fn field(self) -> String {
        let Self { dropped, failed_writes, .. } = self;
        if dropped + failed_writes == 0 {
            return String::new();
        }
        format!("X-IntelliProxy-Access-Log: dropped={dropped}, failedWrites={failed_writes}\r\n")
    }
}

/// Requests that found every backend full.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct QueueCounts {
    /// Requests that waited.
    pub(crate) waited: u64,
    /// Of these, requests that found no backend in time.
    pub(crate) timed_out: u64,
    /// Requests that were refused because the queue was full.
    pub(crate) refused: u64,
}

impl QueueCounts {
    /// Returns `X-IntelliProxy-Queue: waited=N, timedOut=N, refused=N` with its line end.
    pub(crate) fn field(self) -> String {
        if self == Self::default() {
            return String::new();
        }
        let Self { waited, timed_out, refused } = self;
        format!(
            "X-IntelliProxy-Queue: waited={waited}, timedOut={timed_out}, refused={refused}\r\n"
        )
    }
}

/// Requests and connections that got 429 because their client exceeds its own limit.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct LimitedCounts {
    /// Beyond `limits.clientRequestsPerSecond`.
    pub(crate) requests: u64,
    /// Beyond `limits.clientConnections`.
    pub(crate) connections: u64,
}

impl LimitedCounts {
    /// Returns `X-IntelliProxy-Limited: requests=N, connections=N` with its line end.
    pub(crate) fn field(self) -> String {
        if self == Self::default() {
            return String::new();
        }
        let Self { requests, connections } = self;
        format!("X-IntelliProxy-Limited: requests={requests}, connections={connections}\r\n")
    }
}

/// Uses of the retry budget.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct RetryCounts {
    /// Requests sent to another backend.
    pub(crate) done: u64,
    /// Requests not sent again because the budget was used up.
    pub(crate) spared: u64,
}

impl RetryCounts {
    /// Returns `X-IntelliProxy-Retries: done=N, spared=N` with its line end.
    pub(crate) fn field(self) -> String {
        if self == Self::default() {
            return String::new();
        }
        let Self { done, spared } = self;
        format!("X-IntelliProxy-Retries: done={done}, spared={spared}\r\n")
    }
}

/// Attempts to reload the configuration at run time, by result.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct ReloadCounts {
    pub(crate) done: u64,
    pub(crate) refused: u64,
    /// The error of the last reload, until a valid configuration is loaded.
    pub(crate) last_error: Option<String>,
}

impl ReloadCounts {
    /// Returns `X-IntelliProxy-Reloads: done=N, refused=N`, and the last error if there is one,
    /// with its line end.
    pub(crate) fn field(&self) -> String {
        let Self { done, refused, last_error } = self;
        if *done + *refused == 0 {
            return String::new();
        }
        let error = last_error.as_ref().map_or_else(String::new, |error| {
            let shown = error.escape_default().take(ERROR_MAX);
            format!(", lastError=\"{}\"", shown.collect::<String>())
        });
        format!("X-IntelliProxy-Reloads: done={done}, refused={refused}{error}\r\n")
    }
}

/// Returns `X-IntelliProxy-Recording: records=N, lost=N` with its line end.
pub(crate) fn recording_field(counts: RecordingCounts) -> String {
    let RecordingCounts { records, lost } = counts;
    format!("X-IntelliProxy-Recording: records={records}, lost={lost}\r\n")
}

/// The maximum number of characters of an error.
const ERROR_MAX: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    /// Each field is absent until something was counted. Then it has all of its counts.
    #[test]
    fn counts_are_shown() {
        assert_eq!(LogCounts::default().field(), "");
        let field = LogCounts { dropped: 1, failed_writes: 2, limited: 3 }.field();
        assert_eq!(field, "X-IntelliProxy-Log: dropped=1, failedWrites=2, limited=3\r\n");
        assert_eq!(AccessCounts::default().field(), "");
        let field = AccessCounts { lines: 4, dropped: 1, failed_writes: 2 }.field();
        assert_eq!(field, "X-IntelliProxy-Access-Log: dropped=1, failedWrites=2\r\n");
        assert_eq!(QueueCounts::default().field(), "");
        let field = QueueCounts { waited: 3, timed_out: 1, refused: 2 }.field();
        assert_eq!(field, "X-IntelliProxy-Queue: waited=3, timedOut=1, refused=2\r\n");
        assert_eq!(RetryCounts::default().field(), "");
        let field = RetryCounts { done: 2, spared: 1 }.field();
        assert_eq!(field, "X-IntelliProxy-Retries: done=2, spared=1\r\n");
        assert_eq!(LimitedCounts::default().field(), "");
        let field = LimitedCounts { requests: 5, connections: 2 }.field();
        assert_eq!(field, "X-IntelliProxy-Limited: requests=5, connections=2\r\n");
        let field = recording_field(RecordingCounts { records: 12, lost: 3 });
        assert_eq!(field, "X-IntelliProxy-Recording: records=12, lost=3\r\n");
    }

    /// Reloads have their counts, and the last error as one bounded line.
    #[test]
    fn reloads_are_shown() {
        let mut counts = ReloadCounts::default();
        assert_eq!(counts.field(), "");
        counts.done = 2;
        assert_eq!(counts.field(), "X-IntelliProxy-Reloads: done=2, refused=0\r\n");
        counts.refused = 1;
        counts.last_error = Some("a.json:3: \"x\"\r\nEvil: \u{e9}".to_owned());
        assert_eq!(
            counts.field(),
            "X-IntelliProxy-Reloads: done=2, refused=1, \
             lastError=\"a.json:3: \\\"x\\\"\\r\\nEvil: \\u{e9}\"\r\n"
        );
        counts.last_error = Some("x".repeat(1000));
        assert!(counts.field().len() < 300);
    }
}
