//! Parses request and response heads, from the first byte to the empty line. The parsers have no
//! state.
//!
//! httparse splits the head into tokens. This file refuses heads that httparse accepts but that two
//! readers could understand differently. A parser does not consume its input and does not read past
//! the head.
//!
//! The layout hints are explained in `http/mod.rs`.
use super::error::{ClientError, UpstreamError, refuse};
use super::field::{FIELDS_AT_FIRST, Fields, MoreSlots, Name, Slots, is_token_byte};

/// Result of an attempt to parse.
pub(crate) enum Parsed<T> {
    /// The head is complete.
    Complete(T),
    /// More bytes are needed.
    Partial,
}

/// HTTP/1.0 or HTTP/1.1.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Version {
    Http10,
    Http11,
}

/// Bounds of a head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadLimits {
    pub(crate) head_bytes_max: usize,
    pub(crate) target_bytes_max: usize,
    pub(crate) fields_max: usize,
}

/// A complete request head.
pub(crate) struct RequestHead<'h, 'b> {
    /// The request line as sent, its CRLF included.
    pub(crate) line: &'b [u8],
    pub(crate) method: &'b str,
    /// As sent; see [`super::target`].
    pub(crate) target: &'b [u8],
    pub(crate) version: Version,
    pub(crate) fields: Fields<'h, 'b>,
    /// Bytes of the head, including empty lines before it and the empty line at its end.
    pub(crate) len: usize,
}

/// A complete response head.
pub(crate) struct ResponseHead<'h, 'b> {
    pub(crate) status: u16,
    /// The reason phrase as sent, possibly empty; `None` if its space is missing.
    pub(crate) reason: Option<&'b [u8]>,
    pub(crate) version: Version,
    pub(crate) fields: Fields<'h, 'b>,
    /// Bytes of the head, including the empty line at its end.
    pub(crate) len: usize,
}

/// Parses a request head at the beginning of `input`.
///
/// # Errors
/// The first rule that it breaks, as soon as the bytes so far show it.
pub(crate) fn parse_request<'h, 'b>(
    input: &'b [u8],
    slots: &'h mut Slots<'b>,
    limits: &HeadLimits,
) -> Result<Parsed<RequestHead<'h, 'b>>, ClientError> {
    let is_at_line = input.first().is_none_or(|byte| !b"\r\n".contains(byte));
    let skipped = if is_at_line { 0 } else { empty_lines(input)? };
    let line_start = &input[skipped..];
    let Slots { headers, names, more } = slots;
    let mut request = httparse::Request::new(&mut []);
    let parsed = request.parse_with_uninit_headers(line_start, headers);
    let Ok(httparse::Status::Complete(len)) = parsed else {
        let parsed = parsed.map(|_| Unfinished);
        return if needs_more(parsed, line_start, limits) {
            parse_odd_request(input, skipped, more, limits)
        } else {
            unfinished_request(parsed, line_start, limits).map(|Unfinished| Parsed::Partial)
        };
    };
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version)
    else {
        return refuse(ClientError::MalformedRequestLine);
    };
    let list: &'h [httparse::Header<'b>] = request.headers;
    let line = (method, target.as_bytes(), minor);
    whole_request(input, skipped, line, skipped + len, list, names, limits)
}

/// Refuses what httparse accepts in a complete head although it is ambiguous or too large. `line`
/// has method, target and minor version. `len` is the offset of the head's end in `input`.
#[inline(always)]
fn whole_request<'h, 'b>(
    input: &'b [u8],
    skipped: usize,
    line: (&'b str, &'b [u8], u8),
    len: usize,
    list: &'h [httparse::Header<'b>],
    names: &'h mut [Name],
    limits: &HeadLimits,
) -> Result<Parsed<RequestHead<'h, 'b>>, ClientError> {
    let (method, target, minor) = line;
    let line_len = method.len() + target.len() + "  HTTP/1.x\r".len();
    if target.len() > limits.target_bytes_max || line_len > line_bytes_max(limits) {
        return refuse(ClientError::TargetTooLong);
    }
    if len - skipped > limits.head_bytes_max {
        return refuse(ClientError::HeadTooLarge);
    }
    if list.len() > limits.fields_max {
        return refuse(ClientError::TooManyFields);
    }
    // METHOD SP target SP HTTP/1.x CRLF: httparse refuses all but single spaces.
    let first = skipped + method.len() + 1 + target.len() + 1 + "HTTP/1.x".len();
    if input.get(first..first + 2) != Some(b"\r\n") {
        return refuse(ClientError::BareLineFeed);
    }
    let Some(fields) = Fields::check(input, first + 2, len, list, names) else {
        return refuse(ClientError::BareLineFeed);
    };
    let version = if minor == 0 { Version::Http10 } else { Version::Http11 };
    let line = &input[skipped..first + 2];
    Ok(Parsed::Complete(RequestHead { line, method, target, version, fields, len }))
}

