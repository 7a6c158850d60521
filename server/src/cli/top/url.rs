//! `http` URLs.

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
    /// Parses `http://HOST[:PORT][/PATH]`. The default path is /stats.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        let rest = text.strip_prefix("http://").ok_or("does not begin with http://")?;
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("has a character that a URL cannot have");
        }
        if authority.contains('@') || target.contains('#') {
            return Err("has a user or a fragment");
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => rest.split_once(']').ok_or("has an invalid host")?,
            None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
        };
        let port = match port.strip_prefix(':') {
            Some(port) => {
                port.parse().ok().filter(|port| *port > 0).ok_or("has an invalid port")?
            }
            None if port.is_empty() => 80,
            None => return Err("has an invalid port"),
        };
        if host.is_empty() {
            return Err("has no host");
        }
        let target = match target {
            "" | "/" => STATS.to_owned(),
            path if path.starts_with('/') => path.to_owned(),
            _ => return Err("has a query without a path"),
        };
        Ok(Self { host: host.to_owned(), port, authority: authority.to_owned(), target })
    }
}

const STATS: &str = "/stats";

#[cfg(test)]
mod tests {
    use super::*;

    /// Each form of a URL is split into host, port, Host field and target; row by row.
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
            ("http://[::1", "has an invalid host"),
            ("http://[::1]80", "has an invalid port"),
            ("http://u@h", "has a user or a fragment"),
            ("http://h/#x", "has a user or a fragment"),
            ("http://h?x", "has a query without a path"),
            ("http://h/a\r\nEvil: 1", "has a character that a URL cannot have"),
        ] {
            assert_eq!(Url::parse(text), Err(wrong), "{text}");
        }
    }
}
