//! Request targets (RFC 9112 section 3.2) and Host values (RFC 9110 section 7.2).
use super::error::ClientError;
use super::field::Name;
use super::head::{RequestHead, Version};

/// Where a request wants to go: what is forwarded of its target, and which host it means.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Destination<'b> {
    /// The target in origin form, or `*`. When it was absolute without a path it is empty or
    /// begins with `?`, and a `/` is meant before it.
    pub(crate) path: &'b str,
    /// The host that the client means; empty when an HTTP/1.0 client named none.
    pub(crate) host: &'b str,
}

/// Checks the method, the target and Host of a request.
///
/// # Errors
/// The rule that one of them breaks.
pub(crate) fn destination<'b>(head: &RequestHead<'_, 'b>) -> Result<Destination<'b>, ClientError> {
    match head.method {
        "CONNECT" => return Err(ClientError::ConnectMethod),
        "TRACE" => return Err(ClientError::TraceMethod),
        _ => {}
    }
    let host = host(head)?;
    let target = head.target;
    if target.bytes().any(|byte| !(0x21..=0x7e).contains(&byte) || byte == b'#') {
        return Err(ClientError::InvalidTarget);
    }
    if target.starts_with('/') {
        return Ok(Destination { path: target, host });
    }
    if target == "*" && head.method == "OPTIONS" {
        return Ok(Destination { path: target, host });
    }
    let Some(rest) = strip_scheme(target) else {
        return Err(ClientError::InvalidTarget);
    };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    if !is_authority(authority) {
        return Err(ClientError::InvalidTarget);
    }
    // RFC 9112 section 3.2.4: OPTIONS without a path is about the whole server.
    let path = if path.is_empty() && head.method == "OPTIONS" { "*" } else { path };
    Ok(Destination { path, host: authority })
}

/// The one Host that a request has; empty where HTTP/1.0 has none.
fn host<'b>(head: &RequestHead<'_, 'b>) -> Result<&'b str, ClientError> {
    let mut values = head.fields.values(Name::Host);
    let Some(value) = values.next() else {
        return match head.version {
            Version::Http10 => Ok(""),
            Version::Http11 => Err(ClientError::MissingHost),
        };
    };
    if values.next().is_some() {
        return Err(ClientError::DuplicateHost);
    }
    match std::str::from_utf8(value) {
        Ok(host) if is_authority(host) => Ok(host),
        _ => Err(ClientError::InvalidHost),
    }
}

/// What follows `http://`, in any case.
fn strip_scheme(target: &str) -> Option<&str> {
    let (scheme, rest) = target.split_at_checked("http://".len())?;
    scheme.eq_ignore_ascii_case("http://").then_some(rest)
}

/// Whether `text` is `uri-host [":" port]` with a host (RFC 9110 section 4.2.1 forbids an empty
/// one) and without user information.
pub(crate) fn is_authority(text: &str) -> bool {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else {
            return false;
        };
        let is_address = address.parse::<std::net::Ipv6Addr>().is_ok();
        if !is_address || !(port.is_empty() || port.starts_with(':')) {
            return false;
        }
        ("ipv6", port.strip_prefix(':').unwrap_or_default())
    } else {
        text.split_once(':').unwrap_or((text, ""))
    };
    // reg-name: unreserved, sub-delims and percent-encoded octets (RFC 3986 section 3.2.2).
    let is_name_byte = |b: u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%".contains(&b);
    !host.is_empty()
        && host.bytes().all(is_name_byte)
        && port.len() <= 5
        && port.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hosts as the grammar has them, and what must not pass for one.
    #[test]
    fn authorities() {
        for good in ["a", "a.example", "a.example:80", "[::1]", "[::1]:8080", "a:", "10.0.0.1"] {
            assert!(is_authority(good), "{good}");
        }
        for bad in [
            "", ":80", "a b", "a@b", "a/b", "a#b", "a?b", "[::1", "[::1]x", "[x]", "a:b",
            "a:123456", "a:1:2", "a\u{e9}", "a\\b", "::1",
        ] {
            assert!(!is_authority(bad), "{bad}");
        }
    }
}
