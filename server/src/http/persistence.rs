//! Whether a connection lives on after a message (RFC 9112 section 9.3).
use std::hint::cold_path;
use std::time::Duration;

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
        // Mostly there is one option: no list is to be taken apart.
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

/// Returns the time for which the sender of a response keeps its connection idle, as far as it
/// says; `None` if it closes.
pub(crate) fn kept_for(version: Version, fields: &Fields<'_, '_>) -> Option<Duration> {
    if !is_persistent(version, fields) {
        return None;
    }
    if fields.has(Name::KeepAlive) { hinted(fields) } else { Some(Duration::MAX) }
}

/// Reads `timeout=N` of Keep-Alive, in seconds, and takes a margin off: the sender counts from
/// when it sent the response, and a request is on its way for a while. The margin is what Node's
/// client takes, 1 s, and of a shorter time half.
#[cold]
fn hinted(fields: &Fields<'_, '_>) -> Option<Duration> {
    let seconds = |parameter: &[u8]| {
        let (name, value) = std::str::from_utf8(parameter).ok()?.split_once('=')?;
        let value = value.trim().trim_matches('"');
        let is_timeout = name.trim().eq_ignore_ascii_case("timeout");
        let is_number = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
        // More digits than a number has are a time without an end.
        (is_timeout && is_number).then(|| value.parse::<u32>().unwrap_or(u32::MAX))
    };
    let parameters = fields.values(Name::KeepAlive).flat_map(tokens);
    let Some(shortest) = parameters.filter_map(seconds).min() else { return Some(Duration::MAX) };
    let whole = Duration::from_secs(shortest.into());
    (shortest > 0).then(|| whole - MARGIN_MAX.min(whole / 2))
}

/// The most that is taken off a backend's own time.
const MARGIN_MAX: Duration = Duration::from_secs(1);

/// Whether Connection names `option`.
pub(crate) fn has_option(fields: &Fields<'_, '_>, option: &[u8]) -> bool {
    fields.values(Name::Connection).flat_map(tokens).any(|token| token.eq_ignore_ascii_case(option))
}
