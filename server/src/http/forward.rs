//! Forwarded heads. Hop-by-hop fields are removed (RFC 9110 section 7.6.1) and the proxy's fields
//! are added. These may be replaced or removed: Host, the X-Forwarded fields, Forwarded,
//! Max-Forwards, Expect in HTTP/1.0, Content-Length of a response, fields with a name that the
//! proxy adds, and names that only look like a known one. All others stay unchanged and in order.
//!
//! The layout hints are explained in `http/mod.rs`.
use std::net::IpAddr;
use std::ops::Range;

use super::field::{Fields, Name, tokens};
use super::framing::{Framing, LengthField};
use super::head::{RequestHead, ResponseHead, Version};
use super::target::Destination;
use crate::buffer::Buffer;

/// Additions of the proxy to a forwarded request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestContext<'a> {
    /// The Host line of the backend.
    pub(crate) host_line: &'a HostLine,
    /// Whether the client's Host is sent instead.
    pub(crate) keeps_host: bool,
    /// Whether the client is a trusted hop. If so, its Forwarded and X-Forwarded-Host, -Port and
    /// -Proto are kept.
    pub(crate) is_trusted: bool,
    /// The text of [`client_fields`].
    pub(crate) client: &'a str,
    /// The end of the request's head, with Via.
    pub(crate) ends: &'a RequestEnds,
    /// Fields that replace the client's fields of the same names.
    pub(crate) added: &'a [AddedField<'a>],
}

/// A field that the proxy adds to a message. Fields of the same name are removed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AddedField<'a> {
    pub(crate) name: &'a str,
    /// `None` if fields of this name are only removed.
    pub(crate) value: Option<&'a [u8]>,
}

impl AddedField<'_> {
    fn len(&self) -> usize {
        self.value.map_or(0, |value| self.name.len() + ": \r\n".len() + value.len())
    }
}

const HOST: &str = "Host: ";
const FORWARDED_FOR: &str = "X-Forwarded-For: ";
const FORWARDED_PROTO: &str = "\r\nX-Forwarded-Proto: ";
const FORWARDED_HOST: &str = "\r\nX-Forwarded-Host: ";
const CONNECTION_TE: &str = "Connection: te\r\nTE: trailers\r\n";

/// The Host line that names a backend.
#[derive(Debug)]
pub(crate) struct HostLine(String);

impl HostLine {
    pub(crate) fn new(authority: &str) -> Self {
        Self([HOST, authority, "\r\n"].concat())
    }

    /// Changes the line to name another backend.
    pub(crate) fn set(&mut self, authority: &str) {
        self.0.truncate(HOST.len());
        self.0.push_str(authority);
        self.0.push_str("\r\n");
    }
}

/// Returns the fields about a client at `ip`. The text ends in `X-Forwarded-Host: `, after which
/// the caller appends the host.
pub(crate) fn client_fields(ip: IpAddr) -> String {
    let ip = ip.to_canonical();
    format!("{FORWARDED_FOR}{ip}{FORWARDED_PROTO}http{FORWARDED_HOST}")
}

/// Like [`client_fields`], for a client whose requests come over TLS.
pub(crate) fn secured_client_fields(ip: IpAddr) -> String {
    let ip = ip.to_canonical();
    format!("{FORWARDED_FOR}{ip}{FORWARDED_PROTO}https{FORWARDED_HOST}")
}

/// The end of a forwarded request's head: the line end of the last field, Via and the empty line.
/// It is the same for all clients of one version.
#[derive(Clone, Debug)]
pub(crate) struct RequestEnds {
    http10: String,
    http11: String,
}

impl RequestEnds {
    /// `name` is the proxy's name in Via.
    pub(crate) fn new(name: &str) -> Self {
        let end = |version| format!("\r\nVia: {version} {name}\r\n\r\n");
        Self { http10: end("1.0"), http11: end("1.1") }
    }

    /// Whether a request has passed through this instance before: its Via has this name, ignoring
    /// case.
    #[cold]
    pub(crate) fn have_passed(&self, fields: &Fields<'_, '_>) -> bool {
        // The name is between the version and the empty line.
        let own = self.http11.strip_prefix("\r\nVia: 1.1 ").map(str::trim_end).unwrap_or_default();
        let received_by = |hop: &[u8]| {
            let mut words = hop.split(|byte| b" \t".contains(byte)).filter(|word| !word.is_empty());
            words.nth(1).is_some_and(|name| name.eq_ignore_ascii_case(own.as_bytes()))
        };
        fields.values(Name::Via).flat_map(tokens).any(received_by)
    }

