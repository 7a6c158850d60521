//! Byte buffers that connections borrow while they hold bytes.
//!
//! A buffer has free room before its bytes. A new head or a chunk's size line can be put there
//! while the body stays where it was read, so that a buffer can be passed on without a copy. The
//! pool is a stack: the next buffer is the one whose memory is still in the cache.
//!
//! The layout hints are explained in `proxy/mod.rs`.
use std::ops::Range;

mod memory;
mod outbox;

use self::memory::Memory;
pub(crate) use outbox::Outbox;

/// Room before the bytes of a new large buffer. A forwarded head is longer than the received one by
/// the fields that the proxy adds: by default 105 bytes plus a second copy of Host, for a client at
/// 127.0.0.1. Without this room the body would be copied once.
const HEADROOM: usize = 1024;
/// Room kept after the bytes that are read, for the CRLF that ends a chunk.
const TAILROOM: usize = 16;
/// Bytes of a small buffer: most heads and small messages fit. With the allocator's own 16 bytes it
/// takes 2 KiB.
pub(crate) const SMALL: usize = 2032;
/// Room before a head that is written into a buffer, for a longer Host. An even longer one costs a
/// copy.
const ROOM_BEFORE_HEAD: usize = 128;
/// Bytes that a large buffer takes in one read: a response of 64 KiB with its head. Measured CPU
/// time per request, divided by that of a bare relay: for responses of 64 KiB 0.87 (0.90 with
/// buffers of 96 KiB, 0.86 with 128 KiB, and 1.08 with 64 KiB, which takes two reads); for 1 MiB
/// 0.99 (0.99 with 96 KiB, and 1.02 with 128 KiB, where the bytes leave the cache between read and
/// write).
pub(crate) const LARGE: usize = 68 * 1024;
/// Bytes of memory of a large buffer.
const LARGE_MEMORY: usize = HEADROOM + LARGE + TAILROOM;
/// Free buffers of each kind that the pool keeps; [`BufferPool::trim`] drops unused ones.
const SPARE_SMALL_MAX: usize = 1024;
const SPARE_LARGE_MAX: usize = 128;

/// Bytes `start..end` of a fixed piece of memory.
#[derive(Debug)]
pub(crate) struct Buffer {
    memory: Memory,
    start: u32,
    end: u32,
}

impl Buffer {
    #[cold]
    fn with_capacity(bytes: usize) -> Self {
        Self { memory: Memory::new(bytes), start: 0, end: 0 }
    }

    /// Returns a buffer that takes over `bytes`, without free room. Responses of the proxy itself
    /// use it.
    pub(crate) fn holding(bytes: Vec<u8>) -> Self {
        let end = offset(bytes.len());
        Self { memory: bytes.into(), start: 0, end }
    }

    const fn start(&self) -> usize {
        self.start as usize
    }

    const fn end(&self) -> usize {
        self.end as usize
    }

    /// Empties the buffer; the next bytes begin at `start`.
    const fn place(&mut self, start: usize) {
        self.start = offset(start);
        self.end = self.start;
    }

    /// Returns the free room after the bytes, except the room for a chunk's end. The caller reads
    /// into it and reports the number of bytes by [`filled`](Self::filled).
    #[inline]
    pub(crate) fn space(&mut self) -> &mut [u8] {
        let start = self.end();
        let end = self.memory.len().saturating_sub(TAILROOM).max(start);
        &mut self.memory[start..end]
    }

    /// Adds the first `count` bytes of [`space`](Self::space).
    pub(crate) fn filled(&mut self, count: usize) {
        debug_assert!(count <= self.space().len(), "no more is read than there was room for");
        self.end += offset(count);
    }

    /// Drops the first `count` bytes.
    pub(crate) fn consume(&mut self, count: usize) {
        debug_assert!(count <= self.len(), "no more is consumed than there is");
        self.start += offset(count);
    }

    /// Keeps the first `count` bytes only.
    pub(crate) fn truncate(&mut self, count: usize) {
        debug_assert!(count <= self.len(), "truncation does not lengthen");
        self.end = self.start + offset(count);
    }

    /// Puts `bytes` before the content. Returns false without a change if there is no room.
    #[inline]
    pub(crate) fn prepend(&mut self, bytes: &[u8]) -> bool {
        let Some(start) = self.start().checked_sub(bytes.len()) else {
            return false;
        };
        self.memory[start..start + bytes.len()].copy_from_slice(bytes);
        self.start = offset(start);
        true
    }

    /// Replaces the first `count` bytes by `new`. Returns false without a change if there is no
    /// room.
    pub(crate) fn replace_front(&mut self, count: usize, new: &[u8]) -> bool {
        let has_room = self.start() + count >= new.len();
        if has_room {
            self.consume(count);
            self.prepend(new);
        }
        has_room
    }

