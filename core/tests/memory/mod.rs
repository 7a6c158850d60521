//! A journal in memory. The tests of the core, of the replay and of the whole proxy share it.
use std::sync::{Arc, Mutex};

use intelliproxy_core::Instant;
use intelliproxy_core::journal::{Header, JournalSink, frame};

/// A sink that keeps its journal in memory. Clones share the bytes.
#[derive(Clone, Debug, Default)]
pub(crate) struct MemorySink {
    bytes: Arc<Mutex<Vec<u8>>>,
    /// The numbers of the blocks that it refuses, counted from 0.
    refused: Vec<usize>,
    blocks: usize,
}

impl MemorySink {
    /// Returns a sink that refuses the blocks with these numbers.
    #[allow(dead_code)] // Only the tests of the core use it.
    pub(crate) fn refusing(refused: Vec<usize>) -> Self {
        Self { refused, ..Self::default() }
    }

    /// Returns the journal so far.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.bytes.lock().expect("no panic in another test thread").clone()
    }
}

impl JournalSink for MemorySink {
    fn begin(&mut self, header: &Header) {
        let mut bytes = self.bytes.lock().expect("no panic in another test thread");
        if bytes.is_empty() {
            *bytes = header.encode();
        }
    }

    fn put(&mut self, block: &mut Vec<u8>, _at: Instant, _records: u64, _is_last: bool) -> bool {
        let number = self.blocks;
        self.blocks += 1;
        if self.refused.contains(&number) {
            return false;
        }
        let mut bytes = self.bytes.lock().expect("no panic in another test thread");
        bytes.extend_from_slice(&frame(block));
        bytes.append(block);
        true
    }

    fn unwritten(&self) -> u64 {
        0
    }
}
