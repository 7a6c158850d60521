//! Request and answer heads: from the first byte to the empty line, without state.
//!
//! httparse splits the head into tokens; everything that it lets pass and that two readers could
//! read differently is refused here. A parser consumes nothing and looks at nothing behind the
//! head.
use super::error::{ClientError, UpstreamError, refuse};
use super::field::{Fields, Slots};

/// What became of an attempt to parse.
pub(crate) enum Parsed<T> {
    /// The whole of it is there.
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

/// What a head may measure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadLimits {
    pub(crate) head_bytes_max: usize,
    pub(crate) target_bytes_max: usize,
    pub(crate) fields_max: usize,
}

/// A whole request head.
pub(crate) struct RequestHead<'h, 'b> {
    /// The request line as sent, its CRLF included.
    pub(crate) line: &'b [u8],
    pub(crate) method: &'b str,
    /// As sent; see [`super::target`].
    pub(crate) target: &'b str,
    pub(crate) version: Version,
    pub(crate) fields: Fields<'h, 'b>,
    /// Bytes of the head, empty lines before it and the one behind it included.
    pub(crate) len: usize,
}

/// A whole answer head.
pub(crate) struct ResponseHead<'h, 'b> {
    pub(crate) status: u16,
    /// The reason phrase as sent, maybe empty; `None` where not even its space was sent.
    pub(crate) reason: Option<&'b [u8]>,
    pub(crate) version: Version,
    pub(crate) fields: Fields<'h, 'b>,
    /// Bytes of the head, the empty line behind it included.
    pub(crate) len: usize,
}

/// Empty lines tolerated before a request line: RFC 9112 section 2.2 asks for at least one.
pub(super) const EMPTY_LINES_MAX: usize = 4;

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
    let Slots { headers, names } = slots;
    let mut request = httparse::Request::new(&mut []);
    let parsed = request.parse_with_uninit_headers(line_start, headers);
    let Ok(httparse::Status::Complete(len)) = parsed else {
        let parsed = parsed.map(|_| Unfinished);
        return unfinished_request(parsed, line_start, limits).map(|Unfinished| Parsed::Partial);
    };
    let len = skipped + len;
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version)
    else {
        return refuse(ClientError::MalformedRequestLine);
    };
    let line_len = method.len() + target.len() + "  HTTP/1.x\r".len();
    if target.len() > limits.target_bytes_max || line_len > line_bytes_max(limits) {
        return refuse(ClientError::TargetTooLong);
    }
    if len - skipped > limits.head_bytes_max {
        return refuse(ClientError::HeadTooLarge);
    }
    if request.headers.len() > limits.fields_max {
        return refuse(ClientError::TooManyFields);
    }
    // METHOD SP target SP HTTP/1.x CRLF: one space each, or httparse would have refused it.
    let first = skipped + method.len() + 1 + target.len() + 1 + "HTTP/1.x".len();
    if input.get(first..first + 2) != Some(b"\r\n") {
        return refuse(ClientError::BareLineFeed);
    }
    let list: &'h [httparse::Header<'b>] = request.headers;
    let Some(fields) = Fields::check(input, first + 2, len, list, names) else {
        return refuse(ClientError::BareLineFeed);
    };
    let version = if minor == 0 { Version::Http10 } else { Version::Http11 };
    let line = &input[skipped..first + 2];
    Ok(Parsed::Complete(RequestHead { line, method, target, version, fields, len }))
}