    fn of(&self, version: Version) -> &[u8] {
        match version {
            Version::Http10 => self.http10.as_bytes(),
            Version::Http11 => self.http11.as_bytes(),
        }
    }
}

/// Changes to the head of a forwarded request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestPlan<'a> {
    pub(crate) destination: Destination<'a>,
    pub(crate) framing: Framing,
    /// Whether the requested upgrade is forwarded.
    pub(crate) is_upgrade: bool,
    /// Value of the forwarded Max-Forwards, if the request has a valid one.
    pub(crate) max_forwards: Option<u64>,
}

/// Returns the maximum length of a request's head as [`encode_request`] writes it.
pub(crate) fn request_len_max(
    head: &RequestHead<'_, '_>,
    plan: &RequestPlan<'_>,
    context: &RequestContext<'_>,
) -> usize {
    // The sum includes the lines that the proxy adds. Other additions are not longer than the
    // client's fields that they replace: each further X-Forwarded-For becomes a comma, and the new
    // Connection replaces TE or Upgrade.
    let hosts = context.host_line.0.len() + plan.destination.host.len();
    // One more byte for `https` instead of `http`.
    let ends = context.ends.of(head.version).len() + 1;
    let added = context.added.iter().map(AddedField::len).sum::<usize>();
    head.len + hosts + context.client.len() + ends + CONNECTION_TE.len() + added
}

/// Appends the forwarded head of a request to `out`. Returns the range of the Host value in the
/// appended bytes, so that it can be replaced when another backend gets the request.
#[inline(always)]
pub(crate) fn encode_request(
    head: &RequestHead<'_, '_>,
    plan: &RequestPlan<'_>,
    context: &RequestContext<'_>,
    out: &mut Buffer,
) -> Range<usize> {
    let start = out.len();
    let fields = &head.fields;
    // A path of the target's length is the whole target. Otherwise a scheme and a host precede it.
    let is_own =
        plan.destination.path.len() == head.target.len() && head.version == Version::Http11;
    let line =
        if is_own { head.line } else { encode_line(head.method, plan.destination.path, out) };
    let client_host = plan.destination.host;
    let host_start = out.len() - start + line.len() + HOST.len();
    let (name, value, end): (&str, _, &[u8]) = if context.keeps_host && !client_host.is_empty() {
        (HOST, client_host, b"\r\n")
    } else {
        (&context.host_line.0, &b""[..], b"")
    };
    out.extend(&[line, name.as_bytes(), value, end]);
    let host = host_start..out.len() - start - "\r\n".len();
    let keeps = |name| match name {
        // `request_framing` has checked that the head has one Content-Length and that it is a
        // number.
        Name::Other | Name::Authorization | Name::ContentLength | Name::Date | Name::Via => true,
        Name::MaxForwards => plan.max_forwards.is_none(),
        Name::XRealIp => true,
        Name::Expect => head.version == Version::Http11,
        Name::Forwarded | Name::XForwardedHost | Name::XForwardedPort | Name::XForwardedProto => {
            context.is_trusted
        }
        Name::Upgrade => plan.is_upgrade,
        _ => false,
    };
    if context.added.is_empty() {
        fields.write_kept(keeps, |run| out.extend(&[run]));
    } else {
        encode_replaced(fields, context.added, keeps, out);
    }
    if plan.is_upgrade || fields.has(Name::Te) {
        encode_connection(plan, fields, out);
    }
    if let Some(max) = plan.max_forwards {
        encode_max_forwards(max, out);
    }
    if plan.framing == Framing::Chunked {
        encode_chunked(out);
    }
    let mut client = context.client;
    if fields.has(Name::XForwardedFor) {
        client = encode_forwarders(fields, client, out);
    }
    if client_host.is_empty() {
        client = without_forwarded_host(client);
    }
    if context.is_trusted {
        encode_trusted(head, client, client_host, out);
        out.extend(&[context.ends.of(head.version)]);
        return host;
    }
    out.extend(&[client.as_bytes(), client_host, context.ends.of(head.version)]);
    host
}

