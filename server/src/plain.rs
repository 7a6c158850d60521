//! Makes foreign text safe for a terminal or a log: one line of visible characters. Also formats
//! the system's errors.
use std::borrow::Cow;
use std::io;

/// Returns `text` with every control, format and other invisible character escaped.
///
/// Quotes and backslashes are not escaped, so that ordinary messages stay readable.
pub(crate) fn plain(text: &str) -> Cow<'_, str> {
    if text.chars().all(is_plain) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if is_plain(character) {
            escaped.push(character);
        } else {
            escaped.extend(character.escape_debug());
        }
    }
    Cow::Owned(escaped)
}

/// Applies [`plain`] to each line of a text that has several.
pub(crate) fn plain_lines(text: &str) -> String {
    let lines: Vec<Cow<'_, str>> = text.split('\n').map(plain).collect();
    lines.join("\n")
}

/// Returns a system error in lower case, without its number and without the prefix of std.
pub(crate) fn os_error_text(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.strip_prefix("failed to lookup address information: ").unwrap_or(&text);
    let text = text.split_once(" (os error").map_or(text, |(text, _)| text);
    let mut characters = text.chars();
    characters
        .next()
        .map_or_else(String::new, |first| first.to_lowercase().chain(characters).collect())
}

fn is_plain(character: char) -> bool {
    match character {
        ' '..='~' => true,
        _ if character.is_ascii() => false,
        // A character that is printed as itself is not escaped.
        _ => character.escape_debug().len() == 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Visible text is unchanged, and control sequences are escaped; row by row.
    #[test]
    fn invisible_characters_are_escaped() {
        let rows = [
            ("a \"b\" c\\d 'e' ~", "a \"b\" c\\d 'e' ~"),
            ("größer 漢字", "größer 漢字"),
            ("\u{1b}[31mred\u{7}", "\\u{1b}[31mred\\u{7}"),
            ("a\r\nb\tc\u{7f}\u{9b}", "a\\r\\nb\\tc\\u{7f}\\u{9b}"),
            ("\u{202e}txt\u{200b}\u{2028}", "\\u{202e}txt\\u{200b}\\u{2028}"),
        ];
        for (text, expected) in rows {
            assert_eq!(plain(text), expected);
        }
        assert_eq!(plain_lines("a\u{1b}\nb\n"), "a\\u{1b}\nb\n");
    }
}
