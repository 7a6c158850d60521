//! Rules for the access log.
use serde::{Deserialize, Serialize};

/// One line for each exchange.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct AccessLogRules {
    /// The file that the lines are appended to, or `stdout` (null: none).
    pub file: Option<String>,
    /// The form of a line.
    pub format: AccessLogFormat,
    /// Whether targets and Referer are logged with their queries (true).
    pub query: bool,
}

impl Default for AccessLogRules {
    fn default() -> Self {
        Self { file: None, format: AccessLogFormat::Json, query: true }
    }
}

/// The form of a line of the access log.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AccessLogFormat {
    /// A JSON object.
    #[default]
    Json,
    /// The combined format of Apache and nginx.
    Combined,
}

impl AccessLogFormat {
    /// Returns the format of this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        match name {
            "json" => Some(Self::Json),
            "combined" => Some(Self::Combined),
            _ => None,
        }
    }
}
