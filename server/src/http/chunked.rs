//! A strict reader of chunked bodies (RFC 9112 section 7.1). A size is plain hexadecimal, and every
//! line ends in CRLF. Extensions are skipped, trailer fields are checked; both are bounded.
//!
//! Spaces and tabs after a size are skipped: before `;`, as the grammar allows, and before CRLF, as
//! old servers send them. No other bytes may follow them, so every reader that accepts the line
//! reads the same size. None of these lines is forwarded: the proxy frames the data again.
//!
//! | state | waits for | then |
//! |---|---|---|
//! | `Size` | hex digits | `;` `Extension`, CR `SizeEnd`, a blank `Blank` |
//! | `Blank` | blanks | `;` `Extension`, CR `SizeEnd` |
//! | `Extension` | bytes other than control bytes; tabs are allowed | CR `SizeEnd` |
//! | `SizeEnd` | LF | size 0 `Trailer`, otherwise `Data` |
//! | `Data` | the number of bytes of the size | `DataCr` |
//! | `DataCr`, `DataLf` | CR, LF | `Size` |
//! | `Trailer` | field lines and an empty one | `Done`; if the first byte is CR: `TrailerEnd` |
//! | `TrailerEnd` | LF | `Done` |
//! | `Done` | nothing: it is terminal | |
//!
//! The layout hints are explained in `http/mod.rs`.
use std::ops::Range;
use std::sync::Arc;

use super::error::ChunkError;
use super::field::{Name, is_load_field, is_same_name, is_token_byte};

/// Bounds of a chunked body, except for its data.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ChunkLimits {
    pub(crate) extension_bytes_max: usize,
    pub(crate) trailer_bytes_max: usize,
    pub(crate) fields_max: usize,
}

/// Maximum number of digits of a chunk size, leading zeros included.
const SIZE_DIGITS_MAX: u8 = 16;
/// Sizes of 2^60 and above are refused: no body is that long, and `value * 16` cannot overflow.
const SIZE_END: u64 = 1 << 60;

/// A chunked body being read.
#[derive(Debug)]
pub(crate) struct ChunkedReader {
    state: State,
    limits: ChunkLimits,
    /// The trailer section as received, with its empty line. Empty if there are no trailer fields.
    trailer: Vec<u8>,
    /// Names of trailer fields that are not forwarded, if there are any.
    refused: Option<Arc<Vec<String>>>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    Size { value: u64, digits: u8 },
    Blank { size: u64, len: usize },
    Extension { size: u64, len: usize },
    SizeEnd { size: u64 },
    Data { left: u64 },
    DataCr,
    DataLf,
    Trailer,
    TrailerEnd,
    Done,
}

/// Result of one call of [`ChunkedReader::read`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Piece {
    /// Bytes of the input that are consumed.
    pub(crate) consumed: usize,
    /// Range of the body's data in the input; may be empty.
    pub(crate) data: Range<usize>,
    /// Whether the body is over.
    pub(crate) is_end: bool,
}

impl ChunkedReader {
    pub(crate) const fn new(limits: ChunkLimits) -> Self {
        let state = State::Size { value: 0, digits: 0 };
        Self { state, limits, trailer: Vec::new(), refused: None }
    }

    /// Excludes trailer fields with these names from those that are forwarded.
    #[cold]
    pub(crate) fn refuse_trailer(&mut self, names: Arc<Vec<String>>) {
        self.refused = Some(names);
    }

