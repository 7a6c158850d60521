//! The virtual network: connections as two pipes, and the queue of future events.
//!
//! It is as unreliable as a real one: a write is cut into segments down to one byte. A full pipe
//! accepts no more, and reports room once. A reset may destroy unread bytes. A close with unread
//! bytes is a reset, and bytes that are still in flight may be lost (RFC 9112 section 9.6).
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::SocketAddr;
use std::time::Duration;

use intelliproxy::proxy::ConnectFailure;
use intelliproxy_core::{Instant, Rng};

pub use crate::pipe::Path;
use crate::pipe::{Pipe, Segment};
use crate::trace::Trace;
use crate::written::Written;

/// A future event.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Happening {
    /// The next segment arrives at the proxy.
    ToProxy(usize),
    /// The next segment arrives at the client or the backend.
    ToPeer(usize),
    /// The proxy may write again.
    ProxyRoom(usize),
    /// The client or the backend may write again.
    PeerRoom(usize),
    /// A connection requested by the proxy is made, or fails.
    Connected(usize),
    /// A client continues its script.
    Client(usize),
    /// A backend's connection continues its response.
    Backend(usize),
    /// The scripted change of this number.
    Change(usize),
}

/// The outcome of a read or a write by the proxy.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Moved {
    /// This number of bytes.
    Bytes(usize),
    /// No bytes now. An edge reports when to try again.
    Blocked,
    /// No bytes, and none will follow.
    Ended,
    /// The connection broke.
    Failed,
}

/// A connection between the proxy and a peer.
#[derive(Debug)]
pub struct Link {
    /// The address of a backend's connection.
    pub address: Option<SocketAddr>,
    /// Towards the proxy.
    pub inward: Pipe,
    /// Away from the proxy.
    pub outward: Pipe,
    /// Time at which the proxy last read bytes from it, or at which it was opened.
    pub last_read: Instant,
    /// The responses written to it, if its peer is a client.
    pub written: Written,
    /// Whether its peer's end was a half-close, once the proxy has seen it.
    pub is_half_closed: Option<bool>,
    /// Time at which the proxy last wrote to it, or at which it was opened.
    pub last_write: Instant,
    /// Whether the proxy closed it.
    pub is_closed_by_proxy: bool,
    /// Whether the proxy closed it by a reset.
    pub is_reset_by_proxy: bool,
    /// Whether the peer closed it.
    pub is_closed_by_peer: bool,
    /// Whether a reset has reported to the peer that the proxy closed it.
    is_refused: bool,
    /// Whether the backend left or moved while it was open: no request may begin on it.
    pub is_displaced: bool,
    /// The outcome of the connect, until it is reported. Stays `None` if the connect hangs.
    pub connecting: Option<Result<(), ConnectFailure>>,
}

/// The outcome of connecting to an address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Listening {
    /// It succeeds.
    Yes,
    /// It is refused.
    Refusing,
    /// It fails at once, without a packet.
    Unreachable,
    /// There is no reply.
    Hanging,
    /// The proxy's own system has no descriptor left for it.
    Exhausted,
}

/// All connections, and the queue of events.
#[derive(Debug)]
pub struct Net {
    /// The time.
    pub now: Instant,
    /// The only source of randomness.
    pub rng: Rng,
    /// The events so far.
    pub trace: Trace,
    /// Every connection so far.
    pub links: Vec<Link>,
    /// The addresses of backends.
    pub listening: Vec<(SocketAddr, Listening)>,
    /// The properties of connections to backends, towards the proxy and away from it.
    pub paths: (Path, Path),
    /// The addresses to which the proxy may connect now.
    pub configured: Vec<SocketAddr>,
    queue: BinaryHeap<Reverse<(Instant, u64, Happening)>>,
    count: u64,
}

impl Net {
    /// Returns an empty network at time zero.
    pub fn new(seed: u64, trace: Trace, paths: (Path, Path)) -> Self {
        Self {
            listening: Vec::new(),
            configured: Vec::new(),
            paths,
            now: Instant::ZERO,
            rng: Rng::new(seed),
            trace,
            links: Vec::new(),
            queue: BinaryHeap::new(),
            count: 0,
        }
    }

