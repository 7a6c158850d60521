//! Forwards bodies: reads data in one framing and writes it in another. Whole buffers are moved
//! where that is possible; otherwise the data is copied.
//!
//! `framing.rs` decides the framing of a body, `chunked.rs` parses chunks.
//!
//! The layout hints are explained in `http/mod.rs`.
use std::sync::Arc;

use super::chunked::{ChunkLimits, ChunkedReader, Piece, Trailer};
use super::error::ChunkError;
use super::framing::Framing;
use crate::buffer::{Buffer, BufferPool, LARGE, Outbox, SMALL};

/// State of reading the current body.
#[derive(Debug)]
pub(crate) enum BodyReader {
    /// `left` bytes remain. `None`: the body ends with the connection (until close, tunnels).
    Plain {
        left: Option<u64>,
    },
    Chunked(ChunkedReader),
}

/// Form in which a body is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum BodyWriter {
    /// The data alone. It ends at the length given in the head, or with the connection.
    Plain,
    /// In chunks, with these trailer fields after them.
    Chunked { trailer: Trailer },
}

/// Progress of one call of [`relay`].
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Relayed {
    /// Bytes of the body's data that were moved.
    pub(crate) data: u64,
    /// Bytes of a chunked body that were consumed, framing and data together.
    pub(crate) parsed: usize,
    /// Whether the body is complete and its end is written.
    pub(crate) is_end: bool,
}

impl BodyReader {
    /// Returns the reader for `framing`; `None` for an empty body.
    pub(crate) const fn new(framing: Framing, limits: ChunkLimits) -> Option<Self> {
        match framing {
            Framing::None | Framing::Length(0) => None,
            Framing::Length(length) => Some(Self::Plain { left: Some(length) }),
            Framing::UntilClose => Some(Self::Plain { left: None }),
            Framing::Chunked => Some(Self::Chunked(ChunkedReader::new(limits))),
        }
    }

    /// Excludes trailer fields with these names from those that are forwarded.
    #[cold]
    pub(crate) fn refuse_trailer(&mut self, names: &Arc<Vec<String>>) {
        if let Self::Chunked(reader) = self {
            reader.refuse_trailer(Arc::clone(names));
        }
    }

    /// Whether a chunked body was read to its end. The end may still wait to be written.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self, Self::Chunked(reader) if reader.is_over())
    }

    /// Whether the body ends with the connection.
    pub(crate) const fn ends_at_close(&self) -> bool {
        matches!(self, Self::Plain { left: None })
    }
}

/// Maximum bytes of a chunk in addition to its data: 16 digits and two CRLF.
const CHUNK_OVERHEAD: usize = 20;
/// The end of a chunked body without trailer fields.
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Moves body bytes from `input` to `output` as far as there is room.
///
/// # Errors
/// The fault of a chunked body; data before it has been moved.
pub(crate) fn relay(
    reader: &mut BodyReader,
    writer: BodyWriter,
    input: &mut Option<Buffer>,
    output: &mut Outbox,
    pool: &mut BufferPool,
) -> Result<Relayed, ChunkError> {
    match (reader, writer) {
        (BodyReader::Plain { left }, BodyWriter::Plain) => {
            Ok(relay_plain(left, input, output, pool))
        }
        (BodyReader::Plain { .. }, BodyWriter::Chunked { .. }) => {
            Ok(relay_into_chunks(input, output, pool))
        }
        (BodyReader::Chunked(reader), writer) => relay_chunked(reader, writer, input, output, pool),
    }
}

/// Writes the end of a body without trailer fields. A plain body needs none.
///
/// Returns false when there is no room now.
pub(crate) fn finish(writer: BodyWriter, output: &mut Outbox, pool: &mut BufferPool) -> bool {
    match writer {
        BodyWriter::Plain => true,
        BodyWriter::Chunked { .. } => {
            let has_room = output.reserve(LAST_CHUNK.len(), 0, pool);
            if has_room {
                output.append(LAST_CHUNK);
            }
            has_room
        }
    }
}

/// Returns the number of bytes of `input` that belong to a body with `left` more bytes.
fn own_len(left: Option<u64>, input: &Option<Buffer>) -> usize {
    let available = input.as_ref().map_or(0, Buffer::len);
    left.map_or(available, |left| usize::try_from(left).unwrap_or(usize::MAX).min(available))
}

