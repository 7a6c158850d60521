//! The virtual network: connections as two pipes of segments that arrive later, and the queue of
//! everything that is going to happen.
//!
//! It is as unkind as a real one: a write is cut into segments down to one byte, a full pipe takes
//! no more and tells of room once, a reset destroys what was not read yet, and closing with unread
//! bytes destroys what was not delivered yet (RFC 9112 section 9.6).
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use intelliproxy::proxy::ConnectFailure;
use intelliproxy_core::{Instant, Rng};

use crate::trace::Trace;

/// Treatment of bytes written into a pipe.
#[derive(Clone, Copy, Debug)]
pub struct Path {
    /// Delay of a segment.
    pub latency: Duration,
    /// By how much longer some take.
    pub jitter: Duration,
    /// Bytes of the largest segment; 1 is byte by byte.
    pub segment_max: usize,
    /// Bytes that fit in before the writer has to wait.
    pub capacity: usize,
    /// Whether a reset destroys bytes that arrived and were not read.
    pub is_harsh: bool,
}

/// Something that is going to happen.
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
    /// The connection that the proxy asked for is there, or cannot be made.
    Connected(usize),
    /// A client goes on with its script.
    Client(usize),
    /// A backend's connection goes on with its answer.
    Backend(usize),
    /// The scripted change of this number.
    Change(usize),
}

/// Result of a read or a write of the proxy.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Moved {
    /// So many bytes.
    Bytes(usize),
    /// None now; an edge tells when.
    Blocked,
    /// None any more.
    Ended,
    /// The connection broke.
    Failed,
}

#[derive(Debug)]
enum Segment {
    Bytes(Vec<u8>),
    Fin,
    Rst,
}

/// One direction of a connection.
#[derive(Debug)]
pub struct Pipe {
    path: Path,
    in_flight: VecDeque<(Instant, Segment)>,
    arrived: VecDeque<u8>,
    /// Bytes in flight or arrived.
    held: usize,
    has_fin: bool,
    has_rst: bool,
    /// A write was refused since the last edge.
    wants_room: bool,
    /// The writer sends nothing more.
    is_ended: bool,
    last_at: Instant,
    /// Bytes ever taken out of it.
    pub taken: u64,
    /// Bytes ever put into it.
    pub put: u64,
}

/// A connection between the proxy and a peer.
#[derive(Debug)]
pub struct Link {
    /// The backend's address, when it leads to one.
    pub address: Option<SocketAddr>,
    /// Towards the proxy.
    pub inward: Pipe,
    /// Away from the proxy.
    pub outward: Pipe,
    /// When the proxy read bytes from it last, or it was opened.
    pub last_read: Instant,
    /// Whether its peer's end was seen as a half-close, once it was seen.
    pub is_half_closed: Option<bool>,
    /// When the proxy wrote to it last, or it was opened.
    pub last_write: Instant,
    /// Whether the proxy closed it.
    pub is_closed_by_proxy: bool,
    /// Whether the proxy closed it by a reset.
    pub is_reset_by_proxy: bool,
    /// Whether the peer closed it.
    pub is_closed_by_peer: bool,
    /// Whether a reset has shown the peer that the proxy is gone.
    is_refused: bool,
    /// Whether the backend left or moved while it was open: no request may begin on it.
    pub is_displaced: bool,
    /// Result of connecting, while it is in progress.
    pub connecting: Option<Result<(), ConnectFailure>>,
}

/// Result of connecting to an address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Listening {
    /// It is made.
    Yes,
    /// It is refused.
    Refusing,
    /// It fails at once, without a packet.
    Unreachable,
    /// Nothing ever comes back.
    Hanging,
    /// The proxy's own system has no descriptor left for it.
    Exhausted,
}

/// All connections, and what is going to happen.
#[derive(Debug)]
pub struct Net {
    /// The time.
    pub now: Instant,
    /// The one source of chance.
    pub rng: Rng,
    /// Trace of the events.
    pub trace: Trace,
    /// Every connection there ever was.
    pub links: Vec<Link>,
    /// The addresses of backends.
    pub listening: Vec<(SocketAddr, Listening)>,
    /// Paths of connections to backends.
    pub paths: (Path, Path),
    /// Addresses that the proxy may connect to at the moment.
    pub configured: Vec<SocketAddr>,
    queue: BinaryHeap<Reverse<(Instant, u64, Happening)>>,
    count: u64,
}

