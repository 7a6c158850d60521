//! Checks every value of a configuration. A new whole number is a row of [`COUNTS`], a new time a
//! row of [`SPANS`]; the fields are in `mod.rs`.
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use intelliproxy_core::{BackendLimits, ConfigError};

use super::forms::{
    FIELD_ALLOWED, NAME_ALLOWED, PATH_ALLOWED, check_length, is_backend_name, is_path,
    is_plain_name, is_token, refuse,
};
use super::tls;
use super::{
    BackendUrl, Config, Forwarding, HealthChecks, Levels, Limits, Listen, ListenAddress, Network,
    StatsRules,
};
use crate::http::field::{FIELDS_MAX, Name};

impl Config {
    /// Checks every value against its range, and related values against each other.
    ///
    /// # Errors
    /// The first invalid value, by its path in the configuration file.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.check_listen()?;
        self.check_backends()?;
        self.routing.validate().map_err(|error| {
            ConfigError::new(&format!("routing.{}", error.path), &error.allowed)
        })?;
        for count in &COUNTS {
            if !(count.least..=count.most).contains(&(count.value)(self)) {
                return Err(ConfigError::new(count.path, &count.allowed()));
            }
        }
        for span in &SPANS {
            if !(SPAN_MIN..=SPAN_MAX).contains(&(span.value)(self)) {
                return Err(ConfigError::new(span.path, &Span::allowed()));
            }
        }
        if self.timeouts.lame_duck > SPAN_MAX {
            return Err(ConfigError::new(LAME_DUCK, &lame_duck_allowed()));
        }
        let Limits { head_bytes_max, target_bytes_max, .. } = self.limits;
        if target_bytes_max > head_bytes_max {
            let allowed = format!("at most limits.headBytesMax, which is {head_bytes_max}");
            return Err(ConfigError::new("limits.targetBytesMax", &allowed));
        }
        if !is_token(&self.forwarding.via) {
            return Err(ConfigError::new("forwarding.via", "a token of 1 to 64 characters"));
        }
        let route_field = self.forwarding.route_field.as_ref();
        for (path, name) in [
            ("requestId.field", Some(&self.request_id.field)),
            ("forwarding.routeField", route_field),
        ] {
            if name.is_some_and(|name| !is_token(name) || Name::of(name.as_bytes()) != Name::Other)
            {
                return Err(ConfigError::new(path, FIELD_ALLOWED));
            }
        }
        self.check_identity_fields()?;
        if route_field.is_some_and(|name| name.eq_ignore_ascii_case(&self.request_id.field)) {
            let allowed = "another field than requestId.field";
            return Err(ConfigError::new("forwarding.routeField", allowed));
        }
        self.check_stats()?;
        for (path, value) in [
            ("probePaths.ping", &self.probe_paths.ping),
            ("probePaths.report", &self.probe_paths.report),
        ] {
            if !is_path(value) {
                return Err(ConfigError::new(path, PATH_ALLOWED));
            }
        }
        self.check_health()?;
        self.check_reports()?;
        self.check_backend_tls()?;
        if !(RESOLVE_MIN..=SPAN_MAX).contains(&self.discovery.resolve) {
            return Err(ConfigError::new("discovery.resolveMs", &resolve_allowed()));
        }
        if self.discovery.file.as_ref().is_some_and(String::is_empty) {
            return Err(ConfigError::new("discovery.file", "the path of a file, or null"));
        }
        if self.state_file.as_ref().is_some_and(String::is_empty) {
            return Err(ConfigError::new("stateFile", "the path of a file, or null"));
        }
        if Levels::parse(&self.log.level).is_none() {
            let allowed = format!("{LEVEL_ALLOWED}, not {:?}", self.log.level);
            return Err(ConfigError::new("log.level", &allowed));
        }
        if self.log.file.as_ref().is_some_and(String::is_empty) {
            return Err(ConfigError::new("log.file", "the path of a file, or null"));
        }
        if self.access_log.file.as_ref().is_some_and(String::is_empty) {
            return Err(ConfigError::new("accessLog.file", "the path of a file, stdout, or null"));
        }
        if self.admin.socket.as_ref().is_some_and(String::is_empty) {
            return Err(ConfigError::new("admin.socket", "the path of a socket, or null"));
        }
        if self.recording.file.as_ref().is_some_and(String::is_empty) {
            return Err(ConfigError::new("recording.file", "the path of a file, or null"));
        }
        self.check_files()
    }

    /// Returns the keys of the files that are written, each with its path.
    pub(crate) fn files(&self) -> [(&'static str, Option<&str>); 4] {
        let access_log = self.access_log.file.as_deref().filter(|path| *path != "stdout");
        [
            ("log.file", self.log.file.as_deref()),
            ("accessLog.file", access_log),
            ("recording.file", self.recording.file.as_deref()),
            ("stateFile", self.state_file.as_deref()),
        ]
    }

    /// Returns the keys and paths of all files. The watched file, which is only read, comes last.
    fn all_files(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let further = [
            ("admin.socket", self.admin.socket.as_deref()),
            ("discovery.file", self.discovery.file.as_deref()),
        ];
        let files = self.files().into_iter().chain(further);
        files.filter_map(|(key, path)| Some((key, path?)))
    }

    /// Checks that no file is the one from which the configuration was read.
    ///
    /// # Errors
    /// The key of the first file that is.
    pub(crate) fn check_source(&self, source: &str) -> Result<(), ConfigError> {
        for (key, path) in self.all_files() {
            let wrong = match suffix(path, source) {
                Some("") => "is the configuration file",
                Some(suffix) if self.is_written(key, suffix) => {
                    "also writes the configuration file"
                }
                _ => continue,
            };
            return Err(refuse(key, "a file of its own", path, wrong));
        }
        Ok(())
    }

    /// Checks that no file is used for two purposes.
    fn check_files(&self) -> Result<(), ConfigError> {
        let files: Vec<_> = self.all_files().collect();
        for (index, (key, path)) in files.iter().enumerate() {
            for (other, other_path) in &files[..index] {
                let wrong = match suffix(other_path, path) {
                    Some("") => format!("is {other}"),
                    Some(suffix) if self.is_written(other, suffix) => {
                        format!("is written besides {other}")
                    }
                    _ => match suffix(path, other_path) {
                        Some(suffix) if self.is_written(key, suffix) => {
                            format!("also writes {other_path:?}, which is {other}")
                        }
                        _ => continue,
                    },
                };
                return Err(refuse(key, "a file of its own", path, wrong));
            }
        }
        self.check_certificates()
    }

    /// Checks that the proxy does not write over certificate files, which are only read.
    fn check_certificates(&self) -> Result<(), ConfigError> {
        for (index, tls) in self.listen.iter().map(|listen| listen.tls.as_ref()).enumerate() {
            let certificates = tls.map_or(&[][..], |tls| &tls.certificates);
            for (number, files) in certificates.iter().enumerate() {
                let ocsp = files.ocsp.iter().map(|ocsp| ("ocsp", ocsp));
                let own = [("chain", &files.chain), ("key", &files.key)].into_iter();
                for (key, path) in own.chain(ocsp) {
                    let at = || format!("listen[{index}].tls.certificates[{number}].{key}");
                    self.check_read_only(at, path)?;
                }
            }
        }
        for (key, path) in self.backend_tls_files() {
            self.check_read_only(|| key, path)?;
        }
        Ok(())
    }

    /// Checks that the proxy does not write to the file of a certificate.
    fn check_read_only(&self, key: impl FnOnce() -> String, path: &str) -> Result<(), ConfigError> {
        let wrong = self.all_files().find_map(|(other, of)| match suffix(of, path)? {
            "" => Some(format!("is {other}")),
            rest if self.is_written(other, rest) => Some(format!("is written besides {other}")),
            _ => None,
        });
        match wrong {
            Some(wrong) => Err(refuse(&key(), "a file of its own", path, wrong)),
            None => Ok(()),
        }
    }

    /// Whether the proxy also writes or moves the file whose name is that of the file at `key` plus
    /// this suffix.
    fn is_written(&self, key: &str, suffix: &str) -> bool {
        let recording = &self.recording;
        let is_in_ring = |text: &str| {
            text == "0.old" || text.parse().is_ok_and(|number: u32| number < recording.files)
        };
        match key {
            "recording.file" if recording.bytes_max == 0 => suffix == ".old",
            "recording.file" => suffix.strip_prefix('.').is_some_and(is_in_ring),
            "stateFile" => matches!(suffix, ".new" | ".old" | ".bad"),
            "admin.socket" => suffix == ".new",
            _ => false,
        }
    }

    /// Returns the allowed range of the number or the time at a path, as text for errors.
    pub(super) fn allowed_at(path: &str) -> Option<String> {
        // A key of any backend, or of its health checks.
        let own = path.strip_prefix("backends[").and_then(|rest| rest.split_once("]."));
        let own = own.map(|(_, own)| own);
        if path == "discovery.resolveMs" || own == Some("resolveMs") {
            return Some(resolve_allowed());
        }
        let most = BACKEND_COUNTS.iter().find(|(key, _)| own == Some(*key)).map(|(_, most)| *most);
        if let Some(most) = most {
            return Some(backend_count_allowed(most));
        }
        if let Some(key) = own.unwrap_or(path).strip_prefix("health.") {
            return HealthChecks::allowed_at(key);
        }
        let count = COUNTS.iter().find(|count| count.path == path).map(Count::allowed);
        let span = || SPANS.iter().any(|span| span.path == path).then(Span::allowed);
        count.or_else(span).or_else(|| (path == LAME_DUCK).then(lame_duck_allowed))
    }

    fn check_listen(&self) -> Result<(), ConfigError> {
        check_length("listen", self.listen.len(), 1, LISTEN_MAX)?;
        let mut seen: Vec<ListenAddress> = Vec::with_capacity(self.listen.len());
        for (index, listen) in self.listen.iter().enumerate() {
            let Listen { address: text, proxy_protocol, tls, redirect_to_https, .. } = listen;
            let path = format!("listen[{index}]");
            if let Some(tls) = tls {
                tls::check(&format!("{path}.tls"), tls)?;
            }
            if redirect_to_https.is_some_and(|port| port == 0 || tls.is_some()) {
                let allowed = "a port from 1 to 65535, or null, as it must be beside tls";
                return Err(ConfigError::new(&format!("{path}.redirectToHttps"), allowed));
            }
            if *proxy_protocol && self.forwarding.trusted.is_empty() {
                let allowed = "false while forwarding.trusted is empty";
                return Err(ConfigError::new(&format!("{path}.proxyProtocol"), allowed));
            }
            let address = ListenAddress::parse(text)
                .map_err(|error| refuse(&path, "HOST:PORT", text, error))?;
            if address.port != 0 && seen.contains(&address) {
                return Err(refuse(&path, "listed once", text, "is there already"));
            }
            seen.push(address);
        }
        self.check_admin(&seen)
    }

    fn check_admin(&self, listening: &[ListenAddress]) -> Result<(), ConfigError> {
        let Some(text) = &self.admin.listen else { return Ok(()) };
        let path = "admin.listen";
        let address = ListenAddress::parse(text)
            .map_err(|error| refuse(path, "HOST:PORT or null", text, error))?;
        if address.port != 0 && listening.contains(&address) {
            return Err(refuse(path, "an address of its own", text, "is in listen"));
        }
        Ok(())
    }

    fn check_backends(&self) -> Result<(), ConfigError> {
        check_length("backends", self.backends.len(), 0, BACKENDS_MAX)?;
        let mut names = BTreeSet::new();
        for (index, backend) in self.backends.iter().enumerate() {
            let path = format!("backends[{index}].name");
            if !is_backend_name(&backend.name) {
                return Err(ConfigError::new(&path, NAME_ALLOWED));
            }
            if backend.expand && !is_plain_name(&backend.name) {
                // The names of the expanded backends would have two slashes.
                let allowed = "without a slash, since expand is true";
                return Err(refuse(&path, allowed, &backend.name, "has one"));
            }
            let resolve = backend.resolve.unwrap_or(RESOLVE_MIN);
            if !(RESOLVE_MIN..=SPAN_MAX).contains(&resolve) {
                let path = format!("backends[{index}].resolveMs");
                return Err(ConfigError::new(&path, &resolve_allowed()));
            }
            if !names.insert(backend.name.as_str()) {
                return Err(refuse(&path, "a name of its own", &backend.name, "is there already"));
            }
            let path = format!("backends[{index}].url");
            BackendUrl::parse(&backend.url)
                .map_err(|error| refuse(&path, URL_ALLOWED, &backend.url, error))?;
            for ((key, most), value) in BACKEND_COUNTS.iter().zip([backend.limit, backend.weight]) {
                if value.is_some_and(|value| value > *most) {
                    let path = format!("backends[{index}].{key}");
                    return Err(ConfigError::new(&path, &backend_count_allowed(*most)));
                }
            }
        }
        Ok(())
    }

    fn check_stats(&self) -> Result<(), ConfigError> {
        check_networks("stats.allow", &self.stats.allow)?;
        check_networks("forwarding.trusted", &self.forwarding.trusted)
    }
}

