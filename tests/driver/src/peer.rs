//! A connection as its peer sees it: a client, a backend, or the receiver of a probe.
use std::net::SocketAddr;

use intelliproxy::proxy::ConnId;

/// A connection as seen by the proxy's peer.
#[derive(Debug)]
pub struct Peer {
    /// The connection's id in the proxy.
    pub conn: ConnId,
    /// The dialled address; `None` for a client.
    pub address: Option<SocketAddr>,
    /// Bytes that the proxy has written, since the last [`drain`](crate::Driver::drain).
    pub received: Vec<u8>,
    /// For each write to the peer: the length of `received` and of `read` before it.
    pub writes: Vec<(usize, usize)>,
    /// Bytes that the peer still accepts.
    pub takes: usize,
    /// Bytes in the system's buffers that the peer has not acknowledged, if known.
    pub unacknowledged: Option<u64>,
    /// Whether the proxy was notified of the end of the peer's side.
    pub is_end_read: bool,
    /// Whether the connection broke.
    pub has_failed: bool,
    /// Whether the proxy has ended its side.
    pub is_shut: bool,
    /// Whether the proxy closed it by a reset. `None` while it is open.
    pub closed: Option<bool>,
    /// Bytes that the peer has sent so far.
    pub(crate) sent: Vec<u8>,
    /// Number of sent bytes that the proxy has read.
    pub(crate) read_to: usize,
    pub(crate) has_ended: bool,
    pub(crate) is_connected: bool,
    pub(crate) is_write_broken: bool,
    /// Whether the proxy had no room for a read, and has not reported room since.
    pub(crate) is_paused: bool,
    /// Whether the proxy has reported bytes to write, and some are not written yet.
    pub(crate) is_reported: bool,
}

impl Peer {
    pub(crate) const fn new(conn: ConnId, address: Option<SocketAddr>, takes: usize) -> Self {
        Self {
            conn,
            address,
            received: Vec::new(),
            writes: Vec::new(),
            takes,
            unacknowledged: None,
            is_end_read: false,
            has_failed: false,
            is_shut: false,
            closed: None,
            sent: Vec::new(),
            read_to: 0,
            has_ended: false,
            is_connected: address.is_none(),
            is_write_broken: false,
            is_paused: false,
            is_reported: false,
        }
    }

    /// Returns whether the peer is a client.
    pub const fn is_client(&self) -> bool {
        self.address.is_none()
    }

    /// Returns whether the connection is open on the proxy's side.
    pub const fn is_open(&self) -> bool {
        self.closed.is_none()
    }

    /// Returns whether the proxy has ended the connection in a way that its peer reads as a clean
    /// end.
    pub fn is_over(&self) -> bool {
        self.closed == Some(false) || (self.is_shut && self.is_open())
    }

    /// Returns the bytes that the peer has sent and the proxy has read.
    pub fn read(&self) -> &[u8] {
        &self.sent[..self.read_to]
    }

    /// Returns the bytes that the peer has sent and the proxy has not read.
    pub fn unread(&self) -> &[u8] {
        &self.sent[self.read_to..]
    }

    /// Returns whether the peer may send more.
    pub const fn may_send(&self) -> bool {
        !self.has_ended && !self.has_failed
    }

    /// Returns whether bytes can move in either direction.
    pub(crate) const fn is_usable(&self) -> bool {
        self.is_open() && self.is_connected && !self.has_failed
    }
}
