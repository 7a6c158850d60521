//! The live page: one document, compressed by the build (`build.rs`) from the files of `page/`.

/// The document, compressed by gzip.
pub(crate) const PAGE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/page.html.gz"));
/// Its Content-Security-Policy: its own style sheet and scripts by their hashes, and requests to
/// its own origin.
const POLICY: &str = include_str!(concat!(env!("OUT_DIR"), "/page.policy"));
/// The media type of the document.
pub(crate) const MEDIA_TYPE: &str = "text/html; charset=utf-8";
/// The text for clients that take no gzip.
pub(crate) const ONLY_GZIP: &str = "406 Not Acceptable: the live page is sent with Content-Encoding: gzip; without \
                                    Accept: text/html this is JSON\n";

/// Returns the header lines of the document, without Cache-Control and Vary.
pub(crate) fn fields() -> String {
    format!(
        "Content-Encoding: gzip\r\nContent-Security-Policy: {POLICY}; frame-ancestors 'none'\r\n\
         X-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The page is small, and its policy allows no scripts except its own.
    #[test]
    fn the_page_is_small_and_strict() {
        assert!(PAGE.len() < 80 * 1024, "{} bytes", PAGE.len());
        assert_eq!(PAGE[..2], [0x1f, 0x8b], "gzip");
        assert!(POLICY.starts_with("default-src 'none'; script-src 'sha256-"), "{POLICY}");
        assert!(POLICY.contains("; connect-src 'self'"), "{POLICY}");
        assert!(!POLICY.contains("unsafe") && !POLICY.contains(['\r', '\n', '*']), "{POLICY}");
    }
}
