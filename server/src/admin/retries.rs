//! How the retry budget is used, as a header field of /stats: its body is an array of backends.
use crate::proxy::RetryCounts;

/// `X-IntelliProxy-Retries: done=N, spared=N`, with its line end; nothing before the first.
pub(crate) fn retries_field(counts: RetryCounts) -> String {
    let RetryCounts { done, spared } = counts;
    if done + spared == 0 {
        return String::new();
    }
    format!("X-IntelliProxy-Retries: done={done}, spared={spared}\r\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nothing before the first one, then both counts.
    #[test]
    fn counts_are_shown() {
        assert_eq!(retries_field(RetryCounts::default()), "");
        let field = retries_field(RetryCounts { done: 2, spared: 1 });
        assert_eq!(field, "X-IntelliProxy-Retries: done=2, spared=1\r\n");
    }
}
