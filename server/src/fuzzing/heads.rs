//! The fuzz targets for heads. The codec reads each head whole and piece by piece. Its results are
//! compared with those of httparse and of the second reader (`strict.rs`). Forwarded heads are read
//! again.
use std::net::Ipv4Addr;

use super::strict::{self, Extent, Head, Verdict};
use crate::buffer::Buffer;
use crate::http::field::{Fields, Name, Slots};
use crate::http::forward::{
    self, HostLine, RequestContext, RequestEnds, RequestPlan, ResponsePlan, client_fields,
};
use crate::http::framing::{Framing, request_framing, response_framing};
use crate::http::head::{HeadLimits, Parsed, Version, parse_request, parse_response};
use crate::http::persistence::is_persistent;
use crate::http::target::{KnownHost, destination};
use crate::http::{ClientError, UpstreamError, upgrade};

const USUAL: HeadLimits =
    HeadLimits { head_bytes_max: 32 * 1024, target_bytes_max: 16 * 1024, fields_max: 128 };
/// Small limits, so that short inputs reach each of them.
const NARROW: HeadLimits = HeadLimits { head_bytes_max: 128, target_bytes_max: 64, fields_max: 8 };
/// Inputs up to this length are also parsed byte by byte. Longer ones are parsed in pieces, because
/// the work is quadratic.
const BYTEWISE_MAX: usize = 512;

type Seen = Vec<(Vec<u8>, Vec<u8>)>;

/// Parses any bytes as a request's head.
///
/// # Panics
/// If an accepted head is read differently by another reader, or by the same one piece by piece.
pub fn request_head(data: &[u8]) {
    for limits in [&USUAL, &NARROW] {
        let whole = read_request(data, limits);
        let pieces = by_pieces(data, |input| read_request(input, limits));
        match (&whole, &pieces) {
            // With pieces, an exceeded limit or a bare line feed is found before a fault after it.
            (Err(_), Err(error)) if is_early(*error) => {}
            // A bare line feed is searched for before anything is parsed. With pieces, the bytes
            // before it may be parsed and refused before it arrives.
            (Err(ClientError::BareLineFeed), Err(_)) => {}
            _ => assert_eq!(whole, pieces, "pieces make no difference"),
        }
        if let Ok(Some(read)) = &whole {
            agrees_with_httparse(data, read);
        }
    }
    let mut slots = Slots::new();
    let Ok(Parsed::Complete(head)) = parse_request(data, &mut slots, &USUAL) else { return };
    let Ok(destination) = destination(&head, &mut KnownHost::default()) else { return };
    let Ok(framing) = request_framing(&head) else { return };

    // The second reader must accept the same message.
    let Verdict::Whole(other) = strict::request(data) else {
        panic!("accepted, but not a request to a strict reader: {:?}", strict::request(data))
    };
    assert_eq!(other.len, head.len, "both heads end at the same byte");
    assert_eq!(other.line[0], head.method.as_bytes(), "one method");
    assert_eq!(other.line[1], head.target, "one target");
    assert_eq!(other.fields, seen(&head.fields), "the same fields");
    assert_eq!(other.request_extent(), Ok(extent(framing)), "one framing");

    let authority = b"backend:80";
    let host_line = HostLine::new("backend:80");
    let client = client_fields(Ipv4Addr::new(192, 0, 2, 1).into());
    let ends = RequestEnds::new("v");
    for (keeps_host, allows_upgrade, is_trusted) in
        [(false, false, false), (true, true, false), (true, false, true)]
    {
        let is_upgrade = allows_upgrade && upgrade::is_asked(&head);
        let plan = RequestPlan { destination, framing, is_upgrade, max_forwards: None };
        let context = RequestContext {
            host_line: &host_line,
            keeps_host,
            is_trusted,
            client: &client,
            ends: &ends,
            added: &[],
        };
        let mut out = Buffer::holding(b"before".to_vec());
        let host = forward::encode_request(&head, &plan, &context, &mut out);
        let out = &out.bytes()["before".len()..];
        let len_max = forward::request_len_max(&head, &plan, &context);
        assert!(out.len() <= len_max, "{} bytes, at most {len_max} were expected", out.len());
        let Verdict::Whole(sent) = strict::request(out) else {
            panic!("forwarded, but not a request: {:?}", out.escape_ascii().to_string())
        };
        assert_eq!(sent.len, out.len(), "only the head is sent");
        assert_eq!(sent.line[0], other.line[0], "the method is forwarded unchanged");
        assert_eq!(
            sent.line[1],
            forwarded_target(&other),
            "the target is forwarded in origin form"
        );
        assert_eq!(sent.line[2], b"HTTP/1.1", "the version is the proxy's own");
        assert_eq!(sent.request_extent(), other.request_extent(), "the framing is kept");
        let hosts: Vec<&[u8]> = sent.values("Host").collect();
        let expected = if keeps_host && !destination.host.is_empty() {
            destination.host
        } else {
            &authority[..]
        };
        assert_eq!(hosts, [expected], "one Host, with the expected value");
        assert_eq!(&out[host], expected, "the range is the Host's value");
        carries_nothing_else(&sent, &other, is_upgrade, is_trusted);
    }
}

