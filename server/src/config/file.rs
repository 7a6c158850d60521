//! Reads a configuration from its text. Every error names the line, the column and the path.
use std::collections::BTreeMap;

use intelliproxy_core::{ConfigError, Rules};
use serde_json::Value;

use super::Config;
use super::jsonc::Document;
use super::place::{FileError, below};

impl Config {
    /// Reads a configuration from JSON, which may have comments and trailing commas. Omitted keys
    /// have their defaults, and every value is checked.
    ///
    /// # Errors
    /// The first fault: text that is not JSON, an unknown or repeated key, a wrong type, a value
    /// that [`Config::validate`] refuses.
    pub fn from_json(text: &str) -> Result<Self, FileError> {
        Self::from_json_and(text, |_| Ok(()))
    }

    /// Like [`from_json`](Self::from_json), with an additional check of the values.
    pub(crate) fn from_json_and(
        text: &str,
        check: impl FnOnce(&Self) -> Result<(), ConfigError>,
    ) -> Result<Self, FileError> {
        let document = Document::parse(text)?;
        let config: Self = document.read("")?;
        match config.validate().and_then(|()| check(&config)) {
            Ok(()) => Ok(config),
            Err(error) => Err(document.refuse(&error.path, format!("must be {}", error.allowed))),
        }
    }

    /// Returns the whole configuration as indented JSON without the values of fields of health
    /// checks, which may be secrets.
    pub(crate) fn to_public_json(&self) -> String {
        let mut public = self.clone();
        let of_backends = public.backends.iter_mut().filter_map(|one| one.health.as_mut());
        let own = of_backends.filter_map(|health| health.fields.as_mut());
        for value in own.chain(public.health.fields.as_mut()).flat_map(BTreeMap::values_mut) {
            "***".clone_into(value);
        }
        public.to_json()
    }

    /// Returns the whole configuration as indented JSON, which [`Config::from_json`] reads.
    pub fn to_json(&self) -> String {
        // Plain data with string keys can always be written as JSON.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// Returns the whole configuration as a tree. It is read from the text: to serialise into a tree
    /// would be a second copy of that code, of 80 KB.
    pub(crate) fn to_value(&self) -> Value {
        serde_json::from_str(&self.to_json()).unwrap_or_default()
    }
}

/// Reads only the routing rules, from a whole configuration or from its `routing` object.
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

#[cfg(test)]
mod tests;
