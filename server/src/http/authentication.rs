//! Authentication that logs in a connection instead of a request: NTLM, and Negotiate (RFC 4559),
//! which may use NTLM.
//!
//! The layout hints are explained in `http/mod.rs`.
use super::field::{Fields, Name, tokens};
use super::head::ResponseHead;

/// Whether a response requires one of these schemes, by WWW-Authenticate in a 401 or
/// Proxy-Authenticate in a 407.
#[cold]
pub(crate) fn challenges_connection(head: &ResponseHead<'_, '_>) -> bool {
    let field = if head.status == 401 { "www-authenticate" } else { "proxy-authenticate" };
    let challenges = head.fields.iter().filter(|(name, ..)| name.eq_ignore_ascii_case(field));
    challenges.map(|(.., value)| value).flat_map(tokens).any(is_of_connection)
}

/// Whether a request carries credentials of one of these schemes.
pub(crate) fn logs_connection_in(fields: &Fields<'_, '_>) -> bool {
    fields.has(Name::Authorization)
        && fields.values(Name::Authorization).flat_map(tokens).any(is_of_connection)
}

/// Whether a challenge or credentials begin with the name of one of these schemes. A parameter
/// value that looks like such a name also counts; this only means that the connection is not
/// shared.
fn is_of_connection(text: &[u8]) -> bool {
    let end = text.iter().position(|byte| b" \t".contains(byte)).unwrap_or(text.len());
    let scheme = &text[..end];
    scheme.eq_ignore_ascii_case(b"ntlm") || scheme.eq_ignore_ascii_case(b"negotiate")
}
