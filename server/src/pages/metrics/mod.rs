//! The metrics as Prometheus text, family by family.
//!
//! The text is written in pieces. First the figures of all backends are added; then
//! [`write_some`](MetricsText::write_some) writes a bounded part of it, so that a large pool does
//! not delay a turn.
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
/// Value of the label `pool`: there is one pool.
const POOL: &str = "default";

/// The text so far, and the position of the next piece.
#[derive(Debug)]
pub(crate) struct MetricsText {
    text: Vec<u8>,
    /// Each backend with its formatted labels.
    backends: Vec<(String, BackendFigures)>,
    /// The current family and its next backend.
    family: usize,
    backend: usize,
}

impl MetricsText {
    /// Begins a text with the figures that do not belong to a single backend.
    pub(crate) fn new(overall: &Overall, process: &ProcessFigures) -> Self {
        let mut text = Vec::with_capacity(16 * 1024);
        write_overall(&mut text, overall, process);
        Self { text, backends: Vec::new(), family: 0, backend: 0 }
    }

    /// Adds a backend. Called for all of them before the first `write_some`.
    pub(crate) fn push(&mut self, backend: BackendFigures) {
        let labels =
            format!("{},{}", label("pool", POOL), label("backend", &backend.snapshot.name));
        self.backends.push((labels, backend));
    }

    /// Writes the next `count` pairs of a family and a backend. Returns whether the text is
    /// complete.
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

    /// Returns the complete text.
    pub(crate) fn finish(self) -> Vec<u8> {
        debug_assert!(self.family >= OF_BACKENDS.len(), "the text is complete");
        self.text
    }
}

#[cfg(test)]
mod tests;
