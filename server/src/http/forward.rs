//! Heads as they go on: hop-by-hop fields out (RFC 9110 section 7.6.1), the proxy's own in, the
//! rest untouched and in order.
use std::ops::Range;

use super::field::{Fields, Name, tokens};
use super::framing::Framing;
use super::head::{RequestHead, ResponseHead, Version};
use super::target::Destination;

/// What a forwarded request says besides what its client said.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestContext<'a> {
    /// The backend's own Host.
    pub(crate) authority: &'a str,
    /// Whether the client's Host is sent instead.
    pub(crate) keeps_host: bool,
    /// The client's address, as text.
    pub(crate) client: &'a str,
    /// What it ends in.
    pub(crate) ends: &'a RequestEnds,
}

/// The end of a forwarded request's head from the end of its last field's value on, Via included:
/// the same for all clients of one version.
#[derive(Clone, Debug)]
pub(crate) struct RequestEnds {
    http10: String,
    http11: String,
}

impl RequestEnds {
    /// `name` is the proxy's in Via.
    pub(crate) fn new(name: &str) -> Self {
        let end = |version| format!("\r\nVia: {version} {name}\r\n\r\n");
        Self { http10: end("1.0"), http11: end("1.1") }
    }

    fn of(&self, version: Version) -> &[u8] {
        match version {
            Version::Http10 => self.http10.as_bytes(),
            Version::Http11 => self.http11.as_bytes(),
        }
    }
}

/// What becomes of a request's head on its way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestPlan<'a> {
    pub(crate) destination: Destination<'a>,
    pub(crate) framing: Framing,
    /// Whether the upgrade it asks for is passed on.
    pub(crate) is_upgrade: bool,
}

/// Appends the forwarded head of a request to `out`; returns where the Host's value stands in
/// what was appended, so that it can be put right when another backend gets the request.
pub(crate) fn encode_request(
    head: &RequestHead<'_, '_>,
    plan: &RequestPlan<'_>,
    context: &RequestContext<'_>,
    out: &mut Vec<u8>,
) -> Range<usize> {
    let start = out.len();
    let fields = &head.fields;
    // A path is all of the target, or there is more in front of it.
    if plan.destination.path.len() == head.target.len() && head.version == Version::Http11 {
        out.extend_from_slice(head.line);
    } else {
        encode_line(head.method, plan.destination.path, out);
    }
    out.extend_from_slice(b"Host: ");
    let host_start = out.len() - start;
    let client_host = plan.destination.host;
    let keeps_host = context.keeps_host && !client_host.is_empty();
    let host = if keeps_host { client_host } else { context.authority.as_bytes() };
    out.extend_from_slice(host);
    let host = host_start..out.len() - start;
    out.extend_from_slice(b"\r\n");
    let keeps = |name| match name {
        // Framing has made sure that there is one Content-Length, and that it is a number.
        Name::Other | Name::ContentLength | Name::Via => true,
        Name::Expect => head.version == Version::Http11,
        Name::Upgrade => plan.is_upgrade,
        _ => false,
    };
    fields.write_kept(keeps, |run| out.extend_from_slice(run));
    if plan.is_upgrade {
        out.extend_from_slice(b"Connection: upgrade\r\n");
    } else if takes_trailers(fields) {
        out.extend_from_slice(b"Connection: te\r\nTE: trailers\r\n");
    }
    if plan.framing == Framing::Chunked {
        out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
    }
    out.extend_from_slice(b"X-Forwarded-For: ");
    if fields.has(Name::XForwardedFor) {
        for value in fields.values(Name::XForwardedFor).filter(|value| !value.is_empty()) {
            out.extend_from_slice(value);
            out.extend_from_slice(b", ");
        }
    }
    out.extend_from_slice(context.client.as_bytes());
    if client_host.is_empty() {
        out.extend_from_slice(b"\r\nX-Forwarded-Proto: http");
    } else {
        out.extend_from_slice(b"\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: ");
        out.extend_from_slice(client_host);
    }
    out.extend_from_slice(context.ends.of(head.version));
    host
}