fn relay_plain(
    left: &mut Option<u64>,
    input: &mut Option<Buffer>,
    output: &mut Outbox,
    pool: &mut BufferPool,
) -> Relayed {
    let mut moved = 0;
    loop {
        let len = own_len(*left, input);
        let Some(buffer) = input.as_mut().filter(|_| len > 0) else {
            break;
        };
        // `push` would refuse any other buffer. A part of it is copied instead.
        let count = if len == buffer.len() && (output.is_empty() || output.room() >= len) {
            // The body takes the whole buffer, so the buffer itself is moved.
            let Some(buffer) = input.take() else { break };
            if let Err(buffer) = output.push(buffer, pool) {
                *input = Some(buffer);
                break;
            }
            len
        } else {
            if !output.reserve(1, len, pool) {
                break;
            }
            let count = len.min(output.room());
            output.append(&buffer.bytes()[..count]);
            buffer.consume(count);
            count
        };
        moved += count as u64;
        *left = left.map(|left| left - count as u64);
    }
    Relayed { data: moved, parsed: 0, is_end: *left == Some(0) }
}

fn relay_into_chunks(
    input: &mut Option<Buffer>,
    output: &mut Outbox,
    pool: &mut BufferPool,
) -> Relayed {
    let mut moved = 0;
    while let Some(buffer) = input.as_mut().filter(|buffer| !buffer.is_empty()) {
        let len = buffer.len();
        let count = if output.is_empty() && buffer.prepend(&size_line(len)[..]) {
            // Each read leaves room before and after its bytes for this, so no data is copied.
            let fits = buffer.append(b"\r\n");
            debug_assert!(fits, "a read leaves room for a chunk's end");
            let Some(buffer) = input.take() else { break };
            if let Err(mut buffer) = output.push(buffer, pool) {
                // Other output waits. Without its framing the data can be copied in parts.
                buffer.consume(size_line(len).len());
                buffer.truncate(len);
                *input = Some(buffer);
                break;
            }
            len
        } else {
            if !output.reserve(CHUNK_OVERHEAD + 1, len + CHUNK_OVERHEAD, pool) {
                break;
            }
            let count = len.min(output.room() - CHUNK_OVERHEAD);
            append_chunk(output, &buffer.bytes()[..count]);
            buffer.consume(count);
            count
        };
        moved += count as u64;
    }
    Relayed { data: moved, parsed: 0, is_end: false }
}

/// Forwards consecutive chunks as one, limited by the room in `output`.
fn relay_chunked(
    reader: &mut ChunkedReader,
    writer: BodyWriter,
    input: &mut Option<Buffer>,
    output: &mut Outbox,
    pool: &mut BufferPool,
) -> Result<Relayed, ChunkError> {
    let mut relayed = Relayed::default();
    loop {
        let is_free = output.is_empty();
        let data_max = if is_free {
            // Leaves room for the end of the body, so that both leave in one write.
            LARGE - CHUNK_OVERHEAD - LAST_CHUNK.len()
        } else if output.room() > CHUNK_OVERHEAD {
            output.room() - CHUNK_OVERHEAD
        } else {
            break;
        };
        let bytes = input.as_mut().map_or(&mut [][..], Buffer::bytes_mut);
        let (len, (piece, error)) = (bytes.len(), reader.gather(bytes, data_max));
        relayed.data += piece.data.len() as u64;
        relayed.parsed += piece.consumed;
        // Little data is copied, so that no large buffer waits for the peer because of it.
        let is_all = is_free && piece.consumed == len && piece.data.len() > SMALL;
        // With an error, the data before it is valid and goes out first.
        if !(is_all && move_chunk(&piece, writer, input, output, pool)) {
            copy_chunk(&piece, writer, input, output, pool);
        }
        if let Some(error) = error {
            return Err(error);
        }
        if piece.is_end {
            relayed.is_end = write_end(reader, writer, output, pool);
            break;
        }
        if piece.consumed == 0 {
            break;
        }
    }
    output.shrink(pool);
    Ok(relayed)
}

/// Removes the framing from a wholly consumed buffer and moves the buffer. Returns false, without a
/// change, if there is no room for the chunk size before the data.
fn move_chunk(
    piece: &Piece,
    writer: BodyWriter,
    input: &mut Option<Buffer>,
    output: &mut Outbox,
    pool: &mut BufferPool,
) -> bool {
    let Some(mut buffer) = input.take() else { return false };
    let len = piece.data.len();
    let frame = match writer {
        BodyWriter::Plain => [&[][..], &[]],
        BodyWriter::Chunked { .. } => [&size_line(len)[..], b"\r\n"],
    };
    if buffer.room_before() + piece.data.start < frame[0].len() {
        *input = Some(buffer);
        return false;
    }
    buffer.consume(piece.data.start);
    buffer.truncate(len);
    let fits = buffer.prepend(frame[0]) && buffer.append(frame[1]);
    debug_assert!(fits, "a chunk came in more bytes than its data has");
    let pushed = output.push(buffer, pool);
    debug_assert!(pushed.is_ok(), "nothing waits before it");
    true
}

