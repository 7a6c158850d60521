//! A fuzz input as a source of numbers and byte strings.

/// Takes values from the front of the input. Missing bytes of a number are zero.
#[derive(Debug)]
pub struct Source<'b> {
    pub rest: &'b [u8],
}

impl<'b> Source<'b> {
    pub const fn new(rest: &'b [u8]) -> Self {
        Self { rest }
    }

    pub const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        let (first, rest) = self.rest.split_first().map_or((0, &[][..]), |(f, rest)| (*f, rest));
        self.rest = rest;
        first
    }

    pub fn number(&mut self) -> u64 {
        (0..8).fold(0, |number, _| number << 8 | u64::from(self.byte()))
    }

    /// Returns the next `count` bytes, or as many as are left.
    pub fn take(&mut self, count: usize) -> &'b [u8] {
        let (taken, rest) = self.rest.split_at(count.min(self.rest.len()));
        self.rest = rest;
        taken
    }
}
