//! The names of things: small numbers that are compared, stored and written, and nothing else.

/// Names a backend: its slot in every table, and the slot's generation.
///
/// The slot of a backend that left is used again by a later one with the next generation, so that
/// late news of the old one is recognised. Which slot a backend gets depends on the sequence of
/// configurations alone. Ordered by slot.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct BackendId {
    slot: u32,
    generation: u32,
}

impl BackendId {
    /// The slot: a small number that counts up from 0, an index for the driver's own tables. No
    /// two configured backends have the same one.
    pub const fn index(self) -> usize {
        self.slot as usize
    }

    /// The number of backends that had this slot before.
    pub const fn generation(self) -> u32 {
        self.generation
    }

    /// The first backend with this slot; for replaying recordings and for tests.
    pub const fn from_index(index: u32) -> Self {
        Self::new(index, 0)
    }

    /// The backend with this slot and generation; for replaying recordings and for tests.
    pub const fn new(slot: u32, generation: u32) -> Self {
        Self { slot, generation }
    }

    /// The slot as it is kept.
    pub(crate) const fn slot(self) -> u32 {
        self.slot
    }

    /// The first backend of a new slot.
    pub(crate) const fn first_of(slot: usize) -> Self {
        debug_assert!(slot < u32::MAX as usize, "a table never holds as many");
        Self::new(slot as u32, 0)
    }

    /// The backend that takes this one's slot after it.
    pub(crate) const fn next_generation(self) -> Self {
        Self { generation: self.generation.wrapping_add(1), ..self }
    }
}

/// Names one probe.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ProbeId(pub(crate) u64);

impl ProbeId {
    /// The number behind the id.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The id with this number; for replaying recordings and for tests of late news.
    pub const fn from_u64(number: u64) -> Self {
        Self(number)
    }
}

/// Numbers the requests that a router admitted, from 1.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct LeaseId(pub(crate) u64);

impl LeaseId {
    /// The number.
    pub const fn as_u64(self) -> u64 {
        self.0
    }
}

/// A policy's own mark on a request; 0 without one.
pub(crate) type Token = u32;
