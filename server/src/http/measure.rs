//! Single steps of the codec, for benchmarks without a connection.
use std::net::Ipv4Addr;

use super::chunked::{ChunkLimits, ChunkedReader};
use super::field::Slots;
use super::forward::{
    HostLine, RequestContext, RequestEnds, RequestPlan, ResponsePlan, client_fields,
    encode_request, encode_response, request_len_max,
};
use super::framing::{request_framing, response_framing};
use super::head::{HeadLimits, Parsed, parse_request, parse_response};
use super::target::{KnownHost, destination};
use crate::buffer::BufferPool;

const LIMITS: HeadLimits =
    HeadLimits { head_bytes_max: 32 * 1024, target_bytes_max: 16 * 1024, fields_max: 128 };
const CHUNKS: ChunkLimits =
    ChunkLimits { extension_bytes_max: 1024, trailer_bytes_max: 8 * 1024, fields_max: 128 };

/// Texts and buffers for writing the heads of forwarded requests.
#[derive(Debug)]
pub struct Encoder {
    host_line: HostLine,
    client: String,
    ends: RequestEnds,
    buffers: BufferPool,
}

impl Encoder {
    /// `name` is the proxy's name in Via.
    pub fn new(name: &str) -> Self {
        Self {
            host_line: HostLine::new("127.0.0.1:3000"),
            client: client_fields(Ipv4Addr::LOCALHOST.into()),
            ends: RequestEnds::new(name),
            buffers: BufferPool::default(),
        }
    }
}

/// Parses a request's head, decides its framing and writes the forwarded head. Returns its length,
/// or `None` if the head is incomplete or invalid.
pub fn request_head(input: &[u8], encoder: &mut Encoder) -> Option<usize> {
    let Encoder { host_line, client, ends, buffers } = encoder;
    let mut slots = Slots::new();
    let Ok(Parsed::Complete(head)) = parse_request(input, &mut slots, &LIMITS) else { return None };
    let destination = destination(&head, &mut KnownHost::default()).ok()?;
    let framing = request_framing(&head).ok()?;
    let plan = RequestPlan { destination, framing, is_upgrade: false, max_forwards: None };
    let context =
        RequestContext { host_line, keeps_host: true, is_trusted: false, client, ends, added: &[] };
    let mut out = buffers.take_for_head(request_len_max(&head, &plan, &context));
    encode_request(&head, &plan, &context, &mut out);
    let len = out.len();
    buffers.give(out);
    Some(len)
}

/// Parses a response's head, decides its framing and writes the forwarded head into `out`. Returns
/// its length, or `None` if the head is incomplete or invalid.
pub fn response_head(input: &[u8], out: &mut Vec<u8>) -> Option<usize> {
    let mut slots = Slots::new();
    let Ok(Parsed::Complete(head)) = parse_response(input, &mut slots, &LIMITS) else {
        return None;
    };
    let (_, length) = response_framing(&head, false).ok()?;
    out.clear();
    encode_response(
        &head,
        &ResponsePlan { is_chunked: false, length, connection: None },
        "",
        &[],
        out,
    );
    Some(out.len())
}

/// Reads a complete chunked body. Returns the number of its data bytes, or `None` if it is
/// incomplete or invalid.
pub fn chunked(input: &[u8]) -> Option<usize> {
    let mut reader = ChunkedReader::new(CHUNKS);
    let (mut at, mut data) = (0, 0);
    loop {
        let piece = reader.read(&input[at..], usize::MAX).ok()?;
        at += piece.consumed;
        data += piece.data.len();
        if piece.is_end {
            return Some(data);
        }
        if piece.consumed == 0 {
            return None;
        }
    }
}
