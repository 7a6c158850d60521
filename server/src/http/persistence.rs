//! Persistence: whether a connection stays open after a message (RFC 9112 section 9.3).
//!
//! The layout hints are explained in `http/mod.rs`.
use std::time::Duration;

use super::field::{Fields, Name, tokens};
use super::head::Version;

/// Whether the sender of a head wants its connection to persist.
pub(crate) fn is_persistent(version: Version, fields: &Fields<'_, '_>) -> bool {
    let is_by_default = version == Version::Http11;
    if fields.has(Name::Connection) {
        asks_to_persist(is_by_default, fields)
    } else {
        is_by_default
    }
}

#[inline(never)]
fn asks_to_persist(mut asks_to_keep: bool, fields: &Fields<'_, '_>) -> bool {
    for value in fields.values(Name::Connection) {
        // Usually there is one option, so no list has to be split.
        if value.eq_ignore_ascii_case(b"close") {
            return false;
        }
        for option in tokens(value) {
            if option.eq_ignore_ascii_case(b"close") {
                return false;
            }
            asks_to_keep |= option.eq_ignore_ascii_case(b"keep-alive");
        }
    }
    asks_to_keep
}

/// Returns the time for which the sender of a response keeps its idle connection open:
/// `Duration::MAX` if it does not say, `None` if it closes the connection.
pub(crate) fn kept_for(version: Version, fields: &Fields<'_, '_>) -> Option<Duration> {
    if !is_persistent(version, fields) {
        return None;
    }
    if fields.has(Name::KeepAlive) { hinted(fields) } else { Some(Duration::MAX) }
}

/// Reads `timeout=N` of Keep-Alive, in seconds, and subtracts a margin: the sender counts from the
/// response, and the next request takes time to arrive. The margin is 1 s, as in Node's client, or
/// half of the timeout if that is less. Of several values the shortest is used; 0 gives `None`.
#[cold]
fn hinted(fields: &Fields<'_, '_>) -> Option<Duration> {
    let seconds = |parameter: &[u8]| {
        let (name, value) = std::str::from_utf8(parameter).ok()?.split_once('=')?;
        let value = value.trim().trim_matches('"');
        let is_timeout = name.trim().eq_ignore_ascii_case("timeout");
        let is_number = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
        // A larger number counts as `u32::MAX`, 136 years.
        (is_timeout && is_number).then(|| value.parse::<u32>().unwrap_or(u32::MAX))
    };
    let parameters = fields.values(Name::KeepAlive).flat_map(tokens);
    let Some(shortest) = parameters.filter_map(seconds).min() else { return Some(Duration::MAX) };
    let whole = Duration::from_secs(shortest.into());
    (shortest > 0).then(|| whole - MARGIN_MAX.min(whole / 2))
}

/// The largest margin of [`hinted`].
const MARGIN_MAX: Duration = Duration::from_secs(1);

/// Whether Connection names `option`.
pub(crate) fn has_option(fields: &Fields<'_, '_>, option: &[u8]) -> bool {
    fields.values(Name::Connection).flat_map(tokens).any(|token| token.eq_ignore_ascii_case(option))
}
