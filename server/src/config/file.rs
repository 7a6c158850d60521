//! A configuration from its text. Every refusal names the line, the column and the path.
use std::fmt;
use std::string::FromUtf8Error;

use intelliproxy_core::Rules;

use super::Config;
use super::document::{Document, position};

impl Config {
    /// Reads a configuration from JSON, which may have comments and trailing commas. Keys that are
    /// left out have their defaults, and every value is checked.
    ///
    /// # Errors
    /// The first fault: text that is not JSON, an unknown or repeated key, a wrong type, a value
    /// that [`Config::validate`] refuses.
    pub fn from_json(text: &str) -> Result<Self, FileError> {
        let document = Document::parse(text)?;
        let config: Self = document.read("")?;
        match config.validate() {
            Ok(()) => Ok(config),
            Err(error) => Err(document.refuse(&error.path, format!("must be {}", error.allowed))),
        }
    }

    /// The whole configuration as JSON that [`Config::from_json`] reads, indented.
    pub fn to_json(&self) -> String {
        // Plain data with string keys can always be written as JSON.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}

/// Reads the rules of routing alone: from a whole configuration, or from its `routing` object.
///
/// # Errors
/// As for [`Config::from_json`]; other parts of a configuration are not checked.
pub(crate) fn rules_from_json(text: &str) -> Result<Rules, FileError> {
    let document = Document::parse(text)?;
    let above = if document.has_key("routing") { "routing" } else { "" };
    let rules: Rules = document.read(above)?;
    match rules.validate() {
        Ok(()) => Ok(rules),
        Err(error) => {
            let path = below(above, &error.path);
            Err(document.refuse(&path, format!("must be {}", error.allowed)))
        }
    }
}

/// The path of a key in the object at a path.
pub(super) fn below(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// A fault in a configuration text, with its place.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FileError {
    /// The line, from 1.
    pub line: usize,
    /// The column, from 1, in characters.
    pub column: usize,
    /// The path of the value, keys joined by dots; empty for a fault in the JSON itself.
    pub path: String,
    /// The fault, in words.
    pub wrong: String,
}

impl FileError {
    /// The error at a byte of a text.
    pub(super) fn new(text: &str, at: usize, path: String, wrong: String) -> Self {
        let (line, column) = position(text, at);
        Self { line, column, path, wrong }
    }

    /// The error for bytes that are not a text.
    pub(crate) fn not_utf8(error: &FromUtf8Error) -> Self {
        let valid = error.as_bytes().get(..error.utf8_error().valid_up_to()).unwrap_or_default();
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

#[cfg(test)]
mod tests;
