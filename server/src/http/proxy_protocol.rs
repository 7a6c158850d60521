//! The PROXY protocol, versions 1 and 2: a header in which a hop names its client. It precedes the
//! client's first byte (the haproxy project's `proxy-protocol.txt`).
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::error::ClientError;
use super::head::Parsed;

/// A complete header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct ProxyHeader {
    /// Bytes of the header.
    pub(crate) len: usize,
    /// The client; `None` if the hop is itself the client (LOCAL) or does not name a TCP client
    /// (UNKNOWN, UNSPEC, other protocols).
    pub(crate) source: Option<SocketAddr>,
}

/// The maximum length of a version 1 header with its CRLF, bytes.
const TEXT_MAX: usize = 107;
/// The maximum length of a version 2 header, bytes. With IPv6 addresses it has 52, with UNIX
/// sockets 232; the rest is for extensions, which are skipped.
const BINARY_MAX: usize = 4096;
/// First bytes of a version 2 header.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Bytes of a version 2 header before its addresses.
const FIXED: usize = 16;

/// Parses a header at the beginning of `input`.
///
/// # Errors
/// The bytes so far cannot become a header.
pub(crate) fn parse(input: &[u8]) -> Result<Parsed<ProxyHeader>, ClientError> {
    let begins = |start: &[u8]| input.iter().zip(start).all(|(got, expected)| got == expected);
    if begins(SIGNATURE) {
        return parse_binary(input);
    }
    if !begins(b"PROXY ") {
        return Err(ClientError::MalformedProxyHeader);
    }
    let line = &input[..input.len().min(TEXT_MAX)];
    match line.windows(2).position(|pair| pair == b"\r\n") {
        Some(end) => {
            let source = parse_text(&line[..end]).ok_or(ClientError::MalformedProxyHeader)?;
            Ok(Parsed::Complete(ProxyHeader { len: end + 2, source }))
        }
        None if input.len() < TEXT_MAX => Ok(Parsed::Partial),
        None => Err(ClientError::MalformedProxyHeader),
    }
}

/// Returns the source in a version 1 line; `None` if the line is malformed.
fn parse_text(line: &[u8]) -> Option<Option<SocketAddr>> {
    let line = std::str::from_utf8(line).ok()?;
    let mut words = line.strip_prefix("PROXY ")?.split(' ');
    let family = words.next()?;
    if family == "UNKNOWN" {
        return Some(None);
    }
    let [source, destination, source_port, destination_port]: [&str; 4] =
        words.collect::<Vec<_>>().try_into().ok()?;
    let address = |text: &str| -> Option<IpAddr> {
        match family {
            "TCP4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::from),
            "TCP6" => text.parse::<Ipv6Addr>().ok().map(IpAddr::from),
            _ => None,
        }
    };
    // `u16::from_str` would accept a sign and leading zeros, which the specification forbids.
    let port = |text: &str| -> Option<u16> {
        let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
        let has_zero = text.len() > 1 && text.starts_with('0');
        if is_plain && !has_zero { text.parse().ok() } else { None }
    };
    address(destination)?;
    port(destination_port)?;
    Some(Some(SocketAddr::new(address(source)?, port(source_port)?)))
}

fn parse_binary(input: &[u8]) -> Result<Parsed<ProxyHeader>, ClientError> {
    // An invalid byte is refused at once, without waiting for the rest.
    let version = input.get(12).copied().unwrap_or(0x20);
    let length = match input.get(14..FIXED) {
        Some(&[high, low]) => usize::from(u16::from_be_bytes([high, low])),
        _ => 0,
    };
    let len = FIXED + length;
    if !matches!(version, 0x20 | 0x21) || len > BINARY_MAX {
        return Err(ClientError::MalformedProxyHeader);
    }
    if input.len() < FIXED || input.len() < len {
        return Ok(Parsed::Partial);
    }
    let addresses = &input[FIXED..len];
    let source = match (version, input[13]) {
        // LOCAL: the rest is ignored.
        (0x20, _) => None,
        (_, 0x11) => Some(source_of::<4, 12>(addresses)?),
        (_, 0x21) => Some(source_of::<16, 36>(addresses)?),
        // UNSPEC, datagrams and UNIX sockets.
        (_, 0x00..=0x02 | 0x12 | 0x22 | 0x30..=0x32 | 0x10 | 0x20) => None,
        _ => return Err(ClientError::MalformedProxyHeader),
    };
    Ok(Parsed::Complete(ProxyHeader { len, source }))
}

