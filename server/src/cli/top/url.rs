//! `http` URLs.
use crate::config::{HostError, HostPort};

/// An `http` URL.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Url {
    /// IPv4 address, IPv6 address without brackets, or name.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Host and port as written, for the Host field.
    pub(crate) authority: String,
    /// Path and query.
    pub(crate) target: String,
}

impl Url {
    /// Parses `http://HOST[:PORT][/PATH]`. Without a path it is /stats.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let rest = text.strip_prefix("http://").ok_or("does not begin with http://")?;
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("has a character that a URL cannot have".to_owned());
        }
        if authority.contains('@') || target.contains('#') {
            return Err("has a user or a fragment".to_owned());
        }
        let HostPort { host, port, .. } =
            HostPort::parse(authority).map_err(|wrong| wrong.to_string())?;
        if port == Some(0) {
            return Err(HostError::Port.to_string());
        }
        let target = match target {
            "" | "/" => STATS.to_owned(),
            path if path.starts_with('/') => path.to_owned(),
            _ => return Err("has a query without a path".to_owned()),
        };
        Ok(Self { host, port: port.unwrap_or(80), authority: authority.to_owned(), target })
    }
}

const STATS: &str = "/stats";

#[cfg(test)]
mod tests {
    use super::*;

    /// Each form of a URL has its host, port, Host field and target; row by row.
    #[test]
    fn urls_are_read() {
        for (text, host, port, authority, target) in [
            ("http://h:3003/stats", "h", 3003, "h:3003", "/stats"),
            ("http://h:3003", "h", 3003, "h:3003", "/stats"),
            ("http://h/", "h", 80, "h", "/stats"),
            ("http://[::1]:81/proxy/stats?x=1", "::1", 81, "[::1]:81", "/proxy/stats?x=1"),
            ("http://[::1]", "::1", 80, "[::1]", "/stats"),
        ] {
            let url = Url::parse(text).expect(text);
            let read = (&*url.host, url.port, &*url.authority, &*url.target);
            assert_eq!(read, (host, port, authority, target), "{text}");
        }
        for (text, wrong) in [
            ("https://h", "does not begin with http://"),
            ("h:3003", "does not begin with http://"),
            ("http://", "has no host"),
            ("http://:80", "has no host"),
            ("http://h:0", "has an invalid port"),
            ("http://h:x", "has an invalid port"),
            ("http://[::1", "has a [ without its ]"),
            ("http://[::1]80", "has something other than a port after its ]"),
            ("http://u@h", "has a user or a fragment"),
            ("http://h/#x", "has a user or a fragment"),
            ("http://h?x", "has a query without a path"),
            ("http://h/a\r\nEvil: 1", "has a character that a URL cannot have"),
        ] {
            assert_eq!(Url::parse(text), Err(wrong.to_owned()), "{text}");
        }
    }
}
