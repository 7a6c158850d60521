//! The counts of missing log lines, as a header field of /stats.

/// Lines that the log does not have, since the program's start.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct LogCounts {
    /// Lines dropped because stderr was not read fast enough.
    pub dropped: u64,
    /// Writes to stderr that failed; each is repeated until it succeeds.
    pub failed_writes: u64,
    /// Lines left out because too many of their kind came at once.
    pub limited: u64,
}

/// `X-IntelliProxy-Log: dropped=N, failedWrites=N, limited=N`, with its line end; nothing while
/// the log is whole.
pub(crate) fn log_field(counts: LogCounts) -> String {
    if counts == LogCounts::default() {
        return String::new();
    }
    let LogCounts { dropped, failed_writes, limited } = counts;
    format!(
        "X-IntelliProxy-Log: dropped={dropped}, failedWrites={failed_writes}, limited={limited}\r\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nothing while no line is missing, then all counts.
    #[test]
    fn counts_are_shown() {
        assert_eq!(log_field(LogCounts::default()), "");
        let field = log_field(LogCounts { dropped: 1, failed_writes: 2, limited: 3 });
        assert_eq!(field, "X-IntelliProxy-Log: dropped=1, failedWrites=2, limited=3\r\n");
    }
}
