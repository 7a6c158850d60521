//! Health checks: the request of a ping, and the responses that count as good. Each key of a
//! backend's own `health` overrides that key of the top-level `health`.
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use intelliproxy_core::{CheckRules, ConfigError};
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::forms::{PATH_ALLOWED, is_path, is_token, refuse};
use super::host::HostPort;
use super::{Config, optional_millis};
use crate::collect::one_by_one;
use crate::http::field::Name;

/// The health checks of all backends.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct HealthChecks {
    /// The kind of a ping (`http`).
    pub kind: CheckKind,
    /// The target of a ping's request (null: `probePaths.ping`).
    pub path: Option<String>,
    /// The port of a ping's connection (null: the backend's); 1 to 65 535.
    pub port: Option<u16>,
    /// The value of the Host field, `HOST[:PORT]` (null: the backend's own).
    pub host: Option<String>,
    /// The method (`GET`).
    pub method: CheckMethod,
    /// Good statuses, `200` or `200-399`, 1 to 16 entries (200 to 399). A single status may also be
    /// a number.
    #[serde(deserialize_with = "read_statuses")]
    pub status: Vec<String>,
    /// Text that the first 64 KiB of the body must contain (null: any); 1 to 1024 bytes.
    pub body: Option<String>,
    /// Further fields of the request, at most 16 (null: none).
    pub fields: Option<BTreeMap<String, String>>,
    /// Time between two pings (null: `routing.probes.pingIntervalMs`, which also gives the range).
    #[serde(rename = "intervalMs", with = "optional_millis")]
    pub interval: Option<Duration>,
    /// Maximum time of a ping (null: `routing.probes.pingTimeoutMs`, which also gives the range).
    #[serde(rename = "timeoutMs", with = "optional_millis")]
    pub timeout: Option<Duration>,
    /// The health of a backend before its first ping has ended (`unknown`).
    pub initial: InitialHealth,
}

impl Default for HealthChecks {
    fn default() -> Self {
        Self {
            kind: CheckKind::Http,
            path: None,
            port: None,
            host: None,
            method: CheckMethod::Get,
            status: vec!["200-399".to_owned()],
            body: None,
            fields: None,
            interval: None,
            timeout: None,
            initial: InitialHealth::Unknown,
        }
    }
}

/// The health checks of one backend. A field that is `None` has the value for all backends.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct OwnHealthChecks {
    /// The kind of a ping.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<CheckKind>,
    /// The target of a ping's request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The port of a ping's connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The value of the Host field.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The method.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<CheckMethod>,
    /// Good statuses.
    #[serde(deserialize_with = "read_own_statuses", skip_serializing_if = "Option::is_none")]
    pub status: Option<Vec<String>>,
    /// Text that the body must contain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// Further fields of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fields: Option<BTreeMap<String, String>>,
    /// Time between two pings.
    #[serde(
        rename = "intervalMs",
        with = "optional_millis",
        skip_serializing_if = "Option::is_none"
    )]
    pub interval: Option<Duration>,
    /// Time of a ping.
    #[serde(
        rename = "timeoutMs",
        with = "optional_millis",
        skip_serializing_if = "Option::is_none"
    )]
    pub timeout: Option<Duration>,
    /// The health before the first ping has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initial: Option<InitialHealth>,
}

/// The kind of a ping.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckKind {
    /// It sends a request, and judges the response.
    #[default]
    Http,
    /// It connects. A connection is a success.
    Tcp,
    /// No pings are sent: only the results of requests count.
    None,
}

/// The method of a ping's request.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum CheckMethod {
    /// GET.
    #[default]
    Get,
    /// HEAD: the response has no body.
    Head,
    /// OPTIONS.
    Options,
    /// POST, without a body.
    Post,
}

impl CheckMethod {
    /// Returns the method as it is sent.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Options => "OPTIONS",
            Self::Post => "POST",
        }
    }
}

