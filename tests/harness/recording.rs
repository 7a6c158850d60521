//! A recording of a world's router in memory, and its replay.
use std::collections::BTreeSet;

use intelliproxy_core::journal::{JournalSink, Reader, Record, Replay, Step};

use crate::memory::MemorySink;
use crate::oracle::Verdict;

/// A recording in memory.
#[derive(Debug, Default)]
pub struct Recording(MemorySink);

impl Recording {
    /// Returns a sink that writes into this recording.
    pub fn sink(&self) -> Box<dyn JournalSink> {
        Box::new(self.0.clone())
    }

    /// Returns the kinds of events and of router actions; to be called once the router is gone.
    pub fn events(&self) -> BTreeSet<&'static str> {
        let bytes = self.0.bytes();
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
        let bytes = self.0.bytes();
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