/// Whether a request that httparse refuses may be valid: it has more fields than there was room
/// for, or a target that is not UTF-8.
#[cold]
fn needs_more(
    parsed: Result<Unfinished, httparse::Error>,
    input: &[u8],
    limits: &HeadLimits,
) -> bool {
    match parsed {
        Err(httparse::Error::TooManyHeaders) => limits.fields_max > FIELDS_AT_FIRST,
        Err(httparse::Error::Token) => {
            let line = input.split(|&byte| byte == b'\n').next().unwrap_or_default();
            !line.is_ascii()
        }
        _ => false,
    }
}

/// Parses a request head with a target of any bytes and up to `limits.fields_max` fields.
#[cold]
fn parse_odd_request<'h, 'b>(
    input: &'b [u8],
    skipped: usize,
    more: &'h mut Option<Box<MoreSlots<'b>>>,
    limits: &HeadLimits,
) -> Result<Parsed<RequestHead<'h, 'b>>, ClientError> {
    let line_start = &input[skipped..];
    let Some(end) = line_start.iter().position(|&byte| byte == b'\n') else {
        split_line(line_start)?;
        return oversize(line_start, limits).map_or(Ok(Parsed::Partial), Err);
    };
    let Some(line) = line_start[..end].strip_suffix(b"\r") else {
        return Err(ClientError::BareLineFeed);
    };
    let [method, target, version] = split_line(line)?;
    let minor = match version {
        b"HTTP/1.0" => 0,
        b"HTTP/1.1" => 1,
        _ => {
            version_error(line_start)?;
            return Err(ClientError::MalformedRequestLine);
        }
    };
    let Ok(method) = std::str::from_utf8(method) else {
        return Err(ClientError::MalformedRequestLine);
    };
    let MoreSlots { headers, names } = MoreSlots::sized(more, limits.fields_max);
    let first = end + 1;
    match httparse::parse_headers(&line_start[first..], headers) {
        Ok(httparse::Status::Complete((len, list))) => {
            let len = skipped + first + len;
            whole_request(input, skipped, (method, target, minor), len, list, names, limits)
        }
        Ok(httparse::Status::Partial) => {
            unfinished_request(Ok(Unfinished), line_start, limits).map(|Unfinished| Parsed::Partial)
        }
        Err(error) => Err(request_error(error)),
    }
}

/// Splits a complete or partial request line into method, target and version. Missing parts are
/// empty.
fn split_line(line: &[u8]) -> Result<[&[u8]; 3], ClientError> {
    let mut parts = line.splitn(3, |&byte| byte == b' ');
    let mut next = || parts.next().unwrap_or_default();
    let (method, target, version) = (next(), next(), next());
    let is_method = method.iter().all(|&byte| is_token_byte(byte)) && !method.is_empty();
    let is_target = target.iter().all(|&byte| byte > b' ' && byte != 0x7f);
    let is_empty = target.is_empty() && line.len() > method.len() + 1;
    if is_method && is_target && !is_empty {
        Ok([method, target, version])
    } else {
        Err(ClientError::MalformedRequestLine)
    }
}

/// Parses a response's head at the beginning of `input`.
///
/// # Errors
/// The first rule that it breaks, as soon as the bytes so far show it.
pub(crate) fn parse_response<'h, 'b>(
    input: &'b [u8],
    slots: &'h mut Slots<'b>,
    limits: &HeadLimits,
) -> Result<Parsed<ResponseHead<'h, 'b>>, UpstreamError> {
    let Slots { headers, names, more } = slots;
    let mut response = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let parsed = config.parse_response_with_uninit_headers(&mut response, input, headers);
    let line = (response.code, response.version);
    let Ok(httparse::Status::Complete(len)) = parsed else {
        let parsed = parsed.map(|_| Unfinished);
        let has_more = parsed.is_err_and(|error| error == httparse::Error::TooManyHeaders);
        return if has_more && limits.fields_max > FIELDS_AT_FIRST {
            parse_long_response(input, line, more, limits)
        } else {
            unfinished_response(parsed, input, limits).map(|Unfinished| Parsed::Partial)
        };
    };
    whole_response(input, line, len, response.headers, names, limits)
}

/// Parses a response head of more than [`FIELDS_AT_FIRST`] fields whose status and minor version
/// are known.
#[cold]
fn parse_long_response<'h, 'b>(
    input: &'b [u8],
    line: (Option<u16>, Option<u8>),
    more: &'h mut Option<Box<MoreSlots<'b>>>,
    limits: &HeadLimits,
) -> Result<Parsed<ResponseHead<'h, 'b>>, UpstreamError> {
    let MoreSlots { headers, names } = MoreSlots::sized(more, limits.fields_max);
    // The parser counts fields only after a complete status line.
    let first = input.iter().position(|&byte| byte == b'\n').map_or(input.len(), |end| end + 1);
    match httparse::parse_headers(&input[first..], headers) {
        Ok(httparse::Status::Complete((len, list))) => {
            whole_response(input, line, first + len, list, names, limits)
        }
        parsed => {
            let parsed = parsed.map(|_| Unfinished);
            unfinished_response(parsed, input, limits).map(|Unfinished| Parsed::Partial)
        }
    }
}

