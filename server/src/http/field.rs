//! The fields of a head: which ones this proxy knows, and where each line stands.
use std::mem::MaybeUninit;
use std::ops::Range;

/// Fields that a head can have at most; `limits.fieldsMax` is at most this.
pub(crate) const FIELDS_MAX: usize = 128;

/// A field that the proxy treats in a way of its own.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub(crate) enum Name {
    /// Passed on as it is.
    Other,
    Connection,
    ContentLength,
    Expect,
    Host,
    Http2Settings,
    KeepAlive,
    /// One of these names with an underscore for a hyphen: gateways to CGI and WSGI read it as
    /// the real one, so it is never passed on.
    Lookalike,
    /// Named by the message's own Connection field (RFC 9110 section 7.6.1).
    Nominated,
    ProxyConnection,
    Te,
    TransferEncoding,
    Upgrade,
    Via,
    XForwardedFor,
    XForwardedHost,
    XForwardedProto,
}

impl Name {
    pub(crate) fn of(name: &[u8]) -> Self {
        let (known, spelled) = match name.len() {
            2 => (Self::Te, "te"),
            3 => (Self::Via, "via"),
            4 => (Self::Host, "host"),
            6 => (Self::Expect, "expect"),
            7 => (Self::Upgrade, "upgrade"),
            10 => match name[0] | 0x20 {
                b'c' => (Self::Connection, "connection"),
                b'k' => (Self::KeepAlive, "keep-alive"),
                _ => return Self::Other,
            },
            14 => match name[0] | 0x20 {
                b'c' => (Self::ContentLength, "content-length"),
                b'h' => (Self::Http2Settings, "http2-settings"),
                _ => return Self::Other,
            },
            15 => (Self::XForwardedFor, "x-forwarded-for"),
            16 => match name[0] | 0x20 {
                b'p' => (Self::ProxyConnection, "proxy-connection"),
                b'x' => (Self::XForwardedHost, "x-forwarded-host"),
                _ => return Self::Other,
            },
            17 => match name[0] | 0x20 {
                b't' => (Self::TransferEncoding, "transfer-encoding"),
                b'x' => (Self::XForwardedProto, "x-forwarded-proto"),
                _ => return Self::Other,
            },
            _ => return Self::Other,
        };
        if name.eq_ignore_ascii_case(spelled.as_bytes()) {
            known
        } else if name.iter().zip(spelled.as_bytes()).all(|(&got, &want)| looks_like(got, want)) {
            Self::Lookalike
        } else {
            Self::Other
        }
    }
}

fn looks_like(got: u8, want: u8) -> bool {
    got.eq_ignore_ascii_case(&want) || (want == b'-' && got == b'_')
}

/// Room for parsing one head without allocating.
pub(crate) struct Slots<'b> {
    pub(super) headers: [MaybeUninit<httparse::Header<'b>>; FIELDS_MAX],
    pub(super) names: [Name; FIELDS_MAX],
}

impl Slots<'_> {
    pub(crate) const fn new() -> Self {
        Self {
            headers: [const { MaybeUninit::uninit() }; FIELDS_MAX],
            names: [Name::Other; FIELDS_MAX],
        }
    }
}

/// The fields of one parsed head, in order.
pub(crate) struct Fields<'h, 'b> {
    input: &'b [u8],
    /// Where the first field line begins in `input`.
    first: usize,
    /// Where the empty line after the last one begins.
    end: usize,
    list: &'h [httparse::Header<'b>],
    names: &'h mut [Name],
}