/// Parses any bytes as a response's head.
///
/// # Panics
/// If an accepted head is read differently by another reader, or by the same one piece by piece.
pub fn response_head(data: &[u8]) {
    for limits in [&USUAL, &NARROW] {
        let whole = read_response(data, limits);
        let pieces = by_pieces(data, |input| read_response(input, limits));
        match (&whole, &pieces) {
            (
                Err(_),
                Err(
                    UpstreamError::HeadTooLarge
                    | UpstreamError::TooManyFields
                    | UpstreamError::MalformedHead,
                ),
            ) => {}
            _ => assert_eq!(whole, pieces, "pieces make no difference"),
        }
        if let Ok(Some(read)) = &whole {
            let mut slots = [httparse::EMPTY_HEADER; 128];
            let mut response = httparse::Response::new(&mut slots);
            let parsed = response.parse(data);
            assert_eq!(parsed, Ok(httparse::Status::Complete(read.len)), "httparse accepts it");
            assert_eq!(plain(response.headers), read.fields, "with the same fields");
        }
    }
    let mut slots = Slots::new();
    let Ok(Parsed::Complete(head)) = parse_response(data, &mut slots, &USUAL) else { return };
    let Verdict::Whole(other) = strict::response(data) else {
        panic!("accepted, but not a response to a strict reader: {:?}", strict::response(data))
    };
    assert_eq!(other.len, head.len, "both heads end at the same byte");
    assert_eq!(other.line[1], head.status.to_string().into_bytes(), "one status");
    assert_eq!(other.line[2], head.reason.unwrap_or_default(), "one reason phrase");
    assert_eq!(other.fields, seen(&head.fields), "the same fields");
    let _ = is_persistent(head.version, &head.fields);
    let _ = upgrade::is_granted(&head, b"websocket, other/2");
    for is_head_request in [false, true] {
        let Ok((framing, length)) = response_framing(&head, is_head_request) else { continue };
        let expected = other.response_extent(is_head_request);
        assert_eq!(expected, Ok(extent(framing)), "one framing");
        for (is_old, connection) in [(false, None), (false, Some("close")), (true, Some("close"))] {
            let has_mark = matches!(framing, Framing::Chunked | Framing::UntilClose);
            let plan = ResponsePlan { is_chunked: has_mark && !is_old, length, connection };
            let mut out = Vec::new();
            forward::encode_response(&head, &plan, "", &[], &mut out);
            let Verdict::Whole(sent) = strict::response(&out) else {
                panic!("forwarded, but not a response: {:?}", out.escape_ascii().to_string())
            };
            if forward::is_verbatim(&head, &plan) {
                assert_eq!(out, data[..head.len], "encoded again, it is the same head");
            }
            assert_eq!(sent.len, out.len(), "only the head is sent");
            assert_eq!(
                sent.line[1..],
                other.line[1..],
                "status and reason are forwarded unchanged"
            );
            let expected = match framing {
                Framing::Chunked | Framing::UntilClose if is_old => Extent::UntilClose,
                Framing::Chunked | Framing::UntilClose => Extent::Chunked,
                framing => extent(framing),
            };
            assert_eq!(sent.response_extent(is_head_request), Ok(expected), "framed as planned");
            assert!(sent.values("Content-Length").count() <= 1, "one length is forwarded");
            let options: Vec<&[u8]> = sent.values("Connection").collect();
            let has_upgrade = other.values("Upgrade").count() > 0;
            let names_upgrade = has_upgrade && matches!(head.status, 101 | 426);
            let expected =
                Vec::from_iter(connection.into_iter().chain(names_upgrade.then_some("upgrade")));
            let expected = Some(expected.join(", ")).filter(|options| !options.is_empty());
            let expected = expected.as_deref().map(str::as_bytes);
            assert_eq!(options, Vec::from_iter(expected), "the proxy's own Connection");
            for name in ["Keep-Alive", "Proxy-Connection", "TE", "Trailer_Encoding"] {
                assert_eq!(sent.values(name).count(), 0, "{name} is for one hop");
            }
        }
    }
}

