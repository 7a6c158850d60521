//! An address to listen on, `HOST:PORT`, and its protocol.
use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, Visitor};
use serde::ser::SerializeStruct;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::host::{HostError, HostPort};
use super::tls::ListenTls;

/// An address to listen on; a name may resolve to several addresses.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ListenAddress {
    /// IPv4 address, IPv6 address without brackets, or DNS name in lower case.
    pub host: String,
    /// The port; 0 means any free one.
    pub port: u16,
}

impl ListenAddress {
    /// Reads `HOST:PORT`; the port is required.
    ///
    /// # Errors
    /// The fault of the host or the port.
    pub fn parse(text: &str) -> Result<Self, HostError> {
        // nginx and HAProxy accept `80`, `:80` and `*:80`.
        let rest = text.strip_prefix('*').unwrap_or(text);
        let rest = rest.strip_prefix(':').unwrap_or(rest);
        if !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(HostError::NoAddress);
        }
        let HostPort { host, port, .. } = HostPort::parse(text)?;
        Ok(Self { host, port: port.ok_or(HostError::Port)? })
    }
}

/// One entry of `listen`: the address alone, or an object with it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Listen {
    /// `HOST:PORT`.
    pub address: String,
    /// Whether connections from `forwarding.trusted` begin with a PROXY protocol header (false).
    pub proxy_protocol: bool,
    /// Whether other processes of the same user may also listen on the address (false). It takes
    /// effect when the address is opened.
    pub reuse_port: bool,
    /// The TLS settings (null: no TLS).
    pub tls: Option<ListenTls>,
    /// The HTTPS port to which every request is redirected (null: no redirect).
    pub redirect_to_https: Option<u16>,
}

impl From<&str> for Listen {
    fn from(address: &str) -> Self {
        Self {
            address: address.to_owned(),
            proxy_protocol: false,
            reuse_port: false,
            tls: None,
            redirect_to_https: None,
        }
    }
}

impl Serialize for Listen {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let options = [("proxyProtocol", self.proxy_protocol), ("reusePort", self.reuse_port)];
        let mut count = options.iter().filter(|(_, is_on)| *is_on).count();
        count += usize::from(self.tls.is_some()) + usize::from(self.redirect_to_https.is_some());
        if count == 0 {
            return to.serialize_str(&self.address);
        }
        let mut object = to.serialize_struct("Listen", 1 + count)?;
        object.serialize_field("address", &self.address)?;
        for (name, is_on) in options {
            if is_on {
                object.serialize_field(name, &true)?;
            }
        }
        if let Some(tls) = &self.tls {
            object.serialize_field("tls", tls)?;
        }
        if let Some(port) = self.redirect_to_https {
            object.serialize_field("redirectToHttps", &port)?;
        }
        object.end()
    }
}

impl<'a> Deserialize<'a> for Listen {
    fn deserialize<D: Deserializer<'a>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(ListenVisitor)
    }
}

/// An entry in the form of an object.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Object {
    address: String,
    #[serde(default)]
    proxy_protocol: bool,
    #[serde(default)]
    reuse_port: bool,
    #[serde(default)]
    tls: Option<ListenTls>,
    #[serde(default)]
    redirect_to_https: Option<u16>,
}

struct ListenVisitor;

impl<'a> Visitor<'a> for ListenVisitor {
    type Value = Listen;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or an object with address and other keys")
    }

    fn visit_str<E: de::Error>(self, address: &str) -> Result<Listen, E> {
        Ok(address.into())
    }

    fn visit_map<A: MapAccess<'a>>(self, map: A) -> Result<Listen, A::Error> {
        let Object { address, proxy_protocol, reuse_port, tls, redirect_to_https } =
            Object::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Listen { address, proxy_protocol, reuse_port, tls, redirect_to_https })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An entry is written as it is read: as text, or as an object with the values that differ from
    /// the defaults.
    #[test]
    fn entries_are_written_as_they_are_read() {
        for text in [
            r#""a:1""#,
            r#"{"address":"a:1","proxyProtocol":true}"#,
            r#"{"address":"a:1","reusePort":true}"#,
            r#"{"address":"a:1","proxyProtocol":true,"reusePort":true}"#,
            r#"{"address":"a:1","reusePort":true,"redirectToHttps":443}"#,
            concat!(
                r#"{"address":"a:1","tls":{"certificates":[{"chain":"c","key":"k","ocsp":"o"}],"#,
                r#""minVersion":"1.3","clientAuth":{"ca":"a","optional":true,"subjectField":"S","#,
                r#""fingerprintField":null},"hsts":"max-age=1"}}"#
            ),
        ] {
            let listen: Listen = serde_json::from_str(text).expect("an entry");
            assert_eq!(serde_json::to_string(&listen).expect("JSON"), text);
        }
    }

    /// Addresses with a port are accepted, all others refused; row by row.
    #[test]
    fn listen_addresses_need_a_port() {
        let address = |host: &str, port| Ok(ListenAddress { host: host.to_owned(), port });
        let rows = [
            ("127.0.0.1:3001", address("127.0.0.1", 3001)),
            ("0.0.0.0:0", address("0.0.0.0", 0)),
            ("[::]:80", address("::", 80)),
            ("Localhost:65535", address("localhost", 65535)),
            ("127.0.0.1", Err(HostError::Port)),
            ("3001", Err(HostError::NoAddress)),
            (":3001", Err(HostError::NoAddress)),
            ("*:3001", Err(HostError::NoAddress)),
            ("*", Err(HostError::Name)),
            ("[::1]", Err(HostError::Port)),
            ("127.0.0.1:70000", Err(HostError::Port)),
            ("http://127.0.0.1:3001", Err(HostError::BareIpv6)),
        ];
        for (text, expected) in rows {
            assert_eq!(ListenAddress::parse(text), expected, "{text}");
        }
    }
}
