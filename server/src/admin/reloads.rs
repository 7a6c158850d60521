//! How configurations fared that came at run time, as a header field of /stats.
use crate::proxy::ReloadCounts;

/// Characters of an error that are shown.
const ERROR_MAX: usize = 200;

/// `X-IntelliProxy-Reloads: done=N, refused=N` and the last one's error if it was refused, with its
/// line end; nothing before the first.
pub(crate) fn reloads_field(counts: &ReloadCounts) -> String {
    let ReloadCounts { done, refused, last_error } = counts;
    if *done + *refused == 0 {
        return String::new();
    }
    let error = last_error.as_ref().map_or_else(String::new, |error| {
        let shown = error.escape_default().take(ERROR_MAX);
        format!(", lastError=\"{}\"", shown.collect::<String>())
    });
    format!("X-IntelliProxy-Reloads: done={done}, refused={refused}{error}\r\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nothing before the first one; then the counts, and what is wrong as one bounded line.
    #[test]
    fn reloads_are_shown() {
        let mut counts = ReloadCounts::default();
        assert_eq!(reloads_field(&counts), "");
        counts.done = 2;
        assert_eq!(reloads_field(&counts), "X-IntelliProxy-Reloads: done=2, refused=0\r\n");
        counts.refused = 1;
        counts.last_error = Some("a.json:3: \"x\"\r\nEvil: \u{e9}".to_owned());
        assert_eq!(
            reloads_field(&counts),
            "X-IntelliProxy-Reloads: done=2, refused=1, \
             lastError=\"a.json:3: \\\"x\\\"\\r\\nEvil: \\u{e9}\"\r\n"
        );
        counts.last_error = Some("x".repeat(1000));
        assert!(reloads_field(&counts).len() < 300);
    }
}
