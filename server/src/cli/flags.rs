//! The flags that set a value of the configuration. `help.rs` lists the other flags.
use std::str::FromStr;
use std::time::Duration;

use intelliproxy_core::PolicyKind;

use crate::config::{AccessLogFormat, BackendConfig, Config, LogFormat};

/// A flag that sets a value of the configuration.
pub(super) struct Flag {
    /// The name, with its dashes.
    pub(super) name: &'static str,
    /// The name of the value in the help; `None` for a flag without a value.
    pub(super) value: Option<&'static str>,
    /// The path of the value in the configuration file. Errors at this path are reported for the
    /// flag.
    pub(super) path: &'static str,
    /// The effect, for the help.
    pub(super) help: &'static str,
    /// The change of the configuration.
    pub(super) change: Change,
}

/// A flag's change to the configuration.
#[derive(Clone, Copy)]
pub(super) enum Change {
    /// Sets one value; may be given once. The error describes valid texts.
    Set(fn(&mut Config, &str) -> Result<(), String>),
    /// Adds to a list. The first use empties the list of the file.
    Append {
        /// Empties the list.
        clear: fn(&mut Config),
        /// Adds one entry.
        push: fn(&mut Config, &str) -> Result<(), String>,
    },
}

impl Flag {
    /// Whether it may be given more than once.
    pub(super) const fn is_repeatable(&self) -> bool {
        matches!(self.change, Change::Append { .. })
    }

    /// Whether a path of the configuration is the value of this flag or lies inside it.
    pub(super) fn covers(&self, path: &str) -> bool {
        path.strip_prefix(self.path).is_some_and(|rest| rest.is_empty() || rest.starts_with('['))
    }
}

