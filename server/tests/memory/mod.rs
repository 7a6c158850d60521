//! A proxy in memory with one client and one backend. Bytes are passed at once and completely.
//!
//! Measurements use it instead of the tests' driver (`tests/driver`), which keeps all bytes and
//! checks every call: its allocations and instructions would be counted.
use std::net::SocketAddr;

use intelliproxy::config::{BackendTarget, Config};
use intelliproxy::proxy::{Action, ConnId, Proxy};
use intelliproxy_core::Instant;

/// The proxy and its two peers.
pub(crate) struct World {
    proxy: Proxy,
    client: ConnId,
    upstream: Option<ConnId>,
    now: Instant,
    to_backend: usize,
    to_client: usize,
    is_logged: bool,
}

impl World {
    /// Returns a proxy with one connected client.
    pub(crate) fn new() -> Self {
        Self::with(Config::default())
    }

    /// Returns a proxy of this configuration, with one connected client.
    pub(crate) fn with(config: Config) -> Self {
        let is_logged = config.access_log.file.is_some();
        let now = Instant::from_millis(1);
        let address = SocketAddr::from(([127, 0, 0, 1], 9));
        let target = BackendTarget {
            name: "A".to_owned(),
            url: "http://127.0.0.1:9".to_owned(),
            authority: "127.0.0.1:9".to_owned(),
            tls: None,
            addresses: vec![address],
        };
        let mut proxy = Proxy::new(config, vec![target], 1, now)
            .unwrap_or_else(|error| panic!("the configuration is good: {error}"));
        let client = proxy.handle_accept(now, SocketAddr::from(([127, 0, 0, 1], 50_000)));
        Self { proxy, client, upstream: None, now, to_backend: 0, to_client: 0, is_logged }
    }

    /// Runs one request with its response. Returns the number of bytes that the client received.
    pub(crate) fn exchange(&mut self, request: &[u8], response: &[u8]) -> usize {
        self.now = Instant::from_nanos(self.now.as_nanos() + 20_000);
        (self.to_backend, self.to_client) = (0, 0);
        self.hand_over(self.client, request);
        self.settle();
        assert!(self.to_backend > 0, "the request reached the backend");
        if let Some(upstream) = self.upstream {
            self.hand_over(upstream, response);
        }
        self.settle();
        if self.is_logged {
            self.proxy.discard_access_records();
        }
        self.to_client
    }

    /// Passes bytes of one peer, in as many reads as they need.
    fn hand_over(&mut self, conn: ConnId, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let space = self.proxy.read_space(conn);
            let count = bytes.len().min(space.len());
            assert!(count > 0, "there is room");
            space[..count].copy_from_slice(&bytes[..count]);
            bytes = &bytes[count..];
            self.proxy.handle_read(self.now, conn, count);
            self.settle();
        }
    }

    /// Carries out the proxy's actions until none are left.
    fn settle(&mut self) {
        loop {
            while let Some(action) = self.proxy.poll_action() {
                if let Action::Connect { conn, .. } = action {
                    self.upstream = Some(conn);
                    self.proxy.handle_connected(self.now, conn, Ok(()));
                }
            }
            let Some(conn) = self.proxy.poll_dirty() else { return };
            let count = self.proxy.write_ready(conn).len();
            if count > 0 {
                if conn == self.client {
                    self.to_client += count;
                } else {
                    self.to_backend += count;
                }
                self.proxy.handle_written(self.now, conn, count);
            }
        }
    }
}
