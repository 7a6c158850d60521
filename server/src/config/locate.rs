//! On which line of a JSON text a value stands.
//!
//! Deserialized values no longer know where they came from, so a value that is out of range is
//! found again by its path. The text has been parsed before, so a fault in it only means that
//! nothing is found.

/// The line, from 1, of the value at a path such as `backends[1].url`; where the text has no such
/// value, the line of the nearest value around it.
pub(super) fn line_of(text: &str, path: &str) -> usize {
    let mut cursor = Cursor { text, at: 0 };
    cursor.skip_space();
    let mut found = cursor.at;
    for step in steps(path) {
        let is_there = match step {
            Step::Key(key) => cursor.enter_object(key),
            Step::Index(index) => cursor.enter_array(index),
        };
        if is_there.is_none() {
            break;
        }
        found = cursor.at;
    }
    let before = text.as_bytes().get(..found).unwrap_or_default();
    1 + before.iter().filter(|byte| **byte == b'\n').count()
}

/// One step down into a value.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

/// The steps of a path. Keys of a configuration contain neither dots nor brackets.
fn steps(path: &str) -> impl Iterator<Item = Step<'_>> {
    path.split(['.', '[']).filter(|part| !part.is_empty()).map(|part| {
        let index = part.strip_suffix(']').and_then(|digits| digits.parse().ok());
        index.map_or(Step::Key(part), Step::Index)
    })
}

/// A place in a JSON text. Every method that finds nothing of its kind returns `None` and leaves
/// the cursor anywhere.
struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    /// Goes from the start of an object to the value of a key; of several equal keys, the last.
    fn enter_object(&mut self, wanted: &str) -> Option<()> {
        self.expect(b'{')?;
        let mut found = None;
        while self.peek()? == b'"' {
            let key = self.string()?;
            self.expect(b':')?;
            self.skip_space();
            if serde_json::from_str::<String>(key).is_ok_and(|key| key == wanted) {
                found = Some(self.at);
            }
            self.skip_value()?;
            if self.peek()? != b',' {
                break;
            }
            self.at += 1;
            self.skip_space();
        }
        self.at = found?;
        Some(())
    }

    /// Goes from the start of an array to one of its elements.
    fn enter_array(&mut self, index: usize) -> Option<()> {
        self.expect(b'[')?;
        self.skip_space();
        for _ in 0..index {
            self.skip_value()?;
            self.expect(b',')?;
            self.skip_space();
        }
        (self.peek()? != b']').then_some(())
    }

    /// Goes past a value, however deep it is nested.
    fn skip_value(&mut self) -> Option<()> {
        let mut depth = 0_usize;
        loop {
            match self.peek()? {
                b'"' => {
                    self.string()?;
                }
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                    continue;
                }
                b'}' | b']' => {
                    depth = depth.checked_sub(1)?;
                    self.at += 1;
                }
                b',' | b':' => {
                    self.at += 1;
                    continue;
                }
                _ => {
                    let rest = self.text.get(self.at..)?;
                    self.at += rest.find(IS_AFTER_SCALAR).unwrap_or(rest.len());
                }
            }
            if depth == 0 {
                return Some(());
            }
        }
    }

    /// Goes past a string and returns it with its quotes.
    fn string(&mut self) -> Option<&'a str> {
        let start = self.at;
        let bytes = self.text.as_bytes();
        self.at += 1;
        loop {
            match bytes.get(self.at)? {
                b'"' => break,
                b'\\' => self.at += 2,
                _ => self.at += 1,
            }
        }
        self.at += 1;
        self.text.get(start..self.at)
    }

    /// Goes past space and one byte, if it is this one, and the space behind it.
    fn expect(&mut self, byte: u8) -> Option<()> {
        if self.peek()? != byte {
            return None;
        }
        self.at += 1;
        self.skip_space();
        Some(())
    }

    /// Goes past space and looks at what follows.
    fn peek(&mut self) -> Option<u8> {
        self.skip_space();
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_space(&mut self) {
        let rest = self.text.as_bytes().get(self.at..).unwrap_or_default();
        let is_space = |byte: &&u8| matches!(**byte, b' ' | b'\t' | b'\n' | b'\r');
        self.at += rest.iter().take_while(is_space).count();
    }
}

/// What ends a number, `true`, `false` or `null`.
const IS_AFTER_SCALAR: [char; 8] = [',', ':', ']', '}', ' ', '\t', '\n', '\r'];

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines of values in a text with nesting, escapes and all kinds of values; row by row.
    #[test]
    fn values_are_found_on_their_lines() {
        let text = r#"
{
  "list": [
    [1, 2, {"url": "no"}], "]}\"",
    {
      "url": "a\\",
      "name":
        "b"
    }, { "url": "c" }
  ],
  "n\u0061me": { "x": -1.5e3, "y": null,
    "z": true }, "empty": {}, "none": [],
  "list2": 7
}
"#;
        let rows = [
            ("", 2),
            ("list", 3),
            ("list[0]", 4),
            ("list[0][2].url", 4),
            ("list[1]", 4),
            ("list[2]", 5),
            ("list[2].url", 6),
            ("list[2].name", 8),
            ("list[3]", 9),
            ("list[3].url", 9),
            ("name", 11),
            ("name.x", 11),
            ("name.z", 12),
            ("list2", 13),
        ];
        for (path, line) in rows {
            assert_eq!(line_of(text, path), line, "{path}");
        }
    }

    /// What is not there gives the line of what is nearest around it.
    #[test]
    fn missing_values_give_the_nearest_line() {
        let text = "{\n\"a\": {\n\"b\": [\n1\n]},\n\"c\": {}\n}";
        let rows = [
            ("a.x", 2),
            ("a.b[1]", 3),
            ("a.b[0].y", 4),
            ("a[0]", 2),
            ("c.x", 6),
            ("x.y.z", 1),
            ("[0]", 1),
        ];
        for (path, line) in rows {
            assert_eq!(line_of(text, path), line, "{path}");
        }
    }

    /// Of keys that stand twice, the last is meant.
    #[test]
    fn last_of_equal_keys_is_found() {
        assert_eq!(line_of("{\"a\": 1,\n\"a\": 2}", "a"), 2);
    }

    /// Broken and cut texts find something or nothing, and never panic: every prefix of a text,
    /// and the text with every byte replaced.
    #[test]
    fn broken_texts_are_harmless() {
        let text = "{\"a\": [{\"b\\\"\": -1.0}, null, \"x\\u00e4\"], \"c\": {\"d\": []}}";
        for end in 0..text.len() {
            line_of(&text[..end], "a[2]");
            line_of(&text[..end], "c.d[0]");
        }
        for at in 0..text.len() {
            for replacement in ["{", "}", "[", "]", "\"", ",", ":", "\\", "ä", ""] {
                let broken = format!("{}{replacement}{}", &text[..at], &text[at + 1..]);
                line_of(&broken, "a[2]");
                line_of(&broken, "c.d[0]");
            }
        }
    }

    /// Nesting of any depth is gone past without recursion.
    #[test]
    fn depth_is_no_matter() {
        let deep = format!("{{\"a\": {}{},\n\"b\": 1}}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(line_of(&deep, "b"), 2);
    }
}
