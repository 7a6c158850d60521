//! A configuration text as a tree of values with their positions.
//!
//! The text is JSON with comments and trailing commas. No other extension of JSON is accepted. The
//! parser bounds the nesting, so that no text overflows the stack.
use jsonc_parser::ast::Value;
use jsonc_parser::common::Ranged;
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};
use serde::de::DeserializeOwned;

use super::place::FileError;
use super::read::Node;

/// A well-formed text.
pub(super) struct Document<'t> {
    text: &'t str,
    root: Value<'t>,
}

impl<'t> Document<'t> {
    /// Parses a text that must be an object.
    pub(super) fn parse(text: &'t str) -> Result<Self, FileError> {
        Self::parse_as(text, "must be an object")
    }

    /// Parses a text. `wrong` is the error for an empty text.
    pub(super) fn parse_as(text: &'t str, wrong: &str) -> Result<Self, FileError> {
        let refuse = |at, wrong: &str| FileError::new(text, at, String::new(), wrong.to_owned());
        let options = ParseOptions {
            allow_comments: true,
            allow_trailing_commas: true,
            allow_loose_object_property_names: false,
            allow_missing_commas: false,
            allow_single_quoted_strings: false,
            allow_hexadecimal_numbers: false,
            allow_unary_plus_numbers: false,
            allow_bare_decimal_point_numbers: false,
            allow_non_finite_numbers: false,
            allow_extended_string_escapes: false,
        };
        let parsed = parse_to_ast(text, &CollectOptions::default(), &options)
            .map_err(|error| refuse(error.range().start, &lower(&error.kind().to_string())))?;
        let root = parsed.value.ok_or_else(|| refuse(text.len(), wrong))?;
        Ok(Self { text, root })
    }

    /// Reads the value at a path, or the whole text if the path is empty.
    pub(super) fn read<T: DeserializeOwned>(&self, path: &str) -> Result<T, FileError> {
        let node = match path {
            "" => Node::document(self.text, &self.root),
            _ => Node::new(self.text, self.find(path)),
        };
        T::deserialize(node).map_err(|error| error.into_file_error(self.text, path))
    }

    /// Returns an error at the place of the value at a path, or of the nearest enclosing value if
    /// that is missing.
    pub(super) fn refuse(&self, path: &str, wrong: String) -> FileError {
        FileError::new(self.text, self.find(path).start(), path.to_owned(), wrong)
    }

    /// Whether the text is an object with this key.
    pub(super) fn has_key(&self, key: &str) -> bool {
        self.root.as_object().is_some_and(|object| object.get(key).is_some())
    }

    /// Whether the text is a list whose first element is an object with this key.
    pub(super) fn first_has_key(&self, key: &str) -> bool {
        let first = self.root.as_array().and_then(|list| list.elements.first());
        first.and_then(Value::as_object).is_some_and(|object| object.get(key).is_some())
    }

    /// Returns the value at a path such as `backends[1].url` or `[1].url`, or the nearest one
    /// around it.
    fn find(&self, path: &str) -> &Value<'t> {
        let mut found = &self.root;
        let path = path.strip_prefix('[').unwrap_or(path);
        for step in path.split(['.', '[']).map(|step| step.trim_end_matches(']')) {
            let next = match found {
                Value::Object(object) => object.get(step).map(|property| &property.value),
                Value::Array(array) => {
                    step.parse().ok().and_then(|index: usize| array.elements.get(index))
                }
                _ => None,
            };
            let Some(next) = next else { break };
            found = next;
        }
        found
    }
}

/// Returns the parser's message in lower case, for the end of a line.
fn lower(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values are found by their paths. For a missing value the nearest enclosing one is found; row
    /// by row.
    #[test]
    fn values_are_found() {
        let text = "// a comment: {\n{\"a\": [\n{\"b\": 1},\n2,], /* \"c\": 1 */\n\"c\":\n{\"d\\u0065\": \"}\"}}";
        let document = Document::parse(text).expect("well-formed");
        let rows = [
            ("", (2, 1)),
            ("a", (2, 7)),
            ("a[0]", (3, 1)),
            ("a[0].b", (3, 7)),
            ("a[1]", (4, 1)),
            ("a[2]", (2, 7)),
            ("a.b", (2, 7)),
            ("c", (6, 1)),
            ("c.de", (6, 13)),
            ("c.de.f", (6, 13)),
            ("x.y", (2, 1)),
        ];
        for (path, expected) in rows {
            let error = document.refuse(path, String::new());
            assert_eq!((error.line, error.column), expected, "{path}");
        }
    }

    /// Every prefix of a text, and the text with each byte replaced, is parsed or refused without a
    /// panic.
    #[test]
    fn broken_texts_are_harmless() {
        let text =
            "{\"a\": [{\"b\\\"\": -1.0}, null, \"x\\u00e4\"], \"c\": {\"d\": []}} // e /* f */";
        let try_out = |text: &str| match Document::parse(text) {
            Ok(document) => assert!(document.refuse("a[2]", String::new()).line == 1),
            Err(error) => assert!(!error.wrong.is_empty(), "{text}"),
        };
        for end in 0..text.len() {
            try_out(&text[..end]);
        }
        for at in 0..text.len() {
            for replacement in ["{", "}", "[", "]", "\"", ",", ":", "\\", "ä", "", "/*"] {
                try_out(&format!("{}{replacement}{}", &text[..at], &text[at + 1..]));
            }
        }
    }

    /// Texts with too deep nesting are refused, for each kind of nesting.
    #[test]
    fn deep_texts_are_refused() {
        for (open, close) in [("[", "]"), ("{\"a\":", "}"), ("[{\"a\":", "}]")] {
            let text = format!("{}1{}", open.repeat(100_000), close.repeat(100_000));
            let error = Document::parse(&text).err().expect("too deep");
            assert_eq!(error.wrong, "maximum nesting depth exceeded");
            assert!(Document::parse(&open.repeat(100_000)).is_err());
        }
    }
}
