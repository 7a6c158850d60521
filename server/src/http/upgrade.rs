//! Changing the protocol of a connection (RFC 9110 section 7.8).
//!
//! The layout hints are explained in `http/mod.rs`.
use super::field::{Fields, Name, tokens};
use super::head::{RequestHead, ResponseHead, Version};
use super::persistence::has_option;

/// Whether a request has an upgrade that the proxy forwards. The method does not matter, and a body
/// is allowed (`docker exec` posts one). Upgrades to HTTP or TLS are not forwarded: the proxy could
/// not see the requests in them (h2c smuggling).
pub(crate) fn is_asked(head: &RequestHead<'_, '_>) -> bool {
    head.fields.has(Name::Upgrade) && is_passed_on(head)
}

#[cold]
fn is_passed_on(head: &RequestHead<'_, '_>) -> bool {
    let fields = &head.fields;
    head.version == Version::Http11
        && has_option(fields, b"upgrade")
        && protocols(fields).all(is_tunnelled)
        && protocols(fields).next().is_some()
}

/// The maximum number of protocols that one 101 may name. Each is compared with the requested ones.
const GRANTED_MAX: usize = 8;

/// Whether a 101 switches only to protocols named in `asked`, the request's Upgrade.
pub(crate) fn is_granted(head: &ResponseHead<'_, '_>, asked: &[u8]) -> bool {
    let fields = &head.fields;
    let count = protocols(fields).take(GRANTED_MAX + 1).count();
    has_option(fields, b"upgrade")
        && (1..=GRANTED_MAX).contains(&count)
        && protocols(fields).all(|one| tokens(asked).any(|name| name.eq_ignore_ascii_case(one)))
}

/// Returns the protocols that Upgrade names.
fn protocols<'b>(fields: &Fields<'_, 'b>) -> impl Iterator<Item = &'b [u8]> {
    fields.values(Name::Upgrade).flat_map(tokens)
}

fn is_tunnelled(protocol: &[u8]) -> bool {
    let name = protocol.split(|&byte| byte == b'/').next().unwrap_or_default();
    let is_http =
        [&b"h2c"[..], b"h2", b"http", b"tls"].iter().any(|other| name.eq_ignore_ascii_case(other));
    !is_http && !name.is_empty() && name.iter().all(|byte| byte.is_ascii_graphic())
}