/// All flags that set a value, in the order of the help.
pub(super) const FLAGS: [Flag; 27] = [
    Flag {
        name: "--listen",
        value: Some("HOST:PORT"),
        path: "listen",
        help: "address to listen on; localhost means both loopback addresses, port 0 any free port",
        change: Change::Append {
            clear: |config| config.listen.clear(),
            push: |config, text| {
                config.listen.push(text.into());
                Ok(())
            },
        },
    },
    Flag {
        name: "--backend",
        value: Some("NAME=URL"),
        path: "backends",
        help: "a backend: its name in logs and /stats, and its URL, http(s)://HOST[:PORT]",
        change: Change::Append {
            clear: |config| config.backends.clear(),
            push: |config, text| {
                let (name, url) = text
                    .split_once('=')
                    .ok_or_else(|| format!("must be NAME=http(s)://HOST[:PORT], not {text:?}"))?;
                config.backends.push(BackendConfig::new(name, url));
                Ok(())
            },
        },
    },
    Flag {
        name: "--policy",
        value: Some("NAME"),
        path: "routing.policy",
        help: "policy that ranks the backends",
        change: Change::Set(|config, text| set_policy(&mut config.routing.policy, text)),
    },
    Flag {
        name: "--threshold",
        value: Some("POINTS"),
        path: "routing.switch.threshold",
        help: "points by which another backend must be better to become current",
        change: Change::Set(|config, text| {
            set(&mut config.routing.switch.threshold, text, "a number")
        }),
    },
    Flag {
        name: "--cooldown-ms",
        value: Some("MS"),
        path: "routing.switch.cooldownMs",
        help: "least time between two switches",
        change: Change::Set(|config, text| set_millis(&mut config.routing.switch.cooldown, text)),
    },
    Flag {
        name: "--no-spill-over",
        value: None,
        path: "routing.switch.spillOver",
        help: "send no request past a current backend that is full",
        change: Change::Set(|config, _| {
            config.routing.switch.spill_over = false;
            Ok(())
        }),
    },
    Flag {
        name: "--ping-interval-ms",
        value: Some("MS"),
        path: "routing.probes.pingIntervalMs",
        help: "time between two pings of a backend",
        change: Change::Set(|config, text| {
            set_millis(&mut config.routing.probes.ping_interval, text)
        }),
    },
    Flag {
        name: "--ping-timeout-ms",
        value: Some("MS"),
        path: "routing.probes.pingTimeoutMs",
        help: "time allowed for the response to a ping",
        change: Change::Set(|config, text| {
            set_millis(&mut config.routing.probes.ping_timeout, text)
        }),
    },
    Flag {
        name: "--no-keep-host",
        value: None,
        path: "forwarding.keepHost",
        help: "send the host of the backend's URL instead of the client's Host",
        change: Change::Set(|config, _| {
            config.forwarding.keep_host = false;
            Ok(())
        }),
    },
    Flag {
        name: "--half-close",
        value: None,
        path: "forwarding.halfClose",
        help: "serve a client that shuts down its sending side at any time before its response",
        change: Change::Set(|config, _| {
            config.forwarding.half_close = true;
            Ok(())
        }),
    },
    Flag {
        name: "--trusted",
        value: Some("NETWORK"),
        path: "forwarding.trusted",
        help: "hop before the proxy whose X-Forwarded fields, Forwarded and PROXY protocol are trusted: ADDRESS or ADDRESS/PREFIX",
        change: Change::Append {
            clear: |config| config.forwarding.trusted.clear(),
            push: |config, text| {
                config.forwarding.trusted.push(text.to_owned());
                Ok(())
            },
        },
    },
    Flag {
        name: "--no-retry-refused",
        value: None,
        path: "forwarding.retryRefused",
        help: "forward the first 429 or 503 instead of trying another backend",
        change: Change::Set(|config, _| {
            config.forwarding.retry_refused = false;
            Ok(())
        }),
    },
    Flag {
        name: "--clients",
        value: Some("N"),
        path: "limits.clients",
        help: "client connections at a time",
        change: Change::Set(|config, text| set(&mut config.limits.clients, text, WHOLE)),
    },
    Flag {
        name: "--body-bytes-max",
        value: Some("N"),
        path: "limits.bodyBytesMax",
        help: "largest request body in bytes; 0 allows any size",
        change: Change::Set(|config, text| set(&mut config.limits.body_bytes_max, text, WHOLE)),
    },
    Flag {
        name: "--connect-ms",
        value: Some("MS"),
        path: "timeouts.connectMs",
        help: "time allowed to connect to one address of a backend",
        change: Change::Set(|config, text| set_millis(&mut config.timeouts.connect, text)),
    },
    Flag {
        name: "--response-head-ms",
        value: Some("MS"),
        path: "timeouts.responseHeadMs",
        help: "time allowed from the end of a request to the head of its response",
        change: Change::Set(|config, text| set_millis(&mut config.timeouts.response_head, text)),
    },
    Flag {
        name: "--stats-allow",
        value: Some("NETWORK"),
        path: "stats.allow",
        help: "client that may read /stats: ADDRESS or ADDRESS/PREFIX",
        change: Change::Append {
            clear: |config| config.stats.allow.clear(),
            push: |config, text| {
                config.stats.allow.push(text.to_owned());
                Ok(())
            },
        },
    },
    Flag {
        name: "--admin",
        value: Some("HOST:PORT"),
        path: "admin.listen",
        help: "address of the pages /stats, /metrics, /healthz, /readyz, /config and /explain",
        change: Change::Set(|config, text| {
            config.admin.listen = Some(text.to_owned());
            Ok(())
        }),
    },
    Flag {
        name: "--log-level",
        value: Some("LEVELS"),
        path: "log.level",
        help: "error, warn, info, debug or trace; single modules: info,reactor=debug",
        change: Change::Set(|config, text| {
            config.log.level = text.to_owned();
            Ok(())
        }),
    },
    Flag {
        name: "--log-format",
        value: Some("FORMAT"),
        path: "log.format",
        help: "form of the log's lines: text or json",
        change: Change::Set(|config, text| {
            config.log.format = LogFormat::named(text)
                .ok_or_else(|| format!("must be text or json, not {text:?}"))?;
            Ok(())
        }),
    },
    Flag {
        name: "--log-file",
        value: Some("FILE"),
        path: "log.file",
        help: "file that gets the log's lines instead of stderr",
        change: Change::Set(|config, text| {
            config.log.file = Some(text.to_owned());
            Ok(())
        }),
    },
    Flag {
        name: "--access-log",
        value: Some("FILE"),
        path: "accessLog.file",
        help: "file that gets a line for each exchange, or stdout",
        change: Change::Set(|config, text| {
            config.access_log.file = Some(text.to_owned());
            Ok(())
        }),
    },
    Flag {
        name: "--access-log-format",
        value: Some("FORMAT"),
        path: "accessLog.format",
        help: "form of those lines: json or combined",
        change: Change::Set(|config, text| {
            config.access_log.format = AccessLogFormat::named(text)
                .ok_or_else(|| format!("must be json or combined, not {text:?}"))?;
            Ok(())
        }),
    },
    Flag {
        name: "--state",
        value: Some("FILE"),
        path: "stateFile",
        help: "file that keeps what the policy learns across restarts",
        change: Change::Set(|config, text| {
            config.state_file = Some(text.to_owned());
            Ok(())
        }),
    },
    Flag {
        name: "--record",
        value: Some("FILE"),
        path: "recording.file",
        help: "file that receives every input of the router, for intelliproxy replay",
        change: Change::Set(|config, text| {
            config.recording.file = Some(text.to_owned());
            Ok(())
        }),
    },
    Flag {
        name: "--record-bytes-max",
        value: Some("N"),
        path: "recording.bytesMax",
        help: "size of one file in a ring FILE.0, FILE.1, ...; 0 writes one file of any size",
        change: Change::Set(|config, text| set(&mut config.recording.bytes_max, text, WHOLE)),
    },
    Flag {
        name: "--record-files",
        value: Some("N"),
        path: "recording.files",
        help: "files in that ring",
        change: Change::Set(|config, text| set(&mut config.recording.files, text, WHOLE)),
    },
];

/// The allowed counts and sizes, for errors.
const WHOLE: &str = "a whole number, 0 or more";

/// Parses a number. Its range is checked later with the whole configuration.
fn set<T: FromStr>(value: &mut T, text: &str, allowed: &str) -> Result<(), String> {
    *value = text.parse().map_err(|_| format!("must be {allowed}, not {text:?}"))?;
    Ok(())
}

fn set_millis(span: &mut Duration, text: &str) -> Result<(), String> {
    let mut millis = 0;
    set(&mut millis, text, "a whole number of milliseconds")?;
    *span = Duration::from_millis(millis);
    Ok(())
}

/// Parses the name of a policy.
fn set_policy(policy: &mut PolicyKind, text: &str) -> Result<(), String> {
    *policy = PolicyKind::named(text)
        .ok_or_else(|| format!("must be {}, not {text:?}", known_policies()))?;
    Ok(())
}

/// Returns the names of the policies, for help and errors.
pub(super) fn known_policies() -> String {
    PolicyKind::ALL.map(PolicyKind::name).join(", ")
}
