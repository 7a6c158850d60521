//! A configuration from its JSON text; what is refused is refused by line and path.
use std::fmt;

use serde::Deserialize;
use serde_json::Value;

use super::Config;
use super::locate::line_of;

impl Config {
    /// Reads a configuration; keys that are left out have their defaults, and everything is
    /// checked.
    ///
    /// # Errors
    /// The first fault: text that is no JSON, an unknown or repeated key, a wrong type, a value
    /// that [`Config::validate`] refuses.
    pub fn from_json(text: &str) -> Result<Self, FileError> {
        let value: Value = serde_json::from_str(text).map_err(|error| FileError {
            line: error.line().max(1),
            path: String::new(),
            wrong: format!("{} (column {})", without_place(&error), error.column()),
        })?;
        let schema = serde_json::to_value(Self::default()).unwrap_or_default();
        if let Some(path) = find_misshapen(&value, &schema, String::new()) {
            return Err(FileError::new(text, &path, "must be an object".to_owned()));
        }
        let mut source = serde_json::Deserializer::from_str(text);
        let mut track = serde_path_to_error::Track::new();
        let tracked = serde_path_to_error::Deserializer::new(&mut source, &mut track);
        let config = match Self::deserialize(tracked) {
            Ok(config) => config,
            Err(error) => {
                let path = track.path().to_string();
                return Err(FileError::from_serde(text, &path, &error));
            }
        };
        match config.validate() {
            Ok(()) => Ok(config),
            Err(error) => {
                Err(FileError::new(text, &error.path, format!("must be {}", error.allowed)))
            }
        }
    }

    /// The whole configuration as JSON that [`Config::from_json`] reads, indented.
    pub fn to_json(&self) -> String {
        // Plain data with string keys: there is nothing that JSON could not take.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}

/// What is wrong with a configuration text, and where.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FileError {
    /// The line, from 1.
    pub line: usize,
    /// The path of the value, keys joined by dots; empty for a fault in the JSON itself.
    pub path: String,
    /// What is wrong there.
    pub wrong: String,
}

impl FileError {
    fn new(text: &str, path: &str, wrong: String) -> Self {
        Self { line: line_of(text, path), path: path.to_owned(), wrong }
    }

    /// Says a refusal of serde in the words of this configuration. The words of a message that
    /// is not known here stay as they are.
    fn from_serde(text: &str, path: &str, error: &serde_json::Error) -> Self {
        let path = if path == "." { "" } else { path };
        let message = without_place(error);
        // Serde stands right behind the key when it refuses one.
        let line = error.line();
        if let Some((_, known)) =
            message.strip_prefix("unknown field ").and_then(|rest| rest.split_once("`, expected "))
        {
            let known = known.strip_prefix("one of ").unwrap_or(known).replace('`', "");
            let wrong = format!("unknown key; known: {known}");
            return Self { line, path: path.to_owned(), wrong };
        }
        if let Some(key) = message.strip_prefix("duplicate field ") {
            let path = below(path, key.trim_matches('`'));
            return Self { line, path, wrong: "repeated".to_owned() };
        }
        if let Some(key) = message.strip_prefix("missing field ") {
            return Self::new(text, path, format!("needs {}", key.replace('`', "")));
        }
        let refused = ["invalid type: ", "invalid value: ", "unknown variant "];
        let parts = refused
            .iter()
            .find_map(|start| message.strip_prefix(start))
            .and_then(|rest| rest.rsplit_once(", expected "));
        let wrong = match parts {
            Some((found, expected)) => {
                let allowed = Config::allowed_at(path).unwrap_or_else(|| plain(expected));
                format!("must be {allowed}, not {}", found.replace('`', ""))
            }
            None => message,
        };
        Self::new(text, path, wrong)
    }
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            write!(f, "{}: {}", self.line, self.wrong)
        } else {
            write!(f, "{}: {}: {}", self.line, self.path, self.wrong)
        }
    }
}

impl std::error::Error for FileError {}

/// The path of the first value that is an object in one of the two and none in the other. Serde
/// alone would take `[]` for an object whose keys are all left out.
fn find_misshapen(value: &Value, schema: &Value, path: String) -> Option<String> {
    match (schema, value) {
        (Value::Object(schema), Value::Object(object)) => object.iter().find_map(|(key, value)| {
            schema.get(key).and_then(|schema| find_misshapen(value, schema, below(&path, key)))
        }),
        (Value::Object(_), _) => Some(path),
        (Value::Array(schema), Value::Array(array)) => {
            let schema = schema.first()?;
            array.iter().enumerate().find_map(|(index, value)| {
                find_misshapen(value, schema, format!("{path}[{index}]"))
            })
        }
        _ => None,
    }
}