    /// Reads up to the next piece of data of at most `data_max` bytes, to the end of the body, or
    /// to the end of the input. After the end it returns the end again without consuming anything.
    ///
    /// # Errors
    /// The first rule that the body breaks. The reader cannot be used afterwards.
    pub(crate) fn read(&mut self, input: &[u8], data_max: usize) -> Result<Piece, ChunkError> {
        let mut at = 0;
        while self.state != State::Done {
            if let State::Data { left } = self.state {
                let available = (input.len() - at).min(data_max);
                let len = usize::try_from(left).unwrap_or(usize::MAX).min(available);
                // More input is needed, or room for more data.
                if len == 0 {
                    break;
                }
                let left = left - len as u64;
                self.state = if left == 0 { State::DataCr } else { State::Data { left } };
                return Ok(Piece { consumed: at + len, data: at..at + len, is_end: false });
            }
            // Reads the usual forms in one step. `step` alone decides what is valid, byte by byte.
            if let Some((state, len)) = self.leap(&input[at..]) {
                at += len;
                self.state = state;
                continue;
            }
            let Some(&byte) = input.get(at) else { break };
            at += 1;
            self.state = self.step(byte)?;
        }
        Ok(Piece { consumed: at, data: at..at, is_end: self.state == State::Done })
    }

    /// Reads like [`read`](Self::read), but across chunks. Moves later data in `input` up to the
    /// first, so that it is one range. With an error, the piece holds the data before it.
    pub(crate) fn gather(
        &mut self,
        input: &mut [u8],
        data_max: usize,
    ) -> (Piece, Option<ChunkError>) {
        let mut all = Piece { consumed: 0, data: 0..0, is_end: false };
        loop {
            let left = data_max - all.data.len();
            let piece = match self.read(&input[all.consumed..], left) {
                Ok(piece) => piece,
                Err(error) => return (all, Some(error)),
            };
            let len = piece.data.len();
            let start = all.consumed + piece.data.start;
            if all.data.is_empty() {
                all.data = start..start + len;
            } else {
                // Overwrites framing that is already consumed.
                input.copy_within(start..start + len, all.data.end);
                all.data.end += len;
            }
            all.consumed += piece.consumed;
            all.is_end = piece.is_end;
            if piece.is_end || piece.consumed == 0 {
                return (all, None);
            }
        }
    }

    /// Consumes a whole size line, the CRLF after data, or a run of an extension. Returns the next
    /// state and the length, or `None` if `step` must consume a single byte.
    fn leap(&self, input: &[u8]) -> Option<(State, usize)> {
        match self.state {
            State::Size { value: 0, digits: 0 } => {
                // Any other line is left to `step`, which names the error or waits for more.
                let (size, len) = size_line_of(input)?;
                Some((if size == 0 { State::Trailer } else { State::Data { left: size } }, len))
            }
            State::DataCr => {
                input.starts_with(b"\r\n").then_some((State::Size { value: 0, digits: 0 }, 2))
            }
            State::Extension { size, len } => {
                let room = self.limits.extension_bytes_max.saturating_sub(len);
                // Stops at the limit, where `step` refuses the next byte.
                let most = &input[..input.len().min(room)];
                let is_allowed = |byte: &u8| matches!(byte, b'\t' | b' '..=b'~' | 0x80..);
                let run = most.iter().position(|byte| !is_allowed(byte)).unwrap_or(most.len());
                (run > 0).then_some((State::Extension { size, len: len + run }, run))
            }
            _ => None,
        }
    }

    /// Returns the lines of the trailer fields that are forwarded. Call it after the end.
    ///
    /// A field that frames or routes a message, or controls its treatment, is not allowed after a
    /// body (RFC 9110 section 6.5.1): a peer that merged it would read another message.
    pub(crate) fn forwarded_trailer(&self, trailer: Trailer) -> Vec<u8> {
        let mut lines = Vec::new();
        let is_refused = |name: &[u8]| {
            let mut refused = self.refused.iter().flat_map(|names| names.iter());
            refused.any(|refused| is_same_name(refused.as_bytes(), name))
        };
        for (line, field) in trailer_lines(&self.trailer) {
            if field.is_some_and(|name| trailer.has(name) && !is_refused(name)) {
                lines.extend_from_slice(line);
                lines.extend_from_slice(b"\r\n");
            }
        }
        lines
    }