impl Pipe {
    const fn new(path: Path) -> Self {
        Self {
            path,
            in_flight: VecDeque::new(),
            arrived: VecDeque::new(),
            held: 0,
            has_fin: false,
            has_rst: false,
            wants_room: false,
            is_ended: false,
            last_at: Instant::ZERO,
            taken: 0,
            put: 0,
        }
    }

    /// Whether everything came, the end included.
    pub fn is_at_end(&self) -> bool {
        self.has_fin && self.arrived.is_empty()
    }

    /// Whether its end came, clean or not; bytes may wait before it.
    pub const fn has_end(&self) -> bool {
        self.has_fin || self.has_rst
    }

    /// Whether a reset came.
    pub const fn is_reset(&self) -> bool {
        self.has_rst
    }

    /// Bytes that arrived and were not taken.
    pub fn waiting(&self) -> usize {
        self.arrived.len()
    }

    /// Bytes that were put in and not taken out.
    pub const fn held(&self) -> usize {
        self.held
    }

    /// The next segment, if it is there by now; those of a pipe that was destroyed are not.
    fn land(&mut self, now: Instant) -> Option<Segment> {
        self.in_flight.front().filter(|(at, _)| *at <= now)?;
        self.in_flight.pop_front().map(|(_, segment)| segment)
    }

    /// Takes bytes that arrived into `space`.
    fn take(&mut self, space: &mut [u8]) -> usize {
        let count = space.len().min(self.arrived.len());
        space[..count].copy_from_slice(&self.arrived.make_contiguous()[..count]);
        self.arrived.drain(..count);
        self.held -= count;
        self.taken += count as u64;
        count
    }

    /// Bytes that arrived and were not read are lost: their reader gets no clean end, as with any
    /// system that drops them, but an error.
    fn lose(&mut self) {
        self.has_fin &= self.arrived.is_empty();
    }

    /// Forgets everything that was not delivered, and delivers nothing more.
    fn destroy(&mut self) {
        self.lose();
        self.in_flight.clear();
        self.arrived.clear();
        self.held = 0;
        self.is_ended = true;
    }
}

impl Net {
    /// An empty network at time zero.
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

