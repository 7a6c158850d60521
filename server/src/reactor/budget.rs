//! Bounds the work for one connection and for one turn, so that every connection gets its share.
//!
//! Work is counted by [`Proxy::work`](crate::proxy::Proxy::work) and by the TLS layers, not by
//! reads: a read of tiny chunks costs ten times as much as one of plain bytes, and one of tiny
//! records a hundred times. Connections that exceed their share wait in the list of unread ones.
//! Each turn has one budget for that list and another one of the same size for new events.

/// The maximum number of consecutive reads of one connection.
pub(super) const READS_MAX: usize = 16;
/// Work for one connection at a time: 0.2 ms of plain bytes, 0.1 ms of tiny chunks.
const SHARE: u64 = 512 * 1024;
/// Work for one connection at a time while others wait: one full read of a large buffer.
const SHARE_OF_MANY: u64 = 64 * 1024;
/// Work of a turn for new events, and again for connections that waited: 1 to 2 ms each.
const TURN: u64 = 4 * 1024 * 1024;
/// The maximum number of bytes of one read after a costly one.
pub(super) const COSTLY_READ: usize = 16 * 1024;
/// A read is costly if its bytes cost more than this, relative to plain bytes.
const COSTLY: u64 = 4;

/// The bound of the work counter in this half of the turn.
#[derive(Debug, Default)]
pub(super) struct Budget {
    end: u64,
}

impl Budget {
    /// Begins a turn, or its second half, when the counter stands at `work`.
    pub(super) const fn begin(&mut self, work: u64) {
        self.end = work + TURN;
    }

    /// Whether the budget is used up, so that waiting connections come first.
    pub(super) const fn is_spent(&self, work: u64) -> bool {
        work >= self.end
    }
}

/// Returns the value of the work counter at which a share that began at `work` ends.
pub(super) const fn share_end(work: u64, others_wait: bool) -> u64 {
    work + if others_wait { SHARE_OF_MANY } else { SHARE }
}

/// Whether a read of `count` bytes that took `work` was costly.
pub(super) const fn is_costly(count: usize, work: u64) -> bool {
    work > COSTLY * count as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Budgets and shares end exactly at their bounds.
    #[test]
    fn budgets_end() {
        let mut budget = Budget::default();
        budget.begin(7);
        for (work, is_spent) in [(7, false), (6 + TURN, false), (7 + TURN, true)] {
            assert_eq!(budget.is_spent(work), is_spent, "{work}");
        }
        assert_eq!(share_end(7, false), 7 + SHARE);
        assert_eq!(share_end(7, true), 7 + SHARE_OF_MANY);
        for (work, costs) in [(100, false), (400, false), (401, true)] {
            assert_eq!(is_costly(100, work), costs, "{work}");
        }
    }
}