    /// Whether the body has been read to its end.
    pub(crate) fn is_over(&self) -> bool {
        self.state == State::Done
    }

    /// Whether the body has trailer fields. Valid after the end.
    pub(crate) fn has_trailer(&self) -> bool {
        !self.trailer.is_empty()
    }

    /// Bytes of the trailer section as received, its empty line included.
    pub(crate) fn trailer_len(&self) -> usize {
        self.trailer.len()
    }

    fn step(&mut self, byte: u8) -> Result<State, ChunkError> {
        Ok(match (self.state, byte) {
            (State::Size { value, digits }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = (byte as char).to_digit(16).unwrap_or_default();
                let value = value * 16 + u64::from(digit);
                // Leading zeros count as digits. Otherwise a size line could be of any length.
                if value >= SIZE_END || digits == SIZE_DIGITS_MAX {
                    return Err(ChunkError::SizeOverflow);
                }
                State::Size { value, digits: digits + 1 }
            }
            (State::Size { value, digits: 1.. }, b';') => State::Extension { size: value, len: 1 },
            (State::Size { value, digits: 1.. }, b'\r') => State::SizeEnd { size: value },
            (State::Size { value, digits: 1.. }, b' ' | b'\t') => {
                State::Blank { size: value, len: 1 }
            }
            // Readers differ in whether a bare LF ends a line. If the backend's reader did, it
            // would see other chunks than the proxy (request smuggling).
            (State::Size { digits: 1.., .. }, b'\n') => return Err(ChunkError::BareLineFeed),
            (State::Size { .. }, _) => return Err(ChunkError::InvalidSize),
            (State::Blank { size, .. }, b'\r') => State::SizeEnd { size },
            (State::Blank { .. }, b'\n') => return Err(ChunkError::BareLineFeed),
            (State::Blank { size, len }, b' ' | b'\t' | b';') => {
                if len >= self.limits.extension_bytes_max {
                    return Err(ChunkError::ExtensionTooLong);
                }
                match byte {
                    b';' => State::Extension { size, len: len + 1 },
                    _ => State::Blank { size, len: len + 1 },
                }
            }
            (State::Blank { .. }, _) => return Err(ChunkError::InvalidSize),
            (State::Extension { size, .. }, b'\r') => State::SizeEnd { size },
            (State::Extension { .. }, b'\n') => return Err(ChunkError::BareLineFeed),
            (State::Extension { size, len }, b'\t' | b' '..=b'~' | 0x80..) => {
                if len >= self.limits.extension_bytes_max {
                    return Err(ChunkError::ExtensionTooLong);
                }
                State::Extension { size, len: len + 1 }
            }
            (State::Extension { .. }, _) => return Err(ChunkError::InvalidExtension),
            (State::SizeEnd { size: 0 }, b'\n') => State::Trailer,
            (State::SizeEnd { size }, b'\n') => State::Data { left: size },
            (State::SizeEnd { .. }, _) => return Err(ChunkError::BareLineFeed),
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Size { value: 0, digits: 0 },
            (State::DataCr | State::DataLf, _) => return Err(ChunkError::MissingLineEnd),
            // Most bodies have no trailer fields. Nothing is stored for them.
            (State::Trailer, b'\r') if self.trailer.is_empty() => State::TrailerEnd,
            (State::TrailerEnd, b'\n') => State::Done,
            (State::TrailerEnd, _) => return Err(ChunkError::BareLineFeed),
            (State::Trailer, _) => return self.step_trailer(byte),
            (State::Data { .. } | State::Done, _) => self.state,
        })
    }

