//! The repository's documents, and their tables of configuration keys.
#![allow(dead_code)]
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// The document that lists flags and keys.
pub(crate) const CONFIGURATION: &str = "server/docs/configuration.md";

/// One row of a table of keys: `` | `key` | type | default | range | meaning | ``.
pub(crate) struct KeyRow {
    pub(crate) key: String,
    pub(crate) kind: String,
    pub(crate) default: String,
    /// In Markdown, like the meaning.
    pub(crate) range: String,
    pub(crate) meaning: String,
}

/// Returns the rows of all tables of keys.
pub(crate) fn key_rows() -> Vec<KeyRow> {
    let document = read(&root().join(CONFIGURATION));
    let is_key = |line: &&str| line.starts_with("| `") && !line.starts_with("| `-");
    let row = |line: &str| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [key, kind, default, range, meaning] = cells[..] else {
            panic!("a row of keys has five cells: {line}");
        };
        let [key, default] = [key, default].map(|cell| cell.trim_matches('`').to_owned());
        let [kind, range, meaning] = [kind, range, meaning].map(str::to_owned);
        KeyRow { key, kind, default, range, meaning }
    };
    document.lines().filter(is_key).map(row).collect()
}

/// Collects every leaf of a configuration by its path. Lists are leaves.
pub(crate) fn flatten(path: &str, value: &Value, into: &mut BTreeMap<String, Value>) {
    let Value::Object(map) = value else {
        into.insert(path.to_owned(), value.clone());
        return;
    };
    for (key, value) in map {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        flatten(&path, value, into);
    }
}

/// Returns the text of a file.
pub(crate) fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// Returns the folder of the repository.
pub(crate) fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().expect("tests is a folder of the repository").to_owned()
}