fn check_networks(list: &str, networks: &[String]) -> Result<(), ConfigError> {
    check_length(list, networks.len(), 0, NETWORKS_MAX)?;
    for (index, text) in networks.iter().enumerate() {
        let path = format!("{list}[{index}]");
        Network::parse(text)
            .map_err(|error| refuse(&path, "ADDRESS or ADDRESS/PREFIX", text, error))?;
    }
    Ok(())
}

impl Forwarding {
    /// Returns the networks of `trusted`, without those that [`Config::validate`] refuses.
    pub fn trusted_networks(&self) -> Vec<Network> {
        self.trusted.iter().filter_map(|text| Network::parse(text).ok()).collect()
    }
}

impl StatsRules {
    /// Returns the networks of `allow`, without those that [`Config::validate`] refuses.
    pub fn networks(&self) -> Vec<Network> {
        self.allow.iter().filter_map(|text| Network::parse(text).ok()).collect()
    }
}

/// A whole number with its range.
struct Count {
    path: &'static str,
    value: fn(&Config) -> u64,
    least: u64,
    most: u64,
}

impl Count {
    fn allowed(&self) -> String {
        format!("a whole number from {} to {}", self.least, self.most)
    }
}

/// A time; all have the same range.
struct Span {
    path: &'static str,
    value: fn(&Config) -> Duration,
}

