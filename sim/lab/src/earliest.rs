//! The earliest of a fixed number of deadlines, each of which may change at any time.

/// A tree of minima over the deadlines of lines 0 to n − 1, in nanoseconds.
///
/// Setting a deadline takes at most log2(n) + 1 comparisons. Nothing is allocated after
/// [`Earliest::new`]. Of equal deadlines, the one of the lowest line comes first.
#[derive(Debug)]
pub(super) struct Earliest {
    /// Node `i` has the children `2i` and `2i + 1`. The leaves are the second half.
    nodes: Vec<(u64, u32)>,
    leaves: usize,
}

impl Earliest {
    /// Returns deadlines for `count` lines, all [`NEVER`].
    pub(super) fn new(count: usize) -> Self {
        let leaves = count.next_power_of_two();
        let mut nodes = vec![(NEVER, 0); 2 * leaves];
        for (line, leaf) in nodes[leaves..].iter_mut().enumerate() {
            leaf.1 = line as u32;
        }
        for node in (1..leaves).rev() {
            nodes[node] = nodes[2 * node].min(nodes[2 * node + 1]);
        }
        Self { nodes, leaves }
    }

    /// Sets a line's deadline; [`NEVER`] removes it.
    pub(super) fn set(&mut self, line: usize, at: u64) {
        let mut node = self.leaves + line;
        self.nodes[node].0 = at;
        while node > 1 {
            node /= 2;
            let least = self.nodes[2 * node].min(self.nodes[2 * node + 1]);
            if self.nodes[node] == least {
                return;
            }
            self.nodes[node] = least;
        }
    }

    /// Returns the earliest deadline and its line; [`NEVER`] if no deadline is set.
    pub(super) fn first(&self) -> (u64, usize) {
        let (at, line) = self.nodes[1];
        (at, line as usize)
    }
}

/// Later than every event.
pub(super) const NEVER: u64 = u64::MAX;

#[cfg(test)]
mod tests {
    use intelliproxy_core::Rng;

    use super::*;

    /// After each of many random changes the first deadline equals the minimum of a plain scan.
    #[test]
    fn first_is_the_least() {
        for count in [1, 2, 3, 10, 200] {
            let mut rng = Rng::new(count as u64);
            let mut plain = vec![NEVER; count];
            let mut tree = Earliest::new(count);
            assert_eq!(tree.first(), (NEVER, 0));
            for _ in 0..2000 {
                let line = rng.below(count as u64) as usize;
                let at = if rng.below(4) == 0 { NEVER } else { rng.below(50) };
                plain[line] = at;
                tree.set(line, at);
                let least = plain.iter().copied().enumerate().map(|(line, at)| (at, line)).min();
                assert_eq!(Some(tree.first()), least);
            }
        }
    }
}