/// The result of a parse, without borrowed parts.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Read {
    line: Vec<u8>,
    is_old: bool,
    fields: Seen,
    len: usize,
}

fn read_request(input: &[u8], limits: &HeadLimits) -> Result<Option<Read>, ClientError> {
    let mut slots = Slots::new();
    Ok(match parse_request(input, &mut slots, limits)? {
        Parsed::Partial => None,
        Parsed::Complete(head) => Some(Read {
            line: [head.method.as_bytes(), b" ", head.target].concat(),
            is_old: head.version == Version::Http10,
            fields: seen(&head.fields),
            len: head.len,
        }),
    })
}

fn read_response(input: &[u8], limits: &HeadLimits) -> Result<Option<Read>, UpstreamError> {
    let mut slots = Slots::new();
    Ok(match parse_response(input, &mut slots, limits)? {
        Parsed::Partial => None,
        Parsed::Complete(head) => Some(Read {
            line: [head.status.to_string().as_bytes(), b" ", head.reason.unwrap_or_default()]
                .concat(),
            is_old: head.version == Version::Http10,
            fields: seen(&head.fields),
            len: head.len,
        }),
    })
}

/// Reads the input while it grows piece by piece. Returns the first head or error.
fn by_pieces<T, E>(
    data: &[u8],
    read: impl Fn(&[u8]) -> Result<Option<T>, E>,
) -> Result<Option<T>, E> {
    let step = if data.len() <= BYTEWISE_MAX { 1 } else { 61 + data.len() / 64 };
    for end in (0..data.len()).step_by(step) {
        if let Some(head) = read(&data[..end])? {
            return Ok(Some(head));
        }
    }
    read(data)
}

/// Returns whether an error may be found before the error of the whole input.
const fn is_early(error: ClientError) -> bool {
    matches!(
        error,
        ClientError::BareLineFeed
            | ClientError::HeadTooLarge
            | ClientError::TargetTooLong
            | ClientError::TooManyFields
    )
}