impl<'h, 'b> Fields<'h, 'b> {
    /// Holds every line to the grammar that httparse leaves open: each ends in CRLF, follows the
    /// one before at once, and `len` ends in the empty line. `None` when one does not.
    pub(super) fn check(
        input: &'b [u8],
        first: usize,
        len: usize,
        list: &'h [httparse::Header<'b>],
        names: &'h mut [Name; FIELDS_MAX],
    ) -> Option<Self> {
        let names = names.get_mut(..list.len())?;
        let mut at = first;
        for (header, name) in list.iter().zip(names.iter_mut()) {
            if offset(input, header.name.as_bytes()) != at {
                return None;
            }
            *name = Name::of(header.name.as_bytes());
            at = match header.value {
                [] => at + header.name.len() + 1,
                value => offset(input, value) + value.len(),
            };
            while matches!(input.get(at), Some(b' ' | b'\t')) {
                at += 1;
            }
            if input.get(at..at + 2) != Some(b"\r\n") {
                return None;
            }
            at += 2;
        }
        let is_whole = input.get(at..len) == Some(b"\r\n");
        let mut fields = Self { input, first, end: at, list, names };
        fields.mark_nominated();
        is_whole.then_some(fields)
    }

    /// Every value of the fields called `name`.
    pub(crate) fn values(&self, name: Name) -> impl Iterator<Item = &'b [u8]> + '_ {
        self.iter().filter(move |(_, known, _)| *known == name).map(|(_, _, value)| value)
    }

    /// Name as sent, name as known, value: field by field.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'b str, Name, &'b [u8])> + '_ {
        self.list.iter().zip(self.names.iter()).map(|(h, &name)| (h.name, name, h.value))
    }

    /// Whether there is a field called `name`.
    pub(crate) fn has(&self, name: Name) -> bool {
        self.names.contains(&name)
    }

    /// Hands the lines for whose names `keep` holds to `write`, in order, as runs of bytes just
    /// as they came, each ending in CRLF.
    pub(crate) fn write_kept(&self, keep: impl Fn(Name) -> bool, mut write: impl FnMut(&[u8])) {
        let mut run = self.first..self.first;
        for (index, &name) in self.names.iter().enumerate() {
            let line = self.line(index);
            if keep(name) {
                run.end = line.end;
            } else {
                write(&self.input[run]);
                run = line.end..line.end;
            }
        }
        write(&self.input[run]);
    }

    /// Where line `index` stands in the input, its CRLF included.
    fn line(&self, index: usize) -> Range<usize> {
        let start_of =
            |i: usize| self.list.get(i).map_or(self.end, |h| offset(self.input, h.name.as_bytes()));
        start_of(index)..start_of(index + 1)
    }

    /// Marks the fields that Connection names as hop-by-hop. Fields that frame the message or say
    /// where it goes cannot be named away (RFC 9110 section 7.6.1: not those meant for all).
    fn mark_nominated(&mut self) {
        if !self.has(Name::Connection) {
            return;
        }
        let names = &mut *self.names;
        let list = self.list;
        for header in list.iter().filter(|h| h.name.eq_ignore_ascii_case("connection")) {
            for option in tokens(header.value) {
                if [&b"close"[..], b"keep-alive", b"upgrade", b"te"]
                    .iter()
                    .any(|usual| option.eq_ignore_ascii_case(usual))
                {
                    continue;
                }
                for (other, name) in list.iter().zip(names.iter_mut()) {
                    if *name == Name::Other && other.name.as_bytes().eq_ignore_ascii_case(option) {
                        *name = Name::Nominated;
                    }
                }
            }
        }
    }
}

/// The members of a comma-separated list, without the white space around them; empty ones are
/// skipped (RFC 9110 section 5.6.1).
pub(crate) fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}

/// Where `part`, a piece of `whole`, begins in it.
fn offset(whole: &[u8], part: &[u8]) -> usize {
    (part.as_ptr() as usize).wrapping_sub(whole.as_ptr() as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names are known in any case; an underscore for a hyphen makes a lookalike.
    #[test]
    fn names_are_known() {
        let rows: [(&str, Name); 14] = [
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
            ("Content-Lengthy", Name::Other),
            ("Accept", Name::Other),
        ];
        for (name, expected) in rows {
            assert_eq!(Name::of(name.as_bytes()), expected, "{name}");
        }
    }

    /// List members come without the white space and empty members that a list may hold.
    #[test]
    fn lists_are_split() {
        let members: Vec<&[u8]> = tokens(b" a ,, b\t,c d,").collect();
        assert_eq!(members, [&b"a"[..], b"b", b"c d"]);
        assert_eq!(tokens(b" ").count(), 0);
    }
}
