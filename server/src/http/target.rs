//! Request targets (RFC 9112 section 3.2) and Host values (RFC 9110 section 7.2).
use super::error::{ClientError, refuse};
use super::field::Name;
use super::head::{RequestHead, Version};

/// Where a request wants to go: what is forwarded of its target, and which host it means.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Destination<'b> {
    /// The target in origin form, or `*`. When it was absolute without a path it is empty or
    /// begins with `?`, and a `/` is meant before it.
    pub(crate) path: &'b [u8],
    /// The host that the client means; empty when an HTTP/1.0 client named none.
    pub(crate) host: &'b [u8],
}

/// Checks the method, the target and Host of a request.
///
/// # Errors
/// The rule that one of them breaks.
#[inline(always)]
pub(crate) fn destination<'b>(head: &RequestHead<'_, 'b>) -> Result<Destination<'b>, ClientError> {
    if head.method != "GET" {
        check_method(head.method)?;
    }
    let host = host(head)?;
    let target = head.target;
    // Bytes above ASCII go on as they came, as clients send them that do not encode them.
    if target.iter().any(|&byte| matches!(byte, 0..=b' ' | b'#' | 0x7f)) {
        return refuse(ClientError::InvalidTarget);
    }
    if target.first() == Some(&b'/') {
        return Ok(Destination { path: target, host });
    }
    other_destination(head, host)
}

/// Refuses the methods that are about the connection and not about what is behind it.
#[inline(never)]
fn check_method(method: &str) -> Result<(), ClientError> {
    match method {
        "CONNECT" => Err(ClientError::ConnectMethod),
        "TRACE" => Err(ClientError::TraceMethod),
        _ => Ok(()),
    }
}

/// Returns how many more times an OPTIONS request may be forwarded (RFC 9110 section 7.6.2): 0 when
/// this proxy is its last recipient, `None` without a valid limit. Other methods have none.
#[inline]
pub(crate) fn max_forwards(head: &RequestHead<'_, '_>) -> Option<u64> {
    if head.fields.has(Name::MaxForwards) { valid_max_forwards(head) } else { None }
}

#[cold]
fn valid_max_forwards(head: &RequestHead<'_, '_>) -> Option<u64> {
    /// The largest number that is passed on.
    const MAX: u64 = 999_999_999;
    let is_one = head.method == "OPTIONS" && !head.fields.is_repeated(Name::MaxForwards);
    let value = head.fields.values(Name::MaxForwards).next().filter(|_| is_one)?;
    if value.is_empty() {
        return None;
    }
    value.iter().try_fold(0_u64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        Some((number * 10 + digit).min(MAX))
    })
}

/// The destination of a target that is no path.
#[cold]
fn other_destination<'b>(
    head: &RequestHead<'_, 'b>,
    host: &'b [u8],
) -> Result<Destination<'b>, ClientError> {
    let target = head.target;
    if target == b"*" && head.method == "OPTIONS" {
        return Ok(Destination { path: target, host });
    }
    let Some(rest) = strip_scheme(target) else {
        return Err(ClientError::InvalidTarget);
    };
    let end = rest.iter().position(|byte| b"/?".contains(byte)).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    if !is_authority(authority) {
        return Err(ClientError::InvalidTarget);
    }
    // RFC 9112 section 3.2.4: OPTIONS without a path is about the whole server.
    let path = if path.is_empty() && head.method == "OPTIONS" { b"*" } else { path };
    Ok(Destination { path, host: authority })
}

/// The one Host that a request has; empty where HTTP/1.0 has none.
fn host<'b>(head: &RequestHead<'_, 'b>) -> Result<&'b [u8], ClientError> {
    let Some(value) = head.fields.values(Name::Host).next() else {
        return match head.version {
            Version::Http10 => Ok(b""),
            Version::Http11 => refuse(ClientError::MissingHost),
        };
    };
    if head.fields.is_repeated(Name::Host) {
        return refuse(ClientError::DuplicateHost);
    }
    if is_authority(value) { Ok(value) } else { refuse(ClientError::InvalidHost) }
}

/// Returns what follows `http://` or `https://`, in any case. The latter is what a client of a TLS
/// front asks for, and RFC 9112 section 3.2.2 has a server accept it.
fn strip_scheme(target: &[u8]) -> Option<&[u8]> {
    [&b"http://"[..], b"https://"].into_iter().find_map(|known| {
        let (scheme, rest) = target.split_at_checked(known.len())?;
        scheme.eq_ignore_ascii_case(known).then_some(rest)
    })
}

/// Whether `bytes` are `uri-host [":" port]` with a host (RFC 9110 section 4.2.1 forbids an empty
/// one) and without user information.
#[inline(always)]
pub(crate) fn is_authority(bytes: &[u8]) -> bool {
    let host = &bytes[..bytes.len() - port_len(bytes)];
    if host.first() == Some(&b'[') {
        return literal_len(host) == host.len();
    }
    // Nearly always all of them are good: looking for the first that is not would take longer.
    !host.is_empty() && host.iter().fold(true, |good, &byte| good & IS_NAME_BYTE[usize::from(byte)])
}

/// Bytes of `":" port` at the end of `bytes`; 0 where there is none.
fn port_len(bytes: &[u8]) -> usize {
    for (digits, byte) in bytes.iter().rev().take(PORT_DIGITS_MAX + 1).enumerate() {
        match byte {
            b':' => return digits + 1,
            b'0'..=b'9' => {}
            _ => return 0,
        }
    }
    0
}

/// Digits of 65535.
const PORT_DIGITS_MAX: usize = 5;

/// Bytes of the IPv6 address in brackets at the beginning of `bytes`; 0 where there is none.
#[cold]
fn literal_len(bytes: &[u8]) -> usize {
    let Some(end) = bytes.iter().position(|&byte| byte == b']') else { return 0 };
    let address = std::str::from_utf8(&bytes[1..end]).unwrap_or_default();
    if address.parse::<std::net::Ipv6Addr>().is_ok() { end + 1 } else { 0 }
}

/// The bytes of a reg-name: unreserved, sub-delims and percent-encoded octets (RFC 3986 section
/// 3.2.2).
const IS_NAME_BYTE: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0_u8;
    while byte < 0x80 {
        table[byte as usize] = byte.is_ascii_alphanumeric();
        byte += 1;
    }
    let marks = b"-._~!$&'()*+,;=%";
    let mut index = 0;
    while index < marks.len() {
        table[marks[index] as usize] = true;
        index += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    /// Hosts as the grammar has them, and what must not pass for one.
    #[test]
    fn authorities() {
        for good in ["a", "a.example", "a.example:80", "[::1]", "[::1]:8080", "a:", "10.0.0.1"] {
            assert!(is_authority(good.as_bytes()), "{good}");
        }
        for bad in [
            "", ":80", "a b", "a@b", "a/b", "a#b", "a?b", "[::1", "[::1]x", "[x]", "a:b",
            "a:123456", "a:1:2", "a\u{e9}", "a\\b", "::1",
        ] {
            assert!(!is_authority(bad.as_bytes()), "{bad}");
        }
    }
}