/// The health of a backend before its first ping has ended.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum InitialHealth {
    /// It gets requests.
    #[default]
    Unknown,
    /// It gets no requests before its first good ping, unless all backends are down.
    Down,
}

/// The resulting check of one backend.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Check {
    pub(crate) kind: CheckKind,
    pub(crate) path: String,
    pub(crate) port: Option<u16>,
    pub(crate) host: Option<String>,
    pub(crate) method: CheckMethod,
    /// Good statuses, as the first and the last status of each range.
    pub(crate) status: Vec<(u16, u16)>,
    pub(crate) body: Option<String>,
    pub(crate) fields: BTreeMap<String, String>,
    /// Maximum time of a ping, and the key that sets it.
    pub(crate) timeout: (Duration, &'static str),
    /// The rules for the router.
    pub(crate) rules: CheckRules,
}

impl Default for Check {
    fn default() -> Self {
        Config::default().check_of(None)
    }
}

impl Check {
    /// Whether a response with this status is good.
    pub(crate) fn is_good(&self, status: u16) -> bool {
        self.status.iter().any(|(first, last)| (*first..=*last).contains(&status))
    }

    /// Whether a body contains the required text. The first `before` bytes are known not to contain
    /// it.
    pub(crate) fn is_in(&self, body: &[u8], before: usize) -> bool {
        let Some(text) = &self.body else { return true };
        let from = before.saturating_sub(text.len() - 1);
        body[from..].windows(text.len()).any(|window| window == text.as_bytes())
    }
}

impl Config {
    /// Returns the check of a backend with these settings of its own.
    pub(crate) fn check_of(&self, own: Option<&OwnHealthChecks>) -> Check {
        let all = &self.health;
        let usual = OwnHealthChecks::default();
        let own = own.unwrap_or(&usual);
        let millis = |span: Duration| u32::try_from(span.as_millis()).unwrap_or(u32::MAX);
        let kind = own.kind.unwrap_or(all.kind);
        let initial = own.initial.unwrap_or(all.initial);
        let path = own.path.as_ref().or(all.path.as_ref()).unwrap_or(&self.probe_paths.ping);
        let status = own.status.as_ref().unwrap_or(&all.status);
        let timeout = match (own.timeout, all.timeout) {
            (Some(timeout), _) | (None, Some(timeout)) => (timeout, "health.timeoutMs"),
            (None, None) => (self.routing.probes.ping_timeout, "routing.probes.pingTimeoutMs"),
        };
        Check {
            kind,
            path: path.clone(),
            port: own.port.or(all.port),
            host: own.host.clone().or_else(|| all.host.clone()),
            method: own.method.unwrap_or(all.method),
            status: status.iter().filter_map(|text| statuses(text)).collect(),
            body: own.body.clone().or_else(|| all.body.clone()),
            fields: own.fields.clone().or_else(|| all.fields.clone()).unwrap_or_default(),
            timeout,
            // The rules of reports are added by `reports.rs`.
            rules: CheckRules {
                is_off: kind == CheckKind::None,
                starts_down: kind != CheckKind::None && initial == InitialHealth::Down,
                interval_ms: own.interval.or(all.interval).map(millis),
                timeout_ms: own.timeout.or(all.timeout).map(millis),
                is_elsewhere: own.port.or(all.port).is_some(),
                ..CheckRules::default()
            },
        }
    }

    /// Returns the check of the backend with this name. If the name is unknown, returns the common
    /// check.
    pub(crate) fn check_named(&self, name: &str) -> Check {
        let known = self.backends.iter().find(|backend| backend.name == name);
        self.check_of(known.and_then(|backend| backend.health.as_ref()))
    }

    /// Returns the check of each backend, by its name.
    pub(crate) fn checks(&self) -> BTreeMap<&str, Check> {
        let backends = self.backends.iter();
        one_by_one(backends.map(|one| (one.name.as_str(), self.check_of(one.health.as_ref()))))
    }