impl Span {
    fn allowed() -> String {
        format!("milliseconds from {} to {}", SPAN_MIN.as_millis(), SPAN_MAX.as_millis())
    }
}

const fn count(path: &'static str, value: fn(&Config) -> u64, least: u64, most: u64) -> Count {
    Count { path, value, least, most }
}

const fn span(path: &'static str, value: fn(&Config) -> Duration) -> Span {
    Span { path, value }
}

/// All whole numbers outside `routing`, except those of a backend.
const COUNTS: [Count; 17] = [
    count("limits.headBytesMax", |config| config.limits.head_bytes_max as u64, 1024, 60_000),
    count("limits.targetBytesMax", |config| config.limits.target_bytes_max as u64, 64, 60_000),
    count("limits.fieldsMax", |config| config.limits.fields_max as u64, 8, FIELDS_MAX as u64),
    count(
        "limits.chunkExtensionBytesMax",
        |config| config.limits.chunk_extension_bytes_max as u64,
        0,
        60_000,
    ),
    count("limits.trailerBytesMax", |config| config.limits.trailer_bytes_max as u64, 0, 60_000),
    count("limits.bodyBytesMax", |config| config.limits.body_bytes_max, 0, u64::MAX),
    count("limits.clients", |config| config.limits.clients as u64, 1, 1_000_000),
    count(
        "limits.clientConnections",
        |config| u64::from(config.limits.client_connections),
        0,
        1_000_000,
    ),
    count(
        "limits.clientRequestsPerSecond",
        |config| u64::from(config.limits.client_requests_per_second),
        0,
        1_000_000,
    ),
    count("limits.handshakes", |config| config.limits.handshakes as u64, 1, 1_000_000),
    count("limits.attempts", |config| config.limits.attempts as u64, 1, 16),
    count(
        "limits.perBackend",
        |config| u64::from(config.limits.per_backend),
        0,
        PER_BACKEND_MAX as u64,
    ),
    count("limits.queueLength", |config| config.limits.queue_length as u64, 0, 100_000),
    count("limits.retryPercent", |config| u64::from(config.limits.retry_percent), 0, 1000),
    count("pool.idlePerBackend", |config| config.pool.idle_per_backend as u64, 0, 100_000),
    count("recording.bytesMax", |config| config.recording.bytes_max, 0, u64::MAX),
    count("recording.files", |config| u64::from(config.recording.files), 2, 1000),
];