    /// Opens a new connection.
    pub fn open(&mut self, inward: Path, outward: Path) -> usize {
        self.links.push(Link {
            address: None,
            inward: Pipe::new(inward),
            outward: Pipe::new(outward),
            last_read: self.now,
            written: Written::default(),
            is_half_closed: None,
            last_write: self.now,
            is_closed_by_proxy: false,
            is_reset_by_proxy: false,
            is_closed_by_peer: false,
            is_refused: false,
            is_displaced: false,
            connecting: None,
        });
        self.links.len() - 1
    }

    /// Connects the proxy to a backend. The outcome is a [`Happening::Connected`].
    ///
    /// # Errors
    /// The reason for an immediate failure.
    pub fn dial(&mut self, address: SocketAddr) -> Result<usize, ConnectFailure> {
        assert!(self.configured.contains(&address), "{address} is dialled and not configured");
        let known = self.listening.iter().find(|(other, _)| *other == address);
        let result = match known.map(|(_, state)| state) {
            Some(Listening::Yes) => Some(Ok(())),
            Some(Listening::Refusing) => Some(Err(ConnectFailure::Refused)),
            Some(Listening::Hanging) => None,
            Some(Listening::Exhausted) => return Err(ConnectFailure::Exhausted),
            Some(Listening::Unreachable) | None => return Err(ConnectFailure::Unreachable),
        };
        let (inward, outward) = self.paths;
        let link = self.open(inward, outward);
        self.links[link].address = Some(address);
        self.links[link].connecting = result;
        if result.is_some() {
            self.after(outward.latency + inward.latency, Happening::Connected(link));
        }
        Ok(link)
    }

    /// Adds an event after `wait`.
    pub fn after(&mut self, wait: Duration, happening: Happening) {
        self.at(self.now + wait, happening);
    }

    /// Adds an event at a time.
    pub fn at(&mut self, at: Instant, happening: Happening) {
        self.count += 1;
        self.queue.push(Reverse((at, self.count, happening)));
    }

    /// Returns the time of the next event.
    pub fn next_at(&self) -> Option<Instant> {
        self.queue.peek().map(|Reverse((at, ..))| *at)
    }

    /// Returns the next event that is due.
    pub fn due(&mut self) -> Option<Happening> {
        let Reverse((at, ..)) = self.queue.peek()?;
        if *at > self.now {
            return None;
        }
        self.queue.pop().map(|Reverse((_, _, happening))| happening)
    }

    /// Returns a number between `from` and `to`, both included.
    pub fn pick(&mut self, from: u64, to: u64) -> u64 {
        from + self.rng.below(to - from + 1)
    }

