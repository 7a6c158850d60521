//! Keys from the bytes that a terminal sends.

/// A key with a meaning.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Key {
    Letter(char),
    Up,
    Down,
    PageUp,
    PageDown,
    Home,
    End,
    Escape,
}

/// Returns the keys in bytes that arrived together. A sequence without a meaning is skipped.
pub(crate) fn keys(bytes: &[u8]) -> Vec<Key> {
    let mut keys = Vec::new();
    let mut rest = bytes;
    while let [first, after @ ..] = rest {
        rest = after;
        match first {
            b'k' => keys.push(Key::Up),
            b'j' => keys.push(Key::Down),
            b'a'..=b'z' | b'A'..=b'Z' => {
                keys.push(Key::Letter(char::from(first.to_ascii_lowercase())));
            }
            0x1b => match after {
                [b'[' | b'O', sequence @ ..] => {
                    // CSI and SS3: parameters, then one final byte.
                    let is_final = |byte: &u8| (0x40..=0x7e).contains(byte);
                    let end = sequence.iter().position(is_final).unwrap_or(sequence.len());
                    let (body, tail) = sequence.split_at(end);
                    rest = tail.get(1..).unwrap_or_default();
                    keys.extend(meaning(body, tail.first().copied()));
                }
                // Another key in the same read is separate: combinations with Alt are not used.
                _ => keys.push(Key::Escape),
            },
            _ => {}
        }
    }
    keys
}

fn meaning(body: &[u8], end: Option<u8>) -> Option<Key> {
    Some(match (body, end?) {
        (_, b'A') => Key::Up,
        (_, b'B') => Key::Down,
        (_, b'H') => Key::Home,
        (_, b'F') => Key::End,
        (b"5", b'~') => Key::PageUp,
        (b"6", b'~') => Key::PageDown,
        (b"1" | b"7", b'~') => Key::Home,
        (b"4" | b"8", b'~') => Key::End,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Letters and escape sequences are read; unknown input is skipped.
    #[test]
    fn keys_are_read() {
        let rows: [(&[u8], &[Key]); 9] = [
            (b"nQ", &[Key::Letter('n'), Key::Letter('q')]),
            (b"jk", &[Key::Down, Key::Up]),
            (b"\x1b", &[Key::Escape]),
            (b"\x1b[A\x1bOB", &[Key::Up, Key::Down]),
            (b"\x1b[5~\x1b[6~\x1b[H\x1b[4~", &[Key::PageUp, Key::PageDown, Key::Home, Key::End]),
            (b"\x1b[200~\x1b[1;5Cn", &[Key::Letter('n')]),
            (b"\x1bn", &[Key::Escape, Key::Letter('n')]),
            (b"\x1b[", &[]),
            (b"\xff\x00\n 9", &[]),
        ];
        for (bytes, expected) in rows {
            assert_eq!(keys(bytes), expected, "{bytes:?}");
        }
    }
}
