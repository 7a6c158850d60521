//! JSON strings from bytes of peers, for the log and the access log.
use std::io::Write;

/// Appends a JSON string. Invisible characters are escaped as `\uHHHH`. A byte that is not part of
/// UTF-8 appears as `\xHH` in the text.
pub(super) fn put_string(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    if is_plain(text) {
        out.extend_from_slice(text);
        return out.push(b'"');
    }
    let mut plain = 0;
    for (at, byte) in text.iter().enumerate() {
        if matches!(byte, b' '..=b'~') && !b"\"\\".contains(byte) {
            continue;
        }
        out.extend_from_slice(&text[plain..at]);
        plain = at;
        if !byte.is_ascii() {
            break;
        }
        plain = at + 1;
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
            _ => put(out, format_args!("\\u{byte:04x}")),
        }
    }
    put_foreign(out, &text[plain..]);
    out.push(b'"');
}

/// Whether all bytes are visible ASCII other than quotes and backslashes. The loop does not stop
/// early, so that the compiler can vectorise it.
pub(super) fn is_plain(text: &[u8]) -> bool {
    let is_plain = |byte: u8| matches!(byte, b' '..=b'~') & (byte != b'"') & (byte != b'\\');
    text.iter().fold(true, |all, byte| all & is_plain(*byte))
}

/// Appends the rest of a text: either plain ASCII, or beginning with the first byte that is not
/// ASCII.
fn put_foreign(out: &mut Vec<u8>, text: &[u8]) {
    if text.is_ascii() {
        return out.extend_from_slice(text);
    }
    for chunk in text.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '"' | '\\' => out.extend_from_slice(&[b'\\', character as u8]),
                ' '..='~' => out.push(character as u8),
                _ if !character.is_ascii() && character.escape_debug().len() == 1 => {
                    put(out, format_args!("{character}"));
                }
                _ => {
                    for unit in character.encode_utf16(&mut [0; 2]) {
                        put(out, format_args!("\\u{unit:04x}"));
                    }
                }
            }
        }
        for byte in chunk.invalid() {
            put(out, format_args!("\\\\x{byte:02x}"));
        }
    }
}

/// Appends formatted text.
fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    let _ = out.write_fmt(text);
}