/// Every time outside `routing`, except [`LAME_DUCK`].
const SPANS: [Span; 16] = [
    span("limits.queueMs", |config| config.limits.queue),
    span("timeouts.handshakeMs", |config| config.timeouts.handshake),
    span("timeouts.requestHeadMs", |config| config.timeouts.request_head),
    span("timeouts.requestBodyMs", |config| config.timeouts.request_body),
    span("timeouts.clientIdleMs", |config| config.timeouts.client_idle),
    span("timeouts.clientWriteMs", |config| config.timeouts.client_write),
    span("timeouts.connectMs", |config| config.timeouts.connect),
    span("timeouts.responseHeadMs", |config| config.timeouts.response_head),
    span("timeouts.responseBodyMs", |config| config.timeouts.response_body),
    span("timeouts.tunnelIdleMs", |config| config.timeouts.tunnel_idle),
    span("timeouts.lingerMs", |config| config.timeouts.linger),
    span("timeouts.lingerTotalMs", |config| config.timeouts.linger_total),
    span("timeouts.shutdownMs", |config| config.timeouts.shutdown),
    span("timeouts.reloadMs", |config| config.timeouts.reload),
    span("timeouts.upgradeMs", |config| config.timeouts.upgrade),
    span("pool.idleMs", |config| config.pool.idle),
];