/// Copies the data of a piece to the output, and removes the consumed bytes from the input.
fn copy_chunk(
    piece: &Piece,
    writer: BodyWriter,
    input: &mut Option<Buffer>,
    output: &mut Outbox,
    pool: &mut BufferPool,
) {
    let Some(buffer) = input else { return };
    let data = &buffer.bytes()[piece.data.clone()];
    if !data.is_empty() {
        let needed = data.len() + CHUNK_OVERHEAD;
        let has_room = output.reserve(needed, needed + LAST_CHUNK.len(), pool);
        debug_assert!(has_room, "no more is read than there is room for");
        match writer {
            BodyWriter::Plain => output.append(data),
            BodyWriter::Chunked { .. } => append_chunk(output, data),
        }
    }
    buffer.consume(piece.consumed);
}

/// Writes the last chunk and the permitted trailer fields. Returns false if there is no room now.
fn write_end(
    reader: &ChunkedReader,
    writer: BodyWriter,
    output: &mut Outbox,
    pool: &mut BufferPool,
) -> bool {
    match writer {
        BodyWriter::Chunked { trailer } if trailer != Trailer::None && reader.has_trailer() => {
            // Reserves room for the whole section, so that the permitted lines are selected only
            // once.
            let needed = reader.trailer_len() + LAST_CHUNK.len();
            let has_room = output.reserve(needed, needed, pool);
            if has_room {
                output.append(b"0\r\n");
                output.append(&reader.forwarded_trailer(trailer));
                output.append(b"\r\n");
            }
            has_room
        }
        writer => finish(writer, output, pool),
    }
}

fn append_chunk(output: &mut Outbox, data: &[u8]) {
    output.append(&size_line(data.len()));
    output.append(data);
    output.append(b"\r\n");
}

/// Returns the size line of a chunk (hexadecimal digits, CRLF) without allocating.
fn size_line(len: usize) -> SizeLine {
    let mut line = SizeLine { bytes: *b"0000000000000000\r\n", start: 16 };
    let mut left = len;
    loop {
        line.start -= 1;
        line.bytes[line.start] = b"0123456789abcdef"[left % 16];
        left /= 16;
        if left == 0 {
            return line;
        }
    }
}

struct SizeLine {
    bytes: [u8; 18],
    start: usize,
}

impl std::ops::Deref for SizeLine {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: ChunkLimits =
        ChunkLimits { extension_bytes_max: 100, trailer_bytes_max: 100, fields_max: 8 };

    /// Relays `wire` in pieces of `step` bytes through an outbox that is drained by `drain` bytes
    /// at a time. Returns all written bytes, and the number of input bytes left.
    fn run(
        framing: Framing,
        writer: BodyWriter,
        wire: &[u8],
        step: usize,
        drain: usize,
    ) -> (Vec<u8>, usize) {
        let mut pool = BufferPool::default();
        let mut reader = BodyReader::new(framing, LIMITS).expect("a body");
        let (mut input, mut output, mut written) = (None, Outbox::default(), Vec::new());
        let (mut at, mut is_end) = (0, false);
        for _ in 0..1_000_000 {
            if at < wire.len() && !is_end {
                let space = pool.read_space(&mut input);
                let count = step.min(wire.len() - at).min(space.len());
                space[..count].copy_from_slice(&wire[at..at + count]);
                if let Some(buffer) = &mut input {
                    buffer.filled(count);
                }
                at += count;
            }
            if !is_end {
                is_end = relay(&mut reader, writer, &mut input, &mut output, &mut pool)
                    .expect("a good body")
                    .is_end;
            }
            let is_dry = input.as_ref().is_none_or(Buffer::is_empty);
            if at == wire.len() && !is_end && reader.ends_at_close() && is_dry {
                is_end = finish(writer, &mut output, &mut pool);
            }
            let count = drain.min(output.pending().len());
            written.extend_from_slice(&output.pending()[..count]);
            output.written(count, &mut pool);
            if is_end && output.is_empty() {
                let left = wire.len() - at + input.as_ref().map_or(0, Buffer::len);
                if let Some(buffer) = input {
                    pool.give(buffer);
                }
                assert_eq!(pool.lent(), 0, "every buffer comes back");
                return (written, left);
            }
        }
        panic!("the body never ended");
    }

