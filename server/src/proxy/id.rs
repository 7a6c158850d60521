//! The id of a connection: a slot of the table, and a generation that distinguishes its users.

/// Names one connection of the proxy: to a client, to a backend, or for a probe. Slots are reused.
/// The generation differs for each user of a slot, so that late events of a closed connection are
/// recognised.
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

    /// Returns the id as one number, for a driver that stores numbers.
    pub const fn to_bits(self) -> u64 {
        (self.generation as u64) << 32 | self.slot as u64
    }

    /// Returns the id of a number from [`to_bits`](Self::to_bits).
    pub const fn from_bits(bits: u64) -> Self {
        Self { slot: bits as u32, generation: (bits >> 32) as u32 }
    }

    /// Returns a small number, used by one connection at a time: an index for the driver's own
    /// table.
    pub const fn slot(self) -> usize {
        self.slot as usize
    }

    /// Returns the generation, which distinguishes the users of a slot.
    pub(super) const fn generation(self) -> u32 {
        self.generation
    }
}