/// Returns the source of a block of `LEN` bytes: source and destination address of `SIZE` bytes
/// each, then their ports.
fn source_of<const SIZE: usize, const LEN: usize>(
    addresses: &[u8],
) -> Result<SocketAddr, ClientError>
where
    IpAddr: From<[u8; SIZE]>,
{
    let block: Option<&[u8; LEN]> = addresses.first_chunk();
    let read = |block: &[u8; LEN]| -> Option<SocketAddr> {
        let ip = IpAddr::from(*block.first_chunk::<SIZE>()?);
        let port = u16::from_be_bytes(*block.get(2 * SIZE..)?.first_chunk()?);
        Some(SocketAddr::new(ip.to_canonical(), port))
    };
    block.and_then(read).ok_or(ClientError::MalformedProxyHeader)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the length and the source of a header, or `None` if more bytes are needed.
    fn read(input: &[u8]) -> Result<Option<(usize, Option<String>)>, ClientError> {
        Ok(match parse(input)? {
            Parsed::Complete(header) => {
                Some((header.len, header.source.map(|source| source.to_string())))
            }
            Parsed::Partial => None,
        })
    }

    fn binary(version: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
        let length = u16::try_from(addresses.len()).expect("short").to_be_bytes();
        [&SIGNATURE[..], &[version, family], &length, addresses].concat()
    }

    const V4: &[u8] = &[192, 0, 2, 1, 10, 0, 0, 1, 0x12, 0x34, 0, 80];

    /// Valid headers give their source, whole and with bytes after them. Incomplete ones are
    /// partial at every byte.
    #[test]
    fn good_headers() {
        let v6: Vec<u8> = [
            &"2001:db8::1".parse::<Ipv6Addr>().expect("an address").octets()[..],
            &[0; 16],
            &[0, 7, 0, 80],
        ]
        .concat();
        let long = format!("PROXY UNKNOWN {}\r\n", "f".repeat(TEXT_MAX - 16));
        assert_eq!(long.len(), TEXT_MAX);
        let with_extension = [V4, &[3, 0, 4, 1, 2, 3, 4]].concat();
        let rows: [(Vec<u8>, Option<&str>); 14] = [
            (b"PROXY TCP4 192.0.2.1 10.0.0.1 4660 80\r\n".to_vec(), Some("192.0.2.1:4660")),
            (b"PROXY TCP6 2001:db8::1 ::1 0 65535\r\n".to_vec(), Some("[2001:db8::1]:0")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n".to_vec(), None),
            (long.into_bytes(), None),
            (binary(0x21, 0x11, V4), Some("192.0.2.1:4660")),
            (binary(0x21, 0x11, &with_extension), Some("192.0.2.1:4660")),
            (binary(0x21, 0x21, &v6), Some("[2001:db8::1]:7")),
            (binary(0x20, 0x00, &[]), None),
            (binary(0x20, 0x11, V4), None),
            (binary(0x21, 0x00, &[]), None),
            (binary(0x21, 0x31, &[0; 216]), None),
            (binary(0x21, 0x12, V4), None),
            (binary(0x21, 0x00, &[0; BINARY_MAX - FIXED]), None),
        ];
        for (header, source) in rows {
            let shown = header.escape_ascii().to_string();
            let expected = Some((header.len(), source.map(str::to_owned)));
            for end in 0..header.len() {
                assert_eq!(read(&header[..end]), Ok(None), "{end} bytes of {shown}");
            }
            assert_eq!(read(&header), Ok(expected.clone()), "{shown}");
            let followed = [&header[..], b"GET / HTTP/1.1\r\n"].concat();
            assert_eq!(read(&followed), Ok(expected), "{shown} with a request behind it");
        }
    }

    /// Invalid headers are refused at the latest when they are complete, and never accepted before.
    #[test]
    fn bad_headers() {
        let endless = format!("PROXY UNKNOWN {}", "f".repeat(TEXT_MAX));
        let too_long = [&binary(0x21, 0, &[])[..14], &[0x0f, 0xf1]].concat();
        let rows: [Vec<u8>; 20] = [
            b"GET / HTTP/1.1\r\n".to_vec(),
            b"proxy TCP4 1.1.1.1 1.1.1.1 1 1\r\n".to_vec(),
            b"PROXY\r\n".to_vec(),
            b"PROXY TCP4\r\n".to_vec(),
            b"PROXY TCP4 1.1.1.1 1.1.1.1 1\r\n".to_vec(),
            b"PROXY TCP4 1.1.1.1 1.1.1.1 1 1 1\r\n".to_vec(),
            b"PROXY TCP4  1.1.1.1 1.1.1.1 1 1\r\n".to_vec(),
            b"PROXY TCP4 ::1 ::1 1 1\r\n".to_vec(),
            b"PROXY TCP6 1.1.1.1 1.1.1.1 1 1\r\n".to_vec(),
            b"PROXY TCP4 1.1.1.1 1.1.1.1 +1 1\r\n".to_vec(),
            b"PROXY TCP4 1.1.1.1 1.1.1.1 01 1\r\n".to_vec(),
            b"PROXY TCP4 1.1.1.1 1.1.1.1 65536 1\r\n".to_vec(),
            b"PROXY UDP4 1.1.1.1 1.1.1.1 1 1\r\n".to_vec(),
            b"PROXY TCP4 \xff 1.1.1.1 1 1\r\n".to_vec(),
            endless.into_bytes(),
            binary(0x11, 0x11, V4),
            binary(0x22, 0x11, V4),
            binary(0x21, 0x11, &V4[..11]),
            binary(0x21, 0x41, V4),
            too_long,
        ];
        for header in rows {
            let shown = header.escape_ascii().to_string();
            let verdicts: Vec<_> = (0..=header.len()).map(|end| read(&header[..end])).collect();
            assert!(verdicts.iter().all(|verdict| !matches!(verdict, Ok(Some(_)))), "{shown}");
            assert!(verdicts.last().is_some_and(Result::is_err), "{shown}");
        }
    }
}
