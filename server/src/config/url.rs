//! A backend's URL: `http://HOST[:PORT]` or `https://HOST[:PORT]`, optionally with one `/` at the
//! end.
use std::fmt;

use super::host::{HostError, HostPort};

/// The host and port of a backend, as its URL names them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BackendUrl {
    /// IPv4 address, IPv6 address without brackets, or DNS name in lower case.
    pub host: String,
    /// Whether the scheme is `https`.
    pub is_https: bool,
    /// The port. The default is 80, or 443 for `https`.
    pub port: u16,
    /// Value of a Host field: the host, in brackets if it is an IPv6 address, and the port
    /// unless it is the default (RFC 9110 section 7.2, RFC 3986 section 6.2.3).
    pub authority: String,
}

impl BackendUrl {
    /// Reads a URL.
    ///
    /// # Errors
    /// The reason why the URL is not a valid backend URL.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let (scheme, rest) = text.split_once("://").ok_or(UrlError::NotHttp)?;
        let is_https = scheme.eq_ignore_ascii_case("https");
        if !is_https && !scheme.eq_ignore_ascii_case("http") {
            return Err(UrlError::NotHttp);
        }
        let default_port = if is_https { HTTPS_PORT } else { HTTP_PORT };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, tail) = rest.split_at(end);
        if authority.contains('@') {
            return Err(UrlError::User);
        }
        match tail {
            "" | "/" => {}
            _ if tail.contains('#') => return Err(UrlError::Fragment),
            _ if tail.contains('?') => return Err(UrlError::Query),
            _ => return Err(UrlError::Path),
        }
        let HostPort { host, is_ipv6, port } =
            HostPort::parse(authority).map_err(UrlError::Host)?;
        let port = match port {
            Some(0) => return Err(UrlError::Host(HostError::Port)),
            Some(port) => port,
            None => default_port,
        };
        let bare = if is_ipv6 { format!("[{host}]") } else { host.clone() };
        let authority = if port == default_port { bare } else { format!("{bare}:{port}") };
        Ok(Self { host, is_https, port, authority })
    }
}

/// A fault of a backend's URL.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum UrlError {
    /// It does not begin with `http://` or `https://`.
    NotHttp,
    /// It has a user or password.
    User,
    /// It has a path other than `/`.
    Path,
    /// It has a query.
    Query,
    /// It has a fragment.
    Fragment,
    /// Its host or port is invalid.
    Host(HostError),
}

impl fmt::Display for UrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotHttp => f.write_str("does not begin with http:// or https://"),
            Self::User => f.write_str("has a user"),
            Self::Path => f.write_str("has a path"),
            Self::Query => f.write_str("has a query"),
            Self::Fragment => f.write_str("has a fragment"),
            Self::Host(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for UrlError {}

/// The port of `http` URLs that name none.
const HTTP_PORT: u16 = 80;
/// The default port of `https` URLs.
const HTTPS_PORT: u16 = 443;

#[cfg(test)]
mod tests {
    use super::*;

    /// Every accepted form is split into host, port and Host field; row by row.
    #[test]
    fn urls_are_read() {
        let rows = [
            ("http://localhost:3000", "localhost", 3000, "localhost:3000"),
            ("http://localhost:3000/", "localhost", 3000, "localhost:3000"),
            ("HTTP://Example.COM", "example.com", 80, "example.com"),
            ("http://example.com:80", "example.com", 80, "example.com"),
            ("http://10.0.0.7:8080", "10.0.0.7", 8080, "10.0.0.7:8080"),
            ("http://[::1]:3000", "::1", 3000, "[::1]:3000"),
            ("http://[2001:DB8::0:1]", "2001:db8::1", 80, "[2001:db8::1]"),
            ("http://a:65535", "a", 65535, "a:65535"),
            ("http://a:1", "a", 1, "a:1"),
            ("http://a:443", "a", 443, "a:443"),
            ("https://example.com", "example.com", 443, "example.com"),
            ("HTTPS://example.com:443/", "example.com", 443, "example.com"),
            ("https://example.com:80", "example.com", 80, "example.com:80"),
            ("https://[::1]", "::1", 443, "[::1]"),
        ];
        for (text, host, port, authority) in rows {
            let is_https = text.to_ascii_lowercase().starts_with("https");
            let (host, authority) = (host.to_owned(), authority.to_owned());
            let expected = BackendUrl { host, is_https, port, authority };
            assert_eq!(BackendUrl::parse(text), Ok(expected), "{text}");
        }
    }

    /// Other texts are refused by the kind of their fault; row by row.
    #[test]
    fn bad_urls_are_refused() {
        let rows = [
            ("", UrlError::NotHttp),
            ("localhost:3000", UrlError::NotHttp),
            ("//localhost", UrlError::NotHttp),
            ("httpss://localhost", UrlError::NotHttp),
            ("https:/localhost", UrlError::NotHttp),
            ("https://user@localhost", UrlError::User),
            ("https://localhost:0", UrlError::Host(HostError::Port)),
            (" http://localhost", UrlError::NotHttp),
            ("http:/localhost", UrlError::NotHttp),
            ("http://user@localhost", UrlError::User),
            ("http://user:secret@localhost:80/", UrlError::User),
            ("http://localhost/api", UrlError::Path),
            ("http://localhost//", UrlError::Path),
            ("http://localhost?a=b", UrlError::Query),
            ("http://localhost/?", UrlError::Query),
            ("http://localhost#top", UrlError::Fragment),
            ("http://", UrlError::Host(HostError::NoHost)),
            ("http:///", UrlError::Host(HostError::NoHost)),
            ("http://:80", UrlError::Host(HostError::NoHost)),
            ("http://localhost:0", UrlError::Host(HostError::Port)),
            ("http://localhost:65536", UrlError::Host(HostError::Port)),
            ("http://localhost:", UrlError::Host(HostError::Port)),
            ("http://::1:80", UrlError::Host(HostError::BareIpv6)),
            ("http://a b", UrlError::Host(HostError::Name)),
            ("http://a\r\nb", UrlError::Host(HostError::Name)),
            ("http://a\\b", UrlError::Host(HostError::Name)),
        ];
        for (text, expected) in rows {
            assert_eq!(BackendUrl::parse(text), Err(expected), "{text}");
        }
    }
}
