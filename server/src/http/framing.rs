//! Where a body ends: decided once, here, by the rules of RFC 9112 section 6.3. Nobody else reads
//! Content-Length or Transfer-Encoding.
use super::error::{ClientError, UpstreamError, refuse};
use super::field::{Fields, Name};
use super::head::{RequestHead, ResponseHead, Version};

/// How a body is delimited.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Framing {
    /// There is none.
    None,
    /// So many bytes.
    Length(u64),
    /// Chunks up to the last one.
    Chunked,
    /// Everything until the connection ends; answers only.
    UntilClose,
}

impl Framing {
    /// What is left of it when the first `taken` bytes of the body have gone on.
    pub(crate) const fn after(self, taken: u64) -> Self {
        match self {
            Self::Length(length) => Self::Length(length.saturating_sub(taken)),
            other => other,
        }
    }
}

/// The framing of a request.
///
/// # Errors
/// Everything that two readers could read differently.
pub(crate) fn request_framing(head: &RequestHead<'_, '_>) -> Result<Framing, ClientError> {
    // Rule 7: a request without either has no body.
    if !head.fields.has_any(Name::TransferEncoding.bit() | Name::ContentLength.bit()) {
        return Ok(Framing::None);
    }
    body_framing(head)
}

/// The framing of a request that says something about it.
#[inline(never)]
fn body_framing(head: &RequestHead<'_, '_>) -> Result<Framing, ClientError> {
    let fields = &head.fields;
    if fields.has(Name::TransferEncoding) {
        // Rule 3, its strict reading: both together are refused.
        if fields.has(Name::ContentLength) {
            return Err(ClientError::AmbiguousFraming);
        }
        if head.version == Version::Http10 {
            return Err(ClientError::TransferEncodingInOldVersion);
        }
        // Rule 4, narrowed: no coding but one chunked, which is also the last.
        if !is_chunked(fields) {
            return Err(ClientError::UnsupportedTransferEncoding);
        }
        return Ok(Framing::Chunked);
    }
    // Rules 5 and 6.
    if fields.is_repeated(Name::ContentLength) {
        return refuse(ClientError::InvalidContentLength);
    }
    match fields.values(Name::ContentLength).next().and_then(decimal) {
        Some(0) => Ok(Framing::None),
        Some(length) => Ok(Framing::Length(length)),
        None => refuse(ClientError::InvalidContentLength),
    }
}

/// The framing of a final answer, or of an interim one, to a request whose method was HEAD or not.
///
/// # Errors
/// Both framings at once, lengths that are none or differ, a coding other than chunked.
#[inline(always)]
pub(crate) fn response_framing(
    head: &ResponseHead<'_, '_>,
    is_head_request: bool,
) -> Result<Framing, UpstreamError> {
    let fields = &head.fields;
    let has_coding = fields.has(Name::TransferEncoding);
    if has_coding {
        let is_clear = is_chunked(fields)
            && !fields.has(Name::ContentLength)
            && head.version == Version::Http11;
        if !is_clear {
            return refuse(UpstreamError::AmbiguousFraming);
        }
    }
    let length = match fields.values(Name::ContentLength).next() {
        None => None,
        Some(value) => match decimal(value) {
            Some(length) if is_only_length(fields, length) => Some(length),
            _ => return refuse(UpstreamError::AmbiguousFraming),
        },
    };
    // Rule 1: HEAD, 1xx, 204 and 304 have no body whatever their fields say.
    if is_head_request || matches!(head.status, 100..=199 | 204 | 304) {
        return Ok(Framing::None);
    }
    Ok(match length {
        _ if has_coding => Framing::Chunked,
        Some(0) => Framing::None,
        Some(length) => Framing::Length(length),
        None => Framing::UntilClose,
    })
}

/// Whether every Content-Length is `length`: several equal lines are one length (RFC 9110 section
/// 8.6), differing ones are none.
fn is_only_length(fields: &Fields<'_, '_>, length: u64) -> bool {
    let is_equal = |value| decimal(value) == Some(length);
    !fields.is_repeated(Name::ContentLength) || fields.values(Name::ContentLength).all(is_equal)
}

/// Whether the one Transfer-Encoding field is exactly `chunked`.
fn is_chunked(fields: &Fields<'_, '_>) -> bool {
    let mut values = fields.values(Name::TransferEncoding);
    let is_plain = values.next().is_some_and(|value| value.eq_ignore_ascii_case(b"chunked"));
    is_plain && values.next().is_none()
}

/// A plain decimal number; at most 18 digits, far beyond any body and far below overflow.
fn decimal(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 18 {
        return None;
    }
    value.iter().try_fold(0_u64, |number, byte| {
        byte.is_ascii_digit().then(|| number * 10 + u64::from(byte - b'0'))
    })
}
