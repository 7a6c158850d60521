//! What the fuzz targets run: ordinary functions from bytes to nothing, which panic where a rule
//! does not hold. `fuzz/` feeds them what libFuzzer thinks up, and `tests/corpus.rs` the inputs
//! kept in `fuzz/corpus/`, so that these run with every `cargo test` and on stable.
//!
//! Nothing of the proxy uses this module. It stands here since it looks at the codec's insides.
//! Where a second opinion exists the two are compared: `strict.rs` shares no code with the codec.
mod chunked;
mod config;
mod heads;
mod router;
mod session;
mod strict;

pub use chunked::chunked;
pub use config::config;
pub use heads::{request_head, response_head};
pub use router::router;
pub use session::session;

/// What a target does with its bytes; it panics on a finding.
pub type Target = fn(&[u8]);

/// The targets by the names of their corpora.
pub const TARGETS: [(&str, Target); 6] = [
    ("request_head", request_head),
    ("response_head", response_head),
    ("chunked", chunked),
    ("session", session),
    ("router", router),
    ("config", config),
];

/// Operations are decoded from bytes by taking from the front; what is missing is zero.
struct Source<'b> {
    rest: &'b [u8],
}

impl<'b> Source<'b> {
    const fn new(rest: &'b [u8]) -> Self {
        Self { rest }
    }

    const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    fn byte(&mut self) -> u8 {
        let (first, rest) = self.rest.split_first().map_or((0, &[][..]), |(f, rest)| (*f, rest));
        self.rest = rest;
        first
    }

    fn number(&mut self) -> u64 {
        (0..8).fold(0, |number, _| number << 8 | u64::from(self.byte()))
    }

    /// The next `count` bytes, or as many as there are.
    fn take(&mut self, count: usize) -> &'b [u8] {
        let (taken, rest) = self.rest.split_at(count.min(self.rest.len()));
        self.rest = rest;
        taken
    }
}
