//! The rules that keep requests with a common key at one backend.
use serde::{Deserialize, Serialize};

use super::range::{self, ConfigError};

/// The origin of a request's key, and the delay beyond which another backend serves it.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct AffinityRules {
    /// The origin of the key (null: requests have no keys).
    pub by: Option<AffinityBy>,
    /// The name of the cookie (null: [`COOKIE`](Self::COOKIE)) or of the field (null:
    /// [`FIELD`](Self::FIELD)). It must be null for the client's address.
    pub name: Option<String>,
    /// The owner of a key serves it while its expected delay is at most this many times the lowest
    /// delay of any backend; 0, or 1 to 100. With 0 the owner's delay does not matter. Null is 0
    /// for a cookie, and [`SLACK_USUAL`](Self::SLACK_USUAL) otherwise.
    pub slack: Option<f64>,
}

/// The origin of a request's key.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum AffinityBy {
    /// A cookie that the proxy sets. It names the backend of the session's first request.
    Cookie,
    /// A field of the request.
    Header,
    /// The client's address.
    ClientAddress,
}

impl AffinityRules {
    /// The default name of the cookie.
    pub const COOKIE: &'static str = "intelliproxy";
    /// The default name of the field.
    pub const FIELD: &'static str = "X-Affinity-Key";
    /// The default slack for a field or an address.
    pub const SLACK_USUAL: f64 = 2.0;

    /// The name of the cookie or of the field; empty for the client's address.
    pub fn name(&self) -> &str {
        match (&self.name, self.by) {
            (Some(name), _) => name,
            (None, Some(AffinityBy::Cookie)) => Self::COOKIE,
            (None, Some(AffinityBy::Header)) => Self::FIELD,
            (None, _) => "",
        }
    }

    /// The largest allowed ratio of the owner's expected delay to the lowest one; `None` if the
    /// owner's delay does not matter.
    pub(crate) fn slack(&self) -> Option<f64> {
        let is_cookie = self.by == Some(AffinityBy::Cookie);
        let usual = if is_cookie { 0.0 } else { Self::SLACK_USUAL };
        Some(self.slack.unwrap_or(usual)).filter(|slack| *slack > 0.0)
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        if self.by == Some(AffinityBy::ClientAddress) && self.name.is_some() {
            return Err(ConfigError::new("affinity.name", "null for the client's address"));
        }
        if !self.name.as_deref().is_none_or(is_token) {
            return Err(ConfigError::new("affinity.name", "a token of 1 to 64 characters"));
        }
        match self.slack {
            None | Some(0.0) => Ok(()),
            Some(slack) => range::number("affinity.slack", slack, 1.0, SLACK_MAX)
                .map_err(|_| ConfigError::new("affinity.slack", "0, or a number from 1 to 100")),
        }
    }
}

/// The highest slack. Chosen: no cache is worth a delay of a hundred times the lowest one.
const SLACK_MAX: f64 = 100.0;

/// Whether this is a token (RFC 9110 section 5.6.2) of at most 64 characters.
fn is_token(text: &str) -> bool {
    let is_token_byte =
        |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    (1..=64).contains(&text.len()) && text.bytes().all(is_token_byte)
}
