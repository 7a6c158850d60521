//! The faults that may occur in a world.

/// The kinds of faults.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Weather {
    /// No faults. Odd segments, slow paths and slow readers may still occur.
    Clear,
    /// Backends crash without a response, except one that never does.
    Crashes,
    /// All faults, until it is calm.
    Storm,
}
