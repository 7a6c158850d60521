//! Networks of addresses, `10.0.0.0/8` or `::1`, for permissions.
//!
//! No crate is used, because this is only one mask and one comparison. The crate `ipnet` accepts
//! bits beyond the prefix and has no rule for IPv4-mapped addresses, so both rules would still be
//! needed here.
use std::fmt;
use std::net::IpAddr;

/// An address prefix, IPv4 or IPv6; a single address is a prefix of its whole length.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// Reads `ADDRESS` or `ADDRESS/PREFIX`. Bits beyond the prefix must be zero: they are usually a
    /// mistake. A prefix of IPv4-mapped addresses becomes an IPv4 prefix.
    ///
    /// # Errors
    /// The fault of the address or the prefix.
    pub fn parse(text: &str) -> Result<Self, NetworkError> {
        let (address, digits) = match text.split_once('/') {
            Some((address, digits)) => (address, Some(digits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| NetworkError::Address)?;
        let length = if address.is_ipv4() { 32 } else { 128 };
        let prefix = digits.map_or(Ok(length), |digits| parse_prefix(digits, length))?;
        if bits(address) & !mask(prefix, length) != 0 {
            return Err(NetworkError::BitsBeyondPrefix);
        }
        let canonical = address.to_canonical();
        if canonical.is_ipv4() && address.is_ipv6() && prefix >= MAPPED_BITS {
            return Ok(Self { address: canonical, prefix: prefix - MAPPED_BITS });
        }
        Ok(Self { address, prefix })
    }

    /// Whether the network contains an address; an IPv4-mapped IPv6 address counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let length = if self.address.is_ipv4() { 32 } else { 128 };
        address.is_ipv4() == self.address.is_ipv4()
            && (bits(address) ^ bits(self.address)) & mask(self.prefix, length) == 0
    }
}

/// A fault of a network.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NetworkError {
    /// The text before the slash is not an address.
    Address,
    /// The text after the slash is not a prefix length, or is longer than the address.
    Prefix,
    /// The address has bits set beyond the prefix.
    BitsBeyondPrefix,
}

impl fmt::Display for NetworkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Address => "has no IPv4 or IPv6 address",
            Self::Prefix => "has an invalid prefix length",
            Self::BitsBeyondPrefix => "has bits set beyond its prefix",
        })
    }
}

impl std::error::Error for NetworkError {}

/// Reads a prefix length: digits without sign or leading zeros, at most `length`.
fn parse_prefix(digits: &str, length: u8) -> Result<u8, NetworkError> {
    let is_plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    if !is_plain || (digits.len() > 1 && digits.starts_with('0')) {
        return Err(NetworkError::Prefix);
    }
    digits.parse().ok().filter(|prefix| *prefix <= length).ok_or(NetworkError::Prefix)
}

/// Returns the address as a number.
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// Returns the mask of a prefix in an address of `length` bits.
fn mask(prefix: u8, length: u8) -> u128 {
    let all = u128::MAX >> (128 - u32::from(length));
    all & !all.checked_shr(u32::from(prefix)).unwrap_or(0)
}

/// Bits before the IPv4 address in an IPv4-mapped IPv6 address (RFC 4291 section 2.5.5.2).
const MAPPED_BITS: u8 = 96;

#[cfg(test)]
mod tests {
    use super::*;

    /// A network contains the addresses that begin with its prefix, and no others; row by row.
    #[test]
    fn addresses_match_their_networks() {
        let rows = [
            ("127.0.0.0/8", "127.0.0.1", true),
            ("127.0.0.0/8", "127.255.255.255", true),
            ("127.0.0.0/8", "128.0.0.0", false),
            ("127.0.0.0/8", "126.255.255.255", false),
            ("127.0.0.0/8", "::ffff:127.0.0.1", true),
            ("127.0.0.0/8", "::1", false),
            ("10.1.2.3", "10.1.2.3", true),
            ("10.1.2.3", "10.1.2.2", false),
            ("10.1.2.2/31", "10.1.2.3", true),
            ("10.1.2.2/31", "10.1.2.4", false),
            ("0.0.0.0/0", "255.255.255.255", true),
            ("0.0.0.0/0", "::ffff:1.2.3.4", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("::1", "::1", true),
            ("::1", "::2", false),
            ("::/0", "2001:db8::1", true),
            ("::/0", "1.2.3.4", false),
            ("2001:db8::/32", "2001:db8:ffff::1", true),
            ("2001:db8::/32", "2001:db9::", false),
            ("::ffff:10.0.0.0/104", "10.200.0.1", true),
            ("::ffff:10.0.0.0/104", "::ffff:10.200.0.1", true),
            ("::ffff:10.0.0.0/104", "11.0.0.1", false),
            ("::ffff:10.0.0.1", "10.0.0.1", true),
        ];
        for (network, address, expected) in rows {
            let network = Network::parse(network).expect("a network");
            let address = address.parse().expect("an address");
            assert_eq!(network.contains(address), expected, "{network:?} {address}");
        }
    }

    /// Invalid networks are refused by the kind of their fault; row by row.
    #[test]
    fn bad_networks_are_refused() {
        let rows = [
            ("", NetworkError::Address),
            ("localhost", NetworkError::Address),
            ("10.0.0", NetworkError::Address),
            ("10.0.0.0/", NetworkError::Prefix),
            ("10.0.0.0/33", NetworkError::Prefix),
            ("10.0.0.0/+8", NetworkError::Prefix),
            ("10.0.0.0/08", NetworkError::Prefix),
            ("10.0.0.0/8/8", NetworkError::Prefix),
            ("::/129", NetworkError::Prefix),
            ("::/256", NetworkError::Prefix),
            ("10.0.0.1/8", NetworkError::BitsBeyondPrefix),
            ("::1/0", NetworkError::BitsBeyondPrefix),
            ("[::1]", NetworkError::Address),
        ];
        for (text, expected) in rows {
            assert_eq!(Network::parse(text), Err(expected), "{text}");
        }
    }
}
