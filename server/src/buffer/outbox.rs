//! Bytes that wait to be written to one connection.
//!
//! The layout hints are explained in `proxy/mod.rs`.
use std::ops::Range;

use super::{Buffer, BufferPool, LARGE, SMALL};

/// Bytes that wait for one connection. While `is_holding`, written bytes are also kept, so that
/// they can be written again to another connection.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    buffer: Option<Buffer>,
    sent: usize,
    is_holding: bool,
    /// Whether the connection accepted any byte since the last [`clear`](Self::clear) or
    /// [`rewind`](Self::rewind).
    has_sent: bool,
}

impl Outbox {
    /// Begins to keep written bytes, until [`release`](Self::release) or until they no longer fit
    /// in one buffer.
    pub(crate) fn hold(&mut self) {
        debug_assert!(self.buffer.is_none(), "holding begins with the first byte");
        self.is_holding = true;
    }

    /// Handles that the connection accepted `count` of the [`pending`](Self::pending) bytes.
    pub(crate) fn written(&mut self, count: usize, pool: &mut BufferPool) {
        self.sent += count;
        self.has_sent = true;
        if !self.is_holding {
            self.drop_sent(pool);
        }
    }

    /// Stops keeping written bytes, and drops them.
    pub(crate) fn release(&mut self, pool: &mut BufferPool) {
        if self.is_holding {
            self.is_holding = false;
            self.drop_sent(pool);
        }
    }

    /// Drops the bytes that were not written, because the connection accepts no more.
    /// [`has_sent`](Self::has_sent) is not changed.
    pub(crate) fn drop_pending(&mut self, pool: &mut BufferPool) {
        let has_sent = self.has_sent;
        self.clear(pool);
        self.has_sent = has_sent;
    }

    /// Drops all bytes and state.
    #[inline]
    pub(crate) fn clear(&mut self, pool: &mut BufferPool) {
        if let Some(buffer) = self.buffer.take() {
            pool.give(buffer);
        }
        *self = Self::default();
    }

    /// Starts again: all held bytes are to be written.
    pub(crate) fn rewind(&mut self) {
        debug_assert!(self.can_rewind(), "only what is still there can be written again");
        self.sent = 0;
        self.has_sent = false;
    }

    /// Whether `bytes` are at `range` of the held bytes.
    #[inline]
    pub(crate) fn has(&self, range: Range<usize>, bytes: &[u8]) -> bool {
        self.buffer.as_ref().is_some_and(|own| own.bytes().get(range) == Some(bytes))
    }

    /// Replaces `range` by `new`. Either no byte may have been written yet, or all must be written
    /// again.
    #[cold]
    pub(crate) fn replace(&mut self, range: Range<usize>, new: &[u8], pool: &mut BufferPool) {
        debug_assert!(self.sent == 0, "what is written stays as it is");
        let Some(buffer) = &mut self.buffer else { return };
        if !buffer.splice(range.clone(), new) {
            let replaced = buffer.spliced(range, new, pool);
            if let Some(old) = self.buffer.replace(replaced) {
                pool.give(old);
            }
        }
    }

    /// Adds a whole buffer. Returns it as an error if it has to wait for earlier ones.
    #[inline]
    pub(crate) fn push(&mut self, buffer: Buffer, pool: &mut BufferPool) -> Result<(), Buffer> {
        if self.buffer.is_some() {
            return self.push_behind(buffer, pool);
        }
        self.buffer = Some(buffer);
        Ok(())
    }

    /// Rare: usually nothing waits. This is a separate function so that [`push`](Self::push) stays
    /// small enough to be inlined.
    #[cold]
    fn push_behind(&mut self, buffer: Buffer, pool: &mut BufferPool) -> Result<(), Buffer> {
        let Some(own) = &mut self.buffer else { return Err(buffer) };
        if own.append(buffer.bytes()) {
            pool.give(buffer);
            return Ok(());
        }
        if self.sent < own.len() {
            return Err(buffer);
        }
        self.is_holding = false;
        self.sent = 0;
        if let Some(old) = self.buffer.replace(buffer) {
            pool.give(old);
        }
        Ok(())
    }

    /// Reserves room for `needed` more bytes, and for `wished` bytes if possible. Returns false if
    /// the bytes have to wait.
    pub(crate) fn reserve(&mut self, needed: usize, wished: usize, pool: &mut BufferPool) -> bool {
        if let Some(own) = &self.buffer {
            if own.room() >= needed {
                return true;
            }
            if self.sent < own.len() {
                return false;
            }
            self.is_holding = false;
            self.drop_sent(pool);
        }
        let wished = wished.max(needed);
        let buffer = if wished <= SMALL { pool.take_small() } else { pool.take_large() };
        debug_assert!(needed <= LARGE, "no single thing is larger than a buffer");
        self.buffer = Some(buffer);
        true
    }

    /// Returns the number of bytes that can be appended now without waiting and without a new
    /// buffer.
    pub(crate) fn room(&self) -> usize {
        self.buffer.as_ref().map_or(0, Buffer::room)
    }

    /// Adds bytes for which there is room.
    pub(crate) fn append(&mut self, bytes: &[u8]) {
        let fits = self.buffer.as_mut().is_some_and(|own| own.append(bytes));
        debug_assert!(fits || bytes.is_empty(), "room is reserved before bytes are added");
    }

    /// Returns unused room to the pool.
    pub(crate) fn shrink(&mut self, pool: &mut BufferPool) {
        if !self.is_holding && self.sent == 0 {
            pool.shrink(&mut self.buffer);
        }
    }

    /// Moves bytes that have waited for a long time to memory of their own length.
    #[cold]
    pub(crate) fn rest(&mut self, pool: &mut BufferPool) {
        if !self.is_holding && self.sent == 0 {
            pool.rest(&mut self.buffer);
        }
    }

    /// Returns the bytes to be written next.
    #[inline]
    pub(crate) fn pending(&self) -> &[u8] {
        self.buffer.as_ref().map_or(&[], |own| &own.bytes()[self.sent..])
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.buffer.as_ref().is_none_or(|own| own.len() == self.sent)
    }

    /// Whether all bytes since the first one are still held.
    pub(crate) const fn can_rewind(&self) -> bool {
        self.is_holding || !self.has_sent
    }

    /// Whether the connection accepted any byte.
    pub(crate) const fn has_sent(&self) -> bool {
        self.has_sent
    }

    #[inline]
    fn drop_sent(&mut self, pool: &mut BufferPool) {
        let sent = std::mem::take(&mut self.sent);
        if let Some(buffer) = self.buffer.take_if(|own| own.len() == sent) {
            pool.give(buffer);
        } else if let Some(own) = &mut self.buffer {
            own.consume(sent);
        }
    }
}