    /// Checks the common health checks and those of each backend.
    pub(super) fn check_health(&self) -> Result<(), ConfigError> {
        let HealthChecks { kind, path, port, host, method, status, .. } = self.health.clone();
        let HealthChecks { body, fields, interval, timeout, initial, .. } = self.health.clone();
        let all = OwnHealthChecks {
            kind: Some(kind),
            path,
            port,
            host,
            method: Some(method),
            status: Some(status),
            body,
            fields,
            interval,
            timeout,
            initial: Some(initial),
        };
        all.validate("health")?;
        self.check_method("health", None)?;
        check_initial("health", kind, Some(initial))?;
        for (index, backend) in self.backends.iter().enumerate() {
            if let Some(own) = &backend.health {
                let path = format!("backends[{index}].health");
                own.validate(&path)?;
                self.check_method(&path, Some(own))?;
                check_initial(&path, own.kind.unwrap_or(kind), own.initial)?;
            }
        }
        Ok(())
    }

    fn check_method(&self, path: &str, own: Option<&OwnHealthChecks>) -> Result<(), ConfigError> {
        let check = self.check_of(own);
        if check.method == CheckMethod::Head && check.body.is_some() {
            let allowed = "another one than HEAD, whose responses have no body, or body null";
            return Err(ConfigError::new(&format!("{path}.method"), allowed));
        }
        Ok(())
    }
}

impl OwnHealthChecks {
    /// Checks every value that is there. `at` is the path of the object.
    fn validate(&self, at: &str) -> Result<(), ConfigError> {
        let key = |key: &str| format!("{at}.{key}");
        if self.path.as_ref().is_some_and(|path| !is_path(path)) {
            return Err(ConfigError::new(&key("path"), PATH_ALLOWED));
        }
        if self.port == Some(0) {
            return Err(ConfigError::new(&key("port"), PORT_ALLOWED));
        }
        if let Some(host) = &self.host
            && let Err(error) = HostPort::parse(host)
        {
            return Err(refuse(&key("host"), "HOST[:PORT] or null", host, error));
        }
        if let Some(status) = &self.status {
            if !(1..=STATUSES_MAX).contains(&status.len()) {
                let allowed = format!("a list of 1 to {STATUSES_MAX} entries");
                return Err(ConfigError::new(&key("status"), &allowed));
            }
            for (index, text) in status.iter().enumerate() {
                if statuses(text).is_none() {
                    let path = format!("{at}.status[{index}]");
                    return Err(refuse(&path, STATUS_ALLOWED, text, "is not"));
                }
            }
        }
        if self.body.as_ref().is_some_and(|body| !(1..=BODY_BYTES_MAX).contains(&body.len())) {
            let allowed = format!("a text of 1 to {BODY_BYTES_MAX} bytes, or null");
            return Err(ConfigError::new(&key("body"), &allowed));
        }
        if let Some(fields) = &self.fields {
            check_fields(&key("fields"), fields)?;
        }
        for (name, span) in [("intervalMs", self.interval), ("timeoutMs", self.timeout)] {
            if span.is_some_and(|span| !(SPAN_MIN..=SPAN_MAX).contains(&span)) {
                return Err(ConfigError::new(&key(name), &span_allowed()));
            }
        }
        Ok(())
    }
}

impl HealthChecks {
    /// Returns the allowed range of a key with a number or a time, as text for errors.
    pub(super) fn allowed_at(key: &str) -> Option<String> {
        match key {
            "port" => Some(PORT_ALLOWED.to_owned()),
            "intervalMs" | "timeoutMs" => Some(span_allowed()),
            _ => None,
        }
    }
}

fn span_allowed() -> String {
    let (least, most) = (SPAN_MIN.as_millis(), SPAN_MAX.as_millis());
    format!("milliseconds from {least} to {most}")
}

/// Refuses a backend that would wait for a good ping but gets no pings. If it inherits `initial`,
/// the value is ignored instead, because it is meant for the backends with pings.
fn check_initial(
    at: &str,
    kind: CheckKind,
    initial: Option<InitialHealth>,
) -> Result<(), ConfigError> {
    if kind == CheckKind::None && initial == Some(InitialHealth::Down) {
        let allowed = "\"unknown\", because health.kind is \"none\" and no ping can bring it up";
        return Err(ConfigError::new(&format!("{at}.initial"), allowed));
    }
    Ok(())
}