/// Refuses what httparse accepts in a complete head although it is ambiguous or too large. `line`
/// has status and minor version. `len` is the length of the head.
#[inline(always)]
fn whole_response<'h, 'b>(
    input: &'b [u8],
    line: (Option<u16>, Option<u8>),
    len: usize,
    list: &'h [httparse::Header<'b>],
    names: &'h mut [Name],
    limits: &HeadLimits,
) -> Result<Parsed<ResponseHead<'h, 'b>>, UpstreamError> {
    if len > limits.head_bytes_max {
        return refuse(UpstreamError::HeadTooLarge);
    }
    if list.len() > limits.fields_max {
        return refuse(UpstreamError::TooManyFields);
    }
    let (Some(status), Some(minor)) = line else {
        return refuse(UpstreamError::MalformedHead);
    };
    // HTTP/1.x SP 3DIGIT, then CRLF or SP reason CRLF (RFC 9112 section 4).
    let status_end = "HTTP/1.x 200".len();
    let first = Fields::first_line(input, len, list);
    let reason = match input.get(status_end..first) {
        Some(b"\r\n") => None,
        Some([b' ', reason @ .., b'\r', b'\n']) => Some(reason),
        _ => return refuse(UpstreamError::MalformedHead),
    };
    let has_line_end = |reason: &[u8]| reason.iter().any(|byte| b"\r\n".contains(byte));
    // Only clients may send empty lines before a head (RFC 9112 section 2.2).
    let has_line_before = !input.starts_with(b"HTTP/1.");
    if has_line_before || reason.is_some_and(has_line_end) || !(100..=999).contains(&status) {
        return refuse(UpstreamError::MalformedHead);
    }
    let Some(fields) = Fields::check(input, first, len, list, names) else {
        return refuse(UpstreamError::MalformedHead);
    };
    let version = if minor == 0 { Version::Http10 } else { Version::Http11 };
    Ok(Parsed::Complete(ResponseHead { status, reason, version, fields, len }))
}

/// The result of httparse for a head that is incomplete, but valid so far.
#[derive(Clone, Copy)]
struct Unfinished;

/// Returns the error of an incomplete request head that cannot become valid.
#[cold]
fn unfinished_request(
    parsed: Result<Unfinished, httparse::Error>,
    input: &[u8],
    limits: &HeadLimits,
) -> Result<Unfinished, ClientError> {
    match parsed {
        Ok(Unfinished) => {
            check_line_ends(input).map_err(|BareLineFeed| ClientError::BareLineFeed)?;
        }
        Err(httparse::Error::Version) => version_error(input)?,
        Err(error) => return Err(request_error(error)),
    }
    oversize(input, limits).map_or(Ok(Unfinished), Err)
}

/// Returns the error of an incomplete response head that cannot become valid.
#[cold]
fn unfinished_response(
    parsed: Result<Unfinished, httparse::Error>,
    input: &[u8],
    limits: &HeadLimits,
) -> Result<Unfinished, UpstreamError> {
    match parsed {
        Ok(Unfinished) => {
            check_line_ends(input).map_err(|BareLineFeed| UpstreamError::MalformedHead)?;
        }
        Err(httparse::Error::TooManyHeaders) => return Err(UpstreamError::TooManyFields),
        Err(_) => return Err(UpstreamError::MalformedHead),
    }
    let is_too_large = input.len() >= limits.head_bytes_max;
    if is_too_large { Err(UpstreamError::HeadTooLarge) } else { Ok(Unfinished) }
}

/// Returns the number of bytes of the complete empty lines at the start of `input`, which are not
/// part of a request (RFC 9112 section 2.2).
#[cold]
pub(crate) fn empty_lines_len(input: &[u8]) -> usize {
    2 * input.chunks_exact(2).take_while(|pair| pair == b"\r\n").count()
}

/// Returns the number of bytes of the complete empty lines before a request line. Refuses an
/// invalid line end after them.
#[cold]
fn empty_lines(input: &[u8]) -> Result<usize, ClientError> {
    let skipped = empty_lines_len(input);
    match input.get(skipped..) {
        Some([b'\r'] | []) | None => Ok(skipped),
        Some([b'\n', ..]) => Err(ClientError::BareLineFeed),
        Some([b'\r', ..]) => Err(ClientError::MalformedRequestLine),
        Some(_) => Ok(skipped),
    }
}

