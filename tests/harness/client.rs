//! Scripted clients: what they send and when, and what they got.
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use intelliproxy_core::Instant;

use crate::net::Path;
use crate::strict::{Asked, Head, Item, Reader, Way};

/// One step of a client's script or of a backend's answer.
#[derive(Clone, Debug)]
pub enum Step {
    /// Send bytes.
    Send(Vec<u8>),
    /// Send bytes in one piece that the network does not cut.
    SendWhole(Vec<u8>),
    /// From now on an answer is expected.
    Ask {
        /// Facts that its reader needs.
        asked: Asked,
        /// The request's number, if it has one.
        id: Option<u64>,
    },
    /// Do nothing for a while.
    Wait(Duration),
    /// Wait until this many final responses have arrived in all.
    AwaitAnswers(usize),
    /// Wait until an interim or the final answer to the last request came, but not for long.
    AwaitSign,
    /// The same, until a time.
    AwaitSignUntil(Instant),
    /// Wait until the head of the final answer to the last request came.
    AwaitHead,
    /// Wait until the proxy ends the connection.
    AwaitEnd,
    /// From now on read like this.
    Pace(Pace),
    /// End the own side and go on reading.
    Fin,
    /// Close.
    Close,
    /// Close by a reset.
    Reset,
}

/// Reading speed of a peer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Pace {
    /// Everything at once.
    Fast,
    /// So many bytes at a time, and then a pause.
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
    /// The client itself did.
    Own,
}

/// An answer that a client got, whole or not.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The number of the request that it should be the answer to.
    pub id: Option<u64>,
    /// Whether a request waited for it.
    pub is_asked_for: bool,
    /// Its request, as far as a reader needs it.
    pub asked: Asked,
    /// Its head; with status 0 when none came.
    pub head: Head,
    /// Statuses of the interim answers before it.
    pub interim: Vec<u16>,
    /// Its body as far as it came.
    pub body: Vec<u8>,
    /// Its trailer fields.
    pub trailer: Vec<(String, String)>,
    /// Whether its reader takes it for whole.
    pub is_whole: bool,
}

/// A client of a world.
#[derive(Debug)]
pub struct Client {
    /// Its address.
    pub peer: SocketAddr,
    /// When it connects.
    pub starts: Instant,
    /// Rest of its script.
    pub script: VecDeque<Step>,
    /// Reading speed.
    pub pace: Pace,
    /// Its connection.
    pub link: Option<usize>,
    /// End of its connection.
    pub end: Option<End>,
    /// Responses received.
    pub answers: Vec<Answer>,
    /// Whether it does nothing that the proxy may answer with an error.
    pub is_polite: bool,
    /// Whether it comes when all faults are over, so that nothing may go wrong for it.
    pub must_be_served: bool,
    /// Bytes that wait to be taken by the network.
    pub unsent: Vec<u8>,
    /// When it reads again.
    pub reads_at: Option<Instant>,
    /// Its connection's paths, if they differ from the world's.
    pub paths: Option<(Path, Path)>,
    /// Until when its script waits.
    pub rests_until: Option<Instant>,
    /// Whether the proxy closed it for another client, while idle.
    pub gave_way: bool,
    /// Requests without an answer yet.
    pub outstanding: VecDeque<(Asked, Option<u64>)>,
    /// Bytes that came in all.
    pub received: u64,
    reader: Reader,
    current: Option<Answer>,
    interim: Vec<u16>,
}

impl Client {
    /// A client with a script.
    pub fn new(peer: SocketAddr, starts: Instant, script: Vec<Step>) -> Self {
        Self {
            peer,
            starts,
            script: script.into(),
            pace: Pace::Fast,
            link: None,
            end: None,
            answers: Vec::new(),
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

    /// Whether it has done all that it wanted, or cannot go on.
    pub fn is_done(&self) -> bool {
        self.end.is_some()
    }

    /// Whether an interim or final answer to its last request came.
    pub fn has_sign(&self) -> bool {
        self.outstanding.is_empty() || !self.interim.is_empty() || self.current.is_some()
    }

    /// Whether the head of the final answer to its last request came.
    pub fn has_head(&self) -> bool {
        self.outstanding.is_empty() || (self.outstanding.len() == 1 && self.current.is_some())
    }

    /// Whether it asked for a tunnel, whose sides end one by one.
    pub fn has_asked_for_tunnel(&self) -> bool {
        let answered = self.answers.iter().map(|answer| answer.asked);
        let asked = self.outstanding.iter().map(|(asked, _)| *asked);
        answered.chain(asked).any(|asked| asked.is_upgrade)
    }

    /// Reads bytes that came; the numbers of answers that are whole now.
    ///
    /// # Errors
    /// The rule that they break.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.received += bytes.len() as u64;
        self.reader.push(bytes);
        loop {
            let asked = match self.outstanding.front() {
                Some((asked, _)) => Some(*asked),
                // It may have provoked an error that is the answer to nothing.
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
                        other => return Err(format!("an interim answer with {other:?}")),
                    }
                }
                Some(Item::Head(head)) => {
                    let first = self.outstanding.front().copied();
                    let (asked, id) = first.unwrap_or_default();
                    self.current = Some(Answer {
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
                    if let Some(answer) = &mut self.current {
                        answer.body.extend_from_slice(&data);
                    }
                }
                Some(Item::End(trailer)) => {
                    let Some(mut answer) = self.current.take() else {
                        return Err("the end of nothing".to_owned());
                    };
                    answer.trailer = trailer;
                    answer.is_whole = true;
                    self.outstanding.pop_front();
                    self.answers.push(answer);
                }
            }
        }
    }

    /// The connection is over: what had begun is an answer, cut or not.
    pub fn finish(&mut self, end: End) {
        if self.end.is_some() {
            return;
        }
        self.end = Some(end);
        let ends_here = self.reader.ends_at_close() || self.reader.is_tunnel();
        if let Some(mut answer) = self.current.take() {
            answer.is_whole = end == End::Clean && ends_here;
            self.outstanding.pop_front();
            self.answers.push(answer);
        }
    }

    /// Bytes of the current response so far.
    pub fn current_body(&self) -> &[u8] {
        self.current.as_ref().map_or(&[], |answer| &answer.body)
    }
}