    fn step_trailer(&mut self, byte: u8) -> Result<State, ChunkError> {
        let is_after_cr = self.trailer.last() == Some(&b'\r');
        // CR and LF are accepted only as a pair, for the same reason as in a size line.
        if is_after_cr != (byte == b'\n') {
            return Err(ChunkError::BareLineFeed);
        }
        // The limit does not include the empty line.
        if self.trailer.len() >= self.limits.trailer_bytes_max + 2 {
            return Err(ChunkError::TrailerTooLarge);
        }
        self.trailer.push(byte);
        let is_end = self.trailer.ends_with(b"\r\n\r\n");
        if !is_end {
            return Ok(State::Trailer);
        }
        let lines = || trailer_lines(&self.trailer);
        if lines().any(|(_, name)| name.is_none()) {
            return Err(ChunkError::InvalidTrailer);
        }
        if lines().count() > self.limits.fields_max {
            return Err(ChunkError::TrailerTooLarge);
        }
        Ok(State::Done)
    }
}

/// Returns the size of a chunk and the length of its line, if the line is only digits and CRLF.
fn size_line_of(input: &[u8]) -> Option<(u64, usize)> {
    let mut size = 0;
    for (at, &byte) in input.iter().take(usize::from(SIZE_DIGITS_MAX) + 1).enumerate() {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            b'\r' if at > 0 && input.get(at + 1) == Some(&b'\n') => return Some((size, at + 2)),
            _ => return None,
        };
        size = size * 16 + u64::from(digit);
        if size >= SIZE_END || at == usize::from(SIZE_DIGITS_MAX) {
            return None;
        }
    }
    None
}

/// Returns the lines of a trailer section, each with the name of its field, or `None` if it is not
/// a field.
fn trailer_lines(section: &[u8]) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
    section
        .split(|&byte| byte == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
        .filter(|line| !line.is_empty())
        .map(|line| (line, field_name(line)))
}

/// Returns the name of a field line (RFC 9112 section 5): a token, a colon directly after it, and a
/// value without control bytes other than tabs.
fn field_name(line: &[u8]) -> Option<&[u8]> {
    let colon = line.iter().position(|&byte| byte == b':')?;
    let (name, value) = line.split_at(colon);
    let is_field = !name.is_empty()
        && name.iter().copied().all(is_token_byte)
        && value.iter().all(|&b| matches!(b, b'\t' | b' '..=b'~' | 0x80..));
    is_field.then_some(name)
}

/// The trailer fields that are forwarded.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Trailer {
    /// None: the recipient accepts none.
    None,
    /// All that may be forwarded.
    All,
    /// All that may be forwarded, but for load figures.
    WithoutLoads,
}

impl Trailer {
    fn has(self, name: &[u8]) -> bool {
        match self {
            Self::None => false,
            Self::All => is_passed_on(name),
            Self::WithoutLoads => is_passed_on(name) && !is_load_field(name),
        }
    }
}

