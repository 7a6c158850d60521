//! Whether a connection lives on after a message (RFC 9112 section 9.3).
use std::hint::cold_path;

use super::field::{Fields, Name, tokens};
use super::head::Version;

/// Whether the sender of a head wants its connection to persist.
pub(crate) fn is_persistent(version: Version, fields: &Fields<'_, '_>) -> bool {
    let is_by_default = version == Version::Http11;
    if fields.has(Name::Connection) {
        cold_path();
        asks_to_persist(is_by_default, fields)
    } else {
        is_by_default
    }
}

#[inline(never)]
fn asks_to_persist(mut asks_to_keep: bool, fields: &Fields<'_, '_>) -> bool {
    for value in fields.values(Name::Connection) {
        for option in tokens(value) {
            if option.eq_ignore_ascii_case(b"close") {
                return false;
            }
            asks_to_keep |= option.eq_ignore_ascii_case(b"keep-alive");
        }
    }
    asks_to_keep
}

/// Whether Connection names `option`.
pub(crate) fn has_option(fields: &Fields<'_, '_>, option: &[u8]) -> bool {
    fields.values(Name::Connection).flat_map(tokens).any(|token| token.eq_ignore_ascii_case(option))
}
