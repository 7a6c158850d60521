//! Decides the length of each body by the rules of RFC 9112 section 6.3. No other file reads
//! Content-Length or Transfer-Encoding.
//!
//! The layout hints are explained in `http/mod.rs`.
use super::error::{ClientError, UpstreamError, refuse};
use super::field::{Fields, Name};
use super::head::{RequestHead, ResponseHead, Version};

/// The framing of a body.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Framing {
    /// There is no body.
    None,
    /// A known number of bytes.
    Length(u64),
    /// Chunks, until the last chunk.
    Chunked,
    /// All bytes until the connection ends; only in responses.
    UntilClose,
}

impl Framing {
    /// Returns the framing of the remaining body after its first `taken` bytes.
    pub(crate) const fn after(self, taken: u64) -> Self {
        match self {
            Self::Length(length) => Self::Length(length.saturating_sub(taken)),
            other => other,
        }
    }
}

/// Returns the framing of a request.
///
/// # Errors
/// The framing is ambiguous: two readers could read different bodies.
pub(crate) fn request_framing(head: &RequestHead<'_, '_>) -> Result<Framing, ClientError> {
    // Rule 7: a request without either field has no body.
    if !head.fields.has_any(Name::TransferEncoding.bit() | Name::ContentLength.bit()) {
        return Ok(Framing::None);
    }
    body_framing(head)
}

/// Returns the framing of a request with Content-Length or Transfer-Encoding.
#[inline(never)]
fn body_framing(head: &RequestHead<'_, '_>) -> Result<Framing, ClientError> {
    let fields = &head.fields;
    if fields.has(Name::TransferEncoding) {
        // Rule 3, applied strictly: both together are refused.
        if fields.has(Name::ContentLength) {
            return Err(ClientError::AmbiguousFraming);
        }
        if head.version == Version::Http10 {
            return Err(ClientError::TransferEncodingInOldVersion);
        }
        // Rule 4, narrowed: the only coding is chunked, once.
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

/// Treatment of the Content-Length of a response.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum LengthField {
    /// Unchanged: absent, or one plain number.
    AsItCame,
    /// Replaced by one line with this number, or removed.
    Rewritten(Option<u64>),
}

/// Returns the framing of a final or interim response, and the treatment of its Content-Length.
///
/// # Errors
/// The response has a body, and its framing is ambiguous: both fields at once, lengths that differ
/// or are not numbers, a Transfer-Encoding other than `chunked` or in HTTP/1.0.
#[inline(always)]
pub(crate) fn response_framing(
    head: &ResponseHead<'_, '_>,
    is_head_request: bool,
) -> Result<(Framing, LengthField), UpstreamError> {
    let fields = &head.fields;
    // Rule 1: HEAD, 1xx, 204 and 304 have no body, whatever their fields are.
    if is_head_request || matches!(head.status, 100..=199 | 204 | 304) {
        return Ok((Framing::None, bodiless_length(fields)));
    }
    let has_coding = fields.has(Name::TransferEncoding);
    if has_coding {
        let is_clear = is_chunked(fields)
            && !fields.has(Name::ContentLength)
            && head.version == Version::Http11;
        if !is_clear {
            return refuse(UpstreamError::AmbiguousFraming);
        }
    }
    let mut field = LengthField::AsItCame;
    let length = match fields.values(Name::ContentLength).next() {
        None => None,
        Some(value) => match decimal(value) {
            Some(length) if !fields.is_repeated(Name::ContentLength) => Some(length),
            _ => {
                let Some(length) = listed_length(fields) else {
                    return refuse(UpstreamError::AmbiguousFraming);
                };
                field = LengthField::Rewritten(Some(length));
                Some(length)
            }
        },
    };
    let framing = match length {
        _ if has_coding => Framing::Chunked,
        Some(0) => Framing::None,
        Some(length) => Framing::Length(length),
        None => Framing::UntilClose,
    };
    Ok((framing, field))
}

/// Returns the length given by Content-Length. Several lines or list members are one length if all
/// are equal (RFC 9110 sections 5.3 and 8.6). Returns `None` if they differ or one is not a number.
#[cold]
fn listed_length(fields: &Fields<'_, '_>) -> Option<u64> {
    let lists = fields.values(Name::ContentLength);
    let members = lists.flat_map(|list| list.split(|&byte| byte == b','));
    let mut lengths = members.map(|member| decimal(member.trim_ascii()));
    let first = lengths.next()??;
    lengths.all(|length| length == Some(first)).then_some(first)
}

/// Returns the treatment of Content-Length in a response without a body. There the field gives the
/// length that a body would have, unless Transfer-Encoding overrides it (RFC 9112 section 6.3 rule
/// 3).
#[inline(never)]
fn bodiless_length(fields: &Fields<'_, '_>) -> LengthField {
    if fields.has(Name::TransferEncoding) {
        return LengthField::Rewritten(None);
    }
    match fields.values(Name::ContentLength).next() {
        None => LengthField::AsItCame,
        Some(value) if decimal(value).is_some() && !fields.is_repeated(Name::ContentLength) => {
            LengthField::AsItCame
        }
        Some(_) => LengthField::Rewritten(listed_length(fields)),
    }
}

/// Whether the one Transfer-Encoding field is exactly `chunked`.
fn is_chunked(fields: &Fields<'_, '_>) -> bool {
    let mut values = fields.values(Name::TransferEncoding);
    let is_plain = values.next().is_some_and(|value| value.eq_ignore_ascii_case(b"chunked"));
    is_plain && values.next().is_none()
}

/// Parses a plain decimal number of at most 18 digits: enough for any body, and without overflow.
fn decimal(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 18 {
        return None;
    }
    value.iter().try_fold(0_u64, |number, byte| {
        byte.is_ascii_digit().then(|| number * 10 + u64::from(byte - b'0'))
    })
}
