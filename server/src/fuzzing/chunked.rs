//! The fuzz target for chunked bodies. The codec reads each body whole and piece by piece, and
//! relays it. Its results are compared with those of the second reader (`strict.rs`). Encoded
//! bodies are decoded again.
use super::Source;
use super::strict::{self, Extent, Verdict};
use crate::buffer::{BufferPool, Outbox};
use crate::http::ChunkError;
use crate::http::body::{self, BodyReader, BodyWriter, relay};
use crate::http::chunked::{ChunkLimits, ChunkedReader, Trailer};
use crate::http::field::Name;
use crate::http::framing::Framing;

const USUAL: ChunkLimits =
    ChunkLimits { extension_bytes_max: 1024, trailer_bytes_max: 8 * 1024, fields_max: 128 };
/// Small limits, so that short inputs reach each of them.
const NARROW: ChunkLimits =
    ChunkLimits { extension_bytes_max: 8, trailer_bytes_max: 24, fields_max: 2 };

/// The input is three bytes for the sizes of pieces, then bytes that are used twice: as a chunked
/// body, and as the data of one.
///
/// # Panics
/// If the two readers differ, if the result depends on the pieces, or if the relay changes a body.
pub fn chunked(data: &[u8]) {
    let mut source = Source::new(data);
    let step = 1 + usize::from(source.byte());
    let drain = 1 + usize::from(source.byte());
    let data_max = 1 + usize::from(source.byte());
    let wire = source.rest;
    for limits in [USUAL, NARROW] {
        let whole = decode(wire, limits, wire.len().max(1), usize::MAX);
        assert_eq!(whole, decode(wire, limits, 1, usize::MAX), "byte by byte");
        assert_eq!(whole, decode(wire, limits, step, data_max), "in steps of {step}");
        agrees_with_the_second_reader(wire, &whole);
        for trailer in [Trailer::None, Trailer::All] {
            passes_on(wire, limits, trailer, (step, drain), &whole);
        }
    }
    for writer in [BodyWriter::Chunked { trailer: Trailer::All }, BodyWriter::Plain] {
        carries(wire, writer, step, drain);
    }
}

/// The result of reading a body.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Decoded {
    data: Vec<u8>,
    /// The length of a complete body in the input, bytes; `None` for an incomplete one.
    len: Option<usize>,
    trailer: Vec<u8>,
}

/// Reads `wire` in steps of `step` bytes, with at most `data_max` bytes of data at a time.
fn decode(
    wire: &[u8],
    limits: ChunkLimits,
    step: usize,
    data_max: usize,
) -> Result<Decoded, ChunkError> {
    let mut reader = ChunkedReader::new(limits);
    let (mut data, mut at, mut seen) = (Vec::new(), 0, 0);
    loop {
        seen = (seen + step).min(wire.len());
        loop {
            let input = &wire[at..seen];
            let piece = reader.read(input, data_max)?;
            assert!(piece.consumed <= input.len(), "no more is consumed than there is");
            assert!(piece.data.end <= piece.consumed, "data is consumed");
            assert!(piece.data.len() <= data_max, "no more data than asked for");
            data.extend_from_slice(&input[piece.data.clone()]);
            at += piece.consumed;
            if piece.is_end {
                let again = reader.read(b"0", data_max)?;
                assert!(again.is_end && again.consumed == 0, "the end is terminal");
                return Ok(Decoded {
                    data,
                    len: Some(at),
                    trailer: reader.forwarded_trailer(Trailer::All),
                });
            }
            if piece.consumed == 0 {
                break;
            }
        }
        if seen == wire.len() {
            return Ok(Decoded { data, len: None, trailer: Vec::new() });
        }
    }
}

fn agrees_with_the_second_reader(wire: &[u8], ours: &Result<Decoded, ChunkError>) {
    let theirs = strict::chunks(wire);
    match (ours, &theirs) {
        (Ok(Decoded { data, len: Some(len), trailer }), Verdict::Whole(body)) => {
            assert_eq!((data, *len), (&body.data, body.len), "the same body");
            let Verdict::Whole(passed) =
                strict::chunks(&[b"0\r\n", &trailer[..], b"\r\n"].concat())
            else {
                panic!("a forwarded trailer section is valid")
            };
            for (name, value) in &passed.trailer {
                assert!(
                    body.trailer.contains(&(name.clone(), value.clone())),
                    "the field came like this"
                );
                assert_eq!(
                    Name::of(name),
                    Name::Other,
                    "the field has no part in framing or routing"
                );
            }
        }
        (Ok(Decoded { len: None, .. }), Verdict::More) => {}
        // The second reader reports a fault in a trailer section earlier than the codec.
        (
            Ok(Decoded { len: None, .. }),
            Verdict::Wrong("control byte or line end" | "trailer field"),
        ) => {}
        // The codec may report a fault earlier: it reads byte by byte, the second reader whole
        // lines.
        (Err(_), Verdict::More | Verdict::Wrong(_)) => {}
        // The second reader does not have these limits.
        (
            Err(
                ChunkError::ExtensionTooLong
                | ChunkError::TrailerTooLarge
                | ChunkError::SizeOverflow,
            ),
            Verdict::Whole(_),
        ) => {}
        (ours, theirs) => panic!("{ours:?}, and the second reader says {theirs:?}"),
    }
}

