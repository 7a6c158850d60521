//! How a recording goes, as a header field of /stats: its body is an array of backends.
use intelliproxy_core::journal::RecordingCounts;

/// `X-IntelliProxy-Recording: records=N, lost=N`, with its line end.
pub(crate) fn recording_field(counts: RecordingCounts) -> String {
    let RecordingCounts { records, lost } = counts;
    format!("X-IntelliProxy-Recording: records={records}, lost={lost}\r\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both counts are there.
    #[test]
    fn counts_are_shown() {
        let field = recording_field(RecordingCounts { records: 12, lost: 3 });
        assert_eq!(field, "X-IntelliProxy-Recording: records=12, lost=3\r\n");
    }
}