/// Appends the fields of a request that are kept, then the proxy's own fields. Client fields of the
/// same names are left out.
#[cold]
fn encode_replaced(
    fields: &Fields<'_, '_>,
    added: &[AddedField<'_>],
    keeps: impl Fn(Name) -> bool,
    out: &mut Buffer,
) {
    let names: Vec<&str> = added.iter().map(|field| field.name).collect();
    fields.write_kept_but(&names, keeps, |line| out.extend(&[line]));
    for AddedField { name, value } in added {
        if let Some(value) = value {
            out.extend(&[name.as_bytes(), b": ", value, b"\r\n"]);
        }
    }
}

/// Appends the fields about a client that is a trusted hop, except those that the hop sent itself.
#[cold]
fn encode_trusted(head: &RequestHead<'_, '_>, client: &str, client_host: &[u8], out: &mut Buffer) {
    let address = client.split("\r\n").next().unwrap_or_default();
    out.extend(&[address.as_bytes()]);
    if !head.fields.has(Name::XForwardedProto) {
        let is_https =
            head.target.get(..8).is_some_and(|start| start.eq_ignore_ascii_case(b"https://"));
        let is_secured = client.get(address.len() + FORWARDED_PROTO.len()..);
        let is_secured = is_secured.is_some_and(|proto| proto.starts_with("https"));
        let proto: &[u8] = if is_https || is_secured { b"https" } else { b"http" };
        out.extend(&[FORWARDED_PROTO.as_bytes(), proto]);
    }
    if !head.fields.has(Name::XForwardedHost) && !client_host.is_empty() {
        out.extend(&[FORWARDED_HOST.as_bytes(), client_host]);
    }
}

/// Appends the Connection field for the backend, and TE if the client reads trailer fields.
#[cold]
fn encode_connection(plan: &RequestPlan<'_>, fields: &Fields<'_, '_>, out: &mut Buffer) {
    if plan.is_upgrade {
        out.extend(&[b"Connection: upgrade\r\n"]);
    } else if takes_trailers(fields) {
        out.extend(&[CONNECTION_TE.as_bytes()]);
    }
}

/// Appends the client's own X-Forwarded-For values, each with a comma after it. Returns the rest of
/// `client`, which begins with the client's address and follows them.
#[cold]
fn encode_forwarders<'a>(fields: &Fields<'_, '_>, client: &'a str, out: &mut Buffer) -> &'a str {
    out.extend(&[FORWARDED_FOR.as_bytes()]);
    for value in fields.values(Name::XForwardedFor).filter(|value| !value.is_empty()) {
        out.extend(&[value, b", "]);
    }
    client.strip_prefix(FORWARDED_FOR).unwrap_or(client)
}

/// Returns the fields about a client whose request names no host.
#[cold]
fn without_forwarded_host(client: &str) -> &str {
    client.strip_suffix(FORWARDED_HOST).unwrap_or(client)
}

#[cold]
fn encode_max_forwards(max: u64, out: &mut Buffer) {
    out.extend(&[format!("Max-Forwards: {max}\r\n").as_bytes()]);
}

#[cold]
fn encode_chunked(out: &mut Buffer) {
    out.extend(&[b"Transfer-Encoding: chunked\r\n"]);
}

/// Appends a request line that differs from the client's. Returns the rest of the line, which the
/// caller appends.
#[cold]
fn encode_line(method: &str, path: &[u8], out: &mut Buffer) -> &'static [u8] {
    let begins = path.first().is_some_and(|byte| b"/*".contains(byte));
    let between: &[u8] = if begins { b" " } else { b" /" };
    out.extend(&[method.as_bytes(), between, path]);
    b" HTTP/1.1\r\n"
}

/// The framing of a response's body for the client, and whether the connection stays open.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct ResponsePlan {
    /// Whether the body is written in chunks.
    pub(crate) is_chunked: bool,
    /// Treatment of Content-Length.
    pub(crate) length: LengthField,
    /// Value of Connection for the client; `None` for the version's default.
    pub(crate) connection: Option<&'static str>,
}

/// Fields that may be removed from a response's head.
const DROPPED: u32 = Name::Connection.bit()
    | Name::Http2Settings.bit()
    | Name::KeepAlive.bit()
    | Name::Lookalike.bit()
    | Name::Nominated.bit()
    | Name::ProxyConnection.bit()
    | Name::Te.bit()
    | Name::TransferEncoding.bit()
    | Name::Upgrade.bit();

