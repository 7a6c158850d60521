//! The state of the model backends: the requests that reach them, and the responses in progress.
//! `play.rs` moves them, and `response.rs` draws their responses.
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use intelliproxy_core::Instant;

use crate::client::{Pace, Step};
use crate::reader::{Head, Item, Reader, Way};

/// A backend's handling of one request.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Whether the response begins after the head of the request, without waiting for the body.
    pub at_head: bool,
    /// The steps of its response.
    pub steps: Vec<Step>,
    /// Whether the connection becomes a tunnel: every byte is then sent back.
    pub is_tunnel: bool,
}

impl Reply {
    /// Responds with these bytes once the request is complete.
    pub fn bytes(bytes: impl Into<Vec<u8>>) -> Self {
        Self::steps(vec![Step::Send(bytes.into())])
    }

    /// Takes these steps once the request is complete.
    pub const fn steps(steps: Vec<Step>) -> Self {
        Self { at_head: false, steps, is_tunnel: false }
    }

    /// Responds 200 with a body and its length.
    pub fn ok(body: &str) -> Self {
        Self::bytes(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()))
    }
}

/// A request as read by a backend.
#[derive(Clone, Debug)]
pub struct Received {
    /// Its head.
    pub head: Head,
    /// Its body, as far as received.
    pub body: Vec<u8>,
    /// Its trailer fields.
    pub trailer: Vec<(String, String)>,
    /// Whether it was received completely.
    pub is_whole: bool,
    /// The connection on which it arrived.
    pub link: usize,
}

/// A backend of a world.
#[derive(Debug)]
pub struct Backend {
    /// Its address.
    pub address: SocketAddr,
    /// Responses to the first requests. After them the world decides.
    pub script: VecDeque<Reply>,
    /// Its open connections, by link.
    pub conns: BTreeMap<usize, Conn>,
    /// Received requests, without probes.
    pub requests: Vec<Received>,
    /// Number of connections made to it so far.
    pub connections: usize,
    /// Its reading speed.
    pub pace: Pace,
}

/// One connection to a backend.
#[derive(Debug)]
pub struct Conn {
    /// Reads the received bytes.
    pub reader: Reader,
    /// The current request.
    pub current: Option<Current>,
    /// The remaining steps.
    pub steps: VecDeque<Step>,
    /// Bytes that wait for room in the network.
    pub unsent: Vec<u8>,
    /// The time of its next read.
    pub reads_at: Option<Instant>,
    /// The end of its wait.
    pub rests_until: Option<Instant>,
    /// Whether it has carried a request.
    pub has_served: bool,
    /// Whether it sends every byte back.
    pub is_tunnel: bool,
    /// Bytes that arrived through the tunnel.
    pub tunnelled: Vec<u8>,
    /// Whether it is closing because the proxy has ended its side.
    pub is_tunnel_over: bool,
}

/// A request that is being read or served.
#[derive(Debug)]
pub struct Current {
    /// The request so far.
    pub received: Received,
    /// The response that waits for the rest of the request.
    pub reply: Option<Reply>,
    /// Whether it is a probe.
    pub is_probe: bool,
}

/// The part of a request found in the received bytes.
#[derive(Debug)]
pub enum Found {
    /// A head, for which the caller decides on a response.
    Head(Head),
    /// The end of the request.
    Whole,
}

impl Backend {
    /// Returns a backend that listens at an address.
    pub const fn new(address: SocketAddr) -> Self {
        Self {
            address,
            script: VecDeque::new(),
            conns: BTreeMap::new(),
            requests: Vec::new(),
            connections: 0,
            pace: Pace::Fast,
        }
    }
}

impl Conn {
    /// Returns a new connection.
    pub const fn new() -> Self {
        Self {
            reader: Reader::new(Way::ToBackend),
            current: None,
            steps: VecDeque::new(),
            unsent: Vec::new(),
            reads_at: None,
            rests_until: None,
            has_served: false,
            is_tunnel: false,
            tunnelled: Vec::new(),
            is_tunnel_over: false,
        }
    }

    /// Returns whether it has a response to begin or to finish.
    pub fn is_busy(&self) -> bool {
        let waits = self.current.as_ref().is_some_and(|current| current.reply.is_some());
        waits || !self.steps.is_empty() || !self.unsent.is_empty()
    }

    /// Returns whether bytes of a response are left to send.
    pub fn is_responding(&self) -> bool {
        let is_send = |step: &Step| matches!(step, Step::Send(_) | Step::SendWhole(_));
        !self.unsent.is_empty() || self.steps.iter().any(is_send)
    }

    /// Reads the received bytes up to the next head or the end of a request.
    ///
    /// # Errors
    /// The rule that the bytes break.
    pub fn read(&mut self, link: usize) -> Result<Option<Found>, String> {
        while let Some(item) = self.reader.next(None)? {
            match (item, &mut self.current) {
                (Item::Data(_), _) if self.is_tunnel && !self.steps.is_empty() => {
                    return Err("bytes of a tunnel before it was opened".to_owned());
                }
                (Item::Data(data), _) if self.is_tunnel => {
                    self.tunnelled.extend_from_slice(&data);
                    self.unsent.extend_from_slice(&data);
                }
                (Item::Head(head), None) => {
                    if self.is_responding() {
                        return Err("a request before the response to the last one".to_owned());
                    }
                    self.has_served = true;
                    let is_probe = head.one("user-agent") == Some("intelliproxy");
                    let received = Received {
                        head: head.clone(),
                        body: Vec::new(),
                        trailer: Vec::new(),
                        is_whole: false,
                        link,
                    };
                    self.current = Some(Current { received, reply: None, is_probe });
                    return Ok(Some(Found::Head(head)));
                }
                (Item::Data(data), Some(current)) => current.received.body.extend_from_slice(&data),
                (Item::End(trailer), Some(current)) => {
                    current.received.trailer = trailer;
                    current.received.is_whole = true;
                    return Ok(Some(Found::Whole));
                }
                (item, _) => return Err(format!("{item:?} out of order")),
            }
        }
        Ok(None)
    }
}

impl Default for Conn {
    fn default() -> Self {
        Self::new()
    }
}
