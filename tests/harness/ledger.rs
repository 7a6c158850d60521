//! The requests of a world's clients, their permitted results, and the backends' work on them.
//!
//! Every request has a number; the bytes of its body and of each answer to it are computed from
//! that number, so that a byte at the wrong party is recognised.
use std::collections::BTreeMap;

/// Permitted results of a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fate {
    /// It is well-formed: a backend may get it.
    Good,
    /// It breaks a rule of heads: no backend may see any of it.
    NeverForwarded,
    /// It breaks a rule of bodies, or ends in the middle: no backend may get it whole.
    NeverWhole,
}

/// A request as its client means it.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// Its number.
    pub id: u64,
    /// Permitted results.
    pub fate: Fate,
    /// Whether doing it twice is as good as once.
    pub is_idempotent: bool,
    /// Bytes of its body.
    pub body: u64,
    /// Bytes that it sends through the tunnel that it asks for.
    pub tunnel: u64,
    /// Whether its trailer has a field that may pass.
    pub has_trailer: bool,
    /// Whether the proxy can try it again, however it comes: it fits in the smallest buffer.
    pub is_replayable: bool,
}

/// A backend's work on a request.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Number of the backend.
    pub backend: usize,
    /// Whether it meant to answer well.
    pub is_good: bool,
    /// Whether it ended without a byte of an answer.
    pub is_crash: bool,
}

/// All requests of a world.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Whether clients may end their side before their responses came and still get them.
    pub half_closes: bool,
    requests: BTreeMap<u64, (Request, Vec<Run>)>,
}

impl Ledger {
    /// The number that the next request gets.
    pub fn next_id(&self) -> u64 {
        self.requests.len() as u64 + 1
    }

    /// Notes a request that a client is going to make.
    pub fn add(&mut self, request: Request) {
        self.requests.insert(request.id, (request, Vec::new()));
    }

    /// The request of this number.
    pub fn request(&self, id: u64) -> Option<Request> {
        self.requests.get(&id).map(|(request, _)| *request)
    }

    /// Returns the backends' work on it.
    pub fn runs(&self, id: u64) -> &[Run] {
        self.requests.get(&id).map_or(&[], |(_, runs)| runs)
    }

    /// Notes that a backend got its head.
    pub fn run(&mut self, id: u64, run: Run) {
        if let Some((_, runs)) = self.requests.get_mut(&id) {
            runs.push(run);
        }
    }
}

/// Owner of bytes: the request itself, or a response by its run.
pub const OF_REQUEST: u64 = 0;

/// Returns `len` bytes that belong to request `id` only.
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
