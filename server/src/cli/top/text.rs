//! Text for a terminal: visible characters of known width, and numbers of bounded width.

/// Returns `text` in at most `columns` columns; `…` stands for the rest.
///
/// Characters that are invisible, control the terminal, change the direction of writing or have no
/// known width are escaped.
pub(crate) fn visible(text: &str, columns: usize) -> String {
    let mut shown = String::new();
    let mut used = 0;
    // The end of the longest part after which a `…` still fits.
    let mut cut = 0;
    for character in text.chars() {
        let mut piece = String::new();
        let own = match columns_of(character) {
            Some(own) => {
                piece.push(character);
                own
            }
            None => {
                piece.extend(character.escape_unicode());
                piece.len()
            }
        };
        if used + own > columns {
            shown.truncate(cut);
            if columns > 0 {
                shown.push('…');
            }
            return shown;
        }
        shown.push_str(&piece);
        used += own;
        if used < columns {
            cut = shown.len();
        }
    }
    shown
}

/// Returns the columns of a text that is [`visible`].
pub(crate) fn columns(text: &str) -> usize {
    text.chars().map(|character| columns_of(character).unwrap_or(1)).sum()
}

/// Returns `text` with spaces on its right up to `columns`.
pub(crate) fn left(text: &str, wide: usize) -> String {
    let text = visible(text, wide);
    let room = wide.saturating_sub(columns(&text));
    text + &" ".repeat(room)
}

/// Returns `text` with spaces on its left up to `columns`.
pub(crate) fn right(text: &str, wide: usize) -> String {
    let text = visible(text, wide);
    " ".repeat(wide.saturating_sub(columns(&text))) + &text
}

/// Returns the columns of a visible character; `None` for all others, and for those whose width
/// depends on the terminal.
fn columns_of(character: char) -> Option<usize> {
    match character {
        ' '..='~' => Some(1),
        '\u{ad}' => None,
        // Latin, Greek and Cyrillic without combining marks, and the characters that this program
        // draws.
        '\u{a1}'..='\u{24f}' | '\u{370}'..='\u{373}' | '\u{376}'..='\u{377}' => Some(1),
        '\u{37b}'..='\u{37f}' | '\u{386}' | '\u{388}'..='\u{38a}' | '\u{38c}' => Some(1),
        '\u{38e}'..='\u{3a1}' | '\u{3a3}'..='\u{3ff}' => Some(1),
        '\u{400}'..='\u{482}' | '\u{48a}'..='\u{52f}' => Some(1),
        '\u{2010}'..='\u{2015}' | '\u{2018}'..='\u{201f}' | '…' => Some(1),
        '\u{2580}'..='\u{258f}' => Some(1),
        // Kana, ideographs and Hangul syllables (East Asian Width: wide).
        '\u{3041}'..='\u{3096}' | '\u{30a1}'..='\u{30ff}' => Some(2),
        '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{ac00}'..='\u{d7a3}' => Some(2),
        _ => None,
    }
}

/// Returns a number in at most six columns.
pub(crate) fn number(value: f64) -> String {
    // Minus zero is zero.
    let value = value + 0.0;
    let steps = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    let size = value.abs();
    if !value.is_finite() || size >= 1e15 {
        return if value > 0.0 { ">999T" } else { "?" }.to_owned();
    }
    if size < 99.95 {
        return format!("{value:.1}");
    }
    if size < 9999.5 {
        return format!("{value:.0}");
    }
    let (by, unit) = steps.into_iter().find(|(by, _)| size >= 0.9995 * by).unwrap_or((1.0, ""));
    let part = value / by;
    if part.abs() < 99.95 { format!("{part:.1}{unit}") } else { format!("{part:.0}{unit}") }
}

