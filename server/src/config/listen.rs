//! An address to listen on: `HOST:PORT`.
use super::host::{HostError, HostPort};

/// Where to listen; a name may stand for several addresses.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ListenAddress {
    /// IPv4 address, IPv6 address without brackets, or DNS name in lower case.
    pub host: String,
    /// The port; 0 asks for any free one.
    pub port: u16,
}

impl ListenAddress {
    /// Reads `HOST:PORT`; the port must be there.
    ///
    /// # Errors
    /// What cannot be about the host or the port.
    pub fn parse(text: &str) -> Result<Self, HostError> {
        let HostPort { host, port, .. } = HostPort::parse(text)?;
        Ok(Self { host, port: port.ok_or(HostError::Port)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Addresses with a port are taken, all else is refused; row by row.
    #[test]
    fn listen_addresses_need_a_port() {
        let address = |host: &str, port| Ok(ListenAddress { host: host.to_owned(), port });
        let rows = [
            ("127.0.0.1:3001", address("127.0.0.1", 3001)),
            ("0.0.0.0:0", address("0.0.0.0", 0)),
            ("[::]:80", address("::", 80)),
            ("Localhost:65535", address("localhost", 65535)),
            ("127.0.0.1", Err(HostError::Port)),
            ("3001", Err(HostError::Ipv4Address)),
            (":3001", Err(HostError::NoHost)),
            ("[::1]", Err(HostError::Port)),
            ("127.0.0.1:70000", Err(HostError::Port)),
            ("http://127.0.0.1:3001", Err(HostError::BareIpv6)),
        ];
        for (text, expected) in rows {
            assert_eq!(ListenAddress::parse(text), expected, "{text}");
        }
    }
}
