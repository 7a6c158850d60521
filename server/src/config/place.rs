//! Positions in a configuration text, and errors at them.
use std::fmt;
use std::str::Utf8Error;

use jsonc_parser::ast::Object;
use jsonc_parser::common::Ranged;

/// A fault in a configuration text, with its position.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FileError {
    /// The line, from 1.
    pub line: usize,
    /// The column, from 1, in characters.
    pub column: usize,
    /// The path of the value, keys joined by dots; empty for a fault in the JSON itself.
    pub path: String,
    /// The fault in words.
    pub wrong: String,
}

impl FileError {
    /// Returns the error at a byte of a text.
    pub(super) fn new(text: &str, at: usize, path: String, wrong: String) -> Self {
        let (line, column) = position(text, at);
        Self { line, column, path, wrong }
    }

    /// Returns the error for bytes that are not text.
    pub(crate) fn not_utf8(bytes: &[u8], error: Utf8Error) -> Self {
        let valid = bytes.get(..error.valid_up_to()).unwrap_or_default();
        let valid = String::from_utf8_lossy(valid);
        Self::new(&valid, valid.len(), String::new(), "is not UTF-8".to_owned())
    }
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, column, path, wrong } = self;
        write!(f, "{line}:{column}: ")?;
        if !path.is_empty() {
            write!(f, "{path}: ")?;
        }
        f.write_str(wrong)
    }
}

impl std::error::Error for FileError {}

/// Returns the path of a key in the object at a path.
pub(super) fn below(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// Returns the byte offset of the first property with this key, otherwise that of the object.
pub(super) fn first_place(object: &Object<'_>, key: &str) -> usize {
    object.get(key).map_or_else(|| object.start(), |property| property.name.start())
}

/// Returns the line and column of a byte of a text, each from 1 and in characters.
pub(super) fn position(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = 1 + before.matches('\n').count();
    (line, 1 + before[line_start..].chars().count())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Positions count characters, not bytes; row by row.
    #[test]
    fn positions_are_counted_in_characters() {
        let text = "äb\r\nc\n";
        let rows = [(0, (1, 1)), (2, (1, 2)), (5, (2, 1)), (6, (2, 2)), (7, (3, 1)), (99, (3, 1))];
        for (at, expected) in rows {
            assert_eq!(position(text, at), expected, "{at}");
        }
    }
}