/// A line that ends in LF without CR.
struct BareLineFeed;

/// Searches an incomplete head for an invalid line end, so that the sender gets the error response
/// at once and not after the head's timeout.
fn check_line_ends(input: &[u8]) -> Result<(), BareLineFeed> {
    let mut before = 0;
    for &byte in input {
        if byte == b'\n' && before != b'\r' {
            return Err(BareLineFeed);
        }
        before = byte;
    }
    Ok(())
}

/// Returns the error if an incomplete head is already too large.
fn oversize(input: &[u8], limits: &HeadLimits) -> Option<ClientError> {
    let line_len = input.iter().position(|&byte| byte == b'\n').unwrap_or(input.len());
    if line_len > line_bytes_max(limits) {
        return Some(ClientError::TargetTooLong);
    }
    (input.len() >= limits.head_bytes_max).then_some(ClientError::HeadTooLarge)
}

/// Returns the maximum length of a request line without its LF: the maximum target, plus room for
/// method, spaces and version. A method that does not fit is not a known one.
const fn line_bytes_max(limits: &HeadLimits) -> usize {
    limits.target_bytes_max + 32
}

/// Translates httparse's error, with more detail where the status depends on it.
const fn request_error(error: httparse::Error) -> ClientError {
    match error {
        httparse::Error::TooManyHeaders => ClientError::TooManyFields,
        httparse::Error::HeaderName | httparse::Error::HeaderValue => ClientError::MalformedField,
        httparse::Error::NewLine => ClientError::BareLineFeed,
        _ => ClientError::MalformedRequestLine,
    }
}

/// Distinguishes an unsupported version (505) from an invalid one (400), as soon as the line shows
/// it. The response must not depend on how the line was split into reads.
fn version_error(input: &[u8]) -> Result<(), ClientError> {
    let end = input.iter().position(|&byte| byte == b'\r' || byte == b'\n');
    let line = &input[..end.unwrap_or(input.len())];
    let version = line.splitn(3, |&byte| byte == b' ').nth(2).unwrap_or_default();
    let is_begun = version.iter().zip(b"HTTP/0.0").all(|(&got, &form)| match form {
        b'0' => got.is_ascii_digit(),
        form => got == form,
    });
    match version.len() {
        8 if is_begun && end.is_some() => Err(ClientError::UnsupportedVersion),
        0..=8 if is_begun && end.is_none() => Ok(()),
        _ => Err(ClientError::MalformedRequestLine),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HeadLimits =
        HeadLimits { head_bytes_max: 256, target_bytes_max: 64, fields_max: 8 };

    /// Returns the verdict over `input` that arrives in pieces of `step` bytes.
    fn verdict(input: &[u8], step: usize) -> Result<bool, ClientError> {
        for end in (0..input.len()).step_by(step).chain([input.len()]) {
            let mut slots = Slots::new();
            match parse_request(&input[..end], &mut slots, &LIMITS)? {
                Parsed::Complete(_) => return Ok(true),
                Parsed::Partial => {}
            }
        }
        Ok(false)
    }

    /// A head gets the same verdict whole and byte by byte. (The fuzzer found differences for an
    /// incomplete unsupported version and for a long method.)
    #[test]
    fn pieces_make_no_difference() {
        let long_method = "M".repeat(90);
        let fitting = format!("{} /", "M".repeat(64 + 32 - 11 - 1));
        let (too_long, fitting) =
            (format!("{long_method} / HTTP/1.1\r\n\r\n"), format!("{fitting} HTTP/1.1\r\n\r\n"));
        let rows: [(&str, Result<bool, ClientError>); 11] = [
            ("GET / HTTP/1.1\r\n\r\n", Ok(true)),
            ("GET / HTTP/2.0\r\n\r\n", Err(ClientError::UnsupportedVersion)),
            ("GET / HTTP/0.9\r\n", Err(ClientError::UnsupportedVersion)),
            ("GET / HTTP/2.", Ok(false)),
            ("GET / HTTP/2.0x\r\n", Err(ClientError::MalformedRequestLine)),
            ("GET / HTTQ/1.1\r\n", Err(ClientError::MalformedRequestLine)),
            ("GET / x HTTP/2.0\r\n", Err(ClientError::MalformedRequestLine)),
            ("GET / HTTP/20\r\n", Err(ClientError::MalformedRequestLine)),
            (&too_long, Err(ClientError::TargetTooLong)),
            (&too_long[..too_long.len() - 2], Err(ClientError::TargetTooLong)),
            (&fitting, Ok(true)),
        ];
        for (input, expected) in rows {
            for step in [1, 3, input.len()] {
                assert_eq!(verdict(input.as_bytes(), step), expected, "{input:?} by {step}");
            }
        }
    }
}