/// Whether the trailer field `name` may be forwarded.
fn is_passed_on(name: &[u8]) -> bool {
    const REFUSED: [&str; 22] = [
        "age",
        "authorization",
        "cache-control",
        "content-encoding",
        "content-range",
        "content-type",
        "cookie",
        "date",
        "expires",
        "location",
        "max-forwards",
        "pragma",
        "proxy-authenticate",
        "proxy-authorization",
        "range",
        "retry-after",
        "set-cookie",
        "trailer",
        "vary",
        "warning",
        "www-authenticate",
        "forwarded",
    ];
    Name::of(name) == Name::Other
        && !REFUSED.iter().any(|refused| name.eq_ignore_ascii_case(refused.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: ChunkLimits =
        ChunkLimits { extension_bytes_max: 8, trailer_bytes_max: 32, fields_max: 2 };

    /// The body that was read from an input.
    #[derive(Debug, Default, PartialEq)]
    struct Body {
        data: Vec<u8>,
        is_ended: bool,
        /// The number of bytes after its end.
        left: usize,
        /// The trailer to forward.
        trailer: Vec<u8>,
    }

    /// Reads `input` in steps of `step` bytes.
    fn read_all(input: &[u8], step: usize) -> Result<Body, ChunkError> {
        let mut reader = ChunkedReader::new(LIMITS);
        let (mut data, mut at, mut seen) = (Vec::new(), 0, 0);
        loop {
            seen = (seen + step).min(input.len());
            loop {
                let piece = reader.read(&input[at..seen], usize::MAX)?;
                data.extend_from_slice(&input[at..seen][piece.data.clone()]);
                at += piece.consumed;
                if piece.is_end {
                    let trailer = reader.forwarded_trailer(Trailer::All);
                    return Ok(Body { data, is_ended: true, left: input.len() - at, trailer });
                }
                if piece.consumed == 0 {
                    break;
                }
            }
            if seen == input.len() {
                return Ok(Body { data, ..Body::default() });
            }
        }
    }

    /// Valid bodies are read the same in steps of 1, 2 or 3 bytes and whole. The bytes after them
    /// are not consumed.
    #[test]
    fn good_bodies() {
        let rows: [[&[u8]; 4]; 8] = [
            [b"one", b"5\r\nhello\r\n0\r\n\r\n", b"hello", b""],
            [b"hex and zeros", b"A\r\n0123456789\r\n001\r\nz\r\n000\r\n\r\n", b"0123456789z", b""],
            [b"extension", b"1;a=\"b\"\r\nx\r\n0;z\r\n\r\n", b"x", b""],
            [b"blanks after sizes", b"1  \r\nx\r\n2\t\r\nyz\r\n0 \r\n\r\n", b"xyz", b""],
            [b"blanks before extensions", b"1 ;a=b\r\nx\r\n0\t ;\r\n\r\n", b"x", b""],
            [b"trailer", b"0\r\nX-T: 1\r\n\r\n", b"", b"X-T: 1\r\n"],
            [b"forbidden trailer", b"0\r\nHost: a\r\nX: y\r\n\r\n", b"", b"X: y\r\n"],
            [b"empty", b"0\r\n\r\n", b"", b""],
        ];
        for [name, input, data, trailer] in rows {
            let name = String::from_utf8_lossy(name);
            let whole = [input, b"GET / next"].concat();
            for step in [1, 2, 3, whole.len()] {
                let (data, trailer) = (data.to_vec(), trailer.to_vec());
                let expected = Body { data, is_ended: true, left: 10, trailer };
                assert_eq!(read_all(&whole, step), Ok(expected), "{name} in steps of {step}");
            }
        }
    }

    /// Invalid bodies are refused for the rule that they break, read whole and byte by byte.
    #[test]
    fn bad_bodies() {
        let rows: [(&[u8], ChunkError); 25] = [
            (b"0x5\r\n", ChunkError::InvalidSize),
            (b"-5\r\n", ChunkError::InvalidSize),
            (b"+5\r\n", ChunkError::InvalidSize),
            (b" 5\r\n", ChunkError::InvalidSize),
            (b"5 5\r\n", ChunkError::InvalidSize),
            (b"5 a\r\n", ChunkError::InvalidSize),
            (b"5 \nhello", ChunkError::BareLineFeed),
            (b"5         \r\n", ChunkError::ExtensionTooLong),
            (b"\r\n", ChunkError::InvalidSize),
            (b";a\r\n", ChunkError::InvalidSize),
            (b"G\r\n", ChunkError::InvalidSize),
            (b"10000000000000005\r\n", ChunkError::SizeOverflow),
            (b"1000000000000000\r\n", ChunkError::SizeOverflow),
            (b"00000000000000001\r\n", ChunkError::SizeOverflow),
            (b"5\nhello", ChunkError::BareLineFeed),
            (b"5\r5\r\n", ChunkError::BareLineFeed),
            (b"5;a\nhello", ChunkError::BareLineFeed),
            (b"5;\x00\r\n", ChunkError::InvalidExtension),
            (b"5;123456789\r\n", ChunkError::ExtensionTooLong),
            (b"5\r\nhelloWORLD", ChunkError::MissingLineEnd),
            (b"5\r\nhello\n0", ChunkError::MissingLineEnd),
            (b"0\r\nX-A b\r\n\r\n", ChunkError::InvalidTrailer),
            (b"0\r\n folded: b\r\n\r\n", ChunkError::InvalidTrailer),
            (b"0\r\nX: a\nY: b\r\n\r\n", ChunkError::BareLineFeed),
            (b"0\r\na:1\r\nb:2\r\nc:3\r\n\r\n", ChunkError::TrailerTooLarge),
        ];
        for (input, expected) in rows {
            for step in [1, input.len()] {
                let shown = String::from_utf8_lossy(input);
                assert_eq!(read_all(input, step), Err(expected), "{shown:?} by {step}");
            }
        }
    }

    /// Extensions and trailers may reach their limit but not exceed it.
    #[test]
    fn limits_are_exact() {
        for (len, is_good) in [(7, true), (8, true), (9, false)] {
            let body = [b"1;".as_slice(), &vec![b'a'; len - 1], b"\r\nx\r\n0\r\n\r\n"].concat();
            assert_eq!(read_all(&body, 1).is_ok(), is_good, "extension of {len}");
        }
        for (len, is_good) in [(31, true), (32, true), (33, false)] {
            let line = [b"x:".as_slice(), &vec![b'a'; len - 4], b"\r\n"].concat();
            let body = [b"0\r\n".as_slice(), &line, b"\r\n"].concat();
            assert_eq!(read_all(&body, 1).is_ok(), is_good, "trailer section of {len}");
        }
    }

    /// Chunks that arrive together give their data in one piece, even before an error.
    #[test]
    fn chunks_are_gathered() {
        let check = |input: &[u8], data_max: usize, data: &[u8], consumed: usize, error| {
            let shown = String::from_utf8_lossy(input);
            let mut bytes = input.to_vec();
            let (piece, found) = ChunkedReader::new(LIMITS).gather(&mut bytes, data_max);
            assert_eq!((&bytes[piece.data], found), (data, error), "{shown:?}");
            assert_eq!(piece.consumed, consumed, "{shown:?}");
            assert_eq!(&bytes[consumed..], &input[consumed..], "what follows stays: {shown:?}");
        };
        check(b"1\r\na\r\n2;x\r\nbc\r\n", 9, b"abc", 15, None);
        check(b"1\r\na\r\n2\r\nbc\r\n0\r\n\r\nGET", 9, b"abc", 18, None);
        check(b"1\r\na\r\n2\r\nbc\r\n", 2, b"ab", 10, None);
        check(b"1\r\na\r\n1\r\nb\r\nz", 9, b"ab", 10, Some(ChunkError::InvalidSize));
        check(b"3\r\na", 9, b"a", 4, None);
    }

    /// Each call consumes all bytes that it gets, so none is parsed twice. The test reads one body
    /// in pieces of four sizes.
    #[test]
    fn every_byte_is_looked_at_once() {
        let body = [&b"1\r\nx\r\n".repeat(1000)[..], b"0 ;aaaaa\r\nA: 1\r\nB: 2\r\n\r\n"].concat();
        for step in [1, 5, 100, body.len()] {
            let mut reader = ChunkedReader::new(LIMITS);
            for piece in body.chunks(step) {
                let mut rest = piece;
                while !rest.is_empty() {
                    let read = reader.read(rest, usize::MAX).expect("a good body");
                    assert!(read.consumed > 0, "a call takes what it can");
                    rest = &rest[read.consumed..];
                }
            }
            assert_eq!(reader.state, State::Done);
        }
    }

    /// A piece of data is never larger than requested.
    #[test]
    fn pieces_are_bounded() {
        let mut reader = ChunkedReader::new(LIMITS);
        let input = b"5\r\nhello\r\n";
        let piece = reader.read(input, 2).expect("a good body");
        assert_eq!(piece, Piece { consumed: 5, data: 3..5, is_end: false });
    }
}
