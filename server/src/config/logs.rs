//! Rules for the program's log, for the access log, and for the ids of requests.
use serde::{Deserialize, Serialize};

/// The program's log.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct LogRules {
    /// The most detailed level that is written (`info`), optionally by module:
    /// `info,reactor=debug`.
    pub level: String,
    /// The form of a line.
    pub format: LogFormat,
    /// The file that lines are appended to (null: stderr).
    pub file: Option<String>,
}

impl Default for LogRules {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Text, file: None }
    }
}

/// The form of a line of the program's log.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Time, level, module and text.
    #[default]
    Text,
    /// The same as a JSON object.
    Json,
}

impl LogFormat {
    /// Returns the format of this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        match name {
            "text" => Some(Self::Text),
            "json" => Some(Self::Json),
            _ => None,
        }
    }
}

/// The access log: one line for each exchange.
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

/// Ids of requests.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct RequestIdRules {
    /// The name of the field (`X-Request-Id`): 1 to 64 token characters, and not a field that the
    /// proxy itself interprets.
    pub field: String,
    /// The clients whose ids are kept. Requests of other clients get a new id.
    pub take: TakeId,
    /// Whether to send the id to the backend, instead of the client's value of the field (false).
    pub to_backend: bool,
    /// Whether to send the id to the client, instead of the backend's value of the field (false).
    pub to_client: bool,
}

impl Default for RequestIdRules {
    fn default() -> Self {
        Self {
            field: "X-Request-Id".to_owned(),
            take: TakeId::default(),
            to_backend: false,
            to_client: false,
        }
    }
}

/// The clients whose ids are kept.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TakeId {
    /// Hops in `forwarding.trusted`.
    #[default]
    Trusted,
    /// All clients.
    Any,
    /// No clients: every request gets a new id.
    None,
}
