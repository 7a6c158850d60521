//! The fields of a head: the names that the proxy knows, and the position of each line.
use std::cmp::Ordering;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Upper bound of `limits.fieldsMax`, the maximum number of fields of a head.
pub(crate) const FIELDS_MAX: usize = 1000;
/// Fields of a head for which there is room without allocating.
pub(super) const FIELDS_AT_FIRST: usize = 128;

/// A field name, as far as the proxy distinguishes it.
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
    const fn can_be_nominated(self) -> bool {
        matches!(self, Self::Other | Self::Authorization)
    }

    /// Finishes [`of`](Self::of) for a name at the place of X-Forwarded-Host: X-Forwarded-Port
    /// shares it.
    #[cold]
    fn of_port(name: &[u8]) -> Self {
        let hyphen = |&byte: &u8| if byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
        match name.iter().map(hyphen).eq(*b"x-forwarded-port") {
            true if name.contains(&b'_') => Self::Lookalike,
            true => Self::XForwardedPort,
            false => Self::Other,
        }
    }

    /// Returns the set that contains only this name; see [`Fields::has_any`].
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

/// The bits of [`Spelled::difference`] in which an underscore differs from a hyphen, in any byte.
const UNDERSCORES: u64 = u64::from_le_bytes([(b'_' | 0x20) ^ (b'-' | 0x20); 8]);

/// Returns the index in [`KNOWN`] of a name of `len` bytes. The fourth bit of the first letter, in
/// either case, distinguishes names of one length.
const fn place(len: usize, first: u8) -> usize {
    2 * len + (first as usize >> 3 & 1)
}

/// A token of up to 17 bytes in lower case, as three numbers, so that tokens are compared at once
/// and not byte by byte. Lower case means that one bit is set in every byte. This makes letters of
/// both cases equal, and otherwise only `^` and `~`, which no known name contains.
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
    const fn new(token: &[u8]) -> Self {
        const SMALL: u64 = u64::from_le_bytes([0x20; 8]);
        let (front, back) = match (token.first_chunk(), token.last_chunk()) {
            (Some(front), Some(back)) => (u64::from_le_bytes(*front), u64::from_le_bytes(*back)),
            _ => Self::ends(token),
        };
        let middle = if token.len() > 8 { token[8] | 0x20 } else { 0 };
        Self { front: front | SMALL, back: back | SMALL, middle }
    }

    /// Returns a token of less than eight bytes as two numbers. From three bytes on they overlap,
    /// and together they cover every byte.
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

    /// Returns the bits that differ in at least one byte. 0 means equal, if the lengths are equal.
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

/// Room for parsing one head, without allocating for usual heads.
pub(crate) struct Slots<'b> {
    pub(super) headers: [MaybeUninit<httparse::Header<'b>>; FIELDS_AT_FIRST],
    pub(super) names: [Name; FIELDS_AT_FIRST],
    pub(super) more: Option<Box<MoreSlots<'b>>>,
}

/// Room for a head with more fields than [`FIELDS_AT_FIRST`].
pub(super) struct MoreSlots<'b> {
    pub(super) headers: Vec<httparse::Header<'b>>,
    pub(super) names: Vec<Name>,
}

impl Slots<'_> {
    pub(crate) const fn new() -> Self {
        Self {
            headers: [const { MaybeUninit::uninit() }; FIELDS_AT_FIRST],
            names: [Name::Other; FIELDS_AT_FIRST],
            more: None,
        }
    }
}

impl MoreSlots<'_> {
    /// Makes room for `count` fields.
    #[cold]
    pub(super) fn sized(slot: &mut Option<Box<Self>>, count: usize) -> &mut Self {
        slot.insert(Box::new(Self {
            headers: vec![httparse::EMPTY_HEADER; count],
            names: vec![Name::Other; count],
        }))
    }
}

/// The fields of one parsed head, in order.
pub(crate) struct Fields<'h, 'b> {
    input: &'b [u8],
    /// Offset of the first field line in `input`.
    first: usize,
    /// Offset of the empty line after the last field line.
    end: usize,
    list: &'h [httparse::Header<'b>],
    names: &'h [Name],
    /// The names that are present, as a set of [`Name::bit`]s.
    present: u32,
    /// The names that are present more than once.
    repeated: u32,
}

