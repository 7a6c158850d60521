//! The kinds of the proxy's actions and notices, as the sweep of `tests/simulation.rs` expects
//! them.
use intelliproxy::proxy::{Action, Notice};
use intelliproxy_core::Notice as RouterNotice;

/// Returns the kind of an action.
pub(crate) const fn of_action(action: &Action) -> &'static str {
    match action {
        Action::Connect { .. } => "action Connect",
        Action::Look { .. } => "action Look",
        Action::Measure { .. } => "action Measure",
        Action::Shutdown { .. } => "action Shutdown",
        Action::Close { with_reset: false, .. } => "action Close",
        Action::Close { with_reset: true, .. } => "action Close by a reset",
        Action::Notify(_) => "action Notify",
    }
}

/// Returns the kind of a notice.
pub(crate) const fn of_notice(notice: &Notice) -> &'static str {
    match notice {
        Notice::Router(RouterNotice::Switched { .. }) => "notice Switched",
        Notice::Router(RouterNotice::Held { .. }) => "notice Held",
        Notice::Router(RouterNotice::HealthChanged { .. }) => "notice HealthChanged",
        Notice::Router(RouterNotice::PingsUnserved { .. }) => "notice PingsUnserved",
        Notice::Router(RouterNotice::Ejected { .. }) => "notice Ejected",
        Notice::Router(RouterNotice::Returned { .. }) => "notice Returned",
        Notice::ClientError { .. } => "notice ClientError",
        Notice::UpstreamError { .. } => "notice UpstreamError",
        Notice::Refused { .. } => "notice Refused",
        Notice::ClientRefused { .. } => "notice ClientRefused",
        Notice::ClientLimited { .. } => "notice ClientLimited",
        Notice::ClientsGaveWay { .. } => "notice ClientsGaveWay",
        Notice::ClientsInExcess { .. } => "notice ClientsInExcess",
        Notice::ClientsLimited { .. } => "notice ClientsLimited",
        Notice::HandshakeFailed { .. } => "notice HandshakeFailed",
        Notice::Expired { .. } => "notice Expired",
        Notice::UnreadableReport { .. } => "notice UnreadableReport",
        Notice::InsecureBackend { .. } => "notice InsecureBackend",
        Notice::Discovered(_) => "notice Discovered",
        Notice::Reconfigured(_) => "notice Reconfigured",
        Notice::ConfigRefused { .. } => "notice ConfigRefused",
        Notice::UnsolicitedBytes { .. } => "notice UnsolicitedBytes",
    }
}
