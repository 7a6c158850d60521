//! Progress in a head that arrives in pieces. The parser does not run for each piece, so the work
//! depends only on the length of the head.
//!
//! The layout hints are explained in `http/mod.rs`.

/// The number of line ends at which a head is parsed early, so that an invalid first line is
/// refused at once. They cover a few empty lines before it and its own end.
const EARLY_LINES: u8 = 5;

/// Decides when an incomplete head is parsed again: at its end, at an invalid line end, at its
/// limit, after its first lines, and whenever its length has doubled.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct HeadProgress {
    /// Number of bytes already searched for the end; 0 before the first parse.
    searched: u32,
    /// The length at which the next parse is due, whatever the bytes are.
    parse_at: u32,
    /// Line ends seen since the first parse, up to [`EARLY_LINES`].
    lines: u8,
}

impl HeadProgress {
    /// Whether to parse the head at the start of `input` now. Reads only the bytes that arrived
    /// since the last call.
    pub(crate) fn is_due(&mut self, input: &[u8], head_bytes_max: usize) -> bool {
        self.searched == 0 || self.is_due_again(input, head_bytes_max)
    }

    #[cold]
    fn is_due_again(&mut self, input: &[u8], head_bytes_max: usize) -> bool {
        let from = (self.searched as usize).min(input.len());
        self.searched = u32::try_from(input.len()).unwrap_or(u32::MAX);
        let mut is_due = input.len() >= head_bytes_max.min(self.parse_at as usize);
        let line_ends = input[from..].iter().enumerate().filter(|&(_, &byte)| byte == b'\n');
        for (index, _) in line_ends {
            let line = &input[..from + index];
            is_due |= !line.ends_with(b"\r") || line.ends_with(b"\n\r") || line.len() < 2;
            if self.lines < EARLY_LINES {
                self.lines += 1;
                is_due = true;
            }
        }
        is_due
    }

    /// Records that the first `len` bytes are an incomplete head.
    #[cold]
    pub(crate) fn note_partial(&mut self, len: usize) {
        self.searched = u32::try_from(len).unwrap_or(u32::MAX);
        self.parse_at = self.searched.saturating_mul(2);
    }

    /// Starts again with another head.
    pub(crate) fn reset(&mut self) {
        if self.searched != 0 {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::field::Slots;
    use super::super::head::{HeadLimits, Parsed, parse_request, parse_response};
    use super::*;

    const LIMITS: HeadLimits =
        HeadLimits { head_bytes_max: 60_000, target_bytes_max: 60_000, fields_max: 128 };

    /// Returns the work until the verdict over `input`, which arrives in pieces of `step` bytes:
    /// the bytes searched plus the bytes parsed. Also returns the bytes that had arrived by then.
    fn work(input: &[u8], step: usize, is_request: bool) -> (usize, usize) {
        let mut progress = HeadProgress::default();
        let (mut work, mut before) = (0, 0);
        for end in (step..input.len()).step_by(step).chain([input.len()]) {
            let came = &input[..end];
            work += end - before;
            before = end;
            if !progress.is_due(came, LIMITS.head_bytes_max) {
                continue;
            }
            work += end;
            let mut slots = Slots::new();
            let is_partial = match is_request {
                true => matches!(parse_request(came, &mut slots, &LIMITS), Ok(Parsed::Partial)),
                false => matches!(parse_response(came, &mut slots, &LIMITS), Ok(Parsed::Partial)),
            };
            if !is_partial {
                return (work, end);
            }
            progress.note_partial(end);
        }
        panic!("no verdict")
    }

    /// The searched and parsed bytes are at most 12 times the length of a head, for any number of
    /// pieces. The verdict comes with the last byte at the latest.
    #[test]
    fn work_is_linear_in_the_length() {
        for is_request in [true, false] {
            let first = if is_request { "GET / HTTP/1.1\r\n" } else { "HTTP/1.1 200 OK\r\n" };
            for len in [1000, 4000, 16_000, 50_000] {
                let rows = [
                    format!("{first}A: {}\r\n\r\n", "x".repeat(len)),
                    format!("{first}{}\r\n", "A: b\r\n".repeat(120)) + &"x".repeat(len),
                    format!("{first}A: {}\r\n\r\n", "\t ".repeat(len / 2)),
                    format!("{first}A: {}\r\nB\nC: d\r\n\r\n", "x".repeat(len)),
                    format!("{}{first}A: {}\r\n\r\n", "\r\n".repeat(4), "x".repeat(len)),
                    format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(len)),
                    format!("{first}{}", "x".repeat(60_000)),
                ];
                for input in rows {
                    for step in [1, 7, 1000, input.len()] {
                        let (work, end) = work(input.as_bytes(), step, is_request);
                        assert!(work <= 12 * end, "{work} for {end} by {step}: {input:.30}");
                    }
                }
            }
        }
    }

    /// A fault in the first line, or a bare LF in a later one, is found at the end of that line.
    #[test]
    fn early_errors_are_seen_early() {
        for (input, seen_at) in [
            ("GET /a\r\n", 8),
            ("\r\n\r\nGET / HTTP/3.0\r\n", 20),
            ("GET / HTTP/1.1\r\nHost: h\n", 24),
        ] {
            let input = input.to_owned() + "Some-Field: of no matter, and long enough\r\n\r\n";
            assert_eq!(work(input.as_bytes(), 1, true).1, seen_at, "{input:?}");
        }
    }
}
