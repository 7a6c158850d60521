//! The access that requests have to a backend.
use crate::event::OutCause;

/// The access that requests have to a backend. Requests go to the backends with the lowest value.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Access {
    /// No restriction.
    Free,
    /// New or returned, and at the limit of its slow start.
    Slow,
    /// A backup without further restrictions: it gets requests only while no other backend can take
    /// them.
    Backup,
    /// A backup in slow start.
    BackupSlow,
    /// It requested a pause, which is respected as long as any other backend can serve.
    Held,
    /// A backup that requested a pause.
    BackupHeld,
    /// Its requests failed, so it gets no requests, or one at a time.
    Ejected,
    /// Its pings failed.
    Down,
    /// Its connections are refused: no process listens.
    Refusing,
    /// It has the maximum number of requests in flight and gets no more, even if all others are
    /// down.
    Full,
    /// It is out of service because of its mode or a weight of 0, and gets no requests.
    Drained,
    /// It is not configured.
    #[default]
    Gone,
}

impl Access {
    /// Returns the access to a backup that would otherwise have this access.
    pub(super) const fn of_backup(self) -> Self {
        match self {
            Self::Free => Self::Backup,
            Self::Slow => Self::BackupSlow,
            Self::Held => Self::BackupHeld,
            other => other,
        }
    }

    /// Returns why the backend is out: held, ejected, down, out of service or gone. A full backend,
    /// or a backup that could serve, is not out.
    pub(crate) const fn out(self) -> Option<OutCause> {
        match self {
            Self::Free | Self::Slow | Self::Backup | Self::BackupSlow | Self::Full => None,
            Self::Held | Self::BackupHeld => Some(OutCause::Held),
            Self::Ejected => Some(OutCause::Ejected),
            Self::Down | Self::Refusing => Some(OutCause::Down),
            Self::Drained => Some(OutCause::OutOfService),
            Self::Gone => Some(OutCause::Removed),
        }
    }

    /// Whether this is the access of a backup, or worse than that of every backend that can serve.
    pub(crate) fn is_behind_others(self) -> bool {
        matches!(self, Self::Backup | Self::BackupSlow | Self::BackupHeld) || self >= Self::Ejected
    }
}