/// Relays a chunked body in chunks and without them. The output has the same data, and the same end
/// or error as a read of the body.
fn passes_on(
    wire: &[u8],
    limits: ChunkLimits,
    trailer: Trailer,
    (step, drain): (usize, usize),
    expected: &Result<Decoded, ChunkError>,
) {
    let reader = || BodyReader::Chunked(ChunkedReader::new(limits));
    let is_forwarded = trailer == Trailer::All;
    let passed = run(reader(), BodyWriter::Chunked { trailer }, wire, step, drain);
    let plain = run(reader(), BodyWriter::Plain, wire, step, drain);
    match expected {
        Ok(Decoded { data, len: Some(_), trailer }) => {
            let (Ok(passed), Ok(plain)) = (passed, plain) else { panic!("a whole body goes on") };
            assert!(passed.is_end && plain.is_end, "a whole body goes on whole");
            let passed = passed.written;
            assert_eq!(&plain.written, data, "a body without its framing is its data");
            let Verdict::Whole(body) = strict::chunks(&passed) else {
                panic!("a forwarded body is a chunked body")
            };
            assert_eq!((&body.data, body.len), (data, passed.len()), "the same, and all of it");
            let lines = trailer.iter().filter(|&&byte| byte == b'\n').count();
            assert_eq!(body.trailer.len(), if is_forwarded { lines } else { 0 }, "trailers");
        }
        Ok(Decoded { len: None, .. }) => {
            let (Ok(passed), Ok(plain)) = (passed, plain) else {
                panic!("the received part goes on")
            };
            assert!(!passed.is_end && !plain.is_end, "a body that was cut has no end");
            assert_eq!(
                strict::chunks(&passed.written),
                Verdict::More,
                "its forwarded part has no end"
            );
        }
        Err(error) => {
            assert_eq!(passed.err(), Some(*error), "the same error");
            assert_eq!(plain.err(), Some(*error), "the same error");
        }
    }
}

/// Relays `data` as a body of known length and as one until close. All of it arrives.
fn carries(data: &[u8], writer: BodyWriter, step: usize, drain: usize) {
    let limits = USUAL;
    let mut framings = vec![Framing::UntilClose];
    if writer == BodyWriter::Plain && !data.is_empty() {
        framings.push(Framing::Length(data.len() as u64));
    }
    for framing in framings {
        let Some(reader) = BodyReader::new(framing, limits) else { continue };
        let Ok(Relayed { written: out, is_end: true }) = run(reader, writer, data, step, drain)
        else {
            panic!("plain bytes are never malformed, and they end")
        };
        let arrived = match writer {
            BodyWriter::Plain => out,
            BodyWriter::Chunked { .. } => {
                let ours = decode(&out, limits, out.len(), usize::MAX);
                let Verdict::Whole(body) = strict::body(&out, Extent::Chunked, false) else {
                    panic!("an encoded body decodes")
                };
                assert_eq!(ours.map(|ours| ours.data), Ok(body.data.clone()), "both readers agree");
                assert_eq!(body.len, out.len(), "nothing follows the end");
                body.data
            }
        };
        assert_eq!(arrived, data, "decode(encode(x)) = x");
    }
}

/// The part of a body that a peer accepted, and whether it ended.
struct Relayed {
    written: Vec<u8>,
    is_end: bool,
}

/// Relays `wire`, which arrives in steps of `step` bytes, to a peer that accepts `drain` bytes at a
/// time.
fn run(
    mut reader: BodyReader,
    writer: BodyWriter,
    wire: &[u8],
    step: usize,
    drain: usize,
) -> Result<Relayed, ChunkError> {
    let mut pool = BufferPool::default();
    let (mut input, mut output, mut written) = (None, Outbox::default(), Vec::new());
    let (mut at, mut is_end) = (0, false);
    let result = loop {
        let mut has_moved = false;
        if at < wire.len() && !is_end {
            let space = pool.read_space(&mut input);
            let count = step.min(wire.len() - at).min(space.len());
            space[..count].copy_from_slice(&wire[at..at + count]);
            if let Some(buffer) = &mut input {
                buffer.filled(count);
            }
            at += count;
            has_moved = count > 0;
        }
        if !is_end {
            match relay(&mut reader, writer, &mut input, &mut output, &mut pool) {
                Ok(relayed) => {
                    is_end = relayed.is_end;
                    has_moved |= relayed.data > 0;
                }
                Err(error) => break Err(error),
            }
        }
        pool.shrink(&mut input);
        if at == wire.len() && !is_end && reader.ends_at_close() && input.is_none() {
            is_end = body::finish(writer, &mut output, &mut pool);
        }
        let count = drain.min(output.pending().len());
        written.extend_from_slice(&output.pending()[..count]);
        output.written(count, &mut pool);
        has_moved |= count > 0;
        if output.is_empty() && (is_end || (at == wire.len() && !has_moved)) {
            break Ok(Relayed { written, is_end });
        }
    };
    if let Some(buffer) = input.take() {
        pool.give(buffer);
    }
    output.clear(&mut pool);
    assert_eq!(pool.lent(), 0, "every buffer comes back");
    result
}