/// The whole numbers of a backend, `limit` and `weight`, with their maximum.
const BACKEND_COUNTS: [(&str, u32); 2] =
    [("limit", PER_BACKEND_MAX), ("weight", BackendLimits::WEIGHT_MAX)];

fn backend_count_allowed(most: u32) -> String {
    format!("a whole number from 0 to {most}")
}

/// The only time outside `routing` that may be 0.
const LAME_DUCK: &str = "timeouts.lameDuckMs";

fn lame_duck_allowed() -> String {
    format!("milliseconds from 0 to {}", SPAN_MAX.as_millis())
}

/// The shortest time that can be configured.
const SPAN_MIN: Duration = Duration::from_millis(1);
/// The longest time that can be configured: a day.
const SPAN_MAX: Duration = Duration::from_secs(24 * 3600);
/// The largest limit of a backend, requests in flight.
const PER_BACKEND_MAX: u32 = 1_000_000;
/// The maximum number of entries of `listen`.
const LISTEN_MAX: usize = 64;
/// The maximum number of entries of `backends`.
pub(super) const BACKENDS_MAX: usize = 1000;
/// The shortest time between two look-ups of a name.
const RESOLVE_MIN: Duration = Duration::from_millis(100);
/// The maximum number of entries of `stats.allow`, and of `forwarding.trusted`. Each may be checked
/// for every client.
const NETWORKS_MAX: usize = 64;
/// A description of valid URLs of backends.
const URL_ALLOWED: &str = "http(s)://HOST[:PORT]";
/// A description of valid levels.
const LEVEL_ALLOWED: &str =
    "error, warn, info, debug or trace, or a list with up to 16 of MODULE=LEVEL";
/// Returns the text that `path` has after the file name of `start`, if both are in the same folder.
fn suffix<'p>(start: &'p str, path: &'p str) -> Option<&'p str> {
    // `./a` and `a` are one file.
    let plain = |path| Path::new(path).strip_prefix(".").unwrap_or_else(|_| Path::new(path));
    let [start, path] = [start, path].map(plain);
    let rest = path.file_name()?.to_str()?.strip_prefix(start.file_name()?.to_str()?);
    rest.filter(|_| start.parent() == path.parent())
}

fn resolve_allowed() -> String {
    format!("milliseconds from {} to {}", RESOLVE_MIN.as_millis(), SPAN_MAX.as_millis())
}

#[cfg(test)]
mod tests;