/// Parses an answer's head at the beginning of `input`.
///
/// # Errors
/// The first rule that it breaks, as soon as the bytes so far show it.
pub(crate) fn parse_response<'h, 'b>(
    input: &'b [u8],
    slots: &'h mut Slots<'b>,
    limits: &HeadLimits,
) -> Result<Parsed<ResponseHead<'h, 'b>>, UpstreamError> {
    let Slots { headers, names } = slots;
    let mut response = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let parsed = config.parse_response_with_uninit_headers(&mut response, input, headers);
    let Ok(httparse::Status::Complete(len)) = parsed else {
        let parsed = parsed.map(|_| Unfinished);
        return unfinished_response(parsed, input, limits).map(|Unfinished| Parsed::Partial);
    };
    if len > limits.head_bytes_max || response.headers.len() > limits.fields_max {
        return refuse(UpstreamError::HeadTooLarge);
    }
    let (Some(status), Some(minor)) = (response.code, response.version) else {
        return refuse(UpstreamError::MalformedHead);
    };
    let list: &'h [httparse::Header<'b>] = response.headers;
    // HTTP/1.x SP 3DIGIT, then CRLF or SP reason CRLF (RFC 9112 section 4).
    let status_end = "HTTP/1.x 200".len();
    let first = Fields::first_line(input, len, list);
    let reason = match input.get(status_end..first) {
        Some(b"\r\n") => None,
        Some([b' ', reason @ .., b'\r', b'\n']) => Some(reason),
        _ => return refuse(UpstreamError::MalformedHead),
    };
    let has_line_end = |reason: &[u8]| reason.iter().any(|byte| b"\r\n".contains(byte));
    // Empty lines before it are tolerated of clients only (RFC 9112 section 2.2).
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

/// What httparse made of a head that has not its end yet.
struct Unfinished;

/// Whether a request's head whose end is not there yet can still become one.
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

/// Whether an answer's head whose end is not there yet can still become one.
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
        Err(httparse::Error::TooManyHeaders) => return Err(UpstreamError::HeadTooLarge),
        Err(_) => return Err(UpstreamError::MalformedHead),
    }
    let is_too_large = input.len() >= limits.head_bytes_max;
    if is_too_large { Err(UpstreamError::HeadTooLarge) } else { Ok(Unfinished) }
}

/// Bytes of the empty lines before a request line.
#[cold]
fn empty_lines(input: &[u8]) -> Result<usize, ClientError> {
    let mut skipped = 0;
    while input.get(skipped..skipped + 2) == Some(b"\r\n") {
        skipped += 2;
        if skipped > 2 * EMPTY_LINES_MAX {
            return Err(ClientError::MalformedRequestLine);
        }
    }
    match input.get(skipped..) {
        Some([b'\r'] | []) | None => Ok(skipped),
        Some([b'\n', ..]) => Err(ClientError::BareLineFeed),
        Some([b'\r', ..]) => Err(ClientError::MalformedRequestLine),
        Some(_) => Ok(skipped),
    }
}

/// A line that ends in LF without CR.
struct BareLineFeed;

/// Looks at an unfinished head for a line that can only be wrong, so that its sender is answered
/// now and not when the time for the head is over.
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

/// Whether an unfinished head is too large already, and what of it.
fn oversize(input: &[u8], limits: &HeadLimits) -> Option<ClientError> {
    let line_len = input.iter().position(|&byte| byte == b'\n').unwrap_or(input.len());
    if line_len > line_bytes_max(limits) {
        return Some(ClientError::TargetTooLong);
    }
    (input.len() >= limits.head_bytes_max).then_some(ClientError::HeadTooLarge)
}

/// Bytes of a request line without its LF: method, spaces and version come on top of the target; a
/// longer method than fits in is no method of ours.
const fn line_bytes_max(limits: &HeadLimits) -> usize {
    limits.target_bytes_max + 32
}

/// What httparse's error means, told apart further where the status depends on it.
const fn request_error(error: httparse::Error) -> ClientError {
    match error {
        httparse::Error::TooManyHeaders => ClientError::TooManyFields,
        httparse::Error::HeaderName | httparse::Error::HeaderValue => ClientError::MalformedField,
        httparse::Error::NewLine => ClientError::BareLineFeed,
        _ => ClientError::MalformedRequestLine,
    }
}

/// Tells a version that is not ours, 505, from none, 400: once the line shows which, so that the
/// answer does not hang on how the line was cut.
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

    /// What became of `input` that came in pieces of `step` bytes.
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

    /// A head gets the same verdict whole and byte by byte; found by the fuzzer: a version that is
    /// not ours was another error while it was not whole, a long method an error only then.
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
