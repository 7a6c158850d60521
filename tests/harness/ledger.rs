//! The requests of a world's clients: their permitted outcomes, and their handling by backends.
//!
//! Every request has a number. The bytes of its body and of each response to it are computed from
//! that number, so that a byte that reaches the wrong peer is detected.
use std::collections::BTreeMap;

/// The permitted outcomes of a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fate {
    /// It is well-formed: a backend may get it.
    Good,
    /// It breaks a rule of heads: no backend may receive any of it.
    NeverForwarded,
    /// It breaks a rule of bodies, or ends in the middle: no backend may get it completely.
    NeverWhole,
}

/// A request as its client means it.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// Its number.
    pub id: u64,
    /// Its permitted outcomes.
    pub fate: Fate,
    /// Whether it may be repeated.
    pub is_idempotent: bool,
    /// Bytes of its body.
    pub body: u64,
    /// Bytes that it sends through the requested tunnel.
    pub tunnel: u64,
    /// Whether its trailer has a permitted field.
    pub has_trailer: bool,
    /// Whether the proxy can always repeat it: it has no body, or one with a Content-Length below
    /// 800, which fits in the smallest buffer.
    pub is_replayable: bool,
}

/// A backend's handling of a request.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// The number of the backend.
    pub backend: usize,
    /// Whether the backend meant to send a good response.
    pub is_good: bool,
    /// Whether it ended before any byte of a response.
    pub is_crash: bool,
}

/// All requests of a world.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Whether clients may end their side before their responses arrive and still get them.
    pub half_closes: bool,
    requests: BTreeMap<u64, (Request, Vec<Run>)>,
}

impl Ledger {
    /// Returns the number that the next request gets.
    pub fn next_id(&self) -> u64 {
        self.requests.len() as u64 + 1
    }

    /// Records a request that a client is going to send.
    pub fn add(&mut self, request: Request) {
        self.requests.insert(request.id, (request, Vec::new()));
    }

    /// Returns the request of this number.
    pub fn request(&self, id: u64) -> Option<Request> {
        self.requests.get(&id).map(|(request, _)| *request)
    }

    /// Returns the handling of request `id` by backends, in order.
    pub fn runs(&self, id: u64) -> &[Run] {
        self.requests.get(&id).map_or(&[], |(_, runs)| runs)
    }

    /// Records that a backend has received the head of request `id`.
    pub fn run(&mut self, id: u64, run: Run) {
        if let Some((_, runs)) = self.requests.get_mut(&id) {
            runs.push(run);
        }
    }
}

/// The value of `run` for the bytes of a request itself. Responses use the number of their run,
/// from 1.
pub const OF_REQUEST: u64 = 0;

/// Returns `len` bytes that belong to request `id` and this run only.
pub fn content(id: u64, run: u64, len: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len as usize + 8);
    let mut word = 0;
    while (bytes.len() as u64) < len {
        let mut mixed = id.wrapping_mul(0x9e37_79b9_7f4a_7c15)
            ^ run.wrapping_mul(0xbf58_476d_1ce4_e5b9)
            ^ (word as u64).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        mixed ^= mixed >> 32;
        bytes.extend_from_slice(&mixed.to_le_bytes());
        word += 1;
    }
    bytes.truncate(len as usize);
    bytes
}
