//! Memory of one buffer: small pieces from the allocator, large ones mapped.
//!
//! The layout hints are explained in `proxy/mod.rs`.
use std::ops::{Deref, DerefMut};

use memmap2::MmapMut;

/// Size in bytes from which memory is mapped. The allocator returns memory to the system only from
/// the end of its heap, where some small piece usually remains: after 3000 heads of 30 KB, 142 MiB
/// stayed in use permanently. It maps pieces of 128 KiB or more, but raises this threshold when the
/// first such piece is freed. For less than four pages, rounding to whole pages would waste more.
const MAPPED_FROM: usize = 16 * 1024;

/// A fixed number of bytes, zero at first.
///
/// Both kinds consist of an address and a length, so reading needs no branch.
#[derive(Debug)]
pub(super) enum Memory {
    /// From the allocator.
    Heap(Box<[u8]>),
    /// Mapped, and returned to the system when it is dropped.
    Mapped(MmapMut),
}

impl Memory {
    #[cold]
    pub(super) fn new(bytes: usize) -> Self {
        let mapped = if bytes < MAPPED_FROM { None } else { MmapMut::map_anon(bytes).ok() };
        // The system limits the number of mappings (Linux: 65 530). Beyond that limit the memory
        // comes from the allocator.
        mapped.map_or_else(|| Self::Heap(vec![0; bytes].into_boxed_slice()), Self::Mapped)
    }
}

impl From<Vec<u8>> for Memory {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Heap(bytes.into_boxed_slice())
    }
}

impl Deref for Memory {
    type Target = [u8];

    #[inline(always)]
    fn deref(&self) -> &[u8] {
        match self {
            Self::Heap(bytes) => bytes,
            Self::Mapped(bytes) => bytes,
        }
    }
}

impl DerefMut for Memory {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Heap(bytes) => bytes,
            Self::Mapped(bytes) => bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Small memory comes from the allocator, large memory is mapped. Both are zero at first, have
    /// exactly the requested length, and hold what is written.
    #[test]
    fn both_kinds_hold_bytes() {
        for (len, is_mapped) in [(1, false), (MAPPED_FROM - 1, false), (MAPPED_FROM, true)] {
            let mut memory = Memory::new(len);
            assert_eq!(matches!(memory, Memory::Mapped(_)), is_mapped, "{len}");
            assert_eq!(memory.len(), len);
            assert!(memory.iter().all(|&byte| byte == 0), "{len}");
            memory.fill(b'a');
            memory[len - 1] = b'z';
            assert_eq!(memory.iter().filter(|&&byte| byte == b'a').count(), len - 1);
            assert_eq!(memory[len - 1], b'z');
        }
        assert_eq!(*Memory::from(b"own".to_vec()), *b"own");
    }
}