/// Checks further fields of a ping's request.
fn check_fields(path: &str, fields: &BTreeMap<String, String>) -> Result<(), ConfigError> {
    if fields.len() > FIELDS_MAX {
        return Err(ConfigError::new(path, &format!("an object of at most {FIELDS_MAX} fields")));
    }
    for (name, value) in fields {
        let is_free = matches!(
            Name::of(name.as_bytes()),
            Name::Other | Name::Authorization | Name::Forwarded | Name::XForwardedProto
        );
        let is_own = !is_free || name.eq_ignore_ascii_case("trailer");
        if !is_token(name) {
            // The error does not quote the name: a control character in it could break the line.
            let allowed = "a field name: letters, digits and !#$%&'*+-.^_`|~";
            return Err(ConfigError::new(&format!("{path}.{}", name.escape_debug()), allowed));
        }
        if is_own {
            let allowed = "a field that the proxy does not set: not Host, Connection or the like";
            return Err(ConfigError::new(&format!("{path}.{name}"), allowed));
        }
        let is_plain = |byte: u8| byte.is_ascii_graphic() || matches!(byte, b' ' | b'\t');
        let is_trimmed = value.trim_matches([' ', '\t']).len() == value.len();
        if value.len() > VALUE_BYTES_MAX || !value.bytes().all(is_plain) || !is_trimmed {
            let allowed =
                format!("at most {VALUE_BYTES_MAX} visible ASCII characters with spaces between");
            return Err(ConfigError::new(&format!("{path}.{name}"), &allowed));
        }
    }
    Ok(())
}

/// An entry of `status`: a text, or a number.
struct StatusText(String);

impl<'d> Deserialize<'d> for StatusText {
    fn deserialize<D: Deserializer<'d>>(from: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = StatusText;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(STATUS_ALLOWED)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<StatusText, E> {
                Ok(StatusText(text.to_owned()))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<StatusText, E> {
                Ok(StatusText(number.to_string()))
            }
        }
        from.deserialize_any(Text)
    }
}

fn read_statuses<'d, D: Deserializer<'d>>(from: D) -> Result<Vec<String>, D::Error> {
    let texts = Vec::<StatusText>::deserialize(from)?;
    Ok(texts.into_iter().map(|StatusText(text)| text).collect())
}

fn read_own_statuses<'d, D: Deserializer<'d>>(from: D) -> Result<Option<Vec<String>>, D::Error> {
    let texts = Option::<Vec<StatusText>>::deserialize(from)?;
    Ok(texts.map(|texts| texts.into_iter().map(|StatusText(text)| text).collect()))
}

/// Reads a status, or a range of them.
fn statuses(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let status = |text: &str| -> Option<u16> {
        let is_plain = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|status| is_plain && (200..=599).contains(status))
    };
    Some((status(first)?, status(last)?)).filter(|(first, last)| first <= last)
}

impl fmt::Display for Check {
    /// Writes the check, for log lines.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method.name(), self.path)
    }
}

/// A description of valid statuses.
const STATUS_ALLOWED: &str = "a status from 200 to 599, or two with '-' between them";
/// A description of valid ports.
const PORT_ALLOWED: &str = "a whole number from 1 to 65535, or null";
/// Maximum number of entries of `status`.
const STATUSES_MAX: usize = 16;
/// Maximum length of `body`, bytes.
const BODY_BYTES_MAX: usize = 1024;
/// Maximum number of fields of a check.
const FIELDS_MAX: usize = 16;
/// Maximum length of a field's value, bytes: enough for a token.
const VALUE_BYTES_MAX: usize = 4096;
/// The minimum and maximum time of pings, as in `routing.probes`.
const SPAN_MIN: Duration = Duration::from_millis(1);
const SPAN_MAX: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests;
