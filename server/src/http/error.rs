//! Faults of messages, named by the party at fault.
use std::fmt;

use crate::tls::TlsFault;

/// Returns an error. The function is cold so that the compiler keeps the code for valid messages
/// together.
#[cold]
#[inline(never)]
pub(crate) const fn refuse<T, E: Copy>(error: E) -> Result<T, E> {
    Err(error)
}

/// A fault of a request. The proxy responds with [`status`](Self::status) and closes the
/// connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ClientError {
    /// A line ends in LF without CR. RFC 9112 section 2.2 lets a recipient accept it, but two
    /// readers that differ on it allow request smuggling.
    BareLineFeed,
    /// An invalid request line, or bytes other than empty lines before it.
    MalformedRequestLine,
    /// A version that is neither HTTP/1.0 nor HTTP/1.1.
    UnsupportedVersion,
    /// A target outside the forms of RFC 9112 section 3.2, or with a fragment, a control byte or a
    /// space.
    InvalidTarget,
    /// CONNECT: the proxy opens no tunnels to other hosts (RFC 9110 section 9.3.6).
    ConnectMethod,
    /// TRACE would show fields that only backends should see (RFC 9110 section 9.3.8).
    TraceMethod,
    /// An invalid field line: no colon, space before it, an empty or non-token name, folding,
    /// or a control byte in the value.
    MalformedField,
    /// No Host in HTTP/1.1 (RFC 9112 section 3.2).
    MissingHost,
    /// More than one Host.
    DuplicateHost,
    /// A Host that is empty or not `uri-host [":" port]`.
    InvalidHost,
    /// The target is longer than `limits.targetBytesMax`.
    TargetTooLong,
    /// The head is longer than `limits.headBytesMax`.
    HeadTooLarge,
    /// The head has more fields than `limits.fieldsMax`.
    TooManyFields,
    /// Content-Length and Transfer-Encoding together (RFC 9112 section 6.1).
    AmbiguousFraming,
    /// A Content-Length that is not a plain number, or more than one.
    InvalidContentLength,
    /// A Transfer-Encoding that is not exactly `chunked`.
    UnsupportedTransferEncoding,
    /// Transfer-Encoding from HTTP/1.0 (RFC 9112 section 6.1).
    TransferEncodingInOldVersion,
    /// The PROXY protocol header that a trusted hop must send is missing or invalid.
    MalformedProxyHeader,
    /// The request has already passed through this instance, as its Via shows.
    Loop,
    /// An expectation other than 100-continue (RFC 9110 section 10.1.1).
    UnsupportedExpectation,
    /// The body is longer than `limits.bodyBytesMax`.
    BodyTooLarge,
    /// A chunked body that breaks its grammar.
    MalformedChunk(ChunkError),
    /// The head was not complete in time.
    HeadTimeout,
    /// The body stalled.
    BodyTimeout,
    /// The client closed before its request was complete.
    Incomplete,
}

impl ClientError {
    /// Returns the status of the response to this error.
    pub const fn status(self) -> u16 {
        match self {
            Self::HeadTimeout | Self::BodyTimeout => 408,
            Self::BodyTooLarge => 413,
            Self::TargetTooLong => 414,
            Self::UnsupportedExpectation => 417,
            Self::HeadTooLarge | Self::TooManyFields => 431,
            Self::MalformedChunk(ChunkError::ExtensionTooLong | ChunkError::TrailerTooLarge) => 431,
            Self::UnsupportedTransferEncoding | Self::ConnectMethod | Self::TraceMethod => 501,
            Self::UnsupportedVersion => 505,
            Self::Loop => 508,
            _ => 400,
        }
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BareLineFeed => "line ends in a bare LF",
            Self::MalformedRequestLine => "malformed request line",
            Self::UnsupportedVersion => "unsupported version",
            Self::MalformedProxyHeader => "malformed PROXY protocol header",
            Self::Loop => "loop: the request came back to this proxy",
            Self::InvalidTarget => "invalid target",
            Self::ConnectMethod => "CONNECT is not supported",
            Self::TraceMethod => "TRACE is not supported",
            Self::MalformedField => "malformed field line",
            Self::MissingHost => "no Host",
            Self::DuplicateHost => "more than one Host",
            Self::InvalidHost => "invalid Host",
            Self::TargetTooLong => "target exceeds limits.targetBytesMax",
            Self::HeadTooLarge => "head exceeds limits.headBytesMax",
            Self::TooManyFields => "more fields than limits.fieldsMax",
            Self::AmbiguousFraming => "Content-Length together with Transfer-Encoding",
            Self::InvalidContentLength => "invalid Content-Length",
            Self::UnsupportedTransferEncoding => "unsupported Transfer-Encoding",
            Self::TransferEncodingInOldVersion => "Transfer-Encoding in HTTP/1.0",
            Self::UnsupportedExpectation => "unsupported Expect",
            Self::BodyTooLarge => "body exceeds limits.bodyBytesMax",
            Self::MalformedChunk(error) => return write!(f, "malformed chunked body: {error}"),
            Self::HeadTimeout => "request head incomplete after timeouts.requestHeadMs",
            Self::BodyTimeout => "request body stalled for timeouts.requestBodyMs",
            Self::Incomplete => "client closed inside its request",
        })
    }
}

