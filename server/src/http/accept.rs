//! The representations that a client accepts.
use super::field::tokens;

/// Returns whether a list of media types or codings has this one, and not with the weight 0 (RFC 9110
/// section 12.4.2).
pub(crate) fn accepts(list: &[u8], wanted: &[u8]) -> bool {
    tokens(list).any(|member| {
        let mut parts = member.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let is_wanted = parts.next().is_some_and(|name| name.eq_ignore_ascii_case(wanted));
        let is_refused = |part: &[u8]| {
            let weight = part.strip_prefix(b"q=").or_else(|| part.strip_prefix(b"Q="));
            weight.is_some_and(|weight| weight.iter().all(|byte| matches!(byte, b'0' | b'.')))
        };
        is_wanted && !parts.any(is_refused)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A type must be named, in any case, and not with the weight 0.
    #[test]
    fn named_types_are_accepted() {
        let rows = [
            ("text/html", true),
            ("TEXT/HTML;level=1, */*", true),
            ("application/xml, text/html;q=0.8", true),
            ("text/html;q=0", false),
            ("text/html; q=0.000", false),
            ("text/html;Q=0.001", true),
            ("*/*", false),
            ("text/*", false),
            ("text/html5", false),
            ("", false),
        ];
        for (list, expected) in rows {
            assert_eq!(accepts(list.as_bytes(), b"text/html"), expected, "{list}");
        }
    }
}
