//! Idle upstream connections by backend. The most recently used one is used next, so that the
//! others can expire (K1). `dispatch.rs` decides whether a request may use one.
//!
//! The layout hints are explained in `proxy/mod.rs`.
use intelliproxy_core::BackendId;

use crate::proxy::id::ConnId;

/// The idle connections.
#[derive(Debug, Default)]
pub(crate) struct Idle {
    idle: Vec<Vec<ConnId>>,
}

impl Idle {
    /// Takes the most recently used idle connection to `backend`.
    pub(crate) fn take(&mut self, backend: BackendId) -> Option<ConnId> {
        self.idle.get_mut(backend.index())?.pop()
    }

    /// Keeps an idle connection. Returns false if there are `most` already.
    pub(crate) fn put(&mut self, backend: BackendId, conn: ConnId, most: usize) -> bool {
        if self.idle.len() <= backend.index() {
            self.add_lists(backend);
        }
        let list = &mut self.idle[backend.index()];
        let has_room = list.len() < most;
        if has_room {
            list.push(conn);
        }
        has_room
    }

    /// Adds a list for each backend up to `last`.
    #[cold]
    fn add_lists(&mut self, last: BackendId) {
        self.idle.resize_with(last.index() + 1, Vec::new);
    }

    /// Removes a connection that ended while idle.
    pub(crate) fn remove(&mut self, backend: BackendId, conn: ConnId) {
        if let Some(list) = self.idle.get_mut(backend.index())
            && let Some(at) = list.iter().rposition(|&other| other == conn)
        {
            list.remove(at);
        }
    }

    /// Removes the idle connections to `backend` beyond `most`: the least recently used ones.
    pub(crate) fn trim(&mut self, backend: BackendId, most: usize) -> Vec<ConnId> {
        let list = self.idle.get_mut(backend.index());
        list.map_or_else(Vec::new, |list| list.drain(..list.len().saturating_sub(most)).collect())
    }

    /// Returns the idle connections to `backend`, the last used one at the end.
    pub(crate) fn idle(&self, backend: BackendId) -> &[ConnId] {
        self.idle.get(backend.index()).map_or(&[], Vec::as_slice)
    }

    /// Returns the least recently used idle connection of each backend.
    pub(crate) fn oldest(&self) -> impl Iterator<Item = ConnId> + '_ {
        self.idle.iter().filter_map(|list| list.first().copied())
    }

    /// Removes every idle connection.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = ConnId> + '_ {
        self.idle.iter_mut().flat_map(|list| list.drain(..))
    }

    /// Returns the number of idle connections over all backends.
    pub(crate) fn len(&self) -> usize {
        self.idle.iter().map(Vec::len).sum()
    }
}