impl std::error::Error for ClientError {}

/// A fault of a backend, its response or the connection to it. If nothing of the response was
/// forwarded, the client gets [`status`](Self::status); otherwise the response is cut.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum UpstreamError {
    /// No backend is in service.
    NoBackend,
    /// Every backend and the queue are full.
    QueueFull,
    /// No backend had room in time.
    QueueTimeout,
    /// None of the backend's addresses has a listener.
    Refused,
    /// The connection could not be made for another reason.
    Unreachable,
    /// The TLS handshake failed.
    Handshake(TlsFault),
    /// The proxy's own system had no descriptor, port or memory for a connection.
    Exhausted,
    /// The connection was not made in time.
    ConnectTimeout,
    /// The connection ended before the response's head was complete.
    Cut,
    /// No response head in time.
    HeadTimeout,
    /// The head is not an HTTP/1 response.
    MalformedHead,
    /// The head is longer than `limits.headBytesMax`.
    HeadTooLarge,
    /// The head has more fields than `limits.fieldsMax`.
    TooManyFields,
    /// Interim responses that together exceed 8 times `limits.headBytesMax`.
    InterimTooLarge,
    /// Content-Length and Transfer-Encoding together, invalid or differing lengths, or a
    /// transfer coding other than chunked.
    AmbiguousFraming,
    /// Bytes that arrived before any part of the request was sent. They belong to another exchange.
    Unsolicited,
    /// A 101 that was not requested, or that names another protocol.
    UnexpectedUpgrade,
    /// The connection ended inside the response's body.
    Truncated,
    /// The response's chunked body breaks its grammar.
    MalformedChunk(ChunkError),
    /// The response body stalled, or the backend stopped accepting the request body.
    BodyTimeout,
}

impl UpstreamError {
    /// Returns the status of the response to this error.
    pub const fn status(self) -> u16 {
        match self {
            Self::NoBackend | Self::QueueFull | Self::QueueTimeout | Self::Exhausted => 503,
            Self::ConnectTimeout | Self::HeadTimeout | Self::BodyTimeout => 504,
            _ => 502,
        }
    }
}

impl fmt::Display for UpstreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoBackend => "no backend is in service",
            Self::QueueFull => {
                "every backend is at its limit, and limits.queueLength requests wait"
            }
            Self::QueueTimeout => "no backend below its limit within limits.queueMs",
            Self::Refused => "connection refused",
            Self::Unreachable => "backend unreachable",
            Self::Handshake(fault) => return write!(f, "TLS handshake failed: {fault}"),
            Self::Exhausted => "the proxy has no descriptor, port or memory left to connect",
            Self::ConnectTimeout => "connection not made within timeouts.connectMs",
            Self::Cut => "connection closed before a response",
            Self::HeadTimeout => "no response within timeouts.responseHeadMs",
            Self::MalformedHead => "malformed response head",
            Self::HeadTooLarge => "response head exceeds limits.headBytesMax",
            Self::TooManyFields => "response has more fields than limits.fieldsMax",
            Self::InterimTooLarge => "interim responses exceed 8 times limits.headBytesMax",
            Self::AmbiguousFraming => "ambiguous framing of the response",
            Self::Unsolicited => "response before the request",
            Self::UnexpectedUpgrade => "unrequested upgrade",
            Self::Truncated => "response cut inside its body",
            Self::MalformedChunk(error) => {
                return write!(f, "malformed chunked response: {error}");
            }
            Self::BodyTimeout => "body stalled for timeouts.responseBodyMs",
        })
    }
}

impl std::error::Error for UpstreamError {}

/// A fault of a chunked body.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ChunkError {
    /// A chunk size that is not plain hexadecimal, or is followed by neither `;` nor CRLF.
    InvalidSize,
    /// A chunk size of 2^60 or more, or with more than 16 digits.
    SizeOverflow,
    /// A control byte other than a tab in a chunk extension.
    InvalidExtension,
    /// Blanks and extensions after one chunk's size that exceed `limits.chunkExtensionBytesMax`.
    ExtensionTooLong,
    /// A line that does not end in CRLF.
    BareLineFeed,
    /// Chunk data not followed by CRLF.
    MissingLineEnd,
    /// A trailer line that is not a field line.
    InvalidTrailer,
    /// A trailer section longer than `limits.trailerBytesMax` or with too many fields.
    TrailerTooLarge,
}

impl ChunkError {
    /// Whether the error is a malformed chunk size or extension, as opposed to a line end or a
    /// length.
    pub(crate) const fn is_in_size_line(self) -> bool {
        matches!(self, Self::InvalidSize | Self::SizeOverflow | Self::InvalidExtension)
    }
}

impl fmt::Display for ChunkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InvalidSize => "invalid chunk size",
            Self::SizeOverflow => "chunk size too large",
            Self::InvalidExtension => "invalid chunk extension",
            Self::ExtensionTooLong => "chunk extensions exceed limits.chunkExtensionBytesMax",
            Self::BareLineFeed => "chunk line without CRLF",
            Self::MissingLineEnd => "chunk data not followed by CRLF",
            Self::InvalidTrailer => "invalid trailer field",
            Self::TrailerTooLarge => "trailer section exceeds limits.trailerBytesMax or fieldsMax",
        })
    }
}

impl std::error::Error for ChunkError {}