    /// Replaces `range` of [`bytes`](Self::bytes) by `new`, moving the bytes before it. Returns
    /// false without a change if there is no room.
    pub(crate) fn splice(&mut self, range: Range<usize>, new: &[u8]) -> bool {
        let Some(start) = (self.start() + range.len()).checked_sub(new.len()) else {
            return false;
        };
        let own = self.start();
        self.memory.copy_within(own..own + range.start, start);
        self.start = offset(start);
        let at = start + range.start;
        self.memory[at..at + new.len()].copy_from_slice(new);
        true
    }

    /// Appends `bytes`. Returns false without a change if there is no room.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> bool {
        let (start, end) = (self.end(), self.end() + bytes.len());
        let Some(room) = self.memory.get_mut(start..end) else {
            return false;
        };
        room.copy_from_slice(bytes);
        self.end = offset(end);
        true
    }

    /// Appends `parts` one after the other. Moves to a larger memory if there is no room.
    #[inline]
    pub(crate) fn extend<const N: usize>(&mut self, parts: &[&[u8]; N]) {
        let added: usize = parts.iter().map(|part| part.len()).sum();
        if added > self.room() {
            self.grow(added);
        }
        let end = self.end();
        let mut room = &mut self.memory[end..];
        for part in parts {
            let (place, rest) = room.split_at_mut(part.len());
            place.copy_from_slice(part);
            room = rest;
        }
        self.end += offset(added);
    }

    /// Moves to memory outside the pool, of twice the size needed for `added` more bytes.
    #[cold]
    fn grow(&mut self, added: usize) {
        let end = self.end();
        let mut memory = Memory::new(2 * (end + added));
        memory[..end].copy_from_slice(&self.memory[..end]);
        self.memory = memory;
    }

    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.memory[self.start()..self.end()]
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        let range = self.start()..self.end();
        &mut self.memory[range]
    }

    pub(crate) const fn len(&self) -> usize {
        (self.end - self.start) as usize
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Returns the number of free bytes before the content.
    pub(crate) const fn room_before(&self) -> usize {
        self.start()
    }

    /// Returns the number of free bytes after the content.
    pub(crate) fn room(&self) -> usize {
        self.memory.len() - self.end()
    }

    /// Moves the content towards the front, but keeps [`HEADROOM`] before it.
    #[cold]
    fn compact(&mut self) {
        let range = self.start()..self.end();
        if range.start > HEADROOM {
            self.place(HEADROOM);
            self.end += offset(range.len());
            self.memory.copy_within(range, HEADROOM);
        }
    }

    /// Returns a buffer from `pool` with `range` of [`bytes`](Self::bytes) replaced by `new`.
    #[cold]
    pub(crate) fn spliced(&self, range: Range<usize>, new: &[u8], pool: &mut BufferPool) -> Self {
        let old = self.bytes();
        pool.holding_all(&[&old[..range.start], new, &old[range.end..]])
    }
}

/// Returns a position in a buffer as stored: in 4 bytes, so that a [`Buffer`] takes 32 bytes.
const fn offset(place: usize) -> u32 {
    debug_assert!(place <= u32::MAX as usize, "a buffer is shorter than 4 GiB");
    place as u32
}

/// Drops a buffer whose size the pool does not keep.
#[cold]
fn drop_odd(buffer: Buffer) {
    drop(buffer);
}

/// Free buffers of one kind.
#[derive(Debug, Default)]
struct Spare {
    buffers: Vec<Buffer>,
    /// The number of free buffers that were not needed since the last [`trim`](Self::trim).
    unused: usize,
}

impl Spare {
    #[inline]
    fn take(&mut self, memory: usize) -> Buffer {
        let buffer = self.buffers.pop().unwrap_or_else(|| Buffer::with_capacity(memory));
        self.unused = self.unused.min(self.buffers.len());
        buffer
    }

    /// Drops the buffers that were not needed since the last call.
    fn trim(&mut self) {
        self.buffers.drain(..self.unused);
        self.buffers.shrink_to(2 * self.buffers.len());
        self.unused = self.buffers.len();
    }
}

/// The free buffers of both kinds.
#[derive(Debug, Default)]
pub(crate) struct BufferPool {
    small: Spare,
    large: Spare,
    /// Buffers taken and not returned; zero at rest.
    lent: usize,
}

impl BufferPool {
    /// Returns an empty large buffer for reading, with room before its bytes.
    #[inline]
    pub(crate) fn take_large(&mut self) -> Buffer {
        self.lent += 1;
        let mut buffer = self.large.take(LARGE_MEMORY);
        buffer.place(HEADROOM);
        buffer
    }

    /// Returns an empty small buffer.
    #[inline]
    pub(crate) fn take_small(&mut self) -> Buffer {
        self.lent += 1;
        let mut buffer = self.small.take(SMALL);
        buffer.place(0);
        buffer
    }

