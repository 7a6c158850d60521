//! Request and answer heads: from the first byte to the empty line, without state.
//!
//! httparse splits the head into tokens; everything that it lets pass and that two readers could
//! read differently is refused here. A parser consumes nothing and looks at nothing behind the
//! head.
use super::error::{ClientError, UpstreamError};
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
    /// The reason phrase as sent, maybe empty.
    pub(crate) reason: &'b [u8],
    pub(crate) version: Version,
    pub(crate) fields: Fields<'h, 'b>,
    /// Bytes of the head, the empty line behind it included.
    pub(crate) len: usize,
}

/// Empty lines tolerated before a request line: RFC 9112 section 2.2 asks for at least one.
const EMPTY_LINES_MAX: usize = 4;

/// Parses a request head at the beginning of `input`.
///
/// # Errors
/// The first rule that it breaks, as soon as the bytes so far show it.
pub(crate) fn parse_request<'h, 'b>(
    input: &'b [u8],
    slots: &'h mut Slots<'b>,
    limits: &HeadLimits,
) -> Result<Parsed<RequestHead<'h, 'b>>, ClientError> {
    let skipped = empty_lines(input)?;
    let line_start = &input[skipped..];
    let Slots { headers, names } = slots;
    let mut request = httparse::Request::new(&mut []);
    let parsed = match request.parse_with_uninit_headers(line_start, headers) {
        Ok(httparse::Status::Complete(len)) => skipped + len,
        Ok(httparse::Status::Partial) => {
            check_line_ends(line_start).map_err(|BareLineFeed| ClientError::BareLineFeed)?;
            return match oversize(line_start, limits) {
                Some(error) => Err(error),
                None => Ok(Parsed::Partial),
            };
        }
        Err(error) => return Err(request_error(error, line_start)),
    };
    let len = parsed;
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version)
    else {
        return Err(ClientError::MalformedRequestLine);
    };
    if target.len() > limits.target_bytes_max {
        return Err(ClientError::TargetTooLong);
    }
    if len - skipped > limits.head_bytes_max {
        return Err(ClientError::HeadTooLarge);
    }
    if request.headers.len() > limits.fields_max {
        return Err(ClientError::TooManyFields);
    }
    // METHOD SP target SP HTTP/1.x CRLF: one space each, or httparse would have refused it.
    let first = skipped + method.len() + 1 + target.len() + 1 + "HTTP/1.x".len();
    if input.get(first..first + 2) != Some(b"\r\n") {
        return Err(ClientError::BareLineFeed);
    }
    let list: &'h [httparse::Header<'b>] = request.headers;
    let Some(fields) = Fields::check(input, first + 2, len, list, names) else {
        return Err(ClientError::BareLineFeed);
    };
    let version = if minor == 0 { Version::Http10 } else { Version::Http11 };
    Ok(Parsed::Complete(RequestHead { method, target, version, fields, len }))
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
    let len = match config.parse_response_with_uninit_headers(&mut response, input, headers) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) => {
            check_line_ends(input).map_err(|BareLineFeed| UpstreamError::MalformedHead)?;
            return match input.len() >= limits.head_bytes_max {
                true => Err(UpstreamError::HeadTooLarge),
                false => Ok(Parsed::Partial),
            };
        }
        Err(httparse::Error::TooManyHeaders) => return Err(UpstreamError::HeadTooLarge),
        Err(_) => return Err(UpstreamError::MalformedHead),
    };
    if len > limits.head_bytes_max || response.headers.len() > limits.fields_max {
        return Err(UpstreamError::HeadTooLarge);
    }
    let (Some(status), Some(minor)) = (response.code, response.version) else {
        return Err(UpstreamError::MalformedHead);
    };
    // HTTP/1.x SP 3DIGIT, then CRLF or SP reason CRLF (RFC 9112 section 4).
    let line_end = input.iter().position(|&byte| byte == b'\n').unwrap_or_default();
    let status_end = "HTTP/1.x 200".len();
    let reason = match line_end.checked_sub(1).and_then(|end| input.get(status_end..end)) {
        Some([]) => &[][..],
        Some([b' ', reason @ ..]) => reason,
        _ => return Err(UpstreamError::MalformedHead),
    };
    if input.get(line_end - 1) != Some(&b'\r') || !(100..=999).contains(&status) {
        return Err(UpstreamError::MalformedHead);
    }
    let list: &'h [httparse::Header<'b>] = response.headers;
    let Some(fields) = Fields::check(input, line_end + 1, len, list, names) else {
        return Err(UpstreamError::MalformedHead);
    };
    let version = if minor == 0 { Version::Http10 } else { Version::Http11 };
    Ok(Parsed::Complete(ResponseHead { status, reason, version, fields, len }))
}

/// Bytes of the empty lines before a request line.
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
    let is_first_line = !input.contains(&b'\n');
    // The method and two spaces come on top; a longer method than this is no method of ours.
    if is_first_line && input.len() > limits.target_bytes_max + 32 {
        return Some(ClientError::TargetTooLong);
    }
    (input.len() >= limits.head_bytes_max).then_some(ClientError::HeadTooLarge)
}

/// What httparse's error means, told apart further where the status depends on it.
fn request_error(error: httparse::Error, line: &[u8]) -> ClientError {
    match error {
        httparse::Error::TooManyHeaders => ClientError::TooManyFields,
        httparse::Error::HeaderName | httparse::Error::HeaderValue => ClientError::MalformedField,
        httparse::Error::Version if is_other_version(line) => ClientError::UnsupportedVersion,
        httparse::Error::NewLine => ClientError::BareLineFeed,
        _ => ClientError::MalformedRequestLine,
    }
}

/// Whether the request line ends in `HTTP/` and a version that is not ours: 505, not 400.
fn is_other_version(input: &[u8]) -> bool {
    let line = input.split(|&byte| byte == b'\r' || byte == b'\n').next().unwrap_or_default();
    let Some(space) = line.iter().rposition(|&byte| byte == b' ') else {
        return false;
    };
    matches!(&line[space + 1..], [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
        if major.is_ascii_digit() && minor.is_ascii_digit() && (*major, *minor) != (b'1', b'0')
            && (*major, *minor) != (b'1', b'1'))
}
