//! The id of a connection, never mistaken for that of an older one.

/// Names one connection of the proxy, client or upstream. A slot is used again, the generation
/// tells its users apart, so that late news of a closed connection is recognised.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ConnId {
    slot: u32,
    generation: u32,
}

impl ConnId {
    /// Returns the id of the connection that uses this slot under this generation.
    pub(super) const fn new(slot: u32, generation: u32) -> Self {
        Self { slot, generation }
    }

    /// The id as one number, for a driver that keeps numbers.
    pub const fn to_bits(self) -> u64 {
        (self.generation as u64) << 32 | self.slot as u64
    }

    /// The id behind [`to_bits`](Self::to_bits).
    pub const fn from_bits(bits: u64) -> Self {
        Self { slot: bits as u32, generation: (bits >> 32) as u32 }
    }

    /// A small number, used by one connection at a time: an index for the driver's own table.
    pub const fn slot(self) -> usize {
        self.slot as usize
    }

    /// Tells the users of a slot apart.
    pub(super) const fn generation(self) -> u32 {
        self.generation
    }
}
