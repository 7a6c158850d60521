//! Bounds of the work for one connection, and of that in one turn, before the others have theirs.
//!
//! It is counted by work done ([`Proxy::work`](crate::proxy::Proxy::work)), not by reads: a read of
//! tiny chunks costs ten times what one of plain bytes does. Whatever exceeds a share waits in the
//! list of unread connections, which has as much of each turn as news has.

/// Reads of one connection in a row.
pub(super) const READS_MAX: usize = 16;
/// Work for one connection in a row: 0.2 ms of plain bytes, 0.1 ms of tiny chunks.
const SHARE: u64 = 512 * 1024;
/// The same while others wait: one read of a large buffer.
const SHARE_OF_MANY: u64 = 64 * 1024;
/// Work of a turn for news, and again for connections that waited: each 1 to 2 ms.
const TURN: u64 = 4 * 1024 * 1024;
/// Bytes of one read where bytes cost many times what plain ones do.
pub(super) const COSTLY_READ: usize = 16 * 1024;
/// From how many times on that is.
const COSTLY: u64 = 4;

/// Bounds of the work counter in this turn.
#[derive(Debug, Default)]
pub(super) struct Budget {
    end: u64,
}

impl Budget {
    /// Begins a turn, or its second half, with so much work done.
    pub(super) const fn begin(&mut self, work: u64) {
        self.end = work + TURN;
    }

    /// Whether others come first from now on.
    pub(super) const fn is_spent(&self, work: u64) -> bool {
        work >= self.end
    }
}

/// Returns the work counter at which a connection's share ends that began at `work`.
pub(super) const fn share_end(work: u64, others_wait: bool) -> u64 {
    work + if others_wait { SHARE_OF_MANY } else { SHARE }
}

/// Whether `count` bytes that took `work` were costly ones.
pub(super) const fn is_costly(count: usize, work: u64) -> bool {
    work > COSTLY * count as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A turn's work and a connection's share end where they are said to, and not before.
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
