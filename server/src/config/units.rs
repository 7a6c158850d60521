//! Times and sizes with a unit, such as `"2s"` and `"64KiB"`, instead of numbers.

/// Unit of a key's number.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Unit {
    /// Milliseconds.
    Time,
    /// Bytes.
    Size,
}

impl Unit {
    /// Returns the unit of a key, by its name: `connectMs`, `headBytesMax`.
    pub(super) fn of_key(key: &str) -> Option<Self> {
        if key.ends_with("Ms") {
            Some(Self::Time)
        } else if key.contains("Bytes") || key.starts_with("bytes") {
            Some(Self::Size)
        } else {
            None
        }
    }

    /// Reads a whole number with a unit after it. Returns milliseconds or bytes; `None` for any
    /// other text or an overflow.
    pub(super) fn parse(self, text: &str) -> Option<u64> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, name) = text.split_at(digits);
        let (_, factor) = self.names().iter().find(|(known, _)| *known == name)?;
        number.parse::<u64>().ok()?.checked_mul(*factor)
    }

    /// Returns examples of such a text, for errors.
    pub(super) const fn examples(self) -> &'static str {
        match self {
            Self::Time => "a text such as \"1500ms\", \"2s\", \"5m\" or \"1h\"",
            Self::Size => "a text such as \"512B\", \"64KiB\", \"8MiB\" or \"1GiB\"",
        }
    }

    const fn names(self) -> &'static [(&'static str, u64)] {
        match self {
            Self::Time => &[("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)],
            Self::Size => &[("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every unit is read. Other texts and overflows are refused; row by row.
    #[test]
    fn texts_are_read() {
        let rows = [
            (Unit::Time, "1500ms", Some(1500)),
            (Unit::Time, "2s", Some(2000)),
            (Unit::Time, "5m", Some(300_000)),
            (Unit::Time, "24h", Some(86_400_000)),
            (Unit::Time, "0s", Some(0)),
            (Unit::Size, "512B", Some(512)),
            (Unit::Size, "64KiB", Some(65_536)),
            (Unit::Size, "8MiB", Some(8_388_608)),
            (Unit::Size, "1GiB", Some(1_073_741_824)),
            (Unit::Time, "18446744073709551615ms", Some(u64::MAX)),
            (Unit::Time, "18446744073709551616ms", None),
            (Unit::Time, "18446744073709552s", None),
            (Unit::Size, "17179869184GiB", None),
            (Unit::Time, "", None),
            (Unit::Time, "s", None),
            (Unit::Time, "5", None),
            (Unit::Time, "1.5s", None),
            (Unit::Time, "-1s", None),
            (Unit::Time, "+1s", None),
            (Unit::Time, "1 s", None),
            (Unit::Time, " 1s", None),
            (Unit::Time, "1S", None),
            (Unit::Time, "1KiB", None),
            (Unit::Size, "1kb", None),
            (Unit::Size, "1s", None),
            (Unit::Size, "\u{661}B", None),
        ];
        for (unit, text, expected) in rows {
            assert_eq!(unit.parse(text), expected, "{unit:?} {text}");
        }
    }

    /// The name of a key determines its unit; row by row.
    #[test]
    fn keys_have_units() {
        let rows = [
            ("connectMs", Some(Unit::Time)),
            ("headBytesMax", Some(Unit::Size)),
            ("bytesMax", Some(Unit::Size)),
            ("clients", None),
            ("MsThings", None),
        ];
        for (key, expected) in rows {
            assert_eq!(Unit::of_key(key), expected, "{key}");
        }
    }
}