fn agrees_with_httparse(data: &[u8], read: &Read) {
    let mut slots = [httparse::EMPTY_HEADER; 128];
    let mut request = httparse::Request::new(&mut slots);
    let parsed = request.parse(data);
    if std::str::from_utf8(&read.line).is_err() {
        return assert_eq!(parsed, Err(httparse::Error::Token), "httparse takes UTF-8 only");
    }
    assert_eq!(parsed, Ok(httparse::Status::Complete(read.len)), "httparse accepts the head");
    let line = [request.method.unwrap_or_default(), " ", request.path.unwrap_or_default()].concat();
    assert_eq!(line.into_bytes(), read.line, "the same line");
    assert_eq!(request.version == Some(0), read.is_old, "the same version");
    assert_eq!(plain(request.headers), read.fields, "the same fields");
}

fn plain(headers: &[httparse::Header<'_>]) -> Seen {
    headers.iter().map(|header| (header.name.as_bytes().to_vec(), header.value.to_vec())).collect()
}

fn seen(fields: &Fields<'_, '_>) -> Seen {
    fields.iter().map(|(name, _, value)| (name.as_bytes().to_vec(), value.to_vec())).collect()
}

const fn extent(framing: Framing) -> Extent {
    match framing {
        Framing::None => Extent::Length(0),
        Framing::Length(length) => Extent::Length(length),
        Framing::Chunked => Extent::Chunked,
        Framing::UntilClose => Extent::UntilClose,
    }
}

/// Returns the target in origin form, derived from the received one.
pub fn forwarded_target(head: &Head) -> Vec<u8> {
    let target = &head.line[1];
    if target.starts_with(b"/") || target == b"*" {
        return target.clone();
    }
    let begin = target.windows(3).position(|bytes| bytes == b"://").map_or(0, |at| at + 3);
    let rest = &target[begin..];
    match rest.iter().position(|byte| matches!(byte, b'/' | b'?')) {
        Some(start) if rest[start] == b'/' => rest[start..].to_vec(),
        Some(start) => [b"/", &rest[start..]].concat(),
        None if head.line[0] == b"OPTIONS" => b"*".to_vec(),
        None => b"/".to_vec(),
    }
}

/// Checks that every forwarded field is the proxy's own or unchanged, and that none is hop-by-hop.
fn carries_nothing_else(sent: &Head, came: &Head, is_upgrade: bool, is_trusted: bool) {
    for (name, value) in &sent.fields {
        let known = String::from_utf8_lossy(name).to_ascii_lowercase();
        let is_known = match known.as_str() {
            "host" | "x-forwarded-host" => true,
            "x-forwarded-for" => value.ends_with(b"192.0.2.1"),
            "x-forwarded-proto" if is_trusted => {
                value.starts_with(b"http") || came_so(came, name, value)
            }
            "x-forwarded-proto" => value == b"http",
            "forwarded" | "x-forwarded-port" if !is_trusted => false,
            "via" => value == b"1.0 v" || value == b"1.1 v" || came_so(came, name, value),
            "transfer-encoding" => value == b"chunked",
            "connection" if is_upgrade => value == b"upgrade",
            "connection" => value == b"te",
            "te" => value == b"trailers",
            "upgrade" => is_upgrade && came_so(came, name, value),
            "keep-alive" | "proxy-connection" | "http2-settings" => false,
            // Gateways to CGI would read it as another field.
            _ if known.contains('_') && is_framing(&known) => false,
            _ => came_so(came, name, value),
        };
        assert!(is_known, "{known} is forwarded as {:?}", value.escape_ascii().to_string());
    }
    if !is_trusted {
        assert!(sent.values("X-Forwarded-Proto").count() <= 1, "X-Forwarded-Proto is not repeated");
    }
    for name in ["X-Forwarded-For", "Transfer-Encoding", "Connection"] {
        assert!(sent.values(name).count() <= 1, "{name} is not repeated");
    }
}

fn came_so(came: &Head, name: &[u8], value: &[u8]) -> bool {
    came.fields.iter().any(|field| field.0 == name && field.1 == value)
}

fn is_framing(name: &str) -> bool {
    let name = name.replace('_', "-");
    Name::of(name.as_bytes()) != Name::Other
}