    /// Returns an empty buffer for a head of up to `len` bytes, with some room before it.
    #[inline]
    pub(crate) fn take_for_head(&mut self, len: usize) -> Buffer {
        let mut buffer =
            if len <= SMALL - ROOM_BEFORE_HEAD { self.take_small() } else { self.take_large() };
        buffer.place(ROOM_BEFORE_HEAD);
        buffer
    }

    /// Returns a buffer with `parts` one after the other: a small one if they fit.
    pub(crate) fn holding_all(&mut self, parts: &[&[u8]]) -> Buffer {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let mut buffer = if len <= SMALL {
            self.take_small()
        } else if len <= HEADROOM + LARGE {
            let mut buffer = self.take_large();
            buffer.place(0);
            buffer
        } else {
            self.lent += 1;
            Buffer::with_capacity(len)
        };
        for part in parts {
            let fits = buffer.append(part);
            debug_assert!(fits, "the buffer was chosen by the parts' length");
        }
        buffer
    }

    /// Returns room for reading after the bytes in `slot`. Takes a large buffer if `slot` is empty.
    /// Returns an empty slice if the buffer is full.
    #[inline(always)]
    pub(crate) fn read_space<'a>(&mut self, slot: &'a mut Option<Buffer>) -> &'a mut [u8] {
        if slot.is_some() {
            self.make_room(slot);
        }
        slot.get_or_insert_with(|| self.take_large()).space()
    }

    /// Moves the bytes of `slot` forward, or to a larger buffer, to make room after them.
    #[cold]
    fn make_room(&mut self, slot: &mut Option<Buffer>) {
        let Some(buffer) = slot else { return };
        let is_small = buffer.memory.len() <= SMALL;
        if is_small || (buffer.memory.len() < LARGE_MEMORY && buffer.space().is_empty()) {
            let mut large = self.take_large();
            let fits = large.append(buffer.bytes());
            debug_assert!(fits, "a large buffer holds what a smaller one held");
            if let Some(small) = slot.replace(large) {
                self.give(small);
            }
        } else if buffer.space().is_empty() {
            buffer.compact();
        }
    }

    /// Counts a buffer that was made elsewhere as taken.
    pub(crate) fn adopt(&mut self, buffer: Buffer) -> Buffer {
        self.lent += 1;
        buffer
    }

    /// Takes a buffer back.
    #[inline(never)]
    pub(crate) fn give(&mut self, buffer: Buffer) {
        debug_assert!(self.lent > 0, "only what was handed out comes back");
        self.lent -= 1;
        let (spare, most) = match buffer.memory.len() {
            SMALL => (&mut self.small, SPARE_SMALL_MAX),
            LARGE_MEMORY => (&mut self.large, SPARE_LARGE_MAX),
            _ => return drop_odd(buffer),
        };
        if spare.buffers.len() < most {
            spare.buffers.push(buffer);
        } else {
            drop_odd(buffer);
        }
    }

    /// Takes back the buffer in `slot` if it is empty. Replaces a large buffer by a small one if
    /// that is enough: a connection keeps a large buffer only while it needs one.
    #[inline]
    pub(crate) fn shrink(&mut self, slot: &mut Option<Buffer>) {
        if let Some(empty) = slot.take_if(|buffer| buffer.is_empty()) {
            self.give(empty);
        } else if slot.is_some() {
            self.shrink_some(slot);
        }
    }

    #[cold]
    fn shrink_some(&mut self, slot: &mut Option<Buffer>) {
        let Some(buffer) = slot else { return };
        if buffer.memory.len() > SMALL && buffer.len() <= SMALL {
            let small = self.holding_all(&[buffer.bytes()]);
            if let Some(large) = slot.replace(small) {
                self.give(large);
            }
        }
    }

    /// Moves bytes that have waited for a long time to memory of exactly their length, if that
    /// saves a quarter.
    #[cold]
    pub(crate) fn rest(&mut self, slot: &mut Option<Buffer>) {
        self.shrink(slot);
        let Some(buffer) = slot else { return };
        let needed = buffer.len() + TAILROOM;
        if buffer.memory.len() > SMALL && needed <= buffer.memory.len() / 4 * 3 {
            self.lent += 1;
            let mut own = Buffer::with_capacity(needed);
            let fits = own.append(buffer.bytes());
            debug_assert!(fits, "the memory was chosen by the bytes' length");
            if let Some(old) = slot.replace(own) {
                self.give(old);
            }
        }
    }

    /// Whether any free buffer is kept.
    #[inline]
    pub(crate) const fn has_spare(&self) -> bool {
        !self.small.buffers.is_empty() || !self.large.buffers.is_empty()
    }

    /// Drops free buffers that were not needed since the last call.
    #[cold]
    pub(crate) fn trim(&mut self) {
        self.small.trim();
        self.large.trim();
    }

    /// Returns the number of buffers taken and not returned.
    pub(crate) const fn lent(&self) -> usize {
        self.lent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes are returned in the order in which they were added, at both ends and after a move to
    /// the front.
    #[test]
    fn bytes_stay_in_order() {
        let mut pool = BufferPool::default();
        let mut buffer = pool.take_large();
        buffer.space()[..3].copy_from_slice(b"abc");
        buffer.filled(3);
        assert!(buffer.prepend(b"12"));
        assert!(buffer.append(b"xyz"));
        assert_eq!(buffer.bytes(), b"12abcxyz");
        buffer.consume(2);
        assert_eq!(buffer.bytes(), b"abcxyz");
        assert!(!buffer.prepend(&[0; 2 * HEADROOM]), "there is not that much room");
        buffer.truncate(1);
        assert_eq!(buffer.bytes(), b"a");
        let mut slot = Some(buffer);
        assert_eq!(pool.read_space(&mut slot).len(), LARGE - 1);
        if let Some(buffer) = &mut slot {
            buffer.filled(LARGE - 1);
            buffer.consume(LARGE - 3);
        }
        assert_eq!(pool.read_space(&mut slot).len(), LARGE - 3, "bytes move to make room");
        assert_eq!(slot.map(|buffer| buffer.len()), Some(3));
    }

    /// A read leaves room for a chunk's end, which `append` may use.
    #[test]
    fn a_full_buffer_has_room_for_a_chunks_end() {
        let mut pool = BufferPool::default();
        let mut buffer = pool.take_large();
        let space = buffer.space().len();
        assert_eq!(space, LARGE);
        buffer.filled(space);
        assert!(buffer.space().is_empty());
        assert!(buffer.append(b"\r\n"));
        assert!(!buffer.append(&[0; TAILROOM]));
    }

    /// Bytes that wait for a long time are moved to memory of little more than their own length, or
    /// to a small buffer; a full large buffer is kept. More can be read after them unless the
    /// buffer is full.
    #[test]
    fn waiting_bytes_take_their_own_length() {
        for len in [1, SMALL, SMALL + 1, 20_000, LARGE] {
            let mut pool = BufferPool::default();
            let mut slot = Some(pool.take_large());
            if let Some(buffer) = &mut slot {
                assert!(buffer.append(&vec![b'a'; len]));
            }
            pool.rest(&mut slot);
            let memory = slot.as_ref().map_or(0, |buffer| buffer.memory.len());
            assert!(
                memory <= (len + TAILROOM).max(SMALL).max(LARGE_MEMORY * (len / LARGE)),
                "{len}"
            );
            let space = pool.read_space(&mut slot).len();
            assert_eq!(space == 0, len == LARGE, "{len}");
            assert_eq!(slot.as_ref().map(Buffer::len), Some(len));
            if let Some(buffer) = slot {
                pool.give(buffer);
            }
            assert_eq!(pool.lent(), 0);
        }
    }

    /// A trim drops the free buffers that were not needed since the last trim, and keeps the
    /// others.
    #[test]
    fn free_buffers_that_nobody_needs_are_dropped() {
        let mut pool = BufferPool::default();
        let taken: Vec<Buffer> = (0..10).map(|_| pool.take_large()).collect();
        taken.into_iter().for_each(|buffer| pool.give(buffer));
        pool.trim();
        assert_eq!(pool.large.buffers.len(), 10, "all were needed");
        let taken: Vec<Buffer> = (0..3).map(|_| pool.take_large()).collect();
        taken.into_iter().for_each(|buffer| pool.give(buffer));
        pool.trim();
        assert_eq!(pool.large.buffers.len(), 3);
        pool.trim();
        assert!(pool.large.buffers.is_empty());
    }

    /// The pool counts taken buffers. A nearly empty large buffer is replaced by a small one.
    #[test]
    fn buffers_come_back() {
        let mut pool = BufferPool::default();
        let mut slot = Some(pool.take_large());
        if let Some(buffer) = &mut slot {
            assert!(buffer.append(b"left over"));
        }
        pool.shrink(&mut slot);
        assert_eq!(slot.as_ref().map(|b| b.memory.len()), Some(SMALL));
        assert_eq!(pool.lent(), 1);
        if let Some(buffer) = &mut slot {
            buffer.consume(9);
        }
        pool.shrink(&mut slot);
        assert!(slot.is_none());
        assert_eq!(pool.lent(), 0);
        let parts = pool.holding_all(&[b"a", &[b'b'; LARGE], b"c"]);
        assert_eq!(parts.len(), LARGE + 2);
        pool.give(parts);
        assert_eq!(pool.lent(), 0);
    }
}
