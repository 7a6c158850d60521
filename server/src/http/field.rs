//! The fields of a head: the name and the position of each line.
//!
//! The layout hints are explained in `http/mod.rs`.
mod name;

use std::cmp::Ordering;
use std::mem::MaybeUninit;
use std::ops::Range;

pub(crate) use self::name::Name;

/// Upper bound of `limits.fieldsMax`, the maximum number of fields of a head.
pub(crate) const FIELDS_MAX: usize = 1000;
/// Fields of a head for which there is room without allocating.
pub(super) const FIELDS_AT_FIRST: usize = 128;

/// Room for parsing one head. Usual heads need no allocation.
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

    /// Checks what httparse does not: each line ends in CRLF and directly follows the previous one,
    /// and the empty line ends at `len`. Returns `None` if one of these does not hold.
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

    /// Returns each field: the name as sent, the known name and the value.
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

    /// Like [`write_kept`](Self::write_kept), but line by line and without the fields named in
    /// `replaced`, see [`is_same_name`].
    #[cold]
    pub(crate) fn write_kept_but(
        &self,
        replaced: &[&str],
        keep: impl Fn(Name) -> bool,
        mut write: impl FnMut(&[u8]),
    ) {
        for (index, (header, &name)) in self.list.iter().zip(self.names).enumerate() {
            let is_same = |other: &&str| is_same_name(header.name.as_bytes(), other.as_bytes());
            if keep(name) && !replaced.iter().any(is_same) {
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

/// Whether two names are the same to a recipient. Underscores and hyphens match each other, because
/// gateways to CGI and WSGI do not distinguish them.
#[cold]
pub(crate) fn is_same_name(one: &[u8], other: &[u8]) -> bool {
    let hyphen = |byte: &u8| if *byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
    one.len() == other.len() && one.iter().map(hyphen).eq(other.iter().map(hyphen))
}

/// Does the work of [`Fields::check`] and names the fields. Returns the offset of the empty line (0
/// if a line is invalid), and one number with the set of present names in its lower half and that
/// of repeated names in its upper half. Two numbers fit in registers.
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
/// that frame or route the message are never marked, because they are intended for all recipients
/// (RFC 9110 section 7.6.1).
#[inline(never)]
fn mark_nominated(list: &[httparse::Header<'_>], names: &mut [Name]) -> u32 {
    // Usually there is one option, and it does not name a field.
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
fn names_no_field(value: &[u8]) -> bool {
    value.eq_ignore_ascii_case(b"close") || value.eq_ignore_ascii_case(b"keep-alive")
}

/// Like [`mark_nominated`], for any number of options. It searches a sorted index of the fields,
/// because a head could cause too many comparisons of each option with each field. `compare` is the
/// order of names.
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

/// Maximum number of Connection options that are compared with every field. More are rare.
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

/// The response fields with load figures (ORCA).
pub(crate) const LOAD_FIELDS: [&str; 3] =
    ["endpoint-load-metrics", "endpoint-load-metrics-json", "endpoint-load-metrics-bin"];

/// Whether a field of this name has load figures.
pub(crate) fn is_load_field(name: &[u8]) -> bool {
    // The length and the first letter exclude nearly all fields.
    (21..=26).contains(&name.len())
        && name[0] | 0x20 == b'e'
        && LOAD_FIELDS.iter().any(|field| name.eq_ignore_ascii_case(field.as_bytes()))
}

/// Whether a byte is allowed in a token (RFC 9110 section 5.6.2).
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

    /// Marks the fields that Connection names in a head with `fields`. Returns the names of the
    /// unmarked fields, except those that the proxy knows.
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

    /// The number of compared bytes is at most ten times the bytes of fields and options. It does
    /// not grow with the product of options and fields.
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
