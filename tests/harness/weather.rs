//! The faults of a world.

/// Selection of faults.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Weather {
    /// None: odd segments, slow paths and slow readers are no faults.
    Clear,
    /// Backends crash without a word, and one of them never does.
    Crashes,
    /// Everything, until it is calm.
    Storm,
}
