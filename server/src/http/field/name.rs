//! The field names that the proxy knows, and their recognition.
//!
//! The layout hints are explained in `http/mod.rs`.

/// A field name. Names that the proxy treats alike share a variant.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub(crate) enum Name {
    /// Forwarded unchanged.
    Other,
    Authorization,
    Connection,
    ContentLength,
    /// Forwarded; only its presence matters.
    Date,
    Expect,
    Forwarded,
    Host,
    Http2Settings,
    KeepAlive,
    /// One of these names with an underscore instead of a hyphen. Gateways to CGI and WSGI read it
    /// as the real name, so it is never forwarded.
    Lookalike,
    MaxForwards,
    /// Named by the message's own Connection field (RFC 9110 section 7.6.1).
    Nominated,
    ProxyConnection,
    Te,
    TransferEncoding,
    Upgrade,
    Via,
    XForwardedFor,
    XForwardedHost,
    XForwardedPort,
    XForwardedProto,
    XRealIp,
}

impl Name {
    /// Returns the known name that equals a field name (a token), in any case.
    #[inline(always)]
    pub(crate) fn of(name: &[u8]) -> Self {
        let Some(&first) = name.first() else { return Self::Other };
        let Some(&(known, letter, spelled)) = KNOWN.get(place(name.len(), first)) else {
            return Self::Other;
        };
        if letter != first | 0x20 {
            return Self::Other;
        }
        match Spelled::new(name).difference(spelled) {
            0 => known,
            bits if bits & !UNDERSCORES == 0 && spelled.looks_like(name) => Self::Lookalike,
            _ if known == Self::XForwardedHost => Self::of_port(name),
            _ => Self::Other,
        }
    }

    /// Whether a Connection field can make a field of this name hop-by-hop. It cannot if the field
    /// frames or routes the message, or if the proxy writes or checks the field itself.
    pub(super) const fn can_be_nominated(self) -> bool {
        matches!(self, Self::Other | Self::Authorization)
    }

    /// Completes [`of`](Self::of) for a name at the place that X-Forwarded-Port and
    /// X-Forwarded-Host share.
    #[cold]
    fn of_port(name: &[u8]) -> Self {
        let hyphen = |&byte: &u8| if byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
        match name.iter().map(hyphen).eq(*b"x-forwarded-port") {
            true if name.contains(&b'_') => Self::Lookalike,
            true => Self::XForwardedPort,
            false => Self::Other,
        }
    }

    /// Returns the set that contains only this name; see
    /// [`Fields::has_any`](super::Fields::has_any).
    pub(crate) const fn bit(self) -> u32 {
        1 << self as u8
    }
}

/// The known names with their first letters, each at its [`place`]. X-Forwarded-Port is left out:
/// `Name::of_port` compares it.
const KNOWN: [(Name, u8, Spelled); 2 * 18] = {
    let names: [(Name, &[u8]); 19] = [
        (Name::Te, b"te"),
        (Name::Via, b"via"),
        (Name::Date, b"date"),
        (Name::Host, b"host"),
        (Name::Expect, b"expect"),
        (Name::Upgrade, b"upgrade"),
        (Name::Connection, b"connection"),
        (Name::Forwarded, b"forwarded"),
        (Name::XRealIp, b"x-real-ip"),
        (Name::KeepAlive, b"keep-alive"),
        (Name::MaxForwards, b"max-forwards"),
        (Name::Authorization, b"authorization"),
        (Name::ContentLength, b"content-length"),
        (Name::Http2Settings, b"http2-settings"),
        (Name::XForwardedFor, b"x-forwarded-for"),
        (Name::ProxyConnection, b"proxy-connection"),
        (Name::XForwardedHost, b"x-forwarded-host"),
        (Name::TransferEncoding, b"transfer-encoding"),
        (Name::XForwardedProto, b"x-forwarded-proto"),
    ];
    let mut known = [(Name::Other, 0, Spelled::new(b"")); 2 * 18];
    let mut index = 0;
    while index < names.len() {
        let (name, spelled) = names[index];
        let letter = spelled[0];
        let place = place(spelled.len(), letter);
        assert!(known[place].1 == 0, "one name for each place");
        known[place] = (name, letter, Spelled::new(spelled));
        index += 1;
    }
    known
};

