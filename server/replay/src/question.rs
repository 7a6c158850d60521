//! Questions about a recording.
use std::time::Duration;

use intelliproxy_core::PolicyKind;

/// A question about a recording.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// The files of one recording, in any order.
    pub files: Vec<String>,
    /// The question about it.
    pub question: Question,
}

/// The kinds of questions.
#[derive(Clone, Debug, PartialEq)]
pub enum Question {
    /// Does everything come out the same?
    Check,
    /// Why this decision?
    Explain(Which),
    /// What would others have decided?
    Decide {
        /// Another policy than the recorded one.
        policy: Option<PolicyKind>,
        /// A file with other rules.
        rules: Option<String>,
    },
    /// What were the backends like?
    Fit {
        /// The scenario's file.
        file: String,
    },
}

/// One decision.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Which {
    /// The first one this long after the start or later.
    At(Duration),
    /// The request with this number.
    Request(u64),
}
