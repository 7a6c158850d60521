//! The stop of the proxy: exchanges in progress are completed, and no new ones begin.
use std::time::Duration;

use intelliproxy_core::Instant;

use super::Proxy;

impl Proxy {
    /// Announces the stop: the proxy continues, but every response ends its client's connection.
    /// [`handle_stop`](Self::handle_stop) follows after [`lame_duck`](Self::lame_duck).
    pub fn handle_leaving(&mut self) {
        self.shared.is_leaving = true;
        self.check_streams();
    }

    /// Begins no new exchange: closes idle clients now, busy ones after the current exchange, and
    /// all of them after `timeouts.shutdownMs`.
    pub fn handle_stop(&mut self, now: Instant) {
        if self.shared.is_stopping {
            return;
        }
        self.shared.is_stopping = true;
        self.shared.is_leaving = true;
        self.check_streams();
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

    /// Whether the proxy begins no new exchange.
    pub const fn is_stopping(&self) -> bool {
        self.shared.is_stopping
    }

    /// Whether the proxy is stopping and no client is left.
    pub fn is_stopped(&self) -> bool {
        self.shared.is_stopping && self.clients == 0
    }

    /// Whether the proxy is stopping, or will soon.
    pub const fn is_leaving(&self) -> bool {
        self.shared.is_leaving
    }

    /// Returns the time from [`handle_leaving`](Self::handle_leaving) to
    /// [`handle_stop`](Self::handle_stop).
    pub const fn lame_duck(&self) -> Duration {
        self.shared.config.timeouts.lame_duck
    }
}