/// The path of a key in the object at a path.
fn below(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// An error's text without the place that serde_json puts behind it.
fn without_place(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    text.strip_suffix(&place).map_or_else(|| text.clone(), str::to_owned)
}

/// What serde expected, for those who do not write Rust.
fn plain(expected: &str) -> String {
    match expected {
        "usize" | "u64" | "u32" => "a whole number, 0 or more".to_owned(),
        "f64" => "a number".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "a sequence" => "a list".to_owned(),
        other => other.replace('`', ""),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::Listen;

    #[track_caller]
    fn refusal(text: &str) -> String {
        Config::from_json(text).expect_err(text).to_string()
    }

    /// The whole default configuration, written out and read back, is itself.
    #[test]
    fn default_survives_json() {
        let config = Config::default();
        assert_eq!(Config::from_json(&config.to_json()), Ok(config));
    }

    /// Values other than the defaults, one of every kind, are written so that they are read back.
    #[test]
    fn other_values_survive_json() {
        let announced = Listen { address: "[::1]:8080".to_owned(), proxy_protocol: true };
        let listen = vec!["localhost:0".into(), announced];
        let mut config = Config { listen, backends: Vec::new(), ..Config::default() };
        config.routing.switch.cooldown = Duration::from_millis(1);
        config.routing.switch.spill_over = false;
        config.limits.body_bytes_max = u64::MAX;
        config.timeouts.tunnel_idle = Duration::from_secs(86_400);
        config.forwarding.keep_host = false;
        config.forwarding.trusted = vec!["10.0.0.0/8".to_owned()];
        config.overflow = super::super::Overflow::Reject;
        config.stats.allow.clear();
        assert_eq!(Config::from_json(&config.to_json()), Ok(config));
    }

    /// An empty object is the default; a partial one changes what it names.
    #[test]
    fn missing_keys_have_defaults() {
        assert_eq!(Config::from_json("{}"), Ok(Config::default()));
        let config = Config::from_json(r#"{"timeouts": {"connectMs": 5}}"#).expect("valid");
        let mut expected = Config::default();
        expected.timeouts.connect = Duration::from_millis(5);
        assert_eq!(config, expected);
    }

    /// Every kind of fault is told with line, path and what is allowed; row by row.
    #[test]
    fn faults_are_told_by_line_and_path() {
        let rows = [
            (
                "{\n\"limits\": {\n\"headBytesMax\": 1023}}",
                "3: limits.headBytesMax: must be a whole number from 1024 to 60000",
            ),
            (
                "{\n\"limits\": {\n\"headBytesMax\": -1}}",
                "3: limits.headBytesMax: must be a whole number from 1024 to 60000, \
                 not integer -1",
            ),
            (
                "{\"limits\": {\n\"clients\":\n1.5\n}}",
                "3: limits.clients: must be a whole number from 1 to 1000000, \
                 not floating point 1.5",
            ),
            (
                "{\"limits\": {\"fieldsMax\": \"9\"}}",
                "1: limits.fieldsMax: must be a whole number from 8 to 1000, not string \"9\"",
            ),
            (
                "{\"timeouts\": {\n\n\"connectMs\": null}}",
                "3: timeouts.connectMs: must be milliseconds from 1 to 86400000, not null",
            ),
            (
                "{\"timeouts\":\n{\"connectMs\": 0}}",
                "2: timeouts.connectMs: must be milliseconds from 1 to 86400000",
            ),
            (
                "{\"limits\": {\n\"headBytesMax\": 2048}}",
                "1: limits.targetBytesMax: must be at most limits.headBytesMax, which is 2048",
            ),
            (
                "{\n\"forwarding\": {\"keepHost\":\n1}}",
                "3: forwarding.keepHost: must be true or false, not integer 1",
            ),
            (
                "{\n\"forwarding\": {\n\"keephost\": true}}",
                "3: forwarding.keephost: unknown key; known: keepHost, via, trusted, halfClose, retryRefused",
            ),
            (
                "{\n\n\"listne\": []}",
                "3: listne: unknown key; known: listen, backends, routing, \
                limits, timeouts, forwarding, pool, overflow, stats, probePaths, recording, \
                stateFile",
            ),
            (
                "{\n\"a.b\":\n1}",
                "2: a.b: unknown key; known: listen, backends, routing, \
                limits, timeouts, forwarding, pool, overflow, stats, probePaths, recording, \
                stateFile",
            ),
            ("{\"forwarding\": {\"via\": \"a\",\n\"via\": \"b\"}}", "2: forwarding.via: repeated"),
            ("{\"listen\": [],\n\"listen\": []}", "2: listen: repeated"),
            ("{\n\"listen\": \"a:1\"}", "2: listen: must be a list, not string \"a:1\""),
            (
                "{\n\"listen\": [\n1]}",
                "3: listen[0]: must be a string or an object with address and proxyProtocol, not integer 1",
            ),
            (
                "{\"listen\": [{\"address\": \"a:1\",\n\"proxyProtocol\": true}]}",
                "2: listen[0].proxyProtocol: must be false while forwarding.trusted is empty",
            ),
            ("{\n\"listen\": [{\"proxyProtocol\": true}]}", "2: listen[0]: needs address"),
            (
                "{\"listen\": [\n{\"adress\": \"a:1\"}]}",
                "2: listen[0].adress: unknown key; known: address or proxyProtocol",
            ),
            (
                "{\"listen\": [{\"address\": \"a:1\",\n\"proxyProtocol\": 1}]}",
                "2: listen[0].proxyProtocol: must be true or false, not integer 1",
            ),
            ("{\n\"listen\": []}", "2: listen: must be a list of 1 to 64 entries"),
            ("{\"overflow\":\n\"drop\"}", "2: overflow: must be wait or reject, not drop"),
            (
                "{\"backends\": [\n{\"name\": \"A\", \"url\": \"http://a\"},\n\
                 {\"name\": \"A\", \"url\": \"http://b\"}]}",
                "3: backends[1].name: must be a name of its own, and \"A\" is there already",
            ),
            (
                "{\"backends\": [{\"name\": \"A\",\n\"url\": \"ftp://a\"}]}",
                "2: backends[0].url: must be http://HOST[:PORT], and \"ftp://a\" does not begin \
                 with http://",
            ),
            ("{\"backends\": [\n{\"name\": \"A\"}]}", "2: backends[0]: needs url"),
            (
                "{\"backends\": [\n{\"name\": \"A\", \"url\": \"http://a\", \"weight\": 1}]}",
                "2: backends[0].weight: unknown key; known: name, url, limit",
            ),
            ("{\"backends\": [\n[\"A\", \"http://a\"]]}", "2: backends[0]: must be an object"),
            ("{\n\"limits\": []}", "2: limits: must be an object"),
            ("{\n\"limits\": null}", "2: limits: must be an object"),
            ("{\"routing\": {\n\"switch\": [30]}}", "2: routing.switch: must be an object"),
            ("[]", "1: must be an object"),
            ("\n7", "2: must be an object"),
            (
                "{\"routing\": {\"switch\":\n{\"threshold\": -1}}}",
                "2: routing.switch.threshold: must be a number from 0 to 1000000",
            ),
            (
                "{\"routing\": {\"switch\":\n{\"threshold\": \"high\"}}}",
                "2: routing.switch.threshold: must be a number, not string \"high\"",
            ),
            (
                "{\"routing\": {\"switch\":\n{\"cooldownMs\": -1}}}",
                "2: routing.switch.cooldownMs: must be a whole number, 0 or more, not integer -1",
            ),
            (
                "{\"stats\": {\"allow\": [\"::1\",\n\"10.0.0.0/33\"]}}",
                "2: stats.allow[1]: must be ADDRESS or ADDRESS/PREFIX, and \"10.0.0.0/33\" has a \
                 prefix length that is none",
            ),
            ("", "1: EOF while parsing a value (column 0)"),
            ("{\n\"listen\": [\"a:1\"]\n\"x\": 1}", "3: expected `,` or `}` (column 1)"),
            ("{}\n{}", "2: trailing characters (column 1)"),
            ("{\"listen\": [\n1e999]}", "2: number out of range (column 5)"),
            ("// a comment\n{}", "1: expected value (column 1)"),
        ];
        for (text, expected) in rows {
            assert_eq!(refusal(text), expected, "{text}");
        }
    }
}