/// The bits of [`Spelled::difference`] in which an underscore differs from a hyphen, for all bytes.
const UNDERSCORES: u64 = u64::from_le_bytes([(b'_' | 0x20) ^ (b'-' | 0x20); 8]);

/// Returns the index in [`KNOWN`] of a name of `len` bytes. The fourth bit of the first letter, in
/// either case, distinguishes names of one length.
const fn place(len: usize, first: u8) -> usize {
    2 * len + (first as usize >> 3 & 1)
}

/// A token of up to 17 bytes in lower case, stored as three numbers that are faster to compare than
/// bytes. Lower case means that one bit is set in every byte. This makes both cases of a letter
/// equal. Of the other token bytes, only `^` and `~` become equal, and no known name contains
/// these.
#[derive(Clone, Copy, Eq, PartialEq)]
struct Spelled {
    /// The first eight bytes, or all of them.
    front: u64,
    /// The last eight bytes, or all of them.
    back: u64,
    /// The ninth byte, which only a token of 17 bytes needs.
    middle: u8,
}

impl Spelled {
    #[inline]
    const fn new(token: &[u8]) -> Self {
        const SMALL: u64 = u64::from_le_bytes([0x20; 8]);
        let (front, back) = match (token.first_chunk(), token.last_chunk()) {
            (Some(front), Some(back)) => (u64::from_le_bytes(*front), u64::from_le_bytes(*back)),
            _ => Self::ends(token),
        };
        let middle = if token.len() > 8 { token[8] | 0x20 } else { 0 };
        Self { front: front | SMALL, back: back | SMALL, middle }
    }

    /// Returns a token of less than eight bytes as two numbers that together contain every byte.
    /// They overlap if the token has three bytes or more.
    const fn ends(token: &[u8]) -> (u64, u64) {
        match (token.first_chunk(), token.last_chunk(), token) {
            (Some(front), Some(back), _) => {
                (u32::from_le_bytes(*front) as u64, u32::from_le_bytes(*back) as u64)
            }
            (_, _, [one, two, three]) => {
                (u16::from_le_bytes([*one, *two]) as u64, u16::from_le_bytes([*two, *three]) as u64)
            }
            (_, _, [one, two]) => (u16::from_le_bytes([*one, *two]) as u64, 0),
            (_, _, [one, ..]) => (*one as u64, 0),
            (_, _, []) => (0, 0),
        }
    }

    /// Returns the bits that differ in at least one byte. Tokens of equal length are equal if it
    /// returns 0.
    const fn difference(self, other: Self) -> u64 {
        let middle = (self.middle ^ other.middle) as u64;
        (self.front ^ other.front) | (self.back ^ other.back) | middle
    }

    /// Whether `token`, of the same length, differs only in underscores instead of hyphens.
    #[cold]
    fn looks_like(self, token: &[u8]) -> bool {
        let mut hyphenated = [0; 17];
        let Some(hyphenated) = hyphenated.get_mut(..token.len()) else { return false };
        for (to, &from) in hyphenated.iter_mut().zip(token) {
            *to = if from == b'_' { b'-' } else { from };
        }
        Self::new(hyphenated) == self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names are recognised in any case. A name with an underscore instead of a hyphen is a
    /// lookalike.
    #[test]
    fn names_are_known() {
        let rows: [(&str, Name); 19] = [
            ("hOsT", Name::Host),
            ("TE", Name::Te),
            ("via", Name::Via),
            ("Content-Length", Name::ContentLength),
            ("content_length", Name::Lookalike),
            ("X_Forwarded-For", Name::Lookalike),
            ("X-Forwarded-For", Name::XForwardedFor),
            ("Transfer-Encoding", Name::TransferEncoding),
            ("Transfer_Encoding", Name::Lookalike),
            ("Keep-Alive", Name::KeepAlive),
            ("HTTP2-Settings", Name::Http2Settings),
            ("X-Forwarded-Proto", Name::XForwardedProto),
            ("X-Forwarded-Port", Name::XForwardedPort),
            ("x-forwarded_port", Name::Lookalike),
            ("X-Forwarded-Pork", Name::Other),
            ("Forwarded", Name::Forwarded),
            ("X-Real-IP", Name::XRealIp),
            ("Content-Lengthy", Name::Other),
            ("Accept", Name::Other),
        ];
        for (name, expected) in rows {
            assert_eq!(Name::of(name.as_bytes()), expected, "{name}");
        }
    }
}
