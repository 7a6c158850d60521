//! The metrics as Prometheus text: one family after the other, the samples of a family together.
//!
//! The text grows by pieces: first the backends' figures are taken in, then it is written by
//! [`write_some`](MetricsText::write_some), so that a large pool holds up no turn.
mod counts;
mod families;
mod histogram;
mod writer;

pub use self::counts::ProcessFigures;
pub(crate) use self::counts::{
    BackendCounts, BackendFigures, CLOSED_IDLE, ExchangeCounts, IncidentCounts, Overall, REFUSED,
    reason,
};
use self::families::{OF_BACKENDS, write_overall};
pub(crate) use self::histogram::Histogram;
use self::writer::label;

/// The media type of the text.
pub(crate) const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// The pool that every backend is of.
const POOL: &str = "default";

/// The text, and what is left to be written.
#[derive(Debug)]
pub(crate) struct MetricsText {
    text: Vec<u8>,
    /// Each backend with its labels as they are written.
    backends: Vec<(String, BackendFigures)>,
    /// The family that is being written, and its next backend.
    family: usize,
    backend: usize,
}

impl MetricsText {
    /// Writes the figures that are of no single backend.
    pub(crate) fn new(overall: &Overall, process: &ProcessFigures) -> Self {
        let mut text = Vec::with_capacity(16 * 1024);
        write_overall(&mut text, overall, process);
        Self { text, backends: Vec::new(), family: 0, backend: 0 }
    }

    /// Takes in a backend; to be called for all of them before anything is written.
    pub(crate) fn push(&mut self, backend: BackendFigures) {
        let labels =
            format!("{},{}", label("pool", POOL), label("backend", &backend.snapshot.name));
        self.backends.push((labels, backend));
    }

    /// Writes the next `count` pairs of a family and a backend; returns whether that was all.
    pub(crate) fn write_some(&mut self, count: usize) -> bool {
        for _ in 0..count {
            let Some((family, write)) = OF_BACKENDS.get(self.family) else { return true };
            let Some((labels, figures)) = self.backends.get(self.backend) else {
                (self.family, self.backend) = (self.family + 1, 0);
                continue;
            };
            if self.backend == 0 {
                family.begin(&mut self.text);
            }
            write(&mut family.samples(&mut self.text, labels), figures);
            self.backend += 1;
        }
        self.family >= OF_BACKENDS.len()
    }

    /// The whole text.
    pub(crate) fn finish(self) -> Vec<u8> {
        debug_assert!(self.family >= OF_BACKENDS.len(), "all is written");
        self.text
    }
}

#[cfg(test)]
mod tests;
