//! A recording of a world's router in memory, and its replay.
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use intelliproxy_core::Instant;
use intelliproxy_core::journal::{Header, JournalSink, Reader, Record, Replay, Step, frame};

use crate::oracle::Verdict;

/// The bytes of a recording. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Recording(Arc<Mutex<Vec<u8>>>);

impl JournalSink for Recording {
    fn begin(&mut self, header: &Header) {
        let mut bytes = self.0.lock().expect("one thread");
        if bytes.is_empty() {
            *bytes = header.encode();
        }
    }

    fn put(&mut self, block: &mut Vec<u8>, _at: Instant, _records: u64, _is_last: bool) -> bool {
        let mut bytes = self.0.lock().expect("one thread");
        bytes.extend_from_slice(&frame(block));
        bytes.append(block);
        true
    }

    fn unwritten(&self) -> u64 {
        0
    }
}

impl Recording {
    /// Returns the kinds of events and of router actions; to be called once the router is gone.
    pub fn events(&self) -> BTreeSet<&'static str> {
        let bytes = self.0.lock().expect("one thread");
        let (_, reader) = Reader::new(&bytes).expect("a recording of its own");
        let kind = |record| match record {
            Record::ProbeStarted { .. } => Some("action StartProbe"),
            Record::ProbeFinished { .. } => Some("event ProbeFinished"),
            Record::RequestFinished { .. } => Some("event RequestFinished"),
            Record::StreamOpened { .. } => Some("event StreamOpened"),
            Record::LeasePaused { .. } => Some("event LeasePaused"),
            Record::LeaseResumed { .. } => Some("event LeaseResumed"),
            Record::LoadReported { .. } => Some("event LoadReported"),
            Record::Reconfigured(_) => Some("event Reconfigured"),
            _ => None,
        };
        reader.filter_map(|entry| kind(entry.ok()?.record)).collect()
    }

    /// Replays the recording of a router that has ended: every decision must be the same.
    pub fn replays(&self) -> Verdict {
        let bytes = self.0.lock().map_err(|error| error.to_string())?;
        let (header, reader) = Reader::new(&bytes).map_err(|error| error.to_string())?;
        let mut replay = Replay::new(&header).map_err(|error| error.to_string())?;
        for entry in reader {
            let entry = entry.map_err(|error| format!("the recording: {error}"))?;
            match replay.apply(&entry) {
                Step::Fact | Step::Same => {}
                step => return Err(format!("the replay of {entry:?} is {step:?}")),
            }
        }
        Ok(())
    }
}
