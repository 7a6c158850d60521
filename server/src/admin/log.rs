//! The log lines of the proxy.
use intelliproxy_core::BackendId;
use log::{Level, error, info, log, warn};

use super::notice::describe;
use crate::proxy::{ConfigChange, Notice, RemedyTaken};

/// Logs a notice; `name` names a backend. Nothing is formatted for a level that is off.
pub(crate) fn log_notice<'a>(notice: &Notice, name: impl Fn(BackendId) -> &'a str) {
    match notice {
        Notice::Router(notice) => info!("{}", describe(notice, name)),
        Notice::ClientError { peer, error, excerpt } => {
            warn!("client {peer}: {}: {error}: \"{excerpt}\"", error.status());
        }
        Notice::UpstreamError { peer, backend, error, remedy } => {
            let backend = backend.map_or("none", name);
            let (level, remedy) = match remedy {
                RemedyTaken::Excused => {
                    (Level::Info, "the client had kept it waiting: not charged")
                }
                RemedyTaken::Redialled => (Level::Debug, "sent again on a fresh connection"),
                RemedyTaken::Retried => (Level::Info, "sent to another backend"),
                RemedyTaken::Closed => (Level::Info, "client closed, to repeat it"),
                RemedyTaken::Answered => (Level::Warn, "answered with the error"),
                RemedyTaken::Truncated => (Level::Warn, "client cut"),
            };
            let status = error.status();
            log!(level, "client {peer}: {status}: backend {backend}: {error}: {remedy}");
        }
        Notice::ClientRefused { peer } => {
            warn!("client {peer}: 503: limits.clients are connected");
        }
        Notice::ClientsLimited { limit, clients_max } => warn!(
            "limits.clients is {limit}, open files are enough for {clients_max} clients and their \
             upstreams: no more are admitted"
        ),
        Notice::Reconfigured(change) => {
            info!("configuration: {}", describe_change(change));
            if !change.needs_restart.is_empty() {
                let keys = change.needs_restart.join(", ");
                warn!("configuration: {keys}: a change needs a restart; left as it was");
            }
        }
        Notice::ConfigRefused { wrong } => {
            error!("configuration refused, the one in use goes on: {wrong}");
        }
        Notice::UnsolicitedBytes { backend } => {
            let backend = name(*backend);
            warn!("backend {backend}: bytes that nobody asked for: connection discarded");
        }
    }
}

/// What a new configuration changed: backends by name, other settings by key.
fn describe_change(change: &ConfigChange) -> String {
    let ConfigChange { added, removed, moved, settings, .. } = change;
    let settings: Vec<String> = settings.iter().map(|&key| key.to_owned()).collect();
    let parts = [("added", added), ("removed", removed), ("moved", moved), ("other", &settings)];
    let parts: Vec<String> = parts
        .iter()
        .filter(|(_, names)| !names.is_empty())
        .map(|(what, names)| format!("{what} {}", names.join(", ")))
        .collect();
    if parts.is_empty() { "nothing changed".to_owned() } else { parts.join("; ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every kind of change has its words; row by row.
    #[test]
    fn changes_are_told_in_one_line() {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let nothing = ConfigChange::default();
        assert_eq!(describe_change(&nothing), "nothing changed");
        let all = ConfigChange {
            added: names(&["C", "D"]),
            removed: names(&["A"]),
            moved: names(&["B"]),
            settings: vec!["limits", "timeouts"],
            needs_restart: vec!["listen"],
        };
        let line = "added C, D; removed A; moved B; other limits, timeouts";
        assert_eq!(describe_change(&all), line);
    }
}