/// Appends a request line that is not the client's own.
#[inline(never)]
fn encode_line(method: &str, path: &str, out: &mut Vec<u8>) {
    let begins = path.starts_with(['/', '*']);
    for part in [method, if begins { " " } else { " /" }, path, " HTTP/1.1\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
}

/// How an answer's body and connection go on towards the client.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct ResponsePlan {
    /// Whether the body is written in chunks.
    pub(crate) is_chunked: bool,
    /// What Connection tells the client; nothing where the version's default is meant.
    pub(crate) connection: Option<&'static str>,
}

/// Fields that an answer's head may lose on its way.
const DROPPED: u32 = Name::Connection.bit()
    | Name::Http2Settings.bit()
    | Name::KeepAlive.bit()
    | Name::Lookalike.bit()
    | Name::Nominated.bit()
    | Name::ProxyConnection.bit()
    | Name::Te.bit()
    | Name::TransferEncoding.bit()
    | Name::Upgrade.bit();

/// Whether an answer's head goes on just as it came, as most do: then it need not be written anew.
pub(crate) fn is_verbatim(head: &ResponseHead<'_, '_>, plan: &ResponsePlan) -> bool {
    head.version == Version::Http11
        && head.reason.is_some()
        && *plan == (ResponsePlan { is_chunked: false, connection: None })
        && !matches!(head.status, 100..=199 | 204)
        && !head.fields.has_any(DROPPED)
        && !head.fields.is_repeated(Name::ContentLength)
}

/// Appends the forwarded head of an answer to `out`.
#[inline(never)]
pub(crate) fn encode_response(head: &ResponseHead<'_, '_>, plan: &ResponsePlan, out: &mut Vec<u8>) {
    out.extend_from_slice(b"HTTP/1.1 ");
    let digit = |unit: u16| b'0' + u8::try_from(head.status / unit % 10).unwrap_or_default();
    out.extend_from_slice(&[digit(100), digit(10), digit(1), b' ']);
    out.extend_from_slice(head.reason.unwrap_or_default());
    out.extend_from_slice(b"\r\n");
    let is_interim_or_empty = matches!(head.status, 100..=199 | 204);
    let mut seen_length = false;
    let keeps = |name| match name {
        Name::ContentLength => !is_interim_or_empty,
        Name::Upgrade => head.status == 101,
        // Fields of requests mean nothing special in an answer.
        Name::Other | Name::Via | Name::Expect | Name::Host => true,
        Name::XForwardedFor | Name::XForwardedHost | Name::XForwardedProto => true,
        _ => false,
    };
    // Equal lengths on several lines go on as one.
    if head.fields.is_repeated(Name::ContentLength) {
        head.fields.write_kept(
            |name| keeps(name) && name != Name::ContentLength,
            |run| out.extend_from_slice(run),
        );
        let length = head.fields.values(Name::ContentLength).next();
        if let Some(length) = length.filter(|_| !is_interim_or_empty) {
            out.extend_from_slice(b"Content-Length: ");
            out.extend_from_slice(length);
            out.extend_from_slice(b"\r\n");
            seen_length = true;
        }
    } else {
        head.fields.write_kept(keeps, |run| out.extend_from_slice(run));
    }
    debug_assert!(!(seen_length && plan.is_chunked), "a body has one framing");
    if plan.is_chunked {
        out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
    }
    if let Some(connection) = plan.connection {
        out.extend_from_slice(b"Connection: ");
        out.extend_from_slice(connection.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// Whether the sender of `fields` said that it reads trailer fields (RFC 9110 section 10.1.4).
pub(crate) fn takes_trailers(fields: &Fields<'_, '_>) -> bool {
    let is_trailers = |coding: &[u8]| coding.eq_ignore_ascii_case(b"trailers");
    fields.has(Name::Te) && fields.values(Name::Te).flat_map(tokens).any(is_trailers)
}