impl<'h, 'b> Fields<'h, 'b> {
    /// Returns the offset of the first field line of a head of `len` bytes, or of the empty line.
    pub(super) fn first_line(input: &[u8], len: usize, list: &[httparse::Header<'_>]) -> usize {
        let end = len.saturating_sub("\r\n".len());
        list.first().map_or(end, |header| offset(input, header.name.as_bytes()))
    }

    /// Checks what httparse leaves open: each line ends in CRLF and follows the previous one
    /// directly, and the empty line ends at `len`. Returns `None` if one of these is wrong.
    #[inline(always)]
    pub(super) fn check(
        input: &'b [u8],
        first: usize,
        len: usize,
        list: &'h [httparse::Header<'b>],
        names: &'h mut [Name],
    ) -> Option<Self> {
        let names = names.get_mut(..list.len())?;
        let (end, sets) = check_lines(input, first, len, list, names);
        let (present, repeated) = (sets as u32, (sets >> 32) as u32);
        (end > 0).then_some(Self { input, first, end, list, names, present, repeated })
    }

    /// Returns the length of the head's first line, with its CRLF. The head must start at offset 0.
    pub(super) const fn first_line_len(&self) -> usize {
        self.first
    }

    /// Returns every value of the fields called `name`.
    pub(crate) fn values(&self, name: Name) -> impl Iterator<Item = &'b [u8]> + '_ {
        // Most requested names are absent.
        let list = if self.has(name) { self.list } else { &[] };
        let named = list.iter().zip(self.names.iter()).filter(move |&(_, &known)| known == name);
        named.map(|(header, _)| header.value)
    }

    /// Returns each field: its name as sent, its known name, its value.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'b str, Name, &'b [u8])> + '_ {
        self.list.iter().zip(self.names.iter()).map(|(h, &name)| (h.name, name, h.value))
    }

    /// Whether there is a field called `name`.
    pub(crate) const fn has(&self, name: Name) -> bool {
        self.has_any(name.bit())
    }

    /// Whether there is a field with one of `names`, a set of [`Name::bit`]s.
    pub(crate) const fn has_any(&self, names: u32) -> bool {
        self.present & names != 0
    }

    /// Whether there is more than one field called `name`.
    pub(crate) const fn is_repeated(&self, name: Name) -> bool {
        self.repeated & name.bit() != 0
    }

    /// Passes the lines whose names satisfy `keep` to `write`, in order, as runs of unchanged
    /// bytes. Each run ends in CRLF.
    pub(crate) fn write_kept(&self, keep: impl Fn(Name) -> bool, mut write: impl FnMut(&[u8])) {
        let mut run = self.first..self.first;
        for (index, &name) in self.names.iter().enumerate() {
            let line = self.line(index);
            if keep(name) {
                run.end = line.end;
                continue;
            }
            if !run.is_empty() {
                write(&self.input[run]);
            }
            run = line.end..line.end;
        }
        if !run.is_empty() {
            write(&self.input[run]);
        }
    }

    /// Does the same as [`write_kept`](Self::write_kept), but line by line and without the fields
    /// whose names are in `replaced`. There an underscore equals a hyphen: gateways to CGI and WSGI
    /// cannot tell them apart.
    #[cold]
    pub(crate) fn write_kept_but(
        &self,
        replaced: &[&str],
        keep: impl Fn(Name) -> bool,
        mut write: impl FnMut(&[u8]),
    ) {
        let hyphen = |byte: u8| if byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
        let is_same = |one: &str, other: &str| {
            one.len() == other.len() && one.bytes().map(hyphen).eq(other.bytes().map(hyphen))
        };
        for (index, (header, &name)) in self.list.iter().zip(self.names).enumerate() {
            if keep(name) && !replaced.iter().any(|replaced| is_same(header.name, replaced)) {
                write(&self.input[self.line(index)]);
            }
        }
    }

    /// Returns the range of line `index` in the input, its CRLF included.
    fn line(&self, index: usize) -> Range<usize> {
        let start_of =
            |i: usize| self.list.get(i).map_or(self.end, |h| offset(self.input, h.name.as_bytes()));
        start_of(index)..start_of(index + 1)
    }
}

