//! A winner tree: finds which of many slots has the least key, and follows changes of keys.
//!
//! Every inner node holds the better of its two children, so the root is the winner. A change
//! costs one comparison per level and stops at the first level that does not change. Among equal
//! keys the lowest slot wins. The router ranks backends with one tree and finds its next deadline
//! with another. (Knuth, The Art of Computer Programming 3, section 5.4.1: tree of winners.)
//!
//! The layout hints are explained in `router.rs`.

use crate::rng::Rng;

/// Slots numbered from 0 and their keys; the least key wins.
#[derive(Debug)]
pub(crate) struct Tournament {
    /// The number of slots in use.
    len: usize,
    /// The number of leaves, a power of two. Slot `i` is node `leaves + i`, and the root is node
    /// 1.
    leaves: usize,
    nodes: Vec<Ranked>,
}

/// A slot and its key.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Ranked {
    pub(crate) key: u64,
    pub(crate) slot: usize,
}

/// The key of a slot that cannot win.
pub(crate) const ABSENT: u64 = u64::MAX;

impl Tournament {
    /// A tree without slots.
    pub(crate) fn new() -> Self {
        Self { len: 0, leaves: 1, nodes: vec![Ranked::absent(0); 2] }
    }

    /// Adds the next slot.
    pub(crate) fn push(&mut self, key: u64) {
        if self.len == self.leaves {
            self.grow();
        }
        let slot = self.len;
        self.len += 1;
        self.set(slot, key);
    }

    /// Changes the key of a slot.
    #[inline(always)]
    pub(crate) fn set(&mut self, slot: usize, key: u64) {
        debug_assert!(slot < self.len, "only slots that were pushed have keys");
        let mut node = self.leaves + slot;
        self.nodes[node] = Ranked { key, slot };
        while node > 1 {
            node /= 2;
            let better = self.better_child(node);
            // Nodes above depend only on this one, so they do not change either.
            if self.nodes[node] == better {
                break;
            }
            self.nodes[node] = better;
        }
    }

    /// The least key and its slot; `None` if all slots are absent.
    pub(crate) fn winner(&self) -> Option<Ranked> {
        Some(self.nodes[1]).filter(|entry| entry.key != ABSENT)
    }

    /// The least key and one of the slots that have it. If all keys are equal, all slots are
    /// equally likely. Otherwise every slot with the least key is possible.
    pub(crate) fn draw(&self, rng: &mut Rng) -> Option<Ranked> {
        let winner = self.winner()?;
        let (mut node, mut first, mut width) = (1, 0, self.leaves);
        while node < self.leaves {
            width /= 2;
            let is_equal = |child: usize| self.nodes[child].key == winner.key;
            let goes_right = match (is_equal(2 * node), is_equal(2 * node + 1)) {
                (true, true) => {
                    let count = (self.len - first).min(2 * width) as u64;
                    rng.below(count) >= width as u64
                }
                (is_left, _) => !is_left,
            };
            node = 2 * node + usize::from(goes_right);
            first += if goes_right { width } else { 0 };
        }
        Some(self.nodes[node])
    }

    /// The wanted slot with the least key. If that is the winner, only the root is read. Otherwise
    /// it is a branch-and-bound search over the entries that rank before the result.
    pub(crate) fn find(&self, is_wanted: impl Fn(usize) -> bool) -> Option<Ranked> {
        let mut best = None;
        self.search(1, &is_wanted, &mut best);
        best
    }

    /// The key of a slot.
    pub(crate) fn key(&self, slot: usize) -> u64 {
        self.nodes[self.leaves + slot].key
    }

    fn search(&self, node: usize, is_wanted: &impl Fn(usize) -> bool, best: &mut Option<Ranked>) {
        let entry = self.nodes[node];
        if entry.key == ABSENT || best.is_some_and(|best| best <= entry) {
            return;
        }
        if is_wanted(entry.slot) {
            *best = Some(entry);
        } else if node < self.leaves {
            // The better half comes first: its result bounds the other half.
            let better = usize::from(self.nodes[2 * node] != entry);
            self.search(2 * node + better, is_wanted, best);
            self.search(2 * node + 1 - better, is_wanted, best);
        }
    }

