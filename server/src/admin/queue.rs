//! How requests wait for backends at their limits, as a header field of /stats.
use crate::proxy::QueueCounts;

/// `X-IntelliProxy-Queue: waited=N, timedOut=N, refused=N`, with its line end; nothing before the
/// first.
pub(crate) fn queue_field(counts: QueueCounts) -> String {
    if counts == QueueCounts::default() {
        return String::new();
    }
    let QueueCounts { waited, timed_out, refused } = counts;
    format!("X-IntelliProxy-Queue: waited={waited}, timedOut={timed_out}, refused={refused}\r\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nothing before the first one, then all counts.
    #[test]
    fn counts_are_shown() {
        assert_eq!(queue_field(QueueCounts::default()), "");
        let field = queue_field(QueueCounts { waited: 3, timed_out: 1, refused: 2 });
        assert_eq!(field, "X-IntelliProxy-Queue: waited=3, timedOut=1, refused=2\r\n");
    }
}
