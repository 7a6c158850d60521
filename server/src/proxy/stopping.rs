//! The end of the proxy: what is under way is served, and nothing else begins.
use std::time::Duration;

use intelliproxy_core::Instant;

use super::Proxy;

impl Proxy {
    /// The proxy will stop soon: it goes on as before, but every response ends its client's
    /// connection. [`handle_stop`](Self::handle_stop) follows after
    /// [`lame_duck`](Self::lame_duck).
    pub fn handle_leaving(&mut self) {
        self.shared.is_leaving = true;
    }

    /// No exchange is to begin any more: idle clients are closed, busy ones after the exchange at
    /// hand, and all of them when `timeouts.shutdownMs` are over.
    pub fn handle_stop(&mut self, now: Instant) {
        if self.shared.is_stopping {
            return;
        }
        self.shared.is_stopping = true;
        self.shared.is_leaving = true;
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

    /// Whether the proxy is stopping, or will soon.
    pub const fn is_leaving(&self) -> bool {
        self.shared.is_leaving
    }

    /// Time from [`handle_leaving`](Self::handle_leaving) to [`handle_stop`](Self::handle_stop).
    pub const fn lame_duck(&self) -> Duration {
        self.shared.config.timeouts.lame_duck
    }
}
