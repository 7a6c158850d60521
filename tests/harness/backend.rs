//! Model backends: what reaches them, and what they answer.
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use intelliproxy_core::Instant;

use crate::client::{Pace, Step};
use crate::strict::{Head, Item, Reader, Way};

/// A backend's reaction to one request.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Whether it begins when the head is there, and does not wait for the body.
    pub at_head: bool,
    /// Steps of the reaction.
    pub steps: Vec<Step>,
    /// Whether the connection is a tunnel from then on: everything is sent back.
    pub is_tunnel: bool,
}

impl Reply {
    /// Bytes, once the request is whole.
    pub fn bytes(bytes: impl Into<Vec<u8>>) -> Self {
        Self::steps(vec![Step::Send(bytes.into())])
    }

    /// Steps, once the request is whole.
    pub const fn steps(steps: Vec<Step>) -> Self {
        Self { at_head: false, steps, is_tunnel: false }
    }

    /// 200 with a body and its length.
    pub fn ok(body: &str) -> Self {
        Self::bytes(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()))
    }
}

/// A request as a backend read it.
#[derive(Clone, Debug)]
pub struct Received {
    /// Its head.
    pub head: Head,
    /// Its body, as far as it came.
    pub body: Vec<u8>,
    /// Its trailer fields.
    pub trailer: Vec<(String, String)>,
    /// Whether it came whole.
    pub is_whole: bool,
    /// The connection that it came on.
    pub link: usize,
}

/// A backend of a world.
#[derive(Debug)]
pub struct Backend {
    /// Address that it listens on.
    pub address: SocketAddr,
    /// Answers for the first requests; after them, the world decides.
    pub script: VecDeque<Reply>,
    /// Its connections that are open, by link.
    pub conns: BTreeMap<usize, Conn>,
    /// Requests that came, probes left out.
    pub requests: Vec<Received>,
    /// Connections that were ever made to it.
    pub connections: usize,
    /// Reading speed.
    pub pace: Pace,
}

/// One connection to a backend.
#[derive(Debug)]
pub struct Conn {
    /// Reads what comes.
    pub reader: Reader,
    /// The current request, as its place in the list of those received.
    pub current: Option<Current>,
    /// Steps left to do.
    pub steps: VecDeque<Step>,
    /// Bytes that wait to be taken by the network.
    pub unsent: Vec<u8>,
    /// When it reads again.
    pub reads_at: Option<Instant>,
    /// Until when it waits.
    pub rests_until: Option<Instant>,
    /// Whether a request came on it.
    pub has_served: bool,
    /// Whether it sends everything back.
    pub is_tunnel: bool,
    /// Bytes that came through the tunnel.
    pub tunnelled: Vec<u8>,
    /// Whether the tunnel's own end was sent.
    pub is_tunnel_over: bool,
}

/// A request that is being read or answered.
#[derive(Debug)]
pub struct Current {
    /// The request so far.
    pub received: Received,
    /// The answer that waits for the rest of it.
    pub reply: Option<Reply>,
    /// Whether it is a probe.
    pub is_probe: bool,
}

/// Content of the bytes that a connection received.
#[derive(Debug)]
pub enum Found {
    /// A head; the world has to decide on a response.
    Head(Head),
    /// The request is whole.
    Whole,
}

impl Backend {
    /// A backend that listens at an address.
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
    /// A connection that was just made.
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

    /// Whether it has an answer to give, or to finish.
    pub fn is_busy(&self) -> bool {
        let waits = self.current.as_ref().is_some_and(|current| current.reply.is_some());
        waits || !self.steps.is_empty() || !self.unsent.is_empty()
    }

    /// Whether bytes of an answer are still to come.
    pub fn is_answering(&self) -> bool {
        let is_send = |step: &Step| matches!(step, Step::Send(_) | Step::SendWhole(_));
        !self.unsent.is_empty() || self.steps.iter().any(is_send)
    }

    /// Reads what was pushed up to the next thing that matters.
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
                    if self.is_answering() {
                        return Err("a request before the answer to the last one".to_owned());
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
