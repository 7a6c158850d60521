//! Events whose delays vary, in a heap by time. Events at the same time keep their order of
//! insertion.
use std::cmp::Reverse;
use std::collections::BinaryHeap;

use intelliproxy_core::{ProbeId, ProbeResult};

use super::backend::Response;
use super::earliest::NEVER;

/// The events.
#[derive(Debug, Default)]
pub(super) struct LaterEvents {
    heap: BinaryHeap<Reverse<Entry>>,
    entered: u64,
}

/// A later event.
#[derive(Debug)]
pub(super) enum Later {
    /// A request with its own transit time arrives at its backend.
    Arrives { request: u64, backend: usize },
    /// The last byte of a request has arrived from its client.
    Whole { request: u64 },
    /// A response leaves its backend.
    Leaves { request: u64, backend: usize, response: Response },
    /// A response with its own transit time arrives at its proxy.
    Reaches { request: u64, response: Response },
    /// A request or a stream has waited too long for its backend.
    TimesOut { request: u64 },
    /// The client of a request has waited too long.
    GivesUp { request: u64 },
    /// A stream has reached the silence after which it no longer counts as work.
    Silent { request: u64 },
    /// A stream, or the response to a slow client, ends.
    Closes { request: u64 },
    /// A probe ends at its proxy.
    ProbeEnds { proxy: usize, probe: ProbeId, result: ProbeResult },
    /// A scripted fault starts or ends.
    Fault { backend: usize, index: usize, is_active: bool },
    /// A speed is redrawn, and again `every` ns later.
    Redraw { backend: usize, index: usize, every: u64 },
    /// A backend enters or leaves the configuration.
    Member { backend: usize, is_configured: bool },
}

#[derive(Debug)]
struct Entry {
    at: u64,
    number: u64,
    event: Later,
}

impl LaterEvents {
    pub(super) fn push(&mut self, at: u64, event: Later) {
        self.entered += 1;
        self.heap.push(Reverse(Entry { at, number: self.entered, event }));
    }

    pub(super) fn pop(&mut self) -> Option<Later> {
        self.heap.pop().map(|entry| entry.0.event)
    }

    /// Returns the time of the first event; [`NEVER`] without events.
    pub(super) fn first(&self) -> u64 {
        self.heap.peek().map_or(NEVER, |entry| entry.0.at)
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}

impl Eq for Entry {}
