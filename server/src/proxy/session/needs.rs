//! What a session wants of the proxy.
use intelliproxy_core::{BackendId, Lease, Outcome};

use crate::proxy::conn::ConnId;

/// What a session wants of the proxy.
#[derive(Debug)]
pub(crate) enum Need {
    /// An attempt is over: the lease goes back.
    Finish { lease: Lease, outcome: Outcome },
    /// The upstream connection is not used any more.
    Release { conn: ConnId, is_reusable: bool },
    /// A backend and a connection to it, for the request that waits.
    Dispatch,
    /// A fresh connection to the same backend.
    Redial { backend: BackendId },
    /// The text of /stats.
    Stats,
    /// The connection that is being made is taking too long: another address, or
    /// [`handle_unlinked`](Session::handle_unlinked).
    GiveUpConnect { conn: ConnId },
    /// The upstream gets no more bytes.
    ShutdownUpstream { conn: ConnId },
    /// The client gets no more bytes.
    ShutdownClient,
    /// The client's connection ends, and with it the session.
    Close { with_reset: bool },
}

/// Needs not yet fetched; they are fetched in the order of the fields. The last one, to be closed,
/// stays.
#[derive(Debug, Default)]
pub(super) struct Needs {
    /// Whether there may be one: mostly there is none, and this is all that is looked at.
    is_asking: bool,
    finish: Option<(Lease, Outcome)>,
    release: Option<(ConnId, bool)>,
    dispatch: bool,
    redial: Option<BackendId>,
    give_up: Option<ConnId>,
    stats: bool,
    shutdown_upstream: Option<ConnId>,
    shutdown_client: bool,
    close: Option<bool>,
}

impl Needs {
    pub(super) fn finish(&mut self, lease: Lease, outcome: Outcome) {
        debug_assert!(self.finish.is_none(), "one lease at a time");
        self.finish = Some((lease, outcome));
        self.is_asking = true;
    }

    pub(super) const fn release(&mut self, conn: ConnId, is_reusable: bool) {
        self.release = Some((conn, is_reusable));
        self.is_asking = true;
    }

    pub(super) const fn dispatch(&mut self) {
        self.dispatch = true;
        self.is_asking = true;
    }

    pub(super) const fn redial(&mut self, backend: Option<BackendId>) {
        self.redial = backend;
        self.is_asking = true;
    }

    pub(super) const fn give_up(&mut self, conn: Option<ConnId>) {
        self.give_up = conn;
        self.is_asking = true;
    }

    pub(super) const fn stats(&mut self) {
        self.stats = true;
        self.is_asking = true;
    }

    pub(super) const fn shutdown_upstream(&mut self, conn: Option<ConnId>) {
        self.shutdown_upstream = conn;
        self.is_asking = true;
    }

    pub(super) const fn shutdown_client(&mut self) {
        self.shutdown_client = true;
        self.is_asking = true;
    }

    pub(super) const fn close(&mut self, with_reset: bool) {
        self.close = Some(with_reset);
        self.is_asking = true;
    }

    /// The exchange at hand is given up: nothing is to be done for it any more. Returns the
    /// connection that was to be given up.
    pub(super) const fn cancel(&mut self) -> Option<ConnId> {
        self.dispatch = false;
        self.redial = None;
        self.stats = false;
        self.give_up.take()
    }

    pub(super) const fn has_finish(&self) -> bool {
        self.finish.is_some()
    }

    #[inline]
    pub(super) const fn has_close(&self) -> bool {
        self.close.is_some()
    }

    #[inline]
    pub(super) fn poll(&mut self) -> Option<Need> {
        if self.is_asking { self.poll_each() } else { None }
    }

    fn poll_each(&mut self) -> Option<Need> {
        if let Some((lease, outcome)) = self.finish.take() {
            return Some(Need::Finish { lease, outcome });
        }
        if let Some((conn, is_reusable)) = self.release.take() {
            return Some(Need::Release { conn, is_reusable });
        }
        if std::mem::take(&mut self.dispatch) {
            return Some(Need::Dispatch);
        }
        if let Some(backend) = self.redial.take() {
            return Some(Need::Redial { backend });
        }
        if let Some(conn) = self.give_up.take() {
            return Some(Need::GiveUpConnect { conn });
        }
        if std::mem::take(&mut self.stats) {
            return Some(Need::Stats);
        }
        if let Some(conn) = self.shutdown_upstream.take() {
            return Some(Need::ShutdownUpstream { conn });
        }
        if std::mem::take(&mut self.shutdown_client) {
            return Some(Need::ShutdownClient);
        }
        self.is_asking = self.close.is_some();
        self.close.map(|with_reset| Need::Close { with_reset })
    }
}
