//! Scripted clients: the bytes that they send, their timing, and the responses that they get.
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use intelliproxy_core::Instant;

use crate::net::Path;
use crate::reader::{Asked, Head, Item, Reader, Way};

/// One step of a client's script or of a backend's response.
#[derive(Clone, Debug)]
pub enum Step {
    /// Send bytes.
    Send(Vec<u8>),
    /// Send bytes in one piece that the network does not cut.
    SendWhole(Vec<u8>),
    /// Expect one more response.
    Ask {
        /// The facts that the reader of the response needs.
        asked: Asked,
        /// The request's number, if it has one.
        id: Option<u64>,
    },
    /// Do nothing for this time.
    Wait(Duration),
    /// Wait until this number of final responses has arrived in total.
    AwaitResponses(usize),
    /// Wait, at most 700 ms, until the next response has begun, interim or final.
    AwaitSign,
    /// Wait as for `AwaitSign`, at most until this time.
    AwaitSignUntil(Instant),
    /// Wait until the head of the final response to the last request has arrived.
    AwaitHead,
    /// Wait until the proxy ends the connection.
    AwaitEnd,
    /// Change the reading speed.
    Pace(Pace),
    /// End the client's or backend's own side and continue to read.
    Fin,
    /// Close.
    Close,
    /// Close by a reset.
    Reset,
}

/// The reading speed of a peer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Pace {
    /// Everything at once.
    Fast,
    /// A number of bytes at a time, with a pause after each.
    Slow {
        /// Bytes at a time.
        bytes: usize,
        /// The pause.
        pause: Duration,
    },
    /// Nothing.
    Never,
}

/// The end of a client's connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum End {
    /// The proxy ended it cleanly.
    Clean,
    /// The proxy, or the network, reset it.
    Reset,
    /// The client closed or reset it.
    Own,
}

/// A response that a client got, complete or not.
#[derive(Clone, Debug)]
pub struct Response {
    /// The number of the request to which it should belong.
    pub id: Option<u64>,
    /// Whether a request was waiting for it.
    pub is_asked_for: bool,
    /// The facts about that request.
    pub asked: Asked,
    /// Its head, with status 0 if none arrived.
    pub head: Head,
    /// Statuses of the interim responses before it.
    pub interim: Vec<u16>,
    /// Its body, as far as received.
    pub body: Vec<u8>,
    /// Its trailer fields.
    pub trailer: Vec<(String, String)>,
    /// Whether its reader regards it as complete.
    pub is_whole: bool,
}

/// A client of a world.
#[derive(Debug)]
pub struct Client {
    /// Its address.
    pub peer: SocketAddr,
    /// The time at which it connects.
    pub starts: Instant,
    /// The rest of its script.
    pub script: VecDeque<Step>,
    /// Its reading speed.
    pub pace: Pace,
    /// The number of its connection, once it has connected.
    pub link: Option<usize>,
    /// The kind of end of its connection, once it has ended.
    pub end: Option<End>,
    /// The responses that it got.
    pub responses: Vec<Response>,
    /// Whether it does nothing that could cause an error response.
    pub is_polite: bool,
    /// Whether it connects after all faults, so that it must be served.
    pub must_be_served: bool,
    /// Bytes that wait for room in the network.
    pub unsent: Vec<u8>,
    /// The time of its next read.
    pub reads_at: Option<Instant>,
    /// The properties of its connection, if they differ from the others'.
    pub paths: Option<(Path, Path)>,
    /// The end of its script's wait.
    pub rests_until: Option<Instant>,
    /// Whether the proxy closed it, while idle, to make room for another client.
    pub gave_way: bool,
    /// Requests without a response yet.
    pub outstanding: VecDeque<(Asked, Option<u64>)>,
    /// Number of bytes received.
    pub received: u64,
    reader: Reader,
    current: Option<Response>,
    interim: Vec<u16>,
}

impl Client {
    /// Returns a client with a script.
    pub fn new(peer: SocketAddr, starts: Instant, script: Vec<Step>) -> Self {
        Self {
            peer,
            starts,
            script: script.into(),
            pace: Pace::Fast,
            link: None,
            end: None,
            responses: Vec::new(),
            is_polite: true,
            must_be_served: false,
            unsent: Vec::new(),
            reads_at: None,
            paths: None,
            rests_until: None,
            gave_way: false,
            outstanding: VecDeque::new(),
            received: 0,
            reader: Reader::new(Way::ToClient),
            current: None,
            interim: Vec::new(),
        }
    }

    /// Returns whether its connection has ended.
    pub fn is_done(&self) -> bool {
        self.end.is_some()
    }

    /// Returns whether the next response has begun, interim or final, or none is outstanding.
    pub fn has_sign(&self) -> bool {
        self.outstanding.is_empty() || !self.interim.is_empty() || self.current.is_some()
    }

    /// Returns whether the head of the final response to its last request has arrived.
    pub fn has_head(&self) -> bool {
        self.outstanding.is_empty() || (self.outstanding.len() == 1 && self.current.is_some())
    }

    /// Returns whether it requested a tunnel, whose sides end separately.
    pub fn has_asked_for_tunnel(&self) -> bool {
        let served = self.responses.iter().map(|response| response.asked);
        let asked = self.outstanding.iter().map(|(asked, _)| *asked);
        served.chain(asked).any(|asked| asked.is_upgrade)
    }

    /// Reads received bytes.
    ///
    /// # Errors
    /// The rule that they break.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.received += bytes.len() as u64;
        self.reader.push(bytes);
        loop {
            let asked = match self.outstanding.front() {
                Some((asked, _)) => Some(*asked),
                // It may have provoked an error that belongs to no request.
                None if !self.is_polite && !self.must_be_served => Some(Asked::default()),
                None => None,
            };
            match self.reader.next(asked)? {
                None => return Ok(()),
                Some(Item::Head(head))
                    if (100..200).contains(&head.status) && head.status != 101 =>
                {
                    self.interim.push(head.status);
                    match self.reader.next(asked)? {
                        Some(Item::End(_)) => {}
                        other => return Err(format!("an interim response with {other:?}")),
                    }
                }
                Some(Item::Head(head)) => {
                    let first = self.outstanding.front().copied();
                    let (asked, id) = first.unwrap_or_default();
                    self.current = Some(Response {
                        id,
                        is_asked_for: first.is_some(),
                        asked,
                        head,
                        interim: std::mem::take(&mut self.interim),
                        body: Vec::new(),
                        trailer: Vec::new(),
                        is_whole: false,
                    });
                }
                Some(Item::Data(data)) => {
                    if let Some(response) = &mut self.current {
                        response.body.extend_from_slice(&data);
                    }
                }
                Some(Item::End(trailer)) => {
                    let Some(mut response) = self.current.take() else {
                        return Err("the end of nothing".to_owned());
                    };
                    response.trailer = trailer;
                    response.is_whole = true;
                    self.outstanding.pop_front();
                    self.responses.push(response);
                }
            }
        }
    }

    /// Ends the connection: a response that had begun is recorded, cut or not.
    pub fn finish(&mut self, end: End) {
        if self.end.is_some() {
            return;
        }
        self.end = Some(end);
        let ends_here = self.reader.ends_at_close() || self.reader.is_tunnel();
        if let Some(mut response) = self.current.take() {
            response.is_whole = end == End::Clean && ends_here;
            self.outstanding.pop_front();
            self.responses.push(response);
        }
    }

    /// Returns the bytes of the current response's body so far.
    pub fn current_body(&self) -> &[u8] {
        self.current.as_ref().map_or(&[], |response| &response.body)
    }
}
