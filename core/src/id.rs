//! Ids: small numbers that are compared, stored and written.

/// The id of a backend: its slot in every table and the slot's generation.
///
/// The slot of a removed backend is reused by a later one with the next generation, so that late
/// results of the old one are recognised. Slots depend on the sequence of configurations only. Ids
/// are ordered by slot.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct BackendId {
    slot: u32,
    generation: u32,
}

impl BackendId {
    /// The slot: a small number that counts up from 0, suitable as an index for the driver's own
    /// tables. No two configured backends share a slot.
    pub const fn index(self) -> usize {
        self.slot as usize
    }

    /// The number of backends that had this slot before.
    pub const fn generation(self) -> u32 {
        self.generation
    }

    /// The first backend in this slot; for replaying recordings and for tests.
    pub const fn from_index(index: u32) -> Self {
        Self::new(index, 0)
    }

    /// The backend with this slot and generation; for replaying recordings and for tests.
    pub const fn new(slot: u32, generation: u32) -> Self {
        Self { slot, generation }
    }

    /// The slot in the width in which it is stored.
    pub(crate) const fn slot(self) -> u32 {
        self.slot
    }

    /// The first backend of a new slot.
    pub(crate) const fn first_of(slot: usize) -> Self {
        debug_assert!(slot < u32::MAX as usize, "a table has fewer slots than u32::MAX");
        Self::new(slot as u32, 0)
    }

    /// The backend that takes over this slot next.
    pub(crate) const fn next_generation(self) -> Self {
        Self { generation: self.generation.wrapping_add(1), ..self }
    }
}

/// The id of one probe.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ProbeId(pub(crate) u64);

impl ProbeId {
    /// The number behind the id.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The id with this number; for replaying recordings and for tests of late results.
    pub const fn from_u64(number: u64) -> Self {
        Self(number)
    }
}

/// The id of an admitted request; a router counts its requests from 1.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct LeaseId(pub(crate) u64);

impl LeaseId {
    /// The number behind the id: 1 for the first request that the router admitted.
    pub const fn as_u64(self) -> u64 {
        self.0
    }
}

/// A policy's own tag of a request; 0 if the policy sets none.
pub(crate) type Token = u32;