/// Does the work of [`Fields::check`] and names the fields. Returns the offset of the empty line (0
/// if a line is invalid) and the sets of present names (lower half) and repeated names. These are
/// two numbers, which are returned in registers.
#[inline(never)]
fn check_lines(
    input: &[u8],
    first: usize,
    len: usize,
    list: &[httparse::Header<'_>],
    names: &mut [Name],
) -> (usize, u64) {
    const BROKEN: (usize, u64) = (0, 0);
    let mut at = first;
    let (mut present, mut repeated) = (0, 0);
    for (header, name) in list.iter().zip(names.iter_mut()) {
        if offset(input, header.name.as_bytes()) != at {
            return BROKEN;
        }
        *name = Name::of(header.name.as_bytes());
        repeated |= present & name.bit();
        present |= name.bit();
        at = match header.value {
            [] => at + header.name.len() + 1,
            value => offset(input, value) + value.len(),
        };
        if input.get(at..at + 2) != Some(b"\r\n") {
            at += blanks_len(&input[at.min(input.len())..]);
            if input.get(at..at + 2) != Some(b"\r\n") {
                return BROKEN;
            }
        }
        at += 2;
    }
    if at + 2 != len || input.get(at..len) != Some(b"\r\n") {
        return BROKEN;
    }
    if present & Name::Connection.bit() != 0 {
        present |= mark_nominated(list, names);
    }
    (at, u64::from(repeated) << 32 | u64::from(present))
}

/// Returns the number of blanks at the start.
#[cold]
fn blanks_len(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|byte| b" \t".contains(byte)).count()
}

/// Marks the fields that Connection names as hop-by-hop. Returns the set of marked names. Fields
/// that frame or route the message are never marked (RFC 9110 section 7.6.1: not those intended for
/// all recipients).
#[inline(never)]
fn mark_nominated(list: &[httparse::Header<'_>], names: &mut [Name]) -> u32 {
    // Usually there is one option, and it is not a field's name.
    let mut all = list.iter().zip(names.iter()).filter(|(_, name)| **name == Name::Connection);
    if all.all(|(header, _)| names_no_field(header.value)) {
        return 0;
    }
    let connections = list.iter().filter(|h| h.name.eq_ignore_ascii_case("connection"));
    let mut options = connections.flat_map(|header| tokens(header.value)).filter(|option| {
        let usual = [&b"close"[..], b"keep-alive", b"upgrade", b"te"];
        !usual.iter().any(|usual| option.eq_ignore_ascii_case(usual))
    });
    let mut marked = 0;
    for option in options.by_ref().take(FEW_OPTIONS) {
        for (other, name) in list.iter().zip(names.iter_mut()) {
            if name.can_be_nominated() && other.name.as_bytes().eq_ignore_ascii_case(option) {
                *name = Name::Nominated;
                marked = Name::Nominated.bit();
            }
        }
    }
    if let Some(option) = options.next() {
        marked |= mark_many(list, names, [option].into_iter().chain(options), in_lower_case);
    }
    marked
}

/// Whether a value of Connection is only one of the two usual options.
#[inline]
fn names_no_field(value: &[u8]) -> bool {
    value.eq_ignore_ascii_case(b"close") || value.eq_ignore_ascii_case(b"keep-alive")
}

/// Does the work of [`mark_nominated`] for any number of options, with a sorted index of the
/// fields. Comparing each option with each field would be too much work for one head. `compare` is
/// the order of names.
#[cold]
fn mark_many<'b>(
    list: &[httparse::Header<'b>],
    names: &mut [Name],
    options: impl Iterator<Item = &'b [u8]>,
    compare: impl Fn(&[u8], &[u8]) -> Ordering,
) -> u32 {
    let name_at = |index: usize| list.get(index).map_or(&b""[..], |h| h.name.as_bytes());
    let others = names.iter().enumerate().filter(|(_, name)| name.can_be_nominated());
    let mut index: Vec<usize> = others.map(|(index, _)| index).collect();
    index.sort_unstable_by(|&one, &other| compare(name_at(one), name_at(other)));
    let mut marked = 0;
    for option in options {
        let mut at = index.partition_point(|&i| compare(name_at(i), option).is_lt());
        while let Some(&i) = index.get(at)
            && let Some(name) = names.get_mut(i).filter(|name| name.can_be_nominated())
            && name_at(i).eq_ignore_ascii_case(option)
        {
            // Fields of one name are marked together, so the loop may stop at a marked one.
            *name = Name::Nominated;
            marked = Name::Nominated.bit();
            at += 1;
        }
    }
    marked
}

/// Options of Connection that are compared with every field. More are rare.
const FEW_OPTIONS: usize = 4;

/// Compares two names in lower case.
fn in_lower_case(one: &[u8], other: &[u8]) -> Ordering {
    one.iter().map(u8::to_ascii_lowercase).cmp(other.iter().map(u8::to_ascii_lowercase))
}

/// Returns the members of a comma-separated list, without the white space around them. Empty
/// members are skipped (RFC 9110 section 5.6.1).
pub(crate) fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}

