//! The end of the proxy: what is under way is served, and nothing else begins.
use intelliproxy_core::Instant;

use super::Proxy;

impl Proxy {
    /// No exchange is to begin any more: idle clients are closed, busy ones after the exchange at
    /// hand, and all of them when `timeouts.shutdownMs` are over.
    pub fn handle_stop(&mut self, now: Instant) {
        if self.shared.is_stopping {
            return;
        }
        self.shared.is_stopping = true;
        self.stop_deadline = Some(now + self.shared.config.timeouts.shutdown);
        for id in self.client_ids() {
            if let Some(session) = self.table.session_mut(id) {
                session.handle_stopping(now, &mut self.shared);
            }
            self.serve(now, id);
        }
        for conn in self.upstreams.drain_idle() {
            self.close(conn, false);
        }
    }

    /// Whether the proxy is stopping and no client is left.
    pub fn is_stopped(&self) -> bool {
        self.shared.is_stopping && self.clients == 0
    }

    /// Whether the proxy is stopping.
    pub const fn is_stopping(&self) -> bool {
        self.shared.is_stopping
    }
}
