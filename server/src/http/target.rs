//! Request targets (RFC 9112 section 3.2) and Host values (RFC 9110 section 7.2).
//!
//! The layout hints are explained in `http/mod.rs`.
use super::error::{ClientError, refuse};
use super::field::Name;
use super::head::{RequestHead, Version};

/// Destination of a request: the forwarded part of its target, and the host that it names.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Destination<'b> {
    /// The target in origin form, or `*`. For an absolute target without a path it is empty or
    /// begins with `?`, and a `/` is added before it.
    pub(crate) path: &'b [u8],
    /// The requested host; empty if an HTTP/1.0 client sent none.
    pub(crate) host: &'b [u8],
}

/// The last valid Host. Usually the next request has the same.
#[derive(Debug, Default)]
pub(crate) struct KnownHost(Vec<u8>);

impl KnownHost {
    /// The maximum length of a remembered Host, bytes. A longer Host is checked for each request.
    const LEN_MAX: usize = 255;

    fn is_good(&mut self, value: &[u8]) -> bool {
        (value == self.0 && !value.is_empty()) || self.check(value)
    }

    #[inline(never)]
    fn check(&mut self, value: &[u8]) -> bool {
        let is_good = is_authority(value);
        if is_good && value.len() <= Self::LEN_MAX {
            self.0.clear();
            self.0.extend_from_slice(value);
        }
        is_good
    }
}

/// Checks the method, the target and Host of a request.
///
/// # Errors
/// The first rule that one of these breaks.
#[inline(always)]
pub(crate) fn destination<'b>(
    head: &RequestHead<'_, 'b>,
    known_host: &mut KnownHost,
) -> Result<Destination<'b>, ClientError> {
    if head.method != "GET" {
        check_method(head.method)?;
    }
    let host = host(head, known_host)?;
    let target = head.target;
    // Bytes above ASCII are forwarded unchanged: some clients do not encode them.
    if target.iter().any(|&byte| matches!(byte, 0..=b' ' | b'#' | 0x7f)) {
        return refuse(ClientError::InvalidTarget);
    }
    if target.first() == Some(&b'/') {
        return Ok(Destination { path: target, host });
    }
    other_destination(head, host)
}

/// Refuses CONNECT and TRACE.
#[inline(never)]
fn check_method(method: &str) -> Result<(), ClientError> {
    match method {
        "CONNECT" => Err(ClientError::ConnectMethod),
        "TRACE" => Err(ClientError::TraceMethod),
        _ => Ok(()),
    }
}

/// Returns how many more times an OPTIONS request may be forwarded (RFC 9110 section 7.6.2): 0 when
/// this proxy is its last recipient, `None` without a valid limit. Other methods have no limit.
pub(crate) fn max_forwards(head: &RequestHead<'_, '_>) -> Option<u64> {
    if head.fields.has(Name::MaxForwards) { valid_max_forwards(head) } else { None }
}

#[cold]
fn valid_max_forwards(head: &RequestHead<'_, '_>) -> Option<u64> {
    /// Larger numbers are forwarded as this number.
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

/// Returns the destination of a target that is not a path.
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
    // RFC 9112 section 3.2.4: OPTIONS without a path refers to the whole server.
    let path = if path.is_empty() && head.method == "OPTIONS" { b"*" } else { path };
    // RFC 9112 section 3.2.2: the host in the target replaces that of the Host field.
    Ok(Destination { path, host: authority })
}

/// Returns the one Host of a request; empty for HTTP/1.0 without Host.
fn host<'b>(
    head: &RequestHead<'_, 'b>,
    known_host: &mut KnownHost,
) -> Result<&'b [u8], ClientError> {
    let Some(value) = head.fields.values(Name::Host).next() else {
        return match head.version {
            Version::Http10 => Ok(b""),
            Version::Http11 => refuse(ClientError::MissingHost),
        };
    };
    if head.fields.is_repeated(Name::Host) {
        return refuse(ClientError::DuplicateHost);
    }
    if known_host.is_good(value) { Ok(value) } else { refuse(ClientError::InvalidHost) }
}

/// Returns the part after `http://` or `https://`, in any case. Clients of a TLS terminator send
/// `https://`, which RFC 9112 section 3.2.2 requires a server to accept.
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
    let is_name_byte = |byte: &u8| IS_NAME_BYTE[usize::from(*byte)];
    let len = bytes.iter().position(|byte| !is_name_byte(byte)).unwrap_or(bytes.len());
    match &bytes[len..] {
        [] => len > 0,
        [b':', port @ ..] => len > 0 && is_port(port),
        _ => len == 0 && is_literal(bytes),
    }
}

fn is_port(bytes: &[u8]) -> bool {
    bytes.len() <= PORT_DIGITS_MAX && bytes.iter().all(u8::is_ascii_digit)
}

/// Whether `bytes` are an IPv6 address in brackets, with or without a port.
#[cold]
fn is_literal(bytes: &[u8]) -> bool {
    match &bytes[literal_len(bytes)..] {
        rest if rest.len() == bytes.len() => false,
        [] => true,
        [b':', port @ ..] => is_port(port),
        _ => false,
    }
}

/// The number of digits of 65535.
const PORT_DIGITS_MAX: usize = 5;

/// Returns the length of the IPv6 address in brackets at the start of `bytes`, or 0.
fn literal_len(bytes: &[u8]) -> usize {
    if bytes.first() != Some(&b'[') {
        return 0;
    }
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

    /// The verdict on a Host does not depend on earlier ones.
    #[test]
    fn a_known_host_makes_no_difference() {
        let long = "a".repeat(300);
        let mut known = KnownHost::default();
        for value in ["a:80", "", "a:80", "a:8o", "a:80", "", &long, "a:80", "a", "a b", "a"] {
            for _ in 0..2 {
                let is_good = is_authority(value.as_bytes());
                assert_eq!(known.is_good(value.as_bytes()), is_good, "{value:?}");
            }
        }
        assert!(known.0.capacity() <= 2 * KnownHost::LEN_MAX);
    }

    /// Hosts of the grammar are accepted, and similar texts are refused.
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
