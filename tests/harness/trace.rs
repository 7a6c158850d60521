//! The events of a world, always as a hash, and as text on request.
use std::fmt::{self, Write};

use intelliproxy_core::Instant;

/// Collects the events of a world, line by line.
#[derive(Debug)]
pub struct Trace {
    hash: Fnv,
    is_shown: bool,
    lines: u64,
}

impl Trace {
    /// Returns an empty trace. With `is_shown` it prints its lines at once.
    pub const fn new(is_shown: bool) -> Self {
        Self { hash: Fnv(0xcbf2_9ce4_8422_2325), is_shown, lines: 0 }
    }

    /// Adds a line.
    pub fn note(&mut self, now: Instant, line: fmt::Arguments<'_>) {
        self.lines += 1;
        // Writing into a hash cannot fail.
        let _ = writeln!(self.hash, "{} {line}", now.as_nanos());
        if self.is_shown {
            let (millis, micros) = (now.as_nanos() / 1_000_000, now.as_nanos() / 1000 % 1000);
            println!("{millis:>8}.{micros:03} {line}");
        }
    }

    /// Returns the hash of all lines so far.
    pub const fn hash(&self) -> u64 {
        self.hash.0
    }

    /// Returns the number of lines so far.
    pub const fn lines(&self) -> u64 {
        self.lines
    }

    /// Returns whether lines are printed.
    pub const fn is_shown(&self) -> bool {
        self.is_shown
    }
}

/// FNV-1a, 64 bits: small, and the same on every platform.
#[derive(Debug)]
struct Fnv(u64);

impl Write for Fnv {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        Ok(())
    }
}
