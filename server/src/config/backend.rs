//! One backend as configured.
use serde::{Deserialize, Serialize};

use super::OwnHealthChecks;

/// One backend as configured.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct BackendConfig {
    /// Name in logs and /stats: 1 to 64 letters, digits, `.`, `_` and `-`.
    pub name: String,
    /// `http://HOST[:PORT]`, without path, query or user; port 80 if omitted.
    pub url: String,
    /// Requests in flight at the same time, instead of `limits.perBackend` and with its range; 0 for
    /// any number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Capacity relative to the other backends, percent (100); 0 to 1000, 0 for no requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// Whether it gets requests only while no other backend can take them (false).
    #[serde(default, skip_serializing_if = "is_false")]
    pub backup: bool,
    /// Health checks that differ from those of all backends (`health`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<OwnHealthChecks>,
}

impl BackendConfig {
    /// Returns a backend with the defaults of the other values.
    pub fn new(name: &str, url: &str) -> Self {
        let (name, url) = (name.to_owned(), url.to_owned());
        Self { name, url, limit: None, weight: None, backup: false, health: None }
    }
}

/// Whether a value is the default one, which is not written.
fn is_false(value: &bool) -> bool {
    !value
}