    fn better_child(&self, node: usize) -> Ranked {
        let (left, right) = (self.nodes[2 * node], self.nodes[2 * node + 1]);
        // Slots on the left are lower, so they win ties.
        if right.key < left.key { right } else { left }
    }

    fn grow(&mut self) {
        let old: Vec<u64> = (0..self.len).map(|slot| self.key(slot)).collect();
        self.leaves *= 2;
        self.nodes = vec![Ranked::absent(0); 2 * self.leaves];
        for slot in 0..self.leaves {
            let key = old.get(slot).copied().unwrap_or(ABSENT);
            self.nodes[self.leaves + slot] = Ranked { key, slot };
        }
        for node in (1..self.leaves).rev() {
            self.nodes[node] = self.better_child(node);
        }
    }
}

impl Ranked {
    const fn absent(slot: usize) -> Self {
        Self { key: ABSENT, slot }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The winner, the best odd slot and the best slot that is not divisible by three agree with a
    /// plain scan after each of many changes, for sizes around powers of two.
    #[test]
    fn agrees_with_a_scan() {
        for size in [1, 2, 3, 4, 5, 8, 9, 33] {
            let mut tree = Tournament::new();
            let mut keys = Vec::new();
            for slot in 0..size {
                keys.push(ABSENT);
                tree.push(ABSENT);
                assert_eq!(tree.winner(), None, "{slot} absent slots");
            }
            let mut rng = Rng::new(size as u64);
            for _ in 0..500 {
                let slot = (rng.next_u64() % size as u64) as usize;
                let key =
                    if rng.next_u64().is_multiple_of(5) { ABSENT } else { rng.next_u64() % 7 };
                keys[slot] = key;
                tree.set(slot, key);
                let scan = |accept: &dyn Fn(usize) -> bool| {
                    (0..size)
                        .filter(|slot| keys[*slot] != ABSENT && accept(*slot))
                        .map(|slot| Ranked { key: keys[slot], slot })
                        .min()
                };
                assert_eq!(tree.winner(), scan(&|_| true));
                assert_eq!(tree.find(|slot| slot % 2 == 1), scan(&|slot| slot % 2 == 1));
                assert_eq!(tree.find(|slot| slot % 3 != 0), scan(&|slot| slot % 3 != 0));
            }
        }
    }

    /// Of five equal slots each is drawn a fifth of the time, within four standard deviations (28
    /// of 5000). Of two equal ones both are drawn, and none with a higher key.
    #[test]
    fn draws_among_equals() {
        let mut rng = Rng::new(3);
        let mut tree = Tournament::new();
        assert_eq!(tree.draw(&mut rng), None);
        (0..5).for_each(|_| tree.push(9));
        let mut counts = [0_i32; 5];
        for _ in 0..5000 {
            counts[tree.draw(&mut rng).unwrap().slot] += 1;
        }
        assert!(counts.iter().all(|count| (count - 1000).abs() < 112), "{counts:?}");
        tree.set(1, 4);
        tree.set(4, 4);
        let mut counts = [0_i32; 5];
        for _ in 0..1000 {
            counts[tree.draw(&mut rng).unwrap().slot] += 1;
        }
        assert_eq!([counts[0], counts[2], counts[3]], [0; 3]);
        assert!(counts[1] > 100 && counts[4] > 100, "{counts:?}");
    }

    /// Among equal keys the lowest slot wins, regardless of the order of changes.
    #[test]
    fn ties_go_to_the_lowest_slot() {
        let mut tree = Tournament::new();
        for _ in 0..5 {
            tree.push(9);
        }
        tree.set(4, 3);
        tree.set(2, 3);
        assert_eq!(tree.winner(), Some(Ranked { key: 3, slot: 2 }));
        tree.set(2, 9);
        assert_eq!(tree.winner(), Some(Ranked { key: 3, slot: 4 }));
    }
}