    /// Draws an event of this probability in percent.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.rng.below(100) < percent
    }

    /// Returns the number of bytes that the proxy has read from backends.
    pub fn taken_from_backends(&self) -> u64 {
        let links = self.links.iter().filter(|link| link.address.is_some());
        links.map(|link| link.inward.taken).sum()
    }

    /// Returns the number of bytes that the proxy has read from clients.
    pub fn taken_from_clients(&self) -> u64 {
        let links = self.links.iter().filter(|link| link.address.is_none());
        links.map(|link| link.inward.taken).sum()
    }

    /// Reads for the proxy.
    pub fn proxy_read(&mut self, link: usize, space: &mut [u8]) -> Moved {
        let pipe = &mut self.links[link].inward;
        let was_full = pipe.held >= pipe.path.capacity;
        match pipe.take(space) {
            // A reset behind a clean end does not revoke the end.
            0 if pipe.has_fin => Moved::Ended,
            0 if pipe.has_rst => Moved::Failed,
            0 => Moved::Blocked,
            count => {
                if (was_full || pipe.wants_room) && pipe.held < pipe.path.capacity {
                    pipe.wants_room = false;
                    let latency = pipe.path.latency;
                    self.after(latency, Happening::PeerRoom(link));
                }
                self.links[link].last_read = self.now;
                Moved::Bytes(count)
            }
        }
    }

    /// Writes for the proxy.
    pub fn proxy_write(&mut self, link: usize, bytes: &[u8]) -> Moved {
        let Link { inward, outward, .. } = &self.links[link];
        if inward.has_rst || outward.is_ended {
            return Moved::Failed;
        }
        match self.put(link, Toward::Peer, bytes) {
            0 => Moved::Blocked,
            count => {
                self.links[link].last_write = self.now;
                Moved::Bytes(count)
            }
        }
    }

    /// Ends the proxy's side.
    pub fn proxy_shutdown(&mut self, link: usize) {
        self.end(link, Toward::Peer, Segment::Fin);
    }

    /// Closes for the proxy.
    pub fn proxy_close(&mut self, link: usize, with_reset: bool) {
        let entry = &mut self.links[link];
        entry.is_closed_by_proxy = true;
        entry.is_reset_by_proxy = with_reset;
        let has_unread = entry.inward.waiting() > 0;
        entry.inward.is_ended = true;
        if entry.is_closed_by_peer {
            entry.outward.destroy();
        } else if with_reset || has_unread {
            entry.outward.destroy();
            entry.outward.is_ended = false;
            self.end(link, Toward::Peer, Segment::Rst);
        } else {
            self.end(link, Toward::Peer, Segment::Fin);
        }
    }

    /// Writes for the peer. Returns the number of bytes accepted.
    pub fn peer_send(&mut self, link: usize, bytes: &[u8]) -> usize {
        let Link { outward, inward, is_closed_by_proxy, .. } = &self.links[link];
        if outward.has_rst || inward.is_ended || *is_closed_by_proxy {
            // The connection has ended: the network drops the bytes. If the proxy closed it, a
            // reset reports that.
            if *is_closed_by_proxy && !outward.has_rst && !self.links[link].is_refused {
                self.refuse(link);
            }
            return bytes.len();
        }
        self.put(link, Toward::Proxy, bytes)
    }

    /// Writes one piece for the peer. The piece is not cut, and even a full pipe accepts it.
    pub fn peer_send_whole(&mut self, link: usize, bytes: &[u8]) {
        let Link { outward, inward, is_closed_by_proxy, .. } = &self.links[link];
        if !outward.has_rst && !inward.is_ended && !is_closed_by_proxy {
            self.send(link, Toward::Proxy, Segment::Bytes(bytes.to_vec()));
        }
    }

    /// Reads up to `most` bytes for the peer.
    pub fn peer_take(&mut self, link: usize, most: usize) -> Vec<u8> {
        let pipe = &mut self.links[link].outward;
        let mut bytes = vec![0; most.min(pipe.arrived.len())];
        pipe.take(&mut bytes);
        // As on a real system, room is reported only once a third is free.
        if pipe.wants_room && !bytes.is_empty() && pipe.held <= pipe.path.capacity / 3 * 2 {
            pipe.wants_room = false;
            let latency = pipe.path.latency;
            self.after(latency, Happening::ProxyRoom(link));
        }
        bytes
    }

    /// Ends the peer's side. It continues to read.
    pub fn peer_fin(&mut self, link: usize) {
        self.end(link, Toward::Proxy, Segment::Fin);
    }

    /// Closes for the peer: it reads no more.
    pub fn peer_close(&mut self, link: usize, with_reset: bool) {
        let entry = &mut self.links[link];
        if std::mem::replace(&mut entry.is_closed_by_peer, true) {
            return;
        }
        let has_unread = entry.outward.waiting() > 0;
        entry.outward.destroy();
        if entry.is_closed_by_proxy {
            return;
        }
        if with_reset || has_unread {
            let is_delivered = entry.inward.in_flight.is_empty();
            if !is_delivered && self.rng.below(2) == 0 {
                let pipe = &mut self.links[link].inward;
                pipe.held = pipe.arrived.len();
                pipe.in_flight.clear();
            }
            self.links[link].inward.is_ended = false;
            self.end(link, Toward::Proxy, Segment::Rst);
        } else {
            self.end(link, Toward::Proxy, Segment::Fin);
        }
    }

    /// Delivers a segment to the proxy. Returns whether the pipe ends; `None` without a change.
    pub fn arrive_at_proxy(&mut self, link: usize) -> Option<bool> {
        let now = self.now;
        let entry = &mut self.links[link];
        let segment = entry.inward.land(now)?;
        if entry.is_closed_by_proxy {
            if matches!(segment, Segment::Bytes(_)) && !entry.is_refused {
                self.refuse(link);
            }
            return None;
        }
        Some(entry.inward.arrive(segment))
    }

    /// Delivers a segment to the peer. Returns whether that changes anything.
    pub fn arrive_at_peer(&mut self, link: usize) -> bool {
        let now = self.now;
        let entry = &mut self.links[link];
        let Some(segment) = entry.outward.land(now) else { return false };
        if entry.is_closed_by_peer {
            return false;
        }
        entry.outward.arrive(segment);
        true
    }

    /// Sends a reset back for bytes that reached a closed peer.
    pub fn bounce(&mut self, link: usize) {
        let entry = &mut self.links[link];
        if !entry.is_closed_by_proxy && !entry.inward.has_rst {
            entry.inward.is_ended = false;
            self.end(link, Toward::Proxy, Segment::Rst);
        }
    }

    /// Sends a reset back for bytes of a peer that reached a closed proxy.
    fn refuse(&mut self, link: usize) {
        self.links[link].is_refused = true;
        self.links[link].outward.is_ended = false;
        self.end(link, Toward::Peer, Segment::Rst);
    }

    fn put(&mut self, link: usize, toward: Toward, bytes: &[u8]) -> usize {
        let pipe = toward.pipe(&mut self.links[link]);
        let path = pipe.path;
        let mut count = bytes.len().min(path.capacity.saturating_sub(pipe.held));
        if count > 1 && self.rng.below(8) == 0 {
            // The system takes less than it could.
            count = 1 + self.rng.below(count as u64 - 1) as usize;
        }
        let pipe = toward.pipe(&mut self.links[link]);
        pipe.wants_room |= count < bytes.len();
        pipe.put += count as u64;
        if count < bytes.len() && pipe.held + count < path.capacity {
            // There is room already, so the edge is immediate.
            pipe.wants_room = false;
            self.after(path.latency, toward.room(link));
        }
        let mut rest = &bytes[..count];
        // Many tiny segments are expensive and show nothing new.
        let smallest = count / 48;
        while !rest.is_empty() {
            let size = self.pick(1, path.segment_max as u64) as usize;
            let (segment, after) = rest.split_at(size.max(smallest).min(rest.len()));
            self.send(link, toward, Segment::Bytes(segment.to_vec()));
            rest = after;
        }
        count
    }

    fn end(&mut self, link: usize, toward: Toward, segment: Segment) {
        let pipe = toward.pipe(&mut self.links[link]);
        if !std::mem::replace(&mut pipe.is_ended, true) {
            self.send(link, toward, segment);
        }
    }

    fn send(&mut self, link: usize, toward: Toward, segment: Segment) {
        let path = toward.pipe(&mut self.links[link]).path;
        let jitter = self.rng.below(path.jitter.as_nanos() as u64 + 1);
        // An end arrives with the last bytes. Steps of 50 us make events coincide.
        let jitter = if matches!(segment, Segment::Fin) { 0 } else { jitter };
        let delay = (path.latency.as_nanos() as u64 + jitter) / 50_000 * 50_000;
        let pipe = toward.pipe(&mut self.links[link]);
        if let Segment::Bytes(bytes) = &segment {
            pipe.held += bytes.len();
        }
        let at = (self.now + Duration::from_nanos(delay)).max(pipe.last_at);
        pipe.last_at = at;
        pipe.in_flight.push_back((at, segment));
        self.at(at, toward.arrival(link));
    }
}

#[derive(Clone, Copy)]
enum Toward {
    Proxy,
    Peer,
}

impl Toward {
    const fn pipe(self, link: &mut Link) -> &mut Pipe {
        match self {
            Self::Proxy => &mut link.inward,
            Self::Peer => &mut link.outward,
        }
    }

    const fn arrival(self, link: usize) -> Happening {
        match self {
            Self::Proxy => Happening::ToProxy(link),
            Self::Peer => Happening::ToPeer(link),
        }
    }

    const fn room(self, link: usize) -> Happening {
        match self {
            Self::Proxy => Happening::PeerRoom(link),
            Self::Peer => Happening::ProxyRoom(link),
        }
    }
}