    /// Tiny chunks that arrive together are forwarded as one, whether their data is moved or
    /// copied. All of their bytes are counted.
    #[test]
    fn chunks_that_came_together_go_on_as_one() {
        for count in [10, 5000] {
            let wire = "1\r\nx\r\n".repeat(count);
            let mut pool = BufferPool::default();
            let mut reader = BodyReader::new(Framing::Chunked, LIMITS).expect("a body");
            let (mut input, mut output) = (None, Outbox::default());
            pool.read_space(&mut input)[..wire.len()].copy_from_slice(wire.as_bytes());
            input.as_mut().expect("a buffer").filled(wire.len());
            let writer = BodyWriter::Chunked { trailer: Trailer::All };
            let relayed = relay(&mut reader, writer, &mut input, &mut output, &mut pool);
            let expected = Relayed { data: count as u64, parsed: wire.len(), is_end: false };
            assert_eq!(relayed, Ok(expected));
            let chunk = format!("{count:x}\r\n{}\r\n", "x".repeat(count));
            assert_eq!(output.pending(), chunk.as_bytes());
        }
    }

    /// Decodes a chunked body without [`ChunkedReader`].
    fn decode(wire: &[u8]) -> Vec<u8> {
        let (mut rest, mut data) = (wire, Vec::new());
        loop {
            let end = rest.windows(2).position(|pair| pair == b"\r\n").expect("a size line");
            let size = std::str::from_utf8(&rest[..end]).expect("digits");
            let size = usize::from_str_radix(size, 16).expect("a size");
            rest = &rest[end + 2..];
            if size == 0 {
                assert_eq!(rest, b"\r\n");
                return data;
            }
            data.extend_from_slice(&rest[..size]);
            assert_eq!(&rest[size..size + 2], b"\r\n");
            rest = &rest[size + 2..];
        }
    }

    /// The data is the same after each of four pairs of framings, for four combinations of piece
    /// and drain size.
    #[test]
    fn data_is_kept() {
        let data: Vec<u8> = (0..200_000_u32).map(|i| (i.wrapping_mul(i) / 7) as u8).collect();
        let mut chunked = Vec::new();
        for piece in data.chunks(7001) {
            chunked.extend_from_slice(format!("{:x};e=1\r\n", piece.len()).as_bytes());
            chunked.extend_from_slice(piece);
            chunked.extend_from_slice(b"\r\n");
        }
        chunked.extend_from_slice(b"0\r\n\r\n");
        let chunks = BodyWriter::Chunked { trailer: Trailer::All };
        for (step, drain) in [(1 << 20, 1 << 20), (997, 1 << 20), (1 << 20, 991), (1400, 800)] {
            let plain = Framing::Length(data.len() as u64);
            let (out, left) =
                run(plain, BodyWriter::Plain, &[&data[..], b"next"].concat(), step, drain);
            assert_eq!((out.len(), out == data), (data.len(), true), "{step} {drain}");
            assert!(left <= 4);
            let (out, _) = run(Framing::Chunked, BodyWriter::Plain, &chunked, step, drain);
            assert!(out == data, "{step} {drain}");
            let (out, _) = run(Framing::Chunked, chunks, &chunked, step, drain);
            assert!(decode(&out) == data, "{step} {drain}");
            let (out, _) = run(Framing::UntilClose, chunks, &data, step, drain);
            assert!(decode(&out) == data, "{step} {drain}");
        }
    }

    /// Trailer fields are forwarded only to a writer that accepts them, and Content-Length never.
    #[test]
    fn trailers_go_where_they_may() {
        let wire = b"1\r\nx\r\n0\r\nX-T: 1\r\nContent-Length: 5\r\n\r\n";
        let (out, _) =
            run(Framing::Chunked, BodyWriter::Chunked { trailer: Trailer::All }, wire, 3, 9);
        assert_eq!(out, b"1\r\nx\r\n0\r\nX-T: 1\r\n\r\n");
        let (out, _) =
            run(Framing::Chunked, BodyWriter::Chunked { trailer: Trailer::None }, wire, 3, 9);
        assert_eq!(out, b"1\r\nx\r\n0\r\n\r\n");
    }
}
