//! The rule by which a request got its backend. The parts that the lease does not hold are computed
//! only on request.
use super::Router;
use crate::config::Rules;
use crate::event::{HoldReason, Lease, RouteReason, SwitchReason};
use crate::id::BackendId;
use crate::time::Instant;

impl Router {
    /// The rule by which a request got its backend. Exact only right after
    /// [`route`](Self::route): later the backends may be in another state.
    pub fn reason(&self, lease: &Lease) -> RouteReason {
        match lease.reason {
            RouteReason::Policy if !self.is_usable(lease.backend) => self.without_any(lease),
            RouteReason::Owner | RouteReason::NextOwner
                if !self.is_usable(lease.backend) && !self.is_full(lease.backend) =>
            {
                RouteReason::LastResort
            }
            RouteReason::Policy
            | RouteReason::Current
            | RouteReason::Spill
            | RouteReason::NextOwner
                if self.has_backups && self.is_backup(lease.backend) =>
            {
                RouteReason::Backup
            }
            RouteReason::Current if self.failed.is_some_and(|id| self.is_out(id)) => {
                RouteReason::Failover
            }
            reason => reason,
        }
    }

    fn is_backup(&self, id: BackendId) -> bool {
        self.table.get(id).is_some_and(|backend| backend.is_backup())
    }

    /// The rules in force.
    pub const fn rules(&self) -> &Rules {
        &self.rules
    }

    /// The time and the reason of the last change of the current backend.
    pub const fn last_switch(&self) -> Option<(Instant, SwitchReason)> {
        self.last_switch
    }

    /// The last hold: its time, the better backend, and the reason for not taking it.
    pub const fn last_hold(&self) -> Option<(Instant, BackendId, HoldReason)> {
        self.last_hold
    }

    /// The rule for an unusable backend: it was ejected and gets a trial, or no backend was usable.
    /// A backend that this request made full was usable before.
    fn without_any(&self, lease: &Lease) -> RouteReason {
        if self.is_full(lease.backend) { RouteReason::Policy } else { RouteReason::LastResort }
    }
}
