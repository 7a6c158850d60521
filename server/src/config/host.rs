//! A strict parser of `HOST[:PORT]` in URLs and listen addresses.
//!
//! The crate `url` is not used: it would add 20 crates, with tables for other scripts. It also
//! accepts and rewrites texts that are refused here, such as `http:/host` and `0x7f.1`.
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

/// A host and an optional port.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct HostPort {
    /// IPv4 address, IPv6 address without brackets, or DNS name in lower case.
    pub(crate) host: String,
    /// Whether the host needs brackets if a port may follow.
    pub(crate) is_ipv6: bool,
    /// The port, if there is one; the caller checks for 0.
    pub(crate) port: Option<u16>,
}

impl HostPort {
    /// Reads `HOST`, `HOST:PORT`, `[IPV6]` or `[IPV6]:PORT`.
    pub(crate) fn parse(text: &str) -> Result<Self, HostError> {
        if let Some(bracketed) = text.strip_prefix('[') {
            let (address, rest) = bracketed.split_once(']').ok_or(HostError::OpenBracket)?;
            let address: Ipv6Addr = address.parse().map_err(|_| HostError::Ipv6Address)?;
            let port = match rest.strip_prefix(':') {
                Some(digits) => Some(parse_port(digits)?),
                None if rest.is_empty() => None,
                None => return Err(HostError::AfterBracket),
            };
            return Ok(Self { host: address.to_string(), is_ipv6: true, port });
        }
        let (host, port) = match text.split_once(':') {
            Some((_, rest)) if rest.contains(':') => return Err(HostError::BareIpv6),
            Some((host, digits)) => (host, Some(parse_port(digits)?)),
            None => (text, None),
        };
        if host.is_empty() {
            return Err(HostError::NoHost);
        }
        if ends_in_number(host) {
            let address: Ipv4Addr = host.parse().map_err(|_| HostError::Ipv4Address)?;
            return Ok(Self { host: address.to_string(), is_ipv6: false, port });
        }
        if !is_name(host) {
            return Err(HostError::Name);
        }
        Ok(Self { host: host.to_ascii_lowercase(), is_ipv6: false, port })
    }
}

/// A fault of a `HOST[:PORT]`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum HostError {
    /// The host is missing.
    NoHost,
    /// The address to listen on is missing, or `*` as in other programs.
    NoAddress,
    /// A `[` without its `]`.
    OpenBracket,
    /// Something other than a port after `]`.
    AfterBracket,
    /// The text in brackets is not an IPv6 address.
    Ipv6Address,
    /// An IPv6 address without brackets, or a second colon.
    BareIpv6,
    /// It ends in a number but is not an IPv4 address.
    Ipv4Address,
    /// A character or length that DNS names do not have.
    Name,
    /// The port is missing, or is not a number from 0 to 65535 without leading zeros.
    Port,
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoHost => "has no host",
            Self::NoAddress => "has no address; all of them are 0.0.0.0 or [::]",
            Self::OpenBracket => "has a [ without its ]",
            Self::AfterBracket => "has something other than a port after its ]",
            Self::Ipv6Address => "has brackets around something other than an IPv6 address",
            Self::BareIpv6 => "has too many colons; an IPv6 address must be in brackets",
            Self::Ipv4Address => "has a host that ends in a number but is not an IPv4 address",
            Self::Name => "has a host that is not a DNS name",
            Self::Port => "has an invalid port",
        })
    }
}

impl std::error::Error for HostError {}

/// Reads a port: digits without sign or leading zeros.
fn parse_port(digits: &str) -> Result<u16, HostError> {
    let is_plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    if !is_plain || (digits.len() > 1 && digits.starts_with('0')) {
        return Err(HostError::Port);
    }
    digits.parse().map_err(|_| HostError::Port)
}

/// Whether a resolver might accept the host as an IPv4 address in one of many spellings (`127.1`,
/// `0x7f.1`). If so, only the dotted decimal form is valid.
fn ends_in_number(host: &str) -> bool {
    let last = host.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
    let hexadecimal = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    match hexadecimal {
        Some(digits) => digits.bytes().all(|byte| byte.is_ascii_hexdigit()),
        None => !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit()),
    }
}

/// Whether this is a DNS name: labels of 1 to 63 letters, digits, `-` and `_`, at most 253
/// characters in total, optionally with the root's dot at the end.
fn is_name(host: &str) -> bool {
    let name = host.strip_suffix('.').unwrap_or(host);
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host_port(host: &str, is_ipv6: bool, port: Option<u16>) -> Result<HostPort, HostError> {
        Ok(HostPort { host: host.to_owned(), is_ipv6, port })
    }

    /// Every accepted form is stored in one spelling; row by row.
    #[test]
    fn hosts_are_read_into_one_spelling() {
        let long_label = "a".repeat(63);
        let rows = [
            ("localhost", host_port("localhost", false, None)),
            ("LocalHost:3000", host_port("localhost", false, Some(3000))),
            ("127.0.0.1:80", host_port("127.0.0.1", false, Some(80))),
            ("[::1]", host_port("::1", true, None)),
            ("[0:0:0:0:0:0:0:1]:8080", host_port("::1", true, Some(8080))),
            ("[::ffff:10.0.0.1]:1", host_port("::ffff:10.0.0.1", true, Some(1))),
            ("my_service.example.com.", host_port("my_service.example.com.", false, None)),
            ("a-b.c:65535", host_port("a-b.c", false, Some(65535))),
            ("h:0", host_port("h", false, Some(0))),
            (long_label.as_str(), host_port(&long_label, false, None)),
        ];
        for (text, expected) in rows {
            assert_eq!(HostPort::parse(text), expected, "{text}");
        }
    }

    /// Invalid hosts are refused by the kind of their fault; row by row.
    #[test]
    fn bad_hosts_are_refused() {
        let long_label = "a".repeat(64);
        let long_name = ["a".repeat(63).as_str(); 4].join(".");
        let rows = [
            ("", HostError::NoHost),
            (":80", HostError::NoHost),
            ("[::1", HostError::OpenBracket),
            ("[::1]80", HostError::AfterBracket),
            ("[::1]:", HostError::Port),
            ("[127.0.0.1]:80", HostError::Ipv6Address),
            ("[fe80::1%eth0]:80", HostError::Ipv6Address),
            ("::1", HostError::BareIpv6),
            ("a:1:2", HostError::BareIpv6),
            ("127.1", HostError::Ipv4Address),
            ("256.0.0.1:80", HostError::Ipv4Address),
            ("127.0.0.01", HostError::Ipv4Address),
            ("1.2.3.4.", HostError::Ipv4Address),
            ("0x7f.0x1", HostError::Ipv4Address),
            ("2130706433", HostError::Ipv4Address),
            ("a..b", HostError::Name),
            (".", HostError::Name),
            ("-a", HostError::Name),
            ("a-.b", HostError::Name),
            ("a b", HostError::Name),
            ("a\u{0}", HostError::Name),
            ("größe", HostError::Name),
            ("*", HostError::Name),
            (long_label.as_str(), HostError::Name),
            (long_name.as_str(), HostError::Name),
            ("h:", HostError::Port),
            ("h:+1", HostError::Port),
            ("h:-1", HostError::Port),
            ("h: 1", HostError::Port),
            ("h:01", HostError::Port),
            ("h:65536", HostError::Port),
            ("h:99999999999", HostError::Port),
            ("h:http", HostError::Port),
        ];
        for (text, expected) in rows {
            assert_eq!(HostPort::parse(text), Err(expected), "{text}");
        }
    }
}