    /// A new connection.
    pub fn open(&mut self, inward: Path, outward: Path) -> usize {
        self.links.push(Link {
            address: None,
            inward: Pipe::new(inward),
            outward: Pipe::new(outward),
            last_read: self.now,
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

    /// The proxy asks for a connection to a backend; its end is a [`Happening::Connected`].
    ///
    /// # Errors
    /// Why it failed at once.
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

    /// Adds something that happens after `wait`.
    pub fn after(&mut self, wait: Duration, happening: Happening) {
        self.at(self.now + wait, happening);
    }

    /// Adds something that happens at a time.
    pub fn at(&mut self, at: Instant, happening: Happening) {
        self.count += 1;
        self.queue.push(Reverse((at, self.count, happening)));
    }

    /// When the next thing happens.
    pub fn next_at(&self) -> Option<Instant> {
        self.queue.peek().map(|Reverse((at, ..))| *at)
    }

    /// The next thing that happens now.
    pub fn due(&mut self) -> Option<Happening> {
        let Reverse((at, ..)) = self.queue.peek()?;
        if *at > self.now {
            return None;
        }
        self.queue.pop().map(|Reverse((_, _, happening))| happening)
    }

    /// A number from `from` up to and with `to`.
    pub fn pick(&mut self, from: u64, to: u64) -> u64 {
        from + self.rng.below(to - from + 1)
    }

    /// Whether something of `percent` chance comes to be.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.rng.below(100) < percent
    }

    /// Bytes that the proxy read from backends.
    pub fn taken_from_backends(&self) -> u64 {
        let links = self.links.iter().filter(|link| link.address.is_some());
        links.map(|link| link.inward.taken).sum()
    }

    /// The proxy reads.
    pub fn proxy_read(&mut self, link: usize, space: &mut [u8]) -> Moved {
        let pipe = &mut self.links[link].inward;
        let was_full = pipe.held >= pipe.path.capacity;
        match pipe.take(space) {
            // A reset behind a clean end takes nothing of it back.
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

    /// The proxy writes.
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

    /// The proxy ends its side.
    pub fn proxy_shutdown(&mut self, link: usize) {
        self.end(link, Toward::Peer, Segment::Fin);
    }

    /// The proxy closes.
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

    /// The peer writes; how much was taken.
    pub fn peer_send(&mut self, link: usize, bytes: &[u8]) -> usize {
        let Link { outward, inward, is_closed_by_proxy, .. } = &self.links[link];
        if outward.has_rst || inward.is_ended || *is_closed_by_proxy {
            // There is no peer: the network drops it, and reports that by a reset.
            if *is_closed_by_proxy && !outward.has_rst && !self.links[link].is_refused {
                self.refuse(link);
            }
            return bytes.len();
        }
        self.put(link, Toward::Proxy, bytes)
    }

    /// The peer writes one piece that is neither cut nor made to wait.
    pub fn peer_send_whole(&mut self, link: usize, bytes: &[u8]) {
        let Link { outward, inward, is_closed_by_proxy, .. } = &self.links[link];
        if !outward.has_rst && !inward.is_ended && !is_closed_by_proxy {
            self.send(link, Toward::Proxy, Segment::Bytes(bytes.to_vec()));
        }
    }

    /// The peer takes up to `most` bytes that arrived.
    pub fn peer_take(&mut self, link: usize, most: usize) -> Vec<u8> {
        let pipe = &mut self.links[link].outward;
        let mut bytes = vec![0; most.min(pipe.arrived.len())];
        pipe.take(&mut bytes);
        // As with a real system, room is reported only when a third is free.
        if pipe.wants_room && !bytes.is_empty() && pipe.held <= pipe.path.capacity / 3 * 2 {
            pipe.wants_room = false;
            let latency = pipe.path.latency;
            self.after(latency, Happening::ProxyRoom(link));
        }
        bytes
    }

    /// The peer ends its side; it goes on reading.
    pub fn peer_fin(&mut self, link: usize) {
        self.end(link, Toward::Proxy, Segment::Fin);
    }

    /// The peer closes: it reads no more either.
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

    /// A segment arrives at the proxy; whether it changes anything there, and whether it ends.
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
        Some(Self::arrive(&mut entry.inward, segment))
    }

    /// A segment arrives at the peer; whether it changes anything there.
    pub fn arrive_at_peer(&mut self, link: usize) -> bool {
        let now = self.now;
        let entry = &mut self.links[link];
        let Some(segment) = entry.outward.land(now) else { return false };
        if entry.is_closed_by_peer {
            return false;
        }
        Self::arrive(&mut entry.outward, segment);
        true
    }

    /// Bytes reached a peer that is gone: a reset comes back.
    pub fn bounce(&mut self, link: usize) {
        let entry = &mut self.links[link];
        if !entry.is_closed_by_proxy && !entry.inward.has_rst {
            entry.inward.is_ended = false;
            self.end(link, Toward::Proxy, Segment::Rst);
        }
    }

    /// Bytes of a peer reached a proxy that closed: a reset comes back.
    fn refuse(&mut self, link: usize) {
        self.links[link].is_refused = true;
        self.links[link].outward.is_ended = false;
        self.end(link, Toward::Peer, Segment::Rst);
    }

    fn arrive(pipe: &mut Pipe, segment: Segment) -> bool {
        match segment {
            Segment::Bytes(bytes) => {
                pipe.arrived.extend(bytes);
                false
            }
            Segment::Fin => {
                pipe.has_fin = true;
                true
            }
            Segment::Rst => {
                pipe.has_rst = true;
                if pipe.path.is_harsh {
                    pipe.lose();
                    pipe.held -= pipe.arrived.len();
                    pipe.arrived.clear();
                }
                true
            }
        }
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
            // There is room already: the edge comes at once.
            pipe.wants_room = false;
            self.after(path.latency, toward.room(link));
        }
        let mut rest = &bytes[..count];
        // Many tiny segments cost much and show nothing new.
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
        // An end rides on the last bytes; whole steps of 50 us, so that things happen at the same time.
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