/// Whether a response's head is forwarded unchanged, without encoding. Usually it is.
pub(crate) fn is_verbatim(head: &ResponseHead<'_, '_>, plan: &ResponsePlan) -> bool {
    head.version == Version::Http11
        && head.reason.is_some()
        && !plan.is_chunked
        && plan.length == LengthField::AsItCame
        && plan.connection.is_none()
        && !matches!(head.status, 100..=199 | 204)
        && !head.fields.has_any(DROPPED)
}

/// Whether a final response lacks a Date (RFC 9110 section 6.6.1).
pub(crate) const fn lacks_date(head: &ResponseHead<'_, '_>) -> bool {
    head.status >= 200 && !head.fields.has(Name::Date)
}

/// Returns the length of a response's status line, with its CRLF.
pub(crate) const fn status_line_len(head: &ResponseHead<'_, '_>) -> usize {
    head.fields.first_line_len()
}

/// Appends the forwarded head of a response to `out`, with the lines of `added`, and without the
/// fields whose names are in `replaced`.
#[inline(never)]
pub(crate) fn encode_response(
    head: &ResponseHead<'_, '_>,
    plan: &ResponsePlan,
    added: &str,
    replaced: &[&str],
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(b"HTTP/1.1 ");
    let digit = |unit: u16| b'0' + u8::try_from(head.status / unit % 10).unwrap_or_default();
    out.extend_from_slice(&[digit(100), digit(10), digit(1), b' ']);
    out.extend_from_slice(head.reason.unwrap_or_default());
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(added.as_bytes());
    // RFC 9110 section 8.6 forbids a length in these responses.
    let may_have_length = !matches!(head.status, 100..=199 | 204);
    let keeps_length = may_have_length && plan.length == LengthField::AsItCame;
    let keeps_upgrade = keeps_upgrade(head);
    let keeps = |name| match name {
        Name::ContentLength => keeps_length,
        Name::Upgrade => keeps_upgrade,
        // Request fields have no special meaning in a response.
        Name::Other
        | Name::Authorization
        | Name::Date
        | Name::Via
        | Name::Expect
        | Name::Host
        | Name::MaxForwards => true,
        Name::Forwarded | Name::XForwardedFor | Name::XForwardedHost => true,
        Name::XForwardedPort | Name::XForwardedProto | Name::XRealIp => true,
        _ => false,
    };
    if replaced.is_empty() {
        head.fields.write_kept(keeps, |run| out.extend_from_slice(run));
    } else {
        head.fields.write_kept_but(replaced, keeps, |line| out.extend_from_slice(line));
    }
    if let LengthField::Rewritten(Some(length)) = plan.length
        && may_have_length
    {
        debug_assert!(!plan.is_chunked, "a body has one framing");
        out.extend_from_slice(format!("Content-Length: {length}\r\n").as_bytes());
    }
    if plan.is_chunked {
        out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
    }
    let names_upgrade = if keeps_upgrade { Some("upgrade") } else { None };
    let mut separator = "Connection: ";
    for option in plan.connection.into_iter().chain(names_upgrade) {
        out.extend_from_slice(separator.as_bytes());
        out.extend_from_slice(option.as_bytes());
        separator = ", ";
    }
    if separator == ", " {
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// Whether the Upgrade of a response is forwarded: it names the new protocol of a 101, or the one
/// that a 426 requires (RFC 9110 section 15.5.22). In other responses it is an offer of the backend
/// for one hop only.
fn keeps_upgrade(head: &ResponseHead<'_, '_>) -> bool {
    matches!(head.status, 101 | 426) && head.fields.has(Name::Upgrade)
}

/// Whether the sender of `fields` reads trailer fields (RFC 9110 section 10.1.4).
pub(crate) fn takes_trailers(fields: &Fields<'_, '_>) -> bool {
    fields.has(Name::Te) && names_trailers(fields)
}

#[cold]
fn names_trailers(fields: &Fields<'_, '_>) -> bool {
    let is_trailers = |coding: &[u8]| coding.eq_ignore_ascii_case(b"trailers");
    fields.values(Name::Te).flat_map(tokens).any(is_trailers)
}