/// Whether a byte may stand in a token (RFC 9110 section 5.6.2).
pub(super) const fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'|' | b'~')
}

/// Returns the offset of `part` within `whole`.
fn offset(whole: &[u8], part: &[u8]) -> usize {
    (part.as_ptr() as usize).wrapping_sub(whole.as_ptr() as usize)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// Names are known in any case. An underscore instead of a hyphen makes a lookalike.
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

    /// Marks the fields that Connection names in a head with `fields`. Returns the names of the
    /// unmarked fields, without those that the proxy knows.
    fn kept(fields: &str) -> Vec<String> {
        let head = format!("GET / HTTP/1.1\r\n{fields}\r\n");
        let mut slots = Slots::new();
        let limits = crate::http::head::HeadLimits {
            head_bytes_max: 60_000,
            target_bytes_max: 100,
            fields_max: FIELDS_AT_FIRST,
        };
        let parsed = crate::http::head::parse_request(head.as_bytes(), &mut slots, &limits);
        let Ok(crate::http::head::Parsed::Complete(head)) = parsed else { panic!("a good head") };
        let kept = head.fields.iter().filter(|&(_, name, _)| name == Name::Other);
        kept.map(|(name, _, _)| name.to_owned()).collect()
    }

    /// Few and many options mark the same fields. Case does not matter, and all fields of one name
    /// are marked.
    #[test]
    fn nominated_fields_are_marked() {
        let fields = "B: 1\r\na: 2\r\nA: 3\r\nAb: 4\r\nHost: h\r\nc: 5\r\n";
        for (options, expected) in [
            ("x", "B a A Ab c"),
            ("close, A,C", "B Ab"),
            ("1,2,3,4,5,a,c", "B Ab"),
            ("1,2,3,4,A,A,a,host,AB,z", "B c"),
            ("b,a,ab,c,close,x,b", ""),
        ] {
            for at_end in [false, true] {
                let connection = format!("Connection: {options}\r\n");
                let all =
                    if at_end { format!("{fields}{connection}") } else { connection + fields };
                assert_eq!(kept(&all).join(" "), expected, "{options}");
            }
        }
    }

    /// The bytes compared for Connection's options are at most ten times the bytes of fields and
    /// options. They do not grow with options times fields.
    #[test]
    fn work_for_options_is_bounded() {
        let long = "y".repeat(200);
        for name in [
            &(|_| "q".to_owned()) as &dyn Fn(usize) -> String,
            &|index| format!("q{index}"),
            &|index| format!("{long}{index}"),
        ] {
            let fields: Vec<String> = (0..120).map(name).collect();
            let list: Vec<_> =
                fields.iter().map(|name| httparse::Header { name, value: b"1" }).collect();
            for option in ["q", "q7", "zz", &long] {
                let options = (option.to_owned() + ",").repeat(25_000 / (option.len() + 1));
                let len = fields.iter().map(|name| name.len() + 5).sum::<usize>() + options.len();
                let compared = Cell::new(0);
                let compare = |one: &[u8], other: &[u8]| {
                    compared.set(compared.get() + one.len().min(other.len()) + 1);
                    in_lower_case(one, other)
                };
                let mut names = vec![Name::Other; list.len()];
                let marked = mark_many(&list, &mut names, tokens(options.as_bytes()), compare);
                let is_there = fields.iter().any(|name| name == option);
                assert_eq!(marked != 0, is_there, "{option:.9}");
                let compared = compared.get();
                assert!(compared <= 10 * len, "{compared} for {len} bytes of {option:.9}");
            }
        }
    }

    /// List members are returned without white space, and empty members are skipped.
    #[test]
    fn lists_are_split() {
        let members: Vec<&[u8]> = tokens(b" a ,, b\t,c d,").collect();
        assert_eq!(members, [&b"a"[..], b"b", b"c d"]);
        assert_eq!(tokens(b" ").count(), 0);
    }
}