/// Returns a whole number with its thousands separated.
pub(crate) fn whole(value: f64) -> String {
    if !(0.0..1e15).contains(&value) {
        return number(value);
    }
    let digits = format!("{:.0}", value + 0.0);
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// Returns a time in ms with its unit, in at most seven columns.
pub(crate) fn span(ms: f64) -> String {
    if !ms.is_finite() || ms < 0.0 {
        "?".to_owned()
    } else if ms < 99.95 {
        format!("{ms:.1} ms")
    } else if ms < 999.5 {
        format!("{ms:.0} ms")
    } else if ms < 99_950.0 {
        format!("{:.1} s", ms / 1e3)
    } else if ms < 5_970_000.0 {
        format!("{:.0} min", ms / 6e4)
    } else {
        format!("{} h", number(ms / 3.6e6))
    }
}

/// Returns a share, 0 to 1, as a bar of at most `wide` columns, to an eighth of a column.
pub(crate) fn bar(share: f64, wide: usize) -> String {
    let eighths = (share.clamp(0.0, 1.0) * (wide * 8) as f64).round() as usize;
    let mut text = "█".repeat(eighths / 8);
    if let Some(part) = ["▏", "▎", "▍", "▌", "▋", "▊", "▉"].get((eighths % 8).wrapping_sub(1))
    {
        text.push_str(part);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Characters that control a terminal, hide text or change its direction are escaped. Widths
    /// are those of a terminal; row by row.
    #[test]
    fn foreign_text_is_harmless() {
        for (text, wide, expected) in [
            ("blue", 10, "blue"),
            ("blue", 4, "blue"),
            ("blue", 3, "bl…"),
            ("blue", 1, "…"),
            ("blue", 0, ""),
            ("größer", 9, "größer"),
            ("漢字漢字", 8, "漢字漢字"),
            ("漢字漢字", 7, "漢字漢…"),
            ("漢字漢字", 6, "漢字…"),
            ("\u{1b}[31mred\u{7}", 99, "\\u{1b}[31mred\\u{7}"),
            ("a\r\nb\t\u{9b}2J", 99, "a\\u{d}\\u{a}b\\u{9}\\u{9b}2J"),
            ("\u{202e}txt\u{200b}\u{301}", 99, "\\u{202e}txt\\u{200b}\\u{301}"),
            ("\u{5d0}\u{1f600}", 99, "\\u{5d0}\\u{1f600}"),
            ("ab\u{1b}", 6, "ab…"),
        ] {
            let shown = visible(text, wide);
            assert_eq!(shown, expected, "{text:?}");
            assert!(columns(&shown) <= wide, "{text:?}");
        }
        for character in (0..=0x10_ffff).filter_map(char::from_u32) {
            let shown = visible(&character.to_string(), 20);
            assert!(!shown.contains(char::is_control), "{character:?}");
        }
    }

    /// Texts fill their columns exactly, aligned on either side.
    #[test]
    fn texts_are_aligned() {
        assert_eq!((left("漢", 4), right("漢", 4)), ("漢  ".to_owned(), "  漢".to_owned()));
        assert_eq!((left("blue", 3), right("blue", 3)), ("bl…".to_owned(), "bl…".to_owned()));
    }

    /// Numbers and times fit their columns, whatever a server sends.
    #[test]
    fn numbers_are_short() {
        for (value, expected) in [
            (0.0, "0.0"),
            (-0.0, "0.0"),
            (9.96, "10.0"),
            (99.94, "99.9"),
            (99.96, "100"),
            (9999.0, "9999"),
            (9999.6, "10.0k"),
            (999_499.0, "999k"),
            (999_600.0, "1.0M"),
            (123_456_789.0, "123M"),
            (f64::MAX, ">999T"),
            (f64::NAN, "?"),
        ] {
            assert_eq!(number(value), expected);
        }
        for (ms, expected) in [
            (0.04, "0.0 ms"),
            (17.25, "17.2 ms"),
            (320.0, "320 ms"),
            (1500.0, "1.5 s"),
            (120_000.0, "2 min"),
            (86_400_000.0, "24.0 h"),
            (f64::INFINITY, "?"),
        ] {
            assert_eq!(span(ms), expected);
        }
        for exponent in -300..308 {
            let value = 1.2345 * 10f64.powi(exponent);
            assert!(number(value).len() <= 6 && span(value).len() <= 8, "{value}");
        }
        assert_eq!(
            [0.0, 999.0, 1234.0, 1_234_567.0].map(whole),
            ["0", "999", "1 234", "1 234 567"]
        );
    }

    /// The length of a bar is its share.
    #[test]
    fn bars_show_shares() {
        for (share, expected) in
            [(0.0, ""), (0.5, "████"), (1.0, "████████"), (0.03, "▎"), (7.0, "████████")]
        {
            assert_eq!(bar(share, 8), expected);
        }
    }
}
