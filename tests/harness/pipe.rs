//! One direction of a connection of the virtual network: segments that arrive later.
use std::collections::VecDeque;
use std::time::Duration;

use intelliproxy_core::Instant;

/// The properties of a pipe.
#[derive(Clone, Copy, Debug)]
pub struct Path {
    /// Time that a segment takes.
    pub latency: Duration,
    /// Maximum additional time.
    pub jitter: Duration,
    /// Bytes of the largest segment. 1 means byte by byte.
    pub segment_max: usize,
    /// Bytes that it holds before the writer must wait.
    pub capacity: usize,
    /// Whether a reset destroys bytes that arrived and were not read.
    pub is_harsh: bool,
}

/// A piece of the stream in a pipe.
#[derive(Debug)]
pub(crate) enum Segment {
    Bytes(Vec<u8>),
    Fin,
    Rst,
}

/// One direction of a connection.
#[derive(Debug)]
pub struct Pipe {
    pub(crate) path: Path,
    pub(crate) in_flight: VecDeque<(Instant, Segment)>,
    pub(crate) arrived: VecDeque<u8>,
    /// Bytes in flight, or arrived and not taken.
    pub(crate) held: usize,
    pub(crate) has_fin: bool,
    pub(crate) has_rst: bool,
    /// Whether a write was refused since room was last reported to the writer.
    pub(crate) wants_room: bool,
    /// Whether the writer sends no more.
    pub(crate) is_ended: bool,
    pub(crate) last_at: Instant,
    /// Bytes taken out so far.
    pub taken: u64,
    /// Bytes put in so far.
    pub put: u64,
}

impl Pipe {
    pub(crate) const fn new(path: Path) -> Self {
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

    /// Returns whether a clean end has arrived and every byte before it was taken.
    pub fn is_at_end(&self) -> bool {
        self.has_fin && self.arrived.is_empty()
    }

    /// Returns whether its end has arrived, clean or not. Bytes may wait before it.
    pub const fn has_end(&self) -> bool {
        self.has_fin || self.has_rst
    }

    /// Returns whether a reset has arrived.
    pub const fn is_reset(&self) -> bool {
        self.has_rst
    }

    /// Returns the number of bytes that arrived and were not taken.
    pub fn waiting(&self) -> usize {
        self.arrived.len()
    }

    /// Returns the number of bytes that were put in and not taken out.
    pub const fn held(&self) -> usize {
        self.held
    }

    /// Returns the next segment if it has arrived by now. Segments of a destroyed pipe never
    /// arrive.
    pub(crate) fn land(&mut self, now: Instant) -> Option<Segment> {
        self.in_flight.front().filter(|(at, _)| *at <= now)?;
        self.in_flight.pop_front().map(|(_, segment)| segment)
    }

    /// Takes bytes that arrived into `space`.
    pub(crate) fn take(&mut self, space: &mut [u8]) -> usize {
        let count = space.len().min(self.arrived.len());
        space[..count].copy_from_slice(&self.arrived.make_contiguous()[..count]);
        self.arrived.drain(..count);
        self.held -= count;
        self.taken += count as u64;
        count
    }

    /// Removes a clean end if unread bytes are about to be dropped: their reader must get an error.
    pub(crate) fn lose_fin(&mut self) {
        self.has_fin &= self.arrived.is_empty();
    }

    /// Drops everything in flight or unread; nothing arrives later.
    pub(crate) fn destroy(&mut self) {
        self.lose_fin();
        self.in_flight.clear();
        self.arrived.clear();
        self.held = 0;
        self.is_ended = true;
    }

    /// Delivers a segment. Returns whether the pipe ends.
    pub(crate) fn arrive(&mut self, segment: Segment) -> bool {
        match segment {
            Segment::Bytes(bytes) => {
                self.arrived.extend(bytes);
                false
            }
            Segment::Fin => {
                self.has_fin = true;
                true
            }
            Segment::Rst => {
                self.has_rst = true;
                if self.path.is_harsh {
                    self.lose_fin();
                    self.held -= self.arrived.len();
                    self.arrived.clear();
                }
                true
            }
        }
    }
}
