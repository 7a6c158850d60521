//! The log lines of the proxy.
use intelliproxy_core::BackendId;
use log::{Level, info, log, warn};

use super::notice::describe;
use crate::proxy::{Notice, RemedyTaken};

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
                RemedyTaken::Redialled => (Level::Debug, "sent again on a fresh connection"),
                RemedyTaken::Retried => (Level::Info, "sent to another backend"),
                RemedyTaken::Answered => (Level::Warn, "answered with the error"),
                RemedyTaken::Truncated => (Level::Warn, "client cut"),
            };
            let status = error.status();
            log!(level, "client {peer}: {status}: backend {backend}: {error}: {remedy}");
        }
        Notice::ClientRefused { peer } => {
            warn!("client {peer}: 503: limits.clients are connected");
        }
        Notice::UnsolicitedBytes { backend } => {
            let backend = name(*backend);
            warn!("backend {backend}: bytes that nobody asked for: connection discarded");
        }
    }
}
