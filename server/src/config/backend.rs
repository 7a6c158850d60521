//! The configuration of one backend.
use std::time::Duration;

use intelliproxy_core::CheckRules;
use serde::{Deserialize, Serialize};

use super::{Config, OwnBackendTls, OwnHealthChecks, ReportRules, optional_millis};

/// The configuration of one backend.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct BackendConfig {
    /// Name in logs and /stats: 1 to 64 letters, digits, `.`, `_` and `-`. The name of a backend
    /// that was found has the address after a slash.
    pub name: String,
    /// `http://HOST[:PORT]` or `https://HOST[:PORT]`, without path, query or user; port 80 or 443
    /// if omitted.
    pub url: String,
    /// Requests in flight at the same time, instead of `limits.perBackend` and with its range; 0
    /// for any number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Capacity relative to the other backends, percent (100); 0 to 1000, 0 for no requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// Whether the backend gets requests only while no other backend can take them (false).
    #[serde(default, skip_serializing_if = "is_false")]
    pub backup: bool,
    /// Whether each address of the host becomes a separate backend, `NAME/ADDRESS` (false).
    #[serde(default, skip_serializing_if = "is_false")]
    pub expand: bool,
    /// Time between two look-ups of the host, instead of `discovery.resolveMs` and with the same
    /// range.
    #[serde(
        rename = "resolveMs",
        default,
        with = "optional_millis",
        skip_serializing_if = "Option::is_none"
    )]
    pub resolve: Option<Duration>,
    /// Health checks of this backend, instead of the values in `health`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<OwnHealthChecks>,
    /// Load reports of this backend, instead of the values in `reports`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reports: Option<ReportRules>,
    /// TLS that differs from that of all backends (`tls`), for a URL with https.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<OwnBackendTls>,
}

impl BackendConfig {
    /// Returns a backend with the defaults of the other values.
    pub fn new(name: &str, url: &str) -> Self {
        let (name, url) = (name.to_owned(), url.to_owned());
        Self {
            name,
            url,
            limit: None,
            weight: None,
            backup: false,
            expand: false,
            resolve: None,
            health: None,
            reports: None,
            tls: None,
        }
    }
}

impl Config {
    /// Returns the rules of a backend's probes that the router needs.
    pub(crate) fn probe_rules_of(&self, backend: &BackendConfig) -> CheckRules {
        let check = self.check_of(backend.health.as_ref());
        self.report_rules(backend.reports.as_ref(), check.rules)
    }
}

/// Whether a value is the default one, which is not written.
fn is_false(value: &bool) -> bool {
    !value
}
