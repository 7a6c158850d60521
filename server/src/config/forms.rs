//! The forms of texts and lists that several keys have in common, and the errors for other ones.
use std::fmt;

use intelliproxy_core::ConfigError;

/// Returns the error for a text, with the text itself.
pub(super) fn refuse(
    path: &str,
    allowed: &str,
    text: &str,
    wrong: impl fmt::Display,
) -> ConfigError {
    ConfigError::new(path, &format!("{allowed}, and {text:?} {wrong}"))
}

pub(super) fn check_length(
    path: &str,
    length: usize,
    least: usize,
    most: usize,
) -> Result<(), ConfigError> {
    if !(least..=most).contains(&length) {
        return Err(ConfigError::new(path, &format!("a list of {least} to {most} entries")));
    }
    Ok(())
}

/// Whether a name is safe in a log line, a flag, a URL and a metric label. The name of an expanded
/// backend ends in a slash and the address.
pub(super) fn is_backend_name(name: &str) -> bool {
    let is_of_address = |byte: u8| is_plain(byte) || matches!(byte, b':' | b'[' | b']');
    let (name, address) = name.split_once('/').unwrap_or((name, "0"));
    is_plain_name(name)
        && (1..=ADDRESS_MAX).contains(&address.len())
        && address.bytes().all(is_of_address)
}

/// Whether this is a backend's name without a slash, or the part before the slash.
pub(super) fn is_plain_name(name: &str) -> bool {
    (1..=NAME_MAX).contains(&name.len()) && name.bytes().all(is_plain)
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

/// Whether this is a token (RFC 9110 section 5.6.2) of a permitted length.
pub(super) fn is_token(text: &str) -> bool {
    let is_token_byte =
        |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    (1..=NAME_MAX).contains(&text.len()) && text.bytes().all(is_token_byte)
}

pub(super) fn is_path(text: &str) -> bool {
    text.starts_with('/')
        && text.len() <= PATH_MAX
        && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#')
}

/// The maximum length of the address in a name: a DNS name and a port.
const ADDRESS_MAX: usize = 260;
/// The maximum length of a name, characters: a backend's, the one in Via, or that of an added
/// field.
const NAME_MAX: usize = 64;
/// A description of valid names of backends.
pub(super) const NAME_ALLOWED: &str = "1 to 64 letters, digits, '.', '_' and '-'";
/// A description of valid names of added fields.
pub(super) const FIELD_ALLOWED: &str =
    "a token of 1 to 64 characters, not a field that the proxy handles otherwise";
/// The maximum length of a probe's path, characters.
const PATH_MAX: usize = 1024;
/// A description of valid probe paths.
pub(super) const PATH_ALLOWED: &str =
    "a path: '/' and at most 1023 visible ASCII characters, without '#'";
